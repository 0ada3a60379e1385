"""Momentum encoders, queues and prototypes: exactness over steps, processes and adapters."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from helpers.testers import random_images
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hf_contrastive import ConvEncoderConfig, MoCoConfig, MoCoForPreTraining
from hf_contrastive.distributed import get_rank, get_world_size
from hf_contrastive.losses import info_nce
from hf_contrastive.modules.feature_queue import FeatureQueue
from hf_contrastive.modules.lora import add_lora
from hf_contrastive.modules.momentum_encoder import MomentumEncoder, merged_parameters, shuffled_forward
from hf_contrastive.modules.prototypes import Prototypes


class Owner(nn.Module):
    """The little of a model that a part needs."""

    training_progress = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def test_momentum_is_an_average_of_parameters_and_leaves_statistics_alone():
    model = Owner().double()
    slow = MomentumEncoder({"head": model.head}, momentum=0.75)
    start = copy.deepcopy(slow.state_dict())
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.add_(torch.randn_like(parameter))
        model.head[1].running_mean.fill_(5)
    slow.after_step(model)
    for name, parameter in model.head.named_parameters():
        expected = 0.75 * start[f"head_copy.{name}"] + 0.25 * parameter
        torch.testing.assert_close(slow.head_copy.get_parameter(name), expected.detach(), rtol=1e-14, atol=1e-15)
    assert float(slow.head_copy[1].running_mean.abs().max()) == 0
    assert not any(parameter.requires_grad for parameter in slow.parameters())


@pytest.mark.parametrize(("progress", "expected"), [(0.0, 0.99), (0.5, 0.995), (1.0, 1.0)])
def test_cosine_schedule(progress, expected):
    slow = MomentumEncoder({"head": Owner().head}, momentum=0.99, schedule="cosine")
    assert slow.current_momentum(progress) == pytest.approx(expected)


def test_trainer_tells_the_progress(tmp_path):
    from hf_contrastive import ContrastiveTrainer, ContrastiveTrainingArguments

    torch.manual_seed(0)
    model = small_moco()
    seen = []
    model.momentum_encoder.schedule = "cosine"
    current = model.momentum_encoder.current_momentum
    model.momentum_encoder.current_momentum = lambda progress: seen.append(progress) or current(progress)
    rows = [{"pixel_values": random_images(2, 3, 8, 8, seed=seed)} for seed in range(8)]
    args = ContrastiveTrainingArguments(
        str(tmp_path), use_cpu=True, max_steps=4, per_device_train_batch_size=4, disable_tqdm=True, save_strategy="no"
    )
    ContrastiveTrainer(model, args, train_dataset=rows).train()
    assert seen == [0.0, 0.25, 0.5, 0.75]


def test_half_precision_that_stands_still_is_said_once():
    model = Owner().to(torch.bfloat16)
    slow = MomentumEncoder({"head": model.head}, momentum=0.999)
    with pytest.warns(UserWarning, match="momentum encoder is in bfloat16, in which a step of 0.001"):
        slow.after_step(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        slow.after_step(model)


def small_moco(**fields) -> MoCoForPreTraining:
    backbone = ConvEncoderConfig(channels=[6, 8])
    options = {"projection_dims": [8, 4], "queue_size": 8, "encoder_momentum": 0.5, **fields}
    return MoCoForPreTraining(MoCoConfig(backbone_config=backbone, **options))


def test_momentum_follows_the_merged_weights_of_adapters():
    torch.manual_seed(0)
    model = add_lora(small_moco(encoder_momentum=0.0), r=2)
    inner = model.get_base_model()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    inner.after_optimizer_step()
    slow = inner.momentum_encoder
    merged = copy.deepcopy(model).merge_and_unload()
    for name, part in (("backbone", slow.backbone_copy), ("projection_head", slow.projection_head_copy)):
        expected = dict(merged.get_submodule(name).named_parameters())
        found = dict(part.named_parameters())
        assert expected.keys() == found.keys() == merged_parameters(inner.get_submodule(name)).keys()
        for key, parameter in found.items():
            torch.testing.assert_close(parameter, expected[key].detach(), rtol=1e-5, atol=1e-6, msg=f"{name}.{key}")


def test_a_given_backbone_reaches_the_momentum_encoder():
    from hf_contrastive import ConvEncoderModel

    torch.manual_seed(0)
    backbone = ConvEncoderModel(ConvEncoderConfig(channels=[6, 8]))
    model = MoCoForPreTraining.from_backbone(backbone, projection_dims=[8, 4], queue_size=8)
    for name, parameter in backbone.named_parameters():
        assert torch.equal(model.momentum_encoder.backbone_copy.get_parameter(name), parameter), name


def test_queue_wraps_and_keeps_ids():
    queue = FeatureQueue(size=4, dim=2)
    for number in range(3):
        queue.stage(torch.full((2, 2), 1.0 + number), torch.tensor([2 * number, 2 * number + 1]))
        queue.after_step(None)
    assert queue.ids.tolist() == [4, 5, 2, 3]
    assert queue.position == 2
    assert queue.is_full
    torch.testing.assert_close(queue.features.norm(dim=1), torch.ones(4))


def test_queue_never_stages_more_than_it_holds():
    queue = FeatureQueue(size=4, dim=2)
    for number in range(5):
        queue.stage(torch.randn(2, 2), torch.tensor([number, number]))
    queue.after_step(None)
    assert sorted(queue.ids.tolist()) == [3, 3, 4, 4]


def test_prototypes_are_unit_and_frozen_at_first():
    torch.manual_seed(0)
    prototypes = Prototypes(4, 6, frozen_steps=2)
    optimizer = torch.optim.SGD(prototypes.parameters(), lr=1.0, weight_decay=0.5)
    moved = []
    for _ in range(3):
        before = prototypes.weight.detach().clone()
        optimizer.zero_grad()
        prototypes(torch.randn(3, 4)).square().sum().backward()
        prototypes.before_step(None)
        optimizer.step()
        prototypes.after_step(None)
        moved.append(not torch.allclose(before, prototypes.weight, atol=1e-6))
        torch.testing.assert_close(prototypes.weight.norm(dim=1), torch.ones(6))
    assert moved == [False, False, True]


ROWS = 8


def train_shares(steps: int) -> dict[str, torch.Tensor]:
    """Runs in each process: steps of MoCo on its share of the batch."""
    torch.manual_seed(0)
    model = small_moco(projection_batch_norm=False, queue_size=16).double().eval()
    # eval mode: batch norm of the backbone would see the rows of one process only; the queue is staged by hand of the test
    model.queue.train()
    model.training = True
    torch.manual_seed(100 + get_rank())
    share = ROWS // get_world_size()
    rows = slice(get_rank() * share, (get_rank() + 1) * share)
    wrapped = DistributedDataParallel(model) if get_world_size() > 1 else model
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for step in range(steps):
        optimizer.zero_grad()
        images = random_images(ROWS, 2, 3, 8, 8, seed=step).double()[rows]
        wrapped(pixel_values=images, sample_ids=torch.arange(ROWS)[rows]).loss.backward()
        optimizer.step()
        model.after_optimizer_step()
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@pytest.mark.distributed
def test_several_steps_of_two_processes_are_those_of_one(gloo_pool):
    first, second = gloo_pool.run(train_shares, 3)
    alone = train_shares(3)
    for name, tensor in alone.items():
        assert torch.equal(first[name], second[name]), f"{name} differs between the processes"
        torch.testing.assert_close(
            first[name], tensor, rtol=1e-9, atol=1e-11, msg=lambda text, name=name: f"{name}: {text}"
        )
    assert set(alone["queue.ids"].tolist()) == set(range(ROWS))


def shuffle_rows() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Runs in each process: what the function saw, what came back, what was given."""
    seen = []
    torch.manual_seed(5 + get_rank())
    rows = torch.arange(4.0)[:, None] + 10 * get_rank()

    def function(part: torch.Tensor) -> torch.Tensor:
        seen.append(part)
        return 2 * part

    back = shuffled_forward(function, rows)
    return seen[0], back, rows


