"""Every model of the registry: shapes, modes, gradients, precision, determinism."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch
from helpers.checks import loss_of, tensors_of
from helpers.testers import Case, cases, max_difference
from transformers.utils import ModelOutput

from hf_contrastive.modeling_utils import ContrastivePreTrainedModel


CASES = cases()
WITH_OBJECTIVE = [case for case in CASES if case.tester.objective_class is not None]
each_case = pytest.mark.parametrize("case", CASES, ids=str)
each_objective = pytest.mark.parametrize("case", WITH_OBJECTIVE, ids=str)


def training_model(case: Case, seed: int = 0):
    """The model that is trained: the one with the objective, or the backbone itself."""
    return case.objective(seed) if case.tester.objective_class is not None else case.model(seed)


def shapes(outputs: ModelOutput) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in outputs.items()}


@each_case
def test_outputs_of_the_inference_model(case: Case):
    with torch.no_grad():
        outputs = case.model().eval()(**case.single_inputs(batch=3))
    assert isinstance(outputs, ModelOutput)
    found, expected = shapes(outputs), case.tester.output_shapes(case.config, 3)
    assert {name: found.get(name) for name in expected} == expected
    assert all(bool(torch.isfinite(value).all()) for value in outputs.values())


@each_objective
def test_outputs_of_the_objective(case: Case):
    model = case.objective().train()
    outputs = model(**case.inputs(batch=3))
    assert isinstance(outputs, ModelOutput)
    assert shapes(outputs) == case.tester.objective_shapes(case.config, 3)
    assert outputs.loss.dtype == torch.float32
    assert bool(torch.isfinite(outputs.loss))
    without = model(**case.inputs(batch=3), return_loss=False)
    assert "loss" not in without
    # scalars are the loss and its terms
    assert set(without) == {name for name, value in outputs.items() if value.ndim}


@each_objective
def test_objective_splits_in_two(case: Case):
    model = case.objective().eval()
    inputs = case.inputs()
    inputs |= case.fixed_draws(inputs)
    views = {name: value for name, value in inputs.items() if name in model.view_inputs}
    others = {name: value for name, value in inputs.items() if name not in model.view_inputs}
    embeds = model.embed_views(**views)
    assert all(len(value) == 4 for value in embeds.values()), "embed_views returns tensors with the batch first"
    whole, parts = model(**inputs), model.compute_objective(embeds, **others)
    assert torch.equal(whole.loss, parts.loss)
    # what the gradient cache relies on: rows may be embedded in chunks
    chunks = [
        model.embed_views(**{name: value[start : start + 2] for name, value in views.items()}) for start in (0, 2)
    ]
    joined = {name: torch.cat([chunk[name] for chunk in chunks]) for name in embeds}
    assert max_difference(joined, embeds) < 1e-5


@each_case
def test_forward_has_explicit_arguments(case: Case):
    for model_class in case.tester.classes:
        parameters = inspect.signature(model_class.forward).parameters
        kinds = {parameter.kind for parameter in parameters.values()}
        assert not kinds & {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}, model_class
        assert model_class.main_input_name in parameters
        assert model_class.accepts_loss_kwargs is False
        assert issubclass(model_class, ContrastivePreTrainedModel)
        assert set(model_class.view_inputs) <= set(parameters)
        # a class that returns a loss has to say so, or the Trainer finds no eval_loss
        assert ("return_loss" in parameters) == (model_class is case.tester.objective_class)


@each_case
def test_encode(case: Case):
    model = case.model()
    # a mixed state has to come back as it was
    model.train()
    next(iter(model.children())).eval()
    modes = {name: module.training for name, module in model.named_modules()}
    before = {name: tensor.clone() for name, tensor in tensors_of(model).items()}
    inputs = case.single_inputs(batch=3)
    sizes = case.tester.readout_sizes(case.config)
    assert tuple(model.readouts) == tuple(sizes)
    for readout, size in sizes.items():
        own = case.readout_inputs(readout, batch=3)
        embeds = model.encode(**own, readout=readout)
        assert embeds.shape == (3, size)
        assert not embeds.requires_grad
        unit = model.encode(**own, readout=readout, normalize=True)
        torch.testing.assert_close(unit, torch.nn.functional.normalize(embeds, dim=1))
    default = model.encode(*inputs.values())
    assert torch.equal(default, model.encode(**inputs, readout=next(iter(sizes))))
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert all(torch.equal(before[name], tensor) for name, tensor in tensors_of(model).items())
    with pytest.raises(ValueError, match=r"`readout` is 'nowhere'; .* offers: "):
        model.encode(**inputs, readout="nowhere")


@each_objective
def test_both_classes_encode_alike(case: Case):
    objective = case.objective()
    model = case.model(seed=1)
    model.load_state_dict(case.inference_state(objective))
    # nothing is left aside but what the tester names
    parts = {name.partition(".")[0] for name in set(objective.state_dict()) - set(model.state_dict())}
    assert parts == set(case.tester.parts_of(case.config))
    for readout in case.tester.readout_sizes(case.config):
        inputs = case.readout_inputs(readout)
        assert torch.equal(objective.encode(**inputs, readout=readout), model.encode(**inputs, readout=readout))


@each_case
def test_batch_of_n_is_n_batches_of_one(case: Case):
    model = case.model()
    inputs = case.single_inputs(batch=4)
    for method in case.tester.batch_independent:
        together = getattr(model, method)(**inputs)
        alone = [
            getattr(model, method)(**{name: value[row : row + 1] for name, value in inputs.items()})
            for row in range(4)
        ]
        torch.testing.assert_close(torch.cat(alone), together, rtol=1e-4, atol=1e-5)
        # rows differ, so the comparison says something
        assert float((together[0] - together[1]).abs().max()) > 1e-4


def gradient_sizes(model, inputs) -> dict[str, float]:
    model.zero_grad()
    loss_of(model(**inputs)).backward()
    return {
        name: 0.0 if parameter.grad is None else float(parameter.grad.abs().max())
        for name, parameter in model.named_parameters()
    }


def check_gradients_reach_everything(make_model, make_inputs, allowed: dict[str, str], mode: bool) -> None:
    """Every trainable parameter has a gradient in at least one of three draws."""
    reached: set[str] = set()
    trainable: set[str] = set()
    for seed in range(3):
        model = make_model(seed).train(mode)
        trainable |= {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        sizes = gradient_sizes(model, make_inputs(seed))
        assert all(value == value and value != float("inf") for value in sizes.values())
        reached |= {name for name, size in sizes.items() if size > 0}
        if trainable <= reached:
            break
    missing = sorted(trainable - reached - set(allowed))
    assert not missing, f"no gradient reaches {missing}"
    unused = sorted(set(allowed) & reached)
    assert not unused, f"declared to get no gradient, but they do: {unused}"


@each_case
@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_gradients_reach_every_trainable_parameter(case: Case, mode: bool):
    check_gradients_reach_everything(
        lambda seed: training_model(case, seed),
        lambda seed: case.inputs(batch=5, seed=seed),
        case.tester.without_gradient,
        mode,
    )


def test_gradient_check_catches_an_unused_layer():
    case = WITH_OBJECTIVE[0]

    def with_unused_layer(seed):
        model = case.objective(seed)
        model.unused = torch.nn.Linear(2, 2)
        return model

    with pytest.raises(AssertionError, match=r"no gradient reaches \['unused.bias', 'unused.weight'\]"):
        check_gradients_reach_everything(with_unused_layer, lambda seed: case.inputs(seed=seed), {}, True)


def test_gradient_check_catches_a_detached_backbone(monkeypatch):
    case = WITH_OBJECTIVE[0]
    pool = type(case.objective()).pool
    monkeypatch.setattr(case.tester.objective_class, "pool", lambda self, outputs: pool(self, outputs).detach())
    with pytest.raises(AssertionError, match=r"no gradient reaches .*backbone"):
        check_gradients_reach_everything(case.objective, lambda seed: case.inputs(seed=seed), {}, True)


@each_case
def test_bf16_autocast(case: Case):
    model = training_model(case).train()
    inputs = case.inputs(batch=6)
    inputs |= case.fixed_draws(inputs)
    exact = copy.deepcopy(model)
    expected = loss_of(exact(**inputs))
    expected.backward()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(**inputs)
    loss = loss_of(outputs)
    loss.backward()
    assert bool(torch.isfinite(loss))
    torch.testing.assert_close(loss.float(), expected, rtol=0.05, atol=0.02)
    ours, theirs = [], []
    for (name, parameter), reference in zip(model.named_parameters(), exact.parameters(), strict=True):
        assert parameter.dtype == torch.float32
        if not parameter.requires_grad:  # a momentum encoder
            continue
        assert parameter.grad is not None, name
        assert bool(torch.isfinite(parameter.grad).all()), name
        ours.append(parameter.grad.flatten())
        theirs.append(reference.grad.flatten())
    similarity = torch.nn.functional.cosine_similarity(torch.cat(ours), torch.cat(theirs), dim=0)
    assert similarity > 0.9, f"gradients under bf16 point elsewhere (cosine {float(similarity):.3f})"


@each_case
def test_bf16_model(case: Case):
    model = training_model(case).train()
    inputs = case.inputs(batch=6)
    draws = case.fixed_draws(inputs)
    expected = loss_of(copy.deepcopy(model).eval()(**inputs, **draws))
    model.to(torch.bfloat16)
    halved = {name: value.to(torch.bfloat16) if value.is_floating_point() else value for name, value in inputs.items()}
    halved |= {n: v.to(torch.bfloat16) if isinstance(v, torch.Tensor) else v for n, v in draws.items()}
    loss = loss_of(model.eval()(**halved))
    loss.backward()
    assert bool(torch.isfinite(loss))
    torch.testing.assert_close(loss.float(), expected, rtol=0.1, atol=0.05)
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)


@each_case
def test_float64(case: Case):
    model = training_model(case).eval()
    inputs = case.inputs()
    draws = case.fixed_draws(inputs)
    expected = loss_of(model(**inputs, **draws))
    doubled = {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()} | draws
    loss = loss_of(model.double()(**doubled))
    assert loss.dtype == torch.float64
    torch.testing.assert_close(loss.float(), expected, rtol=1e-4, atol=1e-5)


@each_case
def test_same_seed_same_result(case: Case):
    results = []
    for _ in range(2):
        model = training_model(case).train()
        torch.manual_seed(5)
        loss = loss_of(model(**case.inputs()))
        loss.backward()
        results.append(
            {"loss": loss.detach(), **{n: p.grad for n, p in model.named_parameters() if p.grad is not None}}
        )
    assert max_difference(*results) == 0.0
    other = training_model(case, seed=1)
    assert max_difference(dict(other.state_dict()), dict(training_model(case, seed=2).state_dict())) > 0


@each_case
def test_gradient_checkpointing(case: Case):
    plain = training_model(case).train()
    model = copy.deepcopy(plain)
    inputs = case.inputs()
    inputs |= case.fixed_draws(inputs)
    # the layers of transformers that can do it carry this flag
    supported = any(hasattr(module, "gradient_checkpointing") for module in model.modules())
    if not supported:
        with pytest.raises(ValueError, match=r"checkpointing"):
            model.activation_checkpointing_enable()
        return
    model.activation_checkpointing_enable()
    assert any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    expected, found = loss_of(plain(**inputs)), loss_of(model(**inputs))
    expected.backward()
    found.backward()
    torch.testing.assert_close(found, expected)
    for (name, parameter), reference in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, reference.grad, msg=lambda text, name=name: f"{name}: {text}")


def test_some_backbone_supports_gradient_checkpointing():
    models = [case.objective() for case in WITH_OBJECTIVE]
    assert any(hasattr(module, "gradient_checkpointing") for model in models for module in model.modules())


@each_objective
def test_copies_and_pickles_of_a_model_are_equal(case: Case):
    model = case.objective().eval()
    inputs = case.inputs()
    inputs |= case.fixed_draws(inputs)
    with torch.no_grad():
        assert torch.equal(copy.deepcopy(model)(**inputs).loss, model(**inputs).loss)


@each_case
def test_wrong_images_are_refused_in_words(case: Case):
    if case.tester.model_class.main_input_name != "pixel_values":
        pytest.skip("not an image model")
    model = training_model(case).eval()
    inputs = case.inputs(batch=2)
    good = inputs["pixel_values"]
    for bad in (good[..., :2, :, :], good[0]):
        with pytest.raises(ValueError, match=r"`pixel_values` has"):
            model(**{**inputs, "pixel_values": bad})
