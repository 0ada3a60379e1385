"""`hf-contrastive evaluate knn|linear|retrieval|zero-shot`: measure a checkpoint against baselines, with the protocol stated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hf_contrastive.cli.common import (
    CliError,
    ExampleCommand,
    ExampleGroup,
    Progress,
    WrongUsage,
    examples,
    give_json,
    print_line,
    print_note,
    print_table,
    wants_stdout,
)


if TYPE_CHECKING:
    import numpy as np

EXAMPLES = examples(
    "hf-contrastive evaluate knn out/simclr-digits digits --k 20",
    "hf-contrastive evaluate linear out/simclr-digits digits --json linear.json",
    "hf-contrastive evaluate retrieval out/simclr-digits digits",
    "hf-contrastive evaluate zero-shot openai/clip-vit-base-patch32 my_photos",
)
PROTOCOL, DATA, OUT, SPEED = "Protocol", "Data", "Output", "Speed"

Checkpoint = Annotated[str, typer.Argument(metavar="CHECKPOINT", help="Folder or hub id of a trained model.")]
Dataset = Annotated[
    str, typer.Argument(metavar="DATASET", help="digits, a folder of images, a parquet or npz file, or a hub id.")
]
Readout = Annotated[
    str | None,
    typer.Option(
        help="Where to read the embeddings. (default: the first that the model offers)", rich_help_panel=PROTOCOL
    ),
]
Baseline = Annotated[
    bool,
    typer.Option(
        "--baseline/--no-baseline", help="Also measure an untrained encoder and raw pixels.", rich_help_panel=PROTOCOL
    ),
]
TrainSplit = Annotated[str, typer.Option(help="Split with the known labels.", rich_help_panel=DATA)]
TestSplit = Annotated[str, typer.Option(help="Split that is measured.", rich_help_panel=DATA)]
Name = Annotated[str | None, typer.Option(help="Configuration of a hub dataset.", rich_help_panel=DATA)]
ImageColumn = Annotated[
    str | None, typer.Option(help="Column of the images. (default: found by itself)", rich_help_panel=DATA)
]
LabelColumn = Annotated[
    str | None, typer.Option(help="Column of the labels. (default: found by itself)", rich_help_panel=DATA)
]
TestFraction = Annotated[
    float | None, typer.Option(help="Hold this share out as test where the data has one split.", rich_help_panel=DATA)
]
MaxSamples = Annotated[
    int | None, typer.Option(min=1, help="At most this many rows of each split, fixed seed.", rich_help_panel=DATA)
]
OnUnreadable = Annotated[
    str, typer.Option(help="At an image that cannot be read: stop or skip.", rich_help_panel=DATA)
]
JsonFile = Annotated[
    Path | None,
    typer.Option("--json", help="Also write the numbers to this file (- prints them).", rich_help_panel=OUT),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Images at a time.", rich_help_panel=SPEED)]
NumWorkers = Annotated[int, typer.Option(min=0, help="Processes that read images.", rich_help_panel=SPEED)]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.", rich_help_panel=SPEED)]

SEED = 0


def build() -> typer.Typer:
    """The group of evaluate commands."""
    from hf_contrastive.cli import zero_shot

    group = typer.Typer(
        cls=ExampleGroup,
        no_args_is_help=True,
        rich_markup_mode="rich",
        help="Measure a checkpoint: kNN, linear probe, retrieval or zero-shot, beside untrained and plain baselines.",
        epilog=EXAMPLES,
    )
    for name, function, options in (
        ("knn", knn, ["--k 20", "--temperature 0.07 --no-baseline"]),
        ("linear", linear, ["--json linear.json", "--readout projection_1"]),
        ("retrieval", retrieval, ["--ks 1,5", "--gallery-split train", "--ks 1,5 --one-query-per-class"]),
    ):
        typed = [f"hf-contrastive evaluate {name} out/simclr-digits digits {option}" for option in options]
        group.command(name, cls=ExampleCommand, epilog=examples(*typed))(function)
    typed = [f"hf-contrastive evaluate zero-shot out/mofi-glyphs photos {option}" for option in zero_shot.OPTIONS]
    group.command("zero-shot", cls=ExampleCommand, epilog=examples(*typed))(zero_shot.zero_shot)
    return group


@dataclass
class Features:
    """Embeddings and labels of the splits a protocol needs.

    Args:
        encoder (`str`): what made them, as the table calls it.
        arrays (`dict`): split to `[rows, dim]`.
    """

    encoder: str
    arrays: dict[str, Any]


@dataclass
class Inputs:
    """Everything a protocol needs: one entry of `features` a line of the table."""

    checkpoint: str
    dataset: str
    readout: str
    dim: int
    labels: dict[str, Any] = field(default_factory=dict)
    features: list[Features] = field(default_factory=list)


def _prepare(
    checkpoint: str,
    dataset: str,
    splits: dict[str, str],
    *,
    readout: str | None,
    baseline: bool,
    batch_size: int,
    num_workers: int,
    device: str,
    on_unreadable: str,
    **data: Any,
) -> Inputs:
    """Load, check, embed. `splits` is option to split name, for example `{"--test-split": "test"}`."""
    import numpy as np

    from hf_contrastive.cli.checkpoints import encode_batches, load_encoder, load_rows, public_name, raw_pixels
    from hf_contrastive.cli.embed import check_unreadable

    check_unreadable(on_unreadable)
    fraction = data.get("test_fraction")
    if fraction is not None and not 0 < fraction < 1:
        raise WrongUsage(f"--test-fraction is {fraction}; expected a number between 0 and 1, for example 0.2.")
    encoder = load_encoder(checkpoint, device)
    readout = encoder.readout(readout)
    rows = {}
    for option, split in splits.items():
        found = load_rows(dataset, {"split": option}, split=split, on_unreadable=on_unreadable, **data)
        rows[split] = found
    inputs = Inputs(encoder.name, public_name(dataset), readout, 0)
    inputs.labels = {split: labels_of(found, split, dataset) for split, found in rows.items()}

    def embedded(model: Any, name: str) -> Features:
        arrays = {}
        for split, found in rows.items():
            with Progress(f"{name}, {split}", len(found)) as progress:
                arrays[split] = encode_batches(
                    model,
                    found,
                    batch_size=batch_size,
                    num_workers=num_workers,
                    readout=readout,
                    advance=progress.advance,
                )
        return Features(name, arrays)

    inputs.features.append(embedded(encoder, "this checkpoint"))
    inputs.dim = next(iter(inputs.features[0].arrays.values())).shape[1]
    if baseline:
        inputs.features.append(embedded(encoder.untrained(SEED), f"untrained encoder (seed {SEED})"))
        pixels, text = {}, ""
        for split, found in rows.items():
            pixels[split], text = raw_pixels(encoder, found, batch_size=batch_size, num_workers=num_workers)
        inputs.features.append(Features(f"raw pixels ({text})", pixels))
    for features in inputs.features:
        for array in features.arrays.values():
            assert np.isfinite(array).all()
    return inputs


def labels_of(rows: Any, split: str, dataset: str) -> np.ndarray:
    """Class names where they are known, so that two splits cannot number the classes differently.

    Args:
        rows (`datasets.Dataset`): of `load_rows`.
        split (`str`), dataset (`str`): what they are called, for messages.

    Returns:
        `ndarray` `[rows]` of names or numbers.

    Raises:
        CliError: rows without a label.
    """
    import numpy as np

    values = list(rows.with_format(None)["label"][:]) if "label" in rows.column_names else []
    missing = sum(value is None or value == -1 for value in values)
    if missing == len(values):
        raise CliError(
            f"split {split!r} of {dataset} has no labels, and this measure needs them; name their column with "
            "--label-column, or put the images into one folder a class."
        )
    if missing:
        raise CliError(
            f"{missing} of the {len(values)} rows of split {split!r} of {dataset} have no label (first: row "
            f"{next(row for row, value in enumerate(values) if value in (None, -1))}); leave them out of the data, or "
            "choose another split."
        )
    names = getattr(rows.features["label"], "names", None)
    return np.asarray(names)[values] if names else np.asarray(values)


def interval(share: float, rows: int) -> tuple[float, float]:
    """Bootstrap interval of a share of right answers: resampling 0/1 rows depends on their number only."""
    import numpy as np

    from hf_contrastive.evaluation import bootstrap_interval

    return bootstrap_interval(np.arange(rows) < round(share * rows), seed=SEED)


def report(
    title: str,
    inputs: Inputs,
    protocol: dict[str, Any],
    measure: Callable[[Features], dict[str, Any]],
    main: str,
    rows: int,
    json_file: Path | None,
    with_interval: tuple[str, ...] = (),
    hint: str = "Train longer, check the augmentations, or read at another place (--readout).",
) -> None:
    """Measure every line, print the table, write the JSON.

    Args:
        title (`str`): what is measured.
        inputs (`Inputs`): an entry of `features` for every line.
        protocol (`dict`): how it is measured.
        measure (`Callable`): numbers of a line, shares of 1.
        main (`str`): the number that lines are compared by.
        rows (`int`): test rows behind every number.
        json_file (`Path`, *optional*): as `--json`.
        with_interval (`tuple[str, ...]`, *optional*): numbers that get an interval; `main` by default.
        hint (`str`): what to do where a baseline is not beaten.
    """
    results: list[dict[str, Any]] = []
    for features in inputs.features:
        numbers = measure(features)
        intervals = {name: interval(numbers[name], rows) for name in (with_interval or (main,))}
        results.append({"encoder": features.encoder, **numbers, "interval_95": intervals})
    record = {
        "metric": main,
        "checkpoint": inputs.checkpoint,
        "dataset": inputs.dataset,
        "protocol": {"readout": inputs.readout, "dimension": inputs.dim, **protocol},
        "results": results,
    }
    if wants_stdout(json_file):
        give_json(record, json_file)
        return
    print_line(f"{title} of {inputs.checkpoint} on {inputs.dataset}", style="bold")
    print_line(f"protocol: {'; '.join(_fact(key, value) for key, value in record['protocol'].items())}", style="dim")
    names = [name for name in results[0] if name not in ("encoder", "interval_95")]
    first = names.index(main)
    header = ["encoder", main, "95 %", *(name for name in names if name != main)]
    table = []
    for result in results:
        low, high = result["interval_95"][main]
        others = [_percent(result[name]) for position, name in enumerate(names) if position != first]
        table.append([result["encoder"], _percent(result[main]), f"{_percent(low)}–{_percent(high)}", *others])
    print_table(header, table, right=header[1:], no_wrap=header[1:])
    print_line(
        "values in %; 95 %: bootstrap interval over the test rows (it says nothing about training seeds)", style="dim"
    )
    for result in results[1:]:
        if result[main] >= results[0][main]:
            print_note(f"note: the checkpoint is not better than the baseline '{result['encoder']}'. {hint}")
    give_json(record, json_file)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _fact(key: str, value: Any) -> str:
    return f"{key.replace('_', ' ')}: {value}"


def _first_of_each(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the first image of every class, and all others."""
    import numpy as np

    first = np.sort(np.unique(labels, return_index=True)[1])
    others = np.setdiff1d(np.arange(len(labels)), first)
    if not len(others):
        raise CliError(
            "every class has one image only, so nothing is left to find; leave --one-query-per-class out and name the split to "
            "search with --gallery-split."
        )
    return first, others


