"""A checkpoint that cannot or must not be loaded is refused in words a user can act on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from hf_contrastive import ConvEncoderConfig, SimCLRConfig, SimCLRModel, get_system
from hf_contrastive.hub import check_checkpoint


def checkpoint(folder: Path, model_type: str = "simclr", weights: bytes | None = b"", **config) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": model_type, **config}))
    if weights is not None:
        header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
        (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 8 + weights)
    return folder


def test_a_good_one(tmp_path):
    info = check_checkpoint(checkpoint(tmp_path, architectures=["SimCLRForPreTraining"]), get_system("simclr"))
    assert info.model_type == "simclr"
    assert info.architectures == ("SimCLRForPreTraining",)
    assert info.system is get_system("simclr")
    assert info.weights == ("model.safetensors",)
    assert not info.is_adapter


@pytest.mark.parametrize(
    ("found", "expected", "message"),
    [
        ("gsimclr", get_system("simclr"), r"'gsimclr' \(G-SimCLR\).*expected 'simclr' \(SimCLR\).*GSimCLRModel"),
        ("resnet", "simclr", r"another system: found model type 'resnet'.*Load it with transformers.AutoModel"),
        ("denoising_autoencoder", "gsimclr", r"'denoising_autoencoder'.*DenoisingAutoencoderModel"),
        ("simclr", "conv_encoder", r"expected 'conv_encoder'.*ConvEncoderModel"),
    ],
)
def test_another_system(tmp_path, found, expected, message):
    with pytest.raises(ValueError, match=message):
        check_checkpoint(checkpoint(tmp_path, found), expected)


def test_only_pickles(tmp_path):
    folder = checkpoint(tmp_path, weights=None)
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(ValueError, match=r"only pickled weights \(pytorch_model.bin\).*never unpickles"):
        check_checkpoint(folder)


@pytest.mark.parametrize("options", [{}, {"use_safetensors": False}])
def test_a_pickle_is_not_read_when_the_configuration_is_given(tmp_path, options):
    """With `config=` the folder is not looked at first; loading itself must take safetensors only."""
    config = SimCLRConfig(backbone_config=ConvEncoderConfig(channels=[4]), projection_dims=[4])
    torch.save(SimCLRModel(config).state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match=r"no file named model.safetensors"):
        SimCLRModel.from_pretrained(tmp_path, config=config, **options)


def test_missing_folder_is_not_taken_for_a_hub_id(tmp_path, monkeypatch):
    checkpoint(tmp_path / "out" / "checkpoint-40")
    with pytest.raises(FileNotFoundError, match=r"holds checkpoint-40/.*Did you mean .*checkpoint-40\?"):
        check_checkpoint(tmp_path / "out" / "checkpoint-4")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="no checkpoint folder out/final"):
        check_checkpoint("out/final")


def test_folder_of_checkpoints(tmp_path):
    checkpoint(tmp_path / "checkpoint-2")
    checkpoint(tmp_path / "checkpoint-4")
    with pytest.raises(FileNotFoundError, match=r"these folders in it do: checkpoint-2, checkpoint-4"):
        check_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda f: (f / "config.json").unlink(), FileNotFoundError, "no config.json.*model.safetensors"),
        (lambda f: (f / "config.json").write_text("{"), ValueError, "not readable JSON"),
        (lambda f: (f / "config.json").write_text("[]"), ValueError, "holds a list"),
        (lambda f: (f / "config.json").write_text("{}"), ValueError, "no 'model_type'"),
        (lambda f: (f / "model.safetensors").unlink(), FileNotFoundError, "holds no weights"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\1"), ValueError, "cut short"),
        (
            lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-1]),
            ValueError,
            "cut short: it has .* bytes",
        ),
        (
            lambda f: (f / "model.safetensors").write_bytes((4).to_bytes(8, "little") + b"abcd"),
            ValueError,
            "not a safetensors file",
        ),
        (
            lambda f: (
                (f / "model.safetensors").unlink(),
                (f / "model.safetensors.index.json").write_text('{"weight_map": {"w": "model-1.safetensors"}}'),
            ),
            FileNotFoundError,
            "not there: model-1.safetensors",
        ),
    ],
)
def test_damage(tmp_path, spoil, error, message):
    folder = checkpoint(tmp_path)
    check_checkpoint(folder)
    spoil(folder)
    with pytest.raises(error, match=message):
        check_checkpoint(folder)


def test_a_file_is_refused(tmp_path):
    checkpoint(tmp_path)
    with pytest.raises(NotADirectoryError, match="is a file; give the folder"):
        check_checkpoint(tmp_path / "model.safetensors")


def test_adapter(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "me/base"}))
    (tmp_path / "adapter_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(ValueError, match="only pickled weights"):
        check_checkpoint(tmp_path)
    header = b"{}"
    (tmp_path / "adapter_model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    info = check_checkpoint(tmp_path)
    assert info.is_adapter
    assert info.base_model == "me/base"


def test_subfolder(tmp_path):
    checkpoint(tmp_path / "backbone", "resnet")
    assert check_checkpoint(tmp_path, "resnet", subfolder="backbone").model_type == "resnet"
    with pytest.raises(FileNotFoundError, match="no checkpoint folder"):
        check_checkpoint(tmp_path, subfolder="other")
