"""Label files, prompts and the map of triplets of surgical videos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hf_contrastive.evaluation import group_maxima
from hf_contrastive.models.surgvlp.data_surgvlp import (
    COMPONENTS,
    PHASES,
    default_prompts,
    read_bits,
    read_phases,
    read_prompts,
    read_triplet_map,
    triplet_prompts,
)


REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "surgical_narrations"
needs_real = pytest.mark.skipif(
    not REAL.is_dir(), reason="the label files are not part of the project; they lie in ../shared/data"
)


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_phases_are_read_with_the_offset_of_the_files(tmp_path):
    frames = touch(tmp_path / "frames", "video01_1.png", "video01_2.png")
    table = tmp_path / "video01.csv"
    table.write_text("path,label\nvideo01_0.png,1\nvideo01_1.png,11\n")
    found = read_phases(table, frames)
    assert found.video == "video01"
    assert [path.name for path in found.paths] == ["video01_1.png", "video01_2.png"]
    assert found.labels.tolist() == [1, 11]
    with pytest.raises(FileNotFoundError, match=r"1 of 2 frames are not there, the first is .*video01_0.png"):
        read_phases(table, frames, offset=0)
    table.write_text("path,label\nvideo01.png,1\n")
    with pytest.raises(ValueError, match=r"row 0: 'video01.png', '1'; expected <video>_<number>.png"):
        read_phases(table, frames)
    table.write_text("file,label\nvideo01_0.png,1\n")
    with pytest.raises(ValueError, match="has no column path; it has file, label"):
        read_phases(table, frames)
    with pytest.raises(FileNotFoundError, match="columns path, label"):
        read_phases(tmp_path / "absent.csv", frames)


def test_bits_are_read_with_the_numbers_of_their_frames(tmp_path):
    frames = touch(tmp_path / "frames", "VID01/000000.png", "VID01/000007.png")
    table = tmp_path / "VID01.txt"
    table.write_text("0,0,1,0\n7,1,1,0\n")
    found = read_bits(table, frames)
    assert found.labels.tolist() == [[0, 1, 0], [1, 1, 0]]
    assert [path.name for path in found.paths] == ["000000.png", "000007.png"]
    for text in ("0,0,1\n7,1\n", "0,0,2\n", "0,a\n", ""):
        table.write_text(text)
        with pytest.raises(ValueError, match=r"holds other lines than frame,b1,...,bC"):
            read_bits(table, frames)
    table.write_text("0,1\n")
    with pytest.raises(FileNotFoundError, match=r"the first is .*VID01_0.jpg"):
        read_bits(table, frames, pattern="{video}_{frame}.jpg")


def test_prompts_come_in_the_order_of_the_labels(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("first thing\n\n second: thing \n")
    assert read_prompts(path) == ["first thing", "second: thing"]
    path.write_text("1:b\n0: a\n")
    assert read_prompts(path) == ["a", "b"]
    path.write_text("1:b\n2:c\n")
    with pytest.raises(ValueError, match="numbers are not those from 0 to 1"):
        read_prompts(path)
    path.write_text(" \n")
    with pytest.raises(ValueError, match="is empty"):
        read_prompts(path)
    assert [len(default_prompts("phase", name)) for name in PHASES] == [7, 7]
    assert [len(default_prompts(kind)) for kind in COMPONENTS] == [6, 10, 15]
    assert default_prompts("target")[-1] == "an instrument works on nothing"
    with pytest.raises(ValueError, match="no prompts for the phases of 'm2cai', only for cholec80, autolaparo"):
        default_prompts("phase", "m2cai")


def test_components_of_triplets(tmp_path):
    path = tmp_path / "maps.txt"
    path.write_text("# IVT, I, V, T, IV, IT\n1,0,2,1,2,1\n0,0,2,0,2,0\n2,5,9,14,59,89\n")
    table = read_triplet_map(path)
    assert table.tolist() == [[0, 2, 0], [0, 2, 1], [5, 9, 14]]
    assert triplet_prompts(table)[0] == "the surgeon uses the grasper to dissect the gallbladder"
    assert triplet_prompts(table)[2] == "the surgeon uses the irrigator to do nothing"
    pairs = table[:, 0] * 10 + table[:, 1]
    assert group_maxima([[0.1, 0.6, 0.3]], pairs).tolist() == [[0.6, 0.3]]
    assert group_maxima(np.array([[0, 1, 0], [0, 0, 0]]), pairs).tolist() == [[1, 0], [0, 0]]
    with pytest.raises(ValueError, match=r"expected \[frames, classes\] and \[classes\]"):
        group_maxima([[0.1, 0.6]], pairs)
    path.write_text("0,0,2,0\n0,0,2,1\n")
    with pytest.raises(ValueError, match="name every triplet from 0 on once"):
        read_triplet_map(path)


@needs_real
def test_real_label_files(tmp_path):
    table = REAL / "cholec80_phase" / "video49.csv"
    rows = len(table.read_text().splitlines()) - 1
    frames = touch(tmp_path, *(f"video49_{number + 1}.png" for number in range(rows)))
    found = read_phases(table, frames)
    assert set(found.labels.tolist()) == set(range(1, 8))
    assert len(read_prompts(REAL / "prompts" / "class_prompt_cholec80_manual.txt")) == 7
    assert len(read_prompts(REAL / "prompts" / "cholec_triplet.txt")) == 100
    touch(tmp_path, *(f"VID10/{number:06d}.png" for number in range(1750)))
    for kind, classes in (("instrument", 6), ("verb", 10), ("target", 15), ("triplet", 100)):
        assert read_bits(REAL / "cholect50_labels" / kind / "VID10.txt", tmp_path).labels.shape == (1750, classes)
