"""Sharing: model cards, push, slim export, and the guards around saving and loading."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_contrastive.utils import import_later


_PUBLIC_NAMES = {
    "SAFE_IGNORE_PATTERNS": "push",
    "CardError": "cards",
    "CheckpointInfo": "loading",
    "ExportReport": "export",
    "Metric": "cards",
    "PreparedFolder": "push",
    "TrainerHubMixin": "trainer",
    "atomic_folder": "atomic",
    "check_checkpoint": "loading",
    "export_backbone": "export",
    "export_onnx": "tower_export",
    "export_sentence_transformers": "tower_export",
    "find_local_paths": "scrub",
    "finish_interrupted_save": "atomic",
    "is_local_path": "scrub",
    "merged_copy": "export",
    "prepare_folder": "push",
    "push_to_hub": "push",
    "safe_save_pretrained": "atomic",
    "scrub_config": "scrub",
    "scrub_folder": "scrub",
    "scrub_text": "scrub",
    "validate_card": "cards",
    "write_model_card": "cards",
}

__all__ = [
    "SAFE_IGNORE_PATTERNS",
    "CardError",
    "CheckpointInfo",
    "ExportReport",
    "Metric",
    "PreparedFolder",
    "TrainerHubMixin",
    "atomic_folder",
    "check_checkpoint",
    "export_backbone",
    "export_onnx",
    "export_sentence_transformers",
    "find_local_paths",
    "finish_interrupted_save",
    "is_local_path",
    "merged_copy",
    "prepare_folder",
    "push_to_hub",
    "safe_save_pretrained",
    "scrub_config",
    "scrub_folder",
    "scrub_text",
    "validate_card",
    "write_model_card",
]

if TYPE_CHECKING:  # static analysis sees the real names
    from hf_contrastive.hub.atomic import atomic_folder, finish_interrupted_save, safe_save_pretrained
    from hf_contrastive.hub.cards import CardError, Metric, validate_card, write_model_card
    from hf_contrastive.hub.export import ExportReport, export_backbone, merged_copy
    from hf_contrastive.hub.loading import CheckpointInfo, check_checkpoint
    from hf_contrastive.hub.push import SAFE_IGNORE_PATTERNS, PreparedFolder, prepare_folder, push_to_hub
    from hf_contrastive.hub.scrub import find_local_paths, is_local_path, scrub_config, scrub_folder, scrub_text
    from hf_contrastive.hub.tower_export import export_onnx, export_sentence_transformers
    from hf_contrastive.hub.trainer import TrainerHubMixin


__getattr__ = import_later(__name__, _PUBLIC_NAMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC_NAMES})