def _splits(inputs: Inputs, **names: str) -> dict[str, str]:
    return {role: f"{split} ({len(inputs.labels[split])} rows)" for role, split in names.items()}


def knn(
    checkpoint: Checkpoint,
    dataset: Dataset,
    k: Annotated[int, typer.Option("--k", "-k", min=1, help="Neighbours that vote.", rich_help_panel=PROTOCOL)] = 20,
    temperature: Annotated[
        float | None,
        typer.Option(
            help="Weigh the votes by exp(cosine / T), for example 0.07. (default: one vote each)",
            rich_help_panel=PROTOCOL,
        ),
    ] = None,
    readout: Readout = None,
    baseline: Baseline = True,
    train_split: TrainSplit = "train",
    test_split: TestSplit = "test",
    name: Name = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    test_fraction: TestFraction = None,
    max_samples: MaxSamples = None,
    on_unreadable: OnUnreadable = "stop",
    json_file: JsonFile = None,
    batch_size: BatchSize = 64,
    num_workers: NumWorkers = 0,
    device: Device = "auto",
) -> None:
    """Label every test image by the vote of its nearest training images (cosine, exact search)."""
    if temperature is not None and not temperature > 0:
        raise WrongUsage(f"--temperature is {temperature}; expected a number above 0, for example 0.07.")
    inputs = _prepare(
        checkpoint,
        dataset,
        {"--train-split": train_split, "--test-split": test_split},
        readout=readout,
        baseline=baseline,
        batch_size=batch_size,
        num_workers=num_workers,
        device=device,
        on_unreadable=on_unreadable,
        name=name,
        image_column=image_column,
        label_column=label_column,
        test_fraction=test_fraction,
        max_samples=max_samples,
    )
    train_y, test_y = inputs.labels[train_split], inputs.labels[test_split]
    if k > len(train_y):
        raise WrongUsage(f"--k is {k}, but split {train_split!r} has {len(train_y)} rows; lower it.")

    from hf_contrastive.evaluation import knn_accuracy

    def measure(features: Features) -> dict[str, Any]:
        result = knn_accuracy(
            features.arrays[train_split],
            train_y,
            features.arrays[test_split],
            test_y,
            k=k,
            weighting="uniform" if temperature is None else "temperature",
            temperature=0.07 if temperature is None else temperature,
        )
        return {"knn_top1": result["knn_top1"]}

    votes = "one each" if temperature is None else f"exp(cosine / {temperature})"
    protocol = {"k": k, "votes": votes, "similarity": "cosine (embeddings scaled to length 1)"}
    protocol |= _splits(inputs, train_split=train_split, test_split=test_split)
    report("kNN accuracy", inputs, protocol, measure, "knn_top1", len(test_y), json_file)


