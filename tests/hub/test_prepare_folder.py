"""What may be uploaded, and what stops an upload."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import ResNetConfig, ViTImageProcessor

from hf_contrastive import SimCLRConfig, SimCLRForPreTraining, SimCLRModel
from hf_contrastive.hub import prepare_folder, push_to_hub, safe_save_pretrained


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    backbone = ResNetConfig(num_channels=1, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    backbone._name_or_path = "/home/user/resnet"
    return SimCLRForPreTraining(SimCLRConfig(backbone_config=backbone, projection_dims=[16, 8]))


@pytest.fixture
def checkpoint(model, tmp_path):
    """A folder as a trainer leaves it."""
    folder = tmp_path / "run"
    model.save_pretrained(folder)
    for name in ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "rng_state_1.pth"):
        torch.save({"x": 1}, folder / name)
    (folder / "trainer_state.json").write_text(json.dumps({"best_model_checkpoint": "/home/user/run/checkpoint-2"}))
    (folder / "metrics.jsonl").write_text('{"loss": 1.0}\n')
    (folder / "checkpoint-2").mkdir()
    torch.save({"x": 1}, folder / "checkpoint-2" / "optimizer.pt")
    (folder / ".cache").mkdir()
    (folder / "plots").mkdir()
    (folder / "plots" / "map.csv").write_text("x,y\n1,2\n")
    return folder


def names(prepared) -> list[str]:
    return [name for name, _ in prepared.files]


def test_model(model, tmp_path):
    prepared = prepare_folder(model, tmp_path / "out", processor=ViTImageProcessor(size={"height": 8, "width": 8}))
    assert names(prepared) == ["README.md", "config.json", "model.safetensors", "preprocessor_config.json"]
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["backbone_config"].get("_name_or_path", "") == ""
    card = (tmp_path / "out" / "README.md").read_text()
    assert "SimCLR" in card
    assert "AutoImageProcessor" in card
    assert f"{(tmp_path / 'out' / 'model.safetensors').stat().st_size / 1000:.1f} kB" in prepared.listing()


def test_training_state_stays_at_home(checkpoint, tmp_path):
    prepared = prepare_folder(checkpoint, tmp_path / "out")
    assert names(prepared) == [
        "README.md",
        "config.json",
        "metrics.jsonl",
        "model.safetensors",
        "plots/map.csv",
        "trainer_state.json",
    ]
    left = {name for name, _ in prepared.left_out}
    assert {"training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "checkpoint-2/", ".cache/"} <= left
    state = json.loads((tmp_path / "out" / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"] == "checkpoint-2"
    assert "/home/user" in (checkpoint / "trainer_state.json").read_text(), "the source folder is not changed"
    assert not (checkpoint / "README.md").exists()


def test_own_card_goes_along_and_is_replaced_on_request(checkpoint, tmp_path):
    (checkpoint / "README.md").write_text("---\nlicense: mit\n---\nmine\n")
    prepare_folder(checkpoint, tmp_path / "kept")
    assert (tmp_path / "kept" / "README.md").read_text().endswith("mine\n")
    prepare_folder(checkpoint, tmp_path / "new", card={"licence": "apache-2.0"})
    assert "license: apache-2.0" in (tmp_path / "new" / "README.md").read_text()
    assert (checkpoint / "README.md").read_text().endswith("mine\n")
    (checkpoint / "README.md").unlink()
    assert "README.md" not in names(prepare_folder(checkpoint, tmp_path / "none", card=False))


def a_zip_with_a_pickle(path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", b"x")
    path.write_bytes(buffer.getvalue())


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("pytorch_model.bin", lambda path: path.write_bytes(b"x")),
        ("queue.pth", lambda path: path.write_bytes(b"x")),
        ("plots/labels.PKL", lambda path: path.write_bytes(b"x")),
        ("weights.dat", lambda path: path.write_bytes(pickle.dumps({"x": 1}))),
        ("weights.data", lambda path: torch.save({"x": 1}, path)),
        ("archive.zip", a_zip_with_a_pickle),
        ("names.npy", lambda path: np.save(path, np.array([{"x": 1}], dtype=object), allow_pickle=True)),
        ("names.npz", lambda path: np.savez(path, plain=np.ones(2), names=np.array([{"x": 1}], dtype=object))),
    ],
)
def test_pickles_are_refused_unless_named(checkpoint, tmp_path, name, make):
    make(checkpoint / name)
    with pytest.raises(ValueError, match=rf"pickled files.*{name}.*allow=\['{name}'\]"):
        prepare_folder(checkpoint, tmp_path / "out")
    assert name in names(prepare_folder(checkpoint, tmp_path / "allowed", allow=[name]))


def test_arrays_of_numbers_are_no_pickles(checkpoint, tmp_path):
    np.save(checkpoint / "map.npy", np.ones((2, 2)))
    np.savez(checkpoint / "maps.npz", a=np.ones(2), b=np.array(["|O'"]))
    assert {"map.npy", "maps.npz"} <= set(names(prepare_folder(checkpoint, tmp_path / "out")))


def test_event_files_of_tensorboard_stay_at_home(checkpoint, tmp_path):
    (checkpoint / "events.out.tfevents.17.host.1.0").write_bytes(b"\0" + str(tmp_path).encode())
    prepared = prepare_folder(checkpoint, tmp_path / "out")
    assert not [name for name in names(prepared) if "tfevents" in name]
    assert "events.out.tfevents.17.host.1.0" in {name for name, _ in prepared.left_out}


def test_training_state_goes_only_by_name(checkpoint, tmp_path):
    files = names(prepare_folder(checkpoint, tmp_path / "out", allow=["optimizer.pt"]))
    assert "optimizer.pt" in files
    assert "training_args.bin" not in files


@pytest.mark.parametrize("name", ["notes.txt", "README.md", "config.yaml", "plots/map.csv", "train.py"])
def test_local_paths_are_refused_by_file_and_line(checkpoint, tmp_path, name):
    (checkpoint / name).write_text(f"---\nlicense: mit\n---\ndata: {tmp_path}/images\n")
    with pytest.raises(ValueError, match=rf"{name}, line 4: {tmp_path}/images"):
        prepare_folder(checkpoint, tmp_path / "out")


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_local_paths_are_refused_whatever_the_encoding(checkpoint, tmp_path, encoding):
    (checkpoint / "notes.txt").write_bytes(f"caf\xe9\ndata: {tmp_path}/images\n".encode(encoding))
    with pytest.raises(ValueError, match=rf"notes.txt, line 2: {tmp_path}/images"):
        prepare_folder(checkpoint, tmp_path / "out")


def test_nothing_is_sent_when_refused(checkpoint, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", lambda *a, **k: pytest.fail("the hub was called"))
    (checkpoint / "notes.txt").write_text("/home/user/x")
    with pytest.raises(ValueError, match="not pushed"):
        push_to_hub(checkpoint, "me/x")


def test_adapter_names_its_base(model, tmp_path):
    from peft import LoraConfig, get_peft_model

    model.save_pretrained(tmp_path / "base")
    base = SimCLRModel.from_pretrained(tmp_path / "base")
    lora = LoraConfig(target_modules=r"backbone.*convolution", r=2, modules_to_save=["projection_head"])
    adapter = get_peft_model(base, lora)
    with pytest.warns(UserWarning, match="base_model='user/base'"):
        prepare_folder(adapter, tmp_path / "local")
    config = json.loads((tmp_path / "local" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == ""
    prepared = prepare_folder(adapter, tmp_path / "named", base_model="me/base")
    assert names(prepared) == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    config = json.loads((tmp_path / "named" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "me/base"
    card = (tmp_path / "named" / "README.md").read_text()
    assert "base_model: me/base" in card
    assert "LoRA adapter for a **SimCLR**" in card
    adapter.save_pretrained(tmp_path / "saved")  # PEFT writes its own card here, with the local base in it
    with pytest.raises(ValueError, match=r"README\.md, line"):
        prepare_folder(tmp_path / "saved", tmp_path / "again")
    prepare_folder(tmp_path / "saved", tmp_path / "replaced", base_model="me/base", card={})


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [(3, TypeError, "a model or a folder, got int"), ("no/such/folder", FileNotFoundError, "no checkpoint folder")],
)
def test_wrong_arguments(tmp_path, model, error, message):
    with pytest.raises(error, match=message):
        prepare_folder(model, tmp_path / "out")


def test_full_disk_leaves_the_previous_checkpoint_loadable(model, tmp_path, monkeypatch):
    import transformers.modeling_utils

    folder = tmp_path / "model"
    model.save_pretrained(folder)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def no_room(tensors, filename, metadata=None):
        Path(filename).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(transformers.modeling_utils, "safe_save_file", no_room)
        with torch.no_grad():
            other = SimCLRForPreTraining(model.config)
        for save in (other.save_pretrained, lambda folder: safe_save_pretrained(other, folder)):
            with pytest.raises(OSError, match="the disk is full"):
                save(folder)
    loaded = SimCLRForPreTraining.from_pretrained(folder).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in before.items())
