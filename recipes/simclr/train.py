"""SimCLR: train an image encoder without labels, measure it, save it.

accelerate launch recipes/simclr/train.py recipes/simclr/digits.yaml
"""

from __future__ import annotations

from hf_contrastive import get_system
from hf_contrastive.recipes import arms


EXAMPLE = """accelerate launch recipes/simclr/train.py recipes/simclr/cifar10.yaml --temperature 0.2
accelerate launch recipes/simclr/train.py --dataset_path my_photos --backbone vit --image_size 96 --augmentation imagenet"""


def main() -> None:
    # data, model, training, measuring and saving are the same for all systems of this family: hf_contrastive/recipes/arms.py
    arms.run(
        get_system("simclr"),
        description="Train SimCLR (https://arxiv.org/abs/2002.05709) on images, measure the features, save the encoder.",
        example=EXAMPLE,
    )


if __name__ == "__main__":
    main()
