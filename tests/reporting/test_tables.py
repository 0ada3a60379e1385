"""Tables: alignment, numbers, terminal and pipe, silence off the main process."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
import torch

from hf_contrastive.reporting import format_table, markdown_table, metrics_table, run_table, say
from hf_contrastive.reporting.tables import format_value


ROWS = [
    {"encoder": "raw pixels", "knn": 0.95, "k": 20},
    {"encoder": "SimCLR [red]x[/red]", "knn": np.float32(0.5), "k": None, "interval": (0.4, 0.6)},
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("RANK", "NO_COLOR", "FORCE_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "100")


def test_plain_table_is_aligned():
    assert format_table(ROWS, title="digits") == "\n".join(
        [
            "digits",
            "encoder                 knn   k          interval",
            "-------------------  ------  --  ----------------",
            "raw pixels           0.9500  20                 -",
            "SimCLR [red]x[/red]  0.5000   -  0.4000 to 0.6000",
        ]
    )
    assert format_table([], ["a", "b"]).splitlines()[-1] == "(no rows)"


def test_columns_choose_and_order():
    assert format_table(ROWS, ["k", "encoder"]).splitlines()[0].split() == ["k", "encoder"]
    with pytest.raises(
        ValueError, match="`columns` names loss, which no row has; the rows have encoder, knn, k, interval"
    ):
        format_table(ROWS, ["loss"])
    with pytest.raises(TypeError, match="`rows` holds a list; expected a dictionary a row"):
        format_table([["a"]])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.123456, "0.1235"),
        (12.3456, "12.35"),
        (12345.6, "12346"),
        (1e-5, "1e-05"),
        (0.0, "0.0000"),
        (float("nan"), "nan"),
        (True, "yes"),
        (None, "-"),
        (np.int64(7), "7"),
        (torch.tensor(0.25), "0.2500"),
        ("two\nlines", "two lines"),
    ],
)
def test_format_value(value, text):
    assert format_value(value) == text


def test_markdown_escapes_and_aligns():
    lines = markdown_table([{"command": "a | b", "accuracy": 0.5}]).splitlines()
    assert lines == ["| command | accuracy |", "|---|---:|", "| a \\| b | 0.5000 |"]


def test_pipe_gets_plain_text_and_terminal_gets_rich(monkeypatch):
    pipe, terminal = io.StringIO(), Terminal()
    text = metrics_table(ROWS, title="digits", file=pipe)
    assert pipe.getvalue() == text + "\n"
    assert metrics_table(ROWS, title="digits", file=terminal) == text
    drawn = terminal.getvalue()
    assert "┃" in drawn
    assert "\x1b[1m" in drawn  # bold
    assert "[red]x[/red]" in drawn  # a cell is not markup
    monkeypatch.setenv("NO_COLOR", "1")
    quiet = Terminal()
    metrics_table(ROWS, file=quiet)
    assert not any(f"\x1b[{code}" in quiet.getvalue() for code in ("3", "9", "4"))
    monkeypatch.setenv("TERM", "dumb")
    dumb = Terminal()
    metrics_table(ROWS, title="digits", file=dumb)
    assert dumb.getvalue() == text + "\n"


def test_only_the_main_process_talks(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    say("hello")
    text = metrics_table(ROWS)
    run_table({"model": "SimCLR"})
    assert capsys.readouterr().out == ""
    assert "raw pixels" in text
    monkeypatch.setenv("RANK", "0")
    say("hello", 3)
    assert capsys.readouterr().out == "hello 3\n"


def test_run_table():
    out = io.StringIO()
    text = run_table([("model", "SimCLR"), ("negatives per anchor", 126), ("lr", 0.1)], title="Run", file=out)
    assert out.getvalue() == text + "\n"
    assert text.splitlines() == [
        "Run",
        "  model                 SimCLR",
        "  negatives per anchor  126",
        "  lr                    0.1000",
    ]


def test_a_table_needs_neither_torch_nor_matplotlib():
    code = (
        "import sys; from hf_contrastive.reporting import format_table, read_run, say; say(format_table([{'a': 1}]));"
        "sys.exit(any(name in sys.modules for name in ('torch', 'matplotlib')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True)
