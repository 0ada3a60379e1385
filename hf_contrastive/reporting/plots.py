"""Pictures of embeddings: the map, similarities of pairs, accuracies side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from hf_contrastive.evaluation._checks import as_embeddings, as_labels, as_pair, blocks, check_choice, check_count
from hf_contrastive.reporting import style
from hf_contrastive.reporting.style import Picture, compose_title, new_figure, save_picture, styled
from hf_contrastive.utils import require_package


# more classes than this cannot be told apart: the most frequent keep a colour, the others turn grey
MAX_CLASSES = 20


def plot_embedding_map(
    embeddings: Any,
    labels: Any = None,
    out: str | Path = "embedding_map.png",
    *,
    class_names: Sequence[str] | None = None,
    method: str = "pca",
    normalize: bool = True,
    max_points: int = 3000,
    seed: int = 0,
    data: str | None = None,
) -> Picture:
    """Map of embeddings in two dimensions, a colour and a marker for every class.

    PCA (the default) is exact, quick and says how much of the variance it shows. t-SNE and UMAP pull clusters apart and
    show neighbourhoods; distances between clusters mean little there.

    Args:
        embeddings (`[N, D]` array or tensor): the embeddings, at least three rows.
        labels (`[N]` integers or strings, *optional*): their classes.
        out (`str` or `Path`): the PNG to write.
        class_names (`Sequence[str]`, *optional*): names of the classes 0, 1, ... for the legend.
        method (`str`, defaults to `"pca"`): `"pca"`, `"tsne"` or `"umap"` (needs the package umap-learn).
        normalize (`bool`, defaults to `True`): put the rows on the unit sphere first, as the cosine sees them.
        max_points (`int`, defaults to 3000): of more rows, this many are drawn at random.
        seed (`int`, defaults to 0): of that draw, and of t-SNE and UMAP.
        data (`str`, *optional*): what data these are, for the title.

    Returns:
        [`Picture`]: the PNG, and a CSV with row, x, y, label.

    Raises:
        ValueError: wrong shapes, NaN or infinity, an unknown method.
        ImportError: matplotlib (or umap-learn) is not installed; the message holds the command.

    Example:

    ```python
    >>> import numpy as np, tempfile
    >>> from hf_contrastive.reporting import plot_embedding_map
    >>> z = np.random.default_rng(0).normal(size=(30, 4))
    >>> plot_embedding_map(z, np.arange(30) % 3, tempfile.mkdtemp() + "/map.png").data_path.name
    'map.csv'

    ```
    """
    check_choice("method", method, ("pca", "tsne", "umap"))
    rows = as_embeddings("embeddings", embeddings, dtype=torch.float64)
    if len(rows) < 3 or rows.shape[1] < 2:
        raise ValueError(f"`embeddings` has shape {list(rows.shape)}; a map needs at least 3 rows and 2 features")
    names = None if labels is None else as_labels("labels", labels, len(rows), "embeddings")
    chosen = np.arange(len(rows))
    if len(rows) > check_count("max_points", max_points):
        chosen = np.sort(np.random.default_rng(seed).choice(len(rows), max_points, replace=False))
    points = rows[torch.as_tensor(chosen, device=rows.device)].cpu()
    points = F.normalize(points, dim=1) if normalize else points
    if names is not None:
        names = names[chosen]
    places, axes, told = _project(points.numpy(), method, seed)

    with styled():
        figure = new_figure(7.6, 5.6)
        title = compose_title(f"Embedding map ({axes[2]})", data)
        figure.suptitle(title)
        plot = figure.add_subplot()
        size = float(np.clip(10_000 / len(places), 11, 45))
        groups = _groups(names, class_names)
        for label, mask, color, marker in groups:
            plot.scatter(
                *places[mask].T,
                s=size * style.MARKER_AREA.get(marker, 1.0),
                c=color,
                marker=marker,
                alpha=0.8,
                linewidths=0.2,
                edgecolors="white",
                label=label,
            )
        plot.set(xlabel=axes[0], ylabel=axes[1])
        if method != "pca":  # units carry no meaning there
            plot.set_xticks([])
            plot.set_yticks([])
        if names is not None:
            handles, texts = plot.get_legend_handles_labels()
            if len(np.unique(names)) > MAX_CLASSES:  # the rest is drawn first, and told last
                handles, texts = [*handles[1:], handles[0]], [*texts[1:], texts[0]]
            figure.legend(
                handles,
                texts,
                loc="outside right upper",
                title="class",
                markerscale=float(np.clip(7 / size**0.5, 1, 3)),
                ncols=1 if len(groups) <= 21 else 2,
            )
        count = "one colour" if names is None else f"{len(np.unique(names))} classes"
        return save_picture(
            figure,
            out,
            title=title,
            alt_text=f"Scatter plot of {len(places)} embeddings{f' of {data}' if data else ''} in two dimensions, {count}. {told}",
            header=("row", "x", "y", "label"),
            rows=(
                (chosen[i], places[i, 0], places[i, 1], None if names is None else names[i])
                for i in range(len(places))
            ),
        )


def _project(points: np.ndarray, method: str, seed: int) -> tuple[np.ndarray, tuple[str, str, str], str]:
    """Two coordinates a row, the axis labels with the method's name, and a sentence on what is seen."""
    if method == "pca":
        centered = points - points.mean(0)
        left, values, _ = np.linalg.svd(centered, full_matrices=False)
        shares = values**2 / max(float((values**2).sum()), 1e-300)
        places = left[:, :2] * values[:2]
        # the sign of a component is free: its largest entry points up, so a picture can be repeated
        places = places * np.where(places[np.abs(places).argmax(0), [0, 1]] < 0, -1, 1)
        axes = tuple(f"component {i + 1} ({shares[i]:.0%} of the variance)" for i in range(2))
        return places, (axes[0], axes[1], "PCA"), f"The two components hold {shares[:2].sum():.0%} of the variance."
    if method == "tsne":
        from sklearn.manifold import TSNE

        perplexity = min(30.0, (len(points) - 1) / 3)
        places = TSNE(2, init="pca", perplexity=perplexity, random_state=seed).fit_transform(points)
        told = f"Near points are similar; distances between clusters mean little (t-SNE, perplexity {perplexity:.3g})."
        return places, ("t-SNE 1 (no unit)", "t-SNE 2 (no unit)", "t-SNE"), told
    umap = require_package("umap", purpose='method="umap"')
    neighbours = min(15, len(points) - 1)
    places = umap.UMAP(n_neighbors=neighbours, random_state=seed, metric="euclidean").fit_transform(points)
    told = f"Near points are similar; distances between clusters mean little (UMAP, {neighbours} neighbours)."
    return np.asarray(places), ("UMAP 1 (no unit)", "UMAP 2 (no unit)", "UMAP"), told


