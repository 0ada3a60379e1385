"""Loaders that return `datasets` objects with the columns `image`, `label` (where there are labels) and `index`."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import datasets
import numpy as np
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError
from PIL import Image

from hf_contrastive.data.images import decode_image, image_to_array, unreadable_name
from hf_contrastive.data.schema import column_names_of, integer_column, missing_column
from hf_contrastive.data.sources import (
    SPLIT_ALIASES,
    Loaded,
    Source,
    files_by_split,
    hub_error,
    hub_source,
    innermost_cause,
    parquet_source,
    saved_source,
    split_of_stem,
    split_rank,
)


logger = logging.getLogger(__name__)

_IMAGE_NAMES = ("image", "img", "images", "pixel_values", "picture", "photo")
_LABEL_NAMES = ("label", "labels", "fine_label", "class", "target", "category")
_IMAGE_SUFFIXES = frozenset(ext for ext, name in Image.registered_extensions().items() if name in Image.OPEN)
# above this many rows, images are not all opened before training unless asked for
_VERIFY_ROWS = 50_000
_UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


# ---------------------------------------------------------------------------- sources


def _png(array: np.ndarray) -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", compress_level=1)
    return {"bytes": buffer.getvalue(), "path": None}


def _from_arrays(images: np.ndarray, labels: np.ndarray | None, names: list[str] | None) -> datasets.Dataset:
    """uint8 images [N, H, W] or [N, H, W, C] to a dataset with an Image column."""
    columns: dict[str, Any] = {"image": [_png(image) for image in images]}
    features: dict[str, Any] = {"image": datasets.Image()}
    if labels is not None:
        columns["label"] = labels.tolist()
        features["label"] = datasets.ClassLabel(names=names) if names else datasets.Value("int64")
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def _digits(split: str) -> datasets.Dataset:
    from sklearn.datasets import load_digits

    bundle = load_digits()
    labels = np.asarray(bundle.target, dtype=np.int64)
    images = np.rint(np.asarray(bundle.images) * (255.0 / 16.0)).astype(np.uint8)
    # The rows come in the order of the original test set, writer after writer: cutting in the middle measures on people
    # whose writing was never seen, which shuffling would hide (scikit-learn's own digits example cuts there too).
    half = len(labels) // 2
    rows = np.arange(half, len(labels)) if split == "test" else np.arange(half)
    return _from_arrays(images[rows], labels[rows], [str(digit) for digit in range(10)])


def _held_out_rows(labels: np.ndarray | None, count: int, fraction: float, seed: int) -> np.ndarray:
    """Row numbers of a held-out part: the same share of every class where labels are known, seeded, sorted."""
    rng = np.random.RandomState(seed)  # its stream is frozen: the split never changes with the numpy version
    if labels is None:
        groups = [np.arange(count)]
    else:
        groups = [np.flatnonzero(labels == value) for value in np.unique(labels)]
    taken = [rng.permutation(group)[: round(len(group) * fraction)] for group in groups]
    return np.sort(np.concatenate(taken)) if taken else np.zeros(0, dtype=np.int64)


def _load_npz(file: Path, image_column: str | None, label_column: str | None) -> datasets.Dataset:
    try:
        with np.load(file, allow_pickle=False) as archive:
            shapes = {}
            arrays = {}
            for name in archive.files:
                try:
                    arrays[name] = archive[name]
                    shapes[name] = f"{name} {list(arrays[name].shape)}"
                except ValueError:  # a pickled object array: named, never unpickled
                    shapes[name] = f"{name} (pickled objects, not read)"
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{file} is not a readable .npz file: {error}") from error
    found = ", ".join(shapes.values()) or "no arrays"
    candidates = [image_column] if image_column else ["images", "images_packed", "image", "x"]
    name = next((name for name in candidates if name in arrays), None)
    if name is None:
        wanted = f"array {image_column!r}" if image_column else "array 'images' or 'images_packed'"
        raise ValueError(f"{wanted} not found in {file}; it has {found}; pass image_column= the name of the images")
    images = arrays[name]
    if name.endswith("_packed"):
        if images.ndim != 3 or images.dtype != np.uint8:
            raise ValueError(
                f"{name} in {file} must be uint8 [N, H, ceil(W / 8)] with W = H, got {images.dtype} {list(images.shape)}"
            )
        side = images.shape[1]
        if images.shape[2] * 8 < side:
            raise ValueError(f"{name} in {file} has {images.shape[2] * 8} bits a row, fewer than its {side} rows")
        images = np.unpackbits(images, axis=-1)[..., :side] * np.uint8(255)  # 1 = ink -> 255
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3, 4)):
        raise ValueError(f"{name} in {file} must be [N, H, W] or [N, H, W, C], got {list(images.shape)}")
    if len(images) and images.dtype != np.uint8:
        channels = 1 if images.ndim == 3 or images.shape[3] == 1 else 3
        eight_bit = []
        for row, image in enumerate(images):
            try:
                array = image_to_array(image, channels)
            except ValueError as error:
                raise ValueError(f"{name} in {file}, row {row}: {error}") from error
            eight_bit.append(np.rint(array * 255).astype(np.uint8) if array.dtype != np.uint8 else array)
        images = np.stack(eight_bit)
    if images.ndim == 4 and images.shape[3] == 1:
        images = images[..., 0]
    candidates = [label_column] if label_column else ["label", "labels", "y"]
    label_name = next((name for name in candidates if name in arrays), None)
    if label_name is None and label_column is not None:
        raise ValueError(
            f"array {label_column!r} not found in {file}; it has {found}; pass label_column= another name"
        )
    labels, names = None, None
    if label_name is not None:
        labels = integer_column(arrays[label_name], label_name)
        if len(labels) != len(images):
            raise ValueError(f"{file}: {name} has {len(images)} rows and {label_name} has {len(labels)}")
        if "label_names" in arrays and len(labels) and labels.min() >= 0 and labels.max() < len(arrays["label_names"]):
            names = [str(value) for value in arrays["label_names"]]
            if len(set(names)) != len(names):
                names = [f"{number}: {value}" for number, value in enumerate(names)]
    return _from_arrays(images, labels, names)


def _looks_like_a_path(text: str) -> bool:
    path = Path(text)
    return text.startswith((".", "/", "~", "\\")) or len(path.parts) > 2 or path.suffix in (".parquet", ".npz")


def _has_images(folder: Path) -> bool:
    return any(file.suffix.lower() in _IMAGE_SUFFIXES for file in folder.rglob("*") if file.is_file())


def _source(
    path_or_id: str | Path | Sequence[str | Path],
    name: str | None,
    streaming: bool,
    image_column: str | None,
    label_column: str | None,
    cache_dir: str | None,
) -> Source:
    if isinstance(path_or_id, (datasets.Dataset, datasets.IterableDataset)):
        return Source("the data given", lambda: ["train"], lambda _: path_or_id)
    if isinstance(path_or_id, (datasets.DatasetDict, datasets.IterableDatasetDict)):
        return Source("the data given", lambda: [str(split) for split in path_or_id], path_or_id.__getitem__)
    if not isinstance(path_or_id, (str, Path)):
        files = [Path(file).expanduser() for file in path_or_id]
        for file in files:
            if not file.is_file():
                raise FileNotFoundError(f"file {file} does not exist")
            if file.suffix != ".parquet":
                raise ValueError(f"a list of files must hold .parquet files, got {file}")
        if not files:
            raise ValueError("path_or_id is an empty list; pass at least one .parquet file")
        return parquet_source("the list of parquet files", {"train": files}, streaming, cache_dir)
    text = str(path_or_id)
    if text == "digits":
        return Source("scikit-learn's digits", lambda: ["train", "test"], _digits)
    path = Path(text).expanduser()
    if path.is_file():
        if path.suffix == ".parquet":
            return parquet_source(text, {split_of_stem(path.stem) or "train": [path]}, streaming, cache_dir)
        if path.suffix == ".npz":
            split = split_of_stem(path.stem) or "train"
            return Source(text, lambda: [split], lambda _: _load_npz(path, image_column, label_column))
        if path.suffix == ".tar":
            return _tar_source(text, {split_of_stem(path.stem) or "train": [path]}, streaming, cache_dir)
        raise ValueError(f"file {text} is none of .parquet, .npz, .tar; pass such a file or a folder of images")
    if path.is_dir():
        return _folder(path, streaming, image_column, label_column, cache_dir)
    if isinstance(path_or_id, Path) or _looks_like_a_path(text):
        raise FileNotFoundError(
            f"{text} does not exist; pass 'digits', a folder of images, a .parquet, .npz or .tar file, a folder of those, a "
            "save_to_disk folder, or a hub id such as 'uoft-cs/cifar10'"
        )

    return hub_source(text, name, streaming, cache_dir)


def _folder(
    path: Path, streaming: bool, image_column: str | None, label_column: str | None, cache_dir: str | None
) -> Source:
    text = str(path)
    saved = saved_source(path)
    if saved is not None:
        return saved
    for folder in (path, path / "data"):
        files = sorted(folder.glob("*.parquet")) if folder.is_dir() else []
        if files:
            return parquet_source(text, files_by_split(files), streaming, cache_dir)
    archives = sorted(path.glob("*.tar"))
    if archives:
        return _tar_source(text, files_by_split(archives), streaming, cache_dir)
    packed = sorted(path.glob("*.npz"))
    if packed:
        wanted = {image_column} if image_column else {"images", "images_packed", "image", "x"}
        usable = [file for file in packed if wanted & set(_npz_names(file))] or packed
        by_split = files_by_split(usable)
        for split, group in by_split.items():
            if len(group) > 1:
                raise ValueError(
                    f"{text} has several .npz files for split {split!r} ({', '.join(file.name for file in group)}); "
                    "pass one of them as the path"
                )
        return Source(text, lambda: list(by_split), lambda s: _load_npz(by_split[s][0], image_column, label_column))
    if not _has_images(path):
        raise ValueError(
            f"no images in {text}: expected image files (class folders and train/ test/ allowed), .parquet or .npz "
            "files, or a save_to_disk folder"
        )
    builder = datasets.load_dataset_builder("imagefolder", data_dir=text, cache_dir=cache_dir)

    def load(split: str) -> Loaded:
        data = datasets.load_dataset(
            "imagefolder", data_dir=text, split=split, streaming=streaming, cache_dir=cache_dir
        )
        # of `train/` and `test/` without class folders, datasets makes two classes that tell nothing
        names = getattr((data.features or {}).get("label"), "names", None)
        if names and {name.lower() for name in names} <= set(SPLIT_ALIASES):
            data = data.remove_columns("label")
        return data

    return Source(text, lambda: [str(split) for split in builder.config.data_files or ["train"]], load)


def _tar_source(text: str, files: dict[str, list[Path]], streaming: bool, cache_dir: str | None) -> Source:
    """WebDataset archives by split; what stands in them under an image's ending becomes the column `image`."""

    def load(split: str) -> Loaded:
        names = [str(file) for file in files[split]]
        data = datasets.load_dataset(
            "webdataset", data_files={split: names}, split=split, streaming=streaming, cache_dir=cache_dir
        )
        columns = column_names_of(data)
        kinds = [column for column in columns if f".{column.lower()}" in _IMAGE_SUFFIXES]
        if "image" not in columns and len(kinds) == 1:
            data = data.rename_column(kinds[0], "image")
        return data

    return Source(text, lambda: list(files), load)


