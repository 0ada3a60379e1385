"""Training: one Trainer that knows no system by name, its arguments, callbacks, gradient cache and reports.

Names are imported on first use, so that reading a recipe's arguments does not load what only training needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_contrastive.utils import import_later


_PUBLIC_NAMES = {
    "AfterOptimizerStepCallback": "hf_contrastive.training.callbacks",
    "ClusterMemoryBankCallback": "hf_contrastive.training.clustering",
    "CollapseWarning": "hf_contrastive.training.monitors",
    "ContrastiveTrainer": "hf_contrastive.training.trainer",
    "ContrastiveTrainingArguments": "hf_contrastive.training.training_arguments",
    "GoalConditionedRewardTrainer": "hf_contrastive.training.reward_model",
    "LanguageModelTrainer": "hf_contrastive.training.language_model",
    "MetricsFileCallback": "hf_contrastive.training.callbacks",
    "NonFiniteLossError": "hf_contrastive.training.monitors",
    "RecommenderTrainer": "hf_contrastive.training.recommender",
    "SetEpochCallback": "hf_contrastive.training.callbacks",
    "batch_report": "hf_contrastive.training.reports",
    "cached_backward": "hf_contrastive.training.gradient_cache",
    "final_report": "hf_contrastive.training.reports",
    "parse_recipe_arguments": "hf_contrastive.training.recipe_arguments",
    "unwrap_model": "hf_contrastive.training.unwrap",
}

__all__ = [
    "AfterOptimizerStepCallback",
    "ClusterMemoryBankCallback",
    "CollapseWarning",
    "ContrastiveTrainer",
    "ContrastiveTrainingArguments",
    "GoalConditionedRewardTrainer",
    "LanguageModelTrainer",
    "MetricsFileCallback",
    "NonFiniteLossError",
    "RecommenderTrainer",
    "SetEpochCallback",
    "batch_report",
    "cached_backward",
    "final_report",
    "parse_recipe_arguments",
    "unwrap_model",
]

if TYPE_CHECKING:
    from hf_contrastive.training.callbacks import AfterOptimizerStepCallback, MetricsFileCallback, SetEpochCallback
    from hf_contrastive.training.clustering import ClusterMemoryBankCallback
    from hf_contrastive.training.gradient_cache import cached_backward
    from hf_contrastive.training.language_model import LanguageModelTrainer
    from hf_contrastive.training.monitors import CollapseWarning, NonFiniteLossError
    from hf_contrastive.training.recipe_arguments import parse_recipe_arguments
    from hf_contrastive.training.recommender import RecommenderTrainer
    from hf_contrastive.training.reports import batch_report, final_report
    from hf_contrastive.training.reward_model import GoalConditionedRewardTrainer
    from hf_contrastive.training.trainer import ContrastiveTrainer
    from hf_contrastive.training.training_arguments import ContrastiveTrainingArguments
    from hf_contrastive.training.unwrap import unwrap_model


__getattr__ = import_later(__name__, _PUBLIC_NAMES)
