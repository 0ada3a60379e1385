"""MoCo: what enters the loss and the queue, and when."""

from __future__ import annotations

import pytest
import torch
from helpers.testers import random_images

from hf_contrastive import ConvEncoderConfig, MoCoConfig, MoCoForPreTraining
from hf_contrastive.losses import info_nce


def build(queue_size: int = 8, **fields) -> MoCoForPreTraining:
    torch.manual_seed(0)
    backbone = ConvEncoderConfig(channels=[8, 12])
    return MoCoForPreTraining(
        MoCoConfig(backbone_config=backbone, projection_dims=[10, 6], queue_size=queue_size, **fields)
    )


def test_loss_is_info_nce_of_the_first_view_against_the_queue():
    model = build(temperature=0.3).eval()
    images = random_images(4, 2, 3, 16, 16, seed=0)
    outputs = model(images)
    query = model.projection_head(model.backbone(images[:, 0]).last_hidden_state.mean((2, 3)))
    slow = model.momentum_encoder
    key = slow.projection_head_copy(slow.backbone_copy(images[:, 1]).last_hidden_state.mean((2, 3)))
    q, k = (torch.nn.functional.normalize(x, dim=1) for x in (query, key))
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ model.queue.features.T], 1) / 0.3
    expected = torch.nn.functional.cross_entropy(logits, torch.zeros(4, dtype=torch.long))
    torch.testing.assert_close(outputs.loss, expected)
    torch.testing.assert_close(outputs.projections, torch.stack([query, key], 1))


def test_queue_changes_after_the_step_and_only_in_training():
    model = build()
    images = random_images(4, 2, 3, 16, 16, seed=1)
    before = model.queue.features.clone()
    model.eval()(images)
    model.after_optimizer_step()
    assert torch.equal(model.queue.features, before)
    outputs = model.train()(images)
    assert torch.equal(model.queue.features, before), "the backward pass still needs the old rows"
    outputs.loss.backward()
    model.after_optimizer_step()
    key = torch.nn.functional.normalize(outputs.projections[:, 1], dim=1)
    torch.testing.assert_close(model.queue.features[:4], key)
    assert torch.equal(model.queue.features[4:], before[4:])
    assert model.queue.position == 4


def test_rows_of_the_same_id_in_the_queue_are_no_negatives():
    model = build().train()
    images = random_images(4, 2, 3, 16, 16, seed=2)
    ids = torch.tensor([5, 6, 7, 8])
    model(images, sample_ids=ids)
    model.after_optimizer_step()
    assert model.queue.ids.tolist() == [5, 6, 7, 8, -1, -1, -1, -1]
    model.eval()
    outputs = model(images, sample_ids=torch.tensor([5, 0, 7, 1]))
    query, key = outputs.projections.unbind(1)
    losses = []
    for row, hidden in enumerate([[0], [], [2], []]):
        kept = [number for number in range(8) if number not in hidden]
        losses.append(
            info_nce(
                query[row : row + 1],
                key[row : row + 1],
                model.queue.features[kept],
                temperature=0.2,
                in_batch_negatives=False,
            )
        )
    torch.testing.assert_close(outputs.loss, torch.stack(losses).mean())
    assert not torch.allclose(outputs.loss, model(images).loss)


def test_accumulated_batches_all_enter_the_queue():
    model = build(queue_size=8).train()
    for seed in (0, 1):
        model(random_images(2, 2, 3, 16, 16, seed=seed)).loss.backward()
    model.after_optimizer_step()
    assert model.queue.position == 4


def test_queue_that_does_not_fit_the_batch_is_refused():
    model = build(queue_size=8).train()
    with pytest.raises(
        ValueError, match=r"queue has 8 rows, which is no multiple of the global batch of 3 .*queue_size=9"
    ):
        model(random_images(3, 2, 3, 16, 16, seed=0))
    model.eval()(random_images(3, 2, 3, 16, 16, seed=0))


def test_one_view_is_refused():
    with pytest.raises(ValueError, match="holds 1 view of each image, the objective compares at least 2"):
        build()(random_images(4, 1, 3, 16, 16, seed=0))


def test_a_checkpoint_without_memory_starts_a_new_queue(tmp_path):
    model = build().train()
    model(random_images(4, 2, 3, 16, 16, seed=0))
    model.after_optimizer_step()
    model.save_pretrained(tmp_path, save_memory=False)
    loaded, info = MoCoForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert loaded.queue.position == 0
    assert set(loaded.queue.ids.tolist()) == {-1}
    torch.testing.assert_close(loaded.queue.features.norm(dim=1), torch.ones(8))
    for name, tensor in model.momentum_encoder.state_dict().items():
        assert torch.equal(tensor, loaded.momentum_encoder.state_dict()[name]), name


def test_guessing_is_the_log_of_queue_and_positive():
    import math

    assert build(queue_size=8).chance_loss(rows=4, views=2) == pytest.approx(math.log(9))


def test_it_learns_without_the_trainer():
    model = build(queue_size=32, temperature=0.2, encoder_momentum=0.9).train()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    images = random_images(16, 3, 16, 16, seed=3)
    losses = []
    for step in range(60):
        noise = torch.randn(16, 2, 3, 16, 16, generator=torch.Generator().manual_seed(step))
        loss = model(images[:, None] + 0.02 * noise).loss
        optimizer.zero_grad()
        loss.backward()
        model.before_optimizer_step()
        optimizer.step()
        model.after_optimizer_step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) / 5 < 0.8 * sum(losses[3:8]) / 5
