"""Small tasks, each written in many ways in C, C++ and Python: programs to learn from without a download."""

from __future__ import annotations

import random
import re
import textwrap
from typing import Any


# A task is written once, in lines that all three languages have. `read x`: a number; `array a`: 64 zeros; `readlist a n`: n
# numbers; `for i low high:` counts up to below high; `//` divides whole numbers of one sign.
TASKS = {
    "train": {
        "sum": "read n|readlist a n|s = 0|for i 0 n:|  s = s + a[i]|print s",
        "maximum": "read n|readlist a n|m = a[0]|for i 1 n:|  if a[i] > m:|    m = a[i]|print m",
        "count even": "read n|readlist a n|c = 0|for i 0 n:|  if a[i] % 2 == 0:|    c = c + 1|print c",
        "reverse": "read n|readlist a n|for i 0 n:|  print a[n - 1 - i]",
        "gcd": "read a|read b|while b > 0:|  t = a % b|  a = b|  b = t|print a",
        "factorial": "read n|f = 1|for i 1 n + 1:|  f = f * i|print f",
        "prime": "read n|p = 1|if n < 2:|  p = 0|d = 2|while d * d <= n:|  if n % d == 0:|    p = 0|  d = d + 1|print p",
        "fibonacci": "read n|a = 0|b = 1|for i 0 n:|  t = a + b|  a = b|  b = t|print a",
        "digits": "read n|c = 0|while n > 0:|  n = n // 10|  c = c + 1|print c",
        "bubble sort": (
            "read n|readlist a n|for i 0 n:|  for j 0 n - 1:|    if a[j] > a[j + 1]:|      t = a[j]|      a[j] = a[j + 1]"
            "|      a[j + 1] = t|for i 0 n:|  print a[i]"
        ),
        "search": "read n|readlist a n|read x|p = 0 - 1|for i 0 n:|  if a[i] == x and p < 0:|    p = i|print p",
        "power": "read b|read e|r = 1|for i 0 e:|  r = r * b % 10007|print r",
        "divisors": "read n|for d 1 n + 1:|  if n % d == 0:|    print d",
        "collatz": "read n|c = 0|while n > 1:|  if n % 2 == 0:|    n = n // 2|  else:|    n = 3 * n + 1|  c = c + 1|print c",
        "prefix sums": "read n|readlist a n|s = 0|for i 0 n:|  s = s + a[i]|  print s",
        "longest run": (
            "read n|readlist a n|b = 1|c = 1|for i 1 n:|  if a[i] == a[i - 1]:|    c = c + 1|  else:|    c = 1|  if c > b:"
            "|    b = c|print b"
        ),
    },
    "test": {
        "second maximum": (
            "read n|readlist a n|m = 0 - 1|s = 0 - 1|for i 0 n:|  if a[i] > m:|    s = m|    m = a[i]|  else:"
            "|    if a[i] > s:|      s = a[i]|print s"
        ),
        "lcm": "read a|read b|m = a|while m % b != 0:|  m = m + a|print m",
        "digit sum": "read n|s = 0|while n > 0:|  s = s + n % 10|  n = n // 10|print s",
        "palindrome": "read n|m = n|r = 0|while m > 0:|  r = r * 10 + m % 10|  m = m // 10|if r == n:|  print 1|else:|  print 0",
        "sieve": (
            "read n|array p|c = 0|for i 2 n + 1:|  if p[i] == 0:|    c = c + 1|    j = i * 2|    while j <= n:|      p[j] = 1"
            "|      j = j + i|print c"
        ),
        "dot product": "read n|readlist a n|readlist b n|s = 0|for i 0 n:|  s = s + a[i] * b[i]|print s",
        "binary": "read n|array b|k = 0|while n > 0:|  b[k] = n % 2|  n = n // 2|  k = k + 1|for i 0 k:|  print b[k - 1 - i]",
        "selection sort": (
            "read n|readlist a n|for i 0 n:|  m = i|  for j i + 1 n:|    if a[j] > a[m]:|      m = j|  t = a[i]"
            "|  a[i] = a[m]|  a[m] = t|for i 0 n:|  print a[i]"
        ),
        "inversions": "read n|readlist a n|c = 0|for i 0 n:|  for j i + 1 n:|    if a[i] > a[j]:|      c = c + 1|print c",
        "triangle": "read n|for i 1 n + 1:|  s = 0|  for j 1 i + 1:|    s = s + j|  print s",
        "above average": (
            "read n|readlist a n|s = 0|for i 0 n:|  s = s + a[i]|c = 0|for i 0 n:|  if a[i] * n > s:|    c = c + 1|print c"
        ),
        "distinct": (
            "read n|readlist a n|c = 0|for i 0 n:|  q = 1|  for j 0 i:|    if a[j] == a[i]:|      q = 0|  c = c + q|print c"
        ),
    },
}
_PLAIN_NAMES = (
    "value total count number index item result current best first second last temp data list size step flag limit sum2 "
    "answer left right inner outer start stop part piece mark"
)
_CAMEL_NAMES = "myValue theTotal curItem nextOne bestYet tmpVal numItems idxNow outVal inVal flagSet lastSeen cntAll"
_NAMES = {
    "short": list("abcdefghkmnpqrstuvwxyz"),
    "words": _PLAIN_NAMES.split(),
    "numbered": [f"x{number}" for number in range(30)],
    "camel": _CAMEL_NAMES.split(),
}
_COMMENTS = (
    "read the input",
    "main part",
    "result",
    "count up",
    "check",
    "helper",
    "step",
    "as in the lecture",
    "output",
)
_WORDS = re.compile(r"[A-Za-z_]\w*")
_KEPT = {"and", "or", "not"}


