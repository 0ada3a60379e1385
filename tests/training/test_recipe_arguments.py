"""YAML first, command line over it, everything cast, errors that help."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from hf_contrastive.training import ContrastiveTrainingArguments, parse_recipe_arguments
from hf_contrastive.training.recipe_arguments import COMMON_TRAINING_FIELDS, cast_value


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class DataArguments:
    """Where the images come from.

    More text.
    """

    dataset_path: str = field(default="digits", metadata={"help": "A folder or a name. Nothing is downloaded."})
    image_size: int = field(default=32, metadata={"help": "Pixels."})
    crop_scale: list[float] = field(default_factory=lambda: [0.2, 1.0])
    limit: int | None = None
    colour: Colour = Colour.RED
    mode: Literal["fast", "exact"] = "fast"
    dry_run: bool = False


@dataclass
class ModelArguments:
    _group_title = "Method"

    temperature: float = field(default=0.5, metadata={"help": "Divides similarities."})
    backbone: dict[str, Any] | None = None
    sample_ids: str | None = None


@dataclass
class NeedyArguments:
    """Needs something."""

    name: str = field(metadata={"help": "your name"})


def _parse(*tokens: str, types: Any = (DataArguments, ModelArguments)) -> Any:
    return parse_recipe_arguments(
        types, list(tokens), prog="train.py", description="Trains.", example="train.py a.yaml"
    )


def _file(folder: Path, text: str) -> str:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_defaults_without_any_argument() -> None:
    assert _parse() == (DataArguments(), ModelArguments())


def test_file_then_command_line_also_when_it_repeats_a_default(tmp_path: Path) -> None:
    path = _file(tmp_path, "image_size: 64\ntemperature: 0.1\n")
    data, model = _parse(path)
    assert (data.image_size, model.temperature) == (64, 0.1)
    data, model = _parse(path, "--image_size", "32")
    assert (data.image_size, model.temperature) == (32, 0.1)
    assert _parse("--config", path)[0].image_size == 64


def test_sections_by_name_or_title(tmp_path: Path) -> None:
    text = "data:\n  image-size: 8\nmethod:\n  temperature: 1e-2\ntraining:\n  learning_rate: 1e-3\n  use_cpu: true\n"
    types = (DataArguments, ModelArguments, ContrastiveTrainingArguments)
    data, model, training = _parse(_file(tmp_path, text), types=types)
    assert data.image_size == 8
    assert model.temperature == 0.01
    assert training.learning_rate == 1e-3
    assert isinstance(training.learning_rate, float)


@pytest.mark.parametrize(
    ("tokens", "name", "value"),
    [
        (["--image-size", "8"], "image_size", 8),
        (["--image_size=8"], "image_size", 8),
        (["--image_size", "1e2"], "image_size", 100),
        (["--crop_scale", "0.1", "1"], "crop_scale", [0.1, 1.0]),
        (["--crop_scale", "0.1,1"], "crop_scale", [0.1, 1.0]),
        (["--crop_scale", "[0.1, 1]"], "crop_scale", [0.1, 1.0]),
        (["--crop_scale", "-1", "-2e-1"], "crop_scale", [-1.0, -0.2]),
        (["--limit", "none"], "limit", None),
        (["--limit", "7"], "limit", 7),
        (["--colour", "blue"], "colour", Colour.BLUE),
        (["--mode", "exact"], "mode", "exact"),
        (["--dry_run"], "dry_run", True),
        (["--dry-run", "yes"], "dry_run", True),
        (["--no_dry_run"], "dry_run", False),
        (["--dataset_path", "1e3"], "dataset_path", "1e3"),
    ],
)
def test_casts_from_the_command_line(tokens: list[str], name: str, value: Any) -> None:
    found = getattr(_parse(*tokens)[0], name)
    assert found == value
    assert type(found) is type(value)


def test_casts_from_yaml(tmp_path: Path) -> None:
    text = (
        "dataset_path: 2024\nimage_size: '8'\ncrop_scale: [1e-1, 1]\nlimit: null\ndry_run: off\ntemperature: 1\n"
        "backbone: {model_type: vit, sizes: [1, 2], rate: 1e-4}\n"
    )
    data, model = _parse(_file(tmp_path, text))
    assert (data.dataset_path, data.image_size, data.crop_scale, data.limit, data.dry_run) == (
        *("2024", 8, [0.1, 1.0]),
        *(None, False),
    )
    assert model.backbone == {"model_type": "vit", "sizes": [1, 2], "rate": 1e-4}
    assert isinstance(model.temperature, float)
    assert _parse("--backbone", '{"a": 1e-3}')[1].backbone == {"a": 1e-3}


def test_fields_of_training_arguments_keep_their_meaning(tmp_path: Path) -> None:
    text = (
        "eval_strategy: no\nsave_strategy: no\nreport_to: none\naccelerator_config: {even_batches: false}\nuse_cpu: yes\n"
        "warmup_steps: 0.1\nlr_scheduler_type: cosine\nmax_steps: 5e1\nprobe_metrics: knn\nsave_total_limit: 2\n"
    )
    (args,) = _parse(
        _file(tmp_path, text),
        "--resume_from_checkpoint",
        "--adam_beta2",
        "0.95",
        types=(ContrastiveTrainingArguments,),
    )
    assert args.eval_strategy.value == "no"
    assert args.report_to == []
    assert args.accelerator_config.even_batches is False
    assert args.warmup_steps == 0.1
    assert args.lr_scheduler_type.value == "cosine"
    assert args.max_steps == 50
    assert args.probe_metrics == ["knn"]
    assert args.resume_from_checkpoint is True
    assert args.adam_beta2 == 0.95


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        ("8", int | None, 8),
        ("a", int | str, "a"),
        (True, bool | str, True),
        ("out/x", str | bool | None, "out/x"),
        ("true", str | bool | None, True),
        ("a", str | list[str], "a"),
        (["a"], str | list[str], ["a"]),
        ('{"a": 1}', dict | str, {"a": 1}),
        ("file.json", dict | str, "file.json"),
        (3, float, 3.0),
        ("1,2", tuple[int, ...], (1, 2)),
    ],
)
def test_cast_value(value: Any, annotation: Any, expected: Any) -> None:
    found = cast_value(value, annotation)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["--image_siz", "3"], "command line: there is no field 'image_siz'; did you mean image_size?"),
        (["--xyzzy", "3"], "--help_all lists all fields"),
        (["--image_size", "3.5"], "command line: image_size is '3.5', expected a whole number."),
        (["--image_size", "big"], "image_size is 'big', expected a whole number"),
        (["--image_size"], "--image_size needs a value"),
        (["--image_size", "1", "2"], "--image_size takes one value, got 2"),
        (["--limit", "x"], "limit is 'x', expected a whole number or none"),
        (["--mode", "slow"], "mode is 'slow', expected one of fast, exact"),
        (["--colour", "green"], "expected one of red, blue"),
        (["--dry_run", "maybe"], "dry_run is 'maybe', expected true or false"),
        (["--backbone", "vit"], "expected a mapping"),
        (["--image_size", "3", "-x"], "'-x' belongs to no option"),
        (["none.yaml"], "there is no file none.yaml"),
    ],
)
def test_errors_on_the_command_line(tokens: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        _parse(*tokens)
    assert error.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("train.py: error: ")
    assert message in captured.err
    assert "train.py --help" in captured.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("temprature: 1", "run.yaml: there is no field 'temprature'; did you mean temperature?"),
        ("data:\n  image_siz: 1", "section data: there is no field 'image_siz'; did you mean image_size?"),
        ("image_size: true", "run.yaml: image_size is True, expected a whole number"),
        ("temperature: low", "run.yaml: temperature is 'low', expected a number"),
        ("- 1\n- 2", "expected `field: value` lines, found a list"),
        ("a: [", "is not valid YAML"),
        ("image_size: 1\ndata: {image_size: 2}", "'image_size' is given twice"),
        ("image_size: 1\nimage_size: 2", "'image_size' is given twice"),
        ("data:\n  image_size: 1\ndata:\n  image_size: 2", "'data' is given twice"),
    ],
)
def test_errors_in_the_file(tmp_path: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        _parse(_file(tmp_path, text))
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_a_missing_file_lists_its_neighbours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _file(tmp_path, "")
    with pytest.raises(SystemExit):
        _parse(str(tmp_path / "other.yaml"))
    assert "beside it: run.yaml" in capsys.readouterr().err


def test_needed_fields_and_checks_of_the_dataclass(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        _parse(types=(NeedyArguments,))
    assert error.value.code == 2
    assert "--name is needed: your name" in capsys.readouterr().err
    with pytest.raises(SystemExit) as error:
        _parse("--probe_k", "0", "--use_cpu", types=(ContrastiveTrainingArguments,))
    assert error.value.code == 2
    assert "`probe_k` is 0, but it must be a whole number >= 1" in capsys.readouterr().err


def test_a_field_in_two_groups_is_a_mistake_of_the_recipe() -> None:
    with pytest.raises(ValueError, match="'temperature' is in both ModelArguments and ModelArguments"):
        _parse(types=(ModelArguments, ModelArguments))


def test_help_is_grouped_and_short(capsys: pytest.CaptureFixture[str]) -> None:
    types = (DataArguments, ModelArguments, ContrastiveTrainingArguments)
    with pytest.raises(SystemExit) as error:
        _parse("--help", types=types)
    assert error.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: train.py [FILE.yaml] [--field value ...]\n\nTrains.")
    assert text.rstrip().endswith("example:\n  train.py a.yaml")
    heads = [line for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert heads == ["Where the images come from:", "Method:", "Training:", "example:"]
    assert "  --dataset_path text  (default: digits)\n      A folder or a name.\n" in text  # first sentence only
    assert "--crop_scale float ...  (default: [0.2, 1.0])" in text
    assert "--limit int  (default: none)" in text
    assert "--learning_rate float  (default: 5e-05)" in text
    assert "--gradient_cache_chunk_size" in text
    assert "adam_beta2" not in text
    assert "--help_all" in text
    assert all(f"--{name} " in text for name in COMMON_TRAINING_FIELDS)


@pytest.mark.parametrize("flag", ["--help_all", "--help-all"])
def test_help_all_shows_everything(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        _parse(flag, types=(DataArguments, ContrastiveTrainingArguments))
    assert error.value.code == 0
    text = capsys.readouterr().out
    assert "--adam_beta2 float" in text
    assert "Nothing is downloaded." in text
