"""What the recipes of all domains share: run flags, the output folder, errors in one line, the command, the machine."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import importlib.util
import inspect
import json
import os
import platform
import re
import shlex
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_model
from transformers import PreTrainedConfig
from transformers.utils import logging as hf_logging

from hf_contrastive.distributed import is_main_process
from hf_contrastive.hub import Metric, write_model_card
from hf_contrastive.registry import SystemSpec
from hf_contrastive.reporting import metrics_table, plot_run, save_embeddings, say
from hf_contrastive.training.reports import final_report
from hf_contrastive.training.unwrap import unwrap_model


def option(default: Any, help_text: str) -> Any:
    """A field of an argument group with its help."""
    return field(default=default, metadata={"help": help_text})


def several(default: Sequence[Any], help_text: str) -> Any:
    """A field with several values."""
    return field(default_factory=lambda: list(default), metadata={"help": help_text})


@dataclass
class RunArguments:
    """run: what this command does"""

    dry_run: bool = option(False, "Build everything, take one step on two rows, print the shapes, write nothing.")
    overwrite: bool = option(False, "Delete what an earlier run left in output_dir.")


#: by these a folder is known as that of a run
RUN_FILES = ("trainer_state.json", "metrics.jsonl", "all_results.json", "autoencoder")


@contextlib.contextmanager
def plain_errors() -> Generator[None]:
    """Where users' settings are read: an error is one line and exit code 2, not a traceback.

    Raises:
        SystemExit: with code 2, for a `ValueError` or a file that is not there.
    """
    try:
        yield
    except (ValueError, FileNotFoundError, StrictDataclassError) as error:
        # a strict configuration wraps what its check said
        said = error.__cause__ if isinstance(error, StrictDataclassError) and error.__cause__ else error
        print(f"error: {said}", file=sys.stderr)
        raise SystemExit(2) from error


def configuration_arguments(specs: Sequence[SystemSpec], taken: set[str], title: str) -> type:
    """An argument group with the fields of the systems' configurations.

    Each is `None` by default, which means the system's own default; its help is the sentence of the configuration's
    docstring.

    Args:
        specs (`Sequence[SystemSpec]`): the systems; a field of several has the help of the first.
        taken (`set[str]`): fields that are left out, beside those of every transformers configuration.
        title (`str`): name and sentence of the group in `--help`.

    Returns:
        A dataclass for `parse_recipe_arguments`.
    """
    left_out = taken | {one.name for one in dataclasses.fields(PreTrainedConfig)}
    found: dict[str, tuple[Any, str]] = {}
    for spec in specs:
        config = spec.config_class()
        for one in dataclasses.fields(config):
            if one.name in left_out or one.name in found or one.name.startswith("_"):
                continue
            annotation: Any = one.type
            found[one.name] = (annotation | None, documented(config, one.name))
    group = dataclasses.make_dataclass(
        "ConfigurationArguments",
        [
            (name, annotation, field(default=None, metadata={"help": f"{text} none = the paper's."}))
            for name, (annotation, text) in found.items()
        ],
    )
    group.__doc__ = title
    return group


def documented(config: type, name: str) -> str:
    """What the docstring of a configuration says of one field, in one line.

    Args:
        config (`type`): the configuration class.
        name (`str`): the field.
    """
    lines = inspect.cleandoc(config.__doc__ or "").splitlines()
    for number, line in enumerate(lines):
        if re.match(rf"\s+{name} \(", line):
            text = [line.partition("):")[2]]
            depth = len(line) - len(line.lstrip())
            for more in lines[number + 1 :]:
                if not more.strip() or len(more) - len(more.lstrip()) <= depth:
                    break
                text.append(more)
            said = " ".join(" ".join(text).split())
            said = said[:1].upper() + said[1:]
            return said if said.endswith(".") else f"{said}."
    return ""


def prepare_output(args: Any, run: RunArguments) -> None:
    """Refuse to write into the folder of an earlier run, unless it is resumed or to be deleted.

    Args:
        args (`TrainingArguments`): `output_dir` and `resume_from_checkpoint` are read.
        run ([`RunArguments`]): the flags of the command.

    Raises:
        SystemExit: with code 2; the message says what to type.
    """
    hf_logging.disable_progress_bar()  # bars of loading and saving; training keeps its own
    if not torch.cuda.is_available():
        args.dataloader_pin_memory = False
    if not sys.stderr.isatty():
        args.disable_tqdm = True  # plain lines instead of a bar drawn over and over into a log
    folder = Path(args.output_dir)
    if run.dry_run or args.resume_from_checkpoint or not is_main_process():
        return
    if folder.is_dir() and any(folder.iterdir()):
        if not run.overwrite:
            print(
                f"error: {folder} holds an earlier run. Add --resume_from_checkpoint true to go on with it, --overwrite "
                "to delete it, or choose another --output_dir.",
                file=sys.stderr,
            )
            raise SystemExit(2)
        # one level down as well: a comparison that was interrupted in its first part has left only that
        places = [folder, *(path for path in folder.iterdir() if path.is_dir())]
        if not any(
            (place / name).exists() or any(place.glob("checkpoint-*")) for place in places for name in RUN_FILES
        ):
            print(f"error: {folder} is no folder of a run, so it is not deleted; choose another.", file=sys.stderr)
            raise SystemExit(2)
        import shutil

        shutil.rmtree(folder)


def base_model_of(model: Any) -> str | None:
    """The hub id that training started from (`model.backbone`), or `None` for a new backbone or a local folder."""
    return hub_id(model.backbone)


def hub_id(start: str) -> str | None:
    """What a training started from if that is on the hub; `None` for a model type (a new encoder) or a local folder.

    Args:
        start (`str`): as given on the command line.
    """
    return None if start in model_types() or Path(start).exists() else start


def model_types() -> set[str]:
    """Every `model_type` that transformers or this library can build."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return set(CONFIG_MAPPING.keys())


