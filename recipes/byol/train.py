"""BYOL: train an image encoder without labels and without negatives, measure it, save it.

accelerate launch recipes/byol/train.py recipes/byol/digits.yaml
"""

from __future__ import annotations

from hf_contrastive import get_system
from hf_contrastive.recipes import arms


ARMS = {"simclr": arms.Arm("SimCLR", "simclr"), "byol": arms.Arm("BYOL", "byol")}
EXAMPLE = """accelerate launch recipes/byol/train.py recipes/byol/digits.yaml --predictor_hidden_dim 256
accelerate launch recipes/byol/train.py recipes/byol/small.yaml --dataset_path my_photos --arms simclr byol"""


def main() -> None:
    # data, model, training, measuring and saving are the same for all systems of this family: hf_contrastive/recipes/arms.py
    arms.run(
        get_system("byol"),
        description="Train BYOL (https://arxiv.org/abs/2006.07733) on images, measure the features, save the encoder.",
        example=EXAMPLE,
        arms=ARMS,
    )


if __name__ == "__main__":
    main()
