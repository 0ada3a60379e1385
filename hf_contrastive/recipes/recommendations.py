"""The recipe of recommenders: an interaction log, one system trained with early stopping, ranking of the whole catalogue."""

from __future__ import annotations

import dataclasses
import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import EarlyStoppingCallback, set_seed

from hf_contrastive.data import (
    InteractionDataset,
    NeighbourSamplingCollator,
    TripletDataset,
    collate_triplets,
    encode_items,
    load_interactions,
    load_item_table,
)
from hf_contrastive.data.triplets import SAMPLINGS
from hf_contrastive.distributed import is_main_process
from hf_contrastive.families.recommender.memory import check_memory, estimate_training_memory
from hf_contrastive.hub import Metric
from hf_contrastive.recipes import common
from hf_contrastive.recipes.common import (
    RunArguments,
    check_choice,
    close_run,
    command_line,
    configuration_arguments,
    draw_run,
    loss_text,
    option,
    plain_errors,
    prepare_output,
    resume_from,
    several,
    write_outcome,
)
from hf_contrastive.registry import SystemSpec
from hf_contrastive.reporting import metrics_table, say
from hf_contrastive.training import (
    ContrastiveTrainingArguments,
    RecommenderTrainer,
    batch_report,
    parse_recipe_arguments,
)
from hf_contrastive.training.recommender import MASKS


@dataclass
class InteractionDataArguments:
    """data: the log, how it is cleaned and cut"""

    dataset_path: str = option(
        "planted",
        "'planted' (made by the code), a .inter, .csv, .jsonl or .parquet file, a folder with one, a folder of adjacency lines "
        "(train.txt, test.txt), or a hub id.",
    )
    dataset_name: str | None = option(None, "Configuration of a hub dataset.")
    user_column: str | None = option(None, "Column of the users; common names are found by themselves.")
    item_column: str | None = option(None, "Column of the items.")
    rating_column: str | None = option(None, "Column of the ratings.")
    timestamp_column: str | None = option(None, "Column of the times.")
    split_column: str | None = option(None, "Column that says the part of a row: 0, 1, 2 or train, valid, test.")
    min_rating: float | None = option(None, "Keep rows with at least this rating; none = all.")
    user_core: int = option(0, "Leave out users with fewer rows, until nothing changes (k-core).")
    item_core: int = option(0, "The same for items.")
    split: str | None = option(
        None,
        "How the parts are cut: given, random (each user's), time (each user's latest), leave_one_out, mmrec, global_time; none = "
        "given where the data says so, otherwise random.",
    )
    ratios: list[float] = several((0.8, 0.1, 0.1), "Shares of train, valid, test.")
    valid_fraction: float | None = option(
        None, "Where the given parts have no valid one: this share of the training rows."
    )
    split_seed: int = option(0, "Seed of the cut; the same for every --seed, so that runs can be compared.")
    reindex: bool = option(True, "Number users and items by first appearance; false: ids are numbers from 0 and stay.")
    num_users: int | None = option(None, "With --reindex false: how many users there are.")
    num_items: int | None = option(None, "With --reindex false: how many items there are.")
    features: dict | None = option(
        None, 'Item features as JSON: {"image": "image_feat.npy"}, beside the log; row = item id (see --reindex).'
    )
    item_table: str | None = option(
        None, "What is known of the items (.item, .csv, .jsonl, .parquet), beside the log: features are made from it."
    )
    item_id_column: str | None = option(None, "Its column of the items; common names are found by themselves.")
    text_columns: list[str] | None = option(None, "Its columns with texts, joined by spaces: the modality text.")
    text_template: str | None = option(None, "Instead of --text_columns: '{title}. {genre}'.")
    image_column: str | None = option(None, "Its column with images, paths beside the table: the modality image.")
    feature_encoder: str | None = option(None, "What encodes them: a folder or hub id that AutoModel opens.")
    image_encoder: str | None = option(None, "What encodes the images; none = --feature_encoder (CLIP has both).")
    feature_cache: str | None = option(None, "Where encoded features are kept; none = among the assets of HF_HOME.")
    sampling: str = option(
        "interactions", "Positive pairs: interactions (each once an epoch) or users (a user evenly, then an item)."
    )
    num_negatives: int = option(1, "Items drawn for each pair that the user did not choose.")
    sampled_neighbours: list[int] | None = option(
        None,
        "For graphs too large for whole passes (LightGCN): neighbours drawn around a batch, layer by layer, for example 15 10; none = "
        "the whole graph in every step.",
    )


