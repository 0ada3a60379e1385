"""Recommenders beside RecBole: seconds of an epoch and of full ranking, equal metrics, growth with the number of pairs.

Batches of 2048 triples, 64 numbers a row, 2 layers, Adam. RecBole runs in an environment of its own, in a process that this
script drives; both sides get the same parts of the same log, the same form of the objective and as many threads, and take turns
in one run. Systems that RecBole does not have are measured beside this library's LightGCN.

    python benchmarks/recsys.py --recbole-python OTHER_ENVIRONMENT/bin/python [--rounds 3] [--threads 1]
    python benchmarks/recsys.py --recbole-python OTHER_ENVIRONMENT/bin/python --quick --no-write

Make the other environment first, with Python 3.10 or 3.11: python -m venv OTHER_ENVIRONMENT, and in it pip install recbole==1.2.1
"scipy<1.11" "numpy==1.26.4" "pandas<2.3" "setuptools<80" kmeans-pytorch torch. Without it the comparison is left out; so is a data
set whose folder is not below --data.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import statistics
import tempfile
import time
import unittest.mock
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import common
import numpy as np
import recsys_growth
import torch
from transformers import PrinterCallback, TrainerCallback

from hf_contrastive import ContrastiveTrainingArguments
from hf_contrastive.data import InteractionDataset, TripletDataset, load_interactions
from hf_contrastive.evaluation import recommendation_metrics
from hf_contrastive.evaluation.bounded_search import BoundedSearch
from hf_contrastive.evaluation.recommendation import CPU_SCORES
from hf_contrastive.recipes.recommendations import make_config, make_model
from hf_contrastive.registry import get_system
from hf_contrastive.training import RecommenderTrainer
from hf_contrastive.training.recommender import MACRO_METRICS


OURS, LATE, WATCHED = "hf_contrastive", "hf_contrastive, trained longer", "monitor on"
PEER, PEER_BLOCKS = "RecBole", "RecBole, large blocks"
SERVER = Path(__file__).resolve().with_name("recbole_server.py")
BATCH, DIM, LAYERS, KS = 2048, 64, 2, (10, 20)
LEARNING_RATE = 1e-3
# of the files for RecBole, which knows ml-100k and would take its own
LOG = "log"

# goals: at least so many times as fast as RecBole ...
GOAL_EPOCH = {"ml-100k": 2.0, "yelp-sslrec": 4.0}
GOAL_EVALUATION = {"yelp-sslrec": 10.0}
# ... and the same metrics up to this; the goal of growth is in recsys_growth.py
GOAL_METRICS = 1e-6

_RECBOLE_GRAPH = {"penalty_form": "frobenius", "reg_weight": 1e-5, "initializer": "xavier_uniform"}


@dataclass(frozen=True)
class System:
    """A system as both sides train it: fields of our configuration, RecBole's class and settings (none: no such class)."""

    title: str
    name: str
    fields: dict[str, Any] = field(default_factory=dict)
    peer: str | None = None
    peer_settings: dict[str, Any] = field(default_factory=dict)


