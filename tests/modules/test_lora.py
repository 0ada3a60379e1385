"""LoRA on backbones: which layers, what is trained, what is refused."""

from __future__ import annotations

import pytest
import torch
from helpers.testers import image_backbones
from peft.tuners.lora import LoraLayer
from peft.utils import ModulesToSaveWrapper
from torch import nn
from transformers import ConvNextConfig

from hf_contrastive import DenoisingAutoencoderConfig, DenoisingAutoencoderModel, SimCLRConfig, SimCLRForPreTraining
from hf_contrastive.modules.logit_scale import LogitScale
from hf_contrastive.modules.lora import add_lora, lora_targets, trainable_parameter_table


def build(backbone: str, **fields) -> SimCLRForPreTraining:
    torch.manual_seed(0)
    config = SimCLRConfig(backbone_config=image_backbones()[backbone], projection_dims=[8, 4], **fields)
    return SimCLRForPreTraining(config)


def adapted(model) -> list[str]:
    return [name for name, module in model.get_base_model().named_modules() if isinstance(module, LoraLayer)]


def saved_in_full(model) -> list[str]:
    modules = model.get_base_model().named_modules()
    return [name for name, module in modules if isinstance(module, ModulesToSaveWrapper)]


def test_targets_of_a_transformer():
    targets = lora_targets(build("vit"))
    assert all(name.startswith("backbone.") for name in targets)
    ends = {name.rpartition(".")[2] for name in targets}
    assert ends == {"q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2", "projection"}
    assert len(targets) == 2 * 6 + 1


def test_targets_of_a_convolutional_network():
    model = build("resnet")
    expected = [f"backbone.{name}" for name, m in model.backbone.named_modules() if isinstance(m, nn.Conv2d)]
    assert lora_targets(model) == expected
    assert len(expected) > 4


def test_depthwise_convolutions_are_left_out():
    config = ConvNextConfig(hidden_sizes=[8, 8], depths=[1, 1], num_stages=2, image_size=16)
    model = SimCLRForPreTraining(SimCLRConfig(backbone_config=config, projection_dims=[4]))
    grouped = {f"backbone.{n}" for n, m in model.backbone.named_modules() if getattr(m, "groups", 1) > 1}
    assert grouped
    targets = lora_targets(model)
    assert not grouped & set(targets)
    lora = add_lora(model, r=2)
    assert adapted(lora) == targets
    lora(pixel_values=torch.rand(3, 2, 3, 32, 32)).loss.backward()


@pytest.mark.parametrize("backbone", ["vit", "resnet", "conv_encoder", "cifar_resnet"])
def test_what_is_adapted_and_what_is_trained_in_full(backbone):
    model = build(backbone)
    targets = lora_targets(model)
    norms = [n for n, m in model.named_modules() if n.startswith("backbone.") and isinstance(m, nn.BatchNorm2d)]
    lora = add_lora(model, r=3)
    assert adapted(lora) == targets
    assert saved_in_full(lora) == [*norms, "projection_head"]
    trainable = [name for name, p in lora.get_base_model().named_parameters() if p.requires_grad]
    assert trainable
    assert all("lora_" in name or ".modules_to_save." in name for name in trainable)


def test_scale_and_rank():
    lora = add_lora(build("vit"), r=4)
    layer = lora.get_base_model().backbone.layers[0].mlp.fc1
    assert layer.scaling == {"default": 1.0}
    assert layer.lora_A["default"].weight.shape[0] == 4
    layer = add_lora(build("vit"), r=4, alpha=8).get_base_model().backbone.layers[0].mlp.fc1
    assert layer.scaling == {"default": 2.0}


def test_chosen_targets():
    lora = add_lora(build("vit"), r=2, targets=["q_proj", "backbone.layers.1.mlp.fc1"])
    assert adapted(lora) == [
        "backbone.layers.0.attention.q_proj",
        "backbone.layers.1.attention.q_proj",
        "backbone.layers.1.mlp.fc1",
    ]


def test_frozen_backbone_keeps_its_statistics():
    model = build("conv_encoder", frozen_modules=["backbone"])
    lora = add_lora(model, r=2)
    assert saved_in_full(lora) == ["projection_head"]
    before = {name: buffer.clone() for name, buffer in lora.get_base_model().backbone.named_buffers()}
    lora.train()
    lora(pixel_values=torch.rand(4, 2, 3, 16, 16)).loss.backward()
    assert all(torch.equal(before[n], b) for n, b in lora.get_base_model().backbone.named_buffers())


def test_frozen_head_is_not_trained_in_full():
    lora = add_lora(build("vit", frozen_modules=["projection_head"]), r=2)
    assert saved_in_full(lora) == []
    assert not any(p.requires_grad for n, p in lora.named_parameters() if "projection_head" in n)


