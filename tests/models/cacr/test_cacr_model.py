"""CACR's three variants: what each compares, what waits for the optimiser step, what is refused."""

from __future__ import annotations

import pytest
import torch
from helpers.testers import image_backbones, random_images

from hf_contrastive import CACRConfig, CACRForPreTraining
from hf_contrastive.losses import cacr_loss, cacr_momentum_loss, cacr_queue_loss


def build(**fields) -> CACRForPreTraining:
    torch.manual_seed(0)
    options = {"projection_dims": [8, 6], "queue_size": 12, "encoder_momentum": 0.9, **fields}
    return CACRForPreTraining(CACRConfig(backbone_config=image_backbones()["conv_encoder"], **options))


def views(number: int = 3, size: int = 16, seed: int = 0) -> torch.Tensor:
    return random_images(4, number, 3, size, size, seed=seed)


@pytest.mark.parametrize("fields", [{}, {"cost": "rbf"}, {"choice": "none", "alpha": 2.0}, {"debiased": True}])
def test_batch(fields):
    model = build(tau_pos=1.5, tau_neg=0.9, beta=1.2, **fields)
    outputs = model(views())
    options = {"alpha": 1.0, "beta": 1.2, **fields}
    terms = cacr_loss(outputs.projections.transpose(0, 1), 1.5, 0.9, **options)
    torch.testing.assert_close(outputs.loss, terms.loss)
    torch.testing.assert_close(outputs.attraction_loss + outputs.repulsion_loss, outputs.loss)
    torch.testing.assert_close(outputs.positive_weights, terms.positive_weights.transpose(0, 1))
    assert not model.training_state()


def test_queue_compares_with_the_old_rows_and_takes_the_last_views():
    model = build(variant="queue").train()
    ids = torch.tensor([3, 4, 3, 6])
    embeds = model.embed_views(views())
    before = model.queue.features.clone()
    outputs = model.compute_objective(embeds, ids)
    queries, keys = (embeds[name].transpose(0, 1) for name in ("projections", "keys"))
    expected = cacr_queue_loss(queries, keys, before, sample_ids=ids, queue_ids=model.queue.ids)
    torch.testing.assert_close(outputs.loss, expected.loss)
    torch.testing.assert_close(outputs.positive_weights, expected.positive_weights.transpose(0, 1))
    assert not keys.requires_grad
    assert torch.equal(model.queue.features, before)
    outputs.loss.backward()
    slow = model.momentum_encoder.part("projection_head").layers[0][0].weight.clone()
    with torch.no_grad():
        model.projection_head.layers[0][0].weight.add_(1)
    model.after_optimizer_step()
    last = torch.nn.functional.normalize(keys[-1], dim=-1)
    torch.testing.assert_close(model.queue.features[:4], last)
    assert model.queue.ids[:4].tolist() == ids.tolist()
    assert torch.equal(model.queue.features[4:], before[4:])
    moved = model.momentum_encoder.part("projection_head").layers[0][0].weight - slow
    torch.testing.assert_close(moved, torch.full_like(moved, 0.1))


@pytest.mark.parametrize("all_targets", [False, True])
@pytest.mark.parametrize("cost", ["rbf", "euclidean"])
def test_momentum_with_local_crops(cost, all_targets):
    model = build(variant="momentum", cost=cost, temperature=0.4, all_targets=all_targets, predictor_dims=[7, 6])
    model.eval()
    embeds = model.embed_views(views(3), views(2, size=8, seed=1))
    queries = embeds["queries"].transpose(0, 1)
    assert embeds["queries"].shape == (4, 5, 6)
    assert embeds["keys"].shape == (4, 5 if all_targets else 2, 6)
    # each target is predicted by all other views and crops
    losses = []
    for number, key in enumerate(embeds["keys"].transpose(0, 1)):
        others = torch.stack([query for view, query in enumerate(queries) if view != number])
        losses.append(cacr_momentum_loss(others, key, 0.4, cost=cost))
    outputs = model.compute_objective(embeds)
    torch.testing.assert_close(outputs.loss, torch.stack([terms.loss for terms in losses]).mean())
    weights = torch.stack([terms.positive_weights.T for terms in losses], 1)
    torch.testing.assert_close(outputs.positive_weights, weights)


def test_keys_at_the_start_are_those_of_the_encoder():
    model = build(variant="momentum").eval()
    embeds = model.embed_views(views(2))
    torch.testing.assert_close(embeds["keys"], embeds["projections"])


@pytest.mark.parametrize(
    ("fields", "inputs", "message"),
    [
        ({}, {"pixel_values": views(1)}, "CACR needs at least 2 views per instance, `pixel_values` holds 1"),
        ({}, {"pixel_values": views()[:1]}, "CACR needs at least 2 instances for repulsion, got 1"),
        (
            {"num_positives": 4},
            {"pixel_values": views()},
            "num_positives=4 asks for 5 views .* holds 3; .*num_views=5",
        ),
        (
            {},
            {"pixel_values": views(), "local_pixel_values": views(2, 8)},
            "with variant='momentum' only, and the variant is 'batch'",
        ),
        (
            {"variant": "momentum"},
            {"pixel_values": views(), "local_pixel_values": views(2, 8)[:, :, :1]},
            "`local_pixel_values` has 1 channels, but the backbone takes 3",
        ),
        (
            {"variant": "queue", "queue_size": 10},
            {"pixel_values": views()},
            "10 rows, which is no multiple of the global batch of 4 rows; set queue_size=8",
        ),
    ],
)
def test_refusals(fields, inputs, message):
    model = build(**fields).train()
    with pytest.raises(ValueError, match=message):
        model(**inputs)


@pytest.mark.parametrize("variant", ["batch", "queue", "momentum"])
def test_saved_is_loaded(variant, tmp_path):
    model = build(variant=variant).train()
    model(views()).loss.backward()
    model.after_optimizer_step()
    model.save_pretrained(tmp_path)
    loaded = CACRForPreTraining.from_pretrained(tmp_path)
    state = model.state_dict()
    assert loaded.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())
