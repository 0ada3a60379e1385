"""ConVIRT: train an image encoder and a text encoder on images with their texts, measure them, save them.

accelerate launch recipes/convirt/train.py recipes/convirt/glyphs.yaml
"""

from __future__ import annotations

from hf_contrastive import get_system
from hf_contrastive.recipes import image_texts


EXAMPLE = """accelerate launch recipes/convirt/train.py recipes/convirt/mimic_cxr.yaml --dataset_path radiographs.csv
accelerate launch recipes/convirt/train.py --dataset_path my_photos --text_columns caption --vision microsoft/resnet-50 \\
    --text google-bert/bert-base-uncased --image_size 224 --test_fraction 0.1"""


def main() -> None:
    # data, model, training, measuring and saving are the same for all dual encoders: hf_contrastive/recipes/image_texts.py
    image_texts.run(
        get_system("convirt"),
        description="Train ConVIRT (https://arxiv.org/abs/2010.00747) on images with texts, measure retrieval and features.",
        example=EXAMPLE,
    )


if __name__ == "__main__":
    main()
