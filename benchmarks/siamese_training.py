"""Training MoCo, BYOL, SimSiam and SwAV on a ResNet-18: images per second against lightly.

    python benchmarks/siamese_training.py [--rounds 5] [--methods moco byol simsiam swav]

This library's side is SimCLRViews in a MultiViewCollator and the system's ForPreTraining class, with what it does after every
optimiser step. lightly's side is the loop of its example for the method. Both get the same pictures, view settings, backbone
class and first weights, sizes of heads, queue and prototypes, optimiser, batch size, data-loader workers and threads. (For
SimCLR see simclr_training.py.)

Install lightly beside this package first: pip install -e ".[bench]"
"""

from __future__ import annotations

import argparse
import copy
import importlib
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import torch
from image_settings import DIFFERENCES, lightly_views, make_images, our_views, setting
from simclr_training import LEARNING_RATE, OURS, PEER, RESNET_18, WIDTH, Clock, Rows, TransformedRows, epoch, loader
from torch import nn

from hf_contrastive import (
    BYOLConfig,
    BYOLForPreTraining,
    MoCoConfig,
    MoCoForPreTraining,
    MultiViewCollator,
    SimSiamConfig,
    SimSiamForPreTraining,
    SwAVConfig,
    SwAVForPreTraining,
)


METHODS = ("moco", "byol", "simsiam", "swav")
HIDDEN, OUT, PREDICTOR_HIDDEN = 512, 128, 512
QUEUE, PROTOTYPES, TEMPERATURE = 4096, 512, 0.1
MOMENTUM = 0.99
GOAL = 1.0


