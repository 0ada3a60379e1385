"""MOFI: its three objectives, draws of entities, rows without an entity, what is saved."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from helpers.dual_encoder_tester import clip_vision, random_texts, text_encoders
from helpers.testers import image_backbones, max_difference, random_images
from safetensors.torch import load_file
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoModel, AutoModelForPreTraining, CLIPConfig, CLIPModel

from hf_contrastive import ContrastiveTrainer, ContrastiveTrainingArguments, MofiConfig, MofiForPreTraining, MofiModel
from hf_contrastive.distributed import get_rank, get_world_size
from hf_contrastive.losses import clip_loss
from hf_contrastive.modules.class_matrix import ShardedClassMatrix
from hf_contrastive.training import cached_backward


ENTITIES = 12
LABELS = torch.tensor([3, 7, 3, -1, 0, 11])


def config(**fields) -> MofiConfig:
    options = {
        "projection_dim": 8,
        "image_pooling": "auto",
        "text_pooling": "mean",
        "num_entities": ENTITIES,
        **fields,
    }
    return MofiConfig(vision_config=image_backbones()["vit"], text_config=text_encoders()["bert"], **options)


def model(seed: int = 0, **fields) -> MofiForPreTraining:
    torch.manual_seed(seed)
    return MofiForPreTraining(config(**fields)).eval()


def inputs(batch: int = 6, seed: int = 0) -> dict[str, torch.Tensor]:
    return {"pixel_values": random_images(batch, 3, 16, 16, seed=seed), **random_texts(batch, seed)}


def plain_margin_softmax(embeds, weight, labels, scale, margin, candidates=None):
    """Row by row, as the paper writes it."""
    cosine = nn.functional.normalize(embeds, dim=1) @ nn.functional.normalize(weight, dim=1).T
    classes = list(range(len(weight))) if candidates is None else candidates.tolist()
    losses = []
    for row, label in enumerate(labels.tolist()):
        if label >= 0:
            own = scale * (cosine[row, label] - margin)
            others = [scale * cosine[row, one] for one in classes if one != label]
            losses.append(torch.logsumexp(torch.stack([own, *others]), 0) - own)
    return torch.stack(losses).mean()


@pytest.mark.parametrize("objective", ["multitask", "supervised", "contrastive"])
def test_loss_is_that_of_the_paper(objective):
    net = model(objective=objective, scale=10, margin=0.2, classification_weight=0.3).double()
    given = inputs()
    given["pixel_values"] = given["pixel_values"].double()
    labels = {} if objective == "contrastive" else {"entity_labels": LABELS}
    outputs = net(**given, **labels)
    images, texts = net.encode(given["pixel_values"]), net.encode(**random_texts(6, 0))
    contrastive = clip_loss(images, texts, net.scale().detach())
    if objective == "contrastive":
        assert net.entity_head is None
        torch.testing.assert_close(outputs.loss.detach(), contrastive)
        assert outputs.classification_loss is None
        # labels of the data are not in the way
        assert torch.equal(net(**given, entity_labels=LABELS).loss, outputs.loss)
        return
    expected = plain_margin_softmax(images, net.entity_head.weight.detach(), LABELS, 10, 0.2)
    torch.testing.assert_close(outputs.classification_loss.detach(), expected)
    if objective == "supervised":
        assert torch.equal(outputs.loss, outputs.classification_loss)
        assert outputs.contrastive_loss is None
    else:
        torch.testing.assert_close(outputs.contrastive_loss.detach(), contrastive)
        torch.testing.assert_close(outputs.loss.detach(), 0.3 * expected + 0.7 * contrastive)


def test_supervised_needs_and_reads_no_text():
    net = model(objective="supervised").train()
    given = inputs()
    outputs = net(given["pixel_values"], entity_labels=LABELS)
    outputs.loss.backward()
    assert torch.equal(net(**given, entity_labels=LABELS).loss, outputs.loss)
    assert outputs.text_embeds is None
    assert all(p.grad is None for p in net.text_model.parameters())
    assert all(p.grad is not None for p in net.vision_model.parameters())


def test_rows_without_an_entity_count_in_the_contrastive_loss_only():
    net, given = model(), inputs()
    outputs = net(**given, entity_labels=LABELS)
    rows = LABELS >= 0
    fewer = net(**{name: value[rows] for name, value in given.items()}, entity_labels=LABELS[rows])
    torch.testing.assert_close(outputs.classification_loss, fewer.classification_loss)
    nothing = net(**given, entity_labels=torch.full((6,), -1))
    assert float(nothing.classification_loss.detach()) == 0
    torch.testing.assert_close(nothing.contrastive_loss, outputs.contrastive_loss)
    nothing.loss.backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in net.parameters() if p.grad is not None)
    # evaluation of unseen entities
    torch.testing.assert_close(net(**given).loss, nothing.loss)


def test_sampled_softmax_holds_the_labels_and_no_entity_twice():
    net, given = model(num_sampled_entities=7), inputs()
    outputs = net(**given, entity_labels=LABELS, output_entity_logits=True)
    drawn = outputs.entity_candidates
    assert drawn[:4].tolist() == [0, 3, 7, 11]
    assert len(drawn) == len(set(drawn.tolist())) == 7
    assert outputs.entity_logits.shape == (6, 7)
    images = net.encode(given["pixel_values"])
    weight = net.entity_head.weight.detach()
    torch.testing.assert_close(
        outputs.entity_logits.detach(), 32 * images @ nn.functional.normalize(weight[drawn], dim=1).T
    )
    expected = plain_margin_softmax(images, weight, LABELS, 32, 0.15, drawn)
    torch.testing.assert_close(outputs.classification_loss.detach(), expected, rtol=1e-5, atol=1e-5)
    # the draw can be given, too
    again = net(**given, entity_labels=LABELS, entity_candidates=drawn.flip(0))
    torch.testing.assert_close(again.loss, outputs.loss)
    # the same until the next step, then another one
    assert torch.equal(net.entity_head.draw(LABELS), drawn)
    draws = set()
    for _ in range(20):
        draws.add(tuple(net.entity_head.draw(LABELS).tolist()))
        net.after_optimizer_step()
    assert len(draws) > 5
    others = [model(num_sampled_entities=7, sampling_seed=seed).entity_head.draw(LABELS).tolist() for seed in range(4)]
    assert others[0] == drawn.tolist()
    assert all(one != others[0] for one in others[1:])
    # with as many as there are, all of them
    everyone = model(num_sampled_entities=99)
    assert everyone.entity_head.draw(LABELS) is None
    torch.testing.assert_close(
        everyone(**given, entity_labels=LABELS).loss, model()(**given, entity_labels=LABELS).loss
    )


@pytest.mark.parametrize(
    ("fields", "change", "message"),
    [
        ({}, {"entity_labels": torch.tensor([0, 1, 2, 3, 4, 17])}, r"entity label 17 is outside 0\.\.num_entities-1"),
        ({}, {"entity_labels": torch.tensor([0, 1, 2, 3, 4, -2])}, r"entity label -2 is outside 0\.\.num_entities-1"),
        ({"num_sampled_entities": 5}, {"entity_labels": LABELS.clamp(max=3) + 9}, "entity label 12 is outside"),
        ({}, {"entity_labels": None}, "`entity_labels` is not given, but objective='multitask'"),
        ({}, {"input_ids": None}, "`input_ids` is not given; give texts, or train"),
        ({"objective": "contrastive"}, {"output_entity_logits": True}, "objective='contrastive' has no entities"),
        ({}, {"entity_candidates": torch.arange(5)}, "`candidates` lacks the label 7"),
        ({}, {"entity_candidates": torch.tensor([0, 3, 7, 11, 3])}, "holds class 3 twice"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(fields, change, message):
    net = model(**fields).train()
    with pytest.raises(ValueError, match=message):
        net(**{**inputs(), "entity_labels": LABELS, **change})


def test_an_objective_with_entities_needs_their_number():
    with pytest.raises(ValueError, match="`num_entities` is 0, but objective='multitask' classifies entities"):
        model(num_entities=0)
    assert MofiModel(config(num_entities=0)).encode(inputs()["pixel_values"]).shape == (6, 8)


def test_a_trained_pair_can_be_trained_further():
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    texts = {**sizes, "vocab_size": 40, "max_position_embeddings": 12, "eos_token_id": 3, "bos_token_id": 2}
    torch.manual_seed(0)
    pair = CLIPModel(
        CLIPConfig(vision_config=clip_vision().to_dict(), text_config={**texts, "pad_token_id": 1}, projection_dim=8)
    )
    net = MofiForPreTraining.from_pair(pair.eval(), num_entities=ENTITIES).eval()
    given = inputs()
    found, expected = net(**given, entity_labels=LABELS), pair(**given, return_loss=True)
    torch.testing.assert_close(found.contrastive_loss, expected.loss)
    torch.testing.assert_close(found.image_embeds, expected.image_embeds)
    assert found.classification_loss > 0


def test_logits_are_float32_under_autocast():
    net = model(num_sampled_entities=8).train()
    exact = net(**inputs(), entity_labels=LABELS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = net(**inputs(), entity_labels=LABELS, output_entity_logits=True)
    assert outputs.loss.dtype == outputs.entity_logits.dtype == torch.float32
    torch.testing.assert_close(outputs.loss, exact.loss, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("objective", ["multitask", "supervised"])
def test_gradient_cache(objective):
    given = {**inputs(), "entity_labels": LABELS, "sample_ids": torch.tensor([0, 1, 0, 2, 3, 4])}
    plain, cached = (
        model(objective=objective, num_sampled_entities=8),
        model(objective=objective, num_sampled_entities=8),
    )
    expected = plain(**given)
    expected.loss.backward()
    found = cached_backward(cached, given, chunk_size=2)
    torch.testing.assert_close(found.loss, expected.loss.detach())
    for (name, one), other in zip(plain.named_parameters(), cached.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), name
        if one.grad is not None:
            torch.testing.assert_close(other.grad, one.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_entity_head_may_stay_behind(tmp_path):
    net = model(num_sampled_entities=5)
    net.after_optimizer_step()
    net.save_pretrained(tmp_path / "all")
    net.save_pretrained(tmp_path / "slim", save_entity_head=False)
    names = [set(load_file(tmp_path / one / "model.safetensors")) for one in ("all", "slim")]
    assert names[0] - names[1] == {"entity_head.weight", "entity_head.num_steps"}
    assert not names[1] - names[0]
    inference = AutoModel.from_pretrained(tmp_path / "all")
    assert type(inference) is MofiModel
    assert not hasattr(inference, "entity_head")
    again, info = AutoModelForPreTraining.from_pretrained(tmp_path / "slim", output_loading_info=True)
    assert not any(info.values())
    assert int(again.entity_head.num_steps) == 0
    assert 0.01 < float(again.entity_head.weight.detach().std()) < 0.03
    torch.testing.assert_close(again.encode(inputs()["pixel_values"]), net.encode(inputs()["pixel_values"]))
    kept = AutoModelForPreTraining.from_pretrained(tmp_path / "all")
    assert int(kept.entity_head.num_steps) == 1
    assert max_difference(dict(kept.state_dict()), dict(net.state_dict())) == 0.0


def trainer(net, folder, **settings) -> ContrastiveTrainer:
    rows = [
        {name: value[row] for name, value in {**inputs(24), "entity_labels": torch.arange(24) % 12}.items()}
        for row in range(24)
    ]
    options = {
        "max_steps": 6,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "use_cpu": True,
        "disable_tqdm": True,
    }
    options |= {"save_strategy": "no", "logging_steps": 1, "monitor_steps": 1}
    return ContrastiveTrainer(
        net, ContrastiveTrainingArguments(str(folder), **{**options, **settings}), train_dataset=rows
    )


@pytest.mark.parametrize("settings", [{}, {"gradient_accumulation_steps": 2}])
def test_resumed_run_draws_the_same_entities(settings, tmp_path):
    whole = model(num_sampled_entities=6)
    first = trainer(whole, tmp_path, save_strategy="steps", save_steps=3, **settings)
    first.train()
    assert int(whole.entity_head.num_steps) == 6
    resumed = model(seed=5, num_sampled_entities=6)
    second = trainer(resumed, tmp_path / "other", **settings)
    second.train(str(tmp_path / "checkpoint-3"))
    assert max_difference(dict(whole.state_dict()), dict(resumed.state_dict())) == 0.0
    logged = [[one["loss"] for one in run.state.log_history if "loss" in one] for run in (first, second)]
    assert logged[0] == logged[1]
    # both terms are logged
    assert {"classification_loss", "contrastive_loss"} <= set(first.state.log_history[0])


def test_objective_in_words_and_its_level_of_guessing():
    net = model(num_sampled_entities=5, scale=16, margin=0.2)
    assert (
        "multitask: 0.5 * (-log softmax(16 * cosine, 0.2 less at the right one) over 5 of 12 entities) + 0.5 * (CLIP"
        in (net.describe_objective())
    )
    assert net.count_negatives(8, 2) == 4 + 7
    assert net.chance_loss(8, 2) == pytest.approx((math.log(1 + 4 * math.exp(3.2)) + math.log(8)) / 2)
    assert model(objective="supervised").count_negatives(8, 2) == 11
    assert model(objective="contrastive").chance_loss(8, 2) == pytest.approx(math.log(8))


# ---- several processes ----


def steps_with_shards(fields: dict, steps: int = 3):
    """Runs in each process: classes spread over processes, the rest through DistributedDataParallel."""
    whole = model(**fields).double().train()
    shards = ShardedClassMatrix.from_full(whole.entity_head.weight, num_sampled=fields["num_sampled_entities"])
    net = model(**{**fields, "objective": "contrastive"}).double().train()
    net.load_state_dict({n: v for n, v in whole.state_dict().items() if not n.startswith("entity_head.")})
    wrapped = DistributedDataParallel(net) if get_world_size() > 1 else net
    optimizer = torch.optim.AdamW([*net.parameters(), *shards.parameters()], lr=1e-2)
    losses = []
    for step in range(steps):
        given, labels = step_inputs(step)
        rows = slice(get_rank() * 3, get_rank() * 3 + 3) if get_world_size() > 1 else slice(None)
        outputs = wrapped(**{name: value[rows] for name, value in given.items()})
        loss = 0.5 * shards(outputs.image_embeds, labels[rows]) + 0.5 * outputs.loss
        optimizer.zero_grad()
        loss.backward()
        norm = shards.gradient_norm()
        optimizer.step()
        net.after_optimizer_step()
        shards.after_step(net)
        losses.append((loss.detach(), norm))
    return (
        losses,
        shards.full(),
        {name: value.detach() for name, value in net.state_dict().items()},
        len(shards.weight),
    )


def step_inputs(step: int):
    given = inputs(seed=step)
    given["pixel_values"] = given["pixel_values"].double()
    return given, (LABELS + step).clamp(max=ENTITIES - 1)


@pytest.mark.distributed
@pytest.mark.parametrize(
    "fields",
    [{"num_sampled_entities": 0}, {"num_sampled_entities": 8}, {"num_sampled_entities": 8, "num_entities": 13}],
)
def test_classes_spread_over_processes_equal_one_model(fields, gloo_pool):
    parts = gloo_pool.run(steps_with_shards, fields)
    net = model(**fields).double().train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    for step in range(3):
        given, labels = step_inputs(step)
        outputs = net(**given, entity_labels=labels)
        optimizer.zero_grad()
        outputs.loss.backward()
        mean = sum(part[0][step][0] for part in parts) / 2
        assert abs(float(mean - outputs.loss.detach())) < 1e-9
        for part in parts:
            assert float(part[0][step][1]) == pytest.approx(float(net.entity_head.weight.grad.norm()), rel=1e-6)
        optimizer.step()
        net.after_optimizer_step()
    for _, full, state, held in parts:
        assert held == -(-net.config.num_entities // 2)
        torch.testing.assert_close(full, net.entity_head.weight.detach(), rtol=1e-6, atol=1e-8)
        for name, value in state.items():
            torch.testing.assert_close(value, net.state_dict()[name], rtol=1e-6, atol=1e-8, msg=name)


def ddp_steps(fields: dict):
    """Runs in each process: three steps of the whole model, rows of -1 on one process only."""
    net = model(**fields).double().train()
    wrapped = DistributedDataParallel(net, find_unused_parameters=True)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for step in range(3):
        given, labels = step_inputs(step)
        labels = torch.where(torch.arange(6) < 3, -1, labels)
        rows = slice(get_rank() * 3, get_rank() * 3 + 3)
        loss = wrapped(**{name: value[rows] for name, value in given.items()}, entity_labels=labels[rows]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        net.after_optimizer_step()
    return {name: value.detach() for name, value in net.state_dict().items()}


@pytest.mark.distributed
@pytest.mark.parametrize("objective", ["multitask", "supervised"])
def test_two_processes_that_differ_in_unlabelled_rows_equal_one(objective, gloo_pool):
    fields = {"objective": objective, "num_sampled_entities": 7}
    first, second = gloo_pool.run(ddp_steps, fields)
    assert max_difference(first, second) == 0.0
    net = model(**fields).double().train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for step in range(3):
        given, labels = step_inputs(step)
        outputs = net(**given, entity_labels=torch.where(torch.arange(6) < 3, -1, labels))
        optimizer.zero_grad()
        outputs.loss.backward()
        optimizer.step()
        net.after_optimizer_step()
    assert int(first["entity_head.num_steps"]) == 3
    for name, value in copy.copy(net.state_dict()).items():
        torch.testing.assert_close(first[name], value, rtol=1e-7, atol=1e-9, msg=name)
