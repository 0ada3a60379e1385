"""Disguises of programs: transformations of the source that do not change what it does."""

from __future__ import annotations

import io
import random
import tokenize
from collections.abc import Callable, Sequence
from typing import Any

from hf_contrastive.data.program_edits import (
    ProgramSource,
    change_loops,
    rename,
    reorder_declarations,
    some_of_places,
    swap_branches,
)
from hf_contrastive.data.program_tokens import check_language, lex_program


#: what a transformation is called, in the order in which they are applied
TRANSFORMS = (
    "strip_comments",
    "swap_branches",
    "change_loops",
    "reorder_declarations",
    "rename",
    "add_comments",
    "reformat",
)
_NOTES = (
    "note",
    "see above",
    "this part works",
    "input",
    "output",
    "main step",
    "checked",
    "here we go",
    "loop",
    "values",
)


class ProgramAugmenter:
    """Rewrites programs as somebody would who wants to hide where they come from; what they do stays the same.

    A light form of the nine transformations of CodeTransformator, which https://arxiv.org/abs/2206.08726 (section 4.1) makes its
    Codeforces data with: names, comments, white space, `for` and `while`, branches with the opposite condition, order of
    declarations. Where a transformation might change what a program does, it leaves the place alone; of a program that
    does not parse only comments and white space change, and in Python nothing does.

    Args:
        transforms (`Sequence[str]`, *optional*): which, of `TRANSFORMS`; all by default.
        probability (`float`, defaults to 0.5): with which each is applied to a program, and to each place in it.
        seed (`int`, defaults to 0): of the draws.

    Raises:
        ValueError: an unknown transformation, or a probability outside 0 to 1.

    Example:

    ```python
    >>> from hf_contrastive.data import ProgramAugmenter
    >>> augment = ProgramAugmenter(["change_loops"], probability=1.0)
    >>> augment("int main() { int i = 3; while (i) i--; return i; }", "c")
    'int main() { int i = 3; for (; i; ) i--; return i; }'

    ```
    """

    def __init__(self, transforms: Sequence[str] | None = None, probability: float = 0.5, seed: int = 0) -> None:
        chosen = TRANSFORMS if transforms is None else tuple(transforms)
        unknown = [name for name in chosen if name not in TRANSFORMS]
        if unknown:
            raise ValueError(f"`transforms` has {unknown[0]!r}; known are: {', '.join(TRANSFORMS)}.")
        if not 0 <= probability <= 1:
            raise ValueError(f"`probability` is {probability!r}, but it must be from 0 to 1.")
        self.transforms = tuple(name for name in TRANSFORMS if name in chosen)
        self.probability = probability
        self.seed = seed

    def __call__(self, code: str, language: str, number: int | tuple[int, ...] = 0) -> str:
        """Rewrite a program.

        Args:
            code (`str`): the source.
            language (`str`): `"c"`, `"cpp"` or `"python"`.
            number (`int` or `tuple` of them, defaults to 0): which rewriting; the same number gives the same one.

        Returns:
            `str`: the new source.
        """
        check_language(language)
        draw = random.Random(f"{self.seed} {number}")
        for name in self.transforms:
            if draw.random() < self.probability:
                code = _FUNCTIONS[name](code, language, draw, self.probability)
        return code


# ---------------------------------------------------------------------------------------------------------- comments


def _strip_comments(code: str, language: str, draw: random.Random, probability: float) -> str:
    if language != "python":
        parts = lex_program(code, language, directives=True)
        return "".join(" " if kind == "comment" else text for kind, text in parts)
    source = ProgramSource(code, language)
    if source.broken:
        return code
    comments = [node for node in source.nodes() if node.type == "comment"]
    # the first two lines may say how the file is written
    return source.replace([(n.start_byte, n.end_byte, "") for n in comments if n.start_point[0] > 1])


def _statements(source: ProgramSource, kinds: tuple[str, ...]) -> list[Any]:
    return [
        child
        for node in source.nodes()
        if node.type in kinds
        for child in node.named_children
        if child.type.endswith(("_statement", "declaration")) and not child.type.startswith(("case", "labeled"))
    ]


