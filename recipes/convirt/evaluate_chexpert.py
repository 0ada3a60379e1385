"""Zero-shot retrieval of ConVIRT on CheXpert 8x200: precision at 5, 10 and 50 of a trained checkpoint.

    python recipes/convirt/evaluate_chexpert.py out/convirt-mimic-cxr --lists chexpert_8x200 --images FOLDER

The lists are those of the repository yuhaozhang/convirt; the images need CheXpert's own agreement and lie below --images as their
paths in the lists say. Images and sentences are compared by their projected vectors in both tasks.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from transformers import AutoModel, AutoProcessor

from hf_contrastive.data import ProcessorTransform
from hf_contrastive.evaluation import retrieval_metrics
from hf_contrastive.models.convirt.data_convirt import read_retrieval_lists
from hf_contrastive.recipes.common import plain_errors
from hf_contrastive.reporting import metrics_table


KS = (5, 10, 50)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="folder or hub id of a dual encoder of this library")
    parser.add_argument("--lists", required=True, help="folder of the three lists")
    parser.add_argument(
        "--images", required=True, type=Path, help="folder that the paths of the lists are relative to"
    )
    parser.add_argument("--batch-size", type=int, default=32, help="images at a time (default: 32)")
    args = parser.parse_args()
    with plain_errors():
        lists = read_retrieval_lists(args.lists)
        paths = [args.images / path for path in (*lists.candidates, *lists.image_queries)]
        absent = [path for path in paths if not path.is_file()]
        if absent:
            raise FileNotFoundError(f"{len(absent)} of {len(paths)} images are not there, the first is {absent[0]}")
    model, processor = AutoModel.from_pretrained(args.checkpoint), AutoProcessor.from_pretrained(args.checkpoint)
    transform = ProcessorTransform(processor.image_processor)
    parts = []
    for start in range(0, len(paths), args.batch_size):
        parts.append(model.encode(transform([str(path) for path in paths[start : start + args.batch_size]])))
    images = torch.cat(parts)
    candidates, queries = images[: len(lists.candidates)], images[len(lists.candidates) :]
    texts = model.encode(**processor(text=list(lists.text_queries)))
    rows = []
    for task, vectors, labels in (
        ("image to image", queries, lists.image_categories),
        ("text to image", texts, lists.text_categories),
    ):
        found = retrieval_metrics(
            vectors, candidates, query_labels=labels, gallery_labels=lists.relevant, ks=(), precision_ks=KS
        )
        rows.append({"task": task, **{f"P@{k} %": f"{100 * found[f'precision@{k}']:.1f}" for k in KS}})
    share = lists.relevant[:, lists.text_categories].mean()
    rows.append({"task": "chance", **{f"P@{k} %": f"{100 * share:.1f}" for k in KS}})
    metrics_table(
        rows, title=f"CheXpert 8x200: {len(candidates)} candidates, {len(queries)} images, {len(texts)} sentences"
    )


if __name__ == "__main__":
    sys.exit(main())