COMPARED = (
    System("MF", "mf", {"bpr_form": "log_sigmoid_eps", "reg_weight": 0.0, "initializer": "xavier_normal"}, peer="BPR"),
    System(
        "LightGCN",
        "lightgcn",
        {"num_layers": LAYERS, "bpr_form": "log_sigmoid_eps", **_RECBOLE_GRAPH},
        peer="LightGCN",
        peer_settings={"n_layers": LAYERS, "reg_weight": 1e-5},
    ),
    System(
        "SGL",
        "sgl",
        {
            "num_layers": LAYERS,
            "negatives": "all",
            "reduction": "sum",
            "temperature": 0.5,
            "contrastive_weight": 0.05,
            **_RECBOLE_GRAPH,
        },
        peer="SGL",
        peer_settings={"n_layers": LAYERS, "type": "ED", "drop_ratio": 0.1, "ssl_tau": 0.5, "ssl_weight": 0.05},
    ),
)
# lengths of vectors, on which the time of our ranking depends, are more alike after a long training: the setting chosen on Yelp
# (recipes/recommenders/yelp.yaml), at its rate
CHOSEN = System("LightGCN", "lightgcn", {"num_layers": LAYERS, "initializer": "xavier_uniform", "reg_weight": 1e-2})
CHOSEN_RATE = 5e-3
# MF's epochs on many rows are passes over memory: again where both sides' C library keeps what is freed, instead of asking the
# system for new pages at every step
MEMORY_KEPT = replace(COMPARED[0], title="MF, freed memory kept")
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}
LIGHTGCN = System("LightGCN", "lightgcn", {"num_layers": LAYERS})
ALONE = (
    LIGHTGCN,
    System("MF", "mf"),
    System("SGL", "sgl", {"num_layers": LAYERS}),
    System("SimGCL", "simgcl", {"num_layers": LAYERS}),
    System("DCCF", "dccf", {"num_layers": LAYERS}),
    System("BM3", "bm3", {"num_layers": LAYERS}),
    System("SIGER", "siger", {"num_layers": LAYERS}),
)
WITH_FEATURES = ("bm3", "siger")

# folder below --data, how it is cut, features
DATA: dict[str, dict[str, Any]] = {
    "ml-100k": {"split": "random"},
    "yelp-sslrec": {"split": "given"},
    "tiktok-mm": {"split": "given", "item_features": {"image": "image_feat.npy", "audio": "audio_feat.npy"}},
}


class Peer(common.Answering):
    """RecBole in its environment, somewhere else: it writes logs where it stands."""

    def __init__(self, python: str, threads: int, folder: str) -> None:
        python = os.path.abspath(python) if os.sep in python else python  # from here, not from there
        super().__init__([python, "-W", "ignore", str(SERVER), str(threads)], threads, folder)
        self.versions: str = self.ask("hello")["versions"]


# ---------------------------------------------------------------------------------------------------------- our side


class Stopwatch(TrainerCallback):
    """The time and the CPU time at the end of every epoch."""

    def __init__(self) -> None:
        self.ends: list[tuple[float, float]] = []

    def on_epoch_end(self, *args: Any, **kwargs: Any) -> None:
        self.ends.append((time.perf_counter(), time.process_time()))


class FirstTriples(TripletDataset):
    """The first steps of an epoch: histories and graph are whole."""

    limit: int | None = None

    def __len__(self) -> int:
        return super().__len__() if self.limit is None else min(self.limit, super().__len__())


