"""LightGCN: train a recommender on an interaction log, rank the whole catalogue, save it.

accelerate launch recipes/lightgcn/train.py recipes/lightgcn/planted.yaml
"""

from __future__ import annotations

from hf_contrastive import get_system
from hf_contrastive.recipes import recommendations


EXAMPLE = """accelerate launch recipes/lightgcn/train.py recipes/lightgcn/planted.yaml --num_layers 2
accelerate launch recipes/lightgcn/train.py recipes/lightgcn/planted.yaml --dataset_path my_log.csv --user_core 5 --item_core 5"""


def main() -> None:
    # log, training, ranking and saving are the same for all recommenders: hf_contrastive/recipes/recommendations.py
    recommendations.run(
        get_system("lightgcn"),
        description="Train LightGCN (https://arxiv.org/abs/2002.02126) on an interaction log, rank the whole catalogue, save it.",
        example=EXAMPLE,
    )


if __name__ == "__main__":
    main()
