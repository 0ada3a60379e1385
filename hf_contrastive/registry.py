"""The table of systems: one row each. README table, cards, command line and the common tests are made from it.

The module imports neither torch nor transformers: rows name classes as `module:Class` strings that are resolved on
demand.
"""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass
from typing import Any


def _resolve(reference: str) -> Any:
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


@dataclass(frozen=True)
class ModelSpec:
    """A configuration and its model that transformers' Auto classes should know, by reference.

    Args:
        model_type (`str`): the `model_type` written to `config.json`.
        config (`str`): `module:Class` of the configuration.
        model (`str`): `module:Class` that `AutoModel` builds.
        pretraining (`str`, *optional*): `module:Class` that `AutoModelForPreTraining` builds.
        causal_lm (`bool`, defaults to `False`): `AutoModelForCausalLM` builds `model` too.
        reward_model (`bool`, defaults to `False`): `AutoModelForSequenceClassification` builds `model` too, as reward models
            are loaded.
    """

    model_type: str
    config: str
    model: str
    pretraining: str | None = None
    causal_lm: bool = False
    reward_model: bool = False

    def config_class(self) -> Any:
        """The configuration class."""
        return _resolve(self.config)

    def model_class(self) -> Any:
        """The class behind `AutoModel`."""
        return _resolve(self.model)

    def pretraining_class(self) -> Any:
        """The class behind `AutoModelForPreTraining`, or `None`."""
        return None if self.pretraining is None else _resolve(self.pretraining)


@dataclass(frozen=True)
class SystemSpec:
    """One published system: where its classes live, what it is for, and where it comes from.

    Args:
        slug (`str`): short name; also the folder under `models/`, `recipes/` and the card's file name.
        title (`str`): name as written in text.
        main (`ModelSpec`): the system's own config, model and pre-training model.
        components (`tuple[ModelSpec, ...]`): further models of the system's room that have a config of their own.
        domain (`str`): kind of data, for example `"image"`.
        task (`str`): what it is trained for.
        summary (`str`): one sentence a newcomer understands.
        main_input (`str`): name of the model input that holds the data.
        column (`str`): dataset column the data comes from.
        paper_title, paper_url, year, bibtex: the source.
        status (`str`): `"ready"` (parity, recipe, card) or `"experimental"`.
        tags (`tuple[str, ...]`): hub tags beyond the common ones.
        pipeline_tag (`str`): the hub task of a trained checkpoint.
        default_settings (`str`): the recipe's YAML that needs no download.
    """

    slug: str
    title: str
    main: ModelSpec
    domain: str
    task: str
    summary: str
    main_input: str
    column: str
    paper_title: str
    paper_url: str
    year: int
    bibtex: str
    components: tuple[ModelSpec, ...] = ()
    status: str = "ready"
    tags: tuple[str, ...] = ()
    pipeline_tag: str | None = None
    default_settings: str = "digits.yaml"

    @property
    def model_type(self) -> str:
        """`model_type` of the system's configuration."""
        return self.main.model_type

    @property
    def models(self) -> tuple[ModelSpec, ...]:
        """The main model and all components."""
        return (self.main, *self.components)

    @property
    def recipe(self) -> str:
        """Folder of the recipe, relative to the repository."""
        return f"recipes/{self.slug}"

    @property
    def card(self) -> str:
        """File of the model card, relative to the repository."""
        return f"model_cards/{self.slug}.md"

    def config_class(self) -> Any:
        """The system's configuration class."""
        return self.main.config_class()

    def model_class(self) -> Any:
        """The system's inference class."""
        return self.main.model_class()

    def pretraining_class(self) -> Any:
        """The system's class with the objective; some have one class for both."""
        return self.main.pretraining_class() or self.model_class()


_MODELS = "hf_contrastive.models"
_BACKBONES = "hf_contrastive.backbones"

# Small backbones that ship with the library; systems take any AutoModel of their modality, these included.
BACKBONES: tuple[ModelSpec, ...] = (
    ModelSpec(
        "conv_encoder",
        f"{_BACKBONES}.configuration_backbones:ConvEncoderConfig",
        f"{_BACKBONES}.modeling_backbones:ConvEncoderModel",
    ),
    ModelSpec(
        "cifar_resnet",
        f"{_BACKBONES}.configuration_backbones:CifarResNetConfig",
        f"{_BACKBONES}.modeling_backbones:CifarResNetModel",
    ),
    ModelSpec(
        "small_alexnet",
        f"{_BACKBONES}.configuration_backbones:SmallAlexNetConfig",
        f"{_BACKBONES}.modeling_backbones:SmallAlexNetModel",
    ),
)

