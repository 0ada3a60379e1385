"""The retrieval lists of ConVIRT, and the script that measures on them."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.dual_encoder_tester import text_encoders
from helpers.testers import image_backbones
from PIL import Image

from hf_contrastive import ConVIRTConfig, ConVIRTForPreTraining, DualEncoderProcessor
from hf_contrastive.data import image_processor, train_word_tokenizer
from hf_contrastive.evaluation import retrieval_metrics
from hf_contrastive.models.convirt.data_convirt import read_retrieval_lists


ROOT = Path(__file__).resolve().parents[3]
LISTS = ROOT.parent / "shared" / "data" / "chexpert_8x200"


@pytest.fixture
def small(tmp_path):
    (tmp_path / "text_retrieval_candidate.csv").write_text(
        "Path,Sex,Edema,Fracture\na.png,Male,1.0,0.0\nb.png,Male,,1.0\nc.png,Female,1.0,-1.0\nd.png,Male,0.0,0.0\n"
    )
    (tmp_path / "image_retrieval_query.csv").write_text("Variable,Path\nEdema,e.png\nFracture,f.png\n")
    (tmp_path / "text_retrieval_query.csv").write_text(
        "Variable,Text\nFracture,A rib is broken.\nEdema,There is edema.\n"
    )
    return tmp_path


def test_small_lists(small):
    lists = read_retrieval_lists(small)
    assert lists.categories == ("Edema", "Fracture")
    # an empty field and an uncertain one (-1) are not relevant
    assert lists.relevant.tolist() == [[1, 0], [0, 1], [1, 0], [0, 0]]
    assert lists.image_categories.tolist() == [0, 1]
    assert lists.text_queries == ("A rib is broken.", "There is edema.")
    (small / "text_retrieval_query.csv").write_text("Variable,Text\nPneumonia,Something.\n")
    with pytest.raises(ValueError, match=r"the queries name Pneumonia, but .* has no such column"):
        read_retrieval_lists(small)
    (small / "text_retrieval_query.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"text_retrieval_query.csv is missing"):
        read_retrieval_lists(small)


def test_the_published_lists():
    if not LISTS.is_dir():
        pytest.skip("the lists of CheXpert 8x200 are not part of the project")
    lists = read_retrieval_lists(LISTS)
    assert (len(lists.candidates), len(lists.image_queries), len(lists.text_queries)) == (1600, 80, 40)
    assert len(lists.categories) == 8
    assert np.bincount(lists.image_categories).tolist() == [10] * 8
    assert (lists.relevant.sum(0) >= 200).all()
    # a model that knows the categories finds nothing but relevant images
    options = {
        "query_labels": lists.text_categories,
        "gallery_labels": lists.relevant,
        "ks": (),
        "precision_ks": (5, 50),
    }
    perfect = retrieval_metrics(np.eye(8)[lists.text_categories], lists.relevant.astype(float), **options)
    assert perfect["precision@50"] > 0.9
    rng = np.random.default_rng(0)
    blind = retrieval_metrics(rng.normal(size=(40, 16)), rng.normal(size=(1600, 16)), **options)
    assert blind["precision@50"] < 0.3


def test_the_script(small, monkeypatch, capsys):
    torch.manual_seed(0)
    options = {"text_config": text_encoders()["bert"], "vision_config": image_backbones()["conv_encoder"]}
    ConVIRTForPreTraining(ConVIRTConfig(**options, projection_dim=8)).save_pretrained(small / "model")
    tokenizer = train_word_tokenizer(["A rib is broken. There is edema."], max_length=12)
    DualEncoderProcessor(image_processor(16), tokenizer).save_pretrained(small / "model")
    words = ["evaluate_chexpert.py", str(small / "model"), "--lists", str(small), "--images", str(small)]
    monkeypatch.setattr(sys, "argv", words)
    path = str(ROOT / "recipes" / "convirt" / "evaluate_chexpert.py")
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(path, run_name="__main__")
    assert stopped.value.code == 2
    assert "6 of 6 images are not there" in capsys.readouterr().err
    for shade, name in enumerate("abcdef"):
        Image.new("L", (20, 20), 40 * shade).save(small / f"{name}.png")
    module = runpy.run_path(path)
    module["main"].__globals__["KS"] = (1, 2)
    module["main"]()
    said = capsys.readouterr().out
    assert "image to image" in said
    assert "text to image" in said
    assert "4 candidates, 2 images, 2 sentences" in said
