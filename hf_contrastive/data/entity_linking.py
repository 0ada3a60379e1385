"""Entities that a text names: a table of entities, a linker that looks for their names, and one behind any NER model."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hf_contrastive.data.schema import missing_column
from hf_contrastive.data.sources import rows_source, split_of_file


_ID_NAMES = ("entity_id", "wikidata_id", "qid", "id")
_NAME_NAMES = ("entity_name", "name", "title", "label")
_DESCRIPTION_NAMES = ("entity_description", "description")
_ALIAS_NAMES = ("aliases", "alias", "names")
# scripts without spaces between words: there every character can begin a name
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+|[^\w\s]")


class Entity(NamedTuple):
    """Something that texts name and images show.

    Args:
        id (`str`): its key, for example a Wikidata number.
        name (`str`): what it is called.
        description (`str`, defaults to `""`): what it is, in a few words.
    """

    id: str
    name: str
    description: str = ""

    @property
    def text(self) -> str:
        """Name and description, "name, description": what an image is compared with."""
        return f"{self.name}, {self.description}" if self.description else self.name


def words_of(text: str) -> list[str]:
    """Words and punctuation marks of a text, capitals aside, as names are looked for.

    Args:
        text (`str`): any text.

    Example:

    ```python
    >>> from hf_contrastive.data.entity_linking import words_of
    >>> words_of("AT&T's new Logo")
    ['at', '&', 't', "'", 's', 'new', 'logo']

    ```
    """
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


class EntityTable:
    """Entities with their names and other names.

    Args:
        entities (`Iterable[Entity]`): the entities; several may have one name, but each needs an id of its own.
        aliases (`Mapping[str, Sequence[str]]`, *optional*): further names by id.

    Raises:
        ValueError: no entity, an id that comes twice, an entity without id or name.

    Example:

    ```python
    >>> from hf_contrastive.data import Entity, EntityTable
    >>> table = EntityTable([Entity("Q312", "Apple", "technology company"), Entity("Q89", "apple", "fruit")])
    >>> [entity.id for entity in table.called("APPLE")]
    ['Q312', 'Q89']

    ```
    """

    def __init__(self, entities: Iterable[Entity], aliases: Mapping[str, Sequence[str]] | None = None) -> None:
        self.entities: list[Entity] = list(entities)
        if not self.entities:
            raise ValueError("`entities` is empty; give at least one entity")
        self.by_id: dict[str, Entity] = {}
        #: words of a name -> the entities that are called so, in the order of the table
        self.by_name: dict[tuple[str, ...], list[Entity]] = {}
        #: words of the longest name
        self.longest = 0
        for row, entity in enumerate(self.entities):
            if not entity.id or not entity.name.strip():
                raise ValueError(
                    f"entity {row} has the id {entity.id!r} and the name {entity.name!r}; both are needed"
                )
            if entity.id in self.by_id:
                raise ValueError(
                    f"the id {entity.id!r} comes twice, of {self.by_id[entity.id].name!r} and {entity.name!r}"
                )
            self.by_id[entity.id] = entity
            for name in (entity.name, *(aliases or {}).get(entity.id, ())):
                words = tuple(words_of(name))
                called = self.by_name.setdefault(words, []) if words else []
                if entity not in called:
                    called.append(entity)
                self.longest = max(self.longest, len(words))

    def __len__(self) -> int:
        return len(self.entities)

    def called(self, name: str) -> list[Entity]:
        """Entities of a name, in the order of the table.

        Args:
            name (`str`): the whole name, or another one; capitals aside.
        """
        return list(self.by_name.get(tuple(words_of(name)), ()))

    def fingerprint(self) -> str:
        """A short key of all entities and names."""
        digest = hashlib.blake2b(digest_size=8)
        for entity in self.entities:
            digest.update(repr(tuple(entity)).encode())
        for words, called in self.by_name.items():
            digest.update(repr((words, [entity.id for entity in called])).encode())
        return digest.hexdigest()

    @classmethod
    def read(
        cls,
        path: str | Path | Any,
        *,
        id_column: str | None = None,
        name_column: str | None = None,
        description_column: str | None = None,
        aliases_column: str | None = None,
        cache_dir: str | None = None,
    ) -> EntityTable:
        """Read a table of entities.

        Args:
            path (`str`, `Path`, or rows): a `.csv`, `.jsonl` or `.parquet` file with a header, one entity a row (rows of one id are joined;
                their names become aliases), or a `datasets.Dataset`.
            id_column, name_column (`str`, *optional*): found by themselves under the usual names.
            description_column, aliases_column (`str`, *optional*): where there are any; aliases are a list, or a text with `|` between.
            cache_dir (`str`, *optional*): where `datasets` keeps its converted files.

        Returns:
            [`EntityTable`].

        Raises:
            FileNotFoundError: the file does not exist.
            ValueError: a column that is missing, or no entity.

        Example:

        ```python
        >>> import csv, tempfile
        >>> from hf_contrastive.data import EntityTable
        >>> with tempfile.NamedTemporaryFile("w", suffix=".csv", delete=False) as file:
        ...     csv.writer(file).writerows([["id", "name", "aliases"], ["Q30", "United States", "USA|U.S."]])
        >>> len(EntityTable.read(file.name).called("usa"))
        1

        ```
        """
        source = rows_source(path, None, False, cache_dir, {})
        file = Path(str(path)).expanduser()
        rows: Any = source.load((split_of_file(file) or "train") if file.is_file() else source.splits()[0])
        found = list(rows.column_names)
        columns: dict[str, str | None] = {}
        for kind, given, names, needed in (
            ("id", id_column, _ID_NAMES, True),
            ("name", name_column, _NAME_NAMES, True),
            ("description", description_column, _DESCRIPTION_NAMES, False),
            ("aliases", aliases_column, _ALIAS_NAMES, False),
        ):
            column = given or next((name for name in names if name in found), None)
            if (needed and column is None) or (column is not None and column not in found):
                raise ValueError(missing_column(column or kind, found, f"{kind}_column", "the table of entities"))
            columns[kind] = column
        made: dict[str, Entity] = {}
        aliases: dict[str, list[str]] = {}
        values = {kind: rows[column][:] for kind, column in columns.items() if column is not None}
        for row in range(len(rows)):
            key, name = (
                str(values[kind][row] if values[kind][row] is not None else "").strip() for kind in ("id", "name")
            )
            description = " ".join(str(values["description"][row] or "").split()) if "description" in values else ""
            first = made.setdefault(key, Entity(key, " ".join(name.split()), description))
            others: Any = values["aliases"][row] if "aliases" in values else None
            others = others.split("|") if isinstance(others, str) else list(others or ())
            aliases.setdefault(key, []).extend([*others, *([name] if name != first.name else [])])
        return cls(made.values(), aliases)


class DictionaryLinker:
    """Finds the names of a table in texts: the longest first, capitals aside, whole words only.

    Names that overlap exclude each other. All entities of one name are candidates; which one an image shows is for the comparison of
    image and description to tell (MOFI resolves them by the link graph of Wikipedia first, which is not at hand here).

    Args:
        table ([`EntityTable`]): what is looked for.
        min_length (`int`, defaults to 2): names of fewer characters are not looked for.
        ignore (`Iterable[str]`, *optional*): names that are left out, for example ones that are common words.

    Example:

    ```python
    >>> from hf_contrastive.data import DictionaryLinker, Entity, EntityTable
    >>> table = EntityTable([Entity("Q60", "New York"), Entity("Q9684", "The New York Times"), Entity("Q30", "USA")])
    >>> [entity.name for entity in DictionaryLinker(table)("the new york times, USA")]
    ['The New York Times', 'USA']

    ```
    """

    def __init__(self, table: EntityTable, min_length: int = 2, ignore: Iterable[str] = ()) -> None:
        self.table, self.min_length = table, min_length
        self.ignored = {tuple(words_of(name)) for name in ignore}

    def matches(self, words: Sequence[str]) -> list[tuple[int, int]]:
        """Places `(first, last + 1)` of the names among the words of a text, from left to right.

        Args:
            words (`Sequence[str]`): of [`words_of`].
        """
        found = []
        for start in range(len(words)):
            for end in range(start + 1, min(len(words), start + self.table.longest) + 1):
                name = tuple(words[start:end])
                size = sum(map(len, name))
                if size >= self.min_length and name in self.table.by_name and name not in self.ignored:
                    found.append((-(end - start), -size, start, end))
        taken = np.zeros(len(words), dtype=bool)
        chosen = []
        for _, _, start, end in sorted(found):
            if not taken[start:end].any():
                taken[start:end] = True
                chosen.append((start, end))
        return sorted(chosen)

    def __call__(self, text: str) -> list[Entity]:
        """The entities that a text names, in the order of the text.

        Args:
            text (`str`): any text.
        """
        words = words_of(text)
        named = (
            entity for start, end in self.matches(words) for entity in self.table.by_name[tuple(words[start:end])]
        )
        return list(dict.fromkeys(named))

    def describe(self) -> str:
        """What it is and what it looks for, in one line."""
        ignored = f", {len(self.ignored)} ignored" if self.ignored else ""
        return f"names of {len(self.table)} entities ({self.table.fingerprint()}), {self.min_length} characters or more{ignored}"


class NerLinker:
    """Lets a NER model say where a text names something, then looks there for the names of a table.

    Args:
        pipeline (`Callable`): any `token-classification` pipeline of transformers (`pipeline("token-classification", model=...)`).
        table ([`EntityTable`]): what may be named.
        groups (`Sequence[str]`, *optional*): kinds of mentions that count, as the model calls them, for example `["ORG", "PER"]`.
        min_score (`float`, defaults to 0): mentions that the model is less sure of do not count.
        batch_size (`int`, defaults to 32): texts that the model reads at a time.
        min_length, ignore: as of [`DictionaryLinker`].

    Raises:
        ValueError: another kind of pipeline.

    Example:

    ```python
    >>> from transformers import pipeline
    >>> from hf_contrastive.data import EntityTable, NerLinker
    >>> ner = pipeline("token-classification", model="dslim/bert-base-NER")  # doctest: +SKIP
    >>> linker = NerLinker(ner, EntityTable.read("entities.csv"), groups=["ORG"])  # doctest: +SKIP

    ```
    """

    def __init__(
        self,
        pipeline: Callable[..., Any],
        table: EntityTable,
        *,
        groups: Sequence[str] | None = None,
        min_score: float = 0.0,
        batch_size: int = 32,
        min_length: int = 2,
        ignore: Iterable[str] = (),
    ) -> None:
        task = getattr(pipeline, "task", "token-classification")
        if task != "token-classification":
            raise ValueError(f"`pipeline` is for {task!r}, expected one for 'token-classification'")
        self.pipeline, self.names = pipeline, DictionaryLinker(table, min_length, ignore)
        self.groups = None if groups is None else {group.upper() for group in groups}
        self.min_score, self.batch_size = min_score, batch_size

    def __call__(self, text: str) -> list[Entity]:
        """The entities that a text names.

        Args:
            text (`str`): any text.
        """
        return self.link_many([text])[0]

    def link_many(self, texts: Sequence[str]) -> list[list[Entity]]:
        """The entities that each of several texts names.

        Args:
            texts (`Sequence[str]`): texts.
        """
        if not texts:
            return []
        found = self.pipeline(list(texts), aggregation_strategy="simple", batch_size=self.batch_size)
        return [
            list(dict.fromkeys(entity for mention in self._mentions(text, spans) for entity in self.names(mention)))
            for text, spans in zip(texts, found, strict=True)
        ]

    def _mentions(self, text: str, spans: Iterable[Mapping[str, Any]]) -> Iterator[str]:
        for span in spans:
            group = str(span.get("entity_group", span.get("entity", ""))).upper()
            if self.groups is not None and group not in self.groups:
                continue
            if float(span.get("score", 1.0)) < self.min_score:
                continue
            start, end = span.get("start"), span.get("end")
            yield span["word"] if start is None or end is None else text[start:end]

    def describe(self) -> str:
        """What it is and what it looks for, in one line."""
        name = getattr(getattr(getattr(self.pipeline, "model", None), "config", None), "model_type", "a")
        groups = "all mentions" if self.groups is None else ", ".join(sorted(self.groups))
        return f"{name} NER ({groups}, score {self.min_score:g} or more), {self.names.describe()}"


__all__ = ["DictionaryLinker", "Entity", "EntityTable", "NerLinker", "words_of"]
