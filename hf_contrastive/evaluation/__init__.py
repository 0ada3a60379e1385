"""Evaluation of embeddings, recommendations, generated text and rewards: functions of arrays and texts; no model is known here.

The random draws take a seed, nothing touches the global generators, and memory never grows with the product of queries
and gallery.
"""

from hf_contrastive.evaluation.geometry import (
    alignment,
    effective_rank,
    embedding_std,
    positive_negative_similarity,
    uniformity,
)
from hf_contrastive.evaluation.intervals import bootstrap_interval
from hf_contrastive.evaluation.linear import linear_probe
from hf_contrastive.evaluation.neighbours import knn_accuracy, knn_predict, nearest_neighbours, one_shot_accuracy
from hf_contrastive.evaluation.recommendation import rank_items, recommendation_metrics
from hf_contrastive.evaluation.retrieval import retrieval_metrics
from hf_contrastive.evaluation.reward import (
    FilteredVote,
    answer_metrics,
    auroc,
    auroc_within,
    filtered_majority_vote,
    min_q_values,
    pairwise_accuracy,
    partial_auroc,
)
from hf_contrastive.evaluation.text import (
    coherence,
    continuation_log_probability,
    diversity,
    isotropy,
    isotropy_of_texts,
    mauve,
    repetition,
)


__all__ = [
    "FilteredVote",
    "alignment",
    "answer_metrics",
    "auroc",
    "auroc_within",
    "bootstrap_interval",
    "coherence",
    "continuation_log_probability",
    "diversity",
    "effective_rank",
    "embedding_std",
    "filtered_majority_vote",
    "isotropy",
    "isotropy_of_texts",
    "knn_accuracy",
    "knn_predict",
    "linear_probe",
    "mauve",
    "min_q_values",
    "nearest_neighbours",
    "one_shot_accuracy",
    "pairwise_accuracy",
    "partial_auroc",
    "positive_negative_similarity",
    "rank_items",
    "recommendation_metrics",
    "repetition",
    "retrieval_metrics",
    "uniformity",
]
