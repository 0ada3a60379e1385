"""From images with texts to images with entities: names found in the text, kept where the image looks like them."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from hf_contrastive.data.entity_linking import Entity
from hf_contrastive.data.entity_pairs import filter_entity_pairs
from hf_contrastive.data.image_text_scoring import ImageTextScorer, chunks_of
from hf_contrastive.data.images import decode_image, image_to_array
from hf_contrastive.data.record_streams import records_from
from hf_contrastive.data.schema import missing_column


#: why a record was left out
SKIPPED = ("empty_text", "no_entity", "unreadable_image", "below_threshold")
_PARTS, _STATE = "annotated", "state.json"
_DATA, _ENTITIES, _REPORT = "data", "entities.parquet", "report.json"
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_UNREADABLE = (OSError, ValueError, SyntaxError, TypeError, Image.DecompressionBombError)
_ROW = {
    "image": datasets.Image(),
    "text": datasets.Value("string"),
    "entity_id": datasets.Value("string"),
    "entity_name": datasets.Value("string"),
    "entity_description": datasets.Value("string"),
    "score": datasets.Value("float32"),
    "entities": datasets.List(
        {
            "id": datasets.Value("string"),
            "name": datasets.Value("string"),
            "description": datasets.Value("string"),
            "score": datasets.Value("float32"),
        }
    ),
    "record": datasets.Value("int64"),
}
_ENTITY_ROW = {
    "label": datasets.Value("int64"),
    "id": datasets.Value("string"),
    "name": datasets.Value("string"),
    "description": datasets.Value("string"),
    "images": datasets.Value("int64"),
    "labelled": datasets.Value("int64"),
}


@dataclass(frozen=True)
class I2EReport:
    """What [`build_i2e`] made.

    Args:
        folder (`Path`): where it lies: `data/*.parquet`; `entities.parquet` (label, id, name, description, images that were kept with it,
            images whose label it is); `report.json`.
        records (`int`): records that were read.
        kept (`int`): rows that came out.
        entities (`int`): distinct entities in them; labels run from 0 to one less.
        skipped (`dict[str, int]`): records that were left out, by reason: `empty_text`, `no_entity`, `unreadable_image`,
            `below_threshold`, and `rare_entity` where every entity of an image had too few images.
        scores (`dict[str, float]`): quantiles of the cosines of the images that came out.
    """

    folder: Path
    records: int
    kept: int
    entities: int
    skipped: dict[str, int]
    scores: dict[str, float]

    def load(self, cache_dir: str | None = None) -> datasets.Dataset:
        """The rows, with their images decoded when read.

        Args:
            cache_dir (`str`, *optional*): where `datasets` keeps its converted files.
        """
        files = [str(file) for file in sorted((self.folder / _DATA).glob("*.parquet"))]
        return datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=cache_dir)


def build_i2e(
    records: Any,
    linker: Callable[[str], Iterable[Any]],
    clip: Any,
    threshold: float,
    min_images: int = 2,
    *,
    output: str | Path,
    image_column: str = "image",
    text_column: str = "text",
    image_root: str | Path | None = None,
    records_per_part: int = 1000,
    max_records: int | None = None,
    advance: Callable[[int], None] = lambda records: None,
) -> I2EReport:
    """
    Image-to-entities data as MOFI is trained on (https://arxiv.org/abs/2306.07952, section 3): entities that the text of an image
    names, kept where the image is near enough to the entity's name and description; then entities with too few images are dropped.

    Works over a stream and goes on after a kill: every `records_per_part` records a part is written, complete or not at all; the next
    call with the same arguments takes up behind the last one, and the files that come out are those of an uninterrupted run, byte for
    byte. Records that were read are read once more to be passed over, but neither linked, decoded nor embedded. A pass that
    came to the end of the records is finished: more records need another folder.

    Several processes can share a stream: [`annotate_i2e`] with `records.shard(...)` and a folder each, then [`finish_i2e`] over all
    folders.

    Args:
        records (`datasets.Dataset`, `datasets.IterableDataset`, or a list of records): with an image and a text each, in an order that
            is the same every time.
        linker (`Callable`): text -> candidate entities ([`Entity`], or mappings with `id`, `name` and `description`), for example
            [`DictionaryLinker`] or [`NerLinker`]. With a method `link_many(texts)` it gets many texts at once.
        clip: an [`ImageTextScorer`], or `(model, processor)` for one.
        threshold (`float`): lowest cosine of an image and an entity that is kept. Right pairs of OpenAI's CLIP lie at about 0.2 to 0.35;
            look at `scores` of a small run with `threshold=-1`.
        min_images (`int`, defaults to 2): entities with fewer images are dropped in the end.
        output (`str` or `Path`): folder for all files.
        image_column, text_column (`str`): names of the columns.
        image_root (`str` or `Path`, *optional*): what image paths are relative to.
        records_per_part (`int`, defaults to 1000): records of a part, which are in memory at a time.
        max_records (`int`, *optional*): read no more than that many.
        advance (`Callable`): called with the number of records done, after each part; at the start with those of the earlier run.

    Returns:
        [`I2EReport`]. The rows are `image`, `text`, `entity_id`, `entity_name`, `entity_description`, `score` of the entity with the
        highest cosine, `entities` (all that were kept, best first), `record` (number of the record), and `label`.

    Raises:
        ValueError: a missing column, settings or records other than those of the interrupted run, nothing left.

    Example:

    ```python
    >>> import tempfile
    >>> from PIL import Image
    >>> from transformers import CLIPModel, CLIPProcessor
    >>> from hf_contrastive.data import DictionaryLinker, EntityTable, build_i2e
    >>> clip = CLIPModel.from_pretrained("openai/clip-vit-base-patch32")  # doctest: +SKIP
    >>> clip = (clip, CLIPProcessor.from_pretrained("openai/clip-vit-base-patch32"))  # doctest: +SKIP
    >>> linker = DictionaryLinker(EntityTable.read("entities.csv"))  # doctest: +SKIP
    >>> report = build_i2e(web_images, linker, clip, threshold=0.25, output="i2e")  # doctest: +SKIP

    ```
    """
    annotate_i2e(
        records,
        linker,
        clip,
        threshold,
        output=output,
        image_column=image_column,
        text_column=text_column,
        image_root=image_root,
        records_per_part=records_per_part,
        max_records=max_records,
        advance=advance,
    )
    return finish_i2e([output], min_images=min_images, output=output)


def annotate_i2e(
    records: Any,
    linker: Callable[[str], Iterable[Any]],
    clip: Any,
    threshold: float,
    *,
    output: str | Path,
    image_column: str = "image",
    text_column: str = "text",
    image_root: str | Path | None = None,
    records_per_part: int = 1000,
    max_records: int | None = None,
    advance: Callable[[int], None] = lambda records: None,
) -> dict[str, int]:
    """The first pass of [`build_i2e`]: entities with their cosines, in parts below `output`.

    Args:
        records, linker, clip, threshold, output, image_column, text_column, image_root, records_per_part, max_records, advance: as there.

    Returns:
        `dict[str, int]`: `records`, `kept`, and how many were skipped for which reason.

    Raises:
        ValueError: as there.
    """
    if records_per_part < 1:
        raise ValueError(f"`records_per_part` is {records_per_part!r}; expected 1 or more")
    if not -1 <= threshold <= 1:
        raise ValueError(f"`threshold` is {threshold!r}; expected a cosine, from -1 to 1")
    scorer = ImageTextScorer(*clip) if isinstance(clip, tuple) else clip
    folder = Path(output).expanduser() / _PARTS
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "threshold": float(threshold),
        "columns": [image_column, text_column],
        "records_per_part": records_per_part,
        "linker": _described(linker),
        "clip": _described(scorer),
    }
    state = _read_state(folder, settings, max_records)
    counts: dict[str, int] = state["counts"]
    if counts["records"]:
        advance(counts["records"])
    if state["done"]:
        return dict(counts)
    stream = records_from(records, image_column, max(0, counts["records"] - 1))
    if counts["records"]:
        _check_same(next(stream, None), state["last"], text_column, counts["records"])
    while not state["done"]:
        room = records_per_part if max_records is None else min(records_per_part, max_records - counts["records"])
        chunk = list(itertools.islice(stream, room))
        _check_columns(chunk, image_column, text_column)
        part = _Part(counts["records"], image_column, text_column, None if image_root is None else Path(image_root))
        rows = part.annotate(chunk, linker, scorer, float(threshold))
        if chunk:
            write_table(folder / f"part-{state['parts']:05d}.parquet", rows, _ROW)
            state["parts"] += 1
            state["last"] = _key_of(chunk[-1][text_column])
        for reason, number in {**part.skipped, "records": len(chunk), "kept": len(rows)}.items():
            counts[reason] += number
        state["done"] = len(chunk) < room or counts["records"] == max_records
        # what counts is in this file: a part that it does not count yet is made again
        _write_json(folder / _STATE, {**state, "settings": settings, "max_records": max_records})
        advance(len(chunk))
    return dict(counts)


class _Part:
    """Some records at a time; what comes out depends on nothing but them."""

    def __init__(self, first: int, image_column: str, text_column: str, image_root: Path | None) -> None:
        self.first, self.image_column, self.text_column, self.image_root = first, image_column, text_column, image_root
        self.skipped = dict.fromkeys(SKIPPED, 0)

    def annotate(
        self, records: Sequence[Mapping[str, Any]], linker: Any, scorer: Any, threshold: float
    ) -> list[dict[str, Any]]:
        texts = [" ".join(str(record[self.text_column] or "").split()) for record in records]
        named = [row for row, text in enumerate(texts) if text]
        self.skipped["empty_text"] += len(records) - len(named)
        many = getattr(linker, "link_many", None)
        asked = [texts[row] for row in named]
        linked = many(asked) if many is not None else [linker(text) for text in asked]
        found = {row: _entities(entities) for row, entities in zip(named, linked, strict=True)}
        self.skipped["no_entity"] += sum(not entities for entities in found.values())
        found = {row: entities for row, entities in found.items() if entities}
        # each entity's text once a part, not once a run: a result must not depend on what an earlier part has met
        each = list(dict.fromkeys(entity for entities in found.values() for entity in entities))
        place = {entity: number for number, entity in enumerate(each)}
        vectors = scorer.embed_texts([entity.text for entity in each]) if each else None
        rows: list[dict[str, Any]] = []
        for chosen in chunks_of(list(found), getattr(scorer, "batch_size", 64)):
            opened = [(row, *self._open(records[row][self.image_column])) for row in chosen]
            readable = [(row, encoded, image) for row, encoded, image in opened if image is not None]
            self.skipped["unreadable_image"] += len(opened) - len(readable)
            if not readable:
                continue
            embeds = scorer.embed_images([image for _, _, image in readable])
            for (row, encoded, _), embed in zip(readable, embeds, strict=True):
                assert vectors is not None
                scores = (vectors[[place[entity] for entity in found[row]]] @ embed).tolist()
                kept = _best_first([pair for pair in zip(found[row], scores, strict=True) if pair[1] >= threshold])
                if not kept:
                    self.skipped["below_threshold"] += 1
                    continue
                image = {"bytes": encoded, "path": None}
                rows.append({"image": image, "text": texts[row], "record": self.first + row, **_labelled(kept)})
        return rows

    def _open(self, value: Any) -> tuple[bytes | None, Image.Image | None]:
        """An image as it was encoded, and decoded to RGB; nothing where it cannot be read."""
        try:
            if isinstance(value, str) and self.image_root is not None:
                value = str(self.image_root / value)
            encoded = _encoded(value)
            array = image_to_array(decode_image(value if encoded is None else encoded), 3)
            if array.dtype != np.uint8:
                array = np.rint(np.clip(array, 0, 1) * 255).astype(np.uint8)
            image = Image.fromarray(array)
            if encoded is None:
                buffer = io.BytesIO()
                image.save(buffer, "PNG")
                encoded = buffer.getvalue()
            return encoded, image
        except _UNREADABLE:
            return None, None


def finish_i2e(folders: Sequence[str | Path], *, min_images: int = 2, output: str | Path) -> I2EReport:
    """The second pass of [`build_i2e`]: drops entities with too few images, numbers the others. It can be repeated with another
    `min_images`, since the parts stay.

    Args:
        folders (`Sequence[str | Path]`): of [`annotate_i2e`], all of them complete.
        min_images (`int`, defaults to 2): entities with fewer images are dropped.
        output (`str` or `Path`): folder for `data/`, `entities.parquet` and `report.json`; may be one of `folders`.

    Returns:
        [`I2EReport`].

    Raises:
        ValueError: a pass that is not complete, or made with other settings than the first; nothing left.
    """
    if not folders:
        raise ValueError("`folders` is empty; give at least one folder of the first pass")
    states = [_finished_state(Path(folder).expanduser()) for folder in folders]
    for folder, state in zip(folders, states, strict=True):
        other = [
            name
            for name, value in state["settings"].items()
            if name != "records_per_part" and value != states[0]["settings"][name]
        ]
        if other:
            raise ValueError(
                f"{folder} was made with another {', '.join(other)} than {folders[0]}; run them with the same settings"
            )
    files = [
        file for folder, state in zip(folders, states, strict=True) for file in _part_files(folder, state["parts"])
    ]
    totals = {name: sum(state["counts"][name] for state in states) for name in ("records", "kept", *SKIPPED)}
    # all columns but the images fit into memory
    lists = [pq.read_table(file, columns=["entities"])["entities"].to_pylist() for file in files]
    pairs = [(row, one["id"], one["score"]) for row, ones in enumerate(itertools.chain(*lists)) for one in ones]
    keys = sorted({key for _, key, _ in pairs})
    number = {key: place for place, key in enumerate(keys)}
    found = filter_entity_pairs(
        [score for _, _, score in pairs],
        np.array([row for row, _, _ in pairs], dtype=np.int64),
        np.array([number[key] for _, key, _ in pairs], dtype=np.int64),
        num_images=totals["kept"],
        num_entities=len(keys),
        threshold=-np.inf,
        min_images=min_images,
    )
    if not len(found.entities):
        told = ", ".join(f"{count} {reason}" for reason, count in totals.items() if count)
        raise ValueError(f"no entity has {min_images} images or more ({told}); lower min_images or the threshold")
    labels = {keys[entity]: label for label, entity in enumerate(found.entities.tolist())}
    return _write_result(Path(output).expanduser(), files, labels, found, totals, min_images, states[0]["settings"])


def _write_result(
    output: Path,
    files: Sequence[Path],
    labels: Mapping[str, int],
    found: Any,
    totals: Mapping[str, int],
    least: int,
    settings: Any,
) -> I2EReport:
    staging = output / f".{_DATA}.tmp"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    named: dict[int, dict[str, Any]] = {}
    labelled = np.zeros(len(labels), dtype=np.int64)
    scores: list[float] = []
    start = 0
    for place, file in enumerate(files):
        rows = pq.read_table(file).to_pylist()
        kept: list[dict[str, Any]] = []
        for row, usable in zip(rows, found.labels[start : start + len(rows)] >= 0, strict=True):
            if usable:
                ones = [one for one in row["entities"] if one["id"] in labels]
                best = [(Entity(one["id"], one["name"], one["description"]), one["score"]) for one in ones]
                kept.append({**row, **_labelled(best), "label": labels[ones[0]["id"]]})
        start += len(rows)
        write_table(
            staging / f"train-{place:05d}-of-{len(files):05d}.parquet",
            kept,
            {**_ROW, "label": datasets.Value("int64")},
        )
        for row in kept:
            labelled[row["label"]] += 1
            scores.append(row["score"])
            for one in row["entities"]:
                named.setdefault(labels[one["id"]], one)
    # an entity that others outdo at each of its images is nobody's label, but keeps its number
    table = [
        {
            "label": label,
            **{name: named[label][name] for name in ("id", "name", "description")},
            "images": int(found.images_per_entity[found.entities[label]]),
            "labelled": int(labelled[label]),
        }
        for label in labels.values()
    ]
    (output / _REPORT).unlink(missing_ok=True)  # it says that all the rest is there
    shutil.rmtree(output / _DATA, ignore_errors=True)
    os.replace(staging, output / _DATA)
    write_table(output / _ENTITIES, table, _ENTITY_ROW)
    skipped = {**{name: totals[name] for name in SKIPPED}, "rare_entity": totals["kept"] - len(scores)}
    quantiles = {f"{100 * share:g} %": round(float(np.quantile(scores, share)), 4) for share in _QUANTILES}
    report = {
        "records": totals["records"],
        "kept": len(scores),
        "entities": len(table),
        "skipped": skipped,
        "scores": quantiles,
    }
    _write_json(output / _REPORT, {**report, "min_images": least, "settings": settings})
    return I2EReport(output, **report)


# ---------------------------------------------------------------------------- records


def _check_columns(chunk: Sequence[Mapping[str, Any]], image_column: str, text_column: str) -> None:
    for column, argument in ((image_column, "image_column"), (text_column, "text_column")):
        if chunk and column not in chunk[0]:
            raise ValueError(missing_column(column, list(chunk[0]), argument, "the records"))


def _entities(candidates: Iterable[Any]) -> list[Entity]:
    """Candidates of any form, each id once."""
    made: dict[str, Entity] = {}
    for one in candidates:
        if isinstance(one, Mapping) and "id" in one and "name" in one:
            one = Entity(str(one["id"]), str(one["name"]), str(one.get("description") or ""))
        if not isinstance(one, Entity):
            raise ValueError(
                f"the linker returned {one!r}; expected an Entity, or a mapping with id, name and description"
            )
        made.setdefault(one.id, one)
    return list(made.values())


def _best_first(pairs: Sequence[tuple[Entity, float]]) -> list[tuple[Entity, float]]:
    # as they are stored, in float32; of equal cosines the lower id is better
    return sorted(
        ((entity, float(np.float32(score))) for entity, score in pairs), key=lambda pair: (-pair[1], pair[0].id)
    )


def _labelled(pairs: Sequence[tuple[Entity, float]]) -> dict[str, Any]:
    """Columns of a row whose entities are these, best first."""
    best, score = pairs[0]
    entities = [
        {"id": one.id, "name": one.name, "description": one.description, "score": value} for one, value in pairs
    ]
    return {
        "entity_id": best.id,
        "entity_name": best.name,
        "entity_description": best.description,
        "score": score,
        "entities": entities,
    }


def _encoded(value: Any) -> bytes | None:
    """The bytes of an image that is stored as such."""
    if isinstance(value, Mapping):
        value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
    if isinstance(value, (str, Path)):
        return Path(value).read_bytes()
    return bytes(value) if isinstance(value, (bytes, bytearray)) else None


# ---------------------------------------------------------------------------- files


def write_table(path: Path, rows: Sequence[Mapping[str, Any]], features: Mapping[str, Any]) -> None:
    """Write rows to a parquet file that `datasets` reads with these features; the file is complete or absent.

    Args:
        path (`Path`): the file.
        rows (`Sequence[Mapping]`): with these columns, images as `{"bytes", "path"}`.
        features (`Mapping`): columns and their types.
    """
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=datasets.Features(dict(features)).arrow_schema)
    temporary = path.with_name(f".{path.name}.tmp")
    pq.write_table(table, temporary)
    _publish(temporary, path)


def _write_json(path: Path, content: Any) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    _publish(temporary, path)


def _publish(temporary: Path, path: Path) -> None:
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _described(thing: Any) -> str:
    describe = getattr(thing, "describe", None)
    return describe() if callable(describe) else getattr(thing, "__qualname__", type(thing).__qualname__)


def _key_of(text: Any) -> str:
    return hashlib.blake2b(str(text).encode(), digest_size=8).hexdigest()


def _read_state(folder: Path, settings: Mapping[str, Any], max_records: int | None) -> dict[str, Any]:
    path = folder / _STATE
    if not path.is_file():
        counts = dict.fromkeys(("records", "kept", *SKIPPED), 0)
        return {"parts": 0, "last": None, "done": False, "counts": counts}
    state = json.loads(path.read_text(encoding="utf-8"))
    changed = [name for name, value in settings.items() if state["settings"].get(name) != value]
    if changed:
        told = "; ".join(f"{name} was {state['settings'].get(name)!r} and is {settings[name]!r}" for name in changed)
        raise ValueError(
            f"{folder.parent} was begun with other settings ({told}); go on with the same, or give another output"
        )
    if state["max_records"] != max_records:
        state["done"] = False  # there may be more to read now
        if max_records is not None and state["counts"]["records"] > max_records:
            raise ValueError(
                f"{folder.parent} holds {state['counts']['records']} records already, more than max_records={max_records}; give "
                "another output"
            )
        if max_records is not None and state["counts"]["records"] == max_records:
            state["done"] = True
    return {name: state[name] for name in ("parts", "last", "done", "counts")}


def _check_same(record: Mapping[str, Any] | None, last: str, text_column: str, count: int) -> None:
    if record is None or _key_of(record.get(text_column)) != last:
        what = "end earlier" if record is None else "are others"
        raise ValueError(
            f"the records {what} than those of the run that is gone on with, whose record {count - 1} had another text; give the same "
            "records in the same order, or another output"
        )


def _finished_state(folder: Path) -> dict[str, Any]:
    path = folder / _PARTS / _STATE
    if not path.is_file():
        raise ValueError(f"{folder} holds no annotated records; run the first pass into it")
    state = json.loads(path.read_text(encoding="utf-8"))
    if not state["done"]:
        raise ValueError(
            f"{folder} is not complete: {state['counts']['records']} records so far; go on with its first pass"
        )
    return state


def _part_files(folder: str | Path, count: int) -> list[Path]:
    return [Path(folder).expanduser() / _PARTS / f"part-{part:05d}.parquet" for part in range(count)]


__all__ = ["SKIPPED", "I2EReport", "annotate_i2e", "build_i2e", "finish_i2e", "write_table"]
