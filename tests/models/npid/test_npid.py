"""NPID: what a view is compared with, several views, draws."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.testers import image_backbones, random_images
from torch.nn.functional import normalize

from hf_contrastive import NPIDConfig, NPIDForPreTraining


IMAGES = random_images(6, 2, 3, 16, 16, seed=0)
INDEX = torch.tensor([4, 11, 0, 7, 2, 9])


def build(**fields) -> NPIDForPreTraining:
    torch.manual_seed(0)
    options = {"projection_dims": [8, 4], "num_samples": 12, "num_negatives": 9, "temperature": 0.1, **fields}
    return NPIDForPreTraining(NPIDConfig(backbone_config=image_backbones()["conv_encoder"], **options)).train()


def test_loss_is_a_softmax_over_the_own_row_and_the_drawn_ones():
    model = build().eval()
    negatives = torch.randint(0, 12, (6, 9))
    output = model(IMAGES[:, :1], index=INDEX, negative_index=negatives)
    unit, bank = normalize(output.projections[:, 0], dim=1), model.memory_bank.features
    candidates = bank[torch.cat([INDEX[:, None], negatives], 1)]
    logits = (candidates @ unit[:, :, None])[..., 0] / 0.1
    torch.testing.assert_close(output.loss, -logits.log_softmax(1)[:, 0].mean())


def test_views_are_queries_of_their_own_and_the_row_takes_their_mean():
    model = build(bank_momentum=0.5).eval()
    negatives = torch.randint(0, 12, (6, 9))
    alone = [model(IMAGES[:, v : v + 1], index=INDEX, negative_index=negatives).loss for v in range(2)]
    both = model(IMAGES, index=INDEX, negative_index=negatives)
    torch.testing.assert_close(both.loss, (alone[0] + alone[1]) / 2)
    before = model.memory_bank.features.clone()
    # the statistics of batch norm are those of the batch now
    both = model.train()(IMAGES, index=INDEX)
    model.after_optimizer_step()
    new = normalize(normalize(both.projections.detach(), dim=-1).mean(1), dim=1)
    torch.testing.assert_close(model.memory_bank.features[INDEX], normalize(before[INDEX] + new, dim=1))


def test_draws_change_with_the_step_and_are_those_of_a_resumed_run():
    model = build().eval()
    first = model(IMAGES[:, :1], index=INDEX).loss
    assert torch.equal(model(IMAGES[:, :1], index=INDEX).loss, first)
    # rows keep their draws whatever batch they come in
    halves = [model(IMAGES[part, :1], index=INDEX[part]).loss for part in (slice(0, 3), slice(3, 6))]
    torch.testing.assert_close((halves[0] + halves[1]) / 2, first)
    model.after_optimizer_step()
    assert not torch.equal(model(IMAGES[:, :1], index=INDEX).loss, first)


def test_wrong_row_numbers_and_chance():
    model = build()
    with pytest.raises(ValueError, match="`index` is missing"):
        model(IMAGES[:, :1])
    with pytest.raises(ValueError, match="dataset index 12 outside the memory bank of length 12"):
        model(IMAGES[:2, :1], index=torch.tensor([12, 0]))
    assert model.chance_loss(6, 1) == pytest.approx(math.log(10))
    assert model.count_positives(1) == 1
