"""BM3: train a recommender on an interaction log, rank the whole catalogue, save it.

accelerate launch recipes/bm3/train.py recipes/bm3/planted.yaml
"""

from __future__ import annotations

from hf_contrastive import get_system
from hf_contrastive.recipes import recommendations


EXAMPLE = """accelerate launch recipes/bm3/train.py recipes/bm3/planted.yaml --dropout 0.3
accelerate launch recipes/bm3/train.py recipes/bm3/planted.yaml --dataset_path shop/ --features '{"image": "image_feat.npy"}'"""


def main() -> None:
    # log, training, ranking and saving are the same for all recommenders: hf_contrastive/recipes/recommendations.py
    recommendations.run(
        get_system("bm3"),
        description="Train BM3 (https://arxiv.org/abs/2207.05969) on an interaction log, rank the whole catalogue, save it.",
        example=EXAMPLE,
    )


if __name__ == "__main__":
    main()