def machine() -> str:
    """What kind of machine this is, without its name."""
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{platform.system()} {platform.machine()}, {cores} CPU cores, {gpu}"


def command_line(public: bool = False, launcher: str = "accelerate launch") -> str:
    """The command of this run, ready to repeat.

    Args:
        public (`bool`, defaults to `False`): for cards: folders of this machine are shortened to their names, and the
            recipe's own files are named as in the repository.
        launcher (`str`, defaults to `"accelerate launch"`): what starts the file.
    """
    recipe = Path(sys.argv[0]).resolve().parent
    words = []
    for word in sys.argv:
        path = Path(word)
        if public and path.suffix in (".py", ".yaml", ".yml") and path.resolve().parent == recipe:
            word = f"recipes/{recipe.name}/{path.name}"
        elif public and path.is_absolute():
            word = path.name
        words.append(shlex.quote(word))
    return f"{launcher} {' '.join(words)}"


def check_choice(name: str, values: Sequence[str], known: Sequence[str] | Mapping[str, Any]) -> None:
    """Refuse unknown words in a list argument.

    Raises:
        SystemExit: with code 2; names what is known.
    """
    unknown = [value for value in values if value not in known]
    if unknown or not values:
        print(
            f"error: --{name} has {', '.join(unknown) or 'nothing'}; known are: {', '.join(known)}.", file=sys.stderr
        )
        raise SystemExit(2)


def train_or_load(trainer: Any, args: Any, processor: Any, *, final: bool) -> None:
    """Train one arm of a comparison; on resuming, a finished arm is loaded and an unfinished one continued.

    Args:
        trainer ([`ContrastiveTrainer`]): ready to train.
        args (`TrainingArguments`): of this arm.
        processor: image processor or tokenizer, saved with a finished arm.
        final (`bool`): whether this arm is saved by the caller.
    """
    folder = Path(args.output_dir)
    resume = resume_from(args)
    if resume and not final and (folder / "model.safetensors").is_file():
        say(f"{folder} is finished; its weights are used.")
        # straight into the model at hand: with adapters in it, a new one would have other names
        load_model(unwrap_model(trainer.model), str(folder / "model.safetensors"))
        return
    if resume is True and not any(folder.glob("checkpoint-*")):
        resume = None
    trainer.train(resume_from_checkpoint=resume)
    if not final and is_main_process():
        unwrap_model(trainer.model).save_pretrained(folder)
        processor.save_pretrained(folder)


def resume_from(args: Any) -> str | bool | None:
    """`resume_from_checkpoint` as `Trainer.train` takes it: the words true and last mean the newest checkpoint."""
    value = args.resume_from_checkpoint
    return True if str(value).lower() in ("true", "last", "yes") else value


def card_settings(trainer: Any) -> dict[str, Any]:
    """Settings of every run for its card."""
    args = trainer.args
    return {
        "steps": trainer.state.global_step,
        "batch size per device": args.per_device_train_batch_size,
        "processes": args.world_size,
        "learning rate": args.learning_rate,
        "schedule": str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)),
        "optimizer": str(getattr(args.optim, "value", args.optim)),
        "weight decay": args.weight_decay,
        "seed": args.seed,
    }


def dry_run(model: Any, inputs: Mapping[str, Any]) -> None:
    """One forward and backward on a small batch; prints every shape.

    Args:
        model: in any mode; put into training mode.
        inputs (`Mapping`): arguments of its `forward`, and `index`, which some models do not take.
    """
    accepted = inspect.signature(type(unwrap_model(model)).forward).parameters
    inputs = {name: value for name, value in inputs.items() if name != "index" or name in accepted}
    model.train()
    outputs = model(**inputs)
    outputs.loss.backward()
    lines = []
    for name, value in (*inputs.items(), *((f"outputs.{name}", value) for name, value in outputs.items())):
        shape = "x".join(map(str, value.shape)) or f"scalar {float(value.detach()):.4f}"
        lines.append({"tensor": name, "shape": shape})
    with_gradient = sum(parameter.grad is not None for parameter in unwrap_model(model).parameters())
    metrics_table(lines, title="dry run: one step on two rows")
    say(f"{with_gradient} parameter tensors got a gradient; nothing was written.")


