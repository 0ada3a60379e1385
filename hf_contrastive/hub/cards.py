"""Model cards that say what was done and measured, and nothing else."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from hf_contrastive.hub.card_code import code_example, is_ours
from hf_contrastive.hub.scrub import find_local_paths, is_local_path, scrub_text
from hf_contrastive.registry import SystemSpec, find_by_model_type


#: licence ids that the hub's front matter takes (the common ones; `other` needs `license_name` and `license_link`)
_LICENCE_IDS = """apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
    afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
    cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0
    lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl
    openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license
    fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 grok2-community gemma unknown
    other"""
LICENCES: frozenset[str] = frozenset(_LICENCE_IDS.split())

_REPO_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")

# Words of half-made cards; a card that holds one says less than no card.
_PLACEHOLDERS = ("[More Information Needed]", "fine-tuned version of [](", "TODO")


class CardError(ValueError):
    """A model card whose metadata the hub would refuse, or whose content is not honest."""


@dataclass(frozen=True)
class Metric:
    """One measured number.

    Args:
        name (`str`): what was measured, for example `"kNN accuracy"`.
        value (`float`): the number, or the mean over seeds.
        dataset (`str`): name of the data.
        task (`str`, *optional*): hub task; the system's own by default.
        std (`float`, *optional*): standard deviation over the seeds.
        seeds (`int`, *optional*): number of seeds.
        note (`str`): protocol in words, for example `"k = 20, cosine"`.
        system (`str`): what was measured; anything but `"this model"` is a baseline: in the table, not in the
            model-index.
        dataset_id (`str`, *optional*): hub id of the data; made from the name when absent.
        split (`str`, *optional*): split of the data.
        type (`str`, *optional*): metric id; made from the name when absent.
    """

    name: str
    value: float
    dataset: str
    task: str | None = None
    std: float | None = None
    seeds: int | None = None
    note: str = ""
    system: str = "this model"
    dataset_id: str | None = None
    split: str | None = None
    type: str | None = None

    @property
    def is_baseline(self) -> bool:
        """Whether the number belongs to something else than this model."""
        return self.system != "this model"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _as_metric(row: Metric | Mapping[str, Any]) -> Metric:
    if isinstance(row, Metric):
        metric = row
    else:
        known = {field.name for field in fields(Metric)}
        unknown = set(row) - known
        if unknown:
            raise CardError(
                f"a row of 'metrics' has the key {sorted(unknown)[0]!r}; known are {', '.join(sorted(known))}"
            )
        missing = {"name", "value", "dataset"} - set(row)
        if missing:
            raise CardError(f"a row of 'metrics' lacks {', '.join(sorted(missing))}: {dict(row)}")
        metric = Metric(**row)
    for label, number in (("value", metric.value), ("std", metric.std)):
        if number is None and label == "std":
            continue
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number):
            raise CardError(
                f"metric {metric.name!r} on {metric.dataset!r} has {label} {number!r}; a finite number is needed"
            )
    return metric


def _number(value: Any) -> str:
    if isinstance(value, float):
        if not math.isfinite(value):
            return str(value)
        return f"{value:.4g}" if abs(value) < 1e5 else f"{value:.3e}"
    return str(value)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, (list, tuple)):
        return ", ".join(_number(item) for item in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_number(item)}" for key, item in value.items())
    return _number(value).replace("|", "\\|").replace("\n", " ")


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows]
    return "\n".join(lines)


def _versions() -> dict[str, str]:
    found = {}
    for name in ("hf-contrastive", "transformers", "torch", "datasets", "accelerate", "peft", "huggingface-hub"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _duration(value: Any) -> str:
    if not isinstance(value, (int, float)):
        return str(value)
    if value < 120:
        return f"{value:.1f} s"
    return f"{value / 60:.1f} min" if value < 7200 else f"{value / 3600:.1f} h"


def _config_dict(config: Any) -> dict[str, Any]:
    if config is None:
        return {}
    return dict(config) if isinstance(config, Mapping) else config.to_dict()


def _own_fields(config: dict[str, Any]) -> dict[str, Any]:
    """The settings that belong to the system, not to every transformers configuration."""
    from transformers import PreTrainedConfig

    common = set(PreTrainedConfig().to_dict()) | {"architectures", "dtype", "model_type", "transformers_version"}
    return {
        key: value
        for key, value in sorted(config.items())
        if key not in common and not key.startswith("_") and not isinstance(value, dict) and value is not None
    }


def _use_section(
    spec: SystemSpec | None,
    config: dict[str, Any],
    place: str,
    folder: Path,
    image_size: int | None,
    is_adapter: bool,
    base_model: str | None,
) -> list[str]:
    parts = ["## Use", ""]
    if spec is not None or is_ours(str(config.get("model_type") or "")):
        parts += ["```bash", "pip install hf-contrastive", "```", ""]
    parts += [code_example(spec, config, place, folder, image_size, is_adapter, base_model)]
    if spec is not None and spec.domain != "interaction":  # recommenders are tables, they have no backbone
        auto = "AutoModelForCausalLM" if spec.main.causal_lm else "AutoModel"
        part = ', part="vision_model"' if spec.column == "image, text" else ""
        parts += [
            "",
            "The bare backbone, for programs that do not have `hf_contrastive` installed (when it is one of "
            "transformers' own architectures):",
            "",
            "```python",
            "from hf_contrastive.hub import export_backbone",
            "",
            f'export_backbone(model, "backbone"{part})  # afterwards, in plain transformers: {auto}.from_pretrained("backbone")',
            "```",
        ]
    return parts


def _data_section(data: Mapping[str, Any] | None) -> list[str]:
    parts = ["## Training data", ""]
    if not data:
        return [*parts, "Not recorded."]
    title = data.get("name") or data.get("id") or "unnamed data"
    link = f" ([`{data['id']}`](https://huggingface.co/datasets/{data['id']}))" if data.get("id") else ""
    parts.append(f"{title}{link}.")
    if data.get("description"):
        parts += ["", str(data["description"])]
    facts = [(key, data[key]) for key in ("split", "rows", "classes", "image_size") if data.get(key) is not None]
    facts.append(("licence", data.get("licence") or "not recorded"))
    parts += ["", _table(("property", "value"), facts)]
    columns = data.get("columns")
    if columns:
        if isinstance(columns, Mapping):
            columns = [
                {"column": name, **(s if isinstance(s, Mapping) else {"content": s})} for name, s in columns.items()
            ]
        columns = [row if isinstance(row, Mapping) else {"column": row} for row in columns]
        header = list(dict.fromkeys(key for row in columns for key in row))
        parts += ["", _table(header, [[row.get(key) for key in header] for row in columns])]
    if data.get("example"):
        parts += ["", f"One example: {_cell(data['example'])}"]
    return parts


def _method_section(spec: SystemSpec | None, config: dict[str, Any], training: Mapping[str, Any]) -> list[str]:
    parts = ["## Method", ""]
    if spec is not None:
        parts += [f"[{spec.paper_title}]({spec.paper_url}), {spec.year}."]
        formula = training.get("loss")
        if not formula and config.get("model_type") in (None, spec.model_type):
            formula = getattr(spec.pretraining_class(), "objective_formula", "")
        if formula:
            parts += ["", f"Loss: {formula}"]
    elif training.get("loss"):
        parts += [f"Loss: {training['loss']}"]
    encoders = {"Backbone": "backbone_config", "Image encoder": "vision_config", "Text encoder": "text_config"}
    for title, key in encoders.items():
        kind = (config.get(key) or {}).get("model_type")
        if kind:
            parts += ["", f"{title}: `{kind}`."]
    own = _own_fields(config) if spec is not None else {}
    if own:
        parts += ["", "Settings of the model:", "", _table(("field", "value"), own.items())]
    settings = training.get("settings") or training.get("hyper_parameters")
    if settings:
        parts += ["", "Settings of the training:", "", _table(("setting", "value"), settings.items())]
    if spec is not None:
        parts += ["", "```bibtex", spec.bibtex.strip(), "```"]
    return parts


def _metrics_section(metrics: Sequence[Metric], training: Mapping[str, Any]) -> list[str]:
    parts = ["## Results", ""]
    if not metrics:
        return [
            *parts,
            "Nothing was measured for this checkpoint: there is no evidence yet that its features are useful.",
        ]
    rows = []
    for metric in metrics:
        value = _number(metric.value) + (f" ± {_number(metric.std)}" if metric.std is not None else "")
        data = metric.dataset + (f" ({metric.split})" if metric.split else "")
        system = metric.system if metric.is_baseline else "**this model**"
        rows.append((system, data, metric.name, value, metric.seeds, metric.note))
    parts.append(_table(("system", "data", "metric", "value", "seeds", "protocol"), rows))
    if not any(metric.is_baseline for metric in metrics):
        parts += ["", "No baseline (untrained encoder, raw input) was measured beside it."]
    source = []
    if training.get("command"):
        source.append(f"`{training['command']}`")
    source += [str(training[key]) for key in ("date", "hardware") if training.get(key)]
    if source:
        parts += ["", f"Where the numbers come from: {', '.join(source)}."]
    return parts


def _training_section(training: Mapping[str, Any], log_history: Sequence[Mapping[str, Any]] | None) -> list[str]:
    parts = ["## Training", ""]
    facts = [("command", f"`{training['command']}`")] if training.get("command") else []
    facts += [(key, training[key]) for key in ("date", "hardware", "processes", "emissions") if training.get(key)]
    wall = training.get("wall_time", training.get("wall_time_s"))
    if wall is not None:
        facts.append(("wall time", _duration(wall)))
    if facts:
        parts += [_table(("property", "value"), facts), ""]
    rows = [row for row in log_history or () if "loss" in row or any(key.startswith("eval_") for key in row)]
    if rows:
        merged: dict[Any, dict[str, Any]] = {}
        for row in rows:
            merged.setdefault(row.get("step"), {}).update(row)
        kept = list(merged.values())
        if len(kept) > 12:
            kept = [kept[round(i * (len(kept) - 1) / 11)] for i in range(12)]
        timing = ("_runtime", "_per_second")
        keys = [
            key
            for row in kept
            for key in row
            if key in ("loss", "std", "effective_rank", "grad_norm", "learning_rate") or key.startswith("eval_")
        ]
        header = ["step", "epoch", *(key for key in dict.fromkeys(keys) if not key.endswith(timing))]
        parts += [_table(header, [[row.get(key) for key in header] for row in kept]), ""]
    elif not facts:
        parts += ["No log was recorded.", ""]
    versions = training.get("versions") or _versions()
    parts.append("Versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()) + ".")
    return parts


def _limits_section(spec: SystemSpec | None, metrics: Sequence[Metric], limits: str | None) -> list[str]:
    parts = ["## Intended use and limits", ""]
    domain = spec.domain if spec is not None else "image"
    if spec is not None and spec.main.reward_model:
        parts.append(
            "Rewards for ranking and filtering answers, and as the reward of a policy. The model was trained on the preferences "
            "above and carries their bias; its numbers compare answers to one question and mean little across questions. A "
            "policy that is trained against it long enough finds answers that it overrates: watch them. It was not examined for "
            "use on people, or for medical or safety decisions."
        )
    elif domain == "interaction":
        parts.append(
            "Lists of items for the users of the log above. The checkpoint holds the names of users and items, and what every user "
            "chose (`save_pretrained(folder, save_memory=False)` leaves the latter out): mind who may see it. Lists repeat what the log "
            "prefers, popular items above all, and say nothing of people or items that are not in it. It was not examined for "
            "decisions on people (jobs, credit, housing)."
        )
    else:
        parts.append(_feature_limits(domain))
    if metrics:
        names = ", ".join(dict.fromkeys(metric.dataset for metric in metrics))
        parts += ["", f"The numbers above hold for {names} only."]
    if limits:
        parts += ["", limits]
    return parts


def _feature_limits(domain: str) -> str:
    return (
        f"Features of {domain} data for search, clustering, visualisation and as the start of a supervised model. The model "
        "was trained without labels on the data above: expect weaker features on data that look different, and expect it "
        "to carry whatever bias that data has. It decides nothing by itself and was not examined for use on people, or for "
        "medical or safety decisions."
    )


def _licence_section(licence: str, base_model: str | None, local_base: bool, training: Mapping[str, Any]) -> list[str]:
    data = training.get("data") or {}
    weights = "not stated by the author" if licence == "unknown" else licence
    if base_model:
        base = f"{base_model} ({training.get('base_licence') or 'see its own card for the licence'})"
    elif local_base:
        base = "a local checkpoint that is not on the hub"
    else:
        base = "none recorded"
    rows = [("weights", weights), ("training data", data.get("licence") or "not recorded"), ("base model", base)]
    return ["## Licences", "", _table(("part", "licence"), rows)]


def write_model_card(
    folder: str | os.PathLike,
    *,
    spec: SystemSpec | None = None,
    config: Any = None,
    metrics: Sequence[Metric | Mapping[str, Any]] | None = None,
    training: Mapping[str, Any] | None = None,
    base_model: str | None = None,
    licence: str | None = None,
    repo_id: str | None = None,
    model_name: str | None = None,
    log_history: Sequence[Mapping[str, Any]] | None = None,
    tags: Sequence[str] = (),
    image_size: int | None = None,
    limits: str | None = None,
    is_adapter: bool = False,
    extra: str | Mapping[str, str] | None = None,
) -> Path:
    """Write `README.md` for a checkpoint: front matter for the hub and a text that says what was done and measured.

    Nothing is made up: what is not given is said to be not recorded, and without metrics the card says that nothing was
    measured. Local paths are removed.

    Args:
        folder: where `README.md` goes; it is made when missing.
        spec (`SystemSpec`, *optional*): the registry row; found from the configuration when absent.
        config (`PreTrainedConfig` or `dict`, *optional*): the model's configuration; read from the folder when absent.
        metrics (`list[Metric | dict]`, *optional*): measured numbers with their baselines, see `Metric`.
        training (`dict`, *optional*): what is known of the training, all keys optional: `data` (dict: `name`, `id`,
            `description`, `split`, `rows`, `classes`, `columns` (name -> statistics), `example`, `licence`),
            `settings` (dict), `loss` (formula in one line), `command`, `date`, `hardware`, `processes`, `wall_time`
            (seconds), `versions` (dict), `base_licence`.
        base_model (`str`, *optional*): hub id of the model the training started from. A local path is not shown.
        licence (`str`, *optional*): licence id of the weights, for example `"apache-2.0"`; `"unknown"` when absent.
        repo_id (`str`, *optional*): where the model will be, for the usage snippet; the folder's name when absent.
        model_name (`str`, *optional*): title; the last part of `repo_id` or the folder's name when absent.
        log_history (`list[dict]`, *optional*): `trainer.state.log_history`.
        tags (`Sequence[str]`): further tags.
        image_size (`int`, *optional*): side of the images in the usage snippet.
        limits (`str`, *optional*): further limits, in words.
        is_adapter (`bool`): the folder holds a PEFT adapter.
        extra (`str` or `dict[heading, text]`, *optional*): further sections in Markdown.

    Returns:
        `pathlib.Path`: the file.

    Raises:
        CardError: an unknown licence id, a number that is not finite, a malformed tag or id.

    Example:

    ```python
    >>> import tempfile
    >>> from hf_contrastive import get_system
    >>> from hf_contrastive.hub import Metric, write_model_card
    >>> path = write_model_card(
    ...     tempfile.mkdtemp(), spec=get_system("simclr"), repo_id="me/x", licence="apache-2.0",
    ...     metrics=[Metric("kNN accuracy", 0.91, "digits"), Metric("kNN accuracy", 0.85, "digits", system="raw pixels")],
    ... )
    >>> "| raw pixels | digits | kNN accuracy | 0.85 |" in path.read_text()
    True

    ```
    """
    from huggingface_hub import EvalResult, ModelCardData

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if config is None and (folder / "config.json").is_file():
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = _config_dict(config)
    model_type = str(config.get("model_type") or "")
    spec = spec or find_by_model_type(model_type)
    training = dict(training or {})
    # a component of a system (an autoencoder that makes pseudo-labels) has no `encode` and no objective of the system
    is_part = spec is not None and model_type not in ("", spec.model_type)
    main = None if is_part else spec
    ours = spec is not None or is_ours(model_type)
    rows = [_as_metric(row) for row in metrics or ()]
    local_base = bool(base_model) and is_local_path(str(base_model))
    base_model = None if local_base or not base_model else base_model
    licence = licence or "unknown"
    place = repo_id or folder.resolve().name
    model_name = model_name or place.split("/")[-1]
    data = training.get("data") or {}

    results = [
        EvalResult(
            task_type=row.task or (spec.pipeline_tag if spec else None) or "feature-extraction",
            dataset_type=row.dataset_id or _slug(row.dataset),
            dataset_name=row.dataset,
            dataset_split=row.split,
            metric_type=row.type or _slug(row.name),
            metric_name=row.name,
            metric_value=float(row.value),
            metric_args={k: v for k, v in (("seeds", row.seeds), ("std", row.std)) if v is not None} or None,
        )
        for row in rows
        if not row.is_baseline
    ]
    all_tags = ["contrastive-learning", *(spec.tags if spec else ()), *tags]
    if is_adapter:
        all_tags.append("peft")
    front = ModelCardData(
        library_name="hf_contrastive" if ours else "transformers",
        pipeline_tag=spec.pipeline_tag if spec is not None else "image-feature-extraction",
        license=licence,
        tags=list(dict.fromkeys(all_tags)),
        base_model=base_model,
        datasets=[data["id"]] if data.get("id") else None,
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        model_name=model_name if results else None,
        eval_results=results or None,
    )

    if is_adapter and spec is None:
        what = f"A PEFT adapter for {base_model or 'a base model that is not on the hub'}."
    elif is_part and spec is not None:
        what = f"The `{model_type}` of a **{spec.title}** run: a part of the method, not its encoder."
    elif spec is not None:
        kind = "A LoRA adapter for a" if is_adapter else "A"
        what = f"{kind} **{spec.title}** checkpoint ({spec.task}, {spec.domain} data). {spec.summary}"
    elif ours:
        what = f"A `{model_type}` backbone; its architecture is defined by `hf_contrastive`."
    else:
        what = f"A `{model_type or 'transformers'}` checkpoint that loads in plain transformers."
    if base_model:
        what += f" Training started from [{base_model}](https://huggingface.co/{base_model})."
    elif local_base:
        what += " Training started from a local checkpoint that is not on the hub."
    sections = [
        [f"# {model_name}", "", what],
        _use_section(main, config, place, folder, image_size, is_adapter, base_model),
        _data_section(data),
        _method_section(spec, config, training),
        _metrics_section(rows, training),
        _training_section(training, log_history),
        _limits_section(spec, rows, limits),
        _licence_section(licence, base_model, local_base, training),
    ]
    if isinstance(extra, str):
        sections.append([extra.strip()])
    elif extra:
        sections += [[f"## {heading}", "", text.strip()] for heading, text in extra.items()]
    body = scrub_text("\n\n".join("\n".join(section).strip() for section in sections))
    text = f"---\n{front.to_yaml()}\n---\n\n{body}\n"
    validate_card(text)
    path = folder / "README.md"
    path.unlink(missing_ok=True)  # it may share its content with another folder by a hard link
    path.write_text(text, encoding="utf-8")
    return path


def _problems(data: Mapping[str, Any]) -> list[str]:
    problems = []
    licence = data.get("license")
    for entry in licence if isinstance(licence, list) else [licence]:
        if entry is None:
            problems.append("no 'license'; give a licence id such as apache-2.0, or unknown")
        elif entry not in LICENCES:
            problems.append(
                f"license {entry!r} is not an id the hub knows, for example apache-2.0, mit, cc-by-4.0, other"
            )
    if licence == "other" and not (data.get("license_name") and data.get("license_link")):
        problems.append("license 'other' needs 'license_name' and 'license_link'")
    if not data.get("library_name"):
        problems.append("no 'library_name'")
    tags = data.get("tags") or []
    problems += [
        f"tag {tag!r} must be a short text" for tag in tags if not isinstance(tag, str) or not 0 < len(tag) <= 80
    ]
    for key in ("base_model", "datasets"):
        values = data.get(key) or []
        for value in values if isinstance(values, list) else [values]:
            if not isinstance(value, str) or not _REPO_ID.fullmatch(value):
                problems.append(f"{key} {value!r} is not a hub id")
    for model in data.get("model-index") or []:
        if not model.get("name"):
            problems.append("model-index without 'name'")
        for result in model.get("results") or []:
            if not (result.get("task") or {}).get("type"):
                problems.append("a result of the model-index has no task type")
            if not {"type", "name"} <= set(result.get("dataset") or {}):
                problems.append("a result of the model-index has no dataset type or name")
            for metric in result.get("metrics") or []:
                value = metric.get("value")
                if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                    problems.append(
                        f"metric {metric.get('type')!r} has the value {value!r}; a finite number is needed"
                    )
    return problems


def validate_card(card: str | os.PathLike) -> dict[str, Any]:
    """Check a card without a network: front matter, licence id, ids, tags, numbers, no local path, no placeholder.

    Args:
        card (`str` or `os.PathLike`): the text of a card (it begins with `---`), or the path of a file.

    Returns:
        `dict`: the parsed front matter.

    Raises:
        CardError: lists everything that is wrong.

    Example:

    ```python
    >>> from hf_contrastive.hub import validate_card
    >>> validate_card("---\\nlibrary_name: hf_contrastive\\nlicense: mit\\n---\\n# x")["license"]
    'mit'

    ```
    """
    text = card if isinstance(card, str) and card.startswith("---") else Path(card).read_text(encoding="utf-8")
    match = re.match(r"---\r?\n(.*?)\r?\n---\r?\n", text + "\n", re.DOTALL)
    if match is None:
        raise CardError("the card has no front matter between two lines '---'")
    try:
        data = yaml.safe_load(match.group(1))
    except yaml.YAMLError as error:
        raise CardError(f"the front matter is not valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise CardError("the front matter is not a mapping of keys to values")
    problems = _problems(data)
    problems += [f"local path {path} in line {line}" for line, path in find_local_paths(text)]
    problems += [f"unfilled placeholder {words!r}" for words in _PLACEHOLDERS if words in text]
    if problems:
        raise CardError("the card would be wrong: " + "; ".join(problems))
    return data
