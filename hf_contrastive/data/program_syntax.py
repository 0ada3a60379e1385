"""Programs as trees: parsing, paths between leaves, graphs."""

from __future__ import annotations

import functools
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hf_contrastive.data.program_tokens import LIBRARY_NAMES, PYTHON_NAMES, check_language
from hf_contrastive.utils import require_package


#: what an edge of a graph means; the odd ones are the way back
EDGE_TYPES = (
    "child",
    "parent",
    "next token",
    "previous token",
    "next sibling",
    "previous sibling",
    "next use of the name",
    "last use of the name",
)
# one leaf, whatever is inside
_WHOLE = {"string_literal", "char_literal", "raw_string_literal", "system_lib_string", "string", "concatenated_string"}
_NAMES = {"identifier", "field_identifier", "type_identifier", "namespace_identifier", "primitive_type"}
_GRAMMARS = {"c": "tree_sitter_c", "cpp": "tree_sitter_cpp", "python": "tree_sitter_python"}
# a program of which more than this share cannot be read is no program
_MAX_ERRORS = 0.5


class UnusableProgram(ValueError):
    """A program that gives an encoder nothing to read; the message says why."""


@functools.cache
def _parser(language: str) -> Any:
    purpose = "reading programs as trees"
    tree_sitter = require_package("tree_sitter", "code", purpose=purpose)
    grammar = require_package(_GRAMMARS[check_language(language)], "code", purpose=purpose)
    return tree_sitter.Parser(tree_sitter.Language(grammar.language()))


def parse_source(source: bytes, language: str) -> Any:
    """The root of the concrete tree that tree-sitter reads.

    Args:
        source (`bytes`): the program in UTF-8.
        language (`str`): `"c"`, `"cpp"` or `"python"`.

    Raises:
        ImportError: tree-sitter is not installed; says what to type.
    """
    return _parser(language).parse(source).root_node


@dataclass
class SyntaxTree:
    """The named nodes of a program, comments left out, parents before children, children in order.

    Args:
        kinds (`list[str]`): type of every node; operators are part of it (`binary_expression +`).
        parents (`list[int]`): number of the parent, -1 for the root.
        places (`list[int]`): place among the children of the parent.
        texts (`list[str | None]`): text of a leaf, `None` for others.
        errors (`float`): share of the program, in bytes, that could not be read.
    """

    kinds: list[str] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    texts: list[str | None] = field(default_factory=list)
    errors: float = 0.0


def parse_program(code: str, language: str) -> SyntaxTree:
    """Read a program as a tree. Parts that do not parse are kept as well as tree-sitter can.

    Args:
        code (`str`): the source.
        language (`str`): `"c"`, `"cpp"` or `"python"`.

    Returns:
        [`SyntaxTree`].

    Raises:
        UnusableProgram: nothing is there, or more than half of it does not parse.
        ImportError: tree-sitter is not installed; says what to type.
    """
    source = code.encode("utf-8", "replace")
    if not source.strip():
        raise UnusableProgram("it is empty")
    root = parse_source(source, language)
    tree, wrong = SyntaxTree(), 0
    waiting = [(root, -1, 0)]
    while waiting:
        node, parent, place = waiting.pop()
        kind = node.type
        if kind == "ERROR":
            wrong += node.end_byte - node.start_byte if parent < 0 or tree.kinds[parent] != "ERROR" else 0
        children = [] if kind in _WHOLE else [c for c in node.named_children if c.type != "comment"]
        if kind == "string" and any(child.type == "interpolation" for child in node.named_children):
            children = [child for child in node.named_children if child.type == "interpolation"]
        operator = node.child_by_field_name("operator") if children else None
        number = len(tree.kinds)
        tree.kinds.append(f"{kind} {operator.type}" if operator is not None else kind)
        tree.parents.append(parent)
        tree.places.append(place)
        text = None if children else source[node.start_byte : node.end_byte].decode("utf-8", "replace")
        tree.texts.append(text)
        waiting += [(child, number, order) for order, child in reversed(list(enumerate(children)))]
    tree.errors = min(1.0, wrong / max(1, len(source.strip())))
    if tree.kinds[0] == "ERROR" or tree.errors > _MAX_ERRORS:
        raise UnusableProgram(f"it does not parse as {language}")
    if len(tree.kinds) < 2:
        raise UnusableProgram("it holds nothing but comments")
    return tree


@dataclass(frozen=True)
class PathContext:
    """Two leaves and the way between them.

    Args:
        start, end (`str`): text of the leaves.
        nodes (`tuple[str, ...]`): types of the nodes from one to the other, both included.
    """

    start: str
    nodes: tuple[str, ...]
    end: str