class Ours:
    """A system under the trainer, with the settings of recipes/lightgcn/planted.yaml but for evaluation, checkpoints and, by default, the
    monitor of collapse, which RecBole does not have."""

    def __init__(
        self,
        system: System,
        data: InteractionDataset,
        folder: str,
        steps: int | None = None,
        monitor: bool = False,
        learning_rate: float = LEARNING_RATE,
    ) -> None:
        torch.manual_seed(0)
        self.data, self.limit = data, steps
        spec = get_system(system.name)
        self.model = make_model(spec, data, make_config(spec, data, {"hidden_size": DIM, **system.fields}))
        negatives = int("neg_item_ids" in self.model.view_inputs)
        triples = FirstTriples(*data.part("train"), data.num_users, data.num_items, num_negatives=negatives)
        triples.limit = None if steps is None else steps * BATCH
        args = ContrastiveTrainingArguments(
            folder,
            num_train_epochs=2,
            per_device_train_batch_size=BATCH,
            learning_rate=learning_rate,
            lr_scheduler_type="constant",
            max_grad_norm=0,
            dataloader_drop_last=False,
            logging_strategy="epoch",
            monitor_collapse=monitor,
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
        )
        self.watch = Stopwatch()
        self.trainer = RecommenderTrainer(
            self.model,
            args,
            train_dataset=triples,
            eval_dataset=data,
            ks=KS,
            mask="train+valid",
            callbacks=[self.watch],
        )
        self.trainer.remove_callback(PrinterCallback)
        self.drawing = 0.0
        self.losses: list[float] = []
        draw = self.model.set_epoch

        def timed(epoch: int) -> None:
            start = time.perf_counter()
            draw(epoch)
            self.drawing = time.perf_counter() - start

        object.__setattr__(self.model, "set_epoch", timed)

    def epoch(self) -> dict[str, float]:
        """Seconds from the end of one epoch to the end of the next: loading, logging and all. The first one warms up."""
        self.watch.ends = []
        self.trainer.train()
        first, second = self.watch.ends
        self.losses += [row["loss"] for row in self.trainer.state.log_history if "loss" in row]
        seconds, own = (after - before for before, after in zip(first, second, strict=True))
        return {"seconds": seconds, "cpu": own, "drawing": self.drawing}

    def train(self, epochs: int) -> None:
        """So many epochs in one go."""
        self.trainer.args.num_train_epochs = epochs
        self.trainer.train()

    def share(self) -> float:
        """Scores that a ranking computes, out of all of them."""
        searches: list[BoundedSearch] = []

        class Counted(BoundedSearch):
            def __init__(self, *args: Any) -> None:
                super().__init__(*args)
                searches.append(self)

        with unittest.mock.patch("hf_contrastive.evaluation.recommendation.BoundedSearch", Counted):
            users = self.evaluate()["metrics"]["users"]
        made = sum(search.scores_made for search in searches)
        return made / (users * self.data.num_items) if made else 1.0

    def evaluate(self) -> dict[str, Any]:
        """Final vectors, and the test part ranked."""
        self.model.vectors_ready.zero_()
        start, own = time.perf_counter(), time.process_time()
        user_x, item_x = self.model.vectors()
        metrics = self.trainer.rank(user_x, item_x, self.data, "test")
        return {"seconds": time.perf_counter() - start, "cpu": time.process_time() - own, "metrics": metrics}


# -------------------------------------------------------------------------------------------------------- measuring


@dataclass
class Epochs:
    """A system on a data set: seconds and CPU seconds of an epoch by side and round."""

    data: str
    system: System
    seconds: dict[str, list[float]]
    cpu: dict[str, list[float]]
    losses: dict[str, float]
    steps: int
    measured: int

    def ratio(self) -> tuple[float, float, float]:
        return common.ratio(self.seconds[PEER], self.seconds[OURS])


@dataclass
class Ranking:
    """Full ranking of a test part: seconds and CPU seconds by side and round, largest difference of a metric, users."""

    data: str
    system: System
    seconds: dict[str, list[float]]
    cpu: dict[str, list[float]]
    users: int
    shares: dict[str, float]
    difference: float | None = None
    examples: dict[str, tuple[float, float]] = field(default_factory=dict)

    def ratio(self, side: str, ours: str = OURS) -> tuple[float, float, float]:
        return common.ratio(self.seconds[side], self.seconds[ours])


@dataclass
class Found:
    """Everything measured so far."""

    epochs: list[Epochs] = field(default_factory=list)
    rankings: list[Ranking] = field(default_factory=list)
    alone: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    alone_cpu: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    growth: list[dict[str, float]] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)


def load(name: str, base: Path) -> InteractionDataset:
    """A log with numbers by first appearance, so that RecBole has the same catalogue."""
    folder = base / name
    options = dict(DATA[name])
    features = {key: str(folder / file) for key, file in options.pop("item_features", {}).items()}
    return load_interactions(str(folder), item_features=features or None, **options)


def write_parts(data: InteractionDataset, folder: str) -> None:
    """The parts as RecBole's files; tokens are our numbers."""
    place = Path(folder, LOG)
    place.mkdir()
    for part in ("train", "valid", "test"):
        users, items = data.part(part)
        lines = [f"{user}\t{item}\n" for user, item in zip(users.tolist(), items.tolist(), strict=True)]
        (place / f"{LOG}.{part}.inter").write_text("user_id:token\titem_id:token\n" + "".join(lines))


