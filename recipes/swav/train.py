"""SwAV: train an image encoder without labels by swapped prediction of prototype assignments, measure it, save it.

accelerate launch recipes/swav/train.py recipes/swav/digits.yaml
"""

from __future__ import annotations

from hf_contrastive import get_system
from hf_contrastive.recipes import arms


ARMS = {
    "simclr": arms.Arm("SimCLR", "simclr", {"temperature": 0.2}),
    "no_crops": arms.Arm("SwAV, 2 views", "swav", crops=False),
    "swav": arms.Arm("SwAV", "swav"),
}
EXAMPLE = """accelerate launch recipes/swav/train.py recipes/swav/digits.yaml --num_prototypes 60
accelerate launch recipes/swav/train.py recipes/swav/small.yaml --dataset_path my_photos --arms simclr swav"""


def main() -> None:
    # data, model, training, measuring and saving are the same for all systems of this family: hf_contrastive/recipes/arms.py
    arms.run(
        get_system("swav"),
        description="Train SwAV (https://arxiv.org/abs/2006.09882) on images, measure the features, save the encoder.",
        example=EXAMPLE,
        arms=ARMS,
    )


if __name__ == "__main__":
    main()