_ROWS = (
    SystemSpec(
        slug="simclr",
        title="SimCLR",
        main=ModelSpec(
            "simclr",
            f"{_MODELS}.simclr.configuration_simclr:SimCLRConfig",
            f"{_MODELS}.simclr.modeling_simclr:SimCLRModel",
            f"{_MODELS}.simclr.modeling_simclr:SimCLRForPreTraining",
        ),
        domain="image",
        task="self-supervised pre-training",
        summary="Learns image features by making two random views of one image agree and those of different images differ.",
        main_input="pixel_values",
        column="image",
        paper_title="A Simple Framework for Contrastive Learning of Visual Representations",
        paper_url="https://arxiv.org/abs/2002.05709",
        year=2020,
        bibtex="""@inproceedings{chen2020simclr,
  title={A Simple Framework for Contrastive Learning of Visual Representations},
  author={Chen, Ting and Kornblith, Simon and Norouzi, Mohammad and Hinton, Geoffrey},
  booktitle={International Conference on Machine Learning},
  year={2020}
}""",
        tags=("self-supervised-learning", "simclr"),
        pipeline_tag="image-feature-extraction",
    ),
    SystemSpec(
        slug="gsimclr",
        title="G-SimCLR",
        main=ModelSpec(
            "gsimclr",
            f"{_MODELS}.gsimclr.configuration_gsimclr:GSimCLRConfig",
            f"{_MODELS}.gsimclr.modeling_gsimclr:GSimCLRModel",
            f"{_MODELS}.gsimclr.modeling_gsimclr:GSimCLRForPreTraining",
        ),
        components=(
            ModelSpec(
                "denoising_autoencoder",
                f"{_MODELS}.gsimclr.configuration_gsimclr:DenoisingAutoencoderConfig",
                f"{_MODELS}.gsimclr.modeling_gsimclr:DenoisingAutoencoderModel",
            ),
        ),
        domain="image",
        task="self-supervised pre-training",
        summary="SimCLR for small batches: pseudo-labels keep images of the same cluster out of one batch.",
        main_input="pixel_values",
        column="image",
        paper_title="G-SimCLR: Self-Supervised Contrastive Learning with Guided Projection via Pseudo Labelling",
        paper_url="https://arxiv.org/abs/2009.12007",
        year=2020,
        bibtex="""@inproceedings{chakraborty2020gsimclr,
  title={G-SimCLR: Self-Supervised Contrastive Learning with Guided Projection via Pseudo Labelling},
  author={Chakraborty, Souradip and Gosthipaty, Aritra Roy and Paul, Sayak},
  booktitle={International Conference on Data Mining Workshops},
  year={2020}
}""",
        tags=("self-supervised-learning", "gsimclr", "simclr"),
        pipeline_tag="image-feature-extraction",
    ),
    SystemSpec(
        slug="moco",
        title="MoCo v2",
        main=ModelSpec(
            "moco",
            f"{_MODELS}.moco.configuration_moco:MoCoConfig",
            f"{_MODELS}.moco.modeling_moco:MoCoModel",
            f"{_MODELS}.moco.modeling_moco:MoCoForPreTraining",
        ),
        domain="image",
        task="self-supervised pre-training",
        summary="Learns image features with small batches: a queue of past views, from a slowly moving encoder, are the negatives.",
        main_input="pixel_values",
        column="image",
        paper_title="Improved Baselines with Momentum Contrastive Learning",
        paper_url="https://arxiv.org/abs/2003.04297",
        year=2020,
        bibtex="""@article{chen2020mocov2,
  title={Improved Baselines with Momentum Contrastive Learning},
  author={Chen, Xinlei and Fan, Haoqi and Girshick, Ross and He, Kaiming},
  journal={arXiv preprint arXiv:2003.04297},
  year={2020}
}""",
        tags=("self-supervised-learning", "moco"),
        pipeline_tag="image-feature-extraction",
    ),
    SystemSpec(
        slug="cacr",
        title="CACR",
        main=ModelSpec(
            "cacr",
            f"{_MODELS}.cacr.configuration_cacr:CACRConfig",
            f"{_MODELS}.cacr.modeling_cacr:CACRModel",
            f"{_MODELS}.cacr.modeling_cacr:CACRForPreTraining",
        ),
        domain="image",
        task="self-supervised pre-training",
        summary="Learns image features from several views: far positives attract more, close negatives repel more.",
        main_input="pixel_values",
        column="image",
        paper_title="Contrastive Attraction and Contrastive Repulsion for Representation Learning",
        paper_url="https://arxiv.org/abs/2105.03746",
        year=2023,
        bibtex="""@article{zheng2023cacr,
  title={Contrastive Attraction and Contrastive Repulsion for Representation Learning},
  author={Zheng, Huangjie and Chen, Xu and Yao, Jiangchao and Yang, Hongxia and Li, Chunyuan and Zhang, Ya and Zhang, Hao and Tsang, Ivor and Zhou, Jingren and Zhou, Mingyuan},
  journal={Transactions on Machine Learning Research},
  year={2023}
}""",
        tags=("self-supervised-learning", "cacr"),
        pipeline_tag="image-feature-extraction",
    ),
    SystemSpec(
        slug="swav",
        title="SwAV",
        main=ModelSpec(
            "swav",
            f"{_MODELS}.swav.configuration_swav:SwAVConfig",
            f"{_MODELS}.swav.modeling_swav:SwAVModel",
            f"{_MODELS}.swav.modeling_swav:SwAVForPreTraining",
        ),
        domain="image",
        task="self-supervised pre-training",
        summary="Learns image features without negatives: views predict each other's assignment to prototypes.",
        main_input="pixel_values",
        column="image",
        paper_title="Unsupervised Learning of Visual Features by Contrasting Cluster Assignments",
        paper_url="https://arxiv.org/abs/2006.09882",
        year=2020,
        bibtex="""@inproceedings{caron2020swav,
  title={Unsupervised Learning of Visual Features by Contrasting Cluster Assignments},
  author={Caron, Mathilde and Misra, Ishan and Mairal, Julien and Goyal, Priya and Bojanowski, Piotr and Joulin, Armand},
  booktitle={Advances in Neural Information Processing Systems},
  year={2020}
}""",
        tags=("self-supervised-learning", "swav"),
        pipeline_tag="image-feature-extraction",
    ),
    SystemSpec(
        slug="simctg",
        title="SimCTG",
        main=ModelSpec(
            "simctg",
            f"{_MODELS}.simctg.configuration_simctg:SimCTGConfig",
            f"{_MODELS}.simctg.modeling_simctg:SimCTGForCausalLM",
            causal_lm=True,
        ),
        domain="text",
        task="language modelling",
        summary="Trains any language model so that the hidden states of different tokens differ, for contrastive search.",
        main_input="input_ids",
        column="text",
        paper_title="A Contrastive Framework for Neural Text Generation",
        paper_url="https://arxiv.org/abs/2202.06417",
        year=2022,
        bibtex="""@inproceedings{su2022simctg,
  title={A Contrastive Framework for Neural Text Generation},
  author={Su, Yixuan and Lan, Tian and Wang, Yan and Yogatama, Dani and Kong, Lingpeng and Collier, Nigel},
  booktitle={Advances in Neural Information Processing Systems},
  year={2022}
}""",
        tags=("text-generation", "simctg", "contrastive-search"),
        pipeline_tag="text-generation",
        default_settings="topics.yaml",
    ),
    SystemSpec(
        slug="gcrm",
        title="Goal-conditioned reward model",
        main=ModelSpec(
            "gcrm",
            f"{_MODELS}.gcrm.configuration_gcrm:GoalConditionedRewardConfig",
            f"{_MODELS}.gcrm.modeling_gcrm:GoalConditionedRewardModel",
            reward_model=True,
        ),
        domain="preference",
        task="reward modelling",
        summary="Scores answers, and tells for every prefix of an answer how likely it is to end well.",
        main_input="input_ids",
        column="prompt, chosen, rejected",
        paper_title="Learning Goal-Conditioned Representations for Language Reward Models",
        paper_url="https://arxiv.org/abs/2407.13887",
        year=2024,
        bibtex="""@inproceedings{nath2024gcrm,
  title={Learning Goal-Conditioned Representations for Language Reward Models},
  author={Nath, Vaskar and Slack, Dylan and Da, Jeff and Ma, Yuntao and Zhang, Hugh and Whitehead, Spencer and Hendryx, Sean},
  booktitle={Advances in Neural Information Processing Systems},
  year={2024}
}""",
        tags=("reward-model", "gcrm", "rlhf", "trl"),
        pipeline_tag="text-classification",
        default_settings="arithmetic.yaml",
    ),
)

