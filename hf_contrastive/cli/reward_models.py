"""Reward models on the command line: loading, options and messages that `score` and `filter` share."""

from __future__ import annotations

import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from hf_contrastive.cli.common import CliError, WrongUsage, quiet_libraries
from hf_contrastive.cli.evaluate import PROTOCOL, SPEED


DTYPES = ("auto", "float32", "bfloat16", "float16")
#: characters of an answer that are shown in a table
WIDTH = 60
MODEL_TYPE = "gcrm"
_NAMES = (
    "split|name|test_fraction|max_samples|on_empty|max_length|prompt_column|chosen_column|rejected_column|answer_column"
    "|label_column|as_chat|max_new_tokens|num_samples|threshold|skip_tokens|temperature|top_k|top_p"
)
_ARGUMENT = re.compile(rf"\b(?P<assigned>{_NAMES})=(?:'(?P<value>[^']*)')?|`(?P<quoted>{_NAMES})`")

Threshold = Annotated[
    float,
    typer.Option(min=-1, max=1, help="The filter stops an answer whose Q-value is lower.", rich_help_panel=PROTOCOL),
]
SkipTokens = Annotated[
    int, typer.Option(min=0, help="First tokens of an answer that are not filtered by.", rich_help_panel=PROTOCOL)
]
Dtype = Annotated[str, typer.Option(help=f"{', '.join(DTYPES[:-1])} or {DTYPES[-1]}.", rich_help_panel=SPEED)]


@dataclass
class RewardModel:
    """A loaded reward model, its tokenizer, and the name that may be written down."""

    model: Any
    tokenizer: Any
    name: str

    @property
    def has_goal(self) -> bool:
        """Whether there are Q-values."""
        return self.model.goal_state is not None


def load_reward_model(checkpoint: str, device: str = "auto", dtype: str = "auto") -> RewardModel:
    """Load a goal-conditioned reward model and its tokenizer.

    Args:
        checkpoint (`str`): folder or hub id; also the folder of an adapter with `language_model/` in it, as the recipe
            leaves it.
        device, dtype (`str`): as `--device` and `--dtype`.

    Raises:
        WrongUsage: an unknown type of numbers.
        CliError: another model, an adapter without its base, no tokenizer, missing weights.
        OSError, ValueError: what `check_checkpoint` found wrong.
    """
    if dtype not in DTYPES:
        raise WrongUsage(f"--dtype is {dtype!r}; type {', '.join(DTYPES[:-1])} or {DTYPES[-1]}.")

    from transformers import AutoTokenizer

    from hf_contrastive.cli.checkpoints import look_at, pick_device, public_name
    from hf_contrastive.models.gcrm.modeling_gcrm import GoalConditionedRewardModel

    target = pick_device(device)
    checkpoint = os.path.expanduser(checkpoint)
    info = look_at(checkpoint)
    if not info.is_adapter and info.model_type != MODEL_TYPE:
        kind = f"a {info.model_type!r} model" if info.model_type else "a model without a model_type"
        raise CliError(
            f"{checkpoint} is {kind}, not a goal-conditioned reward model ({MODEL_TYPE!r}); give a folder that such a training "
            f"wrote. To train one from a language model, type: hf-contrastive train {MODEL_TYPE} --help."
        )
    with quiet_libraries(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint)
        except (OSError, ValueError) as error:
            raise CliError(
                f"{checkpoint} has no tokenizer that can be loaded, so texts cannot be read. The recipe saves it beside the "
                "weights; to add that of the language model it was trained from, type: python -c 'from transformers import "
                f'AutoTokenizer; AutoTokenizer.from_pretrained("BASE").save_pretrained("{checkpoint}")\'.'
            ) from error
        if info.is_adapter:
            model = _load_adapter(checkpoint, info)
            model = model if dtype == "auto" else model.to(dtype=_dtype(dtype))
        else:
            model, loaded = GoalConditionedRewardModel.from_pretrained(
                checkpoint, dtype=dtype, use_safetensors=True, output_loading_info=True
            )
            missing = sorted(key for key in loaded["missing_keys"] if not key.startswith("goal."))
            if missing:
                raise CliError(
                    f"{checkpoint} lacks {len(missing)} weights of the model, the first is {missing[0]!r}; drawn at random, they "
                    "would give meaningless rewards. Take another checkpoint."
                )
    return RewardModel(model.eval().to(target), tokenizer, public_name(checkpoint))


def _dtype(name: str) -> Any:
    import torch

    return getattr(torch, name)


def _load_adapter(folder: str, info: Any) -> Any:
    """The adapter merged into the language model beside it; refuses, with the commands, where there is none."""
    from peft import PeftModel
    from safetensors import safe_open

    from hf_contrastive.models.gcrm.modeling_gcrm import GoalConditionedRewardModel

    base, head = Path(folder) / "language_model", "linear"
    for file in info.weights:
        with safe_open(Path(folder) / file, "pt") as weights:
            if any("value_head.layers.1." in key for key in weights.keys()):  # noqa: SIM118 (no mapping)
                head = "mlp"
    if not (base / "config.json").is_file():
        option = "" if head == "linear" else f', value_head="{head}"'
        raise CliError(
            f"{folder} is an adapter, and the language model that it was trained on is not beside it (as "
            f"{base}). Merge them once, with BASE replaced by its folder or hub id: python -c 'from "
            "hf_contrastive import GoalConditionedRewardModel as M; from peft import PeftModel; from transformers import "
            f'AutoTokenizer; PeftModel.from_pretrained(M.from_backbone("{info.base_model or "BASE"}"{option}), "{folder}")'
            f'.merge_and_unload().save_pretrained("{folder}/merged"); AutoTokenizer.from_pretrained("{folder}")'
            f'.save_pretrained("{folder}/merged")\'. Then give {folder}/merged.'
        )
    built = GoalConditionedRewardModel.from_backbone(base, value_head=head)
    try:
        return PeftModel.from_pretrained(built, folder).merge_and_unload()
    except (RuntimeError, ValueError) as error:
        raise CliError(f"the adapter {folder} does not fit the language model in {base}: {error}") from error


def as_typed(text: str) -> str:
    """A message of the library with the options of the command line in it."""

    def option(match: re.Match[str]) -> str:
        name = "--" + (match["assigned"] or match["quoted"]).replace("_", "-")
        return name + (" " if match["assigned"] else "") + (match["value"] or "")

    return _ARGUMENT.sub(option, text)


def first_words(text: str, width: int = WIDTH) -> str:
    """The start of a text as one line."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 3].rstrip() + "..."


def tell_no_goal(reward: RewardModel) -> str:
    """What to say, and to type, when a reward model stores no goal."""
    return (
        f"{reward.name} stores no goal state, so there are no Q-values. The recipe stores one; to add it from answers that "
        "are as wanted, type: python -c 'from hf_contrastive import GoalConditionedRewardModel as M; m = "
        'M.from_pretrained("FOLDER"); m.set_goal_state(m.goal_state_from_texts(["a prompt"], ["a good answer"])); '
        'm.save_pretrained("FOLDER")\''
    )
