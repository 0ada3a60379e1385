"""`ContrastiveTrainer(push_to_hub=True)` sends weights, card and what resuming needs, and no pickled arguments."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml


SCRIPT = """
import json
from pathlib import Path

import hf_contrastive
import torch
from huggingface_hub import ModelCard, snapshot_download
from transformers import AutoModel, ResNetConfig

from hf_contrastive import ContrastiveTrainer, ContrastiveTrainingArguments, SimCLRConfig, SimCLRForPreTraining
from hf_contrastive.modules.lora import add_lora

result = {}
images = torch.rand(16, 2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
rows = [{"pixel_values": image} for image in images]

def tiny():
    torch.manual_seed(0)
    backbone = ResNetConfig(num_channels=1, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    return SimCLRForPreTraining(SimCLRConfig(backbone_config=backbone, projection_dims=[16, 8]))

def arguments(folder, **more):
    return ContrastiveTrainingArguments(
        folder, use_cpu=True, max_steps=4, save_steps=2, logging_steps=1, per_device_train_batch_size=4,
        disable_tqdm=True, **more,
    )

def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)

trainer = ContrastiveTrainer(
    tiny(),
    arguments(
        Path("run").resolve(), push_to_hub=True, hub_model_id="me/run", hub_private_repo=True,
        hub_strategy="all_checkpoints", hub_always_push=True,
    ),
    train_dataset=rows,
)
trainer.card_fields = {
    "licence": "mit",
    "metrics": [{"name": "kNN accuracy", "value": 0.75, "dataset": "noise"}],
    "training": {"command": "train.py --output_dir " + str(Path("run").resolve())},
}
trainer.train()
trainer.push_to_hub(commit_message="done")
result["loaded"] = same(AutoModel.from_pretrained("me/run"), trainer.model)
card = ModelCard.load("me/run")
result["metric"] = [card.data.eval_results[0].metric_value, card.data.license]

# the checkpoint of step 2 comes back from the hub and leads to the same weights
pulled = Path(snapshot_download("me/run", allow_patterns="checkpoint-2/*", local_dir="pulled"))
again = ContrastiveTrainer(tiny(), arguments("again"), train_dataset=rows)
again.train(resume_from_checkpoint=str(pulled / "checkpoint-2"))
result["resumed"] = same(again.model, trainer.model)

# an adapter
base = SimCLRForPreTraining.from_pretrained("me/run")
adapter = add_lora(base, r=2)
trainer = ContrastiveTrainer(adapter, arguments("lora", push_to_hub=True, hub_model_id="me/lora"), train_dataset=rows)
trainer.train()
trainer.push_to_hub()
expected = adapter.get_base_model().encode(images[:2, 0], readout="projection")
found = AutoModel.from_pretrained("me/lora").encode(images[:2, 0], readout="projection")
result["adapter"] = torch.allclose(found, expected, atol=1e-5)

# what is refused does not end the run, and is refused aloud at its end
class Notes:
    def save_pretrained(self, folder):
        Path(folder, "notes.txt").write_text(f"made in {Path.cwd()}/run")

trainer = ContrastiveTrainer(
    tiny(), arguments("refused", push_to_hub=True, hub_model_id="me/refused"), train_dataset=rows, processing_class=Notes()
)
result["refused run"] = trainer.train().global_step
try:
    trainer.push_to_hub()
except ValueError as error:
    result["refusal"] = str(error)
print("RESULT" + json.dumps(result))
"""

RESUME = {"optimizer.pt", "scheduler.pt", "rng_state.pth"}


@pytest.fixture(scope="module")
def pushed(hub_server):
    return json.loads(hub_server.run(SCRIPT, timeout=240).rpartition("RESULT")[2])


def test_model_and_card(hub_server, pushed):
    assert pushed["loaded"]
    assert pushed["metric"] == [0.75, "mit"]
    assert hub_server.is_private("me/run")
    root = {name for name in hub_server.files("me/run") if "/" not in name}
    assert {"README.md", "config.json", "model.safetensors"} <= root
    assert not any(name.endswith((".bin", ".pt", ".pth")) for name in root)
    text = hub_server.files("me/run")["README.md"].decode()
    assert yaml.safe_load(text.split("---\n")[1])["library_name"] == "hf_contrastive"
    assert "| steps | 4 |" in text
    assert "| step | epoch | loss |" in text
    assert "--output_dir <local>/run" in text
    assert "fine-tuned version" not in text
    assert "done" in hub_server.repos["me/run"].messages


def test_checkpoints_for_resuming(hub_server, pushed):
    files = set(hub_server.files("me/run"))
    for step in (2, 4):
        inside = {name.split("/")[1] for name in files if name.startswith(f"checkpoint-{step}/")}
        assert {"trainer_state.json", "model.safetensors", "config.json", *RESUME} <= inside
        assert {name for name in inside if name.endswith((".bin", ".pt", ".pth"))} == RESUME
    assert pushed["resumed"]


def test_adapter(hub_server, pushed):
    assert pushed["adapter"]
    files = hub_server.files("me/lora")
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "me/run"
    text = files["README.md"].decode()
    assert "base_model: me/run" in text
    assert "LoRA adapter for a **SimCLR**" in text


def test_refusal_does_not_end_the_run(hub_server, pushed):
    assert pushed["refused run"] == 4
    assert "notes.txt, line 1" in pushed["refusal"]
    assert hub_server.files("me/refused") == {}


def test_no_pickled_arguments_and_no_local_path(hub_server, pushed):
    places = [str(hub_server.folder), str(Path.home()), str(Path(__file__).parents[2])]
    for repo_id in ("me/run", "me/lora"):
        for files in hub_server.repos[repo_id].commits.values():
            for name, data in files.items():
                assert not name.endswith("training_args.bin")
                assert not any(place.encode() in data for place in places), f"{repo_id}/{name}"