def _npz_names(file: Path) -> list[str]:
    try:
        with np.load(file, allow_pickle=False) as archive:
            return list(archive.files)
    except (OSError, ValueError, EOFError):
        return []


# ---------------------------------------------------------------------------- columns


def _find_image_column(features: datasets.Features | None, names: list[str], wanted: str | None) -> str:
    if wanted is not None:
        if wanted not in names:
            raise ValueError(missing_column(wanted, names, "image_column"))
        return wanted
    typed = [name for name in names if features is not None and isinstance(features.get(name), datasets.Image)]
    for name in _IMAGE_NAMES:
        if name in typed or (name in names and not typed):
            return name
    if len(typed) == 1:
        return typed[0]
    if typed:
        raise ValueError(
            f"several image columns: {', '.join(typed)}; pass image_column={typed[0]!r} (the name of the right one)"
        )
    raise ValueError(missing_column("image", names, "image_column"))


def _find_label_column(features: datasets.Features | None, names: list[str], wanted: str | None) -> str | None:
    if wanted is not None:
        if wanted not in names:
            raise ValueError(missing_column(wanted, names, "label_column"))
        return wanted
    for name in _LABEL_NAMES:
        if name in names:
            return name
    typed = [name for name in names if features is not None and isinstance(features.get(name), datasets.ClassLabel)]
    return typed[0] if len(typed) == 1 else None


