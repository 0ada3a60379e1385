"""MOFI: train an image encoder and a text encoder on images of entities, measure retrieval of unseen entities, save them.

accelerate launch recipes/mofi/train.py recipes/mofi/glyphs.yaml
"""

from __future__ import annotations

from hf_contrastive import MofiImageProcessor, get_system
from hf_contrastive.recipes import entities


EXAMPLE = """accelerate launch recipes/mofi/train.py recipes/mofi/paper.yaml --dataset_path FOLDER_OF_BUILD_ENTITIES
accelerate launch recipes/mofi/train.py --dataset_path logos.parquet --entity_column brand_id --name_column brand \\
    --pair openai/clip-vit-base-patch16 --image_size 224 --learning_rate 1e-5"""


def main() -> None:
    # data, arms, measuring and saving: hf_contrastive/recipes/entities.py
    entities.run(
        get_system("mofi"),
        MofiImageProcessor,
        description="Train MOFI (https://arxiv.org/abs/2306.07952) on images of entities, measure retrieval of entities that it has not "
        "seen.",
        example=EXAMPLE,
    )


if __name__ == "__main__":
    main()
