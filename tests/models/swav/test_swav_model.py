"""SwAV: prototypes, queue and local crops over the steps of a training."""

from __future__ import annotations

import pytest
import torch
from helpers.gloo import GlooPool
from helpers.testers import image_backbones, random_images

from hf_contrastive import SwAVConfig, SwAVForPreTraining
from hf_contrastive.distributed import get_rank, get_world_size
from hf_contrastive.losses import sinkhorn, swapped_prediction
from hf_contrastive.modules.prototypes import Prototypes
from hf_contrastive.modules.rolling_queue import RollingQueue


def build(backbone: str = "conv_encoder", **fields) -> SwAVForPreTraining:
    torch.manual_seed(0)
    options = {"projection_dims": [8, 6], "num_prototypes": 5, "epsilon": 0.1, "freeze_prototypes_steps": 0, **fields}
    return SwAVForPreTraining(SwAVConfig(backbone_config=image_backbones()[backbone], **options)).train()


def images(number: int = 2, size: int = 16, seed: int = 0) -> torch.Tensor:
    return random_images(4, number, 3, size, size, seed=seed)


def step(model, optimizer, *inputs: torch.Tensor) -> float:
    loss = model(*inputs).loss
    optimizer.zero_grad()
    loss.backward()
    model.before_optimizer_step()
    optimizer.step()
    model.after_optimizer_step()
    return loss.item()


def test_first_views_are_assigned_and_all_others_predict():
    model = build(num_assigning_views=1)
    embeds = model.embed_views(images(3), images(2, 8, seed=1))
    everything = torch.cat([embeds["projections"], embeds["local_projections"]], 1)
    scores = torch.nn.functional.normalize(everything, dim=-1).transpose(0, 1) @ model.prototypes.weight.T
    expected = swapped_prediction(scores, sinkhorn(scores[0], 0.1)[None], 0.1)
    torch.testing.assert_close(model.compute_objective(embeds).loss, expected)


def test_one_pass_for_each_resolution():
    model, shapes = build(), []
    model.backbone.register_forward_hook(
        lambda module, args, kwargs, out: shapes.append(kwargs["pixel_values"].shape), with_kwargs=True
    )
    model(images(2), images(3, 8, seed=1))
    assert shapes == [(8, 3, 16, 16), (12, 3, 8, 8)]


def test_local_crops_of_a_backbone_with_learned_positions():
    outputs = build("vit")(images(2), images(2, 8, seed=1))
    outputs.loss.backward()
    assert outputs.projections.shape == (4, 2, 6)


def test_prototypes_stand_still_at_first_and_keep_their_length():
    model = build(freeze_prototypes_steps=2)
    # weight decay would move them too
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    start, seen = model.prototypes.weight.clone(), []
    for _ in range(4):
        step(model, optimizer, images())
        seen.append(torch.allclose(model.prototypes.weight, start, atol=1e-6))
        torch.testing.assert_close(model.prototypes.weight.norm(dim=1), torch.ones(5))
    assert seen == [True, True, False, False]


def test_queue_is_used_once_full_and_written_after_the_step():
    model = build(queue_size=8)
    for number in range(3):
        pictures = images(seed=number)
        embeds = model.embed_views(pictures)
        before = model.queue.features.clone()
        features = torch.nn.functional.normalize(embeds["projections"], dim=-1).transpose(0, 1).detach()
        scores = features @ model.prototypes.weight.T
        past = before @ model.prototypes.weight.T if number == 2 else [None, None]
        codes = torch.stack([sinkhorn(scores[v], 0.1, earlier=past[v]) for v in range(2)])
        loss = model.compute_objective(embeds).loss
        torch.testing.assert_close(loss, swapped_prediction(scores, codes, 0.1))
        if number == 2:
            alone = torch.stack([sinkhorn(scores[v], 0.1) for v in range(2)])
            assert not torch.allclose(loss, swapped_prediction(scores, alone, 0.1))
        assert torch.equal(model.queue.features, before)
        model.after_optimizer_step()
        torch.testing.assert_close(model.queue.features[:, :4], features)
        assert torch.equal(model.queue.features[:, 4:], before[:, :4])


def test_queue_starts_later_and_not_in_evaluation():
    model = build(queue_size=4, queue_start_steps=1)
    for training, written in ((True, 0), (False, 0), (True, 4)):
        model.train(training)
        model(images())
        model.after_optimizer_step()
        assert int(model.queue.num_written) == written


def test_saved_is_loaded(tmp_path):
    model = build(queue_size=4)
    step(model, torch.optim.SGD(model.parameters(), 0.1), images())
    model.save_pretrained(tmp_path)
    loaded = SwAVForPreTraining.from_pretrained(tmp_path).train()
    state = model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())
    assert loaded.queue.is_full
    assert torch.equal(loaded(images(seed=1)).loss, model(images(seed=1)).loss)


@pytest.mark.parametrize(
    ("fields", "inputs", "message"),
    [
        ({}, (images(1),), "holds 1 view of each image, the objective compares at least 2"),
        ({"num_assigning_views": 3}, (images(2),), "holds 2 views .* num_assigning_views is 3; .*num_views=3"),
        ({}, (images(), None, torch.arange(4)), "has no negatives, so `sample_ids` would do nothing"),
        ({}, (images(), images(2, 8)[:, :, :1]), "`local_pixel_values` has 1 channels, but the backbone takes 3"),
        (
            {},
            (images(), images(1, 8)[:, 0]),
            r"`local_pixel_values` has shape \(4, 3, 8, 8\), expected \[batch, crops",
        ),
        (
            {"queue_size": 3},
            (images(),),
            "the queue has 3 rows, fewer than the global batch of 4 rows; set queue_size=4",
        ),
    ],
)
def test_refusals(fields, inputs, message):
    with pytest.raises(ValueError, match=message):
        build(**fields)(*inputs)


def test_one_prototype_is_refused():
    with pytest.raises(ValueError, match="`num_prototypes` is 1, but one prototype tells nothing apart"):
        Prototypes(4, 1)


# ------------------------------------------------------------------------------------------------ the queue by itself


def rows(*values: float) -> torch.Tensor:
    return torch.tensor(values)[None, :, None].expand(2, -1, 3).clone()


def test_several_batches_before_one_step_enter_in_order():
    queue = RollingQueue(2, 5, 3)
    queue.stage(rows(1, 2))
    queue.stage(rows(3, 4))
    assert not queue.features.any()
    queue.after_step(None)
    assert queue.features[0, :, 0].tolist() == [3, 4, 1, 2, 0]
    assert not queue.is_full
    # a size that is no multiple of the batch: the oldest falls out
    queue.stage(rows(5, 6))
    queue.after_step(None)
    assert queue.features[1, :, 2].tolist() == [5, 6, 3, 4, 1]
    assert queue.is_full
    for number in range(9):  # what would fall out again is not kept
        queue.stage(rows(number, number))
    assert len(queue._staged) == 3
    queue.after_step(None)
    assert queue.features[0, :, 0].tolist() == [8, 8, 7, 7, 6]


def queue_job() -> torch.Tensor:
    """Runs in each process: two batches of its rows."""
    queue = RollingQueue(2, 6, 3)
    share = 4 // get_world_size()
    for start in (0, 10):
        mine = [float(start + get_rank() * share + number) for number in range(share)]
        queue.stage(rows(*mine))
        queue.after_step(None)
    return queue.features


@pytest.mark.distributed
def test_two_processes_hold_the_queue_of_one(gloo_pool: GlooPool):
    expected = queue_job()
    for found in gloo_pool.run(queue_job):
        assert torch.equal(found, expected)
