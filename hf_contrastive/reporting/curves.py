"""Training curves, and all the pictures of a run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_contrastive.reporting import style
from hf_contrastive.reporting.runs import merge_steps, read_metrics, read_run
from hf_contrastive.reporting.style import Picture, compose_title, new_figure, save_picture, styled


# (panel title, label of the value axis, does a metric of this name belong there). The first fit wins.
_PANELS: tuple[tuple[str, str, Any], ...] = (
    (
        "Loss",
        "loss",
        lambda name: name == "loss" or name.startswith("loss_") or (name.endswith("_loss") and "reg_" not in name),
    ),
    # hundreds of times as large as the loss, which would be a line at the bottom
    ("Penalties", "without their weight", lambda name: name.endswith("reg_loss")),
    ("Similarity of pairs", "cosine (no unit)", lambda name: name in ("pos_sim", "neg_sim")),
    (
        "Ranking",
        "from 0 to 1, larger is better",
        lambda name: name.startswith(("recall", "precision@", "hit@", "map@", "mrr", "ndcg", "r_precision")),
    ),
    (
        "Accuracy",
        "share right (0 to 1)",
        lambda name: name.startswith(("knn", "linear", "accuracy", "probe", "one_shot")) or name.endswith("accuracy"),
    ),
    (
        "Rewards",
        "reward (no unit)",
        lambda name: name.endswith(("reward_margin", "reward_mean", "reward_std")),
    ),
    ("Spread of embeddings", "standard deviation (no unit)", lambda name: name == "std" or name.endswith("_std")),
    ("Effective rank", "directions used", lambda name: "effective_rank" in name or name == "rank"),
    ("Alignment and uniformity", "no unit", lambda name: name in ("alignment", "uniformity")),
    ("Learning rate", "step size", lambda name: name.startswith(("learning_rate", "lr"))),
    ("Gradient norm", "L2 norm", lambda name: name == "grad_norm"),
    ("Scale and temperature", "no unit", lambda name: name in ("logit_scale", "temperature")),
    ("Speed", "examples per second", lambda name: name in ("examples_per_second", "samples_per_second")),
)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def plot_training_curves(
    metrics: str | Path | Sequence[Mapping[str, Any]],
    out: str | Path = "training_curves.png",
    *,
    data: str | None = None,
) -> Picture:
    """The curves of a run in panels: loss and its parts, similarities, accuracy, spread, rank, learning rate, gradients.

    Panels appear for the metrics that were logged. Names with `eval_` are drawn with markers in the panel of their
    metric. Steps at which a value was NaN or infinite are marked by a cross at the top.

    Args:
        metrics (`str`, `Path` or `Sequence[dict]`): a `metrics.jsonl`, or its lines.
        out (`str` or `Path`): the PNG to write.
        data (`str`, *optional*): the run or its data, for the title.

    Returns:
        [`Picture`]: the PNG, and a CSV with step, epoch and every drawn metric.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: nothing in it can be drawn; the message lists the names that were found.
        ImportError: matplotlib is not installed; the message holds the command.

    Example:

    ```python
    >>> import tempfile
    >>> from hf_contrastive.reporting import plot_training_curves
    >>> lines = [{"step": s, "loss": 5 / s, "pos_sim": 0.5} for s in range(1, 20)]
    >>> plot_training_curves(lines, tempfile.mkdtemp() + "/curves.png").title
    'Training curves'

    ```
    """
    lines = read_metrics(metrics) if isinstance(metrics, (str, Path)) else merge_steps(metrics)
    panels: dict[str, list[str]] = {}
    names = list(dict.fromkeys(name for line in lines for name in line))
    for name in names:
        bare = name.removeprefix("eval_").removeprefix("train_")
        # `train_loss` is the mean over the whole run, written once at its end
        if name == "train_loss" or not any(_number(line.get(name)) is not None for line in lines):
            continue
        for title, _, belongs in _PANELS:
            if belongs(bare):
                panels.setdefault(title, []).append(name)
                break
    if not panels:
        raise ValueError(
            f"no metric that can be drawn; found {', '.join(map(str, names)) or 'nothing'}, expected for example loss, "
            "pos_sim, std, effective_rank, knn_top1, learning_rate"
        )
    drawn = [name for title, _, _ in _PANELS for name in panels.get(title, ())]
    shown = [(title, unit) for title, unit, _ in _PANELS if title in panels]
    columns = 1 if len(shown) == 1 else 2 if len(shown) in (2, 4) else 3
    rows = -(-len(shown) // columns)
    with styled():
        figure = new_figure(4.1 * columns + 0.6, 3.1 * rows + 0.6)
        title = compose_title("Training curves", data, width=40 * columns)
        figure.suptitle(title)
        grid = figure.subplots(rows, columns, squeeze=False).flatten()
        for axes in grid[len(shown) :]:
            axes.set_axis_off()
        for axes, (panel, unit) in zip(grid, shown, strict=False):
            _draw_panel(axes, panel, unit, panels[panel], lines)
        last = {
            name: next(v for line in reversed(lines) if (v := _number(line.get(name))) is not None) for name in drawn
        }
        told = ", ".join(f"{name} {last[name]:.4g}" for name in drawn if name in _TOLD or name.startswith("eval_knn"))
        steps = f"{lines[0]['step']:g} to {lines[-1]['step']:g}"
        return save_picture(
            figure,
            out,
            title=title,
            alt_text=(
                f"{len(shown)} panels of curves over training steps {steps}{f' of {data}' if data else ''}: "
                f"{', '.join(panel for panel, _ in shown)}.{f' Last values: {told}.' if told else ''}"
            ),
            header=("step", "epoch", *drawn),
            rows=(
                (line["step"], line.get("epoch"), *(_number(line.get(name)) for name in drawn))
                for line in lines
                if any(_number(line.get(name)) is not None for name in drawn)
            ),
        )


_TOLD = ("loss", "pos_sim", "neg_sim", "std", "effective_rank", "knn_top1")


def _draw_panel(axes: Any, panel: str, unit: str, names: Sequence[str], lines: Sequence[Mapping[str, Any]]) -> None:
    finite_values = []
    for i, name in enumerate(names):
        pairs = [(line["step"], value) for line in lines if (value := _number(line.get(name))) is not None]
        points = np.array(pairs, dtype=np.float64).reshape(-1, 2)
        fine = np.isfinite(points[:, 1])
        finite_values.append(points[fine, 1])
        few = name.startswith("eval_") or fine.sum() <= 12
        color = style.COLORS[(i + 5 * (i // len(style.COLORS))) % len(style.COLORS)]
        axes.plot(
            *points[fine].T,
            color=color,
            marker=style.MARKERS[i % len(style.MARKERS)] if few else None,
            markersize=5,
            linestyle="-" if i < len(style.COLORS) else "--",
            label=name,
        )
        if not fine.all():
            # at the top edge, whatever the scale
            axes.plot(
                points[~fine, 0],
                np.ones((~fine).sum()),
                transform=axes.get_xaxis_transform(),
                linestyle="",
                marker="x",
                color=color,
                markersize=7,
                clip_on=False,
                label=f"{name} not finite",
            )
    values = np.concatenate(finite_values)
    if panel == "Accuracy" and len(values):
        low, high = float(values.min()), float(values.max())
        pad = max(0.02, 0.1 * (high - low))
        axes.set_ylim(max(0.0, low - pad), min(1.02, high + pad))
    elif panel in ("Gradient norm", "Spread of embeddings", "Effective rank", "Speed") and len(values):
        axes.set_ylim(0, None)  # here the distance to zero is the message
    axes.set(title=panel, xlabel="step", ylabel=unit)
    axes.locator_params(axis="x", nbins=6)
    # below the axes: a legend inside would sooner or later cover the curve
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, borderaxespad=0)


def plot_run(folder: str | Path, out: str | Path | None = None, *, method: str = "pca") -> list[Picture]:
    """All the pictures that a run folder has data for.

    The training curves from `metrics.jsonl` (or the trainer's log history); with an `embeddings.npz` (written by
    [`save_embeddings`]) also the embedding map, the neighbours, the heat map and the histogram of similarities.

    Args:
        folder (`str` or `Path`): the output folder of a training run.
        out (`str` or `Path`, *optional*): where the pictures go; by default the folder `pictures` inside.
        method (`str`, defaults to `"pca"`): of the embedding map: `"pca"`, `"tsne"` or `"umap"`.

    Returns:
        `list[Picture]`: what was written.

    Raises:
        FileNotFoundError: the folder does not exist or holds no metrics; the message lists what it holds.
        ValueError: a file is there but holds nothing that can be drawn.
        ImportError: matplotlib is not installed; the message holds the command.

    Example:

    ```python
    >>> import tempfile, pathlib
    >>> from hf_contrastive.reporting import plot_run
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\\n{"step": 2, "loss": 1.0}\\n')
    >>> [picture.path.name for picture in plot_run(folder)]
    ['training_curves.png']

    ```
    """
    run = read_run(folder)
    out = Path(out) if out is not None else run.folder / "pictures"
    arrays = run.embeddings
    data = str(arrays["data"]) if "data" in arrays else None
    pictures = []
    if run.metrics:
        name = run.folder.resolve().name
        pictures.append(plot_training_curves(run.metrics, out / "training_curves.png", data=name))
    if arrays:
        # these need torch; the curves above do not
        from hf_contrastive.reporting.plots import (
            plot_embedding_map,
            plot_similarity_heatmap,
            plot_similarity_histogram,
        )
        from hf_contrastive.reporting.sheets import plot_neighbours

        names = [str(name) for name in arrays["class_names"]] if "class_names" in arrays else None
        labels = arrays.get("labels")
        if "embeddings" in arrays:
            pictures.append(
                plot_embedding_map(
                    arrays["embeddings"],
                    labels,
                    out / "embedding_map.png",
                    class_names=names,
                    method=method,
                    data=data,
                )
            )
            if "images" in arrays:
                pictures.append(
                    plot_neighbours(
                        arrays["images"],
                        arrays["embeddings"],
                        out / "neighbours.png",
                        labels=labels,
                        class_names=names,
                        k=min(8, len(arrays["embeddings"]) - 1),
                        data=data,
                    )
                )
        if {"z_i", "z_j"} <= arrays.keys():
            pictures.append(
                plot_similarity_heatmap(arrays["z_i"], arrays["z_j"], out / "similarity_heatmap.png", data=data)
            )
            pictures.append(
                plot_similarity_histogram(arrays["z_i"], arrays["z_j"], out / "similarity_histogram.png", data=data)
            )
    return pictures
