"""Two SimCLR views of an image: images per second on one core, against lightly's SimCLRTransform.

    python benchmarks/augmentation.py [--rounds 15]

Both get the same decoded images and the same settings (crop, flip, jitter, grey, blur, ImageNet's mean and std) and use
one thread. Install lightly beside this package first: pip install -e ".[bench]"
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from image_settings import DIFFERENCES, lightly_views, make_images, our_views, setting


OURS, FROM_ARRAYS, PEER = "hf_contrastive", "from arrays", "lightly"
# side in pixels, images a round
SIZES = ((32, 256), (96, 96), (224, 24))
GOAL = 1.0


def measure(size: int, count: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of every round for `count` images of this side, by method."""
    images, indices, epochs = make_images(size, count), list(range(count)), itertools.count()
    arrays = [np.array(image) for image in images]
    views, transform = our_views(size), lightly_views(size)

    def ours(source: list[Any]) -> torch.Tensor:
        return views(source, indices, next(epochs))

    methods: dict[str, Callable[[], torch.Tensor]] = {OURS: lambda: ours(images), FROM_ARRAYS: lambda: ours(arrays)}
    if transform is not None:
        # all pairs of views into one tensor: what a collator does with them
        methods[PEER] = lambda: torch.stack([torch.stack(pair) for pair in map(transform, images)])
    for name, method in methods.items():
        shape = tuple(method().shape)
        if shape != (count, 2, 3, size, size):
            raise SystemExit(f"{name} makes views of shape {shape}")
    return common.alternate(methods, rounds)


def section(rounds: int) -> str:
    """Measure every size and write it down."""
    rows, goals = [], []
    for size, count in SIZES:
        seconds = measure(size, count, rounds)
        speed = {name: f"{count / statistics.median(values):.0f}" for name, values in seconds.items()}
        ratio = "-"
        if PEER in seconds:
            values = common.ratio(seconds[PEER], seconds[OURS])
            ratio = common.format_ratio(values)
            goals.append(f"side {size}: {common.verdict(values[0], GOAL)}")
        rows.append(
            [f"{size} x {size}, {setting(size)}", speed[OURS], speed[FROM_ARRAYS], speed.get(PEER, "absent"), ratio]
        )
        print(rows[-1], flush=True)
    reached = "; ".join(goals) or "not measured, lightly is absent"
    header = ["views", f"{OURS}, images/s", f"{FROM_ARRAYS}, images/s", f"{PEER}, images/s", f"{OURS} / {PEER}"]
    return "\n\n".join(
        [
            "## Augmentation",
            common.facts("augmentation.py", ["torch", "torchvision", "pillow", "lightly", "hf-contrastive"], 1),
            "Images per second of one core; of each image two views are made and put into one tensor. Both get the same "
            f"decoded pictures ({FROM_ARRAYS}: this library with arrays in place of Pillow's images, as `PreloadedImages` "
            f"holds them). Medians of {common.count(rounds, 'round')} in turns; the ratio is of speeds, round by round: median (smallest to "
            f"largest). {DIFFERENCES}",
            common.table(header, rows),
            common.goals([f"at least {GOAL:g} x lightly's images per second of one core: {reached}."]),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="rounds that count for each size (default: 15)")
    parser.add_argument("--output", type=Path, default=common.RESULTS, help="file to write (default: RESULTS.md)")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {options.rounds}")
    torch.set_num_threads(1)
    common.write_section(options.output, "augmentation", section(options.rounds))
    print(f"written: section 'augmentation' of {options.output.name}")


if __name__ == "__main__":
    main()
