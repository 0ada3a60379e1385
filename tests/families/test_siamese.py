"""Views of one image through one network: views, pooling, starting from a trained backbone."""

from __future__ import annotations

import pytest
import torch
from helpers.testers import image_backbones, random_images
from safetensors.torch import load_file, save_file
from transformers import AutoModel, ResNetModel, SwinConfig, ViTConfig, ViTModel

from hf_contrastive import (
    CifarResNetConfig,
    ConvEncoderConfig,
    ConvEncoderModel,
    GSimCLRForPreTraining,
    SimCLRConfig,
    SimCLRForPreTraining,
    SimCLRModel,
)


def build(backbone: str = "conv_encoder", model_class=SimCLRForPreTraining, **fields):
    torch.manual_seed(0)
    options = {"projection_dims": [8, 4], "temperature": 0.2, **fields}
    return model_class(SimCLRConfig(backbone_config=image_backbones()[backbone], **options)).eval()


def naive_loss(projections: torch.Tensor, temperature: float, ids=None) -> torch.Tensor:
    """Every ordered pair of views of an image as anchor and positive, row by row."""
    batch, views = projections.shape[:2]
    z = torch.nn.functional.normalize(projections.double(), dim=-1)
    losses = []
    for i in range(batch):
        for v in range(views):
            negatives = [
                torch.exp(z[i, v] @ z[j, w] / temperature)
                for j in range(batch)
                for w in range(views)
                if j != i and (ids is None or ids[j] != ids[i])
            ]
            for w in range(views):
                if w != v:
                    positive = torch.exp(z[i, v] @ z[i, w] / temperature)
                    losses.append(-torch.log(positive / (positive + sum(negatives))))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("ids", [None, [0, 1, 0, 3]])
def test_two_views_are_nt_xent(ids):
    model = build()
    sample_ids = None if ids is None else torch.tensor(ids)
    outputs = model(random_images(4, 2, 3, 16, 16, seed=0), sample_ids=sample_ids)
    torch.testing.assert_close(outputs.loss.double(), naive_loss(outputs.projections, 0.2, ids), rtol=1e-5, atol=1e-6)


def test_three_views():
    from hf_contrastive.losses import nt_xent_multi_view

    model = build()
    images = random_images(4, 3, 3, 16, 16, seed=0)
    outputs = model(images)
    assert outputs.projections.shape == (4, 3, 4)
    expected = nt_xent_multi_view(outputs.projections, temperature=0.2)
    torch.testing.assert_close(outputs.loss, expected)
    # what the mean is taken over does not depend on the order of the views
    shuffled = model(images[:, [2, 0, 1]])
    torch.testing.assert_close(shuffled.loss, outputs.loss)
    pairs = [outputs.projections[:, [a, b]] for a, b in ((0, 1), (0, 2), (1, 2))]
    assert float(outputs.loss.detach()) > max(float(naive_loss(pair, 0.2)) for pair in pairs) - 1e-6, (
        "more negatives than a pair has"
    )


def test_two_views_are_the_multi_view_form_with_two():
    from hf_contrastive.losses import nt_xent_multi_view

    outputs = build()(random_images(4, 2, 3, 16, 16, seed=1))
    torch.testing.assert_close(nt_xent_multi_view(outputs.projections, temperature=0.2), outputs.loss)


@pytest.mark.parametrize("kind", [list, tuple])
def test_a_list_of_views(kind):
    model = build()
    images = random_images(4, 2, 3, 16, 16, seed=0)
    assert torch.equal(model(kind(images.unbind(1))).loss, model(images).loss)


def test_too_few_views():
    model = build()
    with pytest.raises(
        ValueError, match=r"holds 1 view of each image, the objective compares at least 2; use .*num_views=2"
    ):
        model(random_images(4, 1, 3, 16, 16, seed=0))
    with pytest.raises(
        ValueError, match=r"shape \(4, 3, 16, 16\), expected \[batch, views, channels, height, width\]"
    ):
        model(random_images(4, 3, 16, 16, seed=0))
    outputs = model(random_images(4, 1, 3, 16, 16, seed=0), return_loss=False)
    assert outputs.projections.shape == (4, 1, 4)


def test_a_batch_of_one_has_no_negatives():
    model = build()
    with pytest.warns(UserWarning, match="negatives"):
        outputs = model(random_images(1, 2, 3, 16, 16, seed=0))
    assert float(outputs.loss) == 0.0
    outputs.loss.backward()
    assert all(float(p.grad.abs().max()) == 0 for p in model.parameters() if p.grad is not None)


def test_wrong_channels():
    model = build()
    with pytest.raises(ValueError, match=r"has 1 channels, but the backbone takes 3; .*num_channels=1"):
        model.encode(random_images(2, 1, 16, 16, seed=0))


def test_pooling_of_maps():
    images = random_images(2, 3, 16, 16, seed=0)
    model = build("conv_encoder", SimCLRModel)
    hidden = model.backbone(images).last_hidden_state
    for pooling in ("auto", "mean", "pooler"):
        model = build("conv_encoder", SimCLRModel, pooling=pooling)
        torch.testing.assert_close(model.encode(images), hidden.mean((2, 3)))
    with pytest.raises(ValueError, match=r"`pooling` is 'cls', but \w+ returns a map; set 'mean' or 'auto'"):
        build("conv_encoder", SimCLRModel, pooling="cls").encode(images)


def test_pooling_of_sequences():
    images = random_images(2, 3, 16, 16, seed=0)
    for pooling in ("auto", "cls", "mean", "pooler"):
        model = build("vit", SimCLRModel, pooling=pooling)
        outputs = model.backbone(images)
        hidden = outputs.last_hidden_state
        expected = {"mean": hidden.mean(1), "pooler": outputs.pooler_output}.get(pooling, hidden[:, 0])
        torch.testing.assert_close(model.encode(images), expected)
        # the trainable pooler is built only when something uses it
        assert any("pooler" in name for name, _ in model.named_parameters()) == (pooling == "pooler")


