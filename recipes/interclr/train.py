"""InterCLR: train an image encoder whose positives also come from other images of an online cluster, measure it, save it.

accelerate launch recipes/interclr/train.py recipes/interclr/digits.yaml
"""

from __future__ import annotations

from hf_contrastive import ClusterMemoryBankCallback, get_system
from hf_contrastive.recipes import arms


ARMS = {
    "moco": arms.Arm("MoCo v2", "moco"),
    "hard": arms.Arm("InterCLR, hard negatives", "interclr", {"negative_sampling": "hard"}),
    "positive_margin": arms.Arm("InterCLR, margin +0.5", "interclr", {"inter_margin": 0.5}),
    "offline": arms.Arm("InterCLR, offline labels", "interclr", {"online_labels": False}),
    "interclr": arms.Arm("InterCLR", "interclr"),
}
EXAMPLE = """accelerate launch recipes/interclr/train.py recipes/interclr/digits.yaml --num_clusters 30
accelerate launch recipes/interclr/train.py recipes/interclr/small.yaml --dataset_path my_photos --arms moco interclr"""


def cluster(model, dataset, pipeline):
    """What the training of InterCLR needs."""
    return [ClusterMemoryBankCallback(dataset, pipeline.eval_collator)]


def main() -> None:
    # data, model, training, measuring and saving are the same for all systems of this family: hf_contrastive/recipes/arms.py
    arms.run(
        get_system("interclr"),
        description="Train InterCLR (https://arxiv.org/abs/2008.11702) on images, measure the features, save the encoder.",
        example=EXAMPLE,
        arms=ARMS,
        prepare={"interclr": cluster},
    )


if __name__ == "__main__":
    main()