def our_model(method: str) -> Any:
    """This library's system with the sizes of the comparison."""
    head: dict[str, Any] = {"backbone_config": RESNET_18, "projection_dims": [HIDDEN, OUT]}
    if method == "moco":
        config = MoCoConfig(**head, queue_size=QUEUE, encoder_momentum=MOMENTUM, temperature=TEMPERATURE)
        return MoCoForPreTraining(config)
    if method == "byol":
        config = BYOLConfig(**head, predictor_hidden_dim=PREDICTOR_HIDDEN, encoder_momentum=MOMENTUM)
        return BYOLForPreTraining(config)
    if method == "simsiam":
        head["projection_dims"] = [HIDDEN, HIDDEN, OUT]
        return SimSiamForPreTraining(SimSiamConfig(**head, predictor_hidden_dim=PREDICTOR_HIDDEN // 8))
    return SwAVForPreTraining(SwAVConfig(**head, num_prototypes=PROTOTYPES, temperature=TEMPERATURE))


class Peer(nn.Module):
    """lightly's side of a method: backbone and heads as in its example; `step` is its loss of one batch."""

    def __init__(self, method: str, backbone: Any) -> None:
        super().__init__()
        heads = importlib.import_module("lightly.models.modules.heads")
        losses = importlib.import_module("lightly.loss")
        self.utils = importlib.import_module("lightly.models.utils")
        self.method = method
        self.backbone = backbone
        if method == "moco":
            self.projection_head = heads.MoCoProjectionHead(WIDTH, HIDDEN, OUT)
            self.criterion = losses.NTXentLoss(temperature=TEMPERATURE, memory_bank_size=(QUEUE, OUT))
        elif method == "byol":
            self.projection_head = heads.BYOLProjectionHead(WIDTH, HIDDEN, OUT)
            self.prediction_head = heads.BYOLPredictionHead(OUT, PREDICTOR_HIDDEN, OUT)
            self.criterion = losses.NegativeCosineSimilarity()
        elif method == "simsiam":
            self.projection_head = heads.SimSiamProjectionHead(WIDTH, HIDDEN, OUT)
            self.prediction_head = heads.SimSiamPredictionHead(OUT, PREDICTOR_HIDDEN // 8, OUT)
            self.criterion = losses.NegativeCosineSimilarity()
        else:
            self.projection_head = heads.SwaVProjectionHead(WIDTH, HIDDEN, OUT)
            self.prototypes = heads.SwaVPrototypes(OUT, PROTOTYPES)
            self.criterion = losses.SwaVLoss(temperature=TEMPERATURE)
        if method in ("moco", "byol"):
            self.backbone_momentum = copy.deepcopy(self.backbone)
            self.projection_head_momentum = copy.deepcopy(self.projection_head)
            self.utils.deactivate_requires_grad(self.backbone_momentum)
            self.utils.deactivate_requires_grad(self.projection_head_momentum)

    def project(self, x: torch.Tensor) -> torch.Tensor:
        return self.projection_head(self.backbone(pixel_values=x).last_hidden_state.mean((2, 3)))

    def project_momentum(self, x: torch.Tensor) -> torch.Tensor:
        features = self.backbone_momentum(pixel_values=x).last_hidden_state.mean((2, 3))
        return self.projection_head_momentum(features).detach()

    def step(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        if self.method in ("moco", "byol"):
            self.utils.update_momentum(self.backbone, self.backbone_momentum, m=MOMENTUM)
            self.utils.update_momentum(self.projection_head, self.projection_head_momentum, m=MOMENTUM)
        if self.method == "moco":
            return self.criterion(self.project(first), self.project_momentum(second))
        if self.method == "byol":
            p0, p1 = (self.prediction_head(self.project(view)) for view in (first, second))
            z0, z1 = (self.project_momentum(view) for view in (first, second))
            return 0.5 * (self.criterion(p0, z1) + self.criterion(p1, z0))
        if self.method == "simsiam":
            z0, z1 = self.project(first), self.project(second)
            p0, p1 = self.prediction_head(z0), self.prediction_head(z1)
            return 0.5 * (self.criterion(z0.detach(), p1) + self.criterion(z1.detach(), p0))
        self.prototypes.normalize()
        normal = [nn.functional.normalize(self.project(view), dim=1, p=2) for view in (first, second)]
        return self.criterion([self.prototypes(view) for view in normal], [])


class Stepper:
    """An optimiser with what a system of this library does around each step."""

    def __init__(self, model: Any) -> None:
        self.model = model
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.SGD(trained, lr=LEARNING_RATE)

    def step(self) -> None:
        self.model.before_optimizer_step()
        self.optimizer.step()
        self.model.after_optimizer_step()

    def zero_grad(self) -> None:
        self.optimizer.zero_grad()


def sides(method: str, options: argparse.Namespace) -> dict[str, Callable[[], Clock]]:
    """An epoch of each side; only this library's where lightly is not installed."""
    torch.manual_seed(0)
    images = make_images(options.size, options.batch_size * options.steps)
    model = our_model(method).train()
    backbone = copy.deepcopy(model.backbone)
    batches = loader(Rows(images), options.batch_size, options.workers, MultiViewCollator(our_views(options.size)))
    stepper: Any = Stepper(model)
    found = {OURS: epoch(batches, lambda batch: model(batch["pixel_values"]).loss, stepper)}
    transform = lightly_views(options.size)
    if transform is not None:
        peer = Peer(method, backbone).train()
        peer_batches = loader(TransformedRows(images, transform), options.batch_size, options.workers)
        trained = [parameter for parameter in peer.parameters() if parameter.requires_grad]

        def peer_loss(batch: Any) -> torch.Tensor:
            (first, second), _ = batch
            return peer.step(first, second)

        found[PEER] = epoch(peer_batches, peer_loss, torch.optim.SGD(trained, lr=LEARNING_RATE))
    return found


def report(rows: list[list[Any]], reached: list[str], options: argparse.Namespace) -> str:
    """The section."""
    header = ["method", "library", "images/s", f"speed / {PEER}", "waiting for views"]
    result = "; ".join(reached) or "not measured, lightly is absent"
    packages = ["torch", "transformers", "lightly", "hf-contrastive"]
    return "\n\n".join(
        [
            "## Training MoCo, BYOL, SimSiam and SwAV",
            common.facts("siamese_training.py", packages, options.threads),
            f"ResNet-18 (transformers' `ResNetModel` with basic layers, on both sides the same class and first weights), two "
            f"views of {options.size} x {options.size} ({setting(options.size)}), {options.steps} steps of "
            f"{options.batch_size} images a round, {common.count(options.workers, 'worker')}; projection {HIDDEN}-{OUT}, MoCo's "
            f"queue {QUEUE}, BYOL's predictor {PREDICTOR_HIDDEN}, SwAV with {PROTOTYPES} prototypes and no small crops; SGD, "
            f"float32, on the CPU (not measured on GPU). {common.count(options.rounds, 'round')} in turns after one to warm up; "
            "the ratio is of speeds, round by round: median (smallest to largest).",
            f"The network passes are the same on both sides and take most of the time. {DIFFERENCES}",
            common.table(header, rows),
            common.goals([f"at least {GOAL:g} x lightly's images per second, ResNet-18 on the CPU: {result}."]),
        ]
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="default: all")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count for each method (default: 5)")
    parser.add_argument("--size", type=int, default=32, help="side of the views in pixels (default: 32)")
    parser.add_argument("--batch_size", type=int, default=128, help="images (default: 128)")
    parser.add_argument("--steps", type=int, default=8, help="of a round (default: 8)")
    parser.add_argument("--workers", type=int, default=0, help="data-loader workers (default: 0)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the training (default: 1)")
    parser.add_argument("--output", type=Path, default=common.RESULTS, help="file to write (default: RESULTS.md)")
    return parser.parse_args()


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    rows, reached = [], []
    for method in options.methods:
        clocks = common.take_turns(sides(method, options), options.rounds)
        seconds = {name: [clock.total for clock in of_side] for name, of_side in clocks.items()}
        for name, of_side in clocks.items():
            speed = options.batch_size * options.steps / statistics.median(seconds[name])
            waiting = statistics.median(clock.seconds["data"] / clock.total for clock in of_side)
            ratio = "1" if name == PEER else "-"
            if name == OURS and PEER in seconds:
                values = common.ratio(seconds[PEER], seconds[OURS])
                ratio = common.format_ratio(values)
                reached.append(f"{method}: {common.verdict(values[0], GOAL)}")
            rows.append([method, name, f"{speed:.0f}", ratio, f"{100 * waiting:.0f} %"])
            print(rows[-1], flush=True)
        # after every method, so that a run that is cut short leaves what it has
        common.write_section(options.output, "siamese_training", report(rows, reached, options))
    print(f"written: section 'siamese_training' of {options.output.name}", flush=True)


if __name__ == "__main__":
    main()