def whole_epochs(
    answers: Mapping[str, Sequence[Mapping[str, float]]], steps: int, measured: int, what: str = "seconds"
) -> dict[str, list[float]]:
    """Seconds of epochs of which the first steps were measured; what is drawn once an epoch is counted once."""
    return {
        side: [turn["drawing"] + (turn[what] - turn["drawing"]) * steps / measured for turn in turns]
        for side, turns in answers.items()
    }


def compare(
    name: str, data: InteractionDataset, system: System, peer: Peer | None, args: argparse.Namespace, found: Found
) -> None:
    """Epochs and, where wanted, ranking of one system on one data set."""
    steps = math.ceil(len(data.part("train")[0]) / BATCH)
    limit = args.sgl_steps if system.name == "sgl" and name != "ml-100k" else None
    limit = min(limit or steps, args.steps or steps)
    measured = min(steps, limit)
    rounds = args.rounds if name == "ml-100k" else args.long_rounds
    with tempfile.TemporaryDirectory() as folder:
        ours = Ours(system, data, folder, None if measured == steps else measured)
        turns: dict[str, Callable[[], Any]] = {OURS: ours.epoch}
        if name == "ml-100k":
            turns[WATCHED] = Ours(system, data, folder, ours.limit, monitor=True).epoch
        if peer is not None:
            write_parts(data, folder)
            settings = {
                **system.peer_settings,
                "embedding_size": DIM,
                "train_batch_size": BATCH,
                "learning_rate": LEARNING_RATE,
                "topk": list(KS),
            }
            theirs = peer.ask("prepare", model=system.peer, data=LOG, folder=folder, settings=settings)
            expected = {"users": data.num_users, "items": data.num_items, "steps": steps}
            if theirs != expected:
                raise SystemExit(f"RecBole has read {theirs}, expected {expected}: the two sides would not be alike")
            peer.ask("epoch", steps=2)  # warms up, as the first epoch of our turns does
            turns[PEER] = lambda: peer.ask("epoch", steps=measured)
        answers = common.take_turns(turns, rounds, warmup=0)
        # of the same epoch: a turn of ours has two
        losses = {OURS: ours.losses[rounds - 1], **({PEER: answers[PEER][-1]["loss"]} if peer else {})}
        found.epochs.append(
            Epochs(
                name,
                system,
                whole_epochs(answers, steps, measured),
                whole_epochs(answers, steps, measured, "cpu"),
                losses,
                steps,
                measured,
            )
        )
        print(epoch_row(found.epochs[-1]), flush=True)
        # scores are products of vectors whatever the system: where it takes minutes, one system is enough
        if name == "ml-100k" or system.name == "lightgcn":
            sides = {OURS: ours}
            if name in GOAL_EVALUATION:
                sides[LATE] = Ours(CHOSEN, data, folder, learning_rate=CHOSEN_RATE)
                sides[LATE].train(args.ranking_epochs)
            found.rankings.append(rank(name, data, system, sides, peer, rounds, folder))
            print(ranking_rows(found.rankings[-1]), flush=True)