def _as_image_column(data: Any, features: datasets.Features | None) -> Any:
    """Paths, bytes and `{"bytes", "path"}` records become an Image column; arrays stay what they are."""
    kind = features.get("image") if features is not None else None
    if kind is None or isinstance(kind, datasets.Image):
        return data
    is_record = isinstance(kind, dict) and set(kind) <= {"bytes", "path"}
    if is_record or (isinstance(kind, datasets.Value) and kind.dtype in ("string", "large_string", "binary")):
        return data.cast_column("image", datasets.Image())
    if isinstance(kind, datasets.Value):
        raise ValueError(
            f"column 'image' holds {kind.dtype} values; expected images, file paths, encoded bytes or arrays; pass "
            "image_column= the name of the right column"
        )
    return data


# ---------------------------------------------------------------------------- unreadable images


def _check_image(value: Any) -> str | None:
    """What is wrong with an undecoded image, or nothing."""
    try:
        if value is None:
            return "the row holds no image"
        decode_image(value)
    except _UNREADABLE as error:
        return str(error)
    return None


def _drop_unreadable(data: datasets.Dataset, on_unreadable: str) -> datasets.Dataset:
    """Opens every image once; stops at the first that cannot be read, or leaves those out and says which."""
    raw = data.cast_column("image", datasets.Image(decode=False))
    bad: list[tuple[int, str]] = []
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(raw), 1024):
            values = raw[start : start + 1024]["image"]
            for row, problem in enumerate(pool.map(_check_image, values), start=start):
                if problem is None:
                    continue
                message = f"{unreadable_name(row, values[row - start])}: {problem}"
                if on_unreadable == "stop":
                    raise ValueError(f"{message}; mend or remove it, or pass on_unreadable='skip'")
                bad.append((row, message))
    if not bad:
        return data
    if len(bad) == len(raw):
        raise ValueError(f"none of the {len(raw)} images can be read; the first: {bad[0][1]}")
    shown = "; ".join(message for _, message in bad[:5])
    warnings.warn(
        f"{len(bad)} of {len(raw)} images are left out: {shown}{'; ...' if len(bad) > 5 else ''}", stacklevel=4
    )
    skipped = {row for row, _ in bad}
    return data.select([row for row in range(len(data)) if row not in skipped])


