"""Transcripts: what is read, what lies around a time, where clips are cut."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from hf_contrastive.data.transcripts import (
    mil_candidates,
    overlapping_sentences,
    pick_frames,
    read_transcript,
    sample_clip,
    widen_span,
)


REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "surgical_narrations"


def write(path, *rows: str, head: str = "start,end,text"):
    path.write_text("\n".join((head, *rows)) + "\n", encoding="utf-8")
    return path


def test_bad_rows_are_left_out_and_counted(tmp_path):
    rows = (
        "0.0,4.0,good",
        "5,4,ends before it starts",
        "nan,9,no start",
        ",9,no start",
        "6,inf,no end",
        "7,8,",
        "8,8,a moment",
    )
    path = write(tmp_path / "v.csv", *rows)
    with pytest.warns(UserWarning, match=r"v.csv: 5 of 7 rows left out"):
        found = read_transcript(path)
    assert found.texts == ("good", "a moment")
    assert found.starts.tolist() == [0.0, 8.0]
    counts: dict[str, int] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            read_transcript(path, counts=counts)
    assert counts == {"rows": 14, "skipped": 10}


def test_files_without_sentences_and_wrong_files(tmp_path):
    (tmp_path / "nothing.csv").write_text("")
    assert len(read_transcript(tmp_path / "nothing.csv")) == 0
    assert len(read_transcript(write(tmp_path / "head.csv"))) == 0
    # a mark of the encoding, further columns, a comma inside a text
    path = write(tmp_path / "more.csv", '0,1,step,"one, two"', head="﻿start,end,step,text")
    assert read_transcript(path).texts == ("one, two",)
    with pytest.raises(ValueError, match=r"has no column end, text; it has start, stop, what"):
        read_transcript(write(tmp_path / "other.csv", "0,1,x", head="start,stop,what"))
    with pytest.raises(FileNotFoundError, match=r"does not exist; expected a .csv with the columns start, end, text"):
        read_transcript(tmp_path / "absent.csv")


def test_candidates_keep_order_and_repeats():
    starts, ends = [0, 3, 5, 7, 20], [3, 5, 7, 12, 30]
    # covers the start: 0 and 1; inside: 1 and 2; covers the end: 2 and 3
    assert overlapping_sentences(starts, ends, 3, 7) == [0, 1, 1, 2, 2, 3]
    assert mil_candidates(starts, ends, 3, 7, 2) == [0, 1]
    assert mil_candidates(starts, ends, 13, 14, 2) == [-1, -1]
    assert mil_candidates(starts, ends, 21, 22, 3, anchor=99) == [4, 4, 99]
    assert mil_candidates([], [], 0, 4, 2) == [-1, -1]
    with pytest.raises(ValueError, match="`num_texts` is 0"):
        mil_candidates(starts, ends, 0, 1, 0)


def test_clips_lie_inside_their_span():
    rng = np.random.default_rng(0)
    for _ in range(500):
        start, length = rng.uniform(0, 50), rng.uniform(0, 20)
        span = widen_span(start, start + length)
        assert span[0] >= 0
        assert span[1] - span[0] >= min(4.0, max(length, 4.0)) - 1e-9
        first, seconds = sample_clip(*span, rng.random(2))
        assert 3 <= seconds <= 5
        assert int(span[0]) <= first <= max(int(span[0]), int(span[1]) - seconds)
    drawn = {sample_clip(0, 20, draws) for draws in rng.random((4000, 2))}
    assert {length for _, length in drawn} == {3, 4, 5}
    assert {start for start, length in drawn if length == 4} == set(range(17))
    with pytest.raises(ValueError, match="`lengths` is"):
        sample_clip(0, 4, (0, 0), (5, 3))


def test_frames_are_even_and_the_last_one_is_repeated():
    assert pick_frames(8, 4) == [0, 2, 4, 6]
    assert pick_frames(11, 4) == [0, 2, 4, 6]
    assert pick_frames(1, 3) == [0, 0, 0]
    assert pick_frames(3, 4) == [0, 1, 2, 2]
    with pytest.raises(ValueError, match="cannot take 4 frames of 0"):
        pick_frames(0, 4)


@pytest.mark.skipif(not REAL.is_dir(), reason="the narrations are not part of the project; they lie in ../shared/data")
def test_real_transcripts():
    counts: dict[str, int] = {}
    names = sorted(path.name for path in (REAL / "aws_narration_texts").glob("*.csv"))
    aws, whisper = (
        [read_transcript(REAL / f"{kind}_narration_texts" / name, counts=counts) for name in names]
        for kind in ("aws", "whisper")
    )
    assert sum(map(len, aws)) + sum(map(len, whisper)) == counts["rows"] - counts["skipped"] == 517
    # nearly every sentence of the one finds some of the other
    found = [
        overlapping_sentences(other.starts, other.ends, *widen_span(start, end))
        for one, other in zip(aws, whisper, strict=True)
        for start, end in zip(one.starts, one.ends, strict=True)
    ]
    assert sum(bool(one) for one in found) > 0.95 * len(found)