def rank(
    name: str,
    data: InteractionDataset,
    system: System,
    ours: Mapping[str, Ours],
    peer: Peer | None,
    rounds: int,
    folder: str,
) -> Ranking:
    turns: dict[str, Callable[[], Any]] = {side: one.evaluate for side, one in ours.items()}
    if peer is not None:
        turns[PEER] = lambda: peer.ask("evaluate", block=None)
        turns[PEER_BLOCKS] = lambda: peer.ask("evaluate", block=CPU_SCORES)
    for one in ours.values():
        one.evaluate()
    answers = common.take_turns(turns, rounds, warmup=0)
    users = int(answers[OURS][0]["metrics"]["users"])
    seconds, cpu = (
        {side: [turn[what] for turn in rows] for side, rows in answers.items()} for what in ("seconds", "cpu")
    )
    result = Ranking(name, system, seconds, cpu, users, {side: one.share() for side, one in ours.items()})
    if peer is not None:
        peer.ask("vectors", users=data.num_users, items=data.num_items, path=folder)
        user_x, item_x = (np.load(Path(folder, f"{side}.npy")) for side in ("users", "items"))
        mine = recommendation_metrics(
            user_x,
            item_x,
            relevant=data.pairs("test"),
            exclude=data.pairs("train", "valid"),
            ks=KS,
            metrics=MACRO_METRICS,
        )
        theirs = answers[PEER][-1]["metrics"]
        names = [f"{metric}@{k}" for metric in MACRO_METRICS for k in KS]
        result.difference = max(abs(mine[key] - theirs[key]) for key in names)
        result.examples = {key: (mine[key], theirs[key]) for key in ("recall@20", "ndcg@20", "map@10")}
    return result


def measure_alone(name: str, data: InteractionDataset, args: argparse.Namespace, found: Found) -> None:
    """Systems side by side, our LightGCN among them."""
    systems = [one for one in ALONE if data.item_features or one.name not in WITH_FEATURES]
    rounds = args.rounds if name != "yelp-sslrec" else args.long_rounds
    steps = math.ceil(len(data.part("train")[0]) / BATCH)
    # a part of an epoch is enough where it takes minutes
    measured = min(steps, args.steps or steps, args.alone_steps)
    with tempfile.TemporaryDirectory() as folder:
        sides = {one.title: Ours(one, data, folder, None if measured == steps else measured) for one in systems}
        turns: dict[str, Callable[[], Any]] = {title: side.epoch for title, side in sides.items()}
        answers = common.take_turns(turns, rounds, warmup=0)
    found.alone[name] = whole_epochs(answers, steps, measured)
    found.alone_cpu[name] = whole_epochs(answers, steps, measured, "cpu")
    print(common.table(ALONE_HEADER, alone_rows(found)), flush=True)


# ----------------------------------------------------------------------------------------------------------- report

EPOCH_HEADER = [
    "data, system",
    f"{OURS}, s",
    f"{PEER}, s",
    f"{PEER} / {OURS}",
    "of CPU time",
    f"{WATCHED}, s",
    "loss",
    f"loss, {PEER}",
    "steps timed",
]
RANKING_HEADER = ["data, vectors of", "library", "s", f"time / {OURS}", "of CPU time", "scores computed"]
ALONE_HEADER = ["data", "system", "s an epoch", "time / LightGCN", "CPU time / LightGCN"]


def spread(values: Sequence[float]) -> str:
    """Median (smallest to largest)."""
    digits = 3 if max(values) < 10 else 1
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def epoch_row(row: Epochs) -> list[str]:
    both = PEER in row.seconds
    return [
        f"{row.data}, {row.system.title}",
        spread(row.seconds[OURS]),
        spread(row.seconds[PEER]) if both else "-",
        common.format_ratio(row.ratio()) if both else "-",
        common.format_ratio(common.ratio(row.cpu[PEER], row.cpu[OURS])) if both else "-",
        spread(row.seconds[WATCHED]) if WATCHED in row.seconds else "-",
        f"{row.losses[OURS]:.4g}",
        f"{row.losses[PEER]:.4g}" if both else "-",
        f"{row.measured} of {row.steps}",
    ]


def ranking_rows(row: Ranking) -> list[list[str]]:
    return [
        [
            f"{row.data}, {row.system.title}",
            side,
            spread(seconds),
            "1" if side == OURS else common.format_ratio(row.ratio(side)),
            "1" if side == OURS else common.format_ratio(common.ratio(row.cpu[side], row.cpu[OURS])),
            f"{100 * row.shares.get(side, 1.0):.0f} %",
        ]
        for side, seconds in row.seconds.items()
    ]