def _add_comments(code: str, language: str, draw: random.Random, probability: float) -> str:
    source = ProgramSource(code, language)
    if source.broken:
        return code
    edits = []
    if language == "python":
        for node in some_of_places(_statements(source, ("module", "block")), draw, 0.3 * probability):
            before = source.line_start(node)
            if before is not None:
                start = node.start_byte - len(before.encode())
                edits.append((start, start, f"{before}# {draw.choice(_NOTES)}\n"))
        return source.replace(edits)
    for node in some_of_places(_statements(source, ("compound_statement",)), draw, 0.3 * probability):
        note = draw.choice(_NOTES)
        edits.append((node.start_byte, node.start_byte, draw.choice((f"/* {note} */ ", f"// {note}\n"))))
    return source.replace(edits)


# ------------------------------------------------------------------------------------------------------- white space


def _reformat(code: str, language: str, draw: random.Random, probability: float) -> str:
    return _reformat_python(code, draw) if language == "python" else _reformat_c(code, language, draw)


_ALONE = set("(){}[];,")


def _reformat_c(code: str, language: str, draw: random.Random) -> str:
    unit = draw.choice(("\t", "  ", "    ", "        ", ""))
    tight, spread, own_line = draw.random() < 0.5, draw.random() < 0.5, draw.random() < 0.5
    parts: list[str] = []
    depth = brackets = 0
    before: tuple[str, str] | None = None
    spaced = False
    for kind, text in lex_program(code, language, directives=True):
        if kind == "space":
            spaced = True
            continue
        if kind == "directive":
            parts.append(("" if not parts or parts[-1].endswith("\n") else "\n") + text.strip() + "\n")
            before, spaced = None, False
            continue
        if text == "}":
            depth = max(0, depth - 1)
        line = "\n" + unit * depth
        if before is None:
            gap = unit * depth
        elif before[1].startswith("//"):
            gap = line
        elif brackets == 0 and (before[1] in ("{", "}", ";") or (text == "{" and own_line)):
            gap = line if before[1] != "}" or text not in (";", ",", ")", "while", "else") else " "
        elif not spaced:
            # a suffix belongs to its literal
            gap = " " if spread and kind == "operator" and before[0] != "string" and text not in _ALONE else ""
        else:
            gap = "" if tight and (text in _ALONE or before[1] in _ALONE) else " "
        parts += [gap, text]
        brackets += (text in ("(", "[")) - (text in (")", "]"))
        depth += text == "{"
        before, spaced = (kind, text), False
    return "".join(parts).rstrip("\n") + "\n"


def _reformat_python(code: str, draw: random.Random) -> str:
    unit = draw.choice(("  ", "    ", "\t", "   "))
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(code).readline))
        compile(code, "<program>", "exec", dont_inherit=True)
    except (tokenize.TokenError, SyntaxError, ValueError, IndentationError):
        return code
    lines = code.splitlines(keepends=True)
    depth, fresh = 0, True
    for token in tokens:
        if token.type == tokenize.INDENT:
            depth += 1
        elif token.type == tokenize.DEDENT:
            depth -= 1
        elif token.type == tokenize.NEWLINE:
            fresh = True
        elif token.type not in (tokenize.NL, tokenize.COMMENT, tokenize.ENDMARKER) and fresh:
            row = token.start[0] - 1
            lines[row] = unit * depth + lines[row].lstrip(" \t\f")
            if (
                depth == 0
                and row
                and draw.random() < 0.2
                and not lines[row].startswith(("else", "elif", "except", "finally", "@"))
            ):
                lines[row] = "\n" + lines[row]
            fresh = False
    changed = "".join(lines)
    try:
        compile(changed, "<program>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return code
    return changed


_FUNCTIONS: dict[str, Callable[[str, str, random.Random, float], str]] = {
    "strip_comments": _strip_comments,
    "swap_branches": swap_branches,
    "change_loops": change_loops,
    "reorder_declarations": reorder_declarations,
    "rename": rename,
    "add_comments": _add_comments,
    "reformat": _reformat,
}


__all__ = ["TRANSFORMS", "ProgramAugmenter"]
