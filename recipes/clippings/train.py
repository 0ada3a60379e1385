"""CLIPPINGS: align images with texts, then train pooled embeddings of records, link them to known ones, save.

accelerate launch recipes/clippings/train.py recipes/clippings/glyphs.yaml
"""

from __future__ import annotations

from hf_contrastive import ClippingsImageProcessor, get_system
from hf_contrastive.recipes import linkage


EXAMPLE = """accelerate launch recipes/clippings/train.py recipes/clippings/japanese_firms.yaml --dataset_path crops.csv \\
    --pool_path known.csv --query_path crops_to_link.csv
accelerate launch recipes/clippings/train.py --dataset_path my_records.csv --image_column crop --text_column ocr \\
    --label_column entity --pair openai/clip-vit-base-patch32 --hard_negatives true --per_device_train_batch_size 153"""


def main() -> None:
    # data, both stages, measuring and saving: hf_contrastive/recipes/linkage.py
    linkage.run(
        get_system("clippings"),
        ClippingsImageProcessor,
        description="Train CLIPPINGS (https://arxiv.org/abs/2304.03464) in two stages, measure how well records are linked.",
        example=EXAMPLE,
    )


if __name__ == "__main__":
    main()