def linear(
    checkpoint: Checkpoint,
    dataset: Dataset,
    method: Annotated[
        str,
        typer.Option(
            help="logistic (convex, strength chosen on a part of train) or sgd (Adam, early stopping).",
            rich_help_panel=PROTOCOL,
        ),
    ] = "logistic",
    seed: Annotated[int, typer.Option(help="Of the validation part and of sgd.", rich_help_panel=PROTOCOL)] = 0,
    readout: Readout = None,
    baseline: Baseline = True,
    train_split: TrainSplit = "train",
    test_split: TestSplit = "test",
    name: Name = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    test_fraction: TestFraction = None,
    max_samples: MaxSamples = None,
    on_unreadable: OnUnreadable = "stop",
    json_file: JsonFile = None,
    batch_size: BatchSize = 64,
    num_workers: NumWorkers = 0,
    device: Device = "auto",
) -> None:
    """Train one linear layer on the frozen embeddings and measure it on the test split."""
    if method not in ("logistic", "sgd"):
        raise WrongUsage(f"--method is {method!r}; type logistic or sgd.")
    inputs = _prepare(
        checkpoint,
        dataset,
        {"--train-split": train_split, "--test-split": test_split},
        readout=readout,
        baseline=baseline,
        batch_size=batch_size,
        num_workers=num_workers,
        device=device,
        on_unreadable=on_unreadable,
        name=name,
        image_column=image_column,
        label_column=label_column,
        test_fraction=test_fraction,
        max_samples=max_samples,
    )
    train_y, test_y = inputs.labels[train_split], inputs.labels[test_split]

    from hf_contrastive.evaluation import linear_probe

    def measure(features: Features) -> dict[str, Any]:
        result = linear_probe(
            features.arrays[train_split], train_y, features.arrays[test_split], test_y, method=method, seed=seed
        )
        return {"accuracy": result["accuracy"]}

    protocol = {"method": method, "features": "standardised on train", "seed": seed}
    protocol |= _splits(inputs, train_split=train_split, test_split=test_split)
    report("Linear probe", inputs, protocol, measure, "accuracy", len(test_y), json_file)


