"""Dual encoders: building on trained encoders, freezing, pipelines of transformers, what is refused."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from helpers.dual_encoder_tester import VOCABULARY, clip_vision, random_texts, text_encoders
from helpers.testers import image_backbones, random_images
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
    AutoTokenizer,
    BertModel,
    CLIPConfig,
    CLIPModel,
    ViTModel,
    pipeline,
)

from hf_contrastive import ConVIRTConfig, ConVIRTForPreTraining, ConVIRTModel, DualEncoderProcessor
from hf_contrastive.data import image_processor, train_word_tokenizer
from hf_contrastive.families.dual_encoder.modeling_dual_encoder import DualEncoderForPreTraining
from hf_contrastive.hub import export_backbone
from hf_contrastive.losses import clip_loss
from hf_contrastive.modules.lora import add_lora, lora_targets
from hf_contrastive.training import cached_backward


def tiny(**fields) -> ConVIRTConfig:
    options = {
        "vision_config": image_backbones()["conv_encoder"],
        "text_config": text_encoders()["bert"],
        "projection_dim": 8,
        "freeze_text_layers": 0,
        "freeze_text_embeddings": False,
    }
    return ConVIRTConfig(**{**options, **fields})


def pairs(batch: int = 4, seed: int = 0) -> dict[str, torch.Tensor]:
    return {"pixel_values": random_images(batch, 3, 16, 16, seed=seed), **random_texts(batch, seed)}


def clip_pair() -> CLIPModel:
    torch.manual_seed(3)
    config = CLIPConfig(
        vision_config=clip_vision().to_dict(),
        text_config=text_encoders()["clip_text_model"].to_dict(),
        projection_dim=8,
    )
    return CLIPModel(config).eval()


class LinearPair(DualEncoderForPreTraining):
    """A system with CLIP's own projections."""

    config: ConVIRTConfig


class LinearConfig(ConVIRTConfig):
    model_type = "linear_pair"
    projection_layers = 1
    projection_bias = False


LinearPair.config_class = LinearConfig


# ---- starting from trained encoders ----


