"""Training SimCLR on a ResNet-18: images per second against lightly, and where the time of a step goes.

    python benchmarks/simclr_training.py [--rounds 5]

This library's side is its own pieces as a user puts them together: SimCLRViews in a MultiViewCollator, and
SimCLRForPreTraining. lightly's side is the loop of its SimCLR example: SimCLRTransform in the dataset, one pass of the
backbone a view, SimCLRProjectionHead, NTXentLoss. Both get the same pictures, view settings, backbone class and first
weights, sizes of the head, optimiser, batch size, data-loader workers and threads.

Install lightly beside this package first: pip install -e ".[bench]"
"""

from __future__ import annotations

import argparse
import copy
import importlib
import math
import statistics
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import common
import torch
from image_settings import DIFFERENCES, lightly_views, make_images, our_views, setting
from torch import nn
from torch.utils.data import DataLoader, Dataset

from hf_contrastive import MultiViewCollator, SimCLRConfig, SimCLRForPreTraining


OURS, PEER = "hf_contrastive", "lightly"
# side in pixels, batch size, steps a round
SIZES = ((32, 128, 8), (96, 64, 4))
RESNET_18 = {
    "model_type": "resnet",
    "layer_type": "basic",
    "embedding_size": 64,
    "hidden_sizes": [64, 128, 256, 512],
    "depths": [2, 2, 2, 2],
}
WIDTH, HIDDEN, OUT = 512, 512, 128
TEMPERATURE = 0.5
LEARNING_RATE = 0.06
PARTS = ("data", "forward", "backward", "optimizer")
GOAL = 1.0


@dataclass
class Clock:
    """Seconds of the parts of one round."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))

    @contextmanager
    def part(self, name: str) -> Generator[None, None, None]:
        start = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - start

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


class Rows(Dataset):
    """Decoded pictures as rows of a dataset, what `load_images` gives."""

    def __init__(self, images: list[Any]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.images[index], "index": index}


class TransformedRows(Rows):
    """The same pictures with a transform in the dataset, as lightly and torchvision have it."""

    def __init__(self, images: list[Any], transform: Callable[[Any], list[torch.Tensor]]) -> None:
        super().__init__(images)
        self.transform = transform

    def __getitem__(self, index: int) -> Any:
        return self.transform(self.images[index]), index


class LightlySimCLR(nn.Module):
    """Backbone and head as in lightly's example; the backbone is the one of the other side."""

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        heads = importlib.import_module("lightly.models.modules.heads")
        self.backbone = backbone
        self.projection_head = heads.SimCLRProjectionHead(WIDTH, HIDDEN, OUT)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.projection_head(self.backbone(pixel_values=x).last_hidden_state.mean((2, 3)))


def loader(rows: Dataset, batch_size: int, workers: int, collate: Any = None) -> DataLoader:
    return DataLoader(
        rows,
        batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=collate,
    )


def epoch(
    batches: DataLoader, loss_of: Callable[[Any], torch.Tensor], optimizer: torch.optim.Optimizer
) -> Callable[[], Clock]:
    """The training loop of both sides: one pass over the pictures, from an idle data loader to the last step."""

    def run() -> Clock:
        clock = Clock()
        with clock.part("data"):
            iterator = iter(batches)
        for _ in range(len(batches)):
            with clock.part("data"):
                batch = next(iterator)
            with clock.part("forward"):
                loss = loss_of(batch)
            with clock.part("backward"):
                loss.backward()
            with clock.part("optimizer"):
                optimizer.step()
                optimizer.zero_grad()
            if not math.isfinite(loss.item()):
                raise SystemExit("the loss is not finite")
        return clock

    return run


def sides(size: int, batch_size: int, steps: int, workers: int) -> dict[str, Callable[[], Clock]]:
    """An epoch of each side; only this library's where lightly is not installed."""
    torch.manual_seed(0)
    images = make_images(size, batch_size * steps)
    # lightly's head ends in a batch norm, so this one does too
    config = SimCLRConfig(
        backbone_config=RESNET_18,
        projection_dims=[HIDDEN, OUT],
        projection_last_batch_norm=True,
        temperature=TEMPERATURE,
    )
    model = SimCLRForPreTraining(config).train()
    backbone = copy.deepcopy(model.backbone)
    batches = loader(Rows(images), batch_size, workers, MultiViewCollator(our_views(size)))
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    methods = {OURS: epoch(batches, lambda batch: model(batch["pixel_values"]).loss, optimizer)}

    transform = lightly_views(size)
    if transform is not None:
        peer = LightlySimCLR(backbone).train()
        loss = importlib.import_module("lightly.loss").NTXentLoss(temperature=TEMPERATURE)
        peer_batches = loader(TransformedRows(images, transform), batch_size, workers)
        peer_optimizer = torch.optim.SGD(peer.parameters(), lr=LEARNING_RATE)

        def peer_loss(batch: Any) -> torch.Tensor:
            (first, second), _ = batch
            return loss(peer(first), peer(second))

        methods[PEER] = epoch(peer_batches, peer_loss, peer_optimizer)
    return methods