def is_adapter(trainer: Any) -> bool:
    """Whether adapters are trained instead of the weights."""
    return hasattr(trainer.accelerator.unwrap_model(trainer.model), "peft_config")


def save_run(trainer: Any, processor: Any) -> Path:
    """Write the weights (or the adapter) and the processor to the run's folder (main process only).

    Args:
        trainer ([`ContrastiveTrainer`]): after training.
        processor: image processor or tokenizer.

    Returns:
        `Path`: the folder.
    """
    folder = Path(trainer.args.output_dir)
    if is_main_process():
        model = trainer.accelerator.unwrap_model(trainer.model)
        (model if is_adapter(trainer) else unwrap_model(model)).save_pretrained(folder)
        processor.save_pretrained(folder)
    return folder


def write_outcome(
    trainer: Any,
    spec: SystemSpec,
    *,
    about: Mapping[str, Any],
    metrics: Sequence[Metric],
    results: Mapping[str, Any],
    settings: Mapping[str, Any],
    started: float,
    base_model: str | None = None,
    **card_fields: Any,
) -> None:
    """Card and `all_results.json` beside the saved model.

    Args:
        trainer ([`ContrastiveTrainer`]): after training.
        spec ([`SystemSpec`]): the system.
        about (`Mapping`): of the data, for the card.
        metrics (`Sequence[Metric]`): what was measured.
        results (`Mapping`): the domain's own entries of `all_results.json`.
        settings (`Mapping`): the domain's own settings for the card.
        started (`float`): `time.time()` at the start.
        base_model (`str`, *optional*): hub id that the training started from.
        **card_fields: further arguments of `write_model_card`.
    """
    folder, seconds = Path(trainer.args.output_dir), time.time() - started
    training = {
        "data": dict(about),
        "settings": {**card_settings(trainer), **settings},
        "loss": loss_text(trainer),
        "command": command_line(public=True),
        "date": datetime.date.today().isoformat(),
        "hardware": machine(),
        "wall_time": seconds,
    }
    card: dict[str, Any] = {
        "spec": spec,
        "config": unwrap_model(trainer.model).config,
        "metrics": metrics,
        "training": training,
        "base_model": base_model,
        # what started from somebody's weights keeps their licence, which is not known here
        "licence": "unknown" if base_model else "apache-2.0",
        "is_adapter": is_adapter(trainer),
        **card_fields,
    }
    trainer.card_fields = card  # for the card of a push
    name = f"{spec.title} on {about['name']}"
    write_model_card(folder, model_name=name, log_history=trainer.state.log_history, **card)
    record = {
        "system": spec.slug,
        "seed": trainer.args.seed,
        "steps": trainer.state.global_step,
        "seconds": round(seconds, 1),
        "data": about["name"],
        "train_rows": about.get("rows"),
        "command": training["command"],
        "date": training["date"],
        "machine": training["hardware"],
        **results,
    }
    text = json.dumps(record, indent=2, sort_keys=True, default=float)
    (folder / "all_results.json").write_text(text + "\n", encoding="utf-8")


def can_draw() -> bool:
    """Whether matplotlib is there; says what to install when it is not."""
    found = importlib.util.find_spec("matplotlib") is not None
    if not found:
        say("no pictures were drawn: matplotlib is not installed; type: pip install 'hf-contrastive[plots]'")
    return found


def draw_run(folder: Path, **embeddings: Any) -> list[Path]:
    """The pictures that a run's folder has data for, in its `plots/`.

    Args:
        folder (`Path`): the run.
        **embeddings: of `save_embeddings`, left in the folder for the pictures; none = curves alone.

    Returns:
        `list[Path]`: what was written, with the CSV behind each.
    """
    plots = folder / "plots"
    plots.mkdir(parents=True, exist_ok=True)
    if embeddings:
        save_embeddings(folder, **embeddings)
    return [Path(picture.path) for picture in plot_run(folder, plots)]


def close_run(
    trainer: Any,
    *,
    metrics: Mapping[str, float],
    baseline: Mapping[str, float],
    draw: Callable[[], Sequence[Path]] | None = None,
    **shown: Any,
) -> None:
    """What every recipe ends with: pictures, the hub, the last lines with what to type next (main process only).

    Args:
        trainer ([`ContrastiveTrainer`]): after training, with checkpoint and card written.
        metrics, baseline (`Mapping[str, float]`): of the trained model, and the same of the untrained one.
        draw (`Callable`, *optional*): makes pictures and returns where they lie; none = none are wanted.
        **shown: further arguments of `final_report`, such as `commands`.
    """
    if draw is not None and can_draw():
        say(f"pictures: {', '.join(str(path) for path in draw())}")
    if trainer.args.push_to_hub:
        trainer.push_to_hub()
    say()
    say(final_report(trainer, metrics=metrics, baseline=baseline, command=command_line(), **shown))


def loss_text(trainer: Any) -> str:
    """The objective in one line."""
    return unwrap_model(trainer.model).describe_objective()