def test_towers_keep_their_weights(tmp_path):
    torch.manual_seed(0)
    vision, text = ViTModel(image_backbones()["vit"]), BertModel(text_encoders()["bert"])
    vision.save_pretrained(tmp_path / "vision")
    text.save_pretrained(tmp_path / "text")
    inputs = pairs()
    for towers in ((vision, text), (str(tmp_path / "vision"), tmp_path / "text")):
        model = ConVIRTForPreTraining.from_towers(*towers, projection_dim=8, freeze_text_layers=1)
        assert model.training
        model.eval()
        with torch.no_grad():
            features, _ = model.embed_images(inputs["pixel_values"])
            expected = vision.eval()(inputs["pixel_values"]).last_hidden_state[:, 0]
            torch.testing.assert_close(features, expected)
            states = text.eval()(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state
            torch.testing.assert_close(
                model.text_model(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state, states
            )
    assert str(tmp_path) not in str(model.config.to_dict()) or model.save_pretrained(tmp_path / "saved") is None
    assert str(tmp_path) not in (tmp_path / "saved" / "config.json").read_text()


def test_of_a_pair_the_wanted_tower_is_taken():
    pair = clip_pair()
    model = ConVIRTForPreTraining.from_towers(
        pair, pair, projection_dim=8, image_pooling="pooler", text_pooling="pooler"
    )
    for part in ("vision_model", "text_model"):
        found, given = getattr(model, part).state_dict(), getattr(pair, part).state_dict()
        assert all(torch.equal(found[name], given[name]) for name in given)


def test_a_pair_gives_the_same_logits_and_loss():
    pair = clip_pair()
    model = LinearPair.from_pair(pair, lambda_image_to_text=0.5, learn_temperature=True).eval()
    inputs = pairs()
    with torch.no_grad():
        expected = pair(**inputs, return_loss=True)
        embeds = model.embed_views(**inputs)
        outputs = model.compute_objective(embeds)
        torch.testing.assert_close(outputs.image_embeds, expected.image_embeds)
        torch.testing.assert_close(outputs.text_embeds, expected.text_embeds)
        torch.testing.assert_close(outputs.loss, expected.loss)
        logits = model.logits(outputs.image_embeds, outputs.text_embeds)
        torch.testing.assert_close(logits["logits_per_image"], expected.logits_per_image)


def test_a_pair_with_other_projections_is_refused():
    with pytest.raises(ValueError, match=r"the pair's image_projection has the shapes .* use from_towers"):
        ConVIRTForPreTraining.from_pair(clip_pair())
    with pytest.raises(ValueError, match=r"BertModel is no pair .* it has no vision_model"):
        ConVIRTForPreTraining.from_pair(BertModel(text_encoders()["bert"]))


def test_missing_weights_of_a_tower_are_named(tmp_path):
    text = BertModel(text_encoders()["bert"])
    state = {name: value for name, value in text.state_dict().items() if "layer.1.output.dense.weight" not in name}
    text.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(ValueError, match=r"text encoder has no weights .*layer.1.output.dense.weight"):
        ConVIRTForPreTraining.from_towers(ViTModel(image_backbones()["vit"]), tmp_path, projection_dim=8)


# ---- freezing ----


def test_frozen_layers_stay_frozen_but_keep_their_dropout(tmp_path):
    config = tiny(freeze_text_layers=1, freeze_text_embeddings=True)
    ConVIRTForPreTraining(config).save_pretrained(tmp_path)
    for model in (ConVIRTForPreTraining(config), AutoModel.from_pretrained(tmp_path)):
        model.train()
        frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
        expected = {
            name
            for name, _ in model.named_parameters()
            if name.startswith(("text_model.embeddings.", "text_model.encoder.layer.0."))
        }
        assert frozen == expected
        assert all(module.training for module in model.text_model.modules())


def test_half_of_the_layers_are_frozen_by_default():
    assert tiny(freeze_text_layers=None).freeze_text_layers == 1
    assert ConVIRTConfig().freeze_text_layers == 6


# ---- adapters ----


def test_adapters_on_one_tower():
    model = add_lora(ConVIRTForPreTraining(tiny()), r=2, towers=["text_model"])
    trained = {name for name, p in model.get_base_model().named_parameters() if p.requires_grad}
    assert any("text_model" in name and "lora" in name for name in trained)
    assert not any(name.startswith("vision_model") for name in trained)
    assert any(name.startswith("image_projection") for name in trained)
    names = lora_targets(ConVIRTForPreTraining(tiny()))
    assert {name.partition(".")[0] for name in names} == {"vision_model", "text_model"}
    with pytest.raises(ValueError, match=r"`towers` is \['audio'\], .* vision_model, text_model"):
        add_lora(ConVIRTForPreTraining(tiny()), towers=["audio"])


# ---- the gradient of a big batch in chunks ----


def test_gradient_cache_equals_the_whole_batch():
    config = tiny(vision_config=image_backbones()["vit"])
    torch.manual_seed(0)
    whole = ConVIRTForPreTraining(config).double()
    chunked = ConVIRTForPreTraining(config).double()
    chunked.load_state_dict(whole.state_dict())
    inputs = pairs(6)
    inputs["pixel_values"] = inputs["pixel_values"].double()
    loss = whole(**inputs).loss
    loss.backward()
    output = cached_backward(chunked, inputs, chunk_size=4)
    torch.testing.assert_close(output.loss, loss.detach())
    for (name, one), other in zip(whole.named_parameters(), chunked.parameters(), strict=True):
        torch.testing.assert_close(
            one.grad, other.grad, rtol=1e-9, atol=1e-12, msg=lambda text, n=name: f"{n}: {text}"
        )


# ---- the objective ----


def test_the_loss_is_that_of_the_function_and_ids_mask():
    model = ConVIRTForPreTraining(tiny(lambda_image_to_text=0.9)).eval()
    inputs = pairs()
    embeds = model.embed_views(**inputs)
    options = {"weight_a_to_b": 0.9}
    expected = clip_loss(embeds["image_embeds"], embeds["text_embeds"], 10.0, **options)
    torch.testing.assert_close(model(**inputs).loss, expected)
    ids = torch.tensor([7, 7, 1, 2])
    masked = clip_loss(embeds["image_embeds"], embeds["text_embeds"], 10.0, sample_ids=ids, **options)
    outputs = model(**inputs, sample_ids=ids)
    torch.testing.assert_close(outputs.loss, masked)
    assert float(outputs.loss) < float(expected)
    # of four pairs two have one masked pair each
    assert float(outputs.masked_negatives) == pytest.approx(0.5)


def test_padding_does_not_count():
    inputs = random_texts(3, seed=0)
    longer = {
        "input_ids": torch.nn.functional.pad(inputs["input_ids"], (0, 3), value=5),
        "attention_mask": torch.nn.functional.pad(inputs["attention_mask"], (0, 3)),
    }
    for pooling in ("max", "mean", "cls", "last"):
        model = ConVIRTModel(tiny(text_pooling=pooling))
        torch.testing.assert_close(model.encode(**inputs), model.encode(**longer), rtol=1e-5, atol=1e-6)


# ---- what transformers does with it ----


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("convirt")
    torch.manual_seed(0)
    ConVIRTForPreTraining(tiny()).save_pretrained(folder)
    words = " ".join(f"word{number}" for number in range(VOCABULARY - 8))
    tokenizer = train_word_tokenizer([words, "a red cat"], max_length=12)
    assert len(tokenizer) <= VOCABULARY
    DualEncoderProcessor(image_processor(16), tokenizer).save_pretrained(folder)
    return folder


def test_auto_classes_open_a_checkpoint(checkpoint):
    assert type(AutoProcessor.from_pretrained(checkpoint)) is DualEncoderProcessor
    assert type(AutoImageProcessor.from_pretrained(checkpoint)) is type(image_processor(16))
    assert AutoTokenizer.from_pretrained(checkpoint)("red cat")["input_ids"]
    assert type(AutoModelForZeroShotImageClassification.from_pretrained(checkpoint)) is ConVIRTModel


def test_stock_pipelines(checkpoint, caplog):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 18, 3), dtype=np.uint8))
    classify = pipeline("zero-shot-image-classification", model=str(checkpoint))
    found = classify(image, candidate_labels=["red", "cat", "word3"], hypothesis_template="a {}")
    assert {row["label"] for row in found} == {"red", "cat", "word3"}
    assert sum(row["score"] for row in found) == pytest.approx(1, abs=1e-5)
    assert "is not supported" not in caplog.text
    model, processor = AutoModel.from_pretrained(checkpoint), AutoProcessor.from_pretrained(checkpoint)
    inputs = processor(images=image, text="a red cat")
    text = pipeline("feature-extraction", model=str(checkpoint))("a red cat", return_tensors=True)
    torch.testing.assert_close(text, model.encode(**{k: v for k, v in inputs.items() if k != "pixel_values"}))
    seen = pipeline("image-feature-extraction", model=str(checkpoint))(image)
    torch.testing.assert_close(torch.tensor(seen), model.encode(inputs["pixel_values"]))


