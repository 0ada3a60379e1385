"""Rewritings of the tree of a program that do not change what it does: names, loops, branches, order of declarations."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator
from typing import Any

from hf_contrastive.data.program_syntax import parse_source
from hf_contrastive.data.program_tokens import LIBRARY_NAMES, PYTHON_NAMES


_LOOPS = {"for_statement", "while_statement", "do_statement", "for_range_loop"}
WORD = re.compile(r"[^\W\d]\w*")
_STYLES = ("v{}", "tmp{}", "x_{}", "var{}", "the{}", "my_{}", "q{}q", "item{}")
_DYNAMIC = {"eval", "exec", "globals", "locals", "vars", "getattr", "setattr", "hasattr", "delattr", "__dict__"}


class ProgramSource:
    """A program and its concrete tree.

    Args:
        code (`str`): the source.
        language (`str`): its language.
    """

    def __init__(self, code: str, language: str) -> None:
        self.bytes, self.language = code.encode("utf-8", "replace"), language
        self.root = parse_source(self.bytes, language)
        self.broken = self.root.has_error

    def text(self, node: Any) -> str:
        return self.bytes[node.start_byte : node.end_byte].decode("utf-8", "replace")

    def nodes(self, node: Any = None) -> Iterator[Any]:
        """All nodes below one, itself included, in order."""
        waiting = [self.root if node is None else node]
        while waiting:
            one = waiting.pop()
            yield one
            waiting += reversed(one.children)

    def line_start(self, node: Any) -> str | None:
        """White space before a node that begins its line, or `None`."""
        start = self.bytes.rfind(b"\n", 0, node.start_byte) + 1
        before = self.bytes[start : node.start_byte]
        return before.decode() if not before.strip() else None

    def replace(self, edits: list[tuple[int, int, str]]) -> str:
        """The program with some parts replaced; an edit that overlaps an earlier one of the list is left out."""
        taken: list[tuple[int, int, str]] = []
        for start, end, text in edits:
            if all(end <= other[0] or start >= other[1] for other in taken):
                taken.append((start, end, text))
        parts, place = [], 0
        for start, end, text in sorted(taken):
            parts += [self.bytes[place:start], text.encode()]
            place = end
        return b"".join([*parts, self.bytes[place:]]).decode("utf-8", "replace")


def some_of_places(candidates: list[Any], draw: random.Random, probability: float) -> list[Any]:
    chosen = [one for one in candidates if draw.random() < max(probability, 0.3)]
    draw.shuffle(chosen)
    return chosen


def _contains(source: ProgramSource, node: Any, kinds: set[str], stop: set[str] = frozenset()) -> bool:  # ty: ignore[invalid-parameter-default]
    """Whether a node of a kind is inside, not looking into those of `stop`."""
    waiting = list(node.children)
    while waiting:
        one = waiting.pop()
        if one.type in kinds:
            return True
        if one.type not in stop:
            waiting += one.children
    return False


def _jumps(source: ProgramSource, node: Any) -> bool:
    """Whether labels or cases make moving this part dangerous."""
    return _contains(source, node, {"labeled_statement", "goto_statement"}) or _contains(
        source, node, {"case_statement"}, {"switch_statement"}
    )


def _directive_words(source: ProgramSource) -> tuple[set[str], bool]:
    """Words of macros and conditions of the preprocessor, and whether a macro makes text of its arguments."""
    words: set[str] = set()
    quotes = False
    for node in source.nodes():
        if node.type in ("preproc_def", "preproc_function_def", "preproc_call", "preproc_include"):
            text = source.text(node)
            words |= set(WORD.findall(text))
            quotes |= "#" in text.strip()[1:]
        elif node.type in ("preproc_ifdef", "preproc_if", "preproc_elif"):
            for name in ("name", "condition"):
                part = node.child_by_field_name(name)
                if part is not None:
                    words |= set(WORD.findall(source.text(part)))
    return words, quotes


# ------------------------------------------------------------------------------------------------------------- names


def rename(code: str, language: str, draw: random.Random, probability: float) -> str:
    """Other names for what the program declares itself and reaches by the plain name alone."""
    source = ProgramSource(code, language)
    if source.broken:
        return code
    names = _python_names(source) if language == "python" else _c_names(source)
    taken = set(WORD.findall(code)) | LIBRARY_NAMES | PYTHON_NAMES
    style, new = draw.choice(_STYLES), {}
    numbers = draw.sample(range(1, 10 * len(names) + 10), len(names))
    for name, number in zip(sorted(names), numbers, strict=True):
        fresh = style.format(number)
        while fresh in taken:
            fresh += "_"
        if draw.random() < max(probability, 0.7):
            new[name] = fresh
            taken.add(fresh)
    edits = [
        (node.start_byte, node.end_byte, new[source.text(node)])
        for node in source.nodes()
        if node.type == "identifier" and source.text(node) in new
    ]
    return source.replace(edits)


_DECLARES = {
    "init_declarator",
    "declaration",
    "parameter_declaration",
    "optional_parameter_declaration",
    "array_declarator",
    "pointer_declarator",
    "function_declarator",
    "for_range_loop",
}


def _c_names(source: ProgramSource) -> set[str]:
    """Names that the program declares itself and that stand nowhere but as plain names."""
    words, quotes = _directive_words(source)
    if quotes:
        return set()
    declared: set[str] = set()
    prototypes: set[str] = set()
    banned = words | LIBRARY_NAMES
    for node in source.nodes():
        parent = node.parent
        if node.type == "identifier" and parent is not None:
            own = parent.child_by_field_name("declarator")
            if parent.type == "reference_declarator" or (parent.type in _DECLARES and own is not None and own == node):
                declared.add(source.text(node))
            if parent.type == "function_declarator":
                above = parent.parent
                while above is not None and above.type.endswith("declarator"):
                    above = above.parent
                # a function that is defined elsewhere keeps its name
                if above is not None and above.type != "function_definition":
                    prototypes.add(source.text(node))
                elif above is not None:
                    prototypes.discard(source.text(node))
                    declared.add(source.text(node))
            if parent.type == "qualified_identifier":
                banned.add(source.text(node))
        elif node.type.endswith("identifier"):  # fields, types, namespaces, labels
            banned |= set(WORD.findall(source.text(node)))
    defined = {
        source.text(node) for node in source.nodes() if node.type == "identifier" and _is_defined_function(node)
    }
    return {name for name in declared - banned - (prototypes - defined) if name.isascii()}


def _is_defined_function(node: Any) -> bool:
    parent = node.parent
    if parent is None or parent.type != "function_declarator":
        return False
    above = parent.parent
    while above is not None and above.type.endswith("declarator"):
        above = above.parent
    return above is not None and above.type == "function_definition"


def _python_names(source: ProgramSource) -> set[str]:
    """Names that are assigned and never reached by another way than the plain name."""
    declared: set[str] = set()
    banned = set(PYTHON_NAMES)
    for node in source.nodes():
        if node.type in ("dictionary_splat", "match_statement", "wildcard_import"):
            return set()
        if node.type in ("import_statement", "import_from_statement"):
            banned |= set(WORD.findall(source.text(node)))
        if node.type == "class_definition":
            # members are reached by attribute, and bodies are scopes of their own
            banned |= {source.text(one) for one in source.nodes(node) if one.type == "identifier"}
        if node.type != "identifier":
            continue
        text, parent = source.text(node), node.parent
        if text in _DYNAMIC:
            return set()
        if (parent.type == "attribute" and parent.child_by_field_name("attribute") == node) or (
            parent.type == "keyword_argument" and parent.child_by_field_name("name") == node
        ):
            banned.add(text)
        elif parent.type in ("assignment", "augmented_assignment", "for_statement", "for_in_clause"):
            if parent.child_by_field_name("left") == node:
                declared.add(text)
        elif parent.type in ("pattern_list", "tuple_pattern", "parameters", "lambda_parameters") or (
            parent.type == "function_definition" and parent.child_by_field_name("name") == node
        ):
            declared.add(text)
    return {name for name in declared - banned if name.isascii() and not name.startswith("__")}


# ------------------------------------------------------------------------------------------------- loops and branches


def _condition(source: ProgramSource, node: Any) -> str | None:
    """Text of a condition in brackets, when it is a plain expression."""
    condition = node.child_by_field_name("condition")
    if condition is None or len(condition.named_children) != 1:
        return None
    inner = condition.named_children[0]
    if not condition.type.startswith(("parenthesized", "condition_clause")) or "declaration" in inner.type:
        return None
    between = source.bytes[node.start_byte : condition.start_byte].decode("utf-8", "replace").split()
    return source.text(inner) if between in (["if"], ["while"]) else None


def change_loops(code: str, language: str, draw: random.Random, probability: float) -> str:
    """`for` instead of `while`, and the other way."""
    source = ProgramSource(code, language)
    if source.broken:
        return code
    if language == "python":
        return _change_python_loops(source, draw, probability)
    edits = []
    hidden = "continue" in _directive_words(source)[0]
    for node in some_of_places(
        [n for n in source.nodes() if n.type in ("for_statement", "while_statement")], draw, probability
    ):
        body = node.child_by_field_name("body")
        if body is None:
            continue
        if node.type == "while_statement":
            condition = _condition(source, node)
            if condition is not None:
                edits.append((node.start_byte, body.start_byte, f"for (; {condition}; ) "))
            continue
        if hidden or _contains(source, body, {"continue_statement"}, _LOOPS) or _jumps(source, body):
            continue
        if body.type == "continue_statement" or body.type == "labeled_statement":
            continue
        parts = {name: node.child_by_field_name(name) for name in ("initializer", "condition", "update")}
        if any(part is not None and part.type == "comment" for part in parts.values()):
            continue
        if parts["condition"] is not None and "declaration" in parts["condition"].type:
            continue
        first, condition, update = ("" if part is None else source.text(part) for part in parts.values())
        first = first if not first or first.rstrip().endswith(";") else f"{first};"
        step = f" {update};" if update else ""
        text = f"{{ {first} while ({condition or '1'}) {{ {source.text(body)}{step} }} }}"
        # a line comment at the end of the body would swallow what follows
        if "//" not in source.text(node):
            edits.append((node.start_byte, node.end_byte, text))
    return source.replace(edits)


def _change_python_loops(source: ProgramSource, draw: random.Random, probability: float) -> str:
    edits = []
    taken = set(WORD.findall(source.bytes.decode("utf-8", "replace")))
    if "range" in _assigned(source) or "iter" in _assigned(source) or "int" in _assigned(source):
        return source.replace([])
    for number, node in enumerate(n for n in source.nodes() if n.type in ("for_statement", "while_statement")):
        if draw.random() >= max(probability, 0.3):
            continue
        body, before = node.child_by_field_name("body"), source.line_start(node)
        if (
            body is None
            or before is None
            or _inside(node, "class_definition")
            or body.start_point[0] == node.start_point[0]
        ):
            continue
        if any(child.type in ("async", "else_clause") for child in node.children):
            continue
        pad = source.line_start(body)
        if pad is None or not pad.startswith(before) or pad == before:
            continue
        if node.type == "while_statement":
            condition = node.child_by_field_name("condition")
            unused = f"turn{number}"
            if (
                unused in taken
                or condition is None
                or "\n" in source.text(condition)
                or "yield" in source.text(condition)
            ):
                continue
            head = f"for {unused} in iter(int, 1):\n{pad}if not ({source.text(condition)}):\n{pad}    break\n{pad}"
            edits.append((node.start_byte, body.start_byte, head))
            continue
        left, right = node.child_by_field_name("left"), node.child_by_field_name("right")
        called = right.child_by_field_name("function") if right is not None and right.type == "call" else None
        place, steps = f"place{number}", f"steps{number}"
        if called is None or source.text(called) != "range" or left.type != "identifier" or {place, steps} & taken:
            continue
        if "\n" in source.text(right) or "yield" in source.text(right):
            continue
        head = f"{steps} = {source.text(right)}\n{before}{place} = 0\n{before}while {place} < len({steps}):\n"
        head += f"{pad}{source.text(left)} = {steps}[{place}]\n{pad}{place} += 1\n{pad}"
        edits.append((node.start_byte, body.start_byte, head))
    return source.replace(edits)


def _assigned(source: ProgramSource) -> set[str]:
    """Everything that is not only read: assigned, defined, imported, a parameter."""
    found = set()
    for node in source.nodes():
        if node.type == "identifier" and node.parent.type not in ("call", "argument_list", "binary_operator"):
            found.add(source.text(node))
    return found


def _inside(node: Any, kind: str) -> bool:
    while node is not None:
        if node.type == kind:
            return True
        node = node.parent
    return False


def swap_branches(code: str, language: str, draw: random.Random, probability: float) -> str:
    """The opposite condition, and the branches in the other order."""
    source = ProgramSource(code, language)
    if source.broken:
        return code
    edits = []
    for node in some_of_places([n for n in source.nodes() if n.type == "if_statement"], draw, probability):
        if language == "python":
            edits += _swap_python_branches(source, node)
            continue
        condition, first = _condition(source, node), node.child_by_field_name("consequence")
        other = node.child_by_field_name("alternative")
        if (
            condition is None
            or first is None
            or other is None
            or not other.named_children
            or "//" in source.text(node)
        ):
            continue
        second = other.named_children[-1]
        if len(other.named_children) != 1 or _jumps(source, node):
            continue
        text = f"if (!({condition})) {{ {source.text(second)} }} else {{ {source.text(first)} }}"
        edits.append((node.start_byte, node.end_byte, text))
    return source.replace(edits)


def _swap_python_branches(source: ProgramSource, node: Any) -> list[tuple[int, int, str]]:
    clauses = [child for child in node.children if child.type in ("elif_clause", "else_clause")]
    condition, first = node.child_by_field_name("condition"), node.child_by_field_name("consequence")
    if len(clauses) != 1 or clauses[0].type != "else_clause" or condition is None or first is None:
        return []
    second = clauses[0].child_by_field_name("body")
    if second is None or "\n" in source.text(condition):
        return []
    pads = [source.line_start(part) for part in (first, second)]
    # both blocks on lines of their own, equally far in; comments outside the blocks stay where they are
    if pads[0] is None or pads[0] != pads[1]:
        return []
    return [
        (condition.start_byte, condition.end_byte, f"not ({source.text(condition)})"),
        (first.start_byte, first.end_byte, source.text(second)),
        (second.start_byte, second.end_byte, source.text(first)),
    ]


_PLAIN_DECLARATION = {
    "declaration",
    "primitive_type",
    "sized_type_specifier",
    "init_declarator",
    "identifier",
    "number_literal",
    "char_literal",
    "character",
    "array_declarator",
    "initializer_list",
    "true",
    "false",
}
_PLAIN_VALUE = {"integer", "float", "true", "false", "none", "list", "tuple", "unary_operator", "string"}
_PLAIN_VALUE |= {"string_start", "string_content", "string_end"}


def reorder_declarations(code: str, language: str, draw: random.Random, probability: float) -> str:
    """Neighbouring declarations of constants in the other order."""
    source = ProgramSource(code, language)
    if source.broken:
        return code
    edits = []
    python = language == "python"
    for node in source.nodes():
        if node.type not in (("module", "block") if python else ("compound_statement",)):
            continue
        children = node.named_children
        for one, two in itertools.pairwise(children):
            plain = _plain_assignment if python else _plain_declaration
            names = [plain(source, child) for child in (one, two)]
            if names[0] and names[1] and not names[0] & names[1] and draw.random() < max(probability, 0.3):
                edits.append((one.start_byte, two.end_byte, _swapped(source, one, two)))
    return source.replace(edits)


def _swapped(source: ProgramSource, one: Any, two: Any) -> str:
    between = source.bytes[one.end_byte : two.start_byte].decode("utf-8", "replace")
    return f"{source.text(two)}{between}{source.text(one)}"


def _plain_declaration(source: ProgramSource, node: Any) -> set[str]:
    """Names in a declaration of numbers whose values nothing computes; nothing for any other statement."""
    if node.type != "declaration" or any(n.is_named and n.type not in _PLAIN_DECLARATION for n in source.nodes(node)):
        return set()
    return {source.text(one) for one in source.nodes(node) if one.type == "identifier"}


def _plain_assignment(source: ProgramSource, node: Any) -> set[str]:
    """The name that gets a constant; nothing for any other statement."""
    if node.type != "expression_statement" or len(node.named_children) != 1 or source.line_start(node) is None:
        return set()
    inner = node.named_children[0]
    left, right = (inner.child_by_field_name(name) for name in ("left", "right"))
    if inner.type != "assignment" or left is None or right is None or left.type != "identifier":
        return set()
    if any(n.is_named and n.type not in _PLAIN_VALUE for n in source.nodes(right)):
        return set()
    return {source.text(left)}


__all__ = ["ProgramSource", "change_loops", "rename", "reorder_declarations", "some_of_places", "swap_branches"]
