"""Contrastive losses: pure functions of embeddings, the older ones with a thin module beside them.

Those that compare samples compute in tiles (memory grows with the batch, not with its square), have exact false-negative
masks from an id column, and can gather negatives from all processes with gradient. `simctg_loss` compares the tokens of
one text, `goal_contrastive_loss` states of preferred and rejected answers.
"""

from __future__ import annotations

from hf_contrastive.losses.bpr import BPRLoss, bpr_loss, embedding_penalty
from hf_contrastive.losses.cacr import CACRTerms, cacr_loss, cacr_momentum_loss, cacr_queue_loss
from hf_contrastive.losses.clip import ClipLoss, clip_loss
from hf_contrastive.losses.goal import (
    GoalContrastiveLoss,
    goal_contrastive_loss,
    goal_contrastive_loss_at,
    goal_loss_of_sums,
    goal_pair_sums,
    goal_state_index,
    sorted_goal_draws,
)
from hf_contrastive.losses.info_nce import InfoNCELoss, info_nce
from hf_contrastive.losses.margin_softmax import class_cosine, margin_softmax, sample_classes
from hf_contrastive.losses.margins import with_margin
from hf_contrastive.losses.memory_bank import memory_bank_nce
from hf_contrastive.losses.mil_nce import mil_nce
from hf_contrastive.losses.nt_xent import NTXentLoss, nt_xent, nt_xent_beta, nt_xent_multi_view
from hf_contrastive.losses.pair_margin import pair_margin_loss
from hf_contrastive.losses.prediction import BYOLLoss, SimSiamLoss, byol_loss, simsiam_loss
from hf_contrastive.losses.preference import BradleyTerryLoss, bradley_terry_loss
from hf_contrastive.losses.simctg import SimCTGLoss, next_token_loss, simctg_loss
from hf_contrastive.losses.sup_con import SupConLoss, sup_con
from hf_contrastive.losses.swav import sinkhorn, swapped_prediction
from hf_contrastive.losses.triplet_margin import triplet_margin_loss
from hf_contrastive.losses.uni_con import uni_con


__all__ = [
    "BPRLoss",
    "BYOLLoss",
    "BradleyTerryLoss",
    "CACRTerms",
    "ClipLoss",
    "GoalContrastiveLoss",
    "InfoNCELoss",
    "NTXentLoss",
    "SimCTGLoss",
    "SimSiamLoss",
    "SupConLoss",
    "bpr_loss",
    "bradley_terry_loss",
    "byol_loss",
    "cacr_loss",
    "cacr_momentum_loss",
    "cacr_queue_loss",
    "class_cosine",
    "clip_loss",
    "embedding_penalty",
    "goal_contrastive_loss",
    "goal_contrastive_loss_at",
    "goal_loss_of_sums",
    "goal_pair_sums",
    "goal_state_index",
    "info_nce",
    "margin_softmax",
    "memory_bank_nce",
    "mil_nce",
    "next_token_loss",
    "nt_xent",
    "nt_xent_beta",
    "nt_xent_multi_view",
    "pair_margin_loss",
    "sample_classes",
    "simctg_loss",
    "simsiam_loss",
    "sinkhorn",
    "sorted_goal_draws",
    "sup_con",
    "swapped_prediction",
    "triplet_margin_loss",
    "uni_con",
    "with_margin",
]