class WithTemperature(SimCLRForPreTraining):
    """A head and a temperature, as dual encoders have."""

    def __init__(self, config):
        super().__init__(config)
        self.logit_scale = LogitScale(5.0)

    def compute_objective(self, embeds, sample_ids=None, return_loss=True):
        outputs = super().compute_objective(embeds, sample_ids, return_loss)
        outputs.loss = outputs.loss * self.logit_scale()
        return outputs


def test_temperature_is_trained_saved_and_merged(tmp_path):
    from peft import PeftModel

    config = build("vit").config
    torch.manual_seed(0)
    model = WithTemperature(config)
    torch.manual_seed(0)
    base = WithTemperature(config)
    lora = add_lora(model, r=2)
    assert saved_in_full(lora) == ["projection_head", "logit_scale"]
    optimizer = torch.optim.SGD([p for p in lora.parameters() if p.requires_grad], lr=0.1)
    lora(pixel_values=torch.rand(4, 2, 3, 16, 16)).loss.backward()
    optimizer.step()
    value = float(lora.get_base_model().logit_scale())
    assert abs(value - 5.0) > 1e-3
    lora.save_pretrained(str(tmp_path))
    loaded = PeftModel.from_pretrained(base, str(tmp_path))
    assert float(loaded.get_base_model().logit_scale()) == value
    assert float(lora.merge_and_unload().logit_scale()) == value


class WithCopies(SimCLRForPreTraining):
    """A second network with layers of the same names, as momentum encoders have."""

    def __init__(self, config):
        super().__init__(config)
        self.momentum = nn.ModuleDict({"backbone": type(self.backbone)(config.backbone_config)})
        self.momentum.requires_grad_(False)


def test_copies_of_the_backbone_get_no_adapter():
    model = WithCopies(build("vit").config)
    targets = lora_targets(model)
    lora = add_lora(model, r=2)
    assert adapted(lora) == targets
    assert saved_in_full(lora) == ["projection_head"]


def test_parts_that_end_alike_are_refused():
    model = build("vit")
    model.my_projection_head = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"'projection_head' and 'my_projection_head' end alike"):
        add_lora(model)


def test_bare_parameters_are_refused():
    model = build("vit")
    model.scale = nn.Parameter(torch.ones(()))
    with pytest.raises(ValueError, match=r"parameter 'scale' directly; PEFT would neither train nor save it"):
        add_lora(model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r": 0}, "`r` is 0, but it must be 1 or more"),
        ({"alpha": 0}, "`alpha` is 0, but it must be above 0"),
        ({"dropout": 1.0}, "`dropout` is 1.0, but it must be 0 or more and below 1"),
        ({"targets": "q_proj"}, "`targets` is 'q_proj', but it must be a list"),
        ({"targets": []}, "must be a list of layer names"),
        ({"targets": ["query"]}, r"`targets` names 'query', but .* are called .*q_proj.*holds .*13|Linear"),
        ({"targets": ["projection_head.layers.0.0"]}, "names 'projection_head.layers.0.0', but"),
        ({"modules_to_save": ["backbone"]}, "must be a list of parts beside the backbone: projection_head"),
        ({"modules_to_save": ["head"]}, "must be a list of parts beside the backbone: projection_head"),
        ({"modules_to_save": "projection_head"}, "must be a list of parts"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        add_lora(build("vit"), **options)


def test_a_model_without_a_backbone_is_refused():
    model = DenoisingAutoencoderModel(DenoisingAutoencoderConfig(channels=[4]))
    with pytest.raises(ValueError, match=r"no part `backbone` .* its parts are: encoder, decoder_stages, upsample"):
        lora_targets(model)


def test_a_backbone_without_fitting_layers_is_refused():
    model = build("vit")
    model.backbone = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4), nn.ReLU())
    with pytest.raises(ValueError, match=r"found 1 BatchNorm2d, 1 Conv2d with groups"):
        add_lora(model)


def test_table_of_parameters():
    model = build("conv_encoder")
    total = sum(p.numel() for p in model.parameters())
    plain = trainable_parameter_table(model)
    assert [row["part"] for row in plain] == ["backbone", "projection_head", "total"]
    assert plain[-1] == {"part": "total", "trainable": total, "total": total}
    head = plain[1]["total"]
    lora = add_lora(model, r=2)
    rows = {row["part"]: row for row in trainable_parameter_table(lora)}
    assert rows["projection_head"] == {"part": "projection_head", "trainable": head, "total": head}
    assert rows["total"]["trainable"] == sum(p.numel() for p in lora.parameters() if p.requires_grad)
    adapters = sum(p.numel() for n, p in lora.named_parameters() if "lora_" in n)
    assert rows["total"]["total"] == total + adapters