def make_programs(split: str, per_task: int, seed: int = 0) -> list[dict[str, Any]]:
    """Programs for small tasks: names, loops, helpers, input and output, comments and language vary, what is computed does not.

    Args:
        split (`str`): `"train"` or `"test"`; their tasks differ.
        per_task (`int`): programs of every task.
        seed (`int`, defaults to 0): of the draws.

    Returns:
        `list[dict]`: `id`, `label` (number of the task), `code` and `language`.

    Example:

    ```python
    >>> from hf_contrastive.data import make_programs
    >>> programs = make_programs("test", per_task=2)
    >>> len(programs), programs[0]["id"], programs[0]["label"] == programs[1]["label"]
    (24, 'second maximum/0', True)

    ```
    """
    if split not in TASKS:
        raise ValueError(f"`split` is {split!r}, but it must be one of {', '.join(TASKS)}.")
    first = 0 if split == "train" else len(TASKS["train"])
    programs = []
    for number, (name, lines) in enumerate(TASKS[split].items()):
        for one in range(per_task):
            draw = random.Random(f"{seed} {name} {one}")
            language = draw.choice(("c", "cpp", "python"))
            code = write_program(lines, language, draw)
            programs.append({"id": f"{name}/{one}", "label": first + number, "code": code, "language": language})
    return programs


def _parse(lines: list[str], depth: int = 0) -> list[tuple]:
    """Lines to nested statements `(kind, words, body, other body)`."""
    found: list[tuple] = []
    while lines:
        indent = (len(lines[0]) - len(lines[0].lstrip())) // 2
        if indent < depth:
            break
        line = lines.pop(0).strip()
        if line == "else:":
            kind, words, body, _ = found.pop()
            found.append((kind, words, body, _parse(lines, depth + 1)))
        elif line.endswith(":"):
            kind, _, rest = line[:-1].partition(" ")
            if kind == "for":
                rest = re.findall(r"(\w+) (\w+(?: \+ \w+)?) (.+)", rest)[0]
            found.append((kind, rest, _parse(lines, depth + 1), []))
        else:
            kind, _, rest = line.partition(" ")
            known = kind in ("read", "readlist", "array", "print")
            found.append((kind, rest, [], []) if known else ("set", tuple(line.split(" = ", 1)), [], []))
    return found


