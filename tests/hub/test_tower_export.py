"""Dual encoders for other programs: the same vectors there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.dual_encoder_tester import text_encoders
from helpers.testers import image_backbones

from hf_contrastive import ConVIRTConfig, ConVIRTModel, DualEncoderProcessor
from hf_contrastive.data import image_processor, train_word_tokenizer
from hf_contrastive.hub import export_onnx, export_sentence_transformers
from hf_contrastive.modules.lora import add_lora


TEXTS = ["a red cat", "dog", "a blue dog and a red cat and more words than that", "red"]


def build(**fields) -> tuple[ConVIRTModel, DualEncoderProcessor]:
    torch.manual_seed(0)
    options = {
        "vision_config": image_backbones()["conv_encoder"],
        "text_config": text_encoders()["bert"],
        "projection_dim": 8,
        "freeze_text_layers": 0,
    }
    model = ConVIRTModel(ConVIRTConfig(**{**options, **fields})).eval()
    tokenizer = train_word_tokenizer([*TEXTS, "a red cat"], max_length=8, mark_ends=True)
    return model, DualEncoderProcessor(image_processor(16), tokenizer)


@pytest.mark.parametrize("pooling", ["max", "mean", "cls", "last"])
def test_sentence_transformers_gives_the_same_vectors(pooling, tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers", reason="the package is optional")
    model, processor = build(text_pooling=pooling)
    # as a checkpoint brings it: its tokenizer knows of both sides
    processor.save_pretrained(tmp_path / "saved")
    processor = DualEncoderProcessor.from_pretrained(tmp_path / "saved")
    export_sentence_transformers(model, tmp_path / "st", processor)
    opened = sentence_transformers.SentenceTransformer(str(tmp_path / "st"), device="cpu")
    with pytest.warns(UserWarning, match="longer than 8 tokens"):
        expected = model.encode(**processor(text=TEXTS))
    found = torch.tensor(opened.encode(TEXTS, show_progress_bar=False))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_adapters_are_merged_into_the_export(tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers", reason="the package is optional")
    model, processor = build()
    adapted = add_lora(model, r=2).eval()
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    expected = adapted.encode(**processor(text=TEXTS[:2]))
    export_sentence_transformers(adapted, tmp_path / "st", processor)
    opened = sentence_transformers.SentenceTransformer(str(tmp_path / "st"), device="cpu")
    found = torch.tensor(opened.encode(TEXTS[:2], show_progress_bar=False))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_pooling_that_the_other_program_lacks_is_refused(tmp_path):
    model, processor = build(text_pooling="pooler")
    with pytest.raises(ValueError, match=r"pools texts by 'pooler', which sentence-transformers cannot; export ONNX"):
        export_sentence_transformers(model, tmp_path / "st", processor)
    assert not (tmp_path / "st").exists()


@pytest.mark.parametrize("vision", ["conv_encoder", "vit"])
def test_onnx_graphs_give_the_same_vectors(vision, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="the package is optional")
    model, processor = build(vision_config=image_backbones()[vision])
    paths = export_onnx(model, tmp_path / "onnx", processor)
    assert [path.name for path in paths] == ["image.onnx", "text.onnx"]
    assert (tmp_path / "onnx" / "processor_config.json").is_file()
    sessions = [onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]) for path in paths]
    # other sizes than those it was traced with
    pixels = torch.rand(5, 3, 16, 16)
    (found,) = sessions[0].run(None, {"pixel_values": pixels.numpy()})
    np.testing.assert_allclose(found, model.encode(pixels).numpy(), rtol=1e-4, atol=1e-5)
    for texts in (TEXTS[:1], [TEXTS[0], TEXTS[1], TEXTS[3]]):
        inputs = processor(text=texts)
        (found,) = sessions[1].run(None, {name: inputs[name].numpy() for name in ("input_ids", "attention_mask")})
        np.testing.assert_allclose(found, model.encode(**inputs).numpy(), rtol=1e-4, atol=1e-5)


def test_a_graph_that_differs_is_not_kept(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime", reason="the package is optional")
    from hf_contrastive.hub import tower_export

    model, processor = build()
    real = tower_export._TextSide.forward
    calls = []

    def drifting(self, input_ids, attention_mask):
        calls.append(1)
        return real(self, input_ids, attention_mask) + 0.5 * (len(calls) > 1 and not torch.compiler.is_compiling())

    monkeypatch.setattr(tower_export._TextSide, "forward", drifting)
    with pytest.raises(RuntimeError, match=r"the graph of the text side differs from the model by 0\.5"):
        export_onnx(model, tmp_path / "onnx", processor, parts=["text"])
    assert not (tmp_path / "onnx").exists()
    with pytest.raises(ValueError, match=r"`parts` is \['sound'\], expected image, text or both"):
        export_onnx(model, tmp_path / "onnx", processor, parts=["sound"])