class _OpenStream:
    """Opens the images of a stream as they come; an object at the top level, so that workers can be handed it."""

    def __init__(self, opened: bool) -> None:
        self.opened = opened

    def __call__(self, row: dict[str, Any], number: int) -> dict[str, Any]:
        image = row["image"]
        if self.opened:
            problem = "the row holds no image" if image is None else None
            try:
                image = decode_image(image)
            except _UNREADABLE as error:
                problem = str(error)
            if problem is not None:
                raise ValueError(
                    f"{unreadable_name(number, row['image'])}: {problem}; mend or remove it, or pass "
                    "on_unreadable='skip'"
                )
        return {**row, "image": image, "index": number}


def _readable(row: dict[str, Any], number: int) -> bool:
    problem = _check_image(row["image"])
    if problem is not None:
        warnings.warn(f"left out: {unreadable_name(number, row['image'])}: {problem}", stacklevel=2)
    return problem is None


def _finish_stream(
    data: datasets.IterableDataset, on_unreadable: str, max_samples: int | None
) -> datasets.IterableDataset:
    features = data.features
    opened = features is not None and isinstance(features.get("image"), datasets.Image)
    if opened:
        # opened here and not by `datasets`, whose message would name neither row nor file
        data = data.cast_column("image", datasets.Image(decode=False))
        if on_unreadable == "skip":
            data = data.filter(_readable, with_indices=True)
    if max_samples is not None:
        data = data.take(max_samples)
    if features is not None:
        features = datasets.Features({**features, "index": datasets.Value("int64")})
    return data.map(_OpenStream(opened), with_indices=True, features=features)


