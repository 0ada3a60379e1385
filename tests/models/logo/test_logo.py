"""The logo encoder: texts that are not there, the loss over views, one side alone, how pictures are prepared."""

from __future__ import annotations

import pytest
import torch
from helpers.dual_encoder_tester import random_texts, text_encoders
from helpers.testers import image_backbones, random_images
from PIL import Image
from transformers import AutoImageProcessor, AutoModel

from hf_contrastive import LogoConfig, LogoForPreTraining, LogoImageProcessor, LogoModel
from hf_contrastive.data import character_tokenizer
from hf_contrastive.losses import nt_xent, sup_con, triplet_margin_loss
from hf_contrastive.training import cached_backward


BRANDS = torch.tensor([0, 1, 0, 1, 2, 2])


def model(model_class=LogoForPreTraining, **fields):
    torch.manual_seed(0)
    options = {"hidden_dim": 12, "projection_dim": 8, **fields}
    pair = {"vision_config": image_backbones()["vit"], "text_config": text_encoders()["bert"]}
    return model_class(LogoConfig(**pair, **options)).eval()


def inputs(batch: int = 6, seed: int = 0) -> dict[str, torch.Tensor]:
    return {"pixel_values": random_images(batch, 3, 16, 16, seed=seed), **random_texts(batch, seed)}


def test_two_views_of_each_brand_are_nt_xent():
    net = model()
    given = inputs()
    outputs = net(**given, labels=BRANDS)
    z = net.encode(**given)
    torch.testing.assert_close(outputs.embeds, z)
    torch.testing.assert_close(outputs.loss, sup_con(z, BRANDS, 0.1))
    torch.testing.assert_close(outputs.loss, nt_xent(z[[0, 1, 4]], z[[2, 3, 5]], 0.1))
    triplets = model(loss_type="triplet", triplet_margin=0.7)
    torch.testing.assert_close(triplets(**given, labels=BRANDS).loss, triplet_margin_loss(z, BRANDS, margin=0.7))


def test_a_text_that_is_not_there_counts_as_zeros():
    """However that is said, and whatever stands in its place; the others are as without it."""
    net = model(LogoModel)
    given = inputs()
    has = torch.tensor([True, False, True, True, False, True])
    told = net(**given, has_text=has)
    mask = given["attention_mask"] * has[:, None]
    by_mask = net(given["pixel_values"], given["input_ids"], mask)
    other = {**given, "input_ids": torch.where(has[:, None], given["input_ids"], 7)}
    for found in (by_mask, net(**other, has_text=has)):
        torch.testing.assert_close(found.embeds, told.embeds)
    assert not told.text_features[~has].any()
    pictures = net(given["pixel_values"])
    torch.testing.assert_close(told.embeds[~has], pictures.embeds[~has])
    torch.testing.assert_close(told.embeds[has], net(**given).embeds[has])
    assert not torch.allclose(told.embeds[has], pictures.embeds[has])
    torch.testing.assert_close(told.fused_input[:, :16].norm(dim=1), torch.ones(6))
    torch.testing.assert_close(told.fused_input[:, 16:].norm(dim=1), has.float())
    # nobody has one
    torch.testing.assert_close(net(**given, has_text=torch.zeros(6).bool()).embeds, pictures.embeds)


def test_a_batch_in_which_nobody_has_a_text_trains():
    net = model().train()
    net(inputs()["pixel_values"], labels=BRANDS).loss.backward()
    assert net.fusion[0].weight.grad is not None


@pytest.mark.parametrize("modalities", ["image", "text"])
def test_one_side_alone(modalities):
    net = model(modalities=modalities)
    given = inputs()
    outputs = net(**given, labels=BRANDS)
    outputs.loss.backward()
    unused, used = ("text_model", "vision_model") if modalities == "image" else ("vision_model", "text_model")
    assert not any(p.requires_grad for p in net.get_submodule(unused).parameters())
    assert all(p.grad is not None for p in net.get_submodule(used).parameters())
    own = {"pixel_values": given.pop("pixel_values")}
    needed, other = (own, given) if modalities == "image" else (given, own)
    torch.testing.assert_close(net.encode(**needed), outputs.embeds)
    name = "pixel_values" if modalities == "image" else "input_ids"
    with pytest.raises(ValueError, match=f"modalities='{modalities}' needs `{name}`"):
        net.encode(**other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": None}, "`labels`, the brand of each view, is not given"),
        ({"labels": torch.arange(6)}, "no brand in this batch has two views \\(6 views of as many brands\\)"),
        ({"pixel_values": None}, "needs `pixel_values`"),
        ({"has_text": torch.ones(4)}, "`has_text` has shape \\(4,\\), expected \\[6\\]"),
        ({"input_ids": torch.ones(4, 5).long(), "attention_mask": None}, "6 pictures and 4 texts are no logos"),
        ({"pixel_values": torch.rand(6, 1, 16, 16)}, "has 1 channels"),
    ],
)
def test_wrong_input_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        model()(**{**inputs(), "labels": BRANDS, **change})


