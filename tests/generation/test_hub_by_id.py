"""The pushed contrastive search, used by its repository id where this package cannot be imported."""

from __future__ import annotations

import json

import pytest
import torch
from helpers.text_models import padded, prompts, tiny_model

from hf_contrastive import contrastive_search


REPOSITORY = "me/contrastive-search"
LENGTH = {"max_new_tokens": 8, "min_new_tokens": 8}

# the same file for every process: nothing of ours can be imported, by any name
SCRIPT = """
import importlib.abc, json, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hf_contrastive":
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Absent())
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

class Seen:
    def __init__(self):
        self.tokens, self.ended = [], False
    def put(self, value):
        self.tokens += value.flatten().tolist()
    def end(self):
        self.ended = True

jobs, result = json.loads(sys.argv[1]), {}
by_id = {"custom_generate": "me/contrastive-search", "trust_remote_code": True}
for name, job in jobs.items():
    auto_class = AutoModelForSeq2SeqLM if name == "t5" else AutoModelForCausalLM
    model = auto_class.from_pretrained(job["folder"]).eval()
    inputs = {key: torch.tensor(value) for key, value in job["inputs"].items()}
    result[name] = model.generate(**inputs, **by_id, penalty_alpha=0.6, top_k=4, **job["length"]).tolist()
    result[name + " other settings"] = model.generate(
        **inputs, **by_id, penalty_alpha=0.3, top_k=6, low_memory=True, penalty_scope="generated", **job["length"]
    ).tolist()
    if name == "gpt2":
        one, seen = {key: value[:1] for key, value in inputs.items()}, Seen()
        found = model.generate(**one, **by_id, penalty_alpha=0.6, top_k=4, streamer=seen, **job["length"])
        result["streamed"] = [seen.ended, seen.tokens == found[0].tolist()]
        try:
            model.generate(**one, **by_id, penalty_alpha=0.6, top_k=1)
        except ValueError as error:
            result["refused"] = str(error)
        try:
            untrusted = {**by_id, "trust_remote_code": False}
            model.generate(**one, **untrusted, penalty_alpha=0.6, top_k=4)
        except ValueError as error:
            result["untrusted"] = str(error)
        try:
            missing = {**by_id, "custom_generate": "me/nothing-here"}
            model.generate(**one, **missing, penalty_alpha=0.6, top_k=4)
        except OSError as error:
            result["missing"] = str(error)
result["ours"] = [name for name in sys.modules if name.startswith("hf_contrastive")]
print("RESULT" + json.dumps(result))
"""


@pytest.fixture(scope="module")
def used(hub_server, tmp_path_factory):
    """What a process without this package makes of the repository, and what was asked."""
    hub_server.run(
        f"from hf_contrastive.generation import push_contrastive_search_to_hub as push\nprint(push({REPOSITORY!r}))",
        timeout=240,
    )
    root, jobs = tmp_path_factory.mktemp("models"), {}
    for name in ("gpt2", "llama", "t5"):
        model = tiny_model(name)
        model.save_pretrained(root / name)
        inputs = padded(model, prompts(7, 4))
        jobs[name] = {
            "folder": str(root / name),
            "inputs": {key: value.tolist() for key, value in inputs.items()},
            "length": LENGTH,
        }
    before = len(hub_server.requests)
    output = hub_server.run(f"import sys\nsys.argv = ['', {json.dumps(jobs)!r}]\n{SCRIPT}", timeout=300)
    return json.loads(output.rpartition("RESULT")[2]), hub_server.requests[before:]


@pytest.mark.parametrize("name", ["gpt2", "llama", "t5"])
def test_tokens_are_ours(used, name):
    model = tiny_model(name)
    inputs = padded(model, prompts(7, 4))
    for key, options in (
        (name, {"penalty_alpha": 0.6, "top_k": 4}),
        (
            f"{name} other settings",
            {"penalty_alpha": 0.3, "top_k": 6, "low_memory": True, "penalty_scope": "generated"},
        ),
    ):
        expected = model.generate(**inputs, custom_generate=contrastive_search, **options, **LENGTH)
        assert torch.equal(torch.tensor(used[0][key]), expected), key
    greedy = model.generate(**inputs, do_sample=False, **LENGTH)
    assert not torch.equal(torch.tensor(used[0][name]), greedy)


def test_the_code_came_from_the_hub_alone(used):
    result, requests = used
    assert result["ours"] == []
    assert any(f"/{REPOSITORY}/resolve/" in line and "custom_generate/generate.py" in line for line in requests)


def test_streamer_and_refusals_are_those_of_the_package(used):
    result, _ = used
    assert result["streamed"] == [True, True]
    assert result["refused"].startswith("`top_k` is 1, but contrastive search needs 2 or more candidates")
    assert "trust_remote_code=True" in result["untrusted"]
    assert "me/nothing-here" in result["missing"]


def test_card_shows_the_call_that_was_made(hub_server, used):
    card = hub_server.files(REPOSITORY)["README.md"].decode()
    assert f'custom_generate="{REPOSITORY}", trust_remote_code=True, penalty_alpha=0.6, top_k=4' in card
    source = hub_server.files(REPOSITORY)["custom_generate/generate.py"].decode()
    assert f'custom_generate="{REPOSITORY}"' in source
    compile(source, "generate.py", "exec")
