"""DirectPred: the predictor's law, its statistics over steps, processes and interruptions, and what it prevents."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from helpers.testers import image_backbones, random_images
from torch import nn

from hf_contrastive import ConvEncoderConfig, DirectPredConfig, DirectPredForPreTraining
from hf_contrastive.distributed import get_rank, get_world_size
from hf_contrastive.modules.direct_predictor import RunningCorrelation, SetPredictor, direct_set_weight
from hf_contrastive.training.monitors import CollapseMonitor, CollapseWarning


def build(backbone: str = "vit", **fields) -> DirectPredForPreTraining:
    torch.manual_seed(0)
    options = {"projection_dims": [8, 5], "projection_batch_norm": False, "encoder_momentum": 0.9, **fields}
    config = DirectPredConfig(backbone_config=image_backbones()[backbone], **options)
    return DirectPredForPreTraining(config).double().train()


def images(rows: int = 6, seed: int = 0, views: int = 2) -> torch.Tensor:
    return random_images(rows, views, 3, 16, 16, seed=seed).double()


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05, momentum=0.9)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, *batches: torch.Tensor) -> None:
    """One optimiser step over one or more micro-batches."""
    optimizer.zero_grad()
    for batch in batches:
        (model(batch).loss / len(batches)).backward()
    optimizer.step()
    model.after_optimizer_step()


def correlation(dim: int = 6, seed: int = 0) -> torch.Tensor:
    z = torch.randn(20, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return z.T @ z / 20


# ------------------------------------------------------------------------------------------------- the predictor's law


@pytest.mark.parametrize(
    ("options", "law"),
    [
        ({"power": 2.0, "eps": 0.1}, lambda s: (s / s.max()).sqrt() + 0.1),
        ({"power": 3.0, "eps": -0.9}, lambda s: ((s / s.max()) ** (1 / 3) - 0.9).clamp(min=1e-4)),
        ({"power": 1.0, "eps": -0.3, "eps_inside": True}, lambda s: (s / s.max() - 0.3).clamp(min=1e-4)),
        ({"power": 2.0, "eps": 0.0, "reg": 0.2}, lambda s: 0.8 * (s / s.max()).sqrt()),
        ({"balance_type": "direct", "power": 2.0, "eps": 0.1}, lambda s: s.sqrt() + 0.1),
        ({"balance_type": "shrink2mean"}, lambda s: (s - s.mean()) / 2 + s.mean()),
        ({"balance_type": "clamp", "reg": 0.4}, lambda s: s.clamp(0, 0.6)),
        ({"balance_type": "clamp"}, lambda s: s.clamp(0, 1)),
    ],
)
@pytest.mark.parametrize("diagonal_only", [False, True])
def test_eigenvalues_follow_the_law(options, law, diagonal_only):
    f = correlation()
    weight = direct_set_weight(f, diagonal_only=diagonal_only, **options)
    if diagonal_only:
        torch.testing.assert_close(weight, torch.diag(law(f.diagonal())))
        return
    # the same eigenvectors: W v = p v
    values, vectors = torch.linalg.eigh(f)
    torch.testing.assert_close(weight @ vectors, vectors * law(values), rtol=1e-9, atol=1e-11)


def test_the_correlation_is_made_symmetric_first():
    f = correlation()
    skew = torch.triu(torch.ones_like(f), 1)
    torch.testing.assert_close(direct_set_weight(f + skew - skew.T), direct_set_weight(f))


def test_half_precision_is_decomposed_in_float32():
    f = correlation().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = direct_set_weight(f)
    assert torch.equal(under_autocast, direct_set_weight(f))
    half = direct_set_weight(f.bfloat16())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, direct_set_weight(f), rtol=0.05, atol=0.05)


def test_zero_features_are_a_collapse_and_no_nan():
    with pytest.raises(RuntimeError, match="the projections have collapsed to zero"):
        direct_set_weight(torch.zeros(3, 3))
    model = build()
    with torch.no_grad():
        for parameter in model.projection_head.parameters():
            parameter.zero_()
    model(images())
    with pytest.raises(RuntimeError, match="collapsed to zero"):
        model.after_optimizer_step()


def test_what_is_not_square_is_refused():
    with pytest.raises(ValueError, match=r"shape \[3, 2\], but a predictor is set from a square matrix"):
        direct_set_weight(torch.ones(3, 2))
    model = build()
    model.predictor = SetPredictor(4).double()
    model.running_correlation.stage(images().flatten(2)[0, :, :5])
    model.running_correlation.after_step(model)
    with pytest.raises(
        ValueError, match=r"weight of shape \[4, 4\], but its inputs give one of \[5, 5\]: it must be square"
    ):
        model.predictor.after_step(model)


# ---------------------------------------------------------------------------------------------- statistics over steps


@pytest.mark.parametrize("rho", [0.3, 0.0, None])
@pytest.mark.parametrize("zero_mean", [False, True])
def test_running_correlation(rho, zero_mean):
    running = RunningCorrelation(4, rho).double()
    batches = [1 + torch.randn(6, 4, generator=torch.Generator().manual_seed(n)).double() for n in range(4)]
    seconds, means = [], []
    for batch in batches:
        running.stage(batch)
        running.after_step(None)
        seconds.append(batch.T @ batch / len(batch))
        means.append(batch.mean(0))
    expected = []
    for values in (seconds, means):
        value = values[0]
        for new in values[1:]:
            value = torch.stack(values).mean(0) if rho is None else rho * value + (1 - rho) * new
        expected.append(value)
    f = expected[0] - torch.outer(expected[1], expected[1]) if zero_mean else expected[0]
    torch.testing.assert_close(running.correlation(zero_mean), f)
    # nothing was staged: nothing changes
    running.after_step(None)
    torch.testing.assert_close(running.correlation(zero_mean), f)


def test_the_predictor_follows_the_step_that_ends():
    """Step n uses the matrix of step n - 1; the first one a random matrix."""
    model = build(eps=0.1)
    optimizer = optimizer_of(model)
    for seed in range(2):
        before = model.predictor.weight.clone()
        outputs = model(images(seed=seed))
        torch.testing.assert_close(outputs.predictions, outputs.projections @ before.T)
        assert torch.equal(model.predictor.weight, before), "nothing is written before the optimiser step"
        step(model, optimizer, images(seed=seed))
        # two forward passes without a step in between were pooled; the parameters were the same
        rows = outputs.projections.detach().flatten(0, 1)
        if seed == 0:
            torch.testing.assert_close(model.running_correlation.second_moment, rows.T @ rows / len(rows))
        expected = direct_set_weight(model.running_correlation.second_moment, eps=0.1)
        torch.testing.assert_close(model.predictor.weight, expected)


def test_evaluation_counts_nothing():
    model = build().eval()
    model(images())
    model.after_optimizer_step()
    assert int(model.running_correlation.num_updates) == 0


def test_micro_batches_are_pooled():
    """Without batch norm, two halves with gradient accumulation are one batch."""
    whole, halves = build(), build()
    for seed in range(3):
        batch = images(8, seed)
        step(whole, optimizer_of(whole), batch)
        step(halves, optimizer_of(halves), batch[:4], batch[4:])
    torch.testing.assert_close(halves.state_dict(), whole.state_dict(), rtol=1e-9, atol=1e-11)
    assert int(halves.running_correlation.num_updates) == 3


def test_set_at_every_step_it_has_no_gradient_and_otherwise_it_is_trained():
    assert not [name for name, _ in build().named_parameters() if name.startswith("predictor")]
    model = build(freq=3)
    optimizer = optimizer_of(model)
    symmetric = []
    for seed in range(5):
        step(model, optimizer, images(seed=seed))
        weight = model.predictor.weight.detach()
        symmetric.append(bool(torch.allclose(weight, weight.T, rtol=0, atol=1e-9)))
    assert symmetric == [True, False, False, True, False]


@pytest.mark.parametrize("mode", ["linear", "symmetric", "mlp", "none"])
def test_trained_predictors(mode):
    model = build(predictor_mode=mode)
    assert not hasattr(model, "running_correlation")
    assert ("predictor" in dict(model.named_children())) == (mode != "none")
    optimizer = optimizer_of(model)
    for seed in range(2):
        step(model, optimizer, images(seed=seed))
    if mode == "symmetric":
        assert torch.equal(model.predictor.weight, model.predictor.weight.T)
    if mode == "none":
        outputs = model(images())
        assert torch.equal(outputs.predictions, outputs.projections)


def test_a_target_of_its_own():
    model = build("conv_encoder", target_init="random")
    pairs = [
        ("backbone.stages.0.0.weight", "momentum_encoder.backbone_copy.stages.0.0.weight"),
        ("projection_head.layers.0.0.weight", "momentum_encoder.projection_head_copy.layers.0.0.weight"),
    ]
    state = model.state_dict()
    for own, target in pairs:
        assert float((state[own] - state[target]).abs().max()) > 0.01
        torch.testing.assert_close(state[target].std(), state[own].std(), rtol=0.5, atol=0)
    state = build("conv_encoder").state_dict()
    assert all(torch.equal(state[own], state[target]) for own, target in pairs)


def test_without_normalisation():
    model = build(use_l2_normalization=False)
    outputs = model(images())
    p, t = outputs.predictions, outputs.target_projections
    expected = (p[:, 0] - t[:, 1]).square().sum(1) + (p[:, 1] - t[:, 0]).square().sum(1)
    torch.testing.assert_close(outputs.loss, expected.mean())


def test_features_that_overflow_are_named():
    model = build()
    step(model, optimizer_of(model), images())
    before = copy.deepcopy(model.running_correlation.state_dict())
    model.running_correlation.stage(torch.full((4, 5), torch.inf).double())
    with pytest.raises(FloatingPointError, match=r"running correlation is not finite at step 2 \(loss diverged"):
        model.after_optimizer_step()
    torch.testing.assert_close(model.running_correlation.state_dict(), before)


def test_one_sample_and_one_view():
    model = build("conv_encoder", projection_batch_norm=True)
    with pytest.raises(ValueError, match=r"batch of one sample.*needs at least 2 samples per device"):
        model(images(1))
    assert model.eval()(images(1)).loss.isfinite()
    with pytest.raises(ValueError, match="holds 1 view of each image, the objective compares at least 2"):
        model(images(views=1))


# --------------------------------------------------------------------------------------- processes and interruptions


def train_steps(rho: float | None, micro_batches: int) -> dict[str, torch.Tensor]:
    """Three steps on this process's share of a batch of eight."""
    model = build(rho=rho, zero_mean=True, freq=2)
    optimizer = optimizer_of(model)
    wrapped = nn.parallel.DistributedDataParallel(model) if get_world_size() > 1 else model
    share = 8 // get_world_size()
    for seed in range(3):
        mine = images(8, seed)[get_rank() * share : (get_rank() + 1) * share]
        optimizer.zero_grad()
        for part in mine.chunk(micro_batches):
            (wrapped(part).loss / micro_batches).backward()
        optimizer.step()
        model.after_optimizer_step()
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.distributed
@pytest.mark.parametrize("rho", [0.3, None])
def test_two_processes_are_one(rho, gloo_pool):
    first, second = gloo_pool.run(train_steps, rho, 2)
    expected = train_steps(rho, 1)
    torch.testing.assert_close(first, expected, rtol=1e-8, atol=1e-10)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("freq", [1, 2])
