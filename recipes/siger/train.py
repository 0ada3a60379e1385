"""SIGER (a reconstruction from the abstract): train a recommender on an interaction log, rank the whole catalogue, save it.

accelerate launch recipes/siger/train.py recipes/siger/planted.yaml
"""

from __future__ import annotations

from hf_contrastive import get_system
from hf_contrastive.recipes import recommendations


EXAMPLE = """accelerate launch recipes/siger/train.py recipes/siger/planted.yaml --collaborative_share 0.3
accelerate launch recipes/siger/train.py recipes/siger/planted.yaml --dataset_path shop/ --features '{"image": "image_feat.npy"}'"""


def main() -> None:
    # log, training, ranking and saving are the same for all recommenders: hf_contrastive/recipes/recommendations.py
    recommendations.run(
        get_system("siger"),
        description="Train SIGER (a reconstruction from the abstract) (https://arxiv.org/abs/2508.06154) on an interaction log, rank the whole catalogue, save it.",
        example=EXAMPLE,
    )


if __name__ == "__main__":
    main()
