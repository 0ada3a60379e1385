"""What turns programs into the inputs of an encoder; saved with its checkpoint."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hf_contrastive.data.program_syntax import (
    EDGE_TYPES,
    UnusableProgram,
    parse_program,
    path_contexts,
    program_graph,
)
from hf_contrastive.data.program_tokens import check_language, name_parts, program_words, train_program_tokenizer


PROCESSOR_FILE = "program_processor.json"
ENCODER_KINDS = ("text", "ast", "graph")
_PAD, _UNKNOWN = "<pad>", "<unk>"


class ProgramProcessor:
    """Programs to tensors, for an encoder of text, syntax-tree paths or graphs.

    Make one with [`ProgramProcessor.build`], which learns vocabularies from training programs, or with `from_pretrained`.
    Comments are left out everywhere.

    Args:
        encoder (`str`): `"text"`, `"ast"` or `"graph"`.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): for text; of [`train_program_tokenizer`] or of a checkpoint.
        token_vocabulary (`list[str]`, *optional*): for paths: parts of names, by number.
        node_vocabulary (`list[str]`, *optional*): for paths and graphs: types of nodes, by number.
        language (`str`, defaults to `"cpp"`): of programs that come without one.
        max_length (`int`, defaults to 384): for text: tokens; what is longer is cut (official code).
        names (`str`, defaults to `"keep"`): for text: `"number"` makes an encoding that renaming does not change.
        max_paths (`int`, defaults to 200), max_path_length (`int`, defaults to 8), max_path_width (`int`, defaults to 2): for
            paths: see [`path_contexts`] (official settings).
        max_parts (`int`, defaults to 5): for paths: words of a name.
        max_nodes (`int`, defaults to 1000): for graphs: nodes; further ones are cut.
        seed (`int`, defaults to 0): of the draw of paths.

    Attributes:
        num_cut (`int`): programs of which something was cut so far.

    Example:

    ```python
    >>> from hf_contrastive.data import ProgramProcessor
    >>> code = "int main() { int a = 1; return a; }"
    >>> processor = ProgramProcessor.build("text", [code], vocab_size=270, max_length=32)
    >>> {name: tuple(value.shape) for name, value in processor([code, "int a;"]).items()}["attention_mask"][0]
    2

    ```
    """

    def __init__(
        self,
        encoder: str,
        *,
        tokenizer: Any = None,
        token_vocabulary: Sequence[str] | None = None,
        node_vocabulary: Sequence[str] | None = None,
        language: str = "cpp",
        max_length: int = 384,
        names: str = "keep",
        max_paths: int = 200,
        max_path_length: int = 8,
        max_path_width: int = 2,
        max_parts: int = 5,
        max_nodes: int = 1000,
        seed: int = 0,
    ) -> None:
        if encoder not in ENCODER_KINDS:
            raise ValueError(f"`encoder` is {encoder!r}, but it must be one of {', '.join(ENCODER_KINDS)}.")
        if encoder == "text" and tokenizer is None:
            raise ValueError("a processor for text needs a `tokenizer`; make one with ProgramProcessor.build.")
        if encoder != "text" and not node_vocabulary:
            raise ValueError("a processor for trees needs a `node_vocabulary`; make one with ProgramProcessor.build.")
        self.encoder = encoder
        self.tokenizer = tokenizer
        self.token_vocabulary = list(token_vocabulary or [])
        self.node_vocabulary = list(node_vocabulary or [])
        self.settings: dict[str, Any] = {
            "language": check_language(language),
            "max_length": max_length,
            "names": names,
            "max_paths": max_paths,
            "max_path_length": max_path_length,
            "max_path_width": max_path_width,
            "max_parts": max_parts,
            "max_nodes": max_nodes,
            "seed": seed,
        }
        for name in ("max_length", "max_paths", "max_path_length", "max_path_width", "max_parts", "max_nodes"):
            if self.settings[name] < 1:
                raise ValueError(f"`{name}` is {self.settings[name]!r}, but it must be 1 or more.")
        self._tokens = {word: number for number, word in enumerate(self.token_vocabulary)}
        self._nodes = {word: number for number, word in enumerate(self.node_vocabulary)}
        self.num_cut = 0

    @classmethod
    def build(
        cls,
        encoder: str,
        codes: Iterable[str],
        languages: Iterable[str] | None = None,
        *,
        vocab_size: int = 20000,
        tokenizer: Any = None,
        **settings: Any,
    ) -> ProgramProcessor:
        """Learn the vocabularies from training programs; those that cannot be read are passed over.

        Args:
            encoder (`str`): `"text"`, `"ast"` or `"graph"`.
            codes (iterable of `str`): the programs.
            languages (iterable of `str`, *optional*): language of each; `language` of the settings by default.
            vocab_size (`int`, defaults to 20000): tokens of text, or most frequent parts of names for paths.
            tokenizer (`PreTrainedTokenizerBase`, *optional*): for text: take it instead of learning one.
            **settings: further arguments of the class.
        """
        codes = list(codes)
        language = settings.get("language", "cpp")
        spoken = [language] * len(codes) if languages is None else list(languages)
        if encoder == "text":
            if tokenizer is None:
                names = settings.get("names", "keep")
                words = (program_words(code, one, names=names) for code, one in zip(codes, spoken, strict=True))
                tokenizer = train_program_tokenizer(words, vocab_size, settings.get("max_length", 384))
            return cls(encoder, tokenizer=tokenizer, **settings)
        # every type of node that two programs have; a name of one alone says nothing about others
        draft = cls(encoder, node_vocabulary=[_PAD], **settings)
        tokens: Counter[str] = Counter()
        nodes: Counter[str] = Counter()
        for code, one in zip(codes, spoken, strict=True):
            try:
                found = draft._read(code, one)
            except UnusableProgram:
                continue
            if encoder == "graph":
                nodes.update(set(found.nodes))
            else:
                nodes.update({kind for path in found for kind in path.nodes})
                limit = draft.settings["max_parts"]
                tokens.update(
                    {part for path in found for end in (path.start, path.end) for part in name_parts(end, limit)}
                )
        kept = [kind for kind, count in sorted(nodes.items()) if count > 1 or len(codes) < 50]
        if encoder == "graph":
            return cls(encoder, node_vocabulary=[_UNKNOWN, *kept], **settings)
        frequent = sorted(tokens.items(), key=lambda item: (-item[1], item[0]))[: max(0, vocab_size - 2)]
        words = [_PAD, _UNKNOWN, *(word for word, count in frequent if count > 1 or len(codes) < 50)]
        return cls(encoder, token_vocabulary=words, node_vocabulary=[_PAD, _UNKNOWN, *kept], **settings)

    def encoder_fields(self) -> dict[str, Any]:
        """Sizes of the vocabularies, as fields of the configuration of the library's encoder."""
        if self.encoder == "text":
            ids = {f"{name}_token_id": getattr(self.tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
            sizes = {"vocab_size": len(self.tokenizer), "max_position_embeddings": self.settings["max_length"]}
            return {**sizes, **{name: value for name, value in ids.items() if value is not None}}
        if self.encoder == "ast":
            return {
                "token_vocab_size": len(self.token_vocabulary),
                "node_vocab_size": len(self.node_vocabulary),
            }
        return {"node_vocab_size": len(self.node_vocabulary), "edge_vocab_size": len(EDGE_TYPES)}

    def _read(self, code: str, language: str) -> Any:
        tree = parse_program(code, language)
        if self.encoder == "graph":
            return program_graph(tree, language, max_nodes=self.settings["max_nodes"])
        settings = self.settings
        found = path_contexts(
            tree,
            max_length=settings["max_path_length"],
            max_width=settings["max_path_width"],
            max_paths=settings["max_paths"],
            seed=settings["seed"],
        )
        if not found:
            raise UnusableProgram("its tree has no paths between leaves")
        return found

    def features(self, code: str, language: str | None = None) -> dict[str, np.ndarray]:
        """One program, not padded.

        Args:
            code (`str`): the source.
            language (`str`, *optional*): its language; that of the processor by default.

        Returns:
            `dict[str, np.ndarray]`: what [`ProgramProcessor.pad`] joins.

        Raises:
            UnusableProgram: nothing of it can be read; says why.
        """
        language = check_language(language or self.settings["language"])
        if self.encoder == "text":
            words = program_words(code, language, names=self.settings["names"])
            if not words:
                raise UnusableProgram("it holds nothing but comments and white space")
            limit = self.settings["max_length"]
            ids = self.tokenizer(" ".join(words), truncation=False, verbose=False)["input_ids"]
            if len(ids) > limit:
                self.num_cut += 1
                ids = self.tokenizer(" ".join(words), truncation=True, max_length=limit)["input_ids"]
            return {"input_ids": np.asarray(ids, dtype=np.int64)}
        found = self._read(code, language)
        if self.encoder == "graph":
            self.num_cut += found.cut
            nodes = np.array([self._nodes.get(kind, 0) for kind in found.nodes], dtype=np.int64)
            return {"node_types": nodes, "edge_index": found.edges, "edge_types": found.kinds}
        parts, length = self.settings["max_parts"], self.settings["max_path_length"] + 1
        starts, ends = (np.zeros((len(found), parts), dtype=np.int64) for _ in range(2))
        nodes = np.zeros((len(found), length), dtype=np.int64)
        for row, path in enumerate(found):
            for table, text in ((starts, path.start), (ends, path.end)):
                ids = [self._tokens.get(part, 1) for part in name_parts(text, parts)]
                table[row, : len(ids)] = ids
            nodes[row, : len(path.nodes)] = [self._nodes.get(kind, 1) for kind in path.nodes]
        return {"start_tokens": starts, "path_nodes": nodes, "end_tokens": ends}

    def pad(self, features: Sequence[Mapping[str, np.ndarray]]) -> dict[str, torch.Tensor]:
        """Join programs to a batch.

        Args:
            features (sequence of `dict`): of [`ProgramProcessor.features`].

        Returns:
            `dict[str, torch.Tensor]`: `input_ids` and `attention_mask` `[batch, tokens]`; or `start_tokens`, `path_nodes` and
            `end_tokens` `[batch, paths, ...]`; or `node_types` `[batch, nodes]`, `edge_index` `[batch, 2, edges]` and
            `edge_types` `[batch, edges]`.
        """
        if self.encoder == "text":
            pad = self.tokenizer.pad_token_id
            if pad is None:
                pad = 0
            ids = [torch.from_numpy(one["input_ids"]) for one in features]
            masks = [torch.ones_like(one) for one in ids]
            padded = [
                torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)
                for rows, value in ((ids, pad), (masks, 0))
            ]
            return {"input_ids": padded[0], "attention_mask": padded[1]}
        filler = -1 if self.encoder == "graph" else 0
        batch = {}
        for name in features[0]:
            rows = [one[name] for one in features]
            axis = 1 if name == "edge_index" else 0
            longest = max(row.shape[axis] for row in rows)
            shape = list(rows[0].shape)
            shape[axis] = longest
            table = np.full((len(rows), *shape), filler, dtype=np.int64)
            for number, row in enumerate(rows):
                place = (number, slice(None), slice(0, row.shape[1])) if axis else (number, slice(0, row.shape[0]))
                table[place] = row
            batch[name] = torch.from_numpy(table)
        return batch

    def __call__(
        self, codes: str | Sequence[str], language: str | Sequence[str] | None = None
    ) -> dict[str, torch.Tensor]:
        """Programs to the inputs of the encoder.

        Args:
            codes (`str` or sequence of `str`): one program or several.
            language (`str` or sequence of `str`, *optional*): of all or of each; that of the processor by default.

        Raises:
            UnusableProgram: nothing of a program can be read; names its row.
        """
        codes = [codes] if isinstance(codes, str) else list(codes)
        if not codes:
            raise ValueError("`codes` is empty; give at least one program.")
        spoken = [language] * len(codes) if language is None or isinstance(language, str) else list(language)
        features = []
        for row, (code, one) in enumerate(zip(codes, spoken, strict=True)):
            try:
                features.append(self.features(code, one))
            except UnusableProgram as error:
                raise UnusableProgram(f"program {row} cannot be used: {error}") from None
        return self.pad(features)

    def save_pretrained(self, folder: str | os.PathLike, **options: Any) -> None:
        """Write the settings and vocabularies, and the tokenizer's files.

        Args:
            folder (`str` or `Path`): where to.
            **options: for a tokenizer.
        """
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(path, **options)
        record = {
            "encoder": self.encoder,
            **self.settings,
            "token_vocabulary": self.token_vocabulary,
            "node_vocabulary": self.node_vocabulary,
        }
        text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
        temporary = path / f"{PROCESSOR_FILE}.tmp"
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path / PROCESSOR_FILE)

    @classmethod
    def from_pretrained(cls, place: str | os.PathLike, **hub_options: Any) -> ProgramProcessor:
        """Load what `save_pretrained` wrote, from a folder or the hub.

        Args:
            place (`str` or `Path`): folder or hub id.
            **hub_options: `revision`, `token`, `cache_dir`.

        Raises:
            OSError: there is no such file; says which.
            ValueError: the file is damaged.
        """
        from transformers import AutoTokenizer
        from transformers.utils import cached_file

        file = cached_file(str(place), PROCESSOR_FILE, **hub_options)
        if file is None:
            raise OSError(f"{place} has no {PROCESSOR_FILE}")
        try:
            record = json.loads(Path(file).read_text(encoding="utf-8"))
            encoder = record.pop("encoder")
        except (json.JSONDecodeError, KeyError, AttributeError) as error:
            raise ValueError(f"{PROCESSOR_FILE} of {place} is damaged ({error}); take another checkpoint.") from error
        tokenizer = AutoTokenizer.from_pretrained(place, **hub_options) if encoder == "text" else None
        return cls(encoder, tokenizer=tokenizer, **record)


__all__ = ["ENCODER_KINDS", "PROCESSOR_FILE", "ProgramProcessor"]
