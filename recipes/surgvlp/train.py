"""SurgVLP: train an image encoder and a text encoder on clips of narrated videos and two transcripts, measure them, save them.

accelerate launch recipes/surgvlp/train.py recipes/surgvlp/glyphs.yaml
"""

from __future__ import annotations

from hf_contrastive import get_system
from hf_contrastive.recipes import narrations


EXAMPLE = """accelerate launch recipes/surgvlp/train.py recipes/surgvlp/surgical.yaml --dataset_path surgical_lectures
accelerate launch recipes/surgvlp/train.py --dataset_path my_lectures --train_split train --test_split val \\
    --vision microsoft/resnet-50 --text emilyalsentzer/Bio_ClinicalBERT --objective paper"""


def main() -> None:
    # data, model, training, measuring and saving: hf_contrastive/recipes/narrations.py
    narrations.run(
        get_system("surgvlp"),
        description="Train SurgVLP (https://arxiv.org/abs/2307.15220) on clips with the sentences of two transcripts, measure retrieval.",
        example=EXAMPLE,
    )


if __name__ == "__main__":
    main()
