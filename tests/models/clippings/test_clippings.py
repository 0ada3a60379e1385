"""CLIPPINGS: both stages, records that lack a side, the weight of the image, trained pairs."""

from __future__ import annotations

import warnings

import pytest
import torch
from helpers.dual_encoder_tester import clip_vision, random_texts, text_encoders
from helpers.testers import image_backbones, random_images
from transformers import AutoModel, CLIPConfig, CLIPModel

from hf_contrastive import ClippingsConfig, ClippingsForPreTraining, ClippingsModel
from hf_contrastive.losses import pair_margin_loss, sup_con
from hf_contrastive.tensor_utils import pool_modalities
from hf_contrastive.training import cached_backward


LABELS = torch.tensor([0, 1, 0, 1, 2, 2])


def config(vision: str = "vit", **fields) -> ClippingsConfig:
    options = {"projection_dim": 8, "image_pooling": "auto", "text_pooling": "mean", **fields}
    return ClippingsConfig(vision_config=image_backbones()[vision], text_config=text_encoders()["bert"], **options)


def model(model_class=ClippingsForPreTraining, vision: str = "vit", **fields):
    torch.manual_seed(0)
    return model_class(config(vision, **fields)).eval()


def inputs(batch: int = 6, seed: int = 0) -> dict[str, torch.Tensor]:
    return {"pixel_values": random_images(batch, 3, 16, 16, seed=seed), **random_texts(batch, seed)}


@pytest.mark.parametrize("fields", [{}, {"loss_type": "contrastive", "neg_margin": 1.2, "pos_margin": 0.1}])
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_second_stage_is_the_loss_of_pooled_embeddings(fields, weight):
    net = model(image_weight=weight, **fields)
    outputs = net(**inputs(), labels=LABELS)
    images, texts = net.encode(inputs()["pixel_values"]), net.encode(**random_texts(6, 0))
    pooled = pool_modalities(images, texts, weight)
    torch.testing.assert_close(outputs.pooled_embeds, pooled)
    if fields:
        expected = pair_margin_loss(pooled, LABELS, pos_margin=0.1, neg_margin=1.2)
    else:
        expected = sup_con(pooled, LABELS, 0.1, mean_of_nonzero=True)
    torch.testing.assert_close(outputs.loss, expected)
    # the pooled embedding is what `encode` of both gives
    torch.testing.assert_close(net.encode(**inputs()), pooled)
    # ids say nothing that the labels do not say
    assert torch.equal(net(**inputs(), labels=LABELS, sample_ids=torch.zeros(6).long()).loss, outputs.loss)


def test_first_stage_is_that_of_clip():
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    texts = {
        **sizes,
        "vocab_size": 40,
        "max_position_embeddings": 12,
        "eos_token_id": 3,
        "bos_token_id": 2,
        "pad_token_id": 1,
    }
    torch.manual_seed(0)
    pair = CLIPModel(CLIPConfig(vision_config=clip_vision().to_dict(), text_config=texts, projection_dim=8)).eval()
    net = ClippingsForPreTraining.from_pair(pair).eval()
    assert net.config.image_pooling == net.config.text_pooling == "pooler"
    given = inputs()
    expected, found = pair(**given, return_loss=True), net(**given)
    torch.testing.assert_close(found.loss, expected.loss)
    torch.testing.assert_close(found.image_embeds, expected.image_embeds)
    torch.testing.assert_close(found.text_embeds, expected.text_embeds)
    inference = ClippingsModel(net.config).eval()
    inference.load_state_dict(net.state_dict())
    torch.testing.assert_close(inference(**given).logits_per_image, expected.logits_per_image)


def test_weight_at_inference():
    net = model(ClippingsModel, image_weight=0.6)
    given = inputs()
    images, texts = net.encode(given["pixel_values"]), net.encode(**random_texts(6, 0))
    for weight in (0.0, 0.25, 1.0):
        torch.testing.assert_close(net.encode(**given, image_weight=weight), pool_modalities(images, texts, weight))
        torch.testing.assert_close(
            net(**given, image_weight=weight).pooled_embeds, net.encode(**given, image_weight=weight)
        )
    torch.testing.assert_close(net.encode(**given), pool_modalities(images, texts, 0.6))
    for bad in (1.5, -0.1, float("nan")):
        for call in (net.encode, net):
            with pytest.raises(ValueError, match=r"image_weight must be in \[0, 1\]"):
                call(**given, image_weight=bad)
    with pytest.raises(Exception, match=r"image_weight must be in \[0, 1\]"):
        config(image_weight=2)