# ---------------------------------------------------------------------------- public


def list_splits(path_or_id: str | Path | Sequence[str | Path], *, name: str | None = None) -> list[str]:
    """Names of the splits a source has.

    Args:
        path_or_id: as for [`load_images`].
        name (`str`, *optional*): configuration of a hub dataset.

    Returns:
        `list[str]`: for example `["train", "test"]`.

    Example:

    ```python
    >>> from hf_contrastive.data import list_splits
    >>> list_splits("digits")
    ['train', 'test']

    ```
    """
    return sorted(_source(path_or_id, name, False, None, None, None).splits(), key=split_rank)


def list_columns(
    path_or_id: Any, *, split: str = "train", name: str | None = None, cache_dir: str | None = None
) -> list[str]:
    """Names of all columns that a source of images has, before [`load_images`] chooses.

    Args:
        path_or_id: as for [`load_images`].
        split (`str`, defaults to `"train"`): the split that is looked at; the first one where there is no such split.
        name (`str`, *optional*): configuration of a hub dataset.
        cache_dir (`str`, *optional*): where `datasets` keeps its converted files.

    Returns:
        `list[str]`: in the order of the source.

    Raises:
        FileNotFoundError: if the path does not exist.
        ValueError: a source that cannot be read.

    Example:

    ```python
    >>> from hf_contrastive.data.loading import list_columns
    >>> list_columns("digits")
    ['image', 'label']

    ```
    """
    source = _source(path_or_id, name, not isinstance(path_or_id, datasets.Dataset), None, None, cache_dir)
    try:
        splits = source.splits()
        return column_names_of(source.load(split if split in splits else splits[0]))
    except (ConnectionError, DatasetNotFoundError) as error:
        raise hub_error(path_or_id, error) from error


