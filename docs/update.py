"""Writes what the README and the model cards take from the registry, between their markers.

    python docs/update.py            # write
    python docs/update.py --check    # change nothing; exit 1 and name the pages that are out of date

What stands outside the markers is written by hand (differences from the paper, findings) or by recipes/run_seeds.py
(measured numbers).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hf_contrastive.registry import SystemSpec, list_systems
from hf_contrastive.reporting import markdown_table, replace_section
from hf_contrastive.training.recipe_arguments import load_yaml


ROOT = Path(__file__).resolve().parents[1]


def systems_table() -> str:
    """The table of systems in the README."""
    rows = [
        {
            "system": f"[{row.title}]({row.card})",
            "data": row.domain,
            "what it does": row.summary,
            "paper": f"[{row.year}]({row.paper_url})",
            "train": f"`hf-contrastive train {row.slug}`",
            "status": row.status,
        }
        for row in list_systems()
    ]
    return markdown_table(rows)


def settings_of(spec: SystemSpec) -> list[tuple[str, str]]:
    """Each YAML of the recipe with the sentence it starts with."""
    found = []
    for path in sorted((ROOT / spec.recipe).glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        comment = " ".join(line[1:].strip() for line in text.splitlines() if line.startswith("#"))
        sentence = comment.split(". ")[0].rstrip(".") + "."
        if not comment or not isinstance(load_yaml(text), dict):
            raise SystemExit(
                f"{path.relative_to(ROOT)} must start with a comment that says what it is, then settings."
            )
        found.append((path.relative_to(ROOT).as_posix(), sentence))
    return found


def _usage(spec: SystemSpec) -> str:
    info = f"`hf-contrastive info {spec.slug}` lists every setting with its meaning and default."
    if spec.main.causal_lm:
        return f"""```python
import hf_contrastive  # makes the system known to transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("me/my-{spec.slug}")  # a folder or a hub id
tokenizer = AutoTokenizer.from_pretrained("me/my-{spec.slug}")
inputs = tokenizer("The best thing about", return_tensors="pt")
ids = model.generate(**inputs, penalty_alpha=0.6, top_k=5, max_new_tokens=64)  # contrastive search
print(tokenizer.decode(ids[0]))
```

`{spec.config_class().__name__}` and `{spec.model_class().__name__}` come from `hf_contrastive`; {info}"""
    if spec.main.reward_model:
        return f"""```python
import hf_contrastive  # makes the system known to transformers
from transformers import AutoModelForSequenceClassification, AutoTokenizer

model = AutoModelForSequenceClassification.from_pretrained("me/my-{spec.slug}")  # a folder or a hub id
tokenizer = AutoTokenizer.from_pretrained("me/my-{spec.slug}")
rewards = model.score("What is 2 + 3?", ["2 + 3 = 5", "2 + 3 = 6"], tokenizer=tokenizer)  # one number an answer
course = model.score("What is 2 + 3?", "2 + 3 = 5", tokenizer=tokenizer, details=True)  # at every token
```

`{spec.config_class().__name__}` and `{spec.model_class().__name__}` come from `hf_contrastive`; {info}"""
    if spec.domain == "code":
        return f"""```python
import hf_contrastive  # makes the system known to transformers
from hf_contrastive.data import ProgramProcessor
from transformers import AutoModel

model = AutoModel.from_pretrained("me/my-{spec.slug}")  # a folder or a hub id
processor = ProgramProcessor.from_pretrained("me/my-{spec.slug}")
embeds = model.encode(**processor([one, another], language="cpp"), normalize=True)
similarity = embeds[0] @ embeds[1]
```

```bash
hf-contrastive clones homework/ --checkpoint me/my-{spec.slug}  # the most suspicious pairs of a folder
```

`{spec.config_class().__name__}`, `{spec.model_class().__name__}` (inference) and `{spec.pretraining_class().__name__}` (with
the objective) come from `hf_contrastive`; {info}"""
    if spec.domain == "interaction":
        return f"""```python
import hf_contrastive  # makes the system known to transformers
from transformers import AutoModel

model = AutoModel.from_pretrained("me/my-{spec.slug}")  # a folder or a hub id
model.recommend(["ann", "bob"], k=10)  # for each user [(item, score), ...]; what they have is left out
```

