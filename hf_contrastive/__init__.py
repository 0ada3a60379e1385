"""hf_contrastive: contrastive learning for the Hugging Face stack.

Importing this package is cheap (no torch, no network) and registers every system with transformers' Auto classes, so
that `AutoModel.from_pretrained` and `AutoConfig.from_pretrained` recognise checkpoints of this library. Public names
are imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_contrastive import auto_registration
from hf_contrastive.utils import import_later
from hf_contrastive.version import __version__


# public name -> module that defines it
_PUBLIC_NAMES = {
    # models
    "ContrastivePreTrainedModel": "hf_contrastive.modeling_utils",
    "SimCLRConfig": "hf_contrastive.models.simclr.configuration_simclr",
    "SimCLRModel": "hf_contrastive.models.simclr.modeling_simclr",
    "SimCLRForPreTraining": "hf_contrastive.models.simclr.modeling_simclr",
    "MoCoConfig": "hf_contrastive.models.moco.configuration_moco",
    "MoCoModel": "hf_contrastive.models.moco.modeling_moco",
    "MoCoForPreTraining": "hf_contrastive.models.moco.modeling_moco",
    "BYOLConfig": "hf_contrastive.models.byol.configuration_byol",
    "BYOLModel": "hf_contrastive.models.byol.modeling_byol",
    "BYOLForPreTraining": "hf_contrastive.models.byol.modeling_byol",
    "SimSiamConfig": "hf_contrastive.models.simsiam.configuration_simsiam",
    "SimSiamModel": "hf_contrastive.models.simsiam.modeling_simsiam",
    "SimSiamForPreTraining": "hf_contrastive.models.simsiam.modeling_simsiam",
    "DirectPredConfig": "hf_contrastive.models.directpred.configuration_directpred",
    "DirectPredModel": "hf_contrastive.models.directpred.modeling_directpred",
    "DirectPredForPreTraining": "hf_contrastive.models.directpred.modeling_directpred",
    "NPIDConfig": "hf_contrastive.models.npid.configuration_npid",
    "NPIDModel": "hf_contrastive.models.npid.modeling_npid",
    "NPIDForPreTraining": "hf_contrastive.models.npid.modeling_npid",
    "InterCLRConfig": "hf_contrastive.models.interclr.configuration_interclr",
    "InterCLRModel": "hf_contrastive.models.interclr.modeling_interclr",
    "InterCLRForPreTraining": "hf_contrastive.models.interclr.modeling_interclr",
    "CACRConfig": "hf_contrastive.models.cacr.configuration_cacr",
    "CACRModel": "hf_contrastive.models.cacr.modeling_cacr",
    "CACRForPreTraining": "hf_contrastive.models.cacr.modeling_cacr",
    "SwAVConfig": "hf_contrastive.models.swav.configuration_swav",
    "SwAVModel": "hf_contrastive.models.swav.modeling_swav",
    "SwAVForPreTraining": "hf_contrastive.models.swav.modeling_swav",
    "GSimCLRConfig": "hf_contrastive.models.gsimclr.configuration_gsimclr",
    "GSimCLRModel": "hf_contrastive.models.gsimclr.modeling_gsimclr",
    "GSimCLRForPreTraining": "hf_contrastive.models.gsimclr.modeling_gsimclr",
    "DenoisingAutoencoderConfig": "hf_contrastive.models.gsimclr.configuration_gsimclr",
    "DenoisingAutoencoderModel": "hf_contrastive.models.gsimclr.modeling_gsimclr",
    "SimCTGConfig": "hf_contrastive.models.simctg.configuration_simctg",
    "SimCTGForCausalLM": "hf_contrastive.models.simctg.modeling_simctg",
    "GoalConditionedRewardConfig": "hf_contrastive.models.gcrm.configuration_gcrm",
    "GoalConditionedRewardModel": "hf_contrastive.models.gcrm.modeling_gcrm",
    "CodeCloneConfig": "hf_contrastive.models.code_clone.configuration_code_clone",
    "CodeCloneModel": "hf_contrastive.models.code_clone.modeling_code_clone",
    "CodeCloneForPreTraining": "hf_contrastive.models.code_clone.modeling_code_clone",
    "MFConfig": "hf_contrastive.models.mf.configuration_mf",
    "MFModel": "hf_contrastive.models.mf.modeling_mf",
    "LightGCNConfig": "hf_contrastive.models.lightgcn.configuration_lightgcn",
    "LightGCNModel": "hf_contrastive.models.lightgcn.modeling_lightgcn",
    "SGLConfig": "hf_contrastive.models.sgl.configuration_sgl",
    "SGLModel": "hf_contrastive.models.sgl.modeling_sgl",
    "SimGCLConfig": "hf_contrastive.models.simgcl.configuration_simgcl",
    "SimGCLModel": "hf_contrastive.models.simgcl.modeling_simgcl",
    "DCCFConfig": "hf_contrastive.models.dccf.configuration_dccf",
    "DCCFModel": "hf_contrastive.models.dccf.modeling_dccf",
    "BM3Config": "hf_contrastive.models.bm3.configuration_bm3",
    "BM3Model": "hf_contrastive.models.bm3.modeling_bm3",
    "SIGERConfig": "hf_contrastive.models.siger.configuration_siger",
    "SIGERModel": "hf_contrastive.models.siger.modeling_siger",
    "ConVIRTConfig": "hf_contrastive.models.convirt.configuration_convirt",
    "ConVIRTModel": "hf_contrastive.models.convirt.modeling_convirt",
    "ConVIRTForPreTraining": "hf_contrastive.models.convirt.modeling_convirt",
    "SurgVLPConfig": "hf_contrastive.models.surgvlp.configuration_surgvlp",
    "SurgVLPModel": "hf_contrastive.models.surgvlp.modeling_surgvlp",
    "SurgVLPForPreTraining": "hf_contrastive.models.surgvlp.modeling_surgvlp",
    "ClippingsConfig": "hf_contrastive.models.clippings.configuration_clippings",
    "ClippingsModel": "hf_contrastive.models.clippings.modeling_clippings",
    "ClippingsForPreTraining": "hf_contrastive.models.clippings.modeling_clippings",
    "ClippingsImageProcessor": "hf_contrastive.models.clippings.image_processing_clippings",
    "LogoConfig": "hf_contrastive.models.logo.configuration_logo",
    "LogoModel": "hf_contrastive.models.logo.modeling_logo",
    "LogoForPreTraining": "hf_contrastive.models.logo.modeling_logo",
    "LogoIdentifier": "hf_contrastive.families.dual_encoder.logo_identification",
    "LogoImageProcessor": "hf_contrastive.models.logo.image_processing_logo",
    "MofiConfig": "hf_contrastive.models.mofi.configuration_mofi",
    "MofiModel": "hf_contrastive.models.mofi.modeling_mofi",
    "MofiForPreTraining": "hf_contrastive.models.mofi.modeling_mofi",
    "MofiImageProcessor": "hf_contrastive.models.mofi.image_processing_mofi",
    "DualEncoderProcessor": "hf_contrastive.families.dual_encoder.processing_dual_encoder",
    "PseudoLabeler": "hf_contrastive.models.gsimclr.data_gsimclr",
    "ConvEncoderConfig": "hf_contrastive.backbones.configuration_backbones",
    "ConvEncoderModel": "hf_contrastive.backbones.modeling_backbones",
    "CifarResNetConfig": "hf_contrastive.backbones.configuration_backbones",
    "CifarResNetModel": "hf_contrastive.backbones.modeling_backbones",
    "SmallAlexNetConfig": "hf_contrastive.backbones.configuration_backbones",
    "SmallAlexNetModel": "hf_contrastive.backbones.modeling_backbones",
    "CodeTransformerConfig": "hf_contrastive.backbones.configuration_code_encoders",
    "CodeTransformerModel": "hf_contrastive.backbones.modeling_code_encoders",
    "CodePathsConfig": "hf_contrastive.backbones.configuration_code_encoders",
    "CodePathsModel": "hf_contrastive.backbones.modeling_code_encoders",
    "CodeGraphConfig": "hf_contrastive.backbones.configuration_code_encoders",
    "CodeGraphModel": "hf_contrastive.backbones.modeling_code_encoders",
    # losses
    "info_nce": "hf_contrastive.losses",
    "clip_loss": "hf_contrastive.losses",
    "nt_xent": "hf_contrastive.losses",
    "sup_con": "hf_contrastive.losses",
    "simctg_loss": "hf_contrastive.losses",
    "byol_loss": "hf_contrastive.losses",
    "simsiam_loss": "hf_contrastive.losses",
    # training
    "ContrastiveTrainer": "hf_contrastive.training",
    "ContrastiveTrainingArguments": "hf_contrastive.training",
    "ClusterMemoryBankCallback": "hf_contrastive.training",
    "GoalConditionedRewardTrainer": "hf_contrastive.training",
    "RecommenderTrainer": "hf_contrastive.training",
    # data
    "load_images": "hf_contrastive.data",
    "SimCLRViews": "hf_contrastive.data",
    "MultiCropViews": "hf_contrastive.data",
    "MultiViewCollator": "hf_contrastive.data",
    "DistinctLabelBatchSampler": "hf_contrastive.data",
    "InteractionDataset": "hf_contrastive.data",
    "TripletDataset": "hf_contrastive.data",
    "load_interactions": "hf_contrastive.data",
    # decoding
    "contrastive_search": "hf_contrastive.generation",
    "ItemIndex": "hf_contrastive.families.recommender.item_index",
    "VectorIndex": "hf_contrastive.vector_index",
    # registry
    "get_system": "hf_contrastive.registry",
    "list_systems": "hf_contrastive.registry",
}

__all__ = ["__version__", *sorted(_PUBLIC_NAMES)]

if TYPE_CHECKING:  # static analysis sees the real names
    from hf_contrastive.backbones.configuration_backbones import (
        CifarResNetConfig,
        ConvEncoderConfig,
        SmallAlexNetConfig,
    )
    from hf_contrastive.backbones.configuration_code_encoders import (
        CodeGraphConfig,
        CodePathsConfig,
        CodeTransformerConfig,
    )
    from hf_contrastive.backbones.modeling_backbones import CifarResNetModel, ConvEncoderModel, SmallAlexNetModel
    from hf_contrastive.backbones.modeling_code_encoders import CodeGraphModel, CodePathsModel, CodeTransformerModel
    from hf_contrastive.data import (
        DistinctLabelBatchSampler,
        InteractionDataset,
        MultiCropViews,
        MultiViewCollator,
        SimCLRViews,
        TripletDataset,
        load_images,
        load_interactions,
    )
    from hf_contrastive.families.dual_encoder.logo_identification import LogoIdentifier
    from hf_contrastive.families.dual_encoder.processing_dual_encoder import DualEncoderProcessor
    from hf_contrastive.families.recommender.item_index import ItemIndex
    from hf_contrastive.generation import contrastive_search
    from hf_contrastive.losses import byol_loss, clip_loss, info_nce, nt_xent, simctg_loss, simsiam_loss, sup_con
    from hf_contrastive.modeling_utils import ContrastivePreTrainedModel
    from hf_contrastive.models.bm3.configuration_bm3 import BM3Config
    from hf_contrastive.models.bm3.modeling_bm3 import BM3Model
    from hf_contrastive.models.byol.configuration_byol import BYOLConfig
    from hf_contrastive.models.byol.modeling_byol import BYOLForPreTraining, BYOLModel
    from hf_contrastive.models.cacr.configuration_cacr import CACRConfig
    from hf_contrastive.models.cacr.modeling_cacr import CACRForPreTraining, CACRModel
    from hf_contrastive.models.clippings.configuration_clippings import ClippingsConfig
    from hf_contrastive.models.clippings.image_processing_clippings import ClippingsImageProcessor
    from hf_contrastive.models.clippings.modeling_clippings import ClippingsForPreTraining, ClippingsModel
    from hf_contrastive.models.code_clone.configuration_code_clone import CodeCloneConfig
    from hf_contrastive.models.code_clone.modeling_code_clone import CodeCloneForPreTraining, CodeCloneModel
    from hf_contrastive.models.convirt.configuration_convirt import ConVIRTConfig
    from hf_contrastive.models.convirt.modeling_convirt import ConVIRTForPreTraining, ConVIRTModel
    from hf_contrastive.models.dccf.configuration_dccf import DCCFConfig
    from hf_contrastive.models.dccf.modeling_dccf import DCCFModel
    from hf_contrastive.models.directpred.configuration_directpred import DirectPredConfig
    from hf_contrastive.models.directpred.modeling_directpred import DirectPredForPreTraining, DirectPredModel
    from hf_contrastive.models.gcrm.configuration_gcrm import GoalConditionedRewardConfig
    from hf_contrastive.models.gcrm.modeling_gcrm import GoalConditionedRewardModel
    from hf_contrastive.models.gsimclr.configuration_gsimclr import DenoisingAutoencoderConfig, GSimCLRConfig
    from hf_contrastive.models.gsimclr.data_gsimclr import PseudoLabeler
    from hf_contrastive.models.gsimclr.modeling_gsimclr import (
        DenoisingAutoencoderModel,
        GSimCLRForPreTraining,
        GSimCLRModel,
    )
    from hf_contrastive.models.interclr.configuration_interclr import InterCLRConfig
    from hf_contrastive.models.interclr.modeling_interclr import InterCLRForPreTraining, InterCLRModel
    from hf_contrastive.models.lightgcn.configuration_lightgcn import LightGCNConfig
    from hf_contrastive.models.lightgcn.modeling_lightgcn import LightGCNModel
    from hf_contrastive.models.logo.configuration_logo import LogoConfig
    from hf_contrastive.models.logo.image_processing_logo import LogoImageProcessor
    from hf_contrastive.models.logo.modeling_logo import LogoForPreTraining, LogoModel
    from hf_contrastive.models.mf.configuration_mf import MFConfig
    from hf_contrastive.models.mf.modeling_mf import MFModel
    from hf_contrastive.models.moco.configuration_moco import MoCoConfig
    from hf_contrastive.models.moco.modeling_moco import MoCoForPreTraining, MoCoModel
    from hf_contrastive.models.mofi.configuration_mofi import MofiConfig
    from hf_contrastive.models.mofi.image_processing_mofi import MofiImageProcessor
    from hf_contrastive.models.mofi.modeling_mofi import MofiForPreTraining, MofiModel
    from hf_contrastive.models.npid.configuration_npid import NPIDConfig
    from hf_contrastive.models.npid.modeling_npid import NPIDForPreTraining, NPIDModel
    from hf_contrastive.models.sgl.configuration_sgl import SGLConfig
    from hf_contrastive.models.sgl.modeling_sgl import SGLModel
    from hf_contrastive.models.siger.configuration_siger import SIGERConfig
    from hf_contrastive.models.siger.modeling_siger import SIGERModel
    from hf_contrastive.models.simclr.configuration_simclr import SimCLRConfig
    from hf_contrastive.models.simclr.modeling_simclr import SimCLRForPreTraining, SimCLRModel
    from hf_contrastive.models.simctg.configuration_simctg import SimCTGConfig
    from hf_contrastive.models.simctg.modeling_simctg import SimCTGForCausalLM
    from hf_contrastive.models.simgcl.configuration_simgcl import SimGCLConfig
    from hf_contrastive.models.simgcl.modeling_simgcl import SimGCLModel
    from hf_contrastive.models.simsiam.configuration_simsiam import SimSiamConfig
    from hf_contrastive.models.simsiam.modeling_simsiam import SimSiamForPreTraining, SimSiamModel
    from hf_contrastive.models.surgvlp.configuration_surgvlp import SurgVLPConfig
    from hf_contrastive.models.surgvlp.modeling_surgvlp import SurgVLPForPreTraining, SurgVLPModel
    from hf_contrastive.models.swav.configuration_swav import SwAVConfig
    from hf_contrastive.models.swav.modeling_swav import SwAVForPreTraining, SwAVModel
    from hf_contrastive.registry import get_system, list_systems
    from hf_contrastive.training import (
        ClusterMemoryBankCallback,
        ContrastiveTrainer,
        ContrastiveTrainingArguments,
        GoalConditionedRewardTrainer,
        RecommenderTrainer,
    )
    from hf_contrastive.vector_index import VectorIndex


__getattr__ = import_later(__name__, _PUBLIC_NAMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC_NAMES})


auto_registration.install()