def load_images(
    path_or_id: Any,
    *,
    split: str = "train",
    name: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    keep_columns: Sequence[str] = (),
    streaming: bool = False,
    on_unreadable: Literal["stop", "skip"] = "stop",
    verify: bool | None = None,
    max_samples: int | None = None,
    test_fraction: float | None = None,
    seed: int = 0,
    cache_dir: str | None = None,
) -> Loaded:
    """Loads images from wherever they are as a `datasets` object with the columns `image`, `label` and `index`.

    Args:
        path_or_id: one of
            - `"digits"`: 1797 grey scans of 8x8 pixels that come with scikit-learn (first half train, second half test);
            - a folder of image files, with or without class folders, with or without `train/` and `test/`;
            - a `.parquet` file, a list of those, or a folder with `train*.parquet`, `test*.parquet`, ...;
            - a `.tar` file of WebDataset, or a folder of those;
            - `datasets` objects at hand;
            - an `.npz` file or a folder of those: `images` [N, H, W] or [N, H, W, C], or `images_packed` [N, H, W/8]
              (bits along the rows, cut to a square, 1 = ink = white), and `label` [N];
            - a folder written by `save_to_disk`;
            - the id of a dataset on the hub, such as `"uoft-cs/cifar10"`.
        split (`str`): name of the split.
        name (`str`, *optional*): configuration of a hub dataset.
        image_column (`str`, *optional*): the column of the images; found by itself where there is no doubt.
        label_column (`str`, *optional*): the column of the labels; found by itself under the usual names. Text labels
            become class numbers.
        keep_columns (`Sequence[str]`): further columns to hand on as they are, for example an id.
        streaming (`bool`): read as you go (folder, parquet, hub). `index` then counts the rows in reading order; it is
            unique as long as one worker reads.
        on_unreadable (`str`): `"stop"` raises at the first image that cannot be read, `"skip"` leaves those out with a
            warning that counts and names them. Both open every image once, see `verify`; a stream does it as it goes.
        verify (`bool`, *optional*): whether to open every image before handing the data out. By default up to 50,000
            rows, and always with `"skip"`.
        max_samples (`int`, *optional*): at most this many rows, drawn with `seed` (of a stream: the first ones).
        test_fraction (`float`, *optional*): where the data has a single split, hold this share out (the same share of
            every class, drawn with `seed`) as `"test"` and leave the rest as `"train"`.
        seed (`int`): seed of `max_samples` and `test_fraction`.
        cache_dir (`str`, *optional*): where `datasets` keeps its converted files.

    Returns:
        `datasets.Dataset` (or `IterableDataset` when streaming): `image`, `label` (`ClassLabel` where names are known;
        absent without labels) and `index` (row number in the returned data, `int64`).

    Raises:
        FileNotFoundError: if the path does not exist.
        ValueError: for a split or column that is missing (the found ones are listed), an empty dataset, or an image
            that cannot be read (row and file are named).

    Example:

    ```python
    >>> from hf_contrastive.data import load_images
    >>> digits = load_images("digits", split="test")
    >>> digits.column_names, digits[0]["image"].size
    (['image', 'label', 'index'], (8, 8))

    ```
    """
    if on_unreadable not in ("stop", "skip"):
        raise ValueError(f"on_unreadable must be 'stop' or 'skip', got {on_unreadable!r}")
    if max_samples is not None and (isinstance(max_samples, bool) or max_samples < 1):
        raise ValueError(f"max_samples must be at least 1, got {max_samples!r}")
    if test_fraction is not None and not 0.0 < test_fraction < 1.0:
        raise ValueError(f"test_fraction must lie between 0 and 1, got {test_fraction!r}")
    source = _source(path_or_id, name, streaming, image_column, label_column, cache_dir)
    try:
        splits = source.splits()
    except Exception as error:
        if source.text.startswith("hub dataset"):
            raise hub_error(path_or_id, error) from error
        raise
    hold_out = test_fraction is not None and "test" not in splits and len(splits) == 1 and split in (*splits, "test")
    if hold_out and streaming:
        raise ValueError("test_fraction needs the whole data at hand; pass streaming=False")
    wanted = splits[0] if hold_out else split
    if wanted not in splits:
        text = f"split {split!r} not found; {source.text} has {', '.join(splits) or 'none'}; pass split= one of them"
        if len(splits) == 1 and split == "test":
            text += ", or test_fraction=0.2 to hold a fifth of it out"
        raise ValueError(text)
    try:
        data = source.load(wanted)
    except (ConnectionError, DatasetNotFoundError) as error:
        raise hub_error(path_or_id, error) from error
    except DatasetGenerationError as error:
        raise ValueError(f"{source.text}, split {wanted!r}, cannot be read: {innermost_cause(error)}") from error
    if streaming and isinstance(data, datasets.Dataset):
        data = data.to_iterable_dataset()
    # an .npz loader has looked for the named arrays already, and calls them image and label
    if isinstance(path_or_id, (str, Path)) and _is_npz(Path(path_or_id).expanduser()):
        image_column = label_column = None
    data = _standard_columns(data, image_column, label_column, source.text, keep_columns)
    if isinstance(data, datasets.IterableDataset):
        return _finish_stream(data, on_unreadable, max_samples)
    if len(data) == 0:
        raise ValueError(f"split {wanted!r} of {source.text} is empty; expected at least one image")
    if hold_out:
        labels = np.asarray(data.with_format(None)["label"]) if "label" in data.column_names else None
        assert test_fraction is not None
        held_out = _held_out_rows(labels, len(data), test_fraction, seed)
        rows = held_out if split == "test" else np.setdiff1d(np.arange(len(data)), held_out)
        if len(rows) == 0:
            raise ValueError(
                f"test_fraction={test_fraction} leaves split {split!r} empty: there are {len(data)} rows; change it"
            )
        data = data.select(rows)
    if max_samples is not None and max_samples < len(data):
        data = data.select(np.sort(np.random.RandomState(seed).permutation(len(data))[:max_samples]))
    if isinstance(data.features["image"], datasets.Image):
        check = verify if verify is not None else (on_unreadable == "skip" or len(data) <= _VERIFY_ROWS)
        if check or on_unreadable == "skip":
            data = _drop_unreadable(data, on_unreadable)
        else:
            logger.info("%d images are not opened before training; pass verify=True to do so", len(data))
    return data.add_column("index", np.arange(len(data), dtype=np.int64))


