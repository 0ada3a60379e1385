"""Tables of logos: drawn by code, of one's own, and the index of WiRLD."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import datasets
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from hf_contrastive.data.linkage_tables import load_linkage_table


#: names under which the brand of a logo is looked for
BRAND_COLUMNS = ("brand", "brand_id", "label", "wikidata_id")
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
#: split -> number of its first brand, brands by default, brands at most
_BRANDS = {"train": (0, 2560, 2560), "test": (2560, 200, 200), "others": (2760, 10_000, 400_000)}
_FEATURES = datasets.Features(
    {
        "image": datasets.Image(),
        "text": datasets.Value("string"),
        "label": datasets.Value("string"),
        "index": datasets.Value("int64"),
    }
)
_CONSONANTS, _VOWELS = "bcdfghklmnprstvz", "aeiou"
_SIDE = 48
_DARK = ((20, 20, 20), (20, 40, 120), (120, 20, 20), (20, 90, 40))
_LIGHT = ((250, 250, 250), (250, 220, 60), (170, 215, 250))


def load_logos(
    path_or_id: Any,
    *,
    split: str = "train",
    image_column: str | None = None,
    brand_column: str | None = None,
    text_column: str | None = None,
    on_bad: Literal["stop", "skip"] = "skip",
    cache_dir: str | None = None,
) -> datasets.Dataset:
    """Loads a table of logos: a picture each, its brand, and the text that was read in it where there is one.

    Args:
        path_or_id: what [`load_linkage_table`] takes: a `.csv`, `.jsonl` or `.parquet` file, a folder, a hub id, rows.
        split (`str`): name of the split, where there are several.
        image_column (`str`, *optional*): pictures, or paths of them; found by itself under the usual names.
        brand_column (`str`, *optional*): brands, integers or strings; found by itself.
        text_column (`str`, *optional*): texts; the column `text` or `ocr` by default, none where there is no such column.
        on_bad (`str`): rows without a picture: `"skip"` leaves them out with a warning that counts, `"stop"` raises.
        cache_dir (`str`, *optional*): where `datasets` keeps its converted files.

    Returns:
        `datasets.Dataset`: `image`, `text` (empty where none was read), `label` (the brand, as in the table), `index`.

    Raises:
        ValueError: a column that is missing (those found are listed), or nothing left.

    Example:

    ```python
    >>> from PIL import Image
    >>> from hf_contrastive.data.logo_tables import load_logos
    >>> logos = load_logos([{"image": Image.new("L", (8, 4)), "text": None, "brand": "acme"}])
    >>> logos[0]["text"], logos[0]["label"]
    ('', 'acme')

    ```
    """
    table = load_linkage_table(
        path_or_id,
        split=split,
        image_column=image_column,
        text_column=text_column,
        text_columns=("text", "ocr", "ocr_text"),
        label_column=brand_column,
        label_columns=BRAND_COLUMNS,
        on_bad=on_bad,
        cache_dir=cache_dir,
    )
    if "label" not in table.column_names:
        raise ValueError(
            f"{path_or_id} has no column of brands (looked for: {', '.join(BRAND_COLUMNS)}); name it with brand_column"
        )
    pictures = table.cast_column("image", datasets.Image(decode=False))["image"][:]
    has = [row for row, picture in enumerate(pictures) if picture is not None]
    if not has:
        raise ValueError(f"no row of {path_or_id} has a picture; name the column with image_column")
    if len(has) < len(table):
        missing = next(row for row, picture in enumerate(pictures) if picture is None)
        what = f"{len(table) - len(has)} of {len(table)} logos have no picture, the first is row {table[missing]['index']}"
        if on_bad == "stop":
            raise ValueError(f"{what}; mend the table, or pass on_bad='skip'")
        warnings.warn(f"left out: {what}", stacklevel=2)
        table = table.select(has)
    return table


def read_logo_index(path: str | os.PathLike | Iterable[str | os.PathLike]) -> datasets.Dataset:
    """Reads the index of WiRLD (https://arxiv.org/abs/2211.12926): text files with lines `Qid<TAB>url of a picture`.

    Nothing is downloaded.

    Args:
        path (`str`, `Path` or several): a file, a folder of `.txt` and `.tsv` files, or several files. A first line that names the
            columns is known as such. Brands without a picture (the url is `None`) are left out, with a warning that counts.

    Returns:
        `datasets.Dataset`: `brand` (the Wikidata id), `url`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line of another form; file and line are named.

    Example:

    ```python
    >>> import tempfile, pathlib
    >>> from hf_contrastive.data.logo_tables import read_logo_index
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "urls.txt"
    >>> _ = file.write_text("Q312\\thttps://example.org/apple.svg\\n")
    >>> read_logo_index(file)[0]
    {'brand': 'Q312', 'url': 'https://example.org/apple.svg'}

    ```
    """
    given = [path] if isinstance(path, (str, os.PathLike)) else list(path)
    files: list[Path] = []
    for one in given:
        place = Path(one).expanduser()
        if not place.exists():
            raise FileNotFoundError(f"there is no file {one}; give the text files of the index")
        inside = (
            sorted(file for file in place.iterdir() if file.suffix in (".txt", ".tsv")) if place.is_dir() else [place]
        )
        if not inside:
            raise ValueError(f"the folder {one} holds no .txt or .tsv file")
        files += inside
    brands, urls, without = [], [], []
    for file in files:
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            if not line.strip():
                continue
            brand, _, url = (part.strip() for part in line.partition("\t"))
            known = brand.startswith("Q") and brand[1:].isdigit()
            if number == 1 and not known and url and "://" not in url:
                continue  # names of columns
            if not known or not ("://" in url or url in ("", "None")):
                raise ValueError(f"line {number} of {file.name} is {line!r}, expected Qid<TAB>url")
            if "://" not in url:
                without.append(brand)
                continue
            brands.append(brand)
            urls.append(url)
    if without:
        warnings.warn(f"left out: {len(without)} brands without a picture, the first is {without[0]}", stacklevel=2)
    return datasets.Dataset.from_dict({"brand": brands, "url": urls})


def open_logo_references(folder: str | os.PathLike, index: datasets.Dataset | None = None) -> datasets.Dataset:
    """Pictures of an index that were downloaded as `Qid.png`, `Qid.jpg`, ..., as a table of references.

    Args:
        folder (`str` or `Path`): where the pictures are.
        index (`datasets.Dataset`, *optional*): of [`read_logo_index`]; only its brands, in its order. Without it all pictures.

    Returns:
        `datasets.Dataset`: `image`, `text` (empty), `label` (the name of the file without its end), `index`.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no picture in it.
    """
    place = Path(folder).expanduser()
    if not place.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; give the one that the pictures were saved to")
    by_name = {file.stem: file for file in sorted(place.iterdir()) if file.suffix.lower() in _PICTURES}
    others = [file.name for file in place.iterdir() if file.is_file() and file.suffix.lower() not in _PICTURES]
    wanted = list(by_name) if index is None else list(dict.fromkeys(index["brand"][:]))
    found = [name for name in wanted if name in by_name]
    if not found:
        raise ValueError(f"{folder} holds no picture ({', '.join(_PICTURES)}) of the index")
    if len(found) < len(wanted) or others:
        warnings.warn(
            f"{len(wanted) - len(found)} of {len(wanted)} references have no picture in {place.name}"
            + (
                f"; {len(others)} files are no pictures, for example {others[0]} (draw .svg files first)"
                if others
                else ""
            ),
            stacklevel=2,
        )
    columns = {
        "image": [{"bytes": None, "path": str(by_name[name])} for name in found],
        "text": [""] * len(found),
        "label": found,
        "index": list(range(len(found))),
    }
    return datasets.Dataset.from_dict(columns, features=_FEATURES)


def make_glyph_logos(split: str = "train", brands: int | None = None) -> datasets.Dataset:
    """Drawn logos of made-up brands, the same ones every time.

    Half of the brands have a word mark (their name on a bar, with the name as text), the others an icon (two letters in a shape, on a
    transparent ground, without a text). There are few colours, so that they do not tell brands apart. No brand is in two splits.

    Args:
        split (`str`, defaults to `"train"`): `"train"` (2,560 brands), `"test"` (200), or `"others"`: further brands, for growing
            galleries.
        brands (`int`, *optional*): the first of these only; of others 10,000 by default, up to 400,000.

    Returns:
        `datasets.Dataset`: `image` (48 pixels high), `text`, `label` (the brand's name), `index`.

    Raises:
        ValueError: another split, or more brands than there are.

    Example:

    ```python
    >>> from hf_contrastive.data.logo_tables import make_glyph_logos
    >>> logos = make_glyph_logos("test")
    >>> len(logos), logos[0]["text"] == logos[0]["label"], logos[1]["text"]
    (200, True, '')

    ```
    """
    if split not in _BRANDS:
        raise ValueError(f"split {split!r} not found; the built-in logos have {', '.join(_BRANDS)}; pass one of them")
    first, count, most = _BRANDS[split]
    count = count if brands is None else brands
    if not 1 <= count <= most:
        raise ValueError(f"`brands` is {brands!r}; the split {split!r} has 1 to {most:,}")
    # its stream is frozen: the drawings never change with the numpy version
    random = np.random.RandomState(11)
    names: dict[str, None] = {}
    while len(names) < first + count:
        syllables = [_CONSONANTS[random.randint(16)] + _VOWELS[random.randint(5)] for _ in range(random.randint(2, 4))]
        names["".join(syllables)] = None
    looks = np.random.RandomState(12).randint(0, 12, size=(first + count, 4)).tolist()
    columns: dict[str, list[Any]] = {"image": [], "text": [], "label": [], "index": []}
    for number, name in enumerate([*names][first:], start=first):
        dark, light, shape, turned = looks[number]
        front, ground = _DARK[dark % len(_DARK)], _LIGHT[light % len(_LIGHT)]
        if turned % 2:
            front, ground = ground, front
        word = number % 2 == 0
        image = _word_mark(name, front, ground) if word else _icon(name, shape, front, ground)
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        columns["image"].append({"bytes": buffer.getvalue(), "path": None})
        columns["text"].append(name if word else "")
        columns["label"].append(name)
        columns["index"].append(number - first)
    return datasets.Dataset.from_dict(columns, features=_FEATURES)


def _word_mark(name: str, front: tuple[int, ...], ground: tuple[int, ...]) -> Image.Image:
    image = Image.new("RGB", (round(_SIDE * 2.4), _SIDE), ground)
    font = ImageFont.load_default(size=_SIDE * 0.7)
    ImageDraw.Draw(image).text((_SIDE * 1.2, _SIDE / 2), name, fill=front, font=font, anchor="mm")
    return image


def _icon(name: str, shape: int, front: tuple[int, ...], ground: tuple[int, ...]) -> Image.Image:
    image = Image.new("RGBA", (_SIDE, _SIDE), (0, 0, 0, 0))
    pen, box = ImageDraw.Draw(image), (1, 1, _SIDE - 2, _SIDE - 2)
    if shape % 4 == 0:
        pen.ellipse(box, fill=ground)
    elif shape % 4 == 1:
        pen.rounded_rectangle(box, radius=8, fill=ground)
    elif shape % 4 == 2:
        pen.polygon([(_SIDE // 2, 1), (_SIDE - 2, _SIDE // 2), (_SIDE // 2, _SIDE - 2), (1, _SIDE // 2)], fill=ground)
    else:
        pen.regular_polygon((_SIDE / 2, _SIDE / 2, _SIDE / 2 - 1), 6, fill=ground)
    font = ImageFont.load_default(size=_SIDE * 0.5)
    # the first letters of its syllables
    letters = name[0].upper() + name[2].upper()
    pen.text((_SIDE / 2, _SIDE / 2), letters, fill=front, font=font, anchor="mm")
    return image


__all__ = ["BRAND_COLUMNS", "load_logos", "make_glyph_logos", "open_logo_references", "read_logo_index"]