def alone_rows(found: Found) -> list[list[str]]:
    rows = []
    for name, by_title in found.alone.items():
        for title, seconds in by_title.items():
            pairs = [(seconds, by_title[LIGHTGCN.title])]
            pairs.append((found.alone_cpu[name][title], found.alone_cpu[name][LIGHTGCN.title]))
            ratios = ["1" if title == LIGHTGCN.title else common.format_ratio(common.ratio(*pair)) for pair in pairs]
            rows.append([name, title, spread(seconds), *ratios])
    return rows


def goal_lines(found: Found, peer: Peer | None) -> list[str]:
    lines = []
    for name, goal in GOAL_EPOCH.items():
        aim = f"at least {goal:g} x as fast an epoch as {PEER} on {name}"
        rows = [row for row in found.epochs if row.data == name and PEER in row.seconds and row.system in COMPARED]
        reached = "; ".join(f"{row.system.title}: {common.verdict(row.ratio()[0], goal)}" for row in rows)
        lines.append(f"{aim}: {reached or 'not measured'}.")
    for name, goal in GOAL_EVALUATION.items():
        aim = f"at least {goal:g} x as fast a full ranking as {PEER} on {name}"
        rankings = [row for row in found.rankings if row.data == name and PEER in row.seconds]
        reached = "; ".join(
            f"{common.verdict(row.ratio(PEER, side)[0], goal)} as {PEER} comes, with blocks as large as ours "
            f"{common.verdict(row.ratio(PEER_BLOCKS, side)[0], goal)} ({side})"
            for row in rankings
            for side in row.shares
        )
        lines.append(f"{aim}: {reached or 'not measured'}.")
    compared = [row for row in found.rankings if row.difference is not None]
    reached = "; ".join(
        f"{row.data}, {row.system.title}: {'met' if row.difference <= GOAL_METRICS else 'missed'} (largest difference {row.difference:.1e})"
        for row in compared
        if row.difference is not None
    )
    lines.append(
        f"the same recall, NDCG, precision, MAP, MRR and hit rate at {KS[0]} and {KS[1]} as {PEER} from {PEER}'s vectors, up to "
        f"{GOAL_METRICS:g}: {reached or 'not measured'}."
    )
    if len(found.growth) > 1:
        lines.append(recsys_growth.goal_line(found.growth))
    return lines


