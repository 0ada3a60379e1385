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
        zero_shot_image (`bool`, defaults to `False`): `AutoModelForZeroShotImageClassification` builds `model` too.
        processor (`str`, *optional*): `module:Class` that `AutoProcessor` opens.
        image_processor (`str`, *optional*): `module:Class` that `AutoImageProcessor` opens, where the model has its own.
    """

    model_type: str
    config: str
    model: str
    pretraining: str | None = None
    causal_lm: bool = False
    reward_model: bool = False
    zero_shot_image: bool = False
    processor: str | None = None
    image_processor: str | None = None

    def config_class(self) -> Any:
        """The configuration class."""
        return _resolve(self.config)

    def model_class(self) -> Any:
        """The class behind `AutoModel`."""
        return _resolve(self.model)

    def pretraining_class(self) -> Any:
        """The class behind `AutoModelForPreTraining`, or `None`."""
        return None if self.pretraining is None else _resolve(self.pretraining)

    def processor_class(self) -> Any:
        """The class behind `AutoProcessor`, or `None`."""
        return None if self.processor is None else _resolve(self.processor)

    def image_processor_class(self) -> Any:
        """The class behind `AutoImageProcessor`, or `None`."""
        return None if self.image_processor is None else _resolve(self.image_processor)


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
    *(
        ModelSpec(
            model_type,
            f"{_BACKBONES}.configuration_code_encoders:{name}Config",
            f"{_BACKBONES}.modeling_code_encoders:{name}Model",
        )
        for model_type, name in (
            ("code_transformer", "CodeTransformer"),
            ("code_paths", "CodePaths"),
            ("code_graph", "CodeGraph"),
        )
    ),
)


def _with_objective(slug: str, name: str, **fields: Any) -> ModelSpec:
    """The models of a room with one class for inference and one with the objective."""
    room = f"{_MODELS}.{slug}"
    return ModelSpec(
        slug,
        f"{room}.configuration_{slug}:{name}Config",
        f"{room}.modeling_{slug}:{name}Model",
        f"{room}.modeling_{slug}:{name}ForPreTraining",
        **fields,
    )


def _image_system(slug: str, title: str, name: str, tags: tuple[str, ...], **fields: Any) -> SystemSpec:
    """A row of the siamese family; `name` is what its classes' names begin with."""
    return SystemSpec(
        slug=slug,
        title=title,
        main=_with_objective(slug, name),
        domain="image",
        task="self-supervised pre-training",
        main_input="pixel_values",
        column="image",
        tags=("self-supervised-learning", *tags),
        pipeline_tag="image-feature-extraction",
        **fields,
    )


def _recommender(slug: str, title: str, name: str, tags: tuple[str, ...] = (), **fields: Any) -> SystemSpec:
    """A row of the recommenders; `name` is what its classes' names begin with."""
    room = f"{_MODELS}.{slug}"
    return SystemSpec(
        slug=slug,
        title=title,
        main=ModelSpec(slug, f"{room}.configuration_{slug}:{name}Config", f"{room}.modeling_{slug}:{name}Model"),
        domain="interaction",
        task="top-N recommendation",
        main_input="user_ids",
        column="user, item",
        tags=("recommendation", "collaborative-filtering", slug, *tags),
        default_settings="planted.yaml",
        **fields,
    )


def _dual_encoder(
    slug: str,
    title: str,
    name: str,
    tags: tuple[str, ...] = (),
    image_processor: str | None = None,
    zero_shot: bool = True,
    **fields: Any,
) -> SystemSpec:
    """A row of the dual encoders; `name` is what its classes' names begin with."""
    return SystemSpec(
        slug=slug,
        title=title,
        main=_with_objective(
            slug,
            name,
            zero_shot_image=zero_shot,
            processor="hf_contrastive.families.dual_encoder.processing_dual_encoder:DualEncoderProcessor",
            image_processor=image_processor,
        ),
        main_input="pixel_values",
        column="image, text",
        tags=("image-text", "dual-encoder", slug, *tags),
        pipeline_tag="zero-shot-image-classification" if zero_shot else "image-feature-extraction",
        default_settings="glyphs.yaml",
        **fields,
    )


