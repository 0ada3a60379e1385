"""Images of entities for training: one label and several texts an image, entities held out to measure on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import datasets
import numpy as np
import torch
from torch import Tensor

from hf_contrastive.data.glyphs import make_glyphs
from hf_contrastive.data.image_texts import ImageTextCollator, load_image_texts
from hf_contrastive.data.loading import list_columns
from hf_contrastive.data.schema import column_names_of, integer_column, missing_column
from hf_contrastive.data.sources import TABLES, rows_source, split_of_file, table_suffix


#: columns as `build_i2e` calls them
ENTITY_COLUMN, NAME_COLUMN, DESCRIPTION_COLUMN, TEXT_COLUMN = "entity_id", "entity_name", "entity_description", "text"


def entity_texts(name: str, description: str = "", others: Sequence[str] = ()) -> list[str]:
    """The texts of an image of an entity, of which one is drawn at every step of MOFI (https://arxiv.org/abs/2306.07952): its name,
    the name enriched with the description, and the texts that came with the image.

    Args:
        name (`str`): of the entity.
        description (`str`, defaults to `""`): what it is.
        others (`Sequence[str]`): alt-texts and the like; empty ones are left out.

    Example:

    ```python
    >>> from hf_contrastive.data.entity_images import entity_texts
    >>> entity_texts("Apple", "technology company", ["a laptop on a desk", ""])
    ['Apple', 'Apple, technology company', 'a laptop on a desk']

    ```
    """
    enriched = [f"{name}, {description}"] if description else []
    clean = (" ".join(str(text or "").split()) for text in (name, *enriched, *others))
    return [text for text in dict.fromkeys(clean) if text]


def load_entity_images(
    path_or_id: str | Path | Sequence[str | Path],
    *,
    split: str = "train",
    name: str | None = None,
    image_column: str | None = None,
    entity_column: str | None = None,
    name_column: str | None = None,
    description_column: str | None = None,
    text_columns: Sequence[str] | str | None = None,
    on_bad: Literal["stop", "skip"] = "skip",
    cache_dir: str | None = None,
) -> datasets.Dataset:
    """Loads images of entities, with the columns `image`, `entity` (its id as text), `entity_name`, `texts`, `index`.

    Args:
        path_or_id: `"glyphs"` (drawn letters and digits in colours), a folder that [`build_i2e`] wrote, or what [`load_image_texts`]
            takes.
        split, name, image_column, on_bad, cache_dir: as there.
        entity_column (`str`, *optional*): id or number of the entity; `entity_id` by default.
        name_column (`str`, *optional*): its name; `entity_name` by default.
        description_column (`str`, *optional*): what it is, in a few words; `entity_description` by default, where there is one.
        text_columns (`str` or list, *optional*): texts that came with the image; `text` by default, where there is one.

    Returns:
        `datasets.Dataset`. Numbers become texts of equal length, so that they sort as numbers do.

    Raises:
        FileNotFoundError: the path does not exist.
        ValueError: a missing column (the found ones are listed), a row without an entity.

    Example:

    ```python
    >>> from hf_contrastive.data import load_entity_images
    >>> rows = load_entity_images("glyphs")
    >>> rows[0]["entity_name"], rows[0]["texts"][1]
    ('yellow letter r', 'yellow letter r, a capital letter')

    ```
    """
    if path_or_id == "glyphs":
        rows = make_glyph_entities()
        found = rows.column_names
    else:
        if isinstance(path_or_id, (str, Path)) and (Path(path_or_id).expanduser() / "entities.parquet").is_file():
            path_or_id = Path(path_or_id).expanduser() / "data"
        found = _columns(path_or_id, split, name, cache_dir)
        rows = None
    entity_column, name_column = entity_column or ENTITY_COLUMN, name_column or NAME_COLUMN
    if description_column is None and DESCRIPTION_COLUMN in found:
        description_column = DESCRIPTION_COLUMN
    if text_columns is None:
        text_columns = [TEXT_COLUMN] if TEXT_COLUMN in found else []
    others = [text_columns] if isinstance(text_columns, str) else list(text_columns)
    wanted = {"entity_column": [entity_column], "name_column": [name_column], "text_columns": others}
    wanted["description_column"] = [description_column] if description_column else []
    for argument, columns in wanted.items():
        for column in columns:
            if column not in found:
                raise ValueError(missing_column(column, found, argument))
    kept = list(dict.fromkeys(column for columns in wanted.values() for column in columns))
    if rows is None:
        rows = load_image_texts(
            path_or_id,
            split=split,
            name=name,
            image_column=image_column,
            text_columns=[name_column],
            label_column="label" if entity_column == "label" else None,
            keep_columns=[column for column in kept if column != "label"],
            on_bad=on_bad,
            cache_dir=cache_dir,
        )
    values = {column: rows.with_format(None)[column][:] for column in kept}
    ids = _ids(values[entity_column], entity_column)
    names = [" ".join(str(one).split()) for one in values[name_column]]
    descriptions = values[description_column] if description_column else [""] * len(rows)
    texts = [
        entity_texts(one, " ".join(str(about or "").split()), [values[column][row] for column in others])
        for row, (one, about) in enumerate(zip(names, descriptions, strict=True))
    ]
    rows = rows.select_columns(["image"]).add_column("entity", ids).add_column("entity_name", names)
    rows = rows.add_column("texts", texts, feature=datasets.List(datasets.Value("string")))
    return rows.add_column("index", np.arange(len(rows), dtype=np.int64))


def _columns(path_or_id: Any, split: str, name: str | None, cache_dir: str | None) -> list[str]:
    file = Path(path_or_id).expanduser() if isinstance(path_or_id, (str, Path)) else None
    suffix = None if file is None or not file.is_file() else table_suffix(file)
    if file is not None and suffix is not None and TABLES[suffix] != "parquet":
        rows: Any = rows_source(str(file), None, False, cache_dir, {}).load(split_of_file(file) or "train")
        return column_names_of(rows)
    return list_columns(path_or_id, split=split, name=name, cache_dir=cache_dir)


def _ids(values: Sequence[Any], column: str) -> list[str]:
    missing = [row for row, value in enumerate(values) if value is None or not str(value).strip()]
    if missing:
        raise ValueError(f"{len(missing)} rows have no {column}, the first is row {missing[0]}; remove them")
    if all(isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value >= 0 for value in values):
        width = len(str(max(values)))
        return [f"{int(value):0{width}d}" for value in values]
    return [str(value).strip() for value in values]


def split_entities(
    rows: datasets.Dataset, *, every: int = 3, min_images: int = 2
) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Training rows and rows of entities that training never sees, with contiguous labels each.

    Args:
        rows (`datasets.Dataset`): of [`load_entity_images`].
        every (`int`, defaults to 3): entities whose number this divides are held out: their own numbers where the ids are such,
            otherwise their places in the sorted ids.
        min_images (`int`, defaults to 2): held-out entities with fewer images are left out, since no other image of them can be found.

    Returns:
        `(train, test)`: as `rows`, with `label`; that of `test` is a `ClassLabel` of the names.

    Raises:
        ValueError: nothing left on one side.

    Example:

    ```python
    >>> from hf_contrastive.data.entity_images import load_entity_images, split_entities
    >>> train, test = split_entities(load_entity_images("glyphs"))
    >>> len(set(train["entity"])), len(set(test["entity"]))
    (60, 30)

    ```
    """
    if every < 2:
        raise ValueError(f"`every` is {every!r}; expected 2 or more")
    keys = np.asarray(rows["entity"][:])
    ids, codes = np.unique(keys, return_inverse=True)
    numbers = [int(key) for key in ids] if all(key.isdigit() for key in ids.tolist()) else list(range(len(ids)))
    held = np.array([number % every == 0 for number in numbers])
    enough = np.bincount(codes, minlength=len(ids)) >= min_images
    parts = []
    for name, chosen in (("to train on", ~held), ("to measure on", held & enough)):
        if chosen.sum() < 2:
            raise ValueError(
                f"{int(chosen.sum())} of {len(ids)} entities are left {name} (every={every}, {min_images} images or more to measure "
                "on), but 2 are needed; give more data or another `every`"
            )
        part = rows.select(np.flatnonzero(chosen[codes]))
        part = part.remove_columns(["index"]).add_column("index", np.arange(len(part), dtype=np.int64))
        label = np.unique(np.asarray(part["entity"][:]), return_inverse=True)[1].astype(np.int64)
        parts.append(part.add_column("label", label))
    train, test = parts
    return train, test.cast_column("label", datasets.ClassLabel(names=_class_names(test)))


def _class_names(rows: datasets.Dataset) -> list[str]:
    """The name of every label, with its id where two are called alike."""
    names = dict(zip(rows["label"][:], zip(rows["entity_name"][:], rows["entity"][:], strict=True), strict=True))
    ordered = [names[label] for label in range(len(names))]
    once = {name: sum(name == other for other, _ in ordered) == 1 for name, _ in ordered}
    return [name if once[name] else f"{name} ({key})" for name, key in ordered]


def wrong_entities(rows: datasets.Dataset, share: float, seed: int = 0) -> tuple[datasets.Dataset, np.ndarray]:
    """Gives a share of the rows the label, name and texts of another entity: noise as of an annotation that went wrong.

    Args:
        rows (`datasets.Dataset`): with `label`, `entity`, `entity_name`, `texts`.
        share (`float`): from 0 to below 1, of the rows.
        seed (`int`, defaults to 0): of the draws.

    Returns:
        `(rows, wrong)`: and a bool `ndarray` `[rows]` that says which are wrong.

    Example:

    ```python
    >>> from hf_contrastive.data.entity_images import load_entity_images, split_entities, wrong_entities
    >>> train, _ = split_entities(load_entity_images("glyphs"))
    >>> noisy, wrong = wrong_entities(train, 0.2)
    >>> round(float(wrong.mean()), 2), noisy["label"][:] == train["label"][:]
    (0.2, False)

    ```
    """
    if not 0 <= share < 1:
        raise ValueError(f"`share` is {share!r}; expected from 0 to below 1")
    labels = np.asarray(rows["label"][:])
    random = np.random.RandomState(seed)  # its stream is frozen
    chosen = np.sort(random.permutation(len(labels))[: round(share * len(labels))])
    count = int(labels.max()) + 1
    made = labels.copy()
    made[chosen] = (labels[chosen] + random.randint(1, count, len(chosen))) % count
    wrong = made != labels
    # what a label is called: the first row that has it; its other texts belong to an image
    known: dict[int, tuple[str, str, list[str]]] = {}
    for label, key, name, texts in zip(
        labels.tolist(), rows["entity"][:], rows["entity_name"][:], rows["texts"][:], strict=True
    ):
        known.setdefault(label, (key, name, [text for text in texts if text == name or text.startswith(f"{name}, ")]))
    columns: dict[str, list[Any]] = {name: rows[name][:] for name in ("entity", "entity_name", "texts")}
    for row in np.flatnonzero(wrong):
        columns["entity"][row], columns["entity_name"][row], columns["texts"][row] = known[int(made[row])]
    rows = rows.remove_columns(["label", *columns])
    rows = rows.add_column("entity", columns["entity"]).add_column("entity_name", columns["entity_name"])
    rows = rows.add_column("texts", columns["texts"], feature=datasets.List(datasets.Value("string")))
    return rows.add_column("label", made), wrong


class EntityCollator(ImageTextCollator):
    """Makes a batch of images with one of their texts and the label of their entity, for [`MofiForPreTraining`].

    Args:
        *args, **kwargs: as [`ImageTextCollator`]; with `mask_duplicates`, images of one entity are not each other's negatives.

    Returns (when called with a list of rows):
        `dict[str, Tensor]`: `pixel_values` `[B, C, H, W]`, `input_ids`, `attention_mask` `[B, tokens]`, `entity_labels`, `sample_ids` and
        `index` `[B]`.

    Example:

    ```python
    >>> from hf_contrastive import DualEncoderProcessor
    >>> from hf_contrastive.data import EntityCollator, SimCLRViews, image_processor, load_entity_images, train_word_tokenizer
    >>> from hf_contrastive.data.entity_images import split_entities
    >>> train, _ = split_entities(load_entity_images("glyphs"))
    >>> tokenizer = train_word_tokenizer(text for texts in train["texts"] for text in texts)
    >>> collator = EntityCollator(SimCLRViews(32, num_views=1), DualEncoderProcessor(image_processor(32), tokenizer))
    >>> batch = collator([train[0], train[1]])
    >>> batch["entity_labels"].tolist() == train["label"][:2], batch["pixel_values"].shape
    (True, torch.Size([2, 3, 32, 32]))

    ```
    """

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        batch = super().__call__(examples)
        if "label" not in examples[0]:
            raise ValueError(missing_column("label", examples[0], None, "the row"))
        labels = torch.from_numpy(integer_column([row["label"] for row in examples], "label"))
        batch["entity_labels"] = labels
        if self.mask_duplicates and self.sample_id_column is None:
            # rows without an entity keep the id of their text
            batch["sample_ids"] = torch.where(labels >= 0, labels, batch["sample_ids"])
        return batch


def make_glyph_entities() -> datasets.Dataset:
    """The drawn letters and digits ([`make_glyphs`]) as 90 entities: every character in every colour.

    Returns:
        `datasets.Dataset`: `image`, `entity_id`, `entity_name`, `entity_description`, `text` (a caption, as an alt-text).

    Example:

    ```python
    >>> from hf_contrastive.data.entity_images import make_glyph_entities
    >>> rows = make_glyph_entities()
    >>> len(rows), rows[0]["entity_id"], rows[0]["entity_name"], rows[0]["text"]
    (1920, 'glyph-letter-r-yellow', 'yellow letter r', 'a large yellow letter r')

    ```
    """
    rows = datasets.concatenate_datasets([make_glyphs("train"), make_glyphs("test")])
    columns: dict[str, list[Any]] = {
        name: [] for name in (ENTITY_COLUMN, NAME_COLUMN, DESCRIPTION_COLUMN, TEXT_COLUMN)
    }
    for caption, name, *_ in rows["texts"][:]:
        colour, kind, which = name.split(" ")
        columns[ENTITY_COLUMN].append(f"glyph-{kind}-{which}-{colour}")
        columns[NAME_COLUMN].append(name)
        columns[DESCRIPTION_COLUMN].append("a number" if kind == "digit" else "a capital letter")
        columns[TEXT_COLUMN].append(caption)
    rows = rows.select_columns(["image"])
    for name, values in columns.items():
        rows = rows.add_column(name, values)
    return rows


def glyph_entity_rows() -> list[dict[str, str]]:
    """The table of the entities of [`make_glyph_entities`]: `id`, `name`, `description`."""
    rows = make_glyph_entities().remove_columns(["image", TEXT_COLUMN])
    table = {row[ENTITY_COLUMN]: (row[NAME_COLUMN], row[DESCRIPTION_COLUMN]) for row in rows}
    return [{"id": key, "name": table[key][0], "description": table[key][1]} for key in sorted(table)]


def describe_entities(rows: datasets.Dataset) -> Mapping[str, float]:
    """How many entities there are, and images of one.

    Args:
        rows (`datasets.Dataset`): with `label`.

    Returns:
        `{"entities", "images", "once"}`: numbers of entities, of images, and of entities with one image only.
    """
    counts = np.unique(np.asarray(rows["label"][:]), return_counts=True)[1]
    return {"entities": len(counts), "images": int(counts.sum()), "once": int((counts == 1).sum())}


__all__ = [
    "EntityCollator",
    "describe_entities",
    "entity_texts",
    "glyph_entity_rows",
    "load_entity_images",
    "make_glyph_entities",
    "split_entities",
    "wrong_entities",
]
