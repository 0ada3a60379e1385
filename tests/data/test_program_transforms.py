"""Disguises of programs do not change what they do: programs are compiled and run before and after."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys

import pytest

from hf_contrastive.data import ProgramAugmenter
from hf_contrastive.data.program_tasks import TASKS, write_program
from hf_contrastive.data.program_transforms import TRANSFORMS


C_PROGRAM = r"""
#include <stdio.h>
#include <string.h>
#define N 20
#define SQ(x) ((x)*(x))
typedef struct { int a; char name[10]; } rec;
int count = 0;
static int helper(int *p, int n); /* prototype */
static int helper(int *p, int n) { // sum
  int s = 0, i;
  for (i = 0; i < n; i++) { if (p[i] % 3 == 0) continue; s += p[i]; }
  return s;
}
int main(int argc, char **argv) {
  int data[N]; int k = 5; int q; char c = 'x'; rec r;
  r.a = 3; strcpy(r.name, "ab//c");
  for (int i = 0; i < N; ++i) data[i] = SQ(i) - k; // fill
  if (helper(data, N) > 100) printf("big %d\n", helper(data, N)); else { printf("small\n"); }
  if (k == 1) puts("one"); else if (k == 5) puts("five"); else puts("other");
  q = 0;
  while (q < 3) { switch (q) { case 0: puts("zero"); break; case 1: puts("uno"); default: count += q; } q++; }
  do { q--; } while (q > 0);
  for (;;) { if (++q > 4) break; }
  for (q = 0; q < 2; q++) for (int j = 0; j < 2; j++) { int q2 = q * 2 + j; printf("%d%c", q2, c); }
  int a = 1, b = 2; unsigned int z = 7; double d = .5;
  printf("%d %d %u %.2f %d %s %d\n", a - -b, a+++b, z, d, r.a, r.name, count);
  goto end;
end:
  return 0;
}
"""
CPP_PROGRAM = r"""
#include <iostream>
#include <vector>
#include <string>
#include <map>
#include <algorithm>
using namespace std;
struct P { int x, y; P(int x0, int y0) : x(x0), y(y0) {} int sum() const { return x + y; } };
template <class T> T twice(T v) { return v + v; }
bool cmp(const P& l, const P& r) { return l.sum() < r.sum(); }
int gcd(int a, int b) { return b ? gcd(b, a % b) : a; }
int main() {
  vector<vector<int>> grid(3, vector<int>(4, 1));
  vector<P> ps; ps.push_back(P(3, 4)); ps.push_back(P(1, 1));
  sort(ps.begin(), ps.end(), cmp);
  int total = 0; map<string, int> seen; // words
  for (auto& row : grid) for (auto v : row) total += v;
  for (size_t i = 0; i < ps.size(); i++) { if (ps[i].x > 2) { total += 10; } else { total += 100; } }
  seen["a b"]++; seen["c"] += 2;
  auto f = [&](int w) { return w + total; };
  int arr[3] = {1, 2, 3}; int *ptr = arr; int& ref = arr[1]; ref = 9;
  cout << total << ' ' << f(2) << ' ' << twice(gcd(12, 18)) << ' ' << seen["c"] << ' ' << *(ptr + 1) << endl;
  string s = R"(raw "text" // no comment)"; cout << s << "/* no */" << endl;
  int n = 4; while (n-- > 0) { if (n == 2) continue; cout << n << (n > 1 ? "," : ";"); }
  for (int i = 0, j = 5; i < j; i++, j--) cout << i * j << ' ';
  cout << endl;
  return 0;
}
"""
PYTHON_PROGRAM = r'''#!/usr/bin/env python
# coding: utf-8
import sys
from collections import Counter


class Box:
    size = 3

    def __init__(self, items, *, limit=2):
        self.items = items  # keep
        self.limit = limit

    def total(self):
        s = 0
        for i in range(len(self.items)):
            s += self.items[i]
            if s > 100:
                break
        return s


def gcd(a, b):
    """Docstring
    stays as it is."""
    while b:
        a, b = b, a % b
    return a


def evens(n, step=1):
    for k in range(0, n, step):
        if k % 2:
            continue
        yield k


first = 1
second = "two # no comment"
values = [3, 1, 2]
if first > 0:
    label = "yes"
else:
    label = "no"
box = Box(values, limit=5)
text = f"{label}:{box.total()}"
i = 3
while i > 0:
    i -= 1
    if i == 1:
        continue
    print(i, end=" ")
else:
    print("done")
n = 10
for j in range(n):
    n = 2
    if j > 3:
        break
print(j, n, text, second, gcd(12, 18), list(evens(7, step=1)))
print({x: y for x, y in zip(values, [a * 2 for a in values])}, (lambda q: q + first)(2))
long = ("a"
        "b")
print(long, Counter(values).most_common(1), box.limit)
def outer():
    c = 0
    def inner():
        nonlocal c
        c += 1
        return c
    inner()
    return inner()
print(outer())
'''
COMPILERS = {"c": "gcc", "cpp": "g++"}


def run(code: str, language: str, folder, typed: str = "") -> str:
    """What the program prints."""
    if language == "python":
        (folder / "program.py").write_text(code)
        words = [sys.executable, str(folder / "program.py")]
    else:
        source = folder / f"program.{language}"
        source.write_text(code)
        words = [str(folder / "program")]
        made = subprocess.run(
            [COMPILERS[language], "-w", "-O0", str(source), "-o", words[0]], capture_output=True, text=True
        )
        assert made.returncode == 0, f"{made.stderr[:2000]}\n{code}"
    done = subprocess.run(words, input=typed, capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, f"{done.stderr[-2000:]}\n{code}"
    return done.stdout


def skip_without(language: str) -> None:
    if language in COMPILERS and shutil.which(COMPILERS[language]) is None:
        pytest.skip(f"{COMPILERS[language]} is not installed, so nothing can be compiled")


PROGRAMS = {"c": C_PROGRAM, "cpp": CPP_PROGRAM, "python": PYTHON_PROGRAM}


@pytest.mark.parametrize("language", list(PROGRAMS))
def test_a_tricky_program_prints_the_same(language, tmp_path):
    skip_without(language)
    code = PROGRAMS[language]
    expected = run(code, language, tmp_path)
    for seed in range(1 if language == "cpp" else 3):  # compiling headers takes seconds
        augmenter = ProgramAugmenter(probability=1.0, seed=seed)
        changed = augmenter(code, language)
        assert run(changed, language, tmp_path) == expected


@pytest.mark.parametrize("name", TRANSFORMS)
def test_each_transformation_does_something_and_no_harm(name, tmp_path):
    augmenter = ProgramAugmenter([name], probability=1.0)
    changed = {language: augmenter(code, language, 3) for language, code in PROGRAMS.items()}
    # of the C++ program no two neighbouring declarations are plain enough
    expected = {"c", "python"} if name == "reorder_declarations" else set(PROGRAMS)
    assert {language for language, code in PROGRAMS.items() if changed[language] != code} == expected
    assert run(changed["python"], "python", tmp_path) == run(PYTHON_PROGRAM, "python", tmp_path)


def test_small_tasks_print_the_same(tmp_path):
    """Tasks of the library in a language each, written anew and rewritten."""
    for number, (name, task) in enumerate(list(TASKS["train"].items())[::4] + list(TASKS["test"].items())[::4]):
        language = ("python", "c", "cpp")[number % 3]
        if language != "python" and shutil.which(COMPILERS[language]) is None:
            continue
        typed = "5 3 9 4 4 1 6 2 5 8 7" if "readlist" in task else "12 18"
        code = write_program(task, language, random.Random(number))
        # python shows what the task is, whatever the language of the program
        expected = run(write_program(task, "python", random.Random(0)), "python", tmp_path, typed)
        assert run(code, language, tmp_path, typed) == expected, name
        changed = ProgramAugmenter(probability=0.7, seed=number)(code, language)
        assert run(changed, language, tmp_path, typed) == expected, changed


def test_the_same_number_gives_the_same_program():
    augmenter = ProgramAugmenter(seed=4)
    assert augmenter(CPP_PROGRAM, "cpp", (7, 1)) == augmenter(CPP_PROGRAM, "cpp", (7, 1))
    assert len({augmenter(CPP_PROGRAM, "cpp", number) for number in range(6)}) > 3
    assert ProgramAugmenter([], 1.0)(C_PROGRAM, "c") == C_PROGRAM


@pytest.mark.parametrize(
    ("code", "language", "name"),
    [
        ("int main() { for (int i = 0; i < 3; i++) { if (i) continue; } }", "c", "change_loops"),
        ("#define GO continue\nint main() { for (int i = 0; i < 3; i++) { GO; } }", "c", "change_loops"),
        ("#define SHOW(x) puts(#x)\nint main() { int a = 1; SHOW(a); }", "c", "rename"),
        ("struct s { int a; }; int main() { struct s a; a.a = 1; return a.a; }", "c", "rename"),
        ("int main() { int a = f(), b = g(); int c = h(); }", "c", "reorder_declarations"),
        ("int main( { broken", "cpp", "rename"),
        ("x = 1\nprint(eval('x'))\n", "python", "rename"),
        ("def f(a):\n    return a\nprint(f(a=1))\n", "python", "rename"),
        ("for i in items:\n    print(i)\n", "python", "change_loops"),
        ("if a:\n    b\nelif c:\n    d\nelse:\n    e\n", "python", "swap_branches"),
    ],
)
def test_what_would_change_a_program_is_left_alone(code, language, name):
    changed = ProgramAugmenter([name], 1.0)(code, language)
    kept = code if "f(a=1)" not in code and "a.a" not in code else None
    if kept is None:  # other names may change
        assert "a=1" in changed or ".a" in changed
    else:
        assert changed == code


def test_refusals():
    with pytest.raises(ValueError, match="`transforms` has 'shuffle'"):
        ProgramAugmenter(["shuffle"])
    with pytest.raises(ValueError, match="`probability` is 2"):
        ProgramAugmenter(probability=2)
    with pytest.raises(ValueError, match="`language` is 'java'"):
        ProgramAugmenter()("class A {}", "java")