# fields of the above that say how features are made from texts and images
ENCODING = (
    "item_table",
    "item_id_column",
    "text_columns",
    "text_template",
    "image_column",
    "feature_encoder",
    "image_encoder",
    "feature_cache",
)


@dataclass
class RankingArguments:
    """measuring: ranking of the whole catalogue"""

    ks: list[int] = several((10, 20), "Lengths of the lists.")
    mask: str = option("train", "Not offered at test: train, or train+valid (RecBole).")
    select_on: str = option(
        "valid",
        "Part that chooses the epoch. test is for repeating figures that were chosen so; it is no honest figure.",
    )
    patience: int = option(20, "Stop after so many evaluations without a better value; 0 = never.")
    pictures: bool = option(True, "Draw the training curves.")


def load_splits(data: InteractionDataArguments, seed: int = 0) -> InteractionDataset:
    """The log that the arguments describe.

    Args:
        data ([`InteractionDataArguments`]): where it is and how it is cut.
        seed (`int`): not used, the cut has its own (`split_seed`).
    """
    given = {one.name: getattr(data, one.name) for one in dataclasses.fields(data)}
    others = (
        "dataset_path",
        "dataset_name",
        "split_seed",
        "features",
        "sampling",
        "num_negatives",
        "sampled_neighbours",
        *ENCODING,
    )
    options = {name: value for name, value in given.items() if name not in others}
    base = Path(data.dataset_path).expanduser()
    folder = base if base.is_dir() else base.parent
    features = None
    if data.features is not None:
        features = {name: str(folder / file) for name, file in data.features.items()}
    log = load_interactions(
        data.dataset_path, name=data.dataset_name, seed=data.split_seed, item_features=features, **options
    )
    log.item_features |= _encoded_features(data, log, folder)
    return log


def _encoded_features(data: InteractionDataArguments, log: InteractionDataset, folder: Path) -> dict[str, np.ndarray]:
    """Features that an encoder makes of the item table, by modality."""
    texts = data.text_columns is not None or data.text_template is not None
    given = {name for name in ENCODING if getattr(data, name) is not None}
    if not given:
        return {}
    if data.item_table is None or not (texts or data.image_column):
        raise ValueError(
            f"--{min(given)} was given; features are made with --item_table, with --text_columns or --image_column, and with "
            "--feature_encoder"
        )
    encoders = {}
    if texts:
        encoders["text"] = data.feature_encoder
    if data.image_column:
        encoders["image"] = data.image_encoder or data.feature_encoder
    if None in encoders.values():
        raise ValueError("pass --feature_encoder a folder or hub id of an encoder")
    twice = sorted(set(encoders) & set(log.item_features))
    if twice:
        raise ValueError(f"--features has {', '.join(twice)} already; leave it out there, or do not encode it")
    beside = folder / Path(data.item_table).expanduser()
    table = load_item_table(beside if beside.exists() else data.item_table, log.item_tokens, data.item_id_column)
    shared: dict[str, Any] = {"cache_dir": data.feature_cache}
    found = {}
    if "text" in encoders:
        found["text"] = encode_items(
            table, encoders["text"], text_columns=data.text_columns, template=data.text_template, **shared
        )
    if "image" in encoders:
        place = beside if beside.is_dir() else beside.parent
        found["image"] = encode_items(
            table, encoders["image"], image_column=data.image_column, image_folder=place, **shared
        )
    return found


