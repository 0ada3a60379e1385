"""`hf-contrastive export`: what other programs open gives the same vectors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.dual_encoder_tester import text_encoders
from helpers.testers import image_backbones
from transformers import AutoModel

from hf_contrastive import ConVIRTConfig, ConVIRTForPreTraining, DualEncoderProcessor
from hf_contrastive.data import image_processor, train_word_tokenizer


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    options = {"text_config": text_encoders()["bert"], "vision_config": image_backbones()["vit"]}
    ConVIRTForPreTraining(ConVIRTConfig(**options, projection_dim=8)).save_pretrained("pair")
    tokenizer = train_word_tokenizer(["a red cat and a blue dog"], max_length=12)
    DualEncoderProcessor(image_processor(16), tokenizer).save_pretrained("pair")


def test_backbone(call, checkpoint):
    called = call("export", checkpoint, "encoder")
    assert called.code == 0, called.err
    assert "from_pretrained" in called.out
    assert (
        AutoModel.from_pretrained("encoder").config.model_type
        == AutoModel.from_pretrained(checkpoint).backbone.config.model_type
    )
    called = call("export", "pair", "vision", "--part", "vision_model")
    assert called.code == 0, called.err
    model = AutoModel.from_pretrained("pair")
    pixels = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        expected = model.vision_model(pixels).last_hidden_state
        assert torch.equal(
            AutoModel.from_pretrained("vision", add_pooling_layer=False)(pixels).last_hidden_state, expected
        )


def test_sentence_transformers(call):
    sentence_transformers = pytest.importorskip("sentence_transformers", reason="the package is optional")
    called = call("export", "pair", "st", "--to", "sentence-transformers")
    assert called.code == 0, called.err
    found = sentence_transformers.SentenceTransformer("st", device="cpu").encode(
        ["a red dog"], show_progress_bar=False
    )
    from transformers import AutoProcessor

    expected = AutoModel.from_pretrained("pair").encode(**AutoProcessor.from_pretrained("pair")(text="a red dog"))
    torch.testing.assert_close(torch.tensor(found), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("pair", "x"), 1, "has the encoders vision_model, text_model"),
        (("pair", "x", "--to", "coreml"), 2, "type one of backbone, sentence-transformers, onnx"),
        (("pair", "x", "--to", "onnx", "--part", "text_model"), 2, "leave it out with --to onnx"),
        (("pair", "pair"), 1, "pair exists; nothing was written"),
    ],
)
def test_refusals(call, words, code, said):
    called = call("export", *words)
    assert called.code == code
    assert said in called.err
    assert not Path("x").exists()


def test_a_model_without_texts_has_no_text_export(call, checkpoint):
    called = call("export", checkpoint, "x", "--to", "sentence-transformers")
    assert called.code == 1
    assert "has no text encoder; type --to backbone" in called.err
