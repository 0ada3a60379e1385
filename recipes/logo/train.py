"""Logo identification: train one vector of picture and text on views of brands, recognise other brands seen once, save.

accelerate launch recipes/logo/train.py recipes/logo/glyphs.yaml
"""

from __future__ import annotations

from hf_contrastive import LogoImageProcessor, get_system
from hf_contrastive.recipes import logos


EXAMPLE = """accelerate launch recipes/logo/train.py recipes/logo/wirld.yaml --dataset_path crops.csv --references_path known.csv \\
    --query_path crops_to_name.csv --distractors_path wirld_pictures
accelerate launch recipes/logo/train.py --dataset_path my_logos.csv --brand_column company --vision microsoft/resnet-50 \\
    --test_fraction 0.1 --per_device_train_batch_size 64"""


def main() -> None:
    # data, model, training, measuring and saving: hf_contrastive/recipes/logos.py
    logos.run(
        get_system("logo"),
        LogoImageProcessor,
        description="Train the logo encoder (https://arxiv.org/abs/2211.12926), measure verification and one-shot identification.",
        example=EXAMPLE,
    )


if __name__ == "__main__":
    main()
