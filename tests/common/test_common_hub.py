"""Every model of the registry on the hub: push, pull, and what is in the repository."""

from __future__ import annotations

import json

import pytest
from helpers.testers import Case, cases


CASES = cases()

# One interpreter for all systems: importing the stack costs seconds.
SCRIPT = """
import json
import torch
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining
from helpers.testers import cases, max_difference

results = {}
for number, case in enumerate(cases()):
    repo = f"me/common-{case}"
    model = case.objective() if case.tester.objective_class is not None else case.model()
    model.push_to_hub(repo)
    state = dict(model.state_dict())
    pulled, info = AutoModel.from_pretrained(repo, output_loading_info=True)
    result = {
        "class": type(pulled) is case.tester.model_class,
        "info": sorted(name for name, values in info.items() if values),
        "config": type(AutoConfig.from_pretrained(repo)) is type(case.config),
        "difference": max_difference(dict(pulled.state_dict()), case.inference_state(model)),
        "encode": torch.equal(pulled.encode(**case.single_inputs()), model.encode(**case.single_inputs())),
    }
    if case.tester.spec.pretraining is not None:
        again = AutoModelForPreTraining.from_pretrained(repo)
        result["pretraining"] = max_difference(dict(again.state_dict()), state)
    results[str(case)] = result
print("RESULT" + json.dumps(results))
"""


@pytest.fixture(scope="module")
def results(hub_server):
    return json.loads(hub_server.run(SCRIPT, timeout=300).rpartition("RESULT")[2])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_push_and_pull(case: Case, results, hub_server):
    found = results[str(case)]
    assert found == {
        "class": True,
        "info": [],
        "config": True,
        "difference": 0.0,
        "encode": True,
        **({"pretraining": 0.0} if case.tester.spec.pretraining is not None else {}),
    }
    files = hub_server.files(f"me/common-{case}")
    assert {"README.md", "config.json", "model.safetensors"} <= set(files)
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
    card = files["README.md"].decode()
    assert "\nlicense: " in card
    assert case.tester.model_class.__name__ in card or case.tester.model_type in card