def _is_npz(path: Path) -> bool:
    if path.is_file():
        return path.suffix == ".npz"
    return path.is_dir() and not any(path.glob("*.parquet")) and any(path.glob("*.npz"))


def _standard_columns(
    data: Any, image_column: str | None, label_column: str | None, text: str, keep_columns: Sequence[str] = ()
) -> Any:
    """Keeps the image and label columns under their standard names, and others that were asked for."""
    names, features = column_names_of(data), data.features
    if features is None and isinstance(data, datasets.IterableDataset):
        data = data._resolve_features()
        names, features = list(data.column_names or []), data.features
    image = _find_image_column(features, names, image_column)
    label = _find_label_column(features, names, label_column)
    keep = {image: "image"} | ({label: "label"} if label else {})
    for column in keep_columns:
        if column not in names:
            raise ValueError(missing_column(column, names, "keep_columns"))
        if column in ("image", "label", "index") and column not in keep:
            raise ValueError(f"keep_columns names {column!r}, which is the name of a standard column; rename it first")
        keep.setdefault(column, column)
    data = data.select_columns(list(keep))
    renames = {old: new for old, new in keep.items() if old != new}
    if renames:
        data = data.rename_columns(renames)
    features = data.features
    data = _as_image_column(data, features)
    kind = features.get("label") if features is not None else None
    if isinstance(kind, datasets.Value) and isinstance(data, datasets.Dataset):
        if kind.dtype in ("string", "large_string"):
            data = data.class_encode_column("label")
        elif not kind.dtype.startswith(("int", "uint", "bool")):
            values = integer_column(data.with_format(None)["label"], label or "label")
            data = data.remove_columns("label").add_column("label", values)
        elif kind.dtype != "int64":
            data = data.cast_column("label", datasets.Value("int64"))
    elif kind is not None and not isinstance(kind, (datasets.Value, datasets.ClassLabel)):
        raise ValueError(
            f"column {label!r} of {text} holds {kind}; expected one label a row; pass label_column= another name"
        )
    return data
