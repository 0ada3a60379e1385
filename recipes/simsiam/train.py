"""SimSiam: train an image encoder without labels and without negatives, measure it, save it.

accelerate launch recipes/simsiam/train.py recipes/simsiam/digits.yaml
"""

from __future__ import annotations

from hf_contrastive import get_system
from hf_contrastive.recipes import arms


ARMS = {"simclr": arms.Arm("SimCLR", "simclr"), "simsiam": arms.Arm("SimSiam", "simsiam")}
EXAMPLE = """accelerate launch recipes/simsiam/train.py recipes/simsiam/digits.yaml --predictor_hidden_dim 256
accelerate launch recipes/simsiam/train.py recipes/simsiam/small.yaml --dataset_path my_photos --arms simclr simsiam"""


def main() -> None:
    # data, model, training, measuring and saving are the same for all systems of this family: hf_contrastive/recipes/arms.py
    arms.run(
        get_system("simsiam"),
        description="Train SimSiam (https://arxiv.org/abs/2011.10566) on images, measure the features, save the encoder.",
        example=EXAMPLE,
        arms=ARMS,
    )


if __name__ == "__main__":
    main()
