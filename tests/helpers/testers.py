"""What the common suite must know about a model, and where it finds that for every row of the registry.

A system provides `tests/models/<slug>/tester_<slug>.py` with `TESTERS`: one `ModelTester` subclass for the system's own
model and one for each of its components. The backbones of the library have theirs in `tests/backbones/`.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModel

from hf_contrastive.registry import BACKBONES, REGISTRY, ModelSpec


TESTS = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Refusal:
    """A configuration that must be refused.

    Args:
        fields (`dict`): what is given to the configuration class.
        field (`str`): the field that the message must name; its value must be in the message too.
        allowed (`str`): a part of the sentence that says what is allowed.
    """

    fields: dict[str, Any]
    field: str
    allowed: str


class ModelTester:
    """Describes one model to the common suite; subclass it for every `ModelSpec` of a row."""

    #: the row's model that this class describes
    model_type: str = ""
    #: configurations that must be refused; every `validate_*` method has to appear
    refusals: tuple[Refusal, ...] = ()
    #: direct parts that `frozen_modules` may name
    can_freeze: tuple[str, ...] = ()
    #: whether LoRA adapters go on `model.backbone`
    lora: bool = False
    #: methods whose result for a row does not depend on the other rows, in eval mode
    batch_independent: tuple[str, ...] = ("encode",)
    #: the Auto class that opens the exported `backbone`
    backbone_auto_class: Any = AutoModel
    #: direct parts that only the class with the objective has (momentum encoders, queues, predictors)
    training_parts: tuple[str, ...] = ()
    #: trainable parameters that get no gradient, by design; name -> why
    without_gradient: dict[str, str] = {}

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec

    def parts_of(self, config: Any) -> tuple[str, ...]:
        """`training_parts` of a configuration; override it where they depend on one."""
        return self.training_parts

    def configs(self) -> dict[str, Any]:
        """Tiny configurations by name, with values that are not the defaults; one on each kind of backbone."""
        raise NotImplementedError

    def inputs(self, config: Any, batch: int, seed: int) -> dict[str, Any]:
        """Arguments of the objective's `forward` (or of the model's, when there is no objective)."""
        raise NotImplementedError

    def single_inputs(self, config: Any, batch: int, seed: int) -> dict[str, Any]:
        """Arguments of `encode` and of the inference model's `forward`."""
        raise NotImplementedError

    def readout_inputs(self, config: Any, batch: int, seed: int, readout: str) -> dict[str, Any]:
        """Arguments of `encode` for one readout, where it reads something else than the others."""
        return self.single_inputs(config, batch, seed)

    def fixed_draws(self, config: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        """What `forward` would draw at random, fixed, for comparisons of two passes."""
        from inspect import signature

        if (
            self.objective_class is not None
            and "noise" in signature(self.objective_class.forward).parameters
            and "noise" not in inputs
        ):
            return {"noise": torch.zeros_like(inputs["pixel_values"])}
        return {}

    def settle(self, model: Any) -> None:
        """Bring what a model derives from its weights up to date, where it does so on demand."""

    def output_shapes(self, config: Any, batch: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the inference model's outputs by name."""
        raise NotImplementedError

    def objective_shapes(self, config: Any, batch: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the objective's outputs by name, the loss included."""
        raise NotImplementedError

    def readout_sizes(self, config: Any) -> dict[str, int]:
        """Size of the embeddings of every readout, the default first."""
        raise NotImplementedError

    def backbone_features(self, backbone: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """What an exported backbone must give as before."""
        return backbone(**inputs).last_hidden_state

    def tower_inputs(self, config: Any, part: str) -> dict[str, Any]:
        """What one encoder of a model with several takes."""
        return self.single_inputs(config, 4, 0)

    def backbone_fields(self, config: Any) -> dict[str, Any]:
        """Fields of the configuration that `from_backbone` needs besides the backbone."""
        return {"projection_dims": config.projection_dims, "pooling": config.pooling}

    # what follows is derived and rarely needs another form

    @property
    def model_class(self) -> Any:
        """The inference class."""
        return self.spec.model_class()

    @property
    def objective_class(self) -> Any:
        """The class whose `forward` returns a loss, or `None`."""
        if self.spec.pretraining is not None:
            return self.spec.pretraining_class()
        from hf_contrastive.modeling_utils import ContrastivePreTrainedModel

        own = self.model_class.compute_objective is not ContrastivePreTrainedModel.compute_objective
        return self.model_class if own else None

    @property
    def classes(self) -> list[Any]:
        """Both classes, without repetition."""
        return list(dict.fromkeys(c for c in (self.model_class, self.objective_class) if c is not None))

    def build(self, model_class: Any, config: Any, seed: int = 0) -> Any:
        """A model with seeded weights and running statistics that are not those of a new model."""
        torch.manual_seed(seed)
        model = model_class(type(config).from_dict(config.to_dict()))
        generator = torch.Generator().manual_seed(seed + 1)
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
        return model


@dataclass(frozen=True)
class Case:
    """One model in one configuration."""

    tester: ModelTester
    config_name: str

    def __str__(self) -> str:
        return f"{self.tester.model_type}-{self.config_name}"

    @property
    def config(self) -> Any:
        """A new copy of the configuration."""
        return self.tester.configs()[self.config_name]

    def model(self, seed: int = 0) -> Any:
        """A new inference model."""
        return self.tester.build(self.tester.model_class, self.config, seed)

    def objective(self, seed: int = 0) -> Any:
        """A new model with the objective."""
        return self.tester.build(self.tester.objective_class, self.config, seed)

    def inference_state(self, model: Any) -> dict[str, torch.Tensor]:
        """The tensors of a model, without those that only the class with the objective has."""
        parts = tuple(f"{name}." for name in self.tester.parts_of(self.config))
        return {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(parts)}

    def inputs(self, batch: int = 4, seed: int = 0) -> dict[str, Any]:
        """Arguments of the objective."""
        return self.tester.inputs(self.config, batch, seed)

    def single_inputs(self, batch: int = 4, seed: int = 0) -> dict[str, Any]:
        """Arguments of `encode`."""
        return self.tester.single_inputs(self.config, batch, seed)

    def readout_inputs(self, readout: str, batch: int = 4, seed: int = 0) -> dict[str, Any]:
        """Arguments of `encode` for one readout."""
        return self.tester.readout_inputs(self.config, batch, seed, readout)

    def fixed_draws(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Random draws of `forward`, fixed."""
        return self.tester.fixed_draws(self.config, inputs)


def _load(path: Path) -> dict[str, type[ModelTester]]:
    if not path.is_file():
        return {}
    name = f"_testers_{path.stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return {tester.model_type: tester for tester in sys.modules[name].TESTERS}


def rows() -> list[tuple[str, Path, ModelSpec]]:
    """Every model of the registry: the name of its row, the file of its tester, and its spec."""
    backbones = [("backbones", TESTS / "backbones" / "tester_backbones.py", spec) for spec in BACKBONES]
    systems = [
        (row.slug, TESTS / "models" / row.slug / f"tester_{row.slug}.py", spec)
        for row in REGISTRY.values()
        for spec in row.models
    ]
    return [*systems, *backbones]


def missing_tester(slug: str, path: Path, spec: ModelSpec) -> str | None:
    """What to write for a row that has no tester, or `None` when it has one."""
    if spec.model_type in _load(path):
        return None
    return (
        f"the registry row {slug!r} has no tester for the model type {spec.model_type!r}: write "
        f"{path.relative_to(TESTS.parent).as_posix()} with `class {spec.config_class().__name__[: -len('Config')]}Tester"
        f"(ModelTester)`, model_type = {spec.model_type!r}, and put it into the tuple TESTERS; ModelTester in "
        "tests/helpers/testers.py says what each member means, tests/models/simclr/tester_simclr.py is an example."
    )


@lru_cache
def cases() -> list[Case]:
    """All cases of the common suite."""
    found = []
    for _, path, spec in rows():
        tester_class = _load(path).get(spec.model_type)
        if tester_class is not None:
            tester = tester_class(spec)
            found += [Case(tester, name) for name in tester.configs()]
    return found


def find_case(name: str) -> Case:
    """The case with this name, for helpers that run in another process."""
    return next(case for case in cases() if str(case) == name)


def image_backbones() -> dict[str, Any]:
    """Tiny configurations of vision backbones: the library's own and native ones of transformers."""
    from transformers import ResNetConfig, ViTConfig

    from hf_contrastive import CifarResNetConfig, ConvEncoderConfig

    return {
        "conv_encoder": ConvEncoderConfig(channels=[8, 12]),
        "cifar_resnet": CifarResNetConfig(
            stem_channels=4, widths=[4, 6], expansions=[2, 2], strides=[1, 2], num_identity_blocks=[1, 0]
        ),
        "resnet": ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"),
        "vit": ViTConfig(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            image_size=16,
            patch_size=4,
            # with the usual 0.02 the class token of so small a network hardly depends on the image
            initializer_range=0.2,
        ),
    }


def random_images(*shape: int, seed: int) -> torch.Tensor:
    """Images in [0, 1] that differ clearly from each other."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(*shape, generator=generator)
    level = torch.rand(*shape[:-3], 1, 1, 1, generator=generator)
    return (0.6 * images + 0.4 * level).contiguous()


def max_difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """Largest difference over all tensors of the same names; infinite when the names differ."""
    if set(first) != set(second):
        return float("inf")
    return max(
        (
            float((first[n].detach().double() - second[n].detach().double()).abs().max())
            for n in first
            if first[n].numel()
        ),
        default=0.0,
    )