def make_config(spec: SystemSpec, data: InteractionDataset, fields: Mapping[str, Any]) -> Any:
    """The system's configuration for a log.

    Args:
        spec ([`SystemSpec`]): the system.
        data ([`InteractionDataset`]): the log.
        fields (`Mapping`): of the system's configuration; `None` values = the paper's.

    Raises:
        ValueError: a value out of range, or the system needs features and the data has none.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    sizes: dict[str, Any] = {"num_users": data.num_users, "num_items": data.num_items}
    if "feature_dims" in {one.name for one in dataclasses.fields(spec.config_class())}:
        if not data.item_features:
            raise ValueError(
                f"{spec.title} needs features of the items, and the data has none; pass --features, for example "
                '\'{"image": "image_feat.npy"}\', or --item_table with --text_columns and --feature_encoder.'
            )
        sizes["feature_dims"] = {name: matrix.shape[1] for name, matrix in data.item_features.items()}
    return spec.config_class()(**sizes, **given)


def make_model(spec: SystemSpec, data: InteractionDataset, config: Any) -> Any:
    """The system on the training part of a log, with names of users and items, and features where it takes any.

    Args:
        spec ([`SystemSpec`]): the system.
        data ([`InteractionDataset`]): the log.
        config ([`RecommenderConfig`]): of `make_config`.
    """
    model = spec.model_class()(config)
    model.set_interactions(*data.part("train"), user_tokens=data.user_tokens, item_tokens=data.item_tokens)
    if hasattr(model, "set_features"):
        model.set_features(data.item_features)
    return model.train()


def make_collator(
    spec: SystemSpec, data: InteractionDataArguments, log: InteractionDataset, config: Any, seed: int
) -> Callable[..., Any]:
    """What makes batches: triples, with a subgraph around them where `sampled_neighbours` says so.

    Raises:
        ValueError: the system takes no subgraph, or another number of layers.
    """
    fan_out = data.sampled_neighbours
    if fan_out is None:
        return collate_triplets
    if "node_ids" not in inspect.signature(spec.model_class().forward).parameters:
        raise ValueError(f"--sampled_neighbours is for systems that take a subgraph (LightGCN), not for {spec.title}.")
    if len(fan_out) != config.num_layers:
        raise ValueError(
            f"--sampled_neighbours has {len(fan_out)} numbers, but the model has {config.num_layers} layers; give one a layer."
        )
    return NeighbourSamplingCollator(log.part("train"), log.num_users, log.num_items, fan_out, seed=seed, engine="own")


def run(spec: SystemSpec, *, description: str, example: str) -> None:
    """A whole recipe: arguments, log, training with early stopping, ranking, checkpoint.

    Args:
        spec ([`SystemSpec`]): the system.
        description, example (`str`): for `--help`.
    """
    # known from the log, or the run's own
    taken = {"num_users", "num_items", "num_interactions", "feature_dims", "seed", "frozen_modules"}
    data, model_arguments, measure, run_arguments, args = parse_recipe_arguments(
        (
            InteractionDataArguments,
            configuration_arguments([spec], taken, "model: tables and objective"),
            RankingArguments,
            RunArguments,
            ContrastiveTrainingArguments,
        ),
        prog=f"{spec.recipe}/train.py",
        description=description,
        example=example,
    )
    started = time.time()
    check_choice("mask", [measure.mask], MASKS)
    check_choice("select_on", [measure.select_on], ("valid", "test"))
    check_choice("sampling", [data.sampling], SAMPLINGS)
    prepare_output(args, run_arguments)
    with plain_errors():
        # one process of a machine encodes the items, the others read its cache
        with args.main_process_first():
            log = load_splits(data, args.seed)
        set_seed(args.seed)
        own = {one.name for one in dataclasses.fields(spec.config_class())}
        seeded = {"seed": args.seed} if "seed" in own else {}
        config = make_config(spec, log, {**dataclasses.asdict(model_arguments), **seeded})
        collator = make_collator(spec, data, log, config, args.seed)
        # before the tables are made: an error in words instead of a killed process
        estimate = estimate_training_memory(
            config,
            len(log.part("train")[0]),
            args.per_device_train_batch_size,
            optimizer=str(getattr(args.optim, "value", args.optim)),
            num_negatives=data.num_negatives,
            fan_out=data.sampled_neighbours,
        )
        check_memory(estimate, args.device, processes=args.world_size if args.device.type == "cpu" else 1)
        model = make_model(spec, log, config)
        triples = TripletDataset(
            *log.part("train"),
            log.num_users,
            log.num_items,
            num_negatives=data.num_negatives if "neg_item_ids" in model.view_inputs else 0,
            sampling=data.sampling,
            seed=args.seed,
        )
    if run_arguments.dry_run:
        common.dry_run(model, collator(triples.__getitems__([0, 1][: len(triples)])))
        return
    stops = args.eval_strategy != "no" and args.load_best_model_at_end
    with plain_errors():
        trainer = RecommenderTrainer(
            model,
            args,
            collator,
            train_dataset=triples,
            eval_dataset=log,
            ks=measure.ks,
            mask=measure.mask,
            eval_split=measure.select_on,
            callbacks=[EarlyStoppingCallback(measure.patience)] if stops and measure.patience else [],
        )
        _check_parts(trainer, log, measure.select_on)
    report(trainer, data, log)
    rows = measure_rows(trainer, log, {"untrained": model})
    trained_from = time.time()
    trainer.train(resume_from_checkpoint=resume_from(args))
    seconds = time.time() - trained_from - sum(row.get("eval_runtime", 0) for row in trainer.state.log_history)
    rows += measure_rows(trainer, log, {spec.title: model})[1:]
    finish(trainer, spec, data, log, rows, measure, started=started, seconds=seconds)
    trainer.end()


def _check_parts(trainer: Any, log: InteractionDataset, select_on: str) -> None:
    if trainer.args.eval_strategy != "no" and not len(log.part(select_on)[0]):
        fix = "pass --valid_fraction 0.1" if select_on == "valid" else "choose another --split"
        raise ValueError(f"the {select_on} part is empty, so no epoch can be chosen; {fix}, or --eval_strategy no.")


def report(trainer: Any, data: InteractionDataArguments, log: InteractionDataset) -> None:
    """Print the log and what is about to be trained (main process only)."""
    about = log.describe()
    say(
        f"{describe_data(data, log)['name']}: {about['users']:,} users, {about['items']:,} items, pairs: {about['train']:,} train, "
        f"{about['valid']:,} valid, {about['test']:,} test; density {about['density']:.2e}"
    )
    for side in ("users", "items"):
        if about[f"{side}_without_train"]:
            say(f"{about[f'{side}_without_train']:,} {side} have no training pair.")
    if trainer.eval_split == "test":
        say("WARNING: the epoch is chosen on the test part; the figure at the end is no honest one.")
    say(
        batch_report(
            trainer,
            data=describe_data(data, log)["name"],
            loss=loss_text(trainer),
            num_views=0,
            command=command_line(),
        )
    )
    say()


def describe_data(data: InteractionDataArguments, log: InteractionDataset) -> dict[str, Any]:
    """What the card says of the data; a local folder appears by its name only."""
    planted = data.dataset_path == "planted"
    local = planted or Path(data.dataset_path).expanduser().exists()
    about: dict[str, Any] = {"rows": len(log.part("train")[0]), "split": "train"}
    about["name"] = "planted preferences" if planted else Path(data.dataset_path).name if local else data.dataset_path
    facts = log.describe()
    about["columns"] = {
        "user": f"{facts['users']} users",
        "item": f"{facts['items']} items",
        **{f"features: {name}": f"{dim} numbers an item" for name, (_, dim) in facts["features"].items()},
    }
    if not local:
        about["id"] = data.dataset_path
    if planted:
        about["licence"] = "none needed: made by the code"
        about["description"] = (
            "Users who like one or two groups of items, popularity, noise, and item features that tell the groups "
            "(`hf_contrastive.data.make_interactions`)."
        )
    return about


def measure_rows(trainer: Any, log: InteractionDataset, models: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Full ranking on valid and test of popularity and of several models.

    Args:
        trainer ([`RecommenderTrainer`]): knows lengths and mask.
        log ([`InteractionDataset`]): the log.
        models (`Mapping[str, RecommenderModel]`): by name.

    Returns:
        `list[dict]`: `model`, and `valid` and `test` with metrics (where the part has rows).
    """
    counts = np.bincount(log.part("train")[1], minlength=log.num_items).astype(np.float32)
    # a user's own choices do not count; ties by the lower number
    vectors: dict[str, Callable[[], Any]] = {
        "popularity": lambda: (torch.ones(log.num_users, 1), torch.from_numpy(counts)[:, None])
    }
    vectors |= {name: model.vectors for name, model in models.items()}
    rows = []
    for name, make in vectors.items():
        row: dict[str, Any] = {"model": name}
        user_x, item_x = make()
        for split in ("valid", "test"):
            if len(log.part(split)[0]):
                row[split] = trainer.rank(user_x, item_x, log, split)
        rows.append(row)
    return rows