```bash
hf-contrastive recommend me/my-{spec.slug} --user ann
```

`{spec.config_class().__name__}` and `{spec.model_class().__name__}` come from `hf_contrastive`; {info}"""
    if spec.column == "image, text" and not spec.main.zero_shot_image:
        return f"""```python
from hf_contrastive import {spec.model_class().__name__}, LogoIdentifier
from transformers import AutoProcessor

model = {spec.model_class().__name__}.from_pretrained("me/my-{spec.slug}")  # a folder or a hub id
identifier = LogoIdentifier(model, AutoProcessor.from_pretrained("me/my-{spec.slug}"))
identifier.add(pictures, brands, texts=texts)  # one reference or more of each brand
identifier.identify(crops, texts=ocr, k=5)  # for each crop the nearest references: brand, score
```

`{spec.pretraining_class().__name__}.from_towers("microsoft/resnet-50", "google-bert/bert-base-uncased")` starts from any two encoders of
transformers. `{spec.config_class().__name__}`, `{spec.model_class().__name__}` (inference) and `{spec.pretraining_class().__name__}` (with
the objective) come from `hf_contrastive`; {info}"""
    if spec.main.zero_shot_image:
        name = spec.pretraining_class().__name__
        return f"""```python
import hf_contrastive  # makes the system known to transformers
from transformers import AutoModel, AutoProcessor, pipeline

model = AutoModel.from_pretrained("me/my-{spec.slug}")  # a folder or a hub id
processor = AutoProcessor.from_pretrained("me/my-{spec.slug}")
inputs = processor(images=images, text=["a red letter", "a blue letter"])
similarity = model.encode(inputs.pop("pixel_values")) @ model.encode(**inputs).T  # [images, texts]

classify = pipeline("zero-shot-image-classification", model="me/my-{spec.slug}")
classify(image, candidate_labels=["letter a", "letter b"])
```

`{name}.from_towers("microsoft/resnet-50", "google-bert/bert-base-uncased")` starts from any two encoders of transformers.
`{spec.config_class().__name__}`, `{spec.model_class().__name__}` (inference) and `{name}` (with the objective) come from
`hf_contrastive`; {info}"""
    short = spec.pretraining_class().__name__.removesuffix("ForPreTraining")
    return f"""```python
import hf_contrastive  # makes the system known to transformers
from transformers import AutoModel

model = AutoModel.from_pretrained("me/my-{spec.slug}")  # a folder or a hub id
embeds = model.encode({spec.main_input})  # one row per sample; readout=... and normalize=True are options
```

`{short}Config`, `{short}Model` (inference) and `{short}ForPreTraining` (with the objective) come from
`hf_contrastive`; {info}"""


def card_head(spec: SystemSpec) -> str:
    """What a model card says from the registry and the recipe's folder: what it is, how to use and train it."""
    recipes = "\n".join(f"- `{path}`: {sentence}" for path, sentence in settings_of(spec))
    parts = f"""{spec.summary}

{spec.domain} data, {spec.task}; status: {spec.status}. Paper: [{spec.paper_title}]({spec.paper_url}), {spec.year}.

## Use

{_usage(spec)}

## Train

```bash
accelerate launch {spec.recipe}/train.py {spec.recipe}/{spec.default_settings}
```

Settings in the recipe's folder; any field can be changed on the command line (`--help` lists them):

{recipes}

## Cite

```bibtex
{spec.bibtex.strip()}
```"""
    return parts


def pages() -> dict[Path, str]:
    """Every page this command writes a part of, as it should be."""
    readme = ROOT / "README.md"
    wanted = {readme: replace_section(readme.read_text(encoding="utf-8"), "systems", systems_table())}
    for spec in list_systems():
        card = ROOT / spec.card
        text = card.read_text(encoding="utf-8") if card.exists() else f"# {spec.title}\n"
        wanted[card] = replace_section(text, "registry", card_head(spec))
    return wanted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a page is out of date")
    check = parser.parse_args().check
    stale = []
    for path, text in pages().items():
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(path.relative_to(ROOT).as_posix())
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if check and stale:
        sys.exit(f"out of date: {', '.join(stale)}. Run: python docs/update.py")
    print(f"{'written: ' + ', '.join(stale) if stale else 'all pages are up to date'}")


if __name__ == "__main__":
    main()