def test_saved_and_continued_is_uninterrupted(freq, tmp_path):
    model = build(freq=freq, rho=None)
    optimizer = optimizer_of(model)
    for seed in range(2):
        step(model, optimizer, images(seed=seed))
    model.save_pretrained(tmp_path)
    loaded = DirectPredForPreTraining.from_pretrained(tmp_path, dtype=torch.float64).train()
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert [n for n, p in loaded.named_parameters() if p.requires_grad] == [
        n for n, p in model.named_parameters() if p.requires_grad
    ]
    again = optimizer_of(loaded)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # it would share the momentum
    for seed in (2, 3):
        step(model, optimizer, images(seed=seed))
        step(loaded, again, images(seed=seed))
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())


# ------------------------------------------------------------------------------------------------------------ collapse


def collapse_run(mode: str) -> tuple[float, float, list[str]]:
    """Loss, variance of the unit projections, and what the monitor says, after a short training on noise."""
    torch.manual_seed(0)
    config = DirectPredConfig(
        backbone_config=ConvEncoderConfig(channels=[8, 16]),
        projection_dims=[16, 8],
        predictor_mode=mode,
        eps=0.1,
        encoder_momentum=0.9,
    )
    model = DirectPredForPreTraining(config).train()
    optimizer = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad], lr=0.3, momentum=0.9, weight_decay=1e-2
    )
    # the rank of noise, seen from the origin, is low with any predictor: the spread alone is watched, at the trainer's level
    monitor = CollapseMonitor(std_threshold=0.05, rank_threshold=1.0, patience=5, chance_tolerance=0.01)
    base = random_images(32, 1, 3, 8, 8, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollapseWarning)
        for number in range(80):
            batch = base + torch.randn(32, 2, 3, 8, 8, generator=torch.Generator().manual_seed(number))
            outputs = model(batch)
            optimizer.zero_grad()
            outputs.loss.backward()
            optimizer.step()
            model.after_optimizer_step()
            monitor.update(outputs, float(outputs.loss.detach()), number, has_negatives=False)
    unit = nn.functional.normalize(outputs.projections.detach()[:, 0], dim=1)
    return float(outputs.loss.detach()), float(unit.var(0, unbiased=False).sum()), monitor.warned


def test_without_a_predictor_it_collapses_and_the_monitor_says_so():
    loss, variance, warned = collapse_run("none")
    assert loss < -3.95
    assert variance < 0.01
    assert warned == ["collapse"]
    _, kept, warned = collapse_run("direct_pred")
    assert kept > 0.05
    assert warned == []
