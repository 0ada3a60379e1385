"""The learnable scale: value, ceiling, and the way back from the ceiling."""

from __future__ import annotations

import math

import pytest
import torch

from hf_contrastive.modules.logit_scale import LogitScale


def test_value_and_gradient():
    scale = LogitScale(init=20.0)
    value = scale()
    value.backward()
    assert value.shape == ()
    assert value.item() == pytest.approx(20.0, rel=1e-6)
    assert float(scale.log_scale.grad) == pytest.approx(20.0, rel=1e-6)  # d exp(x) / dx


def test_default_is_the_papers():
    assert float(LogitScale()()) == pytest.approx(1 / 0.07, rel=1e-6)


def test_it_stops_at_the_ceiling_and_comes_back():
    scale = LogitScale(init=99.0, max_scale=100.0)
    optimizer = torch.optim.SGD(scale.parameters(), lr=0.01)
    for _ in range(5):  # pushed up far beyond the ceiling
        optimizer.zero_grad()
        (-scale()).backward()
        optimizer.step()
    assert float(scale()) == pytest.approx(100.0, rel=1e-5)
    optimizer.zero_grad()
    scale().backward()  # now pushed down: at once below the ceiling
    optimizer.step()
    assert float(scale()) < 50


def test_evaluation_clamps_without_touching_the_parameter():
    scale = LogitScale().eval()
    scale.log_scale.data.fill_(10.0)
    assert float(scale()) == pytest.approx(100.0, rel=1e-5)
    assert float(scale.log_scale) == 10.0


def test_fixed_scale():
    scale = LogitScale(init=5.0, learnable=False)
    assert not scale.log_scale.requires_grad
    assert float(scale()) == pytest.approx(5.0, rel=1e-6)


def test_state_round_trip_and_reset():
    scale, other = LogitScale(init=5.0), LogitScale()
    other.load_state_dict(scale.state_dict())
    assert float(other()) == pytest.approx(5.0, rel=1e-6)
    other.reset_parameters()
    assert float(other.log_scale) == pytest.approx(math.log(1 / 0.07), rel=1e-6)


@pytest.mark.parametrize("settings", [{"init": 0.0}, {"init": -1.0}, {"init": 200.0}, {"max_scale": float("inf")}])
def test_refusals(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        LogitScale(**settings)
