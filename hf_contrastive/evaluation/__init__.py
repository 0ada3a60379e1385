"""Evaluation of embeddings, recommendations, generated text and rewards: functions of arrays and texts; no model is known here.

The random draws take a seed, nothing touches the global generators, and memory never grows with the product of queries
and gallery.
"""

from hf_contrastive.evaluation.edit_distance import edit_distances, nearest_texts
from hf_contrastive.evaluation.geometry import (
    alignment,
    effective_rank,
    embedding_std,
    positive_negative_similarity,
    uniformity,
)
from hf_contrastive.evaluation.identification import identification_accuracy
from hf_contrastive.evaluation.intervals import bootstrap_interval
from hf_contrastive.evaluation.linear import linear_probe
from hf_contrastive.evaluation.linkage import (
    HardNegatives,
    Links,
    choose_clustering,
    choose_match_threshold,
    clustering_scores,
    link_to_exemplars,
    linkage_accuracy,
    mine_hard_negatives,
    single_link_clusters,
)
from hf_contrastive.evaluation.neighbours import knn_accuracy, knn_predict, nearest_neighbours, one_shot_accuracy
from hf_contrastive.evaluation.recommendation import rank_items, recommendation_metrics
from hf_contrastive.evaluation.retrieval import paired_retrieval_metrics, retrieval_metrics
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
from hf_contrastive.evaluation.verification import verification_metrics
from hf_contrastive.evaluation.videos import group_maxima, video_average_precision, video_classification_metrics
from hf_contrastive.evaluation.zero_shot import (
    zero_shot_accuracy,
    zero_shot_class_embeddings,
    zero_shot_logits,
    zero_shot_predictions,
)


__all__ = [
    "FilteredVote",
    "HardNegatives",
    "Links",
    "alignment",
    "answer_metrics",
    "auroc",
    "auroc_within",
    "bootstrap_interval",
    "choose_clustering",
    "choose_match_threshold",
    "clustering_scores",
    "coherence",
    "continuation_log_probability",
    "diversity",
    "edit_distances",
    "effective_rank",
    "embedding_std",
    "filtered_majority_vote",
    "group_maxima",
    "identification_accuracy",
    "isotropy",
    "isotropy_of_texts",
    "knn_accuracy",
    "knn_predict",
    "linear_probe",
    "link_to_exemplars",
    "linkage_accuracy",
    "mauve",
    "min_q_values",
    "mine_hard_negatives",
    "nearest_neighbours",
    "nearest_texts",
    "one_shot_accuracy",
    "paired_retrieval_metrics",
    "pairwise_accuracy",
    "partial_auroc",
    "positive_negative_similarity",
    "rank_items",
    "recommendation_metrics",
    "repetition",
    "retrieval_metrics",
    "single_link_clusters",
    "uniformity",
    "verification_metrics",
    "video_average_precision",
    "video_classification_metrics",
    "zero_shot_accuracy",
    "zero_shot_class_embeddings",
    "zero_shot_logits",
    "zero_shot_predictions",
]
