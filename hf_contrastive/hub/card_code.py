"""The code that a model card shows: the shortest that gives embeddings, text, rewards or recommendations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hf_contrastive.registry import SystemSpec, all_model_specs


def _image_shape(config: dict[str, Any], image_size: int | None) -> tuple[int, int]:
    backbone = config.get("backbone_config") or {}
    channels = backbone.get("num_channels") or config.get("num_channels") or 3
    size = image_size or backbone.get("image_size") or config.get("image_size") or 32
    return int(channels), int(size[0] if isinstance(size, (list, tuple)) else size)


def is_ours(model_type: str) -> bool:
    """Whether loading needs `import hf_contrastive`: a system, a part of one, or one of the small backbones."""
    return any(spec.model_type == model_type for spec in all_model_specs())


def code_example(
    spec: SystemSpec | None,
    config: dict[str, Any],
    place: str,
    folder: Path,
    image_size: int | None,
    is_adapter: bool,
    base_model: str | None,
) -> str:
    """The shortest code that gives embeddings, or text; it is run as it stands in the tests."""
    if spec is not None and spec.main.causal_lm:
        return _text_usage(spec, place, folder, is_adapter, base_model)
    if spec is not None and spec.main.reward_model:
        return _reward_usage(spec, place, folder, is_adapter, base_model)
    if spec is not None and spec.domain == "code":
        return _code_usage(spec, place, folder, is_adapter, base_model)
    if spec is not None and spec.domain == "interaction":
        return _recommender_usage(place, folder)
    if spec is not None and spec.main.zero_shot_image:
        return _pair_usage(spec, config, place, folder, image_size, is_adapter)
    has_processor = any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json"))
    if spec is not None and spec.column == "image, text" and has_processor:
        return _logo_usage(place, is_adapter)
    channels, size = _image_shape(config, image_size)
    has_processor = (folder / "preprocessor_config.json").is_file()
    ours = spec is not None or is_ours(str(config.get("model_type") or ""))
    lines = ["import hf_contrastive  # makes the Auto classes know this model type"] if ours else []
    lines += ["import torch"]
    lines += [f"from transformers import {'AutoImageProcessor, ' if has_processor else ''}AutoModel", ""]
    lines += [f'model = AutoModel.from_pretrained("{place}")' + ("  # base and adapter" if is_adapter else "")]
    image = spec is None or spec.main_input == "pixel_values"
    if image and has_processor:
        lines += [
            "from PIL import Image",
            f'processor = AutoImageProcessor.from_pretrained("{place}")',
            f'images = [Image.new("{"L" if channels == 1 else "RGB"}", ({size}, {size}))]  # your images here',
            'pixel_values = processor(images=images, return_tensors="pt")["pixel_values"]',
        ]
    elif image:
        lines += [
            "# your images, scaled as in training: float [batch, channels, height, width]",
            f"pixel_values = torch.rand(2, {channels}, {size}, {size})",
        ]
    if spec is not None and image:
        lines += ["embeddings = model.encode(pixel_values, normalize=True)  # [batch, dim]"]
    elif spec is not None:
        lines += [f"# embeddings = model.encode({spec.main_input}) gives one row per sample"]
    elif image:
        lines += ["outputs = model(pixel_values=pixel_values)  # features: outputs.last_hidden_state"]
    return "```python\n" + "\n".join(lines) + "\n```"


def _logo_usage(place: str, is_adapter: bool) -> str:
    lines = [
        "import hf_contrastive  # makes the Auto classes know this model type",
        "from hf_contrastive import LogoIdentifier",
        "from PIL import Image",
        "from transformers import AutoModel, AutoProcessor",
        "",
        f'model = AutoModel.from_pretrained("{place}")' + ("  # base and adapter" if is_adapter else ""),
        f'identifier = LogoIdentifier(model, AutoProcessor.from_pretrained("{place}"))',
        'known = [Image.new("RGB", (90, 30), "red"), Image.new("RGB", (40, 40), "blue")]  # a picture of each brand here',
        'identifier.add(known, ["first brand", "second brand"], texts=["first", ""])',
        'matches = identifier.identify(known[:1], texts=["frist"])  # for each logo its nearest references',
        "print(matches[0][0].brand, matches[0][0].score)",
    ]
    return "```python\n" + "\n".join(lines) + "\n```"


def _text_usage(spec: SystemSpec, place: str, folder: Path, is_adapter: bool, base_model: str | None) -> str:
    name = spec.model_class().__name__
    has_tokenizer = (folder / "tokenizer_config.json").is_file()
    if is_adapter and base_model:
        # the adapter's layers are those of the system's class, which plain PEFT loading would not build
        lines = [f"from hf_contrastive import {name}", "from peft import PeftModel"]
        load = [
            f'base = {name}.from_backbone("{base_model}")',
            f'model = PeftModel.from_pretrained(base, "{place}").merge_and_unload().eval()',
        ]
    else:
        # of a new model, the adapter alone is of no use: the recipe writes the merged one beside it
        merged = "/merged" if is_adapter else ""
        lines = ["import hf_contrastive  # makes the Auto classes know this model type"]
        lines += ["from transformers import AutoModelForCausalLM"]
        load = [f'model = AutoModelForCausalLM.from_pretrained("{place}{merged}")']
    lines += ["from transformers import AutoTokenizer"] if has_tokenizer else ["import torch"]
    lines += ["", *load]
    if has_tokenizer:
        lines += [
            f'tokenizer = AutoTokenizer.from_pretrained("{place}")',
            'inputs = tokenizer("The", return_tensors="pt")',
        ]
    else:
        lines += ['inputs = {"input_ids": torch.tensor([[3, 4, 5]])}  # of your tokenizer; none is saved here']
    search = "penalty_alpha=0.6, top_k=5, max_new_tokens=20"
    if is_adapter and not base_model:  # plain transformers' own class
        lines.insert(1, "from hf_contrastive import contrastive_search")
        search = f"custom_generate=contrastive_search, {search}"
    lines += [f"ids = model.generate(**inputs, {search})  # contrastive search"]
    return "```python\n" + "\n".join(lines) + "\n```"


def _reward_usage(spec: SystemSpec, place: str, folder: Path, is_adapter: bool, base_model: str | None) -> str:
    name = spec.model_class().__name__
    if is_adapter:
        # the adapter's layers are those of the system's class, which plain PEFT loading would not build
        lines = [
            f"from hf_contrastive import {name}",
            "from peft import PeftModel",
            "from transformers import AutoTokenizer",
            "",
        ]
        start = base_model or f"{place}/language_model"
        lines += [
            f'base = {name}.from_backbone("{start}")',
            f'model = PeftModel.from_pretrained(base, "{place}").merge_and_unload().eval()',
        ]
    else:
        lines = ["import hf_contrastive  # makes the Auto classes know this model type"]
        lines += ["from transformers import AutoModelForSequenceClassification, AutoTokenizer", ""]
        lines += [f'model = AutoModelForSequenceClassification.from_pretrained("{place}")']
    if (folder / "tokenizer_config.json").is_file():
        lines += [
            f'tokenizer = AutoTokenizer.from_pretrained("{place}")',
            'rewards = model.score("What is 2 + 3?", ["2 + 3 = 5", "2 + 3 = 6"], tokenizer=tokenizer)  # one per answer',
        ]
    else:
        lines = [
            line.replace(", AutoTokenizer", "") for line in lines if line != "from transformers import AutoTokenizer"
        ]
        lines = ["import torch", *lines]
        lines += ["outputs = model(torch.tensor([[3, 4, 5]]))  # ids of your tokenizer; none is saved here"]
        lines += ["rewards = outputs.logits[:, 0]"]
    return "```python\n" + "\n".join(lines) + "\n```"


def _code_usage(spec: SystemSpec, place: str, folder: Path, is_adapter: bool, base_model: str | None) -> str:
    lines = [
        "import hf_contrastive  # makes the Auto classes know this model type",
        "from transformers import AutoModel",
    ]
    load = [f'model = AutoModel.from_pretrained("{place}")']
    if is_adapter:
        # the adapter's layers are those of the system's class, which plain PEFT loading would not build
        name = spec.pretraining_class().__name__
        lines = [f"from hf_contrastive import {name}", "from peft import PeftModel"]
        load = [
            f'base = {name}.from_backbone("{base_model or "BASE"}")  # with the fields of the configuration below',
            f'model = PeftModel.from_pretrained(base, "{place}").merge_and_unload().eval()',
        ]
    if (folder / "program_processor.json").is_file():
        lines += ["from hf_contrastive.data import ProgramProcessor", "", *load]
        lines += [
            f'processor = ProgramProcessor.from_pretrained("{place}")',
            'programs = ["int main() { int a = 1; return a; }", "int main() { int total = 1; return total; }"]',
            'embeddings = model.encode(**processor(programs, language="cpp"), normalize=True)  # [batch, dim]',
            "print(embeddings @ embeddings.T)  # similarity of every pair",
        ]
    else:
        lines += [
            "",
            *load,
            "# embeddings = model.encode(...) of what the processor of the training makes; none is saved here",
        ]
    return "```python\n" + "\n".join(lines) + "\n```"


def _pair_usage(
    spec: SystemSpec, config: dict[str, Any], place: str, folder: Path, image_size: int | None, is_adapter: bool
) -> str:
    vision = config.get("vision_config") or {}
    channels = int(vision.get("num_channels") or 3)
    found = image_size or vision.get("image_size") or 32
    size = int(found[0] if isinstance(found, (list, tuple)) else found)
    lines = ["import hf_contrastive  # makes the Auto classes know this model type"]
    load = [f'model = AutoModel.from_pretrained("{place}")']
    names = ["AutoModel"]
    if is_adapter:
        # the adapter's layers are those of the system's class, which plain PEFT loading would not build
        name = spec.pretraining_class().__name__
        lines = [f"from hf_contrastive import {name}", "from peft import PeftModel"]
        names = []
        load = [
            f'base = {name}.from_towers("VISION", "TEXT")  # what the training started from, with the fields below',
            f'model = PeftModel.from_pretrained(base, "{place}").merge_and_unload().eval()',
        ]
    if (folder / "processor_config.json").is_file():
        lines += [
            "from PIL import Image",
            f"from transformers import {', '.join([*names, 'AutoProcessor'])}",
            "",
            *load,
        ]
        lines += [
            f'processor = AutoProcessor.from_pretrained("{place}")',
            f'images = [Image.new("{"L" if channels == 1 else "RGB"}", ({size}, {size}))]  # your images here',
            'inputs = processor(images=images, text=["a red letter", "a blue letter"])',
            'images = model.encode(inputs.pop("pixel_values"))  # [images, dim], length 1',
            "texts = model.encode(**inputs)  # [texts, dim]",
            "print(images @ texts.T)  # similarity of every image and text",
        ]
    else:
        lines += ["import torch", *([f"from transformers import {names[0]}"] if names else []), "", *load]
        lines += [
            "# your images, scaled as in training: float [batch, channels, height, width]; no processor is saved here",
            f"images = model.encode(torch.rand(2, {channels}, {size}, {size}))  # [batch, dim], length 1",
        ]
    return "```python\n" + "\n".join(lines) + "\n```"


def _recommender_usage(place: str, folder: Path) -> str:
    user = 0
    if (folder / "id_maps.json").is_file():
        users = json.loads((folder / "id_maps.json").read_text(encoding="utf-8"))["users"]
        user = users[0] if users else user
    lines = [
        "import hf_contrastive  # makes the Auto classes know this model type",
        "from transformers import AutoModel",
        "",
        f'model = AutoModel.from_pretrained("{place}")',
        f"for item, score in model.recommend([{user!r}], k=5)[0]:  # users of the log",
        "    print(item, score)",
    ]
    return "```python\n" + "\n".join(lines) + "\n```"


__all__ = ["code_example", "is_ours"]