@pytest.mark.parametrize("vision", ["vit", "resnet"])
def test_records_that_lack_a_side(vision):
    net = model(vision=vision).train()
    given = inputs()
    masks = {
        "has_image": torch.tensor([True, False, True, True, False, True]),
        "has_text": torch.tensor([True, True, False, True, True, True]),
    }
    dirty = {name: value.clone() for name, value in given.items()}
    dirty["pixel_values"][~masks["has_image"]] = float("nan")
    dirty["attention_mask"][~masks["has_text"]] = 0  # a text without tokens
    state = {name: value.clone() for name, value in net.state_dict().items()}
    outputs = net(**dirty, **masks, labels=LABELS)
    assert bool(torch.isfinite(outputs.loss))
    assert bool((outputs.image_embeds[~masks["has_image"]] == 0).all())
    torch.testing.assert_close(outputs.pooled_embeds[1], outputs.text_embeds[1])
    torch.testing.assert_close(outputs.pooled_embeds[2], outputs.image_embeds[2])
    expected = pool_modalities(outputs.image_embeds, outputs.text_embeds, 0.5, **masks)
    torch.testing.assert_close(outputs.loss, sup_con(expected, LABELS, 0.1, mean_of_nonzero=True))
    # what stands in for a missing picture does not enter batch statistics
    again = model(vision=vision).train()
    again.load_state_dict(state)
    again.embed_images(given["pixel_values"][masks["has_image"]])
    for (name, one), other in zip(net.named_buffers(), again.buffers(), strict=True):
        if "running" in name:
            torch.testing.assert_close(one, other, msg=name)
    outputs.loss.backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in net.parameters() if p.grad is not None)
    # ... and for inference
    found = net.encode(**dirty, **masks)
    assert bool(torch.isfinite(found).all())
    net.eval()
    torch.testing.assert_close(net.encode(**dirty, **masks)[1], net.encode(**random_texts(6, 0))[1])


def test_one_side_alone_is_a_second_stage_too():
    net = model()
    texts = random_texts(6, 0)
    outputs = net(**texts, labels=LABELS)
    torch.testing.assert_close(outputs.pooled_embeds, outputs.text_embeds)
    assert outputs.image_embeds is None
    none = torch.zeros(6, dtype=torch.bool)
    torch.testing.assert_close(net(**inputs(), has_image=none, labels=LABELS).loss, outputs.loss)
    images = net(pixel_values=inputs()["pixel_values"], labels=LABELS)
    torch.testing.assert_close(images.loss, net(**inputs(), has_text=none, labels=LABELS).loss)


def test_gradient_cache_with_missing_sides():
    given = {**inputs(), "labels": LABELS, "has_image": torch.tensor([False, False, True, True, True, True])}
    plain, cached = model(), model()
    expected = plain(**given)
    expected.loss.backward()
    # the first chunk has no picture at all
    found = cached_backward(cached, given, chunk_size=2)
    torch.testing.assert_close(found.loss, expected.loss.detach())
    for (name, one), other in zip(plain.named_parameters(), cached.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), name
        if one.grad is not None:
            torch.testing.assert_close(other.grad, one.grad, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixel_values": None, "input_ids": None}, "neither `pixel_values` nor `input_ids`"),
        ({"pixel_values": None}, "there is no image; give both, or `labels`"),
        ({"has_text": torch.tensor([True] * 5 + [False])}, "record 5 has no text"),
        ({"has_text": torch.tensor([True])}, r"`has_text` has shape \(1,\), expected \[6\]"),
        ({"pixel_values": None, "has_image": torch.ones(6).bool()}, "says that there are images"),
        (
            {"has_image": torch.arange(6) > 2, "has_text": torch.arange(6) < 2, "labels": LABELS},
            "record 2 has neither an image nor a text",
        ),
        ({"pixel_values": None, "has_text": torch.arange(6) > 0, "labels": LABELS}, "record 0 has neither"),
        ({"pixel_values": random_images(5, 3, 16, 16, seed=0)}, "5 images and 6 texts are no records"),
    ],
)
def test_what_is_no_record_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        model()(**{**inputs(), **change})


def test_inference_compares_any_numbers():
    net = model(ClippingsModel)
    outputs = net(random_images(2, 3, 16, 16, seed=0), **random_texts(3, 0))
    assert outputs.logits_per_image.shape == (2, 3)
    assert outputs.pooled_embeds is None
    with pytest.raises(ValueError, match="2 images and 3 texts are no records"):
        net.encode(random_images(2, 3, 16, 16, seed=0), **random_texts(3, 0))
    with pytest.raises(ValueError, match="whose features have no common space"):
        net.encode(**inputs(), readout="backbone")


def test_batches_that_teach_nothing_are_told():
    net = model()
    with pytest.warns(UserWarning, match="no positive"):
        assert float(net(**inputs(), labels=torch.arange(6)).loss.detach()) == 0
    with pytest.warns(UserWarning, match="no negatives"):
        assert float(net(**inputs(), labels=torch.zeros(6).long()).loss.detach()) == 0


def test_opposite_sides_have_no_direction():
    net = model()
    embeds = {"image_embeds": torch.eye(2).repeat(2, 1), "text_embeds": -torch.eye(2).repeat(2, 1)}
    embeds = {name: value.requires_grad_() for name, value in embeds.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outputs = net.compute_objective(embeds, torch.tensor([0, 1, 0, 1]))
    assert bool((outputs.pooled_embeds == 0).all())
    outputs.loss.backward()
    assert all(bool(torch.isfinite(value.grad).all()) for value in embeds.values())


def test_objective_in_words_and_its_level_of_guessing():
    net = model(image_weight=0.7)
    assert (
        "supervised contrastive loss at temperature 0.1, on z = unit(0.7 * image + (1 - 0.7) * text)"
        in net.describe_objective()
    )
    assert net.chance_loss(8, 2) == pytest.approx(2.0794, abs=1e-4)
    other = model(loss_type="contrastive")
    assert "closer than 0, others farther than 0.5" in other.describe_objective()
    assert other.chance_loss(8, 2) is None


def test_weight_is_saved(tmp_path):
    net = model(image_weight=0.76)
    net.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert loaded.config.image_weight == 0.76
    assert torch.equal(loaded.encode(**inputs()), net.encode(**inputs()))
