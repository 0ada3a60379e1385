"""Image retrieval on GPR1200: mean average precision of a trained checkpoint over a folder of images.

    python recipes/mofi/evaluate_gpr1200.py out/mofi-b16 GPR1200/images

Every image looks for the others of its category among all images, by cosine, over the full ranking. As in the official evaluation the
query itself stays in the ranking, where it is the first hit; --exclude-self leaves it out. The category of an image is the number before
the first _ of its file's name (as in GPR1200), or its folder where there are folders.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from PIL import Image

from hf_contrastive import MofiImageProcessor
from hf_contrastive.data import ImageTextScorer, image_to_array
from hf_contrastive.evaluation import retrieval_metrics
from hf_contrastive.recipes.common import plain_errors
from hf_contrastive.reporting import metrics_table


SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
# GPR1200: six sources of 200 categories each, in the order of their numbers
CATEGORIES, SOURCE = 1200, 200


def find_images(folder: Path) -> tuple[list[Path], list[str]]:
    """Images of a folder and their categories, sorted by category and name.

    Args:
        folder (`Path`): with images called `<category>_...`, or with a folder of images for each category.

    Returns:
        `(paths, categories)`.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no images, or a name without a category.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    paths = [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES]
    if not paths:
        raise ValueError(f"no images in {folder}; expected {', '.join(SUFFIXES)} files")
    found = []
    for path in paths:
        category = path.parent.name if path.parent != folder else path.name.partition("_")[0]
        if path.parent == folder and "_" not in path.name:
            raise ValueError(
                f"{path.name} does not say its category; expected <category>_<anything>{path.suffix}, or a folder for each"
            )
        found.append((int(category) if category.isdigit() else -1, category, path.name, path))
    found.sort()
    return [one[3] for one in found], [one[1] for one in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "checkpoint", help="folder or hub id of a pair of encoders of this library, or of a CLIP-like model"
    )
    parser.add_argument("images", type=Path, help="folder of the images")
    parser.add_argument(
        "--exclude-self", action="store_true", help="leave the query out of its ranking (not the official way)"
    )
    parser.add_argument(
        "--published",
        action="store_true",
        help="prepare images as the published evaluation does, whatever the checkpoint says",
    )
    parser.add_argument("--batch-size", type=int, default=64, help="images at a time (default: 64)")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: cuda where there is one"
    )
    parser.add_argument("--json", type=Path, help="file for the numbers")
    args = parser.parse_args()
    with plain_errors():
        paths, categories = find_images(args.images)
    processor = MofiImageProcessor() if args.published else None
    with plain_errors():
        scorer = ImageTextScorer.from_pretrained(
            args.checkpoint, processor, device=args.device, batch_size=args.batch_size
        )
    parts = []
    for start in range(0, len(paths), args.batch_size):
        images = [Image.fromarray(image_to_array(str(path), 3)) for path in paths[start : start + args.batch_size]]
        parts.append(scorer.embed_images(images))
    embeds = torch.cat(parts)
    found = retrieval_metrics(
        embeds,
        query_labels=categories,
        ks=(1,),
        average_precision=True,
        per_query=True,
        exclude_self=args.exclude_self,
    )
    rows = [{"images": "all", "mAP %": f"{100 * found['map']:.2f}"}]
    numbers = sorted({int(category) for category in categories}) if all(one.isdigit() for one in categories) else []
    if numbers == list(range(CATEGORIES)):
        scores = torch.as_tensor(found["per_query"]["map"])
        source = torch.tensor([int(category) // SOURCE for category in categories])
        for place in range(CATEGORIES // SOURCE):
            first = place * SOURCE
            mean = float(scores[source == place].mean())
            rows.append({"images": f"categories {first} to {first + SOURCE - 1}", "mAP %": f"{100 * mean:.2f}"})
    kept = "left out" if args.exclude_self else "left in its ranking, as in the official evaluation"
    metrics_table(rows, title=f"{len(paths)} images of {len(set(categories))} categories; the query itself is {kept}")
    if args.json:
        record = {
            "map": found["map"],
            "exclude_self": args.exclude_self,
            "images": len(paths),
            "categories": len(set(categories)),
        }
        args.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