class _Writer:
    """Writes a task in one language, in a style of its own."""

    def __init__(self, task: str, language: str, draw: random.Random) -> None:
        self.language, self.draw = language, draw
        self.statements = _parse(task.split("|"))
        plain = re.sub(r"\b(read|readlist|array|print|for|while|if|else)\b", "", task)
        words = sorted(set(_WORDS.findall(plain)) - _KEPT)
        pool = self.names = draw.sample(_NAMES[draw.choice(list(_NAMES))], k=len(words) + 1)
        self.renamed = dict(zip(words, pool, strict=False))
        self.arrays = set(re.findall(r"(?:readlist|array) (\w+)", task))
        self.scalars = [word for word in words if word not in self.arrays]
        self.style = {name: draw.random() < 0.5 for name in ("while", "short", "helper", "stream", "comments", "swap")}
        self.unit = draw.choice(("\t", "  ", "    "))

    def say(self, text: str) -> str:
        """An expression in the language, with the names of this program."""
        text = _WORDS.sub(lambda m: self.renamed.get(m[0], m[0]), text)
        if self.language != "python":
            text = text.replace("//", "/").replace(" and ", " && ").replace(" or ", " || ")
        return text

    def assign(self, target: str, value: str) -> str:
        left, right = self.say(target), self.say(value)
        match = re.fullmatch(rf"{re.escape(left)} ([+*]) (\w+)", right)
        if match and self.style["short"]:
            if match[1] == "+" and match[2] == "1" and self.language != "python":
                return self.draw.choice((f"{left}++", f"++{left}", f"{left} += 1"))
            return f"{left} {match[1]}= {match[2]}"
        if match and self.style["swap"]:
            right = f"{match[2]} {match[1]} {left}"
        return f"{left} = {right}"

    def block(self, statements: list[tuple], depth: int) -> list[str]:
        lines: list[str] = []
        for statement in statements:
            if self.style["comments"] and self.draw.random() < 0.15:
                mark = "# " if self.language == "python" else "// "
                lines.append(self.unit * depth + mark + self.draw.choice(_COMMENTS))
            lines += self.python(statement, depth) if self.language == "python" else self.brace(statement, depth)
        return lines

    def as_while(self, rest: tuple[str, str, str], body: list[tuple]) -> list[tuple]:
        name, low, high = rest
        step = ("set", (name, f"{name} + 1"), [], [])
        return [("set", (name, low), [], []), ("while", f"{name} < {high}", [*body, step], [])]

    def python(self, statement: tuple, depth: int) -> list[str]:
        kind, rest, body, other = statement
        pad = self.unit * depth
        if kind == "read":
            return [f"{pad}{self.say(rest)} = int({'next_word()' if self.style['helper'] else 'next(words)'})"]
        if kind == "array":
            return [f"{pad}{self.say(rest)} = [0] * 64"]
        if kind == "readlist":
            name, count = (self.say(word) for word in rest.split())
            if self.style["short"]:
                source = "next_word()" if self.style["helper"] else "next(words)"
                return [f"{pad}{name} = [int({source}) for _ in range({count})]"]
            source = "next_word()" if self.style["helper"] else "next(words)"
            return [
                f"{pad}{name} = []",
                f"{pad}for _ in range({count}):",
                f"{pad}{self.unit}{name}.append(int({source}))",
            ]
        if kind == "print":
            return [f"{pad}print({self.say(rest)})"]
        if kind == "set":
            return [pad + self.assign(*rest)]
        if kind == "for":
            if self.style["while"]:
                return self.block(self.as_while(rest, body), depth)
            name, low, high = (self.say(part) for part in rest)
            span = high if low == "0" and self.style["short"] else f"{low}, {high}"
            return [f"{pad}for {name} in range({span}):", *self.block(body, depth + 1)]
        lines = [f"{pad}{kind} {self.say(rest)}:", *self.block(body, depth + 1)]
        return lines + ([f"{pad}else:", *self.block(other, depth + 1)] if other else [])

    def brace(self, statement: tuple, depth: int) -> list[str]:
        kind, rest, body, other = statement
        pad = self.unit * depth
        stream = self.language == "cpp" and self.style["stream"]
        if kind == "read":
            return [f"{pad}cin >> {self.say(rest)};" if stream else f'{pad}scanf("%d", &{self.say(rest)});']
        if kind == "array":
            return []
        if kind == "readlist":
            name, count = (self.say(word) for word in rest.split())
            index = self.names[-1]
            read = f"cin >> {name}[{index}]" if stream else f'scanf("%d", &{name}[{index}])'
            return [f"{pad}for ({index} = 0; {index} < {count}; {index}++)", f"{pad}{self.unit}{read};"]
        if kind == "print":
            return [
                f"{pad}cout << {self.say(rest)} << endl;" if stream else f'{pad}printf("%d\\n", {self.say(rest)});'
            ]
        if kind == "set":
            return [f"{pad}{self.assign(*rest)};"]
        if kind == "for":
            if self.style["while"]:
                return self.block(self.as_while(rest, body), depth)
            name, low, high = (self.say(part) for part in rest)
            head = f"{pad}for ({name} = {low}; {name} < {high}; {self.draw.choice((f'{name}++', f'++{name}'))}) {{"
            return [head, *self.block(body, depth + 1), f"{pad}}}"]
        lines = [f"{pad}{kind} ({self.say(rest)}) {{", *self.block(body, depth + 1), f"{pad}}}"]
        return lines + ([f"{pad}else {{", *self.block(other, depth + 1), f"{pad}}}"] if other else [])

    def write(self) -> str:
        helper = self.style["helper"]
        if self.language == "python":
            lines = ["import sys", "", "words = iter(sys.stdin.read().split())", ""]
            if not helper:
                return "\n".join([*lines, *self.block(self.statements, 0)]) + "\n"
            lines += ["def next_word():", f"{self.unit}return next(words)", "", "def solve():"]
            return "\n".join([*lines, *self.block(self.statements, 1), "", "solve()"]) + "\n"
        stream = self.language == "cpp" and self.style["stream"]
        lines = ["#include <iostream>", "using namespace std;"] if stream else ["#include <stdio.h>"]
        scalars = [self.say(word) for word in [*self.scalars]] + [self.names[-1]]
        self.draw.shuffle(scalars)
        arrays = [
            f"{self.say(word)}[64]{' = {0}' if self.draw.random() < 0.5 or not helper else ''}"
            for word in sorted(self.arrays)
        ]
        arrays = [array if "=" in array else f"{array} = {{0}}" for array in arrays]
        if self.style["short"]:
            declared = [f"int {', '.join([*scalars, *arrays])};"]
        else:
            declared = [f"int {one};" for one in [*arrays, *scalars]]
        body = [self.unit + line for line in declared] + self.block(self.statements, 1)
        if helper:
            lines += [
                "void solve() {",
                *body,
                "}",
                "int main() {",
                f"{self.unit}solve();",
                f"{self.unit}return 0;",
                "}",
            ]
        else:
            lines += ["int main() {", *body, f"{self.unit}return 0;", "}"]
        return "\n".join(lines) + "\n"


def write_program(task: str, language: str, draw: random.Random) -> str:
    """Write a task of [`TASKS`] in a language, in a way that is drawn.

    Args:
        task (`str`): its lines, joined by `|`.
        language (`str`): `"c"`, `"cpp"` or `"python"`.
        draw (`random.Random`): gives the style.
    """
    return textwrap.dedent(_Writer(task, language, draw).write())


__all__ = ["TASKS", "make_programs", "write_program"]