def text_of(found: Found, peer: Peer | None, args: argparse.Namespace) -> str:
    """The section as far as it was measured."""
    beside = f" The other environment: {peer.versions}." if peer else f" {PEER} is absent (--recbole-python)."
    parts = [
        "## Recommenders",
        common.facts("recsys.py", ["torch", "transformers", "numpy", "hf-contrastive"], args.threads) + beside,
        f"Batches of {BATCH} triples, {DIM} numbers a row, {LAYERS} layers, Adam, float32, on the CPU (not measured on GPU), "
        f"{common.count(args.threads, 'thread')} on both sides. Seconds: median (smallest to largest) of "
        f"{common.count(args.rounds, 'round')} in turns ({args.long_rounds} on yelp-sslrec); ratios round by round. The machine is "
        "shared, and other work on it slows both sides, at times by more than their difference; CPU time (of the process) suffers less from it, "
        "but is not free of it. Growth was timed once a size, in one go.",
    ]
    if found.absent:
        parts.append(f"Not found below --data, and left out: {', '.join(found.absent)}.")
    if found.epochs:
        parts += [
            "### An epoch",
            f"`RecommenderTrainer` as in recipes/lightgcn/planted.yaml (logging once an epoch), without evaluation and checkpoints and "
            "with monitor_collapse off, which is on by default and has a column of its own, from the end of an epoch to the end of the "
            f"next; {PEER}: `Trainer._train_epoch`. Both on the same training pairs (ml-100k: all ratings, cut 80/10/10 at random for every user; yelp-sslrec: its own parts), with "
            f"{PEER}'s form of each objective: MF without penalty, the unsquared penalty of LightGCN, SGL summed over the batch with all "
            "nodes as negatives. Loss: mean of a step in the epoch of the last round; first weights and draws are not the same. Where fewer steps were "
            "timed, they were scaled to the epoch, and SGL's graphs, drawn once an epoch, counted once. Both sides of a row ran in new "
            "processes, with the C library's own way to hand out memory; 'freed memory kept': with "
            f"{' '.join(f'{name}={value}' for name, value in KEEP_MEMORY.items())}, so that neither side asks the system for new pages at every step.",
            common.table(EPOCH_HEADER, [epoch_row(row) for row in found.epochs]),
        ]
    if found.rankings:
        parts += [
            "### Full ranking of the test part",
            f"Final vectors, scores of all items, items of train and valid masked, six metrics at {KS[0]} and {KS[1]}; `RecommenderTrainer"
            f".rank` against `Trainer.evaluate`. This library passes over items that cannot be among a user's first {max(KS)} by the lengths "
            f"of the vectors (`BoundedSearch`), so that its time depends on them: '{OURS}' has the vectors of the epochs above, '{LATE}' those of "
            f"{args.ranking_epochs} epochs with the setting chosen in recipes/recommenders/yelp.yaml; the lists are those of a search through all scores, up to rounding. {PEER} ranks 4096 / items users at a time by default (one on yelp-sslrec); '{PEER_BLOCKS}' "
            f"has eval_batch_size {CPU_SCORES}, as many scores at a time as this library.",
            common.table(RANKING_HEADER, [line for row in found.rankings for line in ranking_rows(row)]),
        ]
        examples = [
            f"{row.data}, {row.system.title}: "
            + ", ".join(f"{key} {mine:.6f} and {theirs:.6f}" for key, (mine, theirs) in row.examples.items())
            for row in found.rankings
            if row.examples
        ]
        if examples:
            parts.append(
                f"The same vectors ({PEER}'s, trained) and parts through `recommendation_metrics` and through {PEER}: "
                f"{'; '.join(examples)}. The formulas are the same. {PEER}'s conventions: valid items are masked at test (here "
                '`mask="train+valid"`, not the default of this library), users without training items are counted (`RecommenderTrainer` '
                "leaves them out; they are counted in this comparison), values are rounded to 4 decimals (here 12)."
            )
    if found.alone:
        absent = "SimGCL, DCCF, BM3 and SIGER are in no module of RecBole 1.2.1" if peer else "No peer was at hand"
        parts += [
            "### Systems beside LightGCN",
            f"{absent}. This library alone, each system with its own defaults but {DIM} numbers a row and {LAYERS} layers (SGL and SimGCL "
            f"contrast with the nodes of the batch), on tiktok-mm with image and audio features for BM3 and SIGER; epochs of more than "
            f"{args.alone_steps} steps scaled from so many.",
            common.table(ALONE_HEADER, alone_rows(found)),
        ]
    if found.growth:
        parts += recsys_growth.text(found.growth, BATCH, LAYERS)
    return "\n\n".join([*parts, common.goals(goal_lines(found, peer))])


def compare_afresh(name: str, system: System, args: argparse.Namespace) -> Found:
    """`compare` with a process of RecBole's own; to be run in a new process, too."""
    torch.set_num_threads(args.threads)
    found = Found()
    with tempfile.TemporaryDirectory() as folder:
        peer = Peer(args.recbole_python, args.threads, folder) if args.recbole_python else None
        compare(name, load(name, args.data), system, peer, args, found)
        if peer is not None:
            peer.close()
    return found


def compare_in_new_processes(name: str, system: System, args: argparse.Namespace, **variables: str) -> Found:
    """What ran before in a process decides how it gets memory, and with it part of the time of large tables: it shall be alike."""
    with (
        unittest.mock.patch.dict(os.environ, variables),
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as new,
    ):
        return new.submit(compare_afresh, name, system, args).result()