@pytest.mark.distributed
def test_shuffled_rows_come_back_in_order(gloo_pool):
    (seen_a, back_a, rows_a), (seen_b, back_b, rows_b) = gloo_pool.run(shuffle_rows)
    assert torch.equal(back_a, 2 * rows_a)
    assert torch.equal(back_b, 2 * rows_b)
    assert sorted(torch.cat([seen_a, seen_b]).flatten().tolist()) == sorted(
        torch.cat([rows_a, rows_b]).flatten().tolist()
    )
    assert set(seen_a.flatten().tolist()) != set(rows_a.flatten().tolist()), "nothing was shuffled"


def draw_queue() -> torch.Tensor:
    """Runs in each process, seeded differently."""
    torch.manual_seed(get_rank())
    queue = FeatureQueue(size=8, dim=3)
    queue.stage(torch.randn(2, 3))
    queue.after_step(None)
    return queue.features


@pytest.mark.distributed
def test_processes_with_other_seeds_end_with_one_queue(gloo_pool):
    first, second = gloo_pool.run(draw_queue)
    assert torch.equal(first, second)


def first_loss_with_own_seed() -> dict[str, torch.Tensor]:
    """Runs in each process: one forward pass, the queue drawn with a seed of the process's own."""
    torch.manual_seed(0)
    model = small_moco().eval()
    torch.manual_seed(10 + get_rank())
    model.queue.init_state(None)
    outputs = model(random_images(4, 2, 3, 8, 8, seed=1))
    return {"loss": outputs.loss.detach(), "projections": outputs.projections.detach(), "queue": model.queue.features}


@pytest.mark.distributed
def test_the_first_loss_sees_the_joined_queue(gloo_pool):
    first, second = gloo_pool.run(first_loss_with_own_seed)
    assert torch.equal(first["queue"], second["queue"])
    query, key = second["projections"].unbind(1)
    expected = info_nce(query, key, second["queue"], temperature=0.2, in_batch_negatives=False)
    torch.testing.assert_close(second["loss"], expected)


def test_half_precision_does_not_round_the_queue():
    torch.manual_seed(0)
    model = small_moco().eval()
    images = random_images(4, 2, 3, 8, 8, seed=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(images)
    query, key = outputs.projections.float().unbind(1)
    expected = info_nce(query, key, model.queue.features, temperature=0.2, in_batch_negatives=False)
    torch.testing.assert_close(outputs.loss, expected, rtol=1e-6, atol=1e-6)
