"""Contrastive losses: pure functions of embeddings, each with a thin module beside it.

Those that compare samples compute in tiles (memory grows with the batch, not with its square), have exact false-negative
masks from an id column, and can gather negatives from all processes with gradient. `simctg_loss` compares the tokens of
one text.
"""

from __future__ import annotations

from hf_contrastive.losses.clip import ClipLoss, clip_loss
from hf_contrastive.losses.info_nce import InfoNCELoss, info_nce
from hf_contrastive.losses.nt_xent import NTXentLoss, nt_xent, nt_xent_multi_view
from hf_contrastive.losses.simctg import SimCTGLoss, next_token_loss, simctg_loss
from hf_contrastive.losses.sup_con import SupConLoss, sup_con


__all__ = [
    "ClipLoss",
    "InfoNCELoss",
    "NTXentLoss",
    "SimCTGLoss",
    "SupConLoss",
    "clip_loss",
    "info_nce",
    "next_token_loss",
    "nt_xent",
    "nt_xent_multi_view",
    "simctg_loss",
    "sup_con",
]