def stages(peer: Peer | None, args: argparse.Namespace) -> Iterator[Found]:
    """Everything measured so far, after every part, so that a run that is cut short leaves what it has."""
    found = Found()
    logs = {}
    for name in args.data_sets:
        if (args.data / name).is_dir():
            logs[name] = load(name, args.data)
        else:
            found.absent.append(name)
            print(f"{name} is not below {args.data.name}; left out", flush=True)
    for name in GOAL_EPOCH:
        for system in COMPARED if name in logs else ():
            part = compare_in_new_processes(name, system, args)
            found.epochs += part.epochs
            found.rankings += part.rankings
            yield found
    if peer is not None and "yelp-sslrec" in logs:
        found.epochs += compare_in_new_processes("yelp-sslrec", MEMORY_KEPT, args, **KEEP_MEMORY).epochs
        yield found
    for name, data in logs.items():
        measure_alone(name, data, args, found)
        yield found
    for row in recsys_growth.measure(args.sizes, args.threads, BATCH, DIM, LAYERS):
        found.growth.append(row)
        print(recsys_growth.row_of(row), flush=True)
        yield found


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recbole-python", help="python of RecBole's environment; left out: no comparison")
    data = common.RESULTS.parents[1] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=data, help="folder of the data sets (default: ../shared/data)")
    parser.add_argument("--data-sets", nargs="*", choices=list(DATA), default=list(DATA), help="default: all")
    parser.add_argument("--rounds", type=int, default=3, help="rounds in turns (default: 3)")
    parser.add_argument(
        "--ranking-epochs", type=int, default=20, help=f"epochs of '{LATE}' before it is ranked (default: 20)"
    )
    parser.add_argument("--long-rounds", type=int, default=2, help="rounds on yelp-sslrec (default: 2)")
    parser.add_argument("--sgl-steps", type=int, default=6, help="timed steps of SGL beyond ml-100k (default: 6)")
    parser.add_argument(
        "--alone-steps", type=int, default=15, help="timed steps of systems without peer (default: 15)"
    )
    parser.add_argument("--steps", type=int, help="timed steps of everything (default: whole epochs)")
    parser.add_argument(
        "--sizes",
        type=int,
        nargs="*",
        default=[10**5, 10**6, 10**7],
        help="pairs of the growth (default: 1e5 1e6 1e7)",
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of either side (default: 1)")
    parser.add_argument("--quick", action="store_true", help="1 round of 2 steps, ml-100k and tiktok-mm, small growth")
    parser.add_argument("--output", type=Path, default=common.RESULTS, help="file to write (default: RESULTS.md)")
    parser.add_argument("--no-write", action="store_true", help="print the section instead of writing it")
    args = parser.parse_args(argv)
    if args.quick:
        args.rounds, args.steps, args.ranking_epochs, args.sizes = 1, 2, 1, [10**4, 10**5]
        args.data_sets = [name for name in args.data_sets if name != "yelp-sslrec"]
    if (
        min(
            args.rounds,
            args.long_rounds,
            args.sgl_steps,
            args.alone_steps,
            args.ranking_epochs,
            args.steps or 1,
            args.threads,
        )
        < 1
    ):
        parser.error("rounds, steps and threads must be at least 1")
    return args


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    if not args.recbole_python:
        print("without --recbole-python this library is measured alone", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        peer = Peer(args.recbole_python, args.threads, folder) if args.recbole_python else None
        text = ""
        for found in stages(peer, args):
            text = text_of(found, peer, args)
            if not args.no_write:
                common.write_section(args.output, "recommenders", text)
        if peer is not None:
            peer.close()
    print(text if args.no_write else f"written: section 'recommenders' of {args.output.name}", flush=True)


if __name__ == "__main__":
    main()