def test_a_tower_alone(checkpoint, tmp_path):
    model = AutoModel.from_pretrained(checkpoint)
    report = export_backbone(model, tmp_path / "text", part="text_model")
    assert report.model_type == "bert"
    assert not report.needs_hf_contrastive
    with pytest.raises(ValueError, match=r"has the encoders vision_model, text_model; `part` is None"):
        export_backbone(model, tmp_path / "other")
    assert not (tmp_path / "other").exists()


# ---- bad input ----


def test_bad_inputs_are_refused_in_words():
    model = ConVIRTForPreTraining(tiny()).eval()
    inputs = pairs()
    with pytest.raises(ValueError, match="4 images and 3 texts are no pairs"):
        model(inputs["pixel_values"], inputs["input_ids"][:3], inputs["attention_mask"][:3])
    mask = inputs["attention_mask"].clone()
    mask[2] = 0
    with pytest.raises(ValueError, match=r"`attention_mask` has a row without tokens \(row 2\)"):
        model(inputs["pixel_values"], inputs["input_ids"], mask)
    with pytest.raises(ValueError, match=r"has 13 tokens a text, but the text encoder takes at most 12; .*truncation"):
        model.encode(input_ids=torch.full((1, 13), 4))
    with pytest.raises(ValueError, match=r"takes images .* or texts .*, got both"):
        model.encode(inputs["pixel_values"], input_ids=inputs["input_ids"])
    with pytest.raises(ValueError, match="neither `pixel_values` nor `input_ids`"):
        ConVIRTModel(tiny())()
    with pytest.raises(ValueError, match=r"`vision_config` has the keys .*add for example model_type='resnet'"):
        ConVIRTConfig(vision_config={"hidden_sizes": [8]})


def test_a_batch_of_one_warns():
    with pytest.warns(UserWarning, match="no negatives"):
        loss = ConVIRTForPreTraining(tiny())(**pairs(1)).loss
    assert float(loss.detach()) == 0


def test_processor_counts_what_it_cuts_and_refuses_empty_texts():
    processor = DualEncoderProcessor(image_processor(16), train_word_tokenizer(["one two three four"], max_length=3))
    with pytest.warns(UserWarning, match="1 of 2 texts are longer than 3 tokens"):
        encoded = processor(text=["one two three four", "one"])
    assert encoded["input_ids"].shape == (2, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        processor(text=["four three two one"])
    assert processor.num_cut == 2
    with pytest.raises(ValueError, match="text 1 is '  ', expected words"):
        processor(text=["one", "  "])
    with pytest.raises(ValueError, match="give `images`, `text`, or both"):
        processor()
