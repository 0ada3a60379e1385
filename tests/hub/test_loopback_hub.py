"""Push and pull over HTTP, against a hub on the loopback interface."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml


# One interpreter for all checks: importing the stack costs seconds.
SCRIPT = """
import json, re, warnings
from pathlib import Path

import hf_contrastive
import torch
from huggingface_hub import HfApi, ModelCard, snapshot_download
from peft import LoraConfig, get_peft_model
from transformers import AutoModel, ResNetConfig, ViTImageProcessor

from hf_contrastive import SimCLRConfig, SimCLRForPreTraining, SimCLRModel
from hf_contrastive.hub import Metric, check_checkpoint, push_to_hub

result = {}
api = HfApi()
torch.manual_seed(0)
images = torch.rand(2, 1, 16, 16)

def tiny():
    backbone = ResNetConfig(num_channels=1, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    return SimCLRForPreTraining(SimCLRConfig(backbone_config=backbone, projection_dims=[16, 8])).eval()

def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)

# a model's own push, and loading by id
model = tiny()
commit = model.push_to_hub("me/model", commit_message="first")
result["commit"] = [str(commit), commit.oid]
loaded, info = AutoModel.from_pretrained("me/model", output_loading_info=True)
result["auto"] = [type(loaded).__name__, same(loaded, model), sorted(k for k, v in info.items() if v)]
result["pretraining"] = same(SimCLRForPreTraining.from_pretrained("me/model", revision=commit.oid), model)
result["encode"] = torch.equal(loaded.encode(images), model.encode(images))

# a hand-written card survives the next push of the model; card=... replaces it
card = ModelCard.load("me/model")
card.text += "\\nwritten by hand\\n"
card.push_to_hub("me/model")
model.push_to_hub("me/model")
result["card kept"] = "written by hand" in ModelCard.load("me/model").text

# card with numbers, processor, private, branch
push_to_hub(
    model, "me/private", private=True, processor=ViTImageProcessor(size={"height": 16, "width": 16}, image_mean=[0.5], image_std=[0.5]),
    card={"metrics": [Metric("kNN accuracy", 0.9, "digits")], "licence": "apache-2.0", "image_size": 16},
)
results = ModelCard.load("me/private").data.eval_results
result["model-index"] = [[r.metric_name, r.metric_value, r.dataset_name] for r in results]
try:
    api.model_info("me/private", token=False)
except Exception as error:
    result["private"] = type(error).__name__
api.create_branch("me/private", branch="v1")
other = tiny()
push_to_hub(other, "me/private", revision="v2", verbose=False)
result["branches"] = [
    same(SimCLRModel.from_pretrained("me/private", revision="v2"), other),
    same(SimCLRModel.from_pretrained("me/private"), model),
]

# the snippet of the card does what it says
for repo in ("me/model", "me/private"):
    scope = {}
    text = ModelCard.load(repo).text
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(re.search("```python\\n(.*?)```", text, re.DOTALL).group(1), scope)
    result[f"snippet {repo}"] = list(scope["embeddings"].shape)

# shards replaced by one file: no obsolete weights stay behind
model.save_pretrained("sharded", max_shard_size="2KB")
push_to_hub("sharded", "me/shards", verbose=False)
result["sharded"] = same(AutoModel.from_pretrained("me/shards"), model)
other.push_to_hub("me/shards", verbose=False)
result["not sharded"] = same(AutoModel.from_pretrained("me/shards"), other)

# an adapter on a base of the hub
base = SimCLRModel.from_pretrained("me/model")
adapter = get_peft_model(base, LoraConfig(
    target_modules=r"backbone.*convolution", r=2, init_lora_weights=False, modules_to_save=["projection_head"]
)).eval()
push_to_hub(adapter, "me/adapter", verbose=False)
expected = adapter.get_base_model().encode(images, readout="projection")
result["adapter"] = torch.allclose(AutoModel.from_pretrained("me/adapter").encode(images, readout="projection"), expected, atol=1e-5)
result["adapter differs"] = not torch.allclose(expected, model.encode(images, readout="projection"), atol=1e-3)

