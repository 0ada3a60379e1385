"""Two processes against one: what the workers run, and the comparison."""

from __future__ import annotations

import inspect
from types import MethodType
from typing import Any

import torch
from helpers.testers import Case, find_case, max_difference
from torch.nn.parallel import DistributedDataParallel

from hf_contrastive.distributed import all_gather_no_grad, get_rank, get_world_size


ROWS = 8


def joined_inputs(case: Case) -> dict[str, Any]:
    """The batch of all processes; with ids that repeat across the two halves where the objective takes ids."""
    inputs = case.inputs(batch=ROWS)
    inputs = {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}
    objective = case.tester.objective_class
    if objective.has_negatives and "sample_ids" in inspect.signature(objective.forward).parameters:
        inputs["sample_ids"] = torch.tensor([0, 1, 2, 3, 2, 5, 0, 7])
    return inputs


def _normalised(embeds: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.nn.functional.normalize(embeds["projections"].flatten(0, 1), dim=-1)


def objective_with_local_negatives(self, embeds, sample_ids=None, return_loss=True):
    """Flawed: every process compares its own rows only."""
    z = _normalised(embeds)
    logits = (z @ z.T / 0.3).fill_diagonal_(-torch.inf)
    target = torch.arange(len(z)).view(-1, 2).flip(1).flatten()
    return {"loss": torch.nn.functional.cross_entropy(logits, target)}


def objective_with_lost_gradient(self, embeds, sample_ids=None, return_loss=True):
    """Flawed, the classic: gathered without gradient, own rows put back, loss over the whole matrix."""
    z = _normalised(embeds)
    everyone = all_gather_no_grad(z)
    start = get_rank() * len(z)
    everyone = torch.cat([everyone[:start], z, everyone[start + len(z) :]])
    logits = (everyone @ everyone.T / 0.3).fill_diagonal_(-torch.inf)
    target = torch.arange(len(everyone)).view(-1, 2).flip(1).flatten()
    return {"loss": torch.nn.functional.cross_entropy(logits, target)}


FLAWS = {
    "": None,
    "local negatives": objective_with_local_negatives,
    "lost gradient": objective_with_lost_gradient,
}


def make_model(case: Case, training: bool, flaw: str) -> Any:
    """The model of both sides."""
    # in float64, so that what is left between the two is a mistake and no rounding
    model = case.objective().double().train(training)
    function = FLAWS[flaw]
    if function is not None:
        model.compute_objective = MethodType(function, model)
    return model


def _result(model: Any, outputs: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    loss = outputs["loss"]
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return loss.detach(), gradients


def loss_and_gradients(case_name: str, training: bool, flaw: str = "") -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Runs in each process: its share of the batch through DistributedDataParallel."""
    case = find_case(case_name)
    model = make_model(case, training, flaw)
    share = ROWS // get_world_size()
    rows = slice(get_rank() * share, (get_rank() + 1) * share)
    inputs = {name: value[rows] for name, value in joined_inputs(case).items()}
    # the wrapper has to live until after the backward pass, it does the averaging
    wrapped = DistributedDataParallel(model)
    return _result(model, wrapped(**inputs))


def check_two_processes_equal_one(pool: Any, case: Case, training: bool, flaw: str = "") -> None:
    """Mean loss of the processes and averaged gradients are those of one process on the joined batch."""
    first, second = pool.run(loss_and_gradients, str(case), training, flaw)
    model = make_model(case, training, flaw)
    loss, gradients = _result(model, model(**joined_inputs(case)))
    mean = (first[0] + second[0]) / 2
    assert abs(float(mean - loss)) < 1e-10, f"loss {float(mean):.10f} with two processes, {float(loss):.10f} with one"
    assert max_difference(first[1], second[1]) == 0.0, "the processes hold different gradients"
    assert set(first[1]) == set(gradients)
    scale = max(float(gradient.abs().max()) for gradient in gradients.values())
    for name, gradient in gradients.items():
        error = float((first[1][name] - gradient).abs().max())
        assert error < 1e-8 * scale, f"gradient of {name}: off by {error:.3g} (largest gradient {scale:.3g})"