def test_brands_with_one_view_are_left_out():
    net, given = model(), inputs()
    labels = torch.tensor([0, 1, 0, 5, 6, 7])
    costs = sup_con(net.encode(**given), labels, 0.1, reduction="none")
    torch.testing.assert_close(net(**given, labels=labels).loss, costs[[0, 2]].mean())


def test_chunks_of_the_gradient_cache_may_lack_texts():
    given = {**inputs(), "has_text": torch.tensor([True, False, False, False, True, True])}
    plain, cached = model().double(), model().double()
    given["pixel_values"] = given["pixel_values"].double()
    plain(**given, labels=BRANDS).loss.backward()
    cached_backward(cached, {**given, "labels": BRANDS}, chunk_size=2)
    for (name, one), (_, two) in zip(plain.named_parameters(), cached.named_parameters(), strict=True):
        if one.grad is not None:
            torch.testing.assert_close(two.grad, one.grad, rtol=1e-9, atol=1e-10, msg=name)


def test_no_pair_of_a_common_space():
    assert not hasattr(LogoModel, "from_pair")
    towers = model()
    again = LogoForPreTraining.from_towers(towers.vision_model, towers.text_model, hidden_dim=12, projection_dim=8)
    for name, weight in towers.vision_model.state_dict().items():
        assert torch.equal(again.vision_model.state_dict()[name], weight)


def test_pictures_are_squares_that_nothing_was_cut_off(tmp_path):
    processor = LogoImageProcessor.of_size(12, do_normalize=False)
    tall = Image.new("RGB", (6, 12), (0, 0, 0))
    (pixels,) = processor(images=[tall], return_tensors="pt")["pixel_values"]
    assert pixels.shape == (3, 12, 12)
    assert bool((pixels[:, :, 3:9] == 0).all())
    assert bool((pixels[:, :, :3] == 1).all())
    assert bool((pixels[:, :, 9:] == 1).all())
    clear = Image.new("RGBA", (5, 5), (0, 0, 0, 0))
    assert bool((processor(images=[clear], return_tensors="pt")["pixel_values"] == 1).all())
    processor.save_pretrained(tmp_path)
    again = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(again) is LogoImageProcessor
    assert torch.equal(again(images=[tall], return_tensors="pt")["pixel_values"][0], pixels)
    with pytest.raises(ValueError, match=r"pass 8-bit images, or square=False"):
        processor(images=[torch.rand(3, 4, 6)], return_tensors="pt", do_rescale=False)


def test_characters_as_the_specification_has_them():
    tokenizer = character_tokenizer()
    assert len(tokenizer) == LogoConfig().text_config.vocab_size == 47
    ids = tokenizer("  ＡＢ-c&+'. 9é ")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == [*"ab-c&+'. 9", "[UNK]"]
    assert len(tokenizer("a" * 50, truncation=True)["input_ids"]) == 32
    with pytest.raises(ValueError, match="`characters` is empty"):
        character_tokenizer("")


def test_published_sizes():
    config = LogoConfig()
    text = config.text_config
    assert (text.embedding_size, text.hidden_size, text.num_hidden_layers, text.num_attention_heads) == (64, 128, 2, 4)
    assert (config.image_dim, config.hidden_dim, config.projection_dim, config.temperature) == (2048, 512, 128, 0.1)


def test_saved_is_loaded(tmp_path):
    net = model()
    net.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is LogoModel
    given = inputs()
    torch.testing.assert_close(loaded.eval().encode(**given), net.encode(**given))