def finish(
    trainer: Any,
    spec: SystemSpec,
    data: InteractionDataArguments,
    log: InteractionDataset,
    rows: Sequence[Mapping[str, Any]],
    measure: RankingArguments,
    *,
    started: float,
    seconds: float,
) -> None:
    """Write checkpoint, card, results and curves; print the table and what to do next (main process only)."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    folder, args, state = Path(trainer.args.output_dir), trainer.args, trainer.state
    if not is_main_process():
        return
    model.save_pretrained(folder)
    about = describe_data(data, log)
    headline = max(measure.ks)
    say()
    table = []
    for row in rows:
        line = {"model": row["model"]}
        for split in ("valid", "test"):
            if split in row:
                line |= {f"{split} R@{k}": f"{row[split][f'recall@{k}']:.4f}" for k in measure.ks}
                line[f"{split} N@{headline}"] = f"{row[split][f'ndcg@{headline}']:.4f}"
        table.append(line)
    metrics_table(
        table, title=f"{about['name']}: ranking of all {log.num_items} items, {measure.mask} items left out at test"
    )
    per_epoch = max(1, -(-len(trainer.train_dataset) // (args.per_device_train_batch_size * args.world_size)))
    best = state.best_global_step / per_epoch if state.best_global_step else None
    results = {
        "ranking": list(rows),
        "ks": list(measure.ks),
        "mask": measure.mask,
        "select_on": measure.select_on,
        "epochs": state.global_step / per_epoch,
        "best_epoch": best,
        "seconds_per_epoch": seconds * per_epoch / max(1, state.global_step),
        "learning_rate": args.learning_rate,
        "counts": log.describe(),
    }
    metrics = []
    for row in rows:
        for split in ("valid", "test"):
            for name in (f"recall@{headline}", f"ndcg@{headline}"):
                if split in row:
                    title = name.replace("recall", "Recall").replace("ndcg", "NDCG")
                    note = "full ranking, training items left out"
                    if split == "test" and measure.mask == "train+valid":
                        note = "full ranking, train and valid items left out"
                    if measure.select_on == "test":
                        note += "; the epoch was chosen on the test part"
                    own = row["model"] == spec.title
                    system = {} if own else {"system": row["model"]}
                    metrics.append(
                        Metric(
                            title,
                            row[split][name],
                            about["name"],
                            split=split,
                            note=note,
                            type=name.partition("@")[0],
                            **system,
                        )
                    )
    settings = {
        "positives": data.sampling,
        "negatives of a pair": data.num_negatives,
        "epochs": round(results["epochs"], 2),
    }
    if best is not None:
        settings["best epoch"] = f"{best:g}, by {args.metric_for_best_model} on {measure.select_on}"
    write_outcome(trainer, spec, about=about, metrics=metrics, results=results, settings=settings, started=started)
    by_name = {row["model"]: row for row in rows}
    last = "test" if "test" in by_name[spec.title] else "valid"
    numbers = (f"recall@{headline}", f"ndcg@{headline}")
    own, before = (
        {f"{last} {name}": by_name[one].get(last, {}).get(name, float("nan")) for name in numbers}
        for one in (spec.title, "untrained")
    )
    user = log.user_tokens[int(log.part("train")[0][0])]
    close_run(
        trainer,
        metrics=own,
        baseline=before,
        draw=partial(draw_run, folder) if measure.pictures else None,
        commands={"recommend": f"hf-contrastive recommend {folder} --user {user}"},
    )


__all__ = ["InteractionDataArguments", "RankingArguments", "load_splits", "make_model", "measure_rows", "run"]