_ROWS = (
    _image_system(
        "simclr",
        "SimCLR",
        "SimCLR",
        summary="Learns image features by making two random views of one image agree and those of different images differ.",
        paper_title="A Simple Framework for Contrastive Learning of Visual Representations",
        paper_url="https://arxiv.org/abs/2002.05709",
        year=2020,
        bibtex="""@inproceedings{chen2020simclr,
  title={A Simple Framework for Contrastive Learning of Visual Representations},
  author={Chen, Ting and Kornblith, Simon and Norouzi, Mohammad and Hinton, Geoffrey},
  booktitle={International Conference on Machine Learning},
  year={2020}
}""",
        tags=("simclr",),
    ),
    _image_system(
        "gsimclr",
        "G-SimCLR",
        "GSimCLR",
        components=(
            ModelSpec(
                "denoising_autoencoder",
                f"{_MODELS}.gsimclr.configuration_gsimclr:DenoisingAutoencoderConfig",
                f"{_MODELS}.gsimclr.modeling_gsimclr:DenoisingAutoencoderModel",
            ),
        ),
        summary="SimCLR for small batches: pseudo-labels keep images of the same cluster out of one batch.",
        paper_title="G-SimCLR: Self-Supervised Contrastive Learning with Guided Projection via Pseudo Labelling",
        paper_url="https://arxiv.org/abs/2009.12007",
        year=2020,
        bibtex="""@inproceedings{chakraborty2020gsimclr,
  title={G-SimCLR: Self-Supervised Contrastive Learning with Guided Projection via Pseudo Labelling},
  author={Chakraborty, Souradip and Gosthipaty, Aritra Roy and Paul, Sayak},
  booktitle={International Conference on Data Mining Workshops},
  year={2020}
}""",
        tags=("gsimclr", "simclr"),
    ),
    _image_system(
        "moco",
        "MoCo v2",
        "MoCo",
        summary="Learns image features with small batches: a queue of past views, from a slowly moving encoder, are the negatives.",
        paper_title="Improved Baselines with Momentum Contrastive Learning",
        paper_url="https://arxiv.org/abs/2003.04297",
        year=2020,
        bibtex="""@article{chen2020mocov2,
  title={Improved Baselines with Momentum Contrastive Learning},
  author={Chen, Xinlei and Fan, Haoqi and Girshick, Ross and He, Kaiming},
  journal={arXiv preprint arXiv:2003.04297},
  year={2020}
}""",
        tags=("moco",),
    ),
    _image_system(
        "byol",
        "BYOL",
        "BYOL",
        summary="Learns image features without negatives: one view predicts what a slowly moving copy of the network sees in the other.",
        paper_title="Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning",
        paper_url="https://arxiv.org/abs/2006.07733",
        year=2020,
        bibtex="""@inproceedings{grill2020byol,
  title={Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning},
  author={Grill, Jean-Bastien and Strub, Florian and Altch{\\'e}, Florent and Tallec, Corentin and Richemond, Pierre H. and Buchatskaya, Elena and Doersch, Carl and Pires, Bernardo Avila and Guo, Zhaohan Daniel and Azar, Mohammad Gheshlaghi and Piot, Bilal and Kavukcuoglu, Koray and Munos, R{\\'e}mi and Valko, Michal},
  booktitle={Advances in Neural Information Processing Systems},
  year={2020}
}""",
        tags=("byol",),
    ),
    _image_system(
        "simsiam",
        "SimSiam",
        "SimSiam",
        summary="Learns image features with neither negatives nor a second network: one view predicts the other, whose gradient is stopped.",
        paper_title="Exploring Simple Siamese Representation Learning",
        paper_url="https://arxiv.org/abs/2011.10566",
        year=2021,
        bibtex="""@inproceedings{chen2021simsiam,
  title={Exploring Simple Siamese Representation Learning},
  author={Chen, Xinlei and He, Kaiming},
  booktitle={IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year={2021}
}""",
        tags=("simsiam",),
    ),
    _image_system(
        "directpred",
        "DirectPred",
        "DirectPred",
        summary="BYOL with a linear predictor that is computed from the correlation of its own inputs instead of being trained.",
        paper_title="Understanding self-supervised Learning Dynamics without Contrastive Pairs",
        paper_url="https://arxiv.org/abs/2102.06810",
        year=2021,
        bibtex="""@inproceedings{tian2021directpred,
  title={Understanding self-supervised Learning Dynamics without Contrastive Pairs},
  author={Tian, Yuandong and Chen, Xinlei and Ganguli, Surya},
  booktitle={International Conference on Machine Learning},
  year={2021}
}""",
        tags=("directpred", "byol"),
    ),
    _image_system(
        "npid",
        "NPID",
        "NPID",
        summary="Learns image features from one view of each image: every image is a class, its weight a row of a memory bank.",
        paper_title="Unsupervised Feature Learning via Non-Parametric Instance Discrimination",
        paper_url="https://arxiv.org/abs/1805.01978",
        year=2018,
        bibtex="""@inproceedings{wu2018npid,
  title={Unsupervised Feature Learning via Non-Parametric Instance Discrimination},
  author={Wu, Zhirong and Xiong, Yuanjun and Yu, Stella X. and Lin, Dahua},
  booktitle={Conference on Computer Vision and Pattern Recognition},
  year={2018}
}""",
        tags=("npid", "memory-bank"),
    ),
    _image_system(
        "interclr",
        "InterCLR",
        "InterCLR",
        summary="Learns image features with positives from other images, too: those of the same cluster of an online memory bank.",
        paper_title="Delving into Inter-Image Invariance for Unsupervised Visual Representations",
        paper_url="https://arxiv.org/abs/2008.11702",
        year=2022,
        bibtex="""@article{xie2022interclr,
  title={Delving into Inter-Image Invariance for Unsupervised Visual Representations},
  author={Xie, Jiahao and Zhan, Xiaohang and Liu, Ziwei and Ong, Yew-Soon and Loy, Chen Change},
  journal={International Journal of Computer Vision},
  year={2022}
}""",
        tags=("interclr", "moco", "memory-bank"),
    ),
    _image_system(
        "cacr",
        "CACR",
        "CACR",
        summary="Learns image features from several views: far positives attract more, close negatives repel more.",
        paper_title="Contrastive Attraction and Contrastive Repulsion for Representation Learning",
        paper_url="https://arxiv.org/abs/2105.03746",
        year=2023,
        bibtex="""@article{zheng2023cacr,
  title={Contrastive Attraction and Contrastive Repulsion for Representation Learning},
  author={Zheng, Huangjie and Chen, Xu and Yao, Jiangchao and Yang, Hongxia and Li, Chunyuan and Zhang, Ya and Zhang, Hao and Tsang, Ivor and Zhou, Jingren and Zhou, Mingyuan},
  journal={Transactions on Machine Learning Research},
  year={2023}
}""",
        tags=("cacr",),
    ),
    _image_system(
        "swav",
        "SwAV",
        "SwAV",
        summary="Learns image features without negatives: views predict each other's assignment to prototypes.",
        paper_title="Unsupervised Learning of Visual Features by Contrasting Cluster Assignments",
        paper_url="https://arxiv.org/abs/2006.09882",
        year=2020,
        bibtex="""@inproceedings{caron2020swav,
  title={Unsupervised Learning of Visual Features by Contrasting Cluster Assignments},
  author={Caron, Mathilde and Misra, Ishan and Mairal, Julien and Goyal, Priya and Bojanowski, Piotr and Joulin, Armand},
  booktitle={Advances in Neural Information Processing Systems},
  year={2020}
}""",
        tags=("swav",),
    ),
    SystemSpec(
        slug="code_clone",
        title="Code clones",
        main=ModelSpec(
            "code_clone",
            f"{_MODELS}.code_clone.configuration_code_clone:CodeCloneConfig",
            f"{_MODELS}.code_clone.modeling_code_clone:CodeCloneModel",
            f"{_MODELS}.code_clone.modeling_code_clone:CodeCloneForPreTraining",
        ),
        domain="code",
        task="code clone detection",
        summary="Finds programs that do the same, however they are written: as text, syntax-tree paths or graph, with SimCLR, MoCo or SwAV.",
        main_input="input_ids",
        column="code",
        paper_title="Evaluation of Contrastive Learning with Various Code Representations for Code Clone Detection",
        paper_url="https://arxiv.org/abs/2206.08726",
        year=2022,
        bibtex="""@article{zubkov2022codeclones,
  title={Evaluation of Contrastive Learning with Various Code Representations for Code Clone Detection},
  author={Zubkov, Maksim and Spirin, Egor and Bogomolov, Egor and Bryksin, Timofey},
  journal={arXiv preprint arXiv:2206.08726},
  year={2022}
}""",
        tags=("code", "clone-detection", "plagiarism-detection", "simclr", "moco", "swav"),
        pipeline_tag="feature-extraction",
        default_settings="programs.yaml",
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
    _recommender(
        "mf",
        "Matrix factorisation",
        "MF",
        summary="Recommends items from an interaction log: the score of a user and an item is the product of two learned vectors.",
        paper_title="BPR: Bayesian Personalized Ranking from Implicit Feedback",
        paper_url="https://arxiv.org/abs/1205.2618",
        year=2009,
        bibtex="""@inproceedings{rendle2009bpr,
  title={BPR: Bayesian Personalized Ranking from Implicit Feedback},
  author={Rendle, Steffen and Freudenthaler, Christoph and Gantner, Zeno and Schmidt-Thieme, Lars},
  booktitle={Conference on Uncertainty in Artificial Intelligence},
  year={2009}
}""",
        tags=("bpr",),
    ),
    _recommender(
        "lightgcn",
        "LightGCN",
        "LightGCN",
        summary="Recommends items from an interaction log: vectors are averaged over ever larger neighbourhoods of users and items.",
        paper_title="LightGCN: Simplifying and Powering Graph Convolution Network for Recommendation",
        paper_url="https://arxiv.org/abs/2002.02126",
        year=2020,
        bibtex="""@inproceedings{he2020lightgcn,
  title={LightGCN: Simplifying and Powering Graph Convolution Network for Recommendation},
  author={He, Xiangnan and Deng, Kuan and Wang, Xiang and Li, Yan and Zhang, Yongdong and Wang, Meng},
  booktitle={International ACM SIGIR Conference on Research and Development in Information Retrieval},
  year={2020}
}""",
    ),
    _recommender(
        "sgl",
        "SGL",
        "SGL",
        summary="LightGCN that also makes two copies of the graph, from which edges or nodes are missing, agree.",
        paper_title="Self-supervised Graph Learning for Recommendation",
        paper_url="https://arxiv.org/abs/2010.10783",
        year=2021,
        bibtex="""@inproceedings{wu2021sgl,
  title={Self-supervised Graph Learning for Recommendation},
  author={Wu, Jiancan and Wang, Xiang and Feng, Fuli and He, Xiangnan and Chen, Liang and Lian, Jianxun and Xie, Xing},
  booktitle={International ACM SIGIR Conference on Research and Development in Information Retrieval},
  year={2021}
}""",
    ),
    _recommender(
        "simgcl",
        "SimGCL",
        "SimGCL",
        summary="LightGCN that also makes two passes along the same graph, each with noise of its own, agree.",
        paper_title="Are Graph Augmentations Necessary? Simple Graph Contrastive Learning for Recommendation",
        paper_url="https://arxiv.org/abs/2112.08679",
        year=2022,
        bibtex="""@inproceedings{yu2022simgcl,
  title={Are Graph Augmentations Necessary? Simple Graph Contrastive Learning for Recommendation},
  author={Yu, Junliang and Yin, Hongzhi and Xia, Xin and Chen, Tong and Cui, Lizhen and Nguyen, Quoc Viet Hung},
  booktitle={International ACM SIGIR Conference on Research and Development in Information Retrieval},
  year={2022}
}""",
    ),
    _recommender(
        "dccf",
        "DCCF",
        "DCCF",
        summary="Recommends from an interaction log with shared intents and learned edge weights, contrasted with the plain graph.",
        paper_title="Disentangled Contrastive Collaborative Filtering",
        paper_url="https://arxiv.org/abs/2305.02759",
        year=2023,
        bibtex="""@inproceedings{ren2023dccf,
  title={Disentangled Contrastive Collaborative Filtering},
  author={Ren, Xubin and Xia, Lianghao and Zhao, Jiashu and Yin, Dawei and Huang, Chao},
  booktitle={International ACM SIGIR Conference on Research and Development in Information Retrieval},
  year={2023}
}""",
    ),
    _recommender(
        "bm3",
        "BM3",
        "BM3",
        summary="Recommends items that have images, texts or sounds, from a log alone at serving time, trained without negatives.",
        paper_title="Bootstrap Latent Representations for Multi-modal Recommendation",
        paper_url="https://arxiv.org/abs/2207.05969",
        year=2023,
        bibtex="""@inproceedings{zhou2023bm3,
  title={Bootstrap Latent Representations for Multi-modal Recommendation},
  author={Zhou, Xin and Zhou, Hongyu and Liu, Yong and Zeng, Zhiwei and Miao, Chunyan and Wang, Pengwei and You, Yuan and Jiang, Feijun},
  booktitle={Proceedings of the ACM Web Conference},
  year={2023}
}""",
        tags=("multimodal",),
    ),
    _recommender(
        "siger",
        "SIGER",
        "SIGER",
        summary="Recommends items that have images, texts or sounds along graphs of items that are alike or chosen together.",
        paper_title="Semantic Item Graph Enhancement for Multimodal Recommendation",
        paper_url="https://arxiv.org/abs/2508.06154",
        year=2025,
        bibtex="""@article{zhang2025siger,
  title={Semantic Item Graph Enhancement for Multimodal Recommendation},
  author={Zhang, Xiaoxiong and Zhou, Xin and Zeng, Zhiwei and Niyato, Dusit and Shen, Zhiqi},
  journal={arXiv preprint arXiv:2508.06154},
  year={2025}
}""",
        tags=("multimodal",),
        status="experimental",
    ),
    _dual_encoder(
        "convirt",
        "ConVIRT",
        "ConVIRT",
        domain="image-text",
        task="image-text pre-training",
        summary="Learns image features from images that come with a short text, so that few labels are enough afterwards.",
        paper_title="Contrastive Learning of Medical Visual Representations from Paired Images and Text",
        paper_url="https://arxiv.org/abs/2010.00747",
        year=2022,
        bibtex="""@inproceedings{zhang2022convirt,
  title={Contrastive Learning of Medical Visual Representations from Paired Images and Text},
  author={Zhang, Yuhao and Jiang, Hang and Miura, Yasuhide and Manning, Christopher D. and Langlotz, Curtis P.},
  booktitle={Machine Learning for Healthcare Conference},
  year={2022}
}""",
        tags=("medical",),
    ),
    _dual_encoder(
        "clippings",
        "CLIPPINGS",
        "Clippings",
        domain="image-text",
        task="record linkage",
        summary="Decides which scanned records name the same firm, photo or person, from the picture and its noisy text together.",
        paper_title="Linking Representations with Multimodal Contrastive Learning",
        paper_url="https://arxiv.org/abs/2304.03464",
        year=2023,
        bibtex="""@article{arora2023clippings,
  title={Linking Representations with Multimodal Contrastive Learning},
  author={Arora, Abhishek and Yang, Xinmei and Jheng, Shao-Yu and Dell, Melissa},
  journal={arXiv preprint arXiv:2304.03464},
  year={2023}
}""",
        tags=("record-linkage",),
        image_processor=f"{_MODELS}.clippings.image_processing_clippings:ClippingsImageProcessor",
    ),
    _dual_encoder(
        "logo",
        "Logo identification",
        "Logo",
        domain="image-text",
        task="logo identification",
        summary="Recognises a brand from one reference picture of its logo, by the drawing and the text in it.",
        paper_title="Contrastive Multi-View Textual-Visual Encoding: Towards One Hundred Thousand-Scale One-Shot Logo Identification",
        paper_url="https://arxiv.org/abs/2211.12926",
        year=2022,
        bibtex="""@inproceedings{sharma2022contrastive,
  title={Contrastive Multi-View Textual-Visual Encoding: Towards One Hundred Thousand-Scale One-Shot Logo Identification},
  author={Sharma, Nakul and Penamakuri, Abhirama S. and Mishra, Anand},
  booktitle={Indian Conference on Computer Vision, Graphics and Image Processing},
  year={2022}
}""",
        tags=("logo", "one-shot"),
        image_processor=f"{_MODELS}.logo.image_processing_logo:LogoImageProcessor",
        zero_shot=False,
    ),
    _dual_encoder(
        "surgvlp",
        "SurgVLP",
        "SurgVLP",
        domain="image-text",
        task="video-text pre-training",
        summary="Recognises surgical phases, tools and actions from words alone, after learning from narrated lecture videos.",
        paper_title="Learning Multi-modal Representations by Watching Hundreds of Surgical Video Lectures",
        paper_url="https://arxiv.org/abs/2307.15220",
        year=2023,
        bibtex="""@article{yuan2023surgvlp,
  title={Learning Multi-modal Representations by Watching Hundreds of Surgical Video Lectures},
  author={Yuan, Kun and Srivastav, Vinkle and Yu, Tong and Lavanchy, Joel L. and Mascagni, Pietro and Navab, Nassir and Padoy, Nicolas},
  journal={arXiv preprint arXiv:2307.15220},
  year={2023}
}""",
        tags=("surgical-video", "video-text", "zero-shot"),
    ),
    _dual_encoder(
        "mofi",
        "MOFI",
        "Mofi",
        domain="image-text",
        task="image-text pre-training",
        summary="Learns image features for retrieval from web images whose texts name things: which thing it is, and which text.",
        paper_title="MOFI: Learning Image Representations from Noisy Entity Annotated Images",
        paper_url="https://arxiv.org/abs/2306.07952",
        year=2024,
        bibtex="""@inproceedings{wu2024mofi,
  title={MOFI: Learning Image Representations from Noisy Entity Annotated Images},
  author={Wu, Wentao and Timofeev, Aleksei and Chen, Chen and Zhang, Bowen and Duan, Kun and Liu, Shuangning and Zheng, Yantao and Shlens, Jonathon and Du, Xianzhi and Gan, Zhe and Yang, Yinfei},
  booktitle={International Conference on Learning Representations},
  year={2024}
}""",
        tags=("image-retrieval", "entities"),
        image_processor=f"{_MODELS}.mofi.image_processing_mofi:MofiImageProcessor",
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