# pulling, and the guard on ids
folder = Path(snapshot_download("me/private"))
result["snapshot"] = sorted(path.name for path in folder.iterdir())
push_to_hub(folder, "me/copy", verbose=False)  # a cache folder is made of links
result["guard"] = check_checkpoint("me/model", expected="simclr").architectures[0]
try:
    hf_contrastive.GSimCLRModel.from_pretrained("me/model")
except ValueError as error:
    result["other system"] = str(error)
print("RESULT" + json.dumps(result))
"""

FORBIDDEN = (".bin", ".pt", ".pth", ".pkl")


@pytest.fixture(scope="module")
def pushed(hub_server):
    output = hub_server.run(SCRIPT, timeout=240)
    shown, _, result = output.rpartition("RESULT")
    return shown, json.loads(result)


def test_model_round_trip(hub_server, pushed):
    shown, result = pushed
    assert result["commit"][0] == f"{hub_server.endpoint}/me/model/commit/{result['commit'][1]}"
    assert result["auto"] == ["SimCLRModel", True, []]
    assert result["pretraining"]
    assert result["encode"]
    assert sorted(hub_server.files("me/model")) == ["README.md", "config.json", "model.safetensors"]
    assert "first" in hub_server.repos["me/model"].messages
    size = len(hub_server.files("me/model")["model.safetensors"])
    assert f"{size / 1000:.1f} kB" in shown, "files and sizes are shown before the upload"


def test_cards(hub_server, pushed):
    _, result = pushed
    assert result["card kept"]
    assert result["model-index"] == [["kNN accuracy", 0.9, "digits"]]
    front = yaml.safe_load(hub_server.files("me/private")["README.md"].decode().split("---\n")[1])
    assert (front["library_name"], front["license"]) == ("hf_contrastive", "apache-2.0")
    assert "Nothing was measured" in hub_server.files("me/model")["README.md"].decode()
    assert result["snippet me/model"][0] == 2
    assert result["snippet me/private"] == [1, 16]


def test_private_and_branches(hub_server, pushed):
    _, result = pushed
    assert hub_server.is_private("me/private")
    assert not hub_server.is_private("me/model")
    assert result["private"] == "RepositoryNotFoundError"
    assert result["branches"] == [True, True]
    assert (
        hub_server.files("me/private", "v1")["model.safetensors"]
        != hub_server.files("me/private", "v2")["model.safetensors"]
    )


def test_obsolete_weights_are_removed(hub_server, pushed):
    _, result = pushed
    assert result["sharded"]
    assert result["not sharded"]
    assert [name for name in hub_server.files("me/shards") if "model" in name] == ["model.safetensors"]


def test_adapter(hub_server, pushed):
    _, result = pushed
    assert result["adapter"]
    assert result["adapter differs"]
    files = hub_server.files("me/adapter")
    assert sorted(files) == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "me/model"
    assert "base_model: me/model" in files["README.md"].decode()


def test_pull(hub_server, pushed, tmp_path):
    _, result = pushed
    expected = ["README.md", "config.json", "model.safetensors", "preprocessor_config.json"]
    assert result["snapshot"] == expected
    assert hub_server.files("me/copy") == hub_server.files("me/private")
    hf = str(Path(sys.executable).with_name("hf"))
    hub_server.command(hf, "download", "me/private", "--local-dir", str(tmp_path / "pulled"))
    pulled = {path.name: path.read_bytes() for path in (tmp_path / "pulled").iterdir() if path.is_file()}
    assert pulled == hub_server.files("me/private")


def test_guard_on_ids(pushed):
    _, result = pushed
    assert result["guard"] == "SimCLRForPreTraining"
    assert "another system" in result["other system"]
    assert "hf_contrastive.SimCLRModel" in result["other system"]


def test_nothing_forbidden_left(hub_server, pushed):
    places = (str(hub_server.folder), str(Path.home()), str(Path(__file__).parents[2]))
    for repo_id, repo in hub_server.repos.items():
        for files in repo.commits.values():
            for name, data in files.items():
                assert not name.endswith(FORBIDDEN), f"{repo_id}/{name}"
                for place in places:
                    assert place.encode() not in data, f"{repo_id}/{name} names {place}"
