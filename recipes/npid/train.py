"""NPID: train an image encoder without labels against a memory bank, measure it, save it.

accelerate launch recipes/npid/train.py recipes/npid/digits.yaml
"""

from __future__ import annotations

from hf_contrastive import ClusterMemoryBankCallback, get_system
from hf_contrastive.recipes import arms


# one view of each image, as in the paper, and twice as many steps for the same number of views; the temperatures are the papers'
ARMS = {
    "simclr": arms.Arm("SimCLR", "simclr", {"temperature": 0.2}),
    "npid": arms.Arm("NPID", "npid", num_views=1),
    "interclr_npid": arms.Arm("InterCLR on NPID", "interclr", {"base": "npid"}, num_views=1),
}
EXAMPLE = """accelerate launch recipes/npid/train.py recipes/npid/digits.yaml --num_negatives 256
accelerate launch recipes/npid/train.py recipes/npid/small.yaml --dataset_path my_photos --arms simclr npid"""


def cluster(model, dataset, pipeline):
    """What the training of InterCLR needs."""
    return [ClusterMemoryBankCallback(dataset, pipeline.eval_collator)]


def main() -> None:
    # data, model, training, measuring and saving are the same for all systems of this family: hf_contrastive/recipes/arms.py
    arms.run(
        get_system("npid"),
        description="Train NPID (https://arxiv.org/abs/1805.01978) on images, measure the features, save the encoder.",
        example=EXAMPLE,
        arms=ARMS,
        default_arms=["npid"],
        prepare={"interclr": cluster},
    )


if __name__ == "__main__":
    main()