def test_pooler_that_does_not_exist():
    model = build("vit", SimCLRModel, pooling="pooler")
    model.backbone.pooler = None
    with pytest.raises(ValueError, match=r"ViTModel returns no pooler_output; set `pooling` to 'auto'"):
        model.encode(random_images(2, 3, 16, 16, seed=0))


@pytest.mark.parametrize("name", ["swin", "convnext", "dinov2", "regnet"])
def test_any_vision_backbone(name):
    """Sizes of the features under all the names that transformers uses for them."""
    sizes = {
        "swin": {
            "image_size": 32,
            "patch_size": 4,
            "embed_dim": 8,
            "depths": [1, 1],
            "num_heads": [2, 2],
            "window_size": 4,
        },
        "convnext": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
        "dinov2": {
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
        },
        "regnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "groups_width": 8},
    }[name]
    config = SimCLRConfig(
        backbone_config={"model_type": name, **sizes},
        projection_dims=[8, 4],
        pooling="mean" if name == "swin" else "auto",
    )
    model = SimCLRForPreTraining(config)
    outputs = model(random_images(3, 2, 3, 32, 32, seed=0))
    outputs.loss.backward()
    assert outputs.embeds.shape == (3, 2, config.embed_dim)


def test_feature_size_that_cannot_be_told():
    from transformers import PreTrainedConfig

    config = SimCLRConfig(backbone_config=PreTrainedConfig())
    with pytest.raises(ValueError, match=r"cannot tell the feature size of a PreTrainedConfig: .* set `hidden_size`"):
        config.embed_dim  # noqa: B018
    assert SimCLRConfig(backbone_config=SwinConfig(embed_dim=8, depths=[1, 1])).embed_dim == 16


def test_backbone_config_without_a_type():
    with pytest.raises(ValueError, match=r"has the keys \['hidden_size'\], but no 'model_type'"):
        SimCLRConfig(backbone_config={"hidden_size": 8})


@pytest.mark.parametrize("name", ["vit", "resnet", "conv_encoder", "cifar_resnet"])
def test_from_a_folder(name, tmp_path):
    torch.manual_seed(3)
    backbone = AutoModel.from_config(image_backbones()[name])
    backbone.save_pretrained(tmp_path)
    # a `Path` or a string
    model = SimCLRForPreTraining.from_backbone(tmp_path, projection_dims=[8, 4], temperature=0.7)
    assert model.training
    assert model.config.temperature == 0.7
    expected = backbone.state_dict()
    found = model.backbone.state_dict()
    assert set(found) <= set(expected)
    assert {key for key in expected if key not in found} <= {"pooler.dense.weight", "pooler.dense.bias"}
    assert all(torch.equal(found[key], expected[key]) for key in found)
    assert all(parameter.requires_grad for parameter in model.parameters())
    # and it is an ordinary model of the library
    model.save_pretrained(tmp_path / "model")
    loaded = SimCLRModel.from_pretrained(tmp_path / "model")
    images = random_images(2, 3, 16, 16, seed=0)
    assert torch.equal(loaded.encode(images), model.encode(images))


def test_from_a_model():
    torch.manual_seed(0)
    backbone = ViTModel(
        ViTConfig(**{k: v for k, v in image_backbones()["vit"].to_dict().items() if k != "model_type"})
    )
    model = GSimCLRForPreTraining.from_backbone(backbone, pooling="pooler")
    assert torch.equal(model.backbone.pooler.dense.weight, backbone.pooler.dense.weight)
    with torch.no_grad():
        next(iter(model.backbone.parameters())).add_(1)
    assert not torch.equal(next(iter(model.backbone.parameters())), next(iter(backbone.parameters()))), (
        "weights are copied"
    )


def test_from_half_a_checkpoint(tmp_path):
    """Weights that the file does not hold must not be made up in silence."""
    ResNetModel(image_backbones()["resnet"]).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    dropped = next(name for name in tensors if name.endswith("convolution.weight"))
    save_file({name: tensor for name, tensor in tensors.items() if name != dropped}, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"no weights for 1 tensors .*{dropped}"):
        SimCLRForPreTraining.from_backbone(str(tmp_path))


def test_from_a_model_of_another_shape():
    small = ConvEncoderModel(ConvEncoderConfig(channels=[4]))
    small.config.channels = [4, 8]
    with pytest.raises(ValueError, match=r"no weights for .* tensors of ConvEncoderModel"):
        SimCLRForPreTraining.from_backbone(small)


def test_frozen_from_the_start():
    backbone = ConvEncoderModel(ConvEncoderConfig(channels=[4, 8]))
    model = SimCLRForPreTraining.from_backbone(backbone, projection_dims=[4], frozen_modules=["backbone"])
    assert not any(parameter.requires_grad for parameter in model.backbone.parameters())
    assert not model.backbone.training
    assert model.projection_head.training


def test_defaults_of_the_papers():
    config = SimCLRConfig()
    assert config.backbone_config.model_type == "resnet"
    assert config.embed_dim == 2048
    assert (config.projection_dims, config.temperature, config.projection_batch_norm) == ([2048, 128], 0.1, True)
    from hf_contrastive import GSimCLRConfig

    config = GSimCLRConfig()
    assert isinstance(config.backbone_config, CifarResNetConfig)
    assert config.embed_dim == 256
    assert (config.projection_dims, config.temperature, config.projection_batch_norm) == ([256, 128, 50], 0.1, False)
