"""The base class of every model of the library, and the few things all of them need."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar, get_type_hints

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init

from hf_contrastive.configuration_utils import blank_local_paths
from hf_contrastive.modules.training_state import TrainingState
from hf_contrastive.utils import evaluation_mode


class ContrastivePreTrainedModel(PreTrainedModel):
    """Base of all models: what a trainer, an evaluation and the hub may rely on.

    A pre-training model splits its `forward` in two, so that a big batch can be embedded in chunks (gradient cache)
    and the objective still sees all of it:

    - `embed_views(**view_inputs)` does the learnable work per sample and returns tensors with the batch first,
    - `compute_objective(embeds, **other_inputs)` computes the loss over the whole (gathered) batch.

    `encode` gives the embeddings a user wants, whatever the domain. `before_optimizer_step` and `after_optimizer_step` do
    what has to run around each real optimiser step (momentum encoders, queues, prototypes); a callback of the library
    calls them, and a plain PyTorch loop can call them just as well.
    """

    # Trainer would otherwise believe that the model divides by the number of accumulated items itself.
    accepts_loss_kwargs = False
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True

    #: names of the `forward` arguments that go to `embed_views`; the others go to `compute_objective`
    view_inputs: ClassVar[tuple[str, ...]] = ()
    #: names of the inputs that `encode` gets where rows of a dataset are embedded; all of `view_inputs` where there are none
    encode_inputs: ClassVar[tuple[str, ...]] = ()
    #: the objective in one line, for batch report and card; `{field}` stands for a field of the configuration
    objective_formula: ClassVar[str] = ""
    #: whether other rows of the batch are negatives; batch report, monitors and hints of the trainer depend on it
    has_negatives: ClassVar[bool] = True
    #: the direct parts that are encoders of transformers' kind: adapters go on them, and they can be exported alone
    towers: ClassVar[tuple[str, ...]] = ("backbone",)
    #: names that `encode(readout=...)` takes; the first is the default
    readouts: tuple[str, ...] = ("backbone",)
    #: share of the training that is done, from 0 to 1, for schedules inside the model; the trainer keeps it up to date
    training_progress: float = 0.0

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # transformers takes the annotation `config: XConfig` as it is, a string under postponed evaluation
        if isinstance(cls.config_class, str):
            cls.config_class = get_type_hints(cls)["config"]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a checkpoint of this system from a folder or the hub; see `transformers.PreTrainedModel.from_pretrained`.

        Differences: only safetensors are read (nothing is ever unpickled), frozen parts are frozen again, and a
        checkpoint of another system is refused by name.

        Raises:
            ValueError: the checkpoint belongs to another system, or holds only pickled weights.
        """
        from hf_contrastive.hub.loading import check_checkpoint

        kwargs["use_safetensors"] = True
        if kwargs.get("config") is None and pretrained_model_name_or_path is not None:
            check_checkpoint(
                pretrained_model_name_or_path, expected=cls.config_class.model_type, **_hub_options(kwargs)
            )
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model._freeze()
        return loaded

    def save_pretrained(self, save_directory: Any, *args: Any, save_memory: bool = True, **kwargs: Any) -> None:
        """Save config and weights; the folder is complete or untouched, and holds no local path.

        Args:
            save_directory (`str` or `Path`): target folder.
            save_memory (`bool`, defaults to `True`): also write queues and memory banks, which training needs to go on and
                which can be larger than the model.
            *args, **kwargs: as `transformers.PreTrainedModel.save_pretrained`.

        Raises:
            OSError: the save failed (disk full, no permission); an earlier checkpoint in the folder is still there.
        """
        from hf_contrastive.hub.atomic import atomic_folder

        if kwargs.get("is_main_process", True) is False:
            return
        push = kwargs.pop("push_to_hub", False)
        if push:
            raise ValueError("`save_pretrained(push_to_hub=True)` is not offered; call `model.push_to_hub(repo_id)`.")
        blank_local_paths(self.config)
        if not save_memory:
            state = kwargs.pop("state_dict", None)
            state = self.state_dict() if state is None else state
            memory = tuple(f"{name}." for name, part in self.training_state() if part.is_memory)
            kwargs["state_dict"] = {name: tensor for name, tensor in state.items() if not name.startswith(memory)}
        # transformers writes the tensors of some backbones (ViT) under older names, which `load_state_dict`, and so
        # the Trainer when it resumes, does not find
        kwargs.setdefault("save_original_format", False)
        with atomic_folder(Path(save_directory)) as folder:
            super().save_pretrained(folder, *args, **kwargs)
            self.write_extra_files(folder)

    def write_extra_files(self, folder: Path) -> None:
        """What a model keeps beside its weights; the folder is moved into place when all is written.

        Args:
            folder (`Path`): where config and weights lie.
        """

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> Any:
        """Upload config, weights and a model card to the hub; see `hf_contrastive.hub.push_to_hub` for arguments."""
        from hf_contrastive.hub import push_to_hub

        return push_to_hub(self, repo_id, **kwargs)

    def post_init(self) -> None:
        """Initialise weights, then freeze what the configuration says is frozen."""
        super().post_init()
        self._freeze()
        # every process writes the same rows into them; DistributedDataParallel would send them around at every step
        self._ddp_params_and_buffers_to_ignore = [
            f"{name}.{buffer}"
            for name, part in self.training_state()
            if part.is_memory
            for buffer, _ in part.named_buffers()
        ]

    @classmethod
    def is_custom_code(cls) -> bool:
        """Tells transformers that `_init_weights` leaves loaded tensors alone (it uses `transformers.initialization`).

        Otherwise a module without parameters of its own is never asked for them while loading, in backbones either: GPT-2
        scales the last layers of its blocks there.
        """
        return False

    def _frozen(self) -> list[nn.Module]:
        modules = []
        for name in getattr(self.config, "frozen_modules", None) or []:
            module = dict(self.named_children()).get(name)
            if module is None:
                raise ValueError(
                    f"`frozen_modules` names {name!r}, but the parts of {type(self).__name__} are: "
                    f"{', '.join(name for name, _ in self.named_children())}."
                )
            modules.append(module)
        return modules

    def _freeze(self) -> None:
        # `requires_grad=False` set while constructing is lost by `from_pretrained`, so this runs again after loading.
        for module in self._frozen():
            module.requires_grad_(False)
            module.eval()
        for _, part in self.training_state():
            part.requires_grad_(False)

    def training_state(self) -> list[tuple[str, TrainingState]]:
        """The direct parts that only training needs, by name."""
        return [(name, part) for name, part in self.named_children() if isinstance(part, TrainingState)]

    def train(self, mode: bool = True) -> ContrastivePreTrainedModel:
        """Switch to training mode; frozen parts stay in eval mode, so that their statistics do not move."""
        super().train(mode)
        for module in self._frozen():
            module.eval()
        return self

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Linear):
            # torch's own default, which heads of the reference implementations rely on; transformers' normal(0, 0.02)
            # shrinks the projections of a deep head.
            init_linear_like_torch(module)
        init_state: Any = getattr(module, "init_state", None)
        if init_state is not None:
            init_state(self)

    def embed_views(self, **view_inputs: Any) -> dict[str, torch.Tensor]:
        """Embed every view of every sample; returns tensors with the batch first."""
        raise NotImplementedError(f"{type(self).__name__} has no objective; use its ForPreTraining class to train.")

    def compute_objective(self, embeds: dict[str, torch.Tensor], **other_inputs: Any) -> Any:
        """The objective over a whole batch of embeddings; returns a `ModelOutput` with `loss`."""
        raise NotImplementedError(f"{type(self).__name__} has no objective; use its ForPreTraining class to train.")

    def describe_objective(self) -> str:
        """`objective_formula` with the values of this model's configuration."""
        return self.objective_formula.format(**{name: getattr(self.config, name) for name in self.config.to_dict()})

    def before_optimizer_step(self) -> None:
        """What has to happen between the backward pass and each real optimiser step: that of every direct part."""
        for part in self.children():
            hook: Any = getattr(part, "before_step", None)
            if hook is not None:
                hook(self)

    def after_optimizer_step(self) -> None:
        """What has to happen after each real optimiser step: that of every direct part, in their order."""
        for part in self.children():
            hook: Any = getattr(part, "after_step", None)
            if hook is not None:
                hook(self)

    def _embed_for_encode(self, *args: Any, readout: str, **kwargs: Any) -> torch.Tensor:
        raise NotImplementedError

    @torch.no_grad()
    def encode(
        self, *inputs: torch.Tensor, readout: str | None = None, normalize: bool = False, **named: torch.Tensor
    ) -> torch.Tensor:
        """Embeddings for downstream use: eval mode, no gradient, one row per sample.

        Args:
            *inputs, **named (`torch.Tensor`): the model's main input, for images `pixel_values`
                `[batch, channels, height, width]`.
            readout (`str`, *optional*): where to read, one of `self.readouts`; the first one by default.
            normalize (`bool`, defaults to `False`): scale every row to length 1.

        Returns:
            `torch.Tensor` `[batch, dim]`.

        Raises:
            ValueError: unknown readout.

        Example:

        ```python
        >>> import torch
        >>> from hf_contrastive import ConvEncoderConfig, SimCLRConfig, SimCLRModel
        >>> config = SimCLRConfig(backbone_config=ConvEncoderConfig(channels=[8, 16]), projection_dims=[16, 8])
        >>> SimCLRModel(config).encode(torch.rand(3, 3, 32, 32)).shape
        torch.Size([3, 16])

        ```
        """
        readout = self.readouts[0] if readout is None else readout
        if readout not in self.readouts:
            raise ValueError(f"`readout` is {readout!r}; {type(self).__name__} offers: {', '.join(self.readouts)}.")
        with evaluation_mode(self):
            embeds = self._embed_for_encode(*inputs, readout=readout, **named)
        return nn.functional.normalize(embeds, dim=-1) if normalize else embeds


def _hub_options(kwargs: dict[str, Any]) -> dict[str, Any]:
    names = ("revision", "token", "cache_dir", "subfolder", "local_files_only")
    return {name: kwargs[name] for name in names if kwargs.get(name) is not None}


def init_linear_like_torch(module: nn.Linear) -> None:
    """`torch.nn.Linear.reset_parameters` with functions that leave loaded tensors alone."""
    init.kaiming_uniform_(module.weight, a=math.sqrt(5))
    if module.bias is not None:
        bound = 1 / math.sqrt(module.in_features) if module.in_features > 0 else 0
        init.uniform_(module.bias, -bound, bound)
