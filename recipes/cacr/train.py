"""CACR: train an image encoder without labels by weighted attraction and repulsion, measure it, save it.

accelerate launch recipes/cacr/train.py recipes/cacr/digits.yaml
"""

from __future__ import annotations

from hf_contrastive import get_system
from hf_contrastive.recipes import arms


ARMS = {
    # two views, and as many more steps: every arm sees as many views
    "simclr": arms.Arm("SimCLR", "simclr", {"temperature": 0.5}, num_views=2),
    # the ablation of the paper
    "uniform": arms.Arm("CACR, equal weights", "cacr", {"choice": "none"}),
    "cacr": arms.Arm("CACR", "cacr"),
}
EXAMPLE = """accelerate launch recipes/cacr/train.py recipes/cacr/digits.yaml --tau_neg 0.9
accelerate launch recipes/cacr/train.py recipes/cacr/small.yaml --dataset_path my_photos --imbalance linear"""


def main() -> None:
    # data, model, training, measuring and saving are the same for all systems of this family: hf_contrastive/recipes/arms.py
    arms.run(
        get_system("cacr"),
        description="Train CACR (https://arxiv.org/abs/2105.03746) on images, measure the features, save the encoder.",
        example=EXAMPLE,
        arms=ARMS,
    )


if __name__ == "__main__":
    main()