def path_contexts(
    tree: SyntaxTree, *, max_length: int = 8, max_width: int = 2, max_paths: int = 200, seed: int = 0
) -> list[PathContext]:
    """Paths between leaves of a tree (code2vec, https://arxiv.org/abs/1803.09473, definition 4.2).

    Args:
        tree ([`SyntaxTree`]): of a program.
        max_length (`int`, defaults to 8): steps of a path from node to node.
        max_width (`int`, defaults to 2): distance of the two children of the topmost node that a path goes through.
        max_paths (`int`, defaults to 200): of more paths so many are drawn.
        seed (`int`, defaults to 0): of the draw, which depends on it and on the program alone.

    Returns:
        `list[PathContext]`: in the order of the program; empty where no two leaves are near each other.
    """
    near: list[list[tuple[int, int]]] = [[] for _ in tree.kinds]  # leaves below a node, and their distance
    children: list[list[int]] = [[] for _ in tree.kinds]
    for number in range(1, len(tree.kinds)):
        children[tree.parents[number]].append(number)
    found: list[tuple[int, int, int]] = []
    for node in range(len(tree.kinds) - 1, -1, -1):
        if tree.texts[node] is not None:
            near[node] = [(node, 0)]
            continue
        own = children[node]
        for order, left in enumerate(own):
            for right in own[order + 1 : order + 1 + max_width]:
                found += [
                    (a, b, node) for a, up in near[left] for b, down in near[right] if up + down + 2 <= max_length
                ]
        near[node] = [(leaf, far + 1) for child in own for leaf, far in near[child] if far + 1 < max_length]
        for child in own:
            near[child] = []
    found.sort()
    if len(found) > max_paths:
        mark = zlib.crc32("\n".join(f"{tree.kinds[a]} {tree.texts[a]}" for a, _, _ in found[:999]).encode())
        chosen = np.random.default_rng([seed, mark]).choice(len(found), max_paths, replace=False)
        found = [found[number] for number in np.sort(chosen)]
    return [_context(tree, *ends) for ends in found]


def _context(tree: SyntaxTree, start: int, end: int, top: int) -> PathContext:
    up, down = [start], [end]
    for way in (up, down):
        while tree.parents[way[-1]] != top:
            way.append(tree.parents[way[-1]])
    nodes = [tree.kinds[node] for node in (*up, top, *reversed(down))]
    return PathContext(tree.texts[start] or "", tuple(nodes), tree.texts[end] or "")


@dataclass(frozen=True)
class ProgramGraph:
    """A graph of a program.

    Args:
        nodes (`list[str]`): type of every node; names of the standard library are part of it.
        edges (`np.ndarray` `[2, edges]`): from where, to where.
        kinds (`np.ndarray` `[edges]`): number of the type in `EDGE_TYPES`.
        cut (`bool`): nodes beyond the limit were left out.
    """

    nodes: list[str]
    edges: np.ndarray
    kinds: np.ndarray
    cut: bool


def program_graph(tree: SyntaxTree, language: str, *, max_nodes: int = 1000) -> ProgramGraph:
    """The tree of a program with edges between neighbouring leaves, siblings, and uses of a name.

    It takes the place of the code property graph of the paper (https://arxiv.org/abs/2206.08726, section 3.2), which an
    external program makes.

    Args:
        tree ([`SyntaxTree`]): of the program.
        language (`str`): its language.
        max_nodes (`int`, defaults to 1000): further nodes, in the order of the program, are left out.

    Returns:
        [`ProgramGraph`]: every edge with its way back.
    """
    shared = PYTHON_NAMES if language == "python" else LIBRARY_NAMES
    count = min(len(tree.kinds), max_nodes)
    nodes = []
    edges: list[tuple[int, int, int]] = []
    leaf, sibling = None, {}
    uses: dict[str, int] = {}
    for number in range(count):
        kind, text = tree.kinds[number], tree.texts[number]
        nodes.append(f"{kind} {text}" if kind in _NAMES and text in shared else kind)
        parent = tree.parents[number]
        if parent >= 0:
            edges.append((parent, number, 0))
        if parent in sibling:
            edges.append((sibling[parent], number, 4))
        sibling[parent] = number
        if text is not None:
            if leaf is not None:
                edges.append((leaf, number, 2))
            leaf = number
            if kind in _NAMES:
                if text in uses:
                    edges.append((uses[text], number, 6))
                uses[text] = number
    both = [*edges, *((target, source, kind + 1) for source, target, kind in edges)]
    table = np.array(both, dtype=np.int64).reshape(-1, 3)
    return ProgramGraph(nodes, table[:, :2].T.copy(), table[:, 2].copy(), count < len(tree.kinds))


__all__ = [
    "EDGE_TYPES",
    "PathContext",
    "ProgramGraph",
    "SyntaxTree",
    "UnusableProgram",
    "parse_program",
    "parse_source",
    "path_contexts",
    "program_graph",
]
