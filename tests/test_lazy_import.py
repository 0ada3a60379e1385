"""`import hf_contrastive` is cheap: no torch, no network, nothing of its own but the registry; names come on first use."""

from __future__ import annotations

import doctest
import importlib
import inspect
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

import hf_contrastive


PACKAGE = Path(hf_contrastive.__file__).parent


def run(source: str) -> dict:
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


IMPORT = """
import json, socket, sys, time
{first}
def refuse(*args, **kwargs):
    raise AssertionError("network used while importing")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
before = set(sys.modules)
started = time.perf_counter()
import hf_contrastive
seconds = time.perf_counter() - started
new = set(sys.modules) - before
print(json.dumps({{"seconds": seconds, "new": sorted(new), "all": sorted(sys.modules)}}))
"""
HEAVY = (
    "torch",
    "torchvision",
    "numpy",
    "sklearn",
    "datasets",
    "accelerate",
    "peft",
    "evaluate",
    "matplotlib",
    "faiss",
)


@pytest.mark.parametrize("first", ["import transformers", ""], ids=["after transformers", "alone"])
def test_import_is_light(first):
    found = run(IMPORT.format(first=first))
    ours = [name for name in found["new"] if name.startswith("hf_contrastive")]
    assert set(ours) <= {
        "hf_contrastive",
        "hf_contrastive.auto_registration",
        "hf_contrastive.registry",
        "hf_contrastive.utils",
        "hf_contrastive.version",
    }
    assert not [name for name in HEAVY if name in found["new"]]
    if first:
        assert not [name for name in found["new"] if name.startswith("transformers.models")]
    # the benchmark measures it; this only catches an import that has become heavy, on a busy machine too
    assert found["seconds"] < 0.5


def test_registered_after_a_bare_import(tmp_path):
    """In every order of imports the Auto classes know our models, and no modeling file loads before it is needed."""
    from hf_contrastive import ConvEncoderConfig, SimCLRConfig, SimCLRForPreTraining

    config = SimCLRConfig(backbone_config=ConvEncoderConfig(channels=[4]), projection_dims=[4])
    SimCLRForPreTraining(config).save_pretrained(tmp_path)
    orders = {
        "ours first": "import hf_contrastive; from transformers import AutoConfig, AutoModel, AutoModelForPreTraining",
        "ours last": "from transformers import AutoConfig, AutoModel, AutoModelForPreTraining; import hf_contrastive",
    }
    for name, imports in orders.items():
        found = run(f"""
import json, sys
{imports}
early = [name for name in sys.modules if name.startswith("hf_contrastive.models") or "modeling" in name and "hf_contrastive" in name]
config = AutoConfig.from_pretrained({str(tmp_path)!r})
model = AutoModel.from_pretrained({str(tmp_path)!r})
objective = AutoModelForPreTraining.from_pretrained({str(tmp_path)!r})
print(json.dumps([early, type(config).__name__, type(model).__name__, type(objective).__name__]))
""")
        assert found == [[], "SimCLRConfig", "SimCLRModel", "SimCLRForPreTraining"], name


@pytest.mark.parametrize("name", hf_contrastive.__all__)
def test_public_name(name):
    value = getattr(hf_contrastive, name)
    assert name in dir(hf_contrastive)
    if name == "__version__":
        assert value.count(".") >= 1
        return
    assert inspect.getdoc(value), f"{name} has no docstring"
    assert (value.__doc__ or "").strip(), f"{name} has no docstring of its own"


def test_type_checkers_see_every_public_name():
    source = (PACKAGE / "__init__.py").read_text()
    seen = source.split("if TYPE_CHECKING:")[1].split("def __getattr__")[0]
    missing = [name for name in hf_contrastive.__all__ if name != "__version__" and name not in seen]
    assert not missing


def test_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'SimCLRR'"):
        hf_contrastive.SimCLRR  # noqa: B018


def module_names() -> list[str]:
    names = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = list(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        if ">>>" in path.read_text(encoding="utf-8"):
            names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


@pytest.mark.parametrize("name", module_names())
def test_examples(name, tmp_path, monkeypatch):
    """The examples of the documentation run and print what they say."""
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    tests = doctest.DocTestFinder(exclude_empty=True).find(module, name)
    # metrics keep their documentation in strings, as `evaluate` wants it
    texts = {key: value for key, value in vars(module).items() if isinstance(value, str) and key != "__doc__"}
    parser = doctest.DocTestParser()
    tests += [parser.get_doctest(text, {}, key, None, None) for key, text in texts.items() if ">>>" in text]
    runner, output = doctest.DocTestRunner(verbose=False), io.StringIO()
    for test in tests:
        runner.run(test, out=output.write)
    assert runner.tries > 0
    assert runner.failures == 0, output.getvalue()
