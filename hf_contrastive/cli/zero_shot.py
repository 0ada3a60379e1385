"""`hf-contrastive evaluate zero-shot`: classes described by texts, with no training image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hf_contrastive.cli.common import CliError, Progress, WrongUsage
from hf_contrastive.cli.evaluate import (
    DATA,
    PROTOCOL,
    SEED,
    BatchSize,
    Dataset,
    Device,
    Features,
    ImageColumn,
    Inputs,
    JsonFile,
    LabelColumn,
    MaxSamples,
    Name,
    OnUnreadable,
    TestFraction,
    TestSplit,
    labels_of,
    report,
)


if TYPE_CHECKING:
    import numpy as np

MOST_FREQUENT = "always the most frequent class"
OPTIONS = ["--prompts cifar", "--prompt 'a photo of a {}.' --prompt 'a drawing of a {}.'"]
# the 18 that CLIP's authors publish for CIFAR-10 and CIFAR-100
KINDS = ("", "blurry ", "black and white ", "low contrast ", "high contrast ", "bad ", "good ")
CIFAR_PROMPTS = tuple(
    prompt
    for article in ("a", "the")
    for prompt in (
        *(f"a {kind}photo of {article} {{}}." for kind in KINDS),
        *(f"a photo of {article} {size} {{}}." for size in ("small", "big")),
    )
)

Pair = Annotated[
    str,
    typer.Argument(
        metavar="CHECKPOINT",
        help="Folder or hub id of a pair of encoders, of this library or CLIP-like (transformers).",
    ),
]
Prompt = Annotated[
    list[str] | None,
    typer.Option(
        help="Text of a class, {} for its name; may be repeated. (default: a photo of a {}.)", rich_help_panel=PROTOCOL
    ),
]
Prompts = Annotated[
    str | None,
    typer.Option(
        help="File with such a text a line, or cifar: the 18 that CLIP publishes for CIFAR. Embeddings are averaged.",
        rich_help_panel=PROTOCOL,
    ),
]
Classes = Annotated[
    Path | None,
    typer.Option(
        help="File of the classes' names: label, tab, name on each line; or the names alone, in the order of the class numbers.",
        rich_help_panel=DATA,
    ),
]
Baseline = Annotated[
    bool,
    typer.Option(
        "--baseline/--no-baseline",
        help="Also measure untrained encoders and the answer that is right most often.",
        rich_help_panel=PROTOCOL,
    ),
]


def read_prompts(typed: Sequence[str], source: str | None) -> list[str]:
    """The texts of a class, each with one `{}`.

    Args:
        typed (`Sequence[str]`): of `--prompt`.
        source (`str`, *optional*): of `--prompts`, a file or `cifar`.

    Raises:
        WrongUsage: both or a text without `{}`.
        CliError: no such file, or an empty one.
    """
    if typed and source is not None:
        raise WrongUsage("--prompt and --prompts exclude each other; write all texts into the file.")
    if source is None:
        prompts = list(typed) or ["a photo of a {}."]
    elif source == "cifar":
        prompts = list(CIFAR_PROMPTS)
    else:
        prompts = [line for line in _lines(Path(source), "--prompts", "cifar, or a file with a text a line") if line]
    for prompt in prompts:
        if prompt.count("{}") != 1:
            raise WrongUsage(f"the prompt {prompt!r} needs exactly one {{}}, where the name of a class goes.")
    return prompts


def read_class_names(file: Path | None, labels: np.ndarray, known: Sequence[str] | None) -> list[tuple[Any, str]]:
    """Every class and what it is called in a prompt.

    Args:
        file (`Path`, *optional*): of `--classes`.
        labels (`ndarray` `[rows]`): names or numbers, as `labels_of` gives them.
        known (`Sequence[str]`, *optional*): names of all classes in the order of their numbers, where the data has them.

    Returns:
        `list[(label, name)]`.

    Raises:
        CliError: a file that does not fit the data, names that occur twice, or classes that have no names.
    """
    import numpy as np

    found = [value.item() if hasattr(value, "item") else value for value in np.unique(labels)]
    if file is None:
        if known is None and not all(isinstance(label, str) for label in found):
            raise CliError(
                f"the classes have no names, only numbers ({', '.join(map(str, found[:5]))}...); give the names with --classes FILE, "
                "one a line in the order of the numbers."
            )
        names = [(label, _as_words(str(label))) for label in (known or found)]
    else:
        lines = [
            line
            for line in _lines(file, "--classes", "a file with label, tab, name on each line, or names alone")
            if line
        ]
        split = [line.split("\t") for line in lines]
        if all(len(parts) == 1 for parts in split):
            names = _by_number(file, lines, found, known)
        elif all(len(parts) == 2 for parts in split):
            kind = type(found[0])
            try:
                names = [(kind(label.strip()), name.strip()) for label, name in split]
            except ValueError:
                raise CliError(
                    f"{file}: the labels of the data are numbers ({found[0]}...), those of the file are not; write the numbers before "
                    "the tabs."
                ) from None
        else:
            expected = min(len(split[0]), 2)
            number = next(n for n, parts in enumerate(split, 1) if len(parts) != expected)
            raise CliError(
                f"{file}: line {number} has {len(split[number - 1])} columns, expected {expected}; write label, tab, name on every "
                "line, or the name alone on every line."
            )
        missing = [label for label in found if label not in dict(names)]
        if missing:
            raise CliError(
                f"{file} has no name for the class {missing[0]!r} ({len(missing)} of {len(found)} are missing); add a line for each."
            )
    for place, kept in enumerate(("labels", "names")):
        values = [pair[place] for pair in names]
        twice = next((value for value in values if values.count(value) > 1), None)
        if twice is not None:
            raise CliError(
                f"two classes have the same {kept[:-1]} {twice!r}, so their texts cannot be told apart; write other names into "
                "a file for --classes."
            )
    return names


def _by_number(file: Path, lines: list[str], found: list[Any], known: Sequence[str] | None) -> list[tuple[Any, str]]:
    if known is not None:
        if len(lines) != len(known):
            raise CliError(
                f"{file} has {len(lines)} names, the data {len(known)} classes; write one a line for each, in the order of their numbers."
            )
        return list(zip(known, lines, strict=True))
    if not all(isinstance(label, int) for label in found):
        raise CliError(
            f"{file} has names alone, but the labels of the data are not numbers ({found[0]!r}...); write label, tab, name."
        )
    if found[-1] >= len(lines):
        raise CliError(
            f"{file} has {len(lines)} names, numbered from 0, but the data has the class {found[-1]}; add the names that are missing."
        )
    return list(enumerate(lines))


def _as_words(label: str) -> str:
    return label.replace("_", " ").strip()


def _lines(file: Path, option: str, expected: str) -> list[str]:
    try:
        lines = [line.strip() for line in file.expanduser().read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(f"{option} {file} cannot be read ({type(error).__name__}); expected {expected}.") from error
    if not any(lines):
        raise CliError(f"{option} {file} is empty; expected {expected}.")
    return lines


def zero_shot(
    checkpoint: Pair,
    dataset: Dataset,
    prompt: Prompt = None,
    prompts: Prompts = None,
    baseline: Baseline = True,
    classes: Classes = None,
    test_split: TestSplit = "test",
    name: Name = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    test_fraction: TestFraction = None,
    max_samples: MaxSamples = None,
    on_unreadable: OnUnreadable = "stop",
    json_file: JsonFile = None,
    batch_size: BatchSize = 64,
    device: Device = "auto",
) -> None:
    """Label every test image by the nearest text of a class (cosine; several prompts are averaged as in CLIP)."""
    import numpy as np

    from hf_contrastive.cli.checkpoints import load_pair, load_rows, public_name
    from hf_contrastive.cli.embed import check_unreadable
    from hf_contrastive.evaluation import zero_shot_accuracy

    templates = read_prompts(prompt or [], prompts)
    check_unreadable(on_unreadable)
    pair = load_pair(checkpoint, device, batch_size)
    rows = load_rows(
        dataset,
        {"split": "--test-split"},
        split=test_split,
        on_unreadable=on_unreadable,
        name=name,
        image_column=image_column,
        label_column=label_column,
        test_fraction=test_fraction,
        max_samples=max_samples,
    )
    labels = labels_of(rows, test_split, dataset)
    names = read_class_names(classes, labels, getattr(rows.features["label"], "names", None))
    if len(names) < 2:
        raise CliError(f"{dataset} has one class only ({names[0][1]!r}); there is nothing to tell apart.")
    number = {label: place for place, (label, _) in enumerate(names)}
    answers = np.asarray([number[label] for label in labels.tolist()])
    texts = [[template.replace("{}", words) for template in templates] for _, words in names]

    features = [_embed(pair, "this checkpoint", rows, texts, test_split)]
    if baseline:
        features.append(_embed(pair.untrained(SEED), f"untrained encoders (seed {SEED})", rows, texts, test_split))
        features.append(Features(MOST_FREQUENT, {}))
    inputs = Inputs(
        pair.name, public_name(dataset), "projection", features[0].arrays["images"].shape[1], features=features
    )
    cutoffs = [5] if len(names) > 5 else []

    def measure(features: Features) -> dict[str, Any]:
        if not features.arrays:
            return _most_frequent(answers, cutoffs)
        result = zero_shot_accuracy(features.arrays["images"], features.arrays["classes"], answers, ks=cutoffs)
        return {
            "accuracy": result["accuracy"],
            "mean_per_class": result["mean_per_class_accuracy"],
            **{f"top{k}": result[f"top{k}"] for k in cutoffs},
        }

    shown = templates[0] if len(templates) == 1 else f"{len(templates)}, averaged (first: {templates[0]})"
    protocol = {
        "prompts": shown,
        "classes": f"{len(names)} (first: {texts[0][0]})",
        "similarity": "cosine",
        "test_split": f"{test_split} ({len(rows)} rows)",
    }
    hint = (
        "Try other prompts (--prompt), names as they stood in the texts of the training (--classes), or train longer."
    )
    report("Zero-shot accuracy", inputs, protocol, measure, "accuracy", len(rows), json_file, hint=hint)


def _embed(pair: Any, what: str, rows: Any, texts: list[list[str]], split: str) -> Features:
    import torch
    from PIL import Image

    from hf_contrastive.cli.checkpoints import check_finite
    from hf_contrastive.data import image_to_array
    from hf_contrastive.evaluation import zero_shot_class_embeddings

    size, parts = pair.scorer.batch_size, []
    with Progress(f"{what}, {split}", len(rows)) as progress:
        for start in range(0, len(rows), size):
            # decoded a batch at a time
            images = [Image.fromarray(image_to_array(image, 3)) for image in rows[start : start + size]["image"]]
            parts.append(pair.scorer.embed_images(images))
            progress.advance(len(images))
    images_x = torch.cat(parts).numpy()
    check_finite(images_x, "the images", pair.name)
    described = pair.scorer.embed_texts([text for one in texts for text in one])
    check_finite(described.numpy(), "the texts", pair.name)
    classes = zero_shot_class_embeddings(described.view(len(texts), len(texts[0]), -1))
    return Features(what, {"images": images_x, "classes": classes.numpy()})


def _most_frequent(answers: np.ndarray, cutoffs: list[int]) -> dict[str, Any]:
    import numpy as np

    counts = np.sort(np.bincount(answers))[::-1]
    shares = counts / counts.sum()
    found = {"accuracy": float(shares[0]), "mean_per_class": float(1 / np.count_nonzero(counts))}
    return found | {f"top{k}": float(shares[:k].sum()) for k in cutoffs}