def sections(options: argparse.Namespace) -> Iterator[str]:
    """Measure; the section after every setting, so that a run that is cut short leaves what it has."""
    rows, reached = [], []
    for size, batch_size, steps in SIZES:
        for workers in options.workers if size in options.sizes else []:
            clocks = common.take_turns(sides(size, batch_size, steps, workers), options.rounds)
            seconds = {name: [clock.total for clock in of_side] for name, of_side in clocks.items()}
            for name, of_side in clocks.items():
                shares = [statistics.median(clock.seconds[part] / clock.total for clock in of_side) for part in PARTS]
                speed = batch_size * steps / statistics.median(seconds[name])
                ratio = "1" if name == PEER else "-"
                if name == OURS and PEER in seconds:
                    values = common.ratio(seconds[PEER], seconds[OURS])
                    ratio = common.format_ratio(values)
                    place = f"{size} x {size}, {common.count(workers, 'worker')}"
                    text = f"{place}: {common.verdict(values[0], GOAL)}"
                    if values[0] < GOAL:
                        network = statistics.median(1 - clock.seconds["data"] / clock.total for clock in of_side)
                        text += (
                            f" (rounds {values[1]:.2f} to {values[2]:.2f}; {100 * network:.0f} % of the time goes to the "
                            "network, the same on both sides)"
                        )
                    reached.append(text)
                percent = [f"{100 * share:.0f} %" for share in shares]
                rows.append([f"{size} x {size}", workers, name, f"{speed:.0f}", ratio, *percent])
                print(rows[-1], flush=True)
            yield report(rows, reached, options)


def report(rows: list[list[Any]], reached: list[str], options: argparse.Namespace) -> str:
    """The section."""
    header = ["views", "workers", "library", "images/s", f"speed / {PEER}", "waiting for views", *PARTS[1:]]
    used = [f"{size} x {size} ({setting(size)}): {steps} steps of {batch} images" for size, batch, steps in SIZES]
    result = "; ".join(reached) or "not measured, lightly is absent"
    packages = ["torch", "transformers", "lightly", "hf-contrastive"]
    return "\n\n".join(
        [
            "## SimCLR training",
            common.facts("simclr_training.py", packages, options.threads),
            "ResNet-18 (transformers' `ResNetModel` with basic layers, on both sides the same class and first weights), head "
            f"{WIDTH}-{HIDDEN}-{OUT} with batch norm, NT-Xent at temperature {TEMPERATURE:g}, SGD, float32, on the CPU (not "
            f"measured on GPU). A round is one epoch, from an idle data loader on: {'; '.join(used)}. "
            f"{common.count(options.rounds, 'round')} in turns after one to warm up; the ratio is of speeds, round by round: "
            "median (smallest to largest). Workers of the data loader make views beside the training, and only the waiting "
            "for them counts; without workers the training makes them itself.",
            f"This library runs both views through the network in one pass, lightly's example one after the other. {DIFFERENCES}",
            common.table(header, rows),
            common.goals([f"at least {GOAL:g} x lightly's images per second, ResNet-18 on the CPU: {result}."]),
        ]
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count for each setting (default: 5)")
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[0, 1], help="data-loader workers (default: 0 and 1)"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the training (default: 1)")
    known = [size for size, *_ in SIZES]
    parser.add_argument("--sizes", type=int, nargs="+", choices=known, default=known, help="sides in pixels")
    parser.add_argument("--output", type=Path, default=common.RESULTS, help="file to write (default: RESULTS.md)")
    options = parser.parse_args()
    if options.rounds < 1 or min(options.workers) < 0 or options.threads < 1:
        parser.error("--rounds and --threads must be at least 1 and --workers at least 0")
    return options


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    for text in sections(options):
        common.write_section(options.output, "simclr_training", text)
        print(f"written: section 'simclr_training' of {options.output.name}", flush=True)


if __name__ == "__main__":
    main()
