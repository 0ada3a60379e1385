"""SurgVLP: its objectives, words of texts, clips of frames, published weights."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.dual_encoder_tester import random_texts, text_encoders
from helpers.testers import image_backbones, random_images
from safetensors.torch import save_file
from transformers import BertModel, pipeline

from hf_contrastive import ConVIRTConfig, ConVIRTModel, SurgVLPConfig, SurgVLPForPreTraining, SurgVLPModel
from hf_contrastive.data import image_processor, train_word_tokenizer
from hf_contrastive.families.dual_encoder.processing_dual_encoder import DualEncoderProcessor
from hf_contrastive.hub import export_sentence_transformers
from hf_contrastive.losses import clip_loss, mil_nce, nt_xent
from hf_contrastive.models.surgvlp.conversion_surgvlp import load_published_weights, rename_published_weights
from hf_contrastive.models.surgvlp.pooling_surgvlp import combine_layers, continuation_pieces, sum_word_pieces
from hf_contrastive.training import cached_backward


def tiny(**fields) -> SurgVLPConfig:
    options = {
        "vision_config": image_backbones()["vit"],
        "text_config": text_encoders()["bert"],
        "text_layers": 2,
        "text_length": 9,
    }
    return SurgVLPConfig(**{**options, **fields})


def batch(rows: int = 4, texts: int = 2, frames: int = 2, seed: int = 0) -> dict[str, torch.Tensor]:
    others = random_texts(rows * texts, seed + 1, length=6)
    return {
        "pixel_values": random_images(rows, frames, 3, 16, 16, seed=seed),
        **random_texts(rows, seed),
        **{f"mil_{name}": value.view(rows, texts, -1) for name, value in others.items()},
        "pixel_values_aug1": random_images(rows, frames, 3, 16, 16, seed=seed + 2),
        "pixel_values_aug2": random_images(rows, frames, 3, 16, 16, seed=seed + 3),
    }


# ---- the objective ----


@pytest.mark.parametrize("normalize", [False, True])
def test_objectives_are_sums_of_the_functions(normalize):
    inputs = batch()
    ids = torch.tensor([0, 1, 1, 2])
    options = {"normalize_mil": normalize, "mil_temperature": 0.2, "alpha": 0.6, "temperature": 0.2}
    model = SurgVLPForPreTraining(tiny(objective="released", **options)).eval()
    embeds = model.embed_views(**inputs)
    mil = {"normalize": normalize, "temperature": 0.2 if normalize else 1.0}

    def terms(clips):
        info = clip_loss(clips, embeds["text_embeds"], 5.0, sample_ids=ids)
        weighted = clip_loss(clips, embeds["text_embeds"], 5.0, weight_a_to_b=0.6, sample_ids=ids)
        return info, weighted, mil_nce(clips, embeds["mil_text_embeds"], sample_ids=ids, **mil)

    clips = [embeds[name] for name in ("image_embeds", "aug1_embeds", "aug2_embeds")]
    simclr = nt_xent(*clips[1:], 0.2, sample_ids=ids)
    expected = (sum(sum(terms(one)) / 3 for one in clips) + simclr) / 4
    outputs = model(**inputs, sample_ids=ids)
    torch.testing.assert_close(outputs.loss, expected)
    torch.testing.assert_close(outputs.simclr_loss, simclr)
    torch.testing.assert_close(outputs.nt_xent_loss, torch.stack([terms(one)[1] for one in clips]).mean())
    for objective, parts in (("info_nce", (0,)), ("paper", (0, 2))):
        other = SurgVLPForPreTraining(tiny(objective=objective, **options)).eval()
        other.load_state_dict(model.state_dict())
        found = other(**inputs, sample_ids=ids)
        torch.testing.assert_close(found.loss, sum(terms(clips[0])[part] for part in parts))
        assert ("mil_nce_loss" in found) == (objective == "paper")


def test_what_the_objective_needs_is_named():
    inputs = batch()
    plain = {name: inputs[name] for name in ("pixel_values", "input_ids", "attention_mask")}
    assert SurgVLPForPreTraining(tiny(objective="info_nce"))(**plain).loss > 0
    with pytest.raises(ValueError, match="objective 'paper' needs `mil_input_ids`"):
        SurgVLPForPreTraining(tiny())(**plain)
    message = "needs `mil_input_ids`, `pixel_values_aug1`, `pixel_values_aug2`"
    released = SurgVLPForPreTraining(tiny(objective="released"))
    with pytest.raises(ValueError, match=message):
        released(**plain)
    # embedding needs none of it
    assert released(**plain, return_loss=False).image_embeds.shape == (4, 16)


def test_untrained_loss_is_near_chance():
    for objective in ("paper", "released", "info_nce"):
        model = SurgVLPForPreTraining(
            tiny(objective=objective, temperature=10.0, normalize_mil=True, mil_temperature=10.0)
        )
        model.train(False)
        assert float(model(**batch()).loss.detach()) == pytest.approx(model.chance_loss(4, 2), abs=0.15)
        assert model.chance_loss(1, 2) is None
        assert "InfoNCE" in model.describe_objective()
    assert model.chance_loss(8, 2) == pytest.approx(math.log(8))


def test_one_clip_alone_costs_ln_2_for_its_texts():
    with pytest.warns(UserWarning, match="no negatives"):
        outputs = SurgVLPForPreTraining(tiny())(**batch(rows=1, texts=1))
    assert float(outputs.mil_nce_loss.detach()) == pytest.approx(math.log(2), abs=1e-6)
    assert float(outputs.info_nce_loss.detach()) == pytest.approx(0, abs=1e-6)


def test_large_products_do_not_overflow_under_autocast():
    model = SurgVLPForPreTraining(tiny()).eval()
    with torch.no_grad():
        model.image_projection.layers[0][0].weight.mul_(3000)
        for dtype in (torch.bfloat16, torch.float16):
            with torch.autocast("cpu", dtype=dtype):
                embeds = model.embed_views(**batch())
                # as wide embeddings are: products above 65504, the largest number of half precision
                embeds = {name: 400 * value.float() for name, value in embeds.items()}
                outputs = model.compute_objective(embeds)
            products = torch.einsum("id,jkd->ijk", embeds["image_embeds"], embeds["mil_text_embeds"])
            assert float(products.abs().max()) > 65504
            assert bool(torch.isfinite(outputs.loss))
            assert outputs.mil_nce_loss.dtype == torch.float32


def test_gradient_cache_equals_the_whole_batch():
    config = tiny(objective="released")
    torch.manual_seed(0)
    whole, chunked = (SurgVLPForPreTraining(config).double() for _ in range(2))
    chunked.load_state_dict(whole.state_dict())
    inputs = batch(6)
    inputs = {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}
    loss = whole(**inputs).loss
    loss.backward()
    torch.testing.assert_close(cached_backward(chunked, inputs, chunk_size=4).loss, loss.detach())
    for (name, one), other in zip(whole.named_parameters(), chunked.parameters(), strict=True):
        torch.testing.assert_close(
            one.grad, other.grad, rtol=1e-9, atol=1e-12, msg=lambda text, n=name: f"{n}: {text}"
        )


# ---- clips ----


def test_a_clip_is_the_mean_of_its_frames():
    model = SurgVLPModel(tiny()).eval()
    clips = random_images(3, 4, 3, 16, 16, seed=0)
    with torch.no_grad():
        features, projections = model.embed_images(clips)
        frames = [model.embed_images(clips[:, number]) for number in range(4)]
    torch.testing.assert_close(features, torch.stack([one[0] for one in frames]).mean(0))
    torch.testing.assert_close(projections, torch.stack([one[1] for one in frames]).mean(0))
    # a clip of one picture is the picture
    torch.testing.assert_close(model.encode(clips[:, :1]), model.encode(clips[:, 0]))
    torch.testing.assert_close(model.encode(clips[:, :1].expand(-1, 3, -1, -1, -1)), model.encode(clips[:, 0]))


def test_batch_norm_sees_clips_and_augmented_clips_together():
    config = tiny(vision_config=image_backbones()["resnet"], objective="released")
    torch.manual_seed(0)
    model = SurgVLPForPreTraining(config).train()
    inputs = batch()
    with torch.no_grad():
        embeds = model.embed_views(**inputs)
        names = ("pixel_values", "pixel_values_aug1", "pixel_values_aug2")
        together = model.embed_images(torch.cat([inputs[name] for name in names]))[1]
    torch.testing.assert_close(torch.cat([embeds[f"{name}_embeds"] for name in ("image", "aug1", "aug2")]), together)


def test_wrong_clips_are_refused_in_words():
    model = SurgVLPForPreTraining(tiny()).eval()
    inputs = batch()
    with pytest.raises(ValueError, match=r"expected \[batch, channels, height, width\] for images or \[batch, frames"):
        model.encode(inputs["pixel_values"][None])
    with pytest.raises(ValueError, match="clips without frames"):
        model.encode(inputs["pixel_values"][:, :0])
    with pytest.raises(ValueError, match="4 clips and `mil_input_ids` has 3 rows"):
        model(**{**inputs, "mil_input_ids": inputs["mil_input_ids"][:3]})
    with pytest.raises(
        ValueError, match=r"`pixel_values` has shape .* and `pixel_values_aug2` .* as long and as large as the clips"
    ):
        model(**{**inputs, "pixel_values_aug2": inputs["pixel_values"][:, :1]})
    with pytest.raises(ValueError, match=r"`mil_input_ids` has shape \(4, 7\), expected \[batch, texts, tokens\]"):
        model(**{**inputs, "mil_input_ids": inputs["input_ids"], "mil_attention_mask": inputs["attention_mask"]})
    inputs["mil_attention_mask"][1, 1] = 0
    with pytest.raises(ValueError, match="row without tokens"):
        model(**inputs)


# ---- texts ----


def test_sentence_is_the_mean_over_places_of_words():
    torch.manual_seed(0)
    model = SurgVLPModel(tiny()).eval()
    texts = random_texts(5, seed=3)
    texts["input_ids"][:, 0] = 2
    pieces = torch.rand(40, generator=torch.Generator().manual_seed(1)) < 0.4
    pieces[:4] = False
    with torch.no_grad():
        words = model.embed_words(**texts, is_continuation_piece=pieces)
        sentence = model.text_features(**texts)
    assert words.shape == (5, 9, 16)
    torch.testing.assert_close(words.mean(1), sentence)
    # places behind the last word are empty
    starts = (~pieces[texts["input_ids"]] & (texts["attention_mask"] == 1)).sum(1)
    assert all(bool((words[row, count:] == 0).all()) for row, count in enumerate(starts.tolist()))
    with pytest.raises(ValueError, match=r"continuation_pieces\(tokenizer\)"):
        model.embed_words(**texts)


@pytest.mark.parametrize("merge", [True, False])
def test_padding_of_the_batch_changes_nothing(merge):
    model = SurgVLPModel(tiny(merge_word_pieces=merge)).eval()
    texts = random_texts(3, seed=0, length=6)
    pad = model.config.text_config.pad_token_id
    texts["input_ids"] = texts["input_ids"].masked_fill(texts["attention_mask"] == 0, pad)
    longer = {
        "input_ids": torch.nn.functional.pad(texts["input_ids"], (0, 2), value=pad),
        "attention_mask": torch.nn.functional.pad(texts["attention_mask"], (0, 2)),
    }
    torch.testing.assert_close(model.encode(**texts), model.encode(**longer), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="10 tokens a text, but the text encoder takes at most 9"):
        model.encode(input_ids=torch.full((1, 10), 4))


def test_words_of_pieces():
    states = torch.arange(1.0, 7.0).view(1, 6, 1)
    continues = torch.tensor([[True, True, False, False, True, False]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 0]])
    words, count = sum_word_pieces(states, mask, continues, 4)
    # the first token starts a word whatever it is, and what stands at padding is not read
    assert words.flatten().tolist() == [3.0, 3.0, 9.0, 0.0]
    assert count.tolist() == [3]
    with pytest.raises(ValueError, match="a text has 3 words and there are 2 places"):
        sum_word_pieces(states, mask, continues, 2)
    states[0, 5] = torch.nan
    assert bool(torch.isfinite(sum_word_pieces(states, mask, continues, 4)[0]).all())
    with pytest.raises(ValueError, match="`last` is 3, but the encoder returned 2 layers"):
        combine_layers([states, states], 3)


def test_pieces_of_a_tokenizer():
    tokenizer = train_word_tokenizer(["retract the retractor", "trocar placement"], "wordpiece", vocab_size=80)
    pieces = continuation_pieces(tokenizer)
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    assert [bool(piece) for piece in pieces] == [token.startswith("##") for token in tokens]


def test_other_poolings_read_the_last_layer():
    texts = random_texts(3, seed=0)
    torch.manual_seed(0)
    model = SurgVLPModel(tiny(text_pooling="mean")).eval()
    other = ConVIRTModel(
        ConVIRTConfig(vision_config=image_backbones()["vit"], text_config=text_encoders()["bert"], text_pooling="mean")
    )
    other.text_model.load_state_dict(model.text_model.state_dict())
    torch.testing.assert_close(model.text_features(**texts), other.eval().text_features(**texts))
    assert model.config.max_text_length == 12


# ---- what transformers and this library do with it ----


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("surgvlp")
    torch.manual_seed(0)
    SurgVLPForPreTraining(tiny()).save_pretrained(folder)
    tokenizer = train_word_tokenizer([" ".join(f"word{number}" for number in range(30)), "a red cat"], max_length=9)
    DualEncoderProcessor(image_processor(16), tokenizer).save_pretrained(folder)
    return folder


def test_stock_pipeline(checkpoint):
    image = random_images(3, 20, 18, seed=0).permute(1, 2, 0).mul(255).byte().numpy()
    from PIL import Image

    classify = pipeline("zero-shot-image-classification", model=str(checkpoint))
    found = classify(Image.fromarray(image), candidate_labels=["red", "cat", "word3"], hypothesis_template="a {}")
    assert {row["label"] for row in found} == {"red", "cat", "word3"}
    assert sum(row["score"] for row in found) == pytest.approx(1, abs=1e-5)


def test_export_says_what_it_cannot(checkpoint, tmp_path):
    model = SurgVLPModel.from_pretrained(checkpoint)
    processor = DualEncoderProcessor.from_pretrained(checkpoint)
    with pytest.raises(ValueError, match="pools texts by 'word_sum', which sentence-transformers cannot"):
        export_sentence_transformers(model, tmp_path / "out", processor)


def test_trained_encoders_decide_the_common_space():
    from transformers import ViTModel

    vision, text = ViTModel(image_backbones()["vit"]), BertModel(text_encoders()["bert"])
    options = {"text_layers": 2, "text_length": 9}
    model = SurgVLPForPreTraining.from_towers(vision, text, **options).eval()
    assert model.config.projection_dim == 16
    texts = random_texts(2, seed=0)
    with torch.no_grad():
        layers = text.eval()(**texts, output_hidden_states=True).hidden_states
        expected = ((layers[-1] + layers[-2]) * texts["attention_mask"][:, :, None]).sum(1) / 9
        # texts are not projected
        torch.testing.assert_close(model.embed_texts(**texts)[1], expected, rtol=1e-4, atol=1e-5)
    wider = SurgVLPForPreTraining.from_towers(vision, text, project_text=True, projection_dim=24, **options)
    assert wider(**batch()).text_embeds.shape == (4, 24)
    assert {name for name, _ in model.text_projection.named_parameters()} == set()


# ---- published weights ----


def published(**options) -> tuple[dict[str, torch.Tensor], object, object]:
    """Tensors under the names of the published checkpoint, of a small ResNet and a small BERT with weights drawn at random."""
    from torchvision.models.resnet import Bottleneck, ResNet

    torch.manual_seed(0)
    resnet = ResNet(Bottleneck, [1, 2, 1, 1], **options)
    for module in resnet.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    text = BertModel(text_encoders()["bert"]).eval()
    state = {f"module.backbone_img.model.{name}": value for name, value in resnet.state_dict().items()}
    head = torch.nn.Linear(2048, 16)
    state |= {f"module.backbone_img.global_embedder.{name}": value for name, value in head.state_dict().items()}
    state |= {f"module.backbone_text.model.{name}": value for name, value in text.state_dict().items()}
    state["module.backbone_text.model.embeddings.position_ids"] = torch.arange(12)[None]
    resnet.fc = head
    return state, resnet.eval(), text


def test_published_weights_give_what_their_networks_give(tmp_path):
    state, resnet, text = published()
    plain = {name.removeprefix("module."): value.contiguous() for name, value in state.items()}
    save_file(plain, tmp_path / "weights.safetensors")
    images, texts = random_images(2, 3, 64, 64, seed=0), random_texts(3, seed=0)
    for source in (state, tmp_path / "weights.safetensors"):
        model = load_published_weights(source, num_attention_heads=2, text_layers=2, text_length=9)
        with torch.no_grad():
            torch.testing.assert_close(model.embed_images(images)[1], resnet(images), rtol=1e-4, atol=1e-5)
            layers = text(**texts, output_hidden_states=True).hidden_states
            kept = (layers[-1] + layers[-2]) * texts["attention_mask"][:, :, None]
            torch.testing.assert_close(model.embed_texts(**texts)[1], kept.sum(1) / 9, rtol=1e-4, atol=1e-5)
    assert model.config.vision_config.depths == [1, 2, 1, 1]
    assert model.config.projection_dim == 16


def test_wrong_published_weights_are_named(tmp_path):
    state = published()[0]
    less = {name: value for name, value in state.items() if "layer2.1.conv2" not in name}
    with pytest.raises(
        ValueError, match=r"1 missing \(for example 'vision_model.encoder.stages.1.layers.1.layer.1.convolution"
    ):
        load_published_weights(less, num_attention_heads=2, text_layers=2)
    narrow = published(width_per_group=4)[0]
    with pytest.raises(
        ValueError, match=r"another shape than a ResNet .* \(4, 64, 1, 1\) instead of \(64, 64, 1, 1\)"
    ):
        load_published_weights(narrow, num_attention_heads=2, text_layers=2)
    with pytest.raises(ValueError, match=r"word_embeddings.weight' is missing"):
        load_published_weights({name: value for name, value in state.items() if "backbone_text" not in name})
    with pytest.raises(ValueError, match="'logit_scale' is none of a published SurgVLP"):
        rename_published_weights({**state, "logit_scale": torch.zeros(())})
    with pytest.raises(ValueError, match=r"never opened here; .*weights_only=True"):
        load_published_weights(tmp_path / "SurgVLP.pth")
    with pytest.raises(ValueError, match="'state_dict' holds a dict and no tensor"):
        load_published_weights({"state_dict": state})
