"""InterCLR: warm-up, bases, necks, sampling, clustering by the callback, checkpoints with and without the bank."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from helpers.testers import image_backbones, random_images
from torch.nn.functional import normalize

from hf_contrastive import (
    ClusterMemoryBankCallback,
    ContrastiveTrainer,
    ContrastiveTrainingArguments,
    InterCLRConfig,
    InterCLRForPreTraining,
)
from hf_contrastive.losses import info_nce, memory_bank_nce
from hf_contrastive.modules.kmeans import kmeans_labels


BANK = 24
IMAGES = random_images(BANK, 2, 3, 16, 16, seed=0)


def build(clustered: bool = True, seed: int = 0, **fields) -> InterCLRForPreTraining:
    torch.manual_seed(seed)
    options = {
        "projection_dims": [8, 4],
        "queue_size": 16,
        "encoder_momentum": 0.9,
        "num_samples": BANK,
        "num_clusters": 3,
        "min_cluster_size": 3,
        "num_inter_negatives": 6,
        "negative_pool_size": 16,
        "num_negatives": 10,
        "centroid_interval": 2,
        **fields,
    }
    model = InterCLRForPreTraining(InterCLRConfig(backbone_config=image_backbones()["conv_encoder"], **options))
    if clustered:
        model.memory_bank.init_clusters(model.memory_bank.features.clone(), torch.arange(BANK) % 3)
    return model.train()


def test_without_clusters_the_loss_is_refused_or_warms_up():
    model, index = build(clustered=False), torch.arange(4)
    with pytest.raises(RuntimeError, match=r"no clusters yet .*saved without memory.*ClusterMemoryBankCallback"):
        model(IMAGES[:4], index=index)
    warm = build(clustered=False, warmup_epochs=2)
    output = warm(IMAGES[:4], index=index)
    assert torch.equal(output.loss, output.intra_loss)  # with weight 1
    assert float(output.inter_loss) == 0
    assert output.change_ratio is None
    assert build(clustered=False, inter_weight=0.0)(IMAGES[:4], index=index).change_ratio is None


def test_moco_and_cluster_terms():
    model = build(share_neck=False, inter_margin=0.3, inter_margin_type="angle", intra_margin=0.1).eval()
    index, positive = torch.tensor([3, 9, 20, 4]), torch.tensor([0, 6, 2, 1])
    negative = torch.randint(0, BANK, (4, 6))
    embeds = model.embed_views(IMAGES[:4])
    output = model(IMAGES[:4], index=index, positive_index=positive, inter_negative_index=negative)
    query, key = embeds["projections"].unbind(1)
    intra = info_nce(query, key, model.queue.features, temperature=0.2, in_batch_negatives=False, margin=0.1)
    other = embeds["inter_projections"][:, 0]
    inter = memory_bank_nce(
        other, model.memory_bank.features, positive, negative, temperature=0.2, margin=0.3, margin_type="angle"
    )
    torch.testing.assert_close(output.intra_loss, intra)
    torch.testing.assert_close(output.inter_loss, inter)
    torch.testing.assert_close(output.loss, 0.75 * intra + 0.25 * inter)


def test_bank_takes_the_keys_after_the_step():
    model = build(share_neck=False, bank_momentum=1.0, repair_interval=100)
    before, index = model.memory_bank.features.clone(), torch.tensor([3, 9, 20, 4])
    with torch.no_grad():
        keys = normalize(model.embed_views(IMAGES[:4])["inter_projections"][:, 1], dim=1)
    model(IMAGES[:4], index=index).loss.backward()
    assert torch.equal(model.memory_bank.features, before)
    model.after_optimizer_step()
    torch.testing.assert_close(model.memory_bank.features[index], keys)
    rest = torch.ones(BANK, dtype=torch.bool).index_fill(0, index, False)
    assert torch.equal(model.memory_bank.features[rest], before[rest])
    # looking at a loss writes nothing
    model.eval()(IMAGES[:4], index=index)
    kept = model.memory_bank.features.clone()
    model.after_optimizer_step()
    assert torch.equal(model.memory_bank.features, kept)


@pytest.mark.parametrize("views", [1, 2])
def test_on_npid(views):
    model = build(base="npid")
    assert model.config.temperature == 0.07
    assert model.config.bank_momentum == 0.5
    assert {name for name, _ in model.training_state()} == {"memory_bank"}
    index = torch.tensor([3, 9, 20, 4])
    before = model.memory_bank.features.clone()
    output = model(IMAGES[:4, :views], index=index)
    assert output.projections.shape == (4, views, 4)
    output.loss.backward()
    model.after_optimizer_step()
    new = normalize(normalize(output.projections.detach(), dim=-1).mean(1), dim=1)
    torch.testing.assert_close(model.memory_bank.features[index], normalize(0.5 * before[index] + 0.5 * new, dim=1))


@pytest.mark.parametrize("sampling", ["hard", "semihard", "semieasy", "random"])
@pytest.mark.parametrize("base", ["moco", "npid"])
def test_every_sampling_trains(base, sampling):
    model = build(base=base, negative_sampling=sampling)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for step in range(3):
        index = torch.arange(8) + 8 * step
        output = model(IMAGES[index], index=index)
        # the same draws for the same step
        assert torch.equal(model.eval()(IMAGES[index], index=index).loss, model(IMAGES[index], index=index).loss)
        model.train()
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        model.after_optimizer_step()
        assert bool(torch.isfinite(output.loss))
    assert int(model.memory_bank.cluster_sizes().min()) >= 1


def test_negatives_with_the_same_id_are_left_out():
    model = build().eval()
    index = torch.tensor([0, 1, 2, 3])
    ids = torch.tensor([7, 7, 8, 9])
    negative = torch.tensor([[4, 5, 10]] * 4)
    given = {"index": index, "positive_index": index, "sample_ids": ids}
    model.memory_bank.ids[5] = 8
    found = model(IMAGES[:4], inter_negative_index=negative, **given).inter_loss
    query = model.embed_views(IMAGES[:4])["projections"][:, 0]
    bank = model.memory_bank.features
    each = {"temperature": 0.2, "margin": -0.5, "reduction": "none"}
    expected = memory_bank_nce(query, bank, index, negative, **each)
    expected[2] = memory_bank_nce(query, bank, index, negative[:, [0, 2]], **each)[2]
    torch.testing.assert_close(found, expected.mean())


def test_wrong_row_numbers():
    model = build()
    with pytest.raises(ValueError, match="`index` is missing"):
        model(IMAGES[:4])
    with pytest.raises(ValueError, match="dataset index 24 outside the memory bank of length 24"):
        model(IMAGES[:4], index=torch.tensor([1, 2, 3, 24]))
    assert "loss" not in model(IMAGES[:4], return_loss=False)


def rows() -> list[dict[str, torch.Tensor]]:
    return [{"pixel_values": IMAGES[row], "index": torch.tensor(row)} for row in range(BANK)]


def one_view(batch: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {
        "pixel_values": torch.stack([row["pixel_values"][0] for row in batch]),
        "index": torch.stack([row["index"] for row in batch]),
    }


def train(model, folder, resume: str | None = None, **settings):
    arguments = ContrastiveTrainingArguments(
        str(folder),
        **{
            "num_train_epochs": 3,
            "per_device_train_batch_size": 8,
            "learning_rate": 1e-2,
            "use_cpu": True,
            "disable_tqdm": True,
            "save_strategy": "no",
            "dataloader_pin_memory": False,
            **settings,
        },
    )
    callback = ClusterMemoryBankCallback(rows(), one_view, batch_size=10)
    trainer = ContrastiveTrainer(model, arguments, train_dataset=rows(), callbacks=[callback])
    trainer.train(resume)
    return callback


def test_callback_clusters_all_images_in_their_rows():
    model = build(clustered=False)
    callback = ClusterMemoryBankCallback(rows()[::-1], one_view, batch_size=10)
    state = torch.get_rng_state()
    callback.cluster(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    expected = model.embed_for_bank(IMAGES[:, 0])
    torch.testing.assert_close(model.memory_bank.features, expected)
    torch.testing.assert_close(model.memory_bank.features.norm(dim=1), torch.ones(BANK))
    assert torch.equal(model.memory_bank.labels, kmeans_labels(model.memory_bank.features, 3))
    with pytest.raises(ValueError, match="has 24 rows, but the data set 5; build the bank with length=len"):
        ClusterMemoryBankCallback(rows()[:5], one_view).cluster(model)
    twice = [*rows()[:-1], rows()[0]]
    with pytest.raises(ValueError, match="every number from 0 to 23 once"):
        ClusterMemoryBankCallback(twice, one_view).cluster(model)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, [True, False, False]),
        ({"warmup_epochs": 1}, [False, True, False]),
        ({"warmup_epochs": 1, "online_labels": False}, [False, True, True]),
        ({"inter_weight": 0.0}, [False, False, False]),
    ],
)
def test_when_clustering_is_due(fields, expected, monkeypatch):
    model, seen = build(clustered=False, **fields), []
    callback = ClusterMemoryBankCallback(rows(), one_view)
    monkeypatch.setattr(
        callback,
        "cluster",
        lambda model, epoch, *_: (seen.append(epoch), model.memory_bank.set_labels(torch.arange(BANK) % 3, epoch)),
    )
    args, start = SimpleNamespace(device="cpu", dataloader_num_workers=0), SimpleNamespace(epoch=0, global_step=0)
    callback.on_train_begin(args, start, None, model=model)
    for _ in range(3):
        callback.on_epoch_begin(args, start, None, model=model)
    assert [epoch in seen for epoch in range(3)] == expected
    # a run resumed within the last epoch does not cluster again in it
    seen.clear()
    callback.on_train_begin(args, SimpleNamespace(epoch=2.5, global_step=8), None, model=model)
    callback.on_epoch_begin(args, start, None, model=model)
    assert not seen


@pytest.mark.parametrize("fields", [{"warmup_epochs": 1}, {"online_labels": False}], ids=["warm-up", "offline"])
def test_resume_with_clusters_is_exact(fields, tmp_path):
    straight = build(clustered=False, **fields)
    train(straight, tmp_path / "a", save_strategy="steps", save_steps=4)  # in the middle of the second epoch
    assert straight.memory_bank.is_clustered
    resumed = build(clustered=False, seed=5, **fields)
    torch.manual_seed(99)
    train(resumed, tmp_path / "b", resume=str(tmp_path / "a" / "checkpoint-4"))
    for name, tensor in straight.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


def test_a_checkpoint_without_memory_starts_with_a_new_bank(tmp_path):
    model = build()
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "light", save_memory=False)
    whole, light = (InterCLRForPreTraining.from_pretrained(tmp_path / name).train() for name in ("whole", "light"))
    assert torch.equal(whole.memory_bank.labels, model.memory_bank.labels)
    assert whole.memory_bank.is_clustered
    assert not light.memory_bank.is_clustered
    torch.testing.assert_close(light.memory_bank.features.norm(dim=1), torch.ones(BANK))
    assert torch.equal(light.projection_head.layers[0][0].weight, model.projection_head.layers[0][0].weight)
    with pytest.raises(RuntimeError, match="saved without memory"):
        light(IMAGES[:4], index=torch.arange(4))
    # the trainer's callback builds the clusters anew
    train(light, tmp_path / "run", num_train_epochs=1)
    assert light.memory_bank.is_clustered


def test_chance_level():
    model = build(base="moco", intra_margin=0.0)
    torch.testing.assert_close(
        torch.tensor(model.chance_loss(4, 2)),
        torch.tensor(
            0.75 * torch.tensor(17.0).log().item() + 0.25 * torch.tensor(1 + 6 * 2.718281828 ** (-2.5)).log().item()
        ),
    )
    assert build(inter_margin_type="angle").chance_loss(4, 2) is None
    assert model.count_positives(2) == 2
