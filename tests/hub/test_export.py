"""The exported backbone is the trained one, for programs that do not have this library."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, ResNetConfig, ViTConfig, ViTImageProcessor

from hf_contrastive import ConvEncoderConfig, SimCLRConfig, SimCLRForPreTraining
from hf_contrastive.hub import export_backbone, merged_copy
from hf_contrastive.modules.lora import add_lora


RESNET = ResNetConfig(num_channels=1, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
VIT = ViTConfig(
    image_size=16,
    patch_size=8,
    num_channels=1,
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=16,
)
LOAD_PLAIN = """
import sys, torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel
for name in sys.argv[2:]:
    folder = f"{sys.argv[1]}/{name}"
    model, info = AutoModel.from_pretrained(folder, output_loading_info=True)
    images = load_file(f"{sys.argv[1]}/images.safetensors")["images"]
    with torch.no_grad():
        hidden = model(pixel_values=images).last_hidden_state
    save_file({"hidden": hidden.contiguous()}, f"{folder}/outputs.safetensors")
    print(name, type(model).__module__, *sorted(info["missing_keys"]))
assert not any(name.startswith("hf_contrastive") for name in sys.modules)
"""


def trained(backbone_config) -> SimCLRForPreTraining:
    torch.manual_seed(0)
    model = SimCLRForPreTraining(SimCLRConfig(backbone_config=backbone_config, projection_dims=[16, 8]))
    model.train()
    model(torch.rand(4, 2, 1, 16, 16))  # moves the batch norm statistics
    return model.eval()


def with_lora(model: SimCLRForPreTraining):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(target_modules=["q_proj", "v_proj"], r=2, modules_to_save=["projection_head"])
    adapted = get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    return adapted.eval()


def hidden(model, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(pixel_values=images).last_hidden_state


def test_plain_transformers_loads_the_same_backbone(tmp_path):
    from safetensors.torch import save_file

    images = torch.rand(3, 1, 16, 16)
    save_file({"images": images}, tmp_path / "images.safetensors")
    resnet, vit, lora = trained(RESNET), trained(VIT), with_lora(trained(VIT))
    before = hidden(lora.get_base_model().backbone, images)
    processor = ViTImageProcessor(size={"height": 16, "width": 16})
    reports = {
        "resnet": export_backbone(resnet, tmp_path / "resnet", processor=processor),
        "vit": export_backbone(vit, tmp_path / "vit"),
        "lora": export_backbone(lora, tmp_path / "lora"),
    }
    assert [(r.needs_hf_contrastive, r.merged_adapters) for r in reports.values()] == [
        (False, False),
        (False, False),
        (False, True),
    ]
    command = [sys.executable, "-c", LOAD_PLAIN, str(tmp_path), *reports]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "resnet transformers.models.resnet.modeling_resnet"
    # what AutoModel adds to a ViT that was trained without pooler is said in advance
    assert lines[1].split()[2:] == sorted(reports["vit"].not_exported)
    loaded = {name: load_file(tmp_path / name / "outputs.safetensors")["hidden"] for name in reports}
    assert torch.equal(loaded["resnet"], hidden(resnet.backbone, images))
    assert torch.equal(loaded["vit"], hidden(vit.backbone, images))
    torch.testing.assert_close(loaded["lora"], before, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(loaded["lora"], loaded["vit"]), "the adapter made a difference, and it was merged"
    assert torch.equal(hidden(lora.get_base_model().backbone, images), before), "the given model keeps its adapter"
    assert any("lora_A" in name for name, _ in lora.named_parameters())
    assert not any("lora" in name for name in load_file(tmp_path / "lora" / "model.safetensors"))
    assert (tmp_path / "resnet" / "preprocessor_config.json").is_file()
    for name in reports:
        card = (tmp_path / name / "README.md").read_text()
        assert "library_name: transformers" in card
        assert "import hf_contrastive" not in card
        assert "loads in plain transformers" in card
    assert "last_hidden_state`, not `pooler_output`" in (tmp_path / "vit" / "README.md").read_text()


def test_own_backbone_says_what_it_needs(tmp_path):
    model = trained(ConvEncoderConfig(num_channels=1, channels=[8, 16]))
    report = export_backbone(model, tmp_path / "conv")
    assert report.needs_hf_contrastive
    assert report.load.startswith("import hf_contrastive\n")
    assert "import hf_contrastive" in (tmp_path / "conv" / "README.md").read_text()
    loaded, info = AutoModel.from_pretrained(tmp_path / "conv", output_loading_info=True)
    assert not any(info.values())
    images = torch.rand(2, 1, 16, 16)
    assert torch.equal(hidden(loaded, images), hidden(model.backbone, images))


def test_injected_adapter_is_merged(tmp_path):
    from peft import LoraConfig

    model = trained(VIT)
    model.backbone.add_adapter(LoraConfig(target_modules=["q_proj"], r=2, init_lora_weights=False))
    images = torch.rand(2, 1, 16, 16)
    expected = hidden(model.backbone, images)
    report = export_backbone(model, tmp_path / "vit")
    assert report.merged_adapters
    loaded = AutoModel.from_pretrained(tmp_path / "vit", add_pooling_layer=False)
    torch.testing.assert_close(hidden(loaded, images), expected, rtol=1e-5, atol=1e-6)


def test_adapted_batch_norms_are_exported(tmp_path):
    model = add_lora(trained(RESNET), r=2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    model.train()
    model(torch.rand(4, 2, 1, 16, 16))  # moves the statistics of the batch norms that the adapter holds
    model.eval()
    images = torch.rand(2, 1, 16, 16)
    expected = hidden(model.get_base_model().backbone, images)
    assert export_backbone(model, tmp_path / "resnet").not_exported == ()
    loaded, info = AutoModel.from_pretrained(tmp_path / "resnet", output_loading_info=True)
    assert not any(info.values())
    torch.testing.assert_close(hidden(loaded, images), expected, rtol=1e-5, atol=1e-6)


def test_model_and_config_are_left_alone(tmp_path):
    config = copy.deepcopy(RESNET)
    config.architectures = config.dtype = None  # what saving writes into a configuration
    model = trained(config)
    before = model.config.to_dict()
    export_backbone(model, tmp_path / "resnet")
    assert model.config.to_dict() == before
    backbone_config = model.config.backbone_config
    assert (backbone_config.architectures, backbone_config.dtype) == (None, None)
    assert merged_copy(model) is model


def test_no_backbone_is_refused(tmp_path):
    with pytest.raises(TypeError, match="the backbone of Linear is a Linear, expected a transformers PreTrainedModel"):
        export_backbone(torch.nn.Linear(2, 2), tmp_path / "x")
    assert not (tmp_path / "x").exists()
