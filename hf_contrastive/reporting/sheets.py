"""Sheets of images: augmented views, and nearest neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_contrastive.evaluation import nearest_neighbours
from hf_contrastive.evaluation._checks import as_labels, check_count
from hf_contrastive.reporting import style
from hf_contrastive.reporting.images import to_display, undo_normalization
from hf_contrastive.reporting.plots import class_name
from hf_contrastive.reporting.style import Picture, compose_title, new_figure, save_picture, styled


def plot_views(
    views: Any,
    out: str | Path = "views.png",
    *,
    originals: Sequence[Any] | np.ndarray | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    max_images: int = 8,
    data: str | None = None,
) -> Picture:
    """Sheet of augmented views: a row an image, a column a view, the original first when it is given.

    Args:
        views (`[B, V, C, H, W]` array or tensor): what the collator makes: V views of each of B images.
        out (`str` or `Path`): the PNG to write.
        originals (`Sequence` of B images, *optional*): PIL images, arrays or tensors.
        mean (`float` or one a channel, *optional*): that the views were normalised with; it is undone.
        std (`float` or one a channel, *optional*): the same.
        max_images (`int`, defaults to 8): the first so many images are drawn.
        data (`str`, *optional*): what data these are, for the title.

    Returns:
        [`Picture`]: the PNG, and a CSV with mean and standard deviation of every view (after undoing the normalisation).

    Raises:
        ValueError: a shape that is not `[B, V, C, H, W]`, fewer originals than images, a mean of the wrong length.
        ImportError: matplotlib is not installed; the message holds the command.

    Example:

    ```python
    >>> import numpy as np, tempfile
    >>> from hf_contrastive.reporting import plot_views
    >>> views = np.random.default_rng(0).random((2, 2, 3, 8, 8))
    >>> plot_views(views, tempfile.mkdtemp() + "/views.png").title
    'Augmented views of 2 images'

    ```
    """
    array = views.detach().cpu().float().numpy() if hasattr(views, "detach") else np.asarray(views, dtype=np.float64)
    if array.ndim != 5 or array.shape[2] not in (1, 3) or 0 in array.shape:
        raise ValueError(
            f"`views` has shape {list(array.shape)}; expected [images, views, channels, height, width], 1 or 3 channels"
        )
    count = min(len(array), check_count("max_images", max_images))
    if originals is not None and len(originals) < count:
        raise ValueError(f"`originals` has {len(originals)} images but {count} rows of views are drawn")
    shown = undo_normalization(array[:count].astype(np.float64), mean, std)
    n_views = shown.shape[1]
    columns = n_views + (originals is not None)
    with styled():
        aspect = shown.shape[3] / shown.shape[4]
        figure = new_figure(max(3.4, 1.1 * columns + 0.2), 1.1 * count * aspect + 0.9)
        title = compose_title(f"Augmented views of {count} images", data, width=max(28, 11 * columns))
        figure.suptitle(title, fontsize=13 if columns > 3 else 11)
        grid = figure.subplots(count, columns, squeeze=False)
        for i in range(count):
            pictures = [to_display(originals[i])] if originals is not None else []
            # views leave 0 to 1 only by rounding or a wrong `mean`/`std`; cut, not stretched, so that brightness compares
            pictures += [to_display(view.clip(0, 1)) for view in shown[i]]
            for j, picture in enumerate(pictures):
                _show(grid[i][j], picture)
        names = (["original"] if originals is not None else []) + [f"view {v + 1}" for v in range(n_views)]
        for j, name in enumerate(names):
            grid[0][j].set_title(name, fontsize=10)
        return save_picture(
            figure,
            out,
            title=title,
            alt_text=(
                f"Sheet of {count} images{f' of {data}' if data else ''}, one a row, each with {n_views} augmented views"
                f"{' beside the original' if originals is not None else ''}."
            ),
            header=("image", "view", "mean", "std", "min", "max"),
            rows=(
                (i, v + 1, shown[i, v].mean(), shown[i, v].std(), shown[i, v].min(), shown[i, v].max())
                for i in range(count)
                for v in range(n_views)
            ),
        )


def _show(axes: Any, picture: np.ndarray, color: str | None = None) -> None:
    axes.imshow(picture, interpolation="nearest", vmin=0, vmax=1)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_color(color or "#cccccc")
        spine.set_linewidth(2.5 if color else 0.8)


def plot_neighbours(
    images: Sequence[Any] | np.ndarray,
    embeddings: Any,
    out: str | Path = "neighbours.png",
    *,
    labels: Any = None,
    class_names: Sequence[str] | None = None,
    queries: Sequence[int] | None = None,
    n_queries: int = 8,
    k: int = 8,
    seed: int = 0,
    data: str | None = None,
) -> Picture:
    """Sheet of nearest neighbours: a query image at the left, its `k` nearest images (by cosine) to the right.

    With labels, a neighbour of another class is framed in orange and marked with a cross; one of the same class is framed
    in blue. The similarity stands below each.

    Args:
        images (`Sequence` of N images): PIL images, arrays or tensors.
        embeddings (`[N, D]` array or tensor): their embeddings.
        out (`str` or `Path`): the PNG to write.
        labels (`[N]` integers or strings, *optional*): their classes.
        class_names (`Sequence[str]`, *optional*): names of the classes 0, 1, ...
        queries (`Sequence[int]`, *optional*): which rows are queries. By default `n_queries` drawn at random, one a class
            as far as possible.
        n_queries (`int`, defaults to 8): how many queries to draw.
        k (`int`, defaults to 8): neighbours a query.
        seed (`int`, defaults to 0): of the choice of queries.
        data (`str`, *optional*): what data these are, for the title.

    Returns:
        [`Picture`]: the PNG, and a CSV with query, rank, neighbour, similarity and both labels.

    Raises:
        ValueError: lengths that differ, a query outside the rows, more neighbours than rows.
        ImportError: matplotlib is not installed; the message holds the command.

    Example:

    ```python
    >>> import numpy as np, tempfile
    >>> from hf_contrastive.reporting import plot_neighbours
    >>> images = np.random.default_rng(0).random((12, 8, 8))
    >>> plot_neighbours(images, images.reshape(12, -1), tempfile.mkdtemp() + "/n.png", k=3).data_path.name
    'n.csv'

    ```
    """
    total = len(embeddings)
    if len(images) != total:
        raise ValueError(f"`images` has {len(images)} images but `embeddings` has {total} rows")
    names = None if labels is None else as_labels("labels", labels, total, "embeddings")
    if queries is None:
        chosen = _choose(total, names, check_count("n_queries", n_queries), seed)
    else:
        chosen = np.asarray(list(queries), dtype=np.int64)
        if not len(chosen) or chosen.min() < 0 or chosen.max() >= total:
            raise ValueError(f"`queries` must name rows 0 to {total - 1}, got {chosen.tolist()}")
    if k > total - 1:
        raise ValueError(f"`k` is {k} but a query has only {total - 1} other rows")
    # only the chosen rows search; one more neighbour than shown, since a row finds itself (or its double)
    matrix = embeddings if hasattr(embeddings, "detach") else np.asarray(embeddings)
    scores, found = nearest_neighbours(matrix[chosen], matrix, k=k + 1)
    kept = [np.flatnonzero(found[q] != row)[:k] for q, row in enumerate(chosen)]
    scores = np.stack([scores[q][keep] for q, keep in enumerate(kept)])
    found = np.stack([found[q][keep] for q, keep in enumerate(kept)])

    with styled():
        figure = new_figure(1.0 * (k + 1.3) + 0.4, 1.28 * len(chosen) + 0.9)
        title = compose_title(f"Nearest neighbours of {len(chosen)} images", data, width=11 * k)
        figure.suptitle(title)
        # the second column is a gap between the query and what it found
        grid = figure.subplots(len(chosen), k + 2, squeeze=False, gridspec_kw={"width_ratios": [1, 0.25, *([1] * k)]})
        table, agree = [], 0
        for q, row in enumerate(chosen):
            _show(grid[q][0], to_display(images[int(row)]), style.INK)
            grid[q][0].set_xlabel(
                class_name(names[row], class_names) if names is not None else f"row {row}", fontsize=9
            )
            grid[q][1].set_axis_off()
            for r in range(k):
                other, similarity = int(found[q, r]), float(scores[q, r])
                same = None if names is None else bool(names[other] == names[row])
                agree += bool(same)
                color = None if same is None else style.RIGHT if same else style.WRONG
                axes = grid[q][r + 2]
                _show(axes, to_display(images[other]), color)
                text = f"{similarity:.2f}" if same is not False else f"{similarity:.2f} ✗"
                axes.set_xlabel(text, fontsize=9, labelpad=3)
                table.append(
                    (
                        row,
                        r + 1,
                        other,
                        similarity,
                        *((names[row], names[other]) if names is not None else (None, None)),
                    )
                )
        grid[0][0].set_title("query", fontsize=10)
        for r in range(k):
            grid[0][r + 2].set_title(f"{r + 1}", fontsize=10)
        told = ""
        if names is not None:
            told = f" {agree} of {len(chosen) * k} neighbours have the class of their query."
            figure.supxlabel(
                f"cosine similarity below each; ✗ and an orange frame: another class.{told}",
                fontsize=9,
                color=style.INK,
            )
        else:
            figure.supxlabel("cosine similarity below each", fontsize=9, color=style.INK)
        return save_picture(
            figure,
            out,
            title=title,
            alt_text=(
                f"Sheet of {len(chosen)} query images{f' of {data}' if data else ''}, each with its {k} nearest images by "
                f"cosine similarity of the embeddings.{told}"
            ),
            header=("query", "rank", "neighbour", "similarity", "query_label", "neighbour_label"),
            rows=table,
        )


def _choose(total: int, names: np.ndarray | None, count: int, seed: int) -> np.ndarray:
    """Query rows at random, going round the classes; in the order of classes."""
    order = np.random.default_rng(seed).permutation(total)
    if names is None:
        return np.sort(order[:count])
    _, codes = np.unique(names[order], return_inverse=True)
    seen: dict[int, int] = {}
    turns = np.empty(total, dtype=np.int64)  # this row is the n-th of its class in the random order
    for i, code in enumerate(codes):
        turns[i] = seen.get(int(code), 0)
        seen[int(code)] = turns[i] + 1
    chosen = np.argsort(turns, kind="stable")[:count]
    return order[chosen[np.lexsort((turns[chosen], codes[chosen]))]]