def retrieval(
    checkpoint: Checkpoint,
    dataset: Dataset,
    ks: Annotated[
        str, typer.Option("--ks", "--k", help="Cut-offs of recall, with commas.", rich_help_panel=PROTOCOL)
    ] = "1,5,10",
    readout: Readout = None,
    baseline: Baseline = True,
    test_split: TestSplit = "test",
    gallery_split: Annotated[
        str | None,
        typer.Option(
            help="Split to search in. (default: the test split, without the image itself)", rich_help_panel=DATA
        ),
    ] = None,
    one_query_per_class: Annotated[
        bool,
        typer.Option(
            "--one-query-per-class",
            help="The first image of each class looks for the others (MOFI's ImageNet retrieval).",
            rich_help_panel=PROTOCOL,
        ),
    ] = False,
    name: Name = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    test_fraction: TestFraction = None,
    max_samples: MaxSamples = None,
    on_unreadable: OnUnreadable = "stop",
    json_file: JsonFile = None,
    batch_size: BatchSize = 64,
    num_workers: NumWorkers = 0,
    device: Device = "auto",
) -> None:
    """Search for images of the same class: recall@k, MAP@R and mean reciprocal rank (cosine, exact search)."""
    try:
        cutoffs = sorted({int(value) for value in ks.split(",")})
    except ValueError:
        cutoffs = []
    if not cutoffs or cutoffs[0] < 1:
        raise WrongUsage(f"--ks is {ks!r}; expected numbers of at least 1 with commas, for example 1,5,10.")
    if one_query_per_class and gallery_split is not None:
        raise WrongUsage(
            "--one-query-per-class searches in what is left of the test split; leave --gallery-split out."
        )
    if gallery_split == test_split:
        gallery_split = None  # searching the split itself must leave the query out
    splits = {"--test-split": test_split} | ({"--gallery-split": gallery_split} if gallery_split else {})
    inputs = _prepare(
        checkpoint,
        dataset,
        splits,
        readout=readout,
        baseline=baseline,
        batch_size=batch_size,
        num_workers=num_workers,
        device=device,
        on_unreadable=on_unreadable,
        name=name,
        image_column=image_column,
        label_column=label_column,
        test_fraction=test_fraction,
        max_samples=max_samples,
    )
    labels = inputs.labels[test_split]
    queries, gallery = _first_of_each(labels) if one_query_per_class else (slice(None), None)
    if gallery is not None:
        available = len(gallery)
    else:
        available = len(inputs.labels[gallery_split]) if gallery_split else len(labels) - 1
    if cutoffs[-1] > available:
        raise WrongUsage(f"--ks asks for {cutoffs[-1]} neighbours, but only {available} rows can be found; lower it.")

    from hf_contrastive.evaluation import retrieval_metrics

    counted = {}

    def measure(features: Features) -> dict[str, Any]:
        x = features.arrays[test_split]
        found, known = None, None
        if gallery is not None:
            found, known = x[gallery], labels[gallery]
        elif gallery_split:
            found, known = features.arrays[gallery_split], inputs.labels[gallery_split]
        result = retrieval_metrics(x[queries], found, query_labels=labels[queries], gallery_labels=known, ks=cutoffs)
        counted.update(rows=result["n_queries"], alone=result["queries_without_relevant"])
        return {name: result[name] for name in (*(f"recall@{k}" for k in cutoffs), "map@r", "mrr")}

    measure(inputs.features[0])  # how many queries have an answer does not depend on the encoder
    protocol = {"similarity": "cosine", **_splits(inputs, queries=test_split)}
    if gallery is not None:
        protocol["queries"] = f"the first image of each class of {test_split} ({len(labels) - len(gallery)} rows)"
        protocol["gallery"] = f"the others ({len(gallery)} rows)"
    elif gallery_split:
        protocol |= _splits(inputs, gallery=gallery_split)
    else:
        protocol["gallery"] = f"{test_split} without the query"
    protocol["queries with no image of their class, left out"] = counted["alone"]
    report(
        "Retrieval",
        inputs,
        protocol,
        measure,
        f"recall@{cutoffs[0]}",
        counted["rows"],
        json_file,
        tuple(f"recall@{k}" for k in cutoffs),
    )
