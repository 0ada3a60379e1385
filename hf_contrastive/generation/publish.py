"""A hub repository (or folder) from which any machine can use contrastive search without this package."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from types import ModuleType
from typing import Any

from hf_contrastive.generation import candidates, few_rows, ranking, search
from hf_contrastive.version import __version__


_HEAD = '''"""Contrastive search for `generate`; made by hf_contrastive {version} (Apache-2.0), which has more beside it.

    model.generate(**inputs, custom_generate="{place}", trust_remote_code=True, penalty_alpha=0.6, top_k=4)
"""
'''

_GENERATE = '''

def generate(model, penalty_alpha=0.6, top_k=4, streamer=None, tokenizer=None, stop_strings=None, **kwargs):
    """What `model.generate(..., custom_generate="<this repository>", trust_remote_code=True)` calls."""
    from transformers import StoppingCriteriaList
    from transformers.generation import StopStringCriteria

    if stop_strings is not None:
        if tokenizer is None:
            raise ValueError("`stop_strings` need a tokenizer; pass tokenizer=... to generate.")
        given = kwargs.pop("stopping_criteria", None) or []
        kwargs["stopping_criteria"] = StoppingCriteriaList([*given, StopStringCriteria(tokenizer, stop_strings)])
    kwargs = {name: value for name, value in kwargs.items() if value is not None}
    return model.generate(
        custom_generate=contrastive_search,
        penalty_alpha=penalty_alpha,
        top_k=top_k,
        streamer=streamer,
        contrastive_streamer=streamer,
        **kwargs,
    )
'''

_CARD = """---
library_name: transformers
license: apache-2.0
tags:
- custom_generate
- contrastive-search
- text-generation
---

# Contrastive search for `generate`

Deterministic decoding that balances confidence against repetition
([Su et al. 2022](https://arxiv.org/abs/2202.06417), [Su and Collier 2023](https://arxiv.org/abs/2210.14140)). transformers 5
has it no longer; this repository gives it back to any causal language model or encoder-decoder of transformers:

```python
ids = model.generate(
    **inputs, custom_generate="{place}", trust_remote_code=True, penalty_alpha=0.6, top_k=4, max_new_tokens=64
)
```

| argument | meaning |
|---|---|
| `penalty_alpha` | weight of the penalty, 0 (greedy) to 1; 0.1 to 0.4 for models whose hidden states all look alike |
| `top_k` | candidates of a step, 2 or more |
| `penalty_scope` | `"all"`, or `"generated"` to compare with the generated part only |
| `low_memory` | candidates one after the other |
| `streamer`, `stop_strings` (with `tokenizer`) | as in `generate` |

The k candidates of a step share one cache where the model allows it; a padded batch gives row by row what each prompt alone
gives. The file `custom_generate/generate.py` is self-contained. With the package `hf_contrastive` no remote code is needed:
`model.generate(**inputs, custom_generate=hf_contrastive.contrastive_search, penalty_alpha=0.6, top_k=4)`.
"""


def contrastive_search_source(place: str = "<this repository>") -> str:
    """The text of a self-contained `custom_generate/generate.py`.

    Args:
        place (`str`): what its documentation says to pass as `custom_generate`.

    Returns:
        `str`: Python source that needs torch and transformers only.
    """
    imports: set[str] = set()
    bodies = [_without_imports(module, imports) for module in (ranking, few_rows, candidates, search)]
    parts = [_HEAD.format(version=__version__, place=place), "from __future__ import annotations\n"]
    parts += ["\n".join(sorted(imports)), *bodies, _GENERATE.strip("\n")]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _without_imports(module: ModuleType, imports: set[str]) -> str:
    """A module's source below its imports; what it imports from elsewhere is added to `imports`."""
    source = inspect.getsource(module)
    lines, tree = source.splitlines(), ast.parse(source)
    drop: set[int] = set()
    for node in tree.body:
        place = range(node.lineno, (node.end_lineno or node.lineno) + 1)
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        is_all = isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            origin = getattr(node, "module", "") or ""
            if origin != "__future__" and not origin.startswith("hf_contrastive"):
                imports.add(ast.unparse(node))
            drop.update(place)
        elif (is_docstring and node is tree.body[0]) or is_all:
            drop.update(place)
    return "\n".join(line for number, line in enumerate(lines, start=1) if number not in drop)


def save_contrastive_search(folder: str | Path, place: str | None = None) -> Path:
    """Write `custom_generate/generate.py` and a card into a folder.

    Args:
        folder (`str` or `Path`): made if need be; other files in it stay.
        place (`str`, *optional*): the hub id under which it will be found; the folder's name by default.

    Returns:
        `Path`: the Python file.

    Example:

    ```python
    >>> import tempfile
    >>> from hf_contrastive.generation import save_contrastive_search
    >>> save_contrastive_search(tempfile.mkdtemp()).name
    'generate.py'

    ```
    """
    folder = Path(folder)
    place = folder.resolve().name if place is None else place
    path = folder / "custom_generate" / "generate.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(contrastive_search_source(place), encoding="utf-8")
    card = folder / "README.md"
    if not card.exists():
        card.write_text(_CARD.format(place=place), encoding="utf-8")
    return path


def push_contrastive_search_to_hub(repo_id: str, *, private: bool | None = None, token: str | None = None) -> Any:
    """Upload a repository that gives contrastive search to any machine, with or without this package.

    Args:
        repo_id (`str`): `user/name` of the repository; made if need be.
        private (`bool`, *optional*): for a new repository.
        token (`str`, *optional*): of the hub; the saved one by default.

    Returns:
        `huggingface_hub.CommitInfo`.
    """
    import tempfile

    from huggingface_hub import HfApi

    api = HfApi(token=token)
    api.create_repo(repo_id, private=private, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        save_contrastive_search(folder, repo_id)
        return api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Contrastive search for generate")


__all__ = ["contrastive_search_source", "push_contrastive_search_to_hub", "save_contrastive_search"]