REGISTRY: dict[str, SystemSpec] = {row.slug: row for row in _ROWS}


def list_systems() -> list[SystemSpec]:
    """All systems of the library, in the order of the table.

    Example:

    ```python
    >>> from hf_contrastive import list_systems
    >>> [row.slug for row in list_systems()][:2]
    ['simclr', 'gsimclr']

    ```
    """
    return list(REGISTRY.values())


def get_system(slug: str) -> SystemSpec:
    """The row of one system.

    Args:
        slug (`str`): the system's short name, as `hf-contrastive list` shows it.

    Raises:
        KeyError: no such system; the message names the nearest ones.

    Example:

    ```python
    >>> from hf_contrastive import get_system
    >>> get_system("simclr").model_type
    'simclr'

    ```
    """
    if slug not in REGISTRY:
        near = difflib.get_close_matches(slug, REGISTRY, n=3, cutoff=0.4)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise KeyError(f"unknown system {slug!r}; known are: {', '.join(REGISTRY)}.{hint}")
    return REGISTRY[slug]


def find_by_model_type(model_type: str) -> SystemSpec | None:
    """The system that a `model_type` from a `config.json` belongs to, or `None`."""
    for row in REGISTRY.values():
        if any(model.model_type == model_type for model in row.models):
            return row
    return None


def all_model_specs() -> list[ModelSpec]:
    """Every config/model pair the Auto classes should know: the backbones and the models of all systems."""
    return [*BACKBONES, *(model for row in REGISTRY.values() for model in row.models)]