def _groups(
    names: np.ndarray | None, class_names: Sequence[str] | None
) -> list[tuple[str | None, np.ndarray | slice, str, str]]:
    """Legend text, rows, colour and marker of every group, rest first so that it lies below."""
    if names is None:
        return [(None, slice(None), style.COLORS[0], "o")]
    classes, counts = np.unique(names, return_counts=True)
    kept = classes
    groups: list[tuple[str | None, np.ndarray | slice, str, str]] = []
    if len(classes) > MAX_CLASSES:
        kept = np.sort(classes[np.argsort(-counts, kind="stable")[: MAX_CLASSES - 1]])
        groups.append((f"other ({len(classes) - len(kept)} classes)", ~np.isin(names, kept), "#d5d5d5", "o"))
    for i, name in enumerate(kept):
        # markers shift by one after ten classes, so that class 11 shares the colour of class 1 but not its marker
        marker = style.MARKERS[(i + i // len(style.COLORS)) % len(style.MARKERS)]
        groups.append((class_name(name, class_names), names == name, style.COLORS[i % len(style.COLORS)], marker))
    return groups


def class_name(label: Any, class_names: Sequence[str] | None) -> str:
    """The name of class `label`, cut to fit a legend."""
    if class_names is not None and isinstance(label, (int, np.integer)) and 0 <= label < len(class_names):
        label = class_names[int(label)]
    text = str(label)
    return text if len(text) <= 24 else text[:23] + "…"


def plot_similarity_heatmap(
    z_i: Any,
    z_j: Any,
    out: str | Path = "similarity_heatmap.png",
    *,
    max_pairs: int = 40,
    seed: int = 0,
    data: str | None = None,
) -> Picture:
    """Cosines of `n` pairs, every row of one view against every row of the other. The diagonal holds the positives.

    A trained encoder shows a bright diagonal on a dark field; bright cells beside it are look-alikes (often of the same
    class). The darkest colour stands for the median of the negatives and all below it. In a collapsed encoder diagonal and
    field have the same similarity: the line above the picture and the scale tell.

    Args:
        z_i (`[N, D]` array or tensor): embeddings of one view.
        z_j (`[N, D]` array or tensor): embeddings of the other view; row i of both is one pair.
        out (`str` or `Path`): the PNG to write.
        max_pairs (`int`, defaults to 40): of more pairs, this many are drawn at random.
        seed (`int`, defaults to 0): of that draw and of the order, which is random so that data sorted by class show no
            stripes of their own.
        data (`str`, *optional*): what data these are, for the title.

    Returns:
        [`Picture`]: the PNG, and the matrix as CSV.

    Raises:
        ValueError: shapes that differ, fewer than two rows, NaN or infinity.
        ImportError: matplotlib is not installed; the message holds the command.

    Example:

    ```python
    >>> import numpy as np, tempfile
    >>> from hf_contrastive.reporting import plot_similarity_heatmap
    >>> picture = plot_similarity_heatmap(np.eye(4), np.eye(4), tempfile.mkdtemp() + "/heat.png")
    >>> "1.00 on the diagonal" in picture.alt_text
    True

    ```
    """
    left, right = _unit_pair(z_i, z_j)
    n = min(len(left), check_count("max_pairs", max_pairs))
    chosen = np.random.default_rng(seed).permutation(len(left))[:n]
    index = torch.as_tensor(chosen, device=left.device)
    matrix = (left[index] @ right[index].T).cpu().numpy()
    diagonal, off = np.diag(matrix), matrix[~np.eye(n, dtype=bool)]
    wins = float((matrix.argmax(1) == np.arange(n)).mean())
    with styled():
        figure = new_figure(6.4, 5.8)
        title = compose_title(f"Similarity of {n} positive pairs", data, width=60)
        figure.suptitle(title)
        plot = figure.add_subplot()
        plot.grid(False)
        # the scale starts in the middle of the field, so that half of it is dark whatever its level and the rest compares
        high = float(max(diagonal.max(), off.max()))
        low = min(float(np.median(off)), high - 1e-3)
        image = plot.imshow(matrix, cmap=style.SEQUENTIAL, vmin=low, vmax=high, interpolation="nearest")
        plot.set(xlabel="pair, second view", ylabel="pair, first view")
        figure.colorbar(image, ax=plot, label="cosine similarity (no unit)", shrink=0.9, extend="min")
        plot.set_title(
            f"mean {diagonal.mean():.2f} on the diagonal, {off.mean():.2f} off it; diagonal largest in {wins:.0%} of rows",
            fontsize=9,
            color=style.INK,
        )
        return save_picture(
            figure,
            out,
            title=title,
            alt_text=(
                f"Heat map of the cosine similarity of {n} pairs of views{f' of {data}' if data else ''}: mean "
                f"{diagonal.mean():.2f} on the diagonal (positives), {off.mean():.2f} off it (negatives); the diagonal is "
                f"the largest of its row in {wins:.0%} of the rows."
            ),
            header=("first_view_row", *(f"second_view_row_{row}" for row in chosen)),
            rows=((chosen[i], *matrix[i]) for i in range(n)),
        )


def plot_similarity_histogram(
    z_i: Any, z_j: Any, out: str | Path = "similarity_histogram.png", *, bins: int = 60, data: str | None = None
) -> Picture:
    """Histogram of the cosines of positive pairs against those of all negative pairs (row i with row j, across views).

    Args:
        z_i (`[N, D]` array or tensor): embeddings of one view.
        z_j (`[N, D]` array or tensor): embeddings of the other view; row i of both is one pair.
        out (`str` or `Path`): the PNG to write.
        bins (`int`, defaults to 60): bars over the range that occurs.
        data (`str`, *optional*): what data these are, for the title.

    Returns:
        [`Picture`]: the PNG, and a CSV with both histograms (share of the pairs in a bin).

    Raises:
        ValueError: shapes that differ, fewer than two rows, NaN or infinity.
        ImportError: matplotlib is not installed; the message holds the command.

    Example:

    ```python
    >>> import numpy as np, tempfile
    >>> from hf_contrastive.reporting import plot_similarity_histogram
    >>> picture = plot_similarity_histogram(np.eye(4), np.eye(4), tempfile.mkdtemp() + "/histogram.png")
    >>> picture.path.exists()
    True

    ```
    """
    left, right = _unit_pair(z_i, z_j)
    check_count("bins", bins)
    n = len(left)
    positives = (left * right).sum(1).cpu().numpy().clip(-1, 1)
    # counted in fine bins block by block (N x N is never held), and merged to the drawn ones afterwards
    fine = np.linspace(-1, 1, 4001)
    counts, total, low, high = np.zeros(4000), 0.0, 1.0, -1.0
    for part in blocks(n, n, None):
        scores = (left[part] @ right.T).cpu().numpy().clip(-1, 1)
        off = scores[np.arange(part.start, part.stop)[:, None] != np.arange(n)[None, :]]
        counts += np.histogram(off, fine)[0]
        total, low, high = total + float(off.sum()), min(low, float(off.min())), max(high, float(off.max()))
    low, high = min(low, float(positives.min())), max(high, float(positives.max()))
    low = min(
        low, high - 0.1
    )  # in a collapsed encoder all similarities are one value: drawn as a spike, not as a wall
    first = max(0, int(np.searchsorted(fine, low, "right")) - 1)
    last = min(4000, int(np.searchsorted(fine, high, "right")))
    step = max(1, -(-(last - first) // bins))
    cuts = np.unique(np.append(np.arange(first, last, step), last))
    edges = fine[cuts]
    negative = np.add.reduceat(counts, cuts[:-1]) / (n * (n - 1))
    positive = np.histogram(positives, edges)[0] / n
    mean_negative, mean_positive = total / (n * (n - 1)), float(positives.mean())

    with styled():
        figure = new_figure(7.2, 4.6)
        title = compose_title("Similarity of positive against negative pairs", data)
        figure.suptitle(title)
        plot = figure.add_subplot()
        for share, mean, color, hatch, what, pairs in (
            (negative, mean_negative, style.NEGATIVE, "////", "negatives", n * (n - 1)),
            (positive, mean_positive, style.POSITIVE, "", "positives", n),
        ):
            plot.stairs(
                100 * share,
                edges,
                fill=True,
                facecolor=(color, 0.45),
                edgecolor=color,
                hatch=hatch,
                linewidth=1.4,
                label=f"{what} ({pairs:,} pairs, mean {mean:.2f})",
            )
            plot.axvline(mean, color=color, linestyle="--", linewidth=1.5)
        plot.set(xlabel="cosine similarity (no unit)", ylabel="share of the pairs (%)", ylim=(0, None))
        figure.legend(loc="outside lower center", ncols=2)
        return save_picture(
            figure,
            out,
            title=title,
            alt_text=(
                f"Two histograms of cosine similarity{f' on {data}' if data else ''}: {n} positive pairs with mean "
                f"{mean_positive:.2f}, {n * (n - 1)} negative pairs with mean {mean_negative:.2f}."
            ),
            header=("from", "to", "share_of_positives", "share_of_negatives"),
            rows=zip(edges[:-1], edges[1:], positive, negative, strict=True),
        )


def _unit_pair(z_i: Any, z_j: Any) -> tuple[torch.Tensor, torch.Tensor]:
    left, right = as_pair("z_i", z_i, "z_j", z_j, same_shape=True)
    if len(left) < 2:
        raise ValueError("`z_i` has one row; without a second there is no negative pair")
    return F.normalize(left, dim=1), F.normalize(right, dim=1)


def plot_accuracy_bars(
    rows: Sequence[Mapping[str, Any]],
    out: str | Path = "accuracy.png",
    *,
    metrics: Sequence[str] | None = None,
    name: str = "encoder",
    data: str | None = None,
) -> Picture:
    """Accuracies of several encoders side by side, with the number at every bar.

    Args:
        rows (`Sequence[dict]`): one an encoder: its name under `name`, accuracies (0 to 1) under the metrics' names. A
            key `<metric>_interval` with `(low, high)` draws an error bar.
        out (`str` or `Path`): the PNG to write.
        metrics (`Sequence[str]`, *optional*): which to draw; by default every number between 0 and 1.
        name (`str`, defaults to `"encoder"`): the key of the names.
        data (`str`, *optional*): what data these are, for the title.

    Returns:
        [`Picture`]: the PNG, and a CSV with encoder, metric, accuracy, low, high.

    Raises:
        ValueError: no rows, a row without a name, no metric to draw.
        ImportError: matplotlib is not installed; the message holds the command.

    Example:

    ```python
    >>> import tempfile
    >>> from hf_contrastive.reporting import plot_accuracy_bars
    >>> rows = [{"encoder": "raw pixels", "knn": 0.95}, {"encoder": "SimCLR", "knn": 0.97}]
    >>> plot_accuracy_bars(rows, tempfile.mkdtemp() + "/bars.png").title
    'Accuracy (knn)'

    ```
    """
    rows = list(rows)
    if not rows:
        raise ValueError("`rows` is empty; give one dictionary an encoder")
    for i, row in enumerate(rows):
        if name not in row:
            raise ValueError(f"`rows`: row {i} has no {name!r}; it has {', '.join(row)}")
    if metrics is None:
        numbers = dict.fromkeys(
            key for row in rows for key, value in row.items() if isinstance(value, float) and 0 <= value <= 1
        )
        metrics = list(numbers)
    metrics = [metric for metric in metrics if any(row.get(metric) is not None for row in rows)]
    if not metrics:
        raise ValueError("`rows` holds no accuracy (a float between 0 and 1) to draw")
    with styled():
        bar = 0.8 / len(metrics)
        figure = new_figure(7.6, 1.6 + 0.34 * len(rows) * len(metrics) + 0.12 * len(rows))
        title = compose_title(f"Accuracy ({', '.join(metrics)})", data)
        figure.suptitle(title)
        plot = figure.add_subplot()
        plot.grid(False, axis="y")
        table = []
        for m, metric in enumerate(metrics):
            for i, row in enumerate(rows):
                value = row.get(metric)
                if value is None:
                    continue
                low, high = row.get(f"{metric}_interval") or (None, None)
                table.append((row[name], metric, float(value), low, high))
                place = i + (m - (len(metrics) - 1) / 2) * bar
                plot.barh(
                    place,
                    100 * value,
                    height=bar * 0.9,
                    color=style.COLORS[m % len(style.COLORS)],
                    label=metric if metric not in plot.get_legend_handles_labels()[1] else None,
                )
                edge = value
                if low is not None and high is not None:
                    plot.plot([100 * low, 100 * high], [place, place], color=style.INK, linewidth=1.4)
                    edge = max(value, high)
                plot.annotate(
                    f"{100 * value:.1f}",
                    (100 * edge, place),
                    (4, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=9,
                )
        plot.set(xlabel="accuracy (%)", xlim=(0, 108))
        plot.set_xticks(range(0, 101, 20))
        plot.set_yticks(range(len(rows)), [class_name(row[name], None) for row in rows])
        plot.invert_yaxis()
        if len(metrics) > 1:
            figure.legend(loc="outside lower center", ncols=min(4, len(metrics)))
        best = {
            metric: max((line for line in table if line[1] == metric), key=lambda line: line[2]) for metric in metrics
        }
        told = "; ".join(f"best {metric}: {line[0]} with {100 * line[2]:.1f} %" for metric, line in best.items())
        return save_picture(
            figure,
            out,
            title=title,
            alt_text=f"Bars of the accuracy of {len(rows)} encoders{f' on {data}' if data else ''}; {told}.",
            header=(name, "metric", "accuracy", "low", "high"),
            rows=table,
        )
