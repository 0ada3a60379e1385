"""Matrix factorisation: train a recommender on an interaction log, rank the whole catalogue, save it.

accelerate launch recipes/mf/train.py recipes/mf/planted.yaml
"""

from __future__ import annotations

from hf_contrastive import get_system
from hf_contrastive.recipes import recommendations


EXAMPLE = """accelerate launch recipes/mf/train.py recipes/mf/planted.yaml --hidden_size 128
accelerate launch recipes/mf/train.py recipes/mf/planted.yaml --dataset_path my_log.csv --user_core 5 --item_core 5"""


def main() -> None:
    # log, training, ranking and saving are the same for all recommenders: hf_contrastive/recipes/recommendations.py
    recommendations.run(
        get_system("mf"),
        description="Train matrix factorisation (https://arxiv.org/abs/1205.2618) on an interaction log, rank the whole catalogue, save it.",
        example=EXAMPLE,
    )


if __name__ == "__main__":
    main()
