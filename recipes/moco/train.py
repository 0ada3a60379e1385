"""MoCo v2: train an image encoder without labels against a queue of past views, measure it, save it.

accelerate launch recipes/moco/train.py recipes/moco/digits.yaml
"""

from __future__ import annotations

from hf_contrastive import get_system
from hf_contrastive.recipes import arms


ARMS = {"simclr": arms.Arm("SimCLR", "simclr"), "moco": arms.Arm("MoCo v2", "moco")}
EXAMPLE = """accelerate launch recipes/moco/train.py recipes/moco/digits.yaml --queue_size 512
accelerate launch recipes/moco/train.py recipes/moco/small.yaml --dataset_path my_photos --arms simclr moco"""


def main() -> None:
    # data, model, training, measuring and saving are the same for all systems of this family: hf_contrastive/recipes/arms.py
    arms.run(
        get_system("moco"),
        description="Train MoCo v2 (https://arxiv.org/abs/2003.04297) on images, measure the features, save the encoder.",
        example=EXAMPLE,
        arms=ARMS,
    )


if __name__ == "__main__":
    main()
