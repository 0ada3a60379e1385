"""The denoising autoencoder: noise, sizes, what it learns."""

from __future__ import annotations

import pytest
import torch
from helpers.testers import random_images

from hf_contrastive import DenoisingAutoencoderConfig, DenoisingAutoencoderModel


def build(**fields) -> DenoisingAutoencoderModel:
    torch.manual_seed(0)
    return DenoisingAutoencoderModel(DenoisingAutoencoderConfig(**{"channels": [4, 8], **fields}))


def test_noise_can_be_fixed():
    images = random_images(4, 3, 16, 16, seed=0)
    noise = 0.3 * torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    model = build().eval()
    with torch.no_grad():
        noisy = model(images, noise=noise)
        by_hand = model(images + noise)
    assert torch.equal(noisy.reconstruction, by_hand.reconstruction)
    # the target is the clean image
    torch.testing.assert_close(noisy.loss, (by_hand.reconstruction - images).square().mean())
    assert not torch.allclose(noisy.loss, by_hand.loss)


def test_noise_is_drawn_in_training_only():
    images = random_images(4, 3, 16, 16, seed=0)
    model = build(noise_std=0.5)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def loss(training: bool, seed: int) -> float:
        model.load_state_dict(state)
        torch.manual_seed(seed)
        with torch.no_grad():
            return float(model.train(training)(images).loss)

    assert loss(True, 0) == loss(True, 0)
    assert loss(True, 0) != loss(True, 1)
    assert loss(False, 0) == loss(False, 1)
    model.config.noise_std = 0.0
    assert loss(True, 0) == loss(True, 1)


def test_drawn_noise_has_the_configured_spread(monkeypatch):
    seen = []
    model = build(noise_std=0.5)
    monkeypatch.setattr(
        model.encoder,
        "forward",
        lambda images: seen.append(images) or type(model.encoder).forward(model.encoder, images),
    )
    images = random_images(16, 3, 16, 16, seed=0)
    model.train()(images)
    noise = seen[0] - images
    assert float(noise.std()) == pytest.approx(0.5, rel=0.03)
    assert abs(float(noise.mean())) < 0.02


def test_embeddings_are_the_mean_of_the_latent_map():
    images = random_images(4, 3, 16, 16, seed=0)
    model = build().eval()
    with torch.no_grad():
        outputs = model(images)
    torch.testing.assert_close(outputs.embeds, outputs.latent_map.mean((2, 3)))
    assert torch.equal(model.encode(images), outputs.embeds)
    assert torch.equal(model.decode(outputs.latent_map), outputs.reconstruction)
    assert float(outputs.reconstruction.min()) >= 0
    assert float(outputs.reconstruction.max()) <= 1


@pytest.mark.parametrize("size", [(15, 16), (16, 18), (2, 2)])
def test_sizes_that_cannot_be_mirrored(size):
    with pytest.raises(
        ValueError,
        match=rf"images of {size[0]}x{size[1]} pixels cannot be reconstructed by 2 stages; .* multiples of 4",
    ):
        build()(torch.rand(2, 3, *size))


def test_encoding_needs_no_mirrored_size():
    assert build().encode(torch.rand(2, 3, 15, 18)).shape == (2, 8)


def test_wrong_shape():
    with pytest.raises(ValueError, match=r"shape \(2, 1, 16, 16\), expected \[batch, 3, height, width\]"):
        build()(torch.rand(2, 1, 16, 16))


def test_layers_of_the_notebook():
    model = DenoisingAutoencoderModel(DenoisingAutoencoderConfig())
    encoder = [stage[0].out_channels for stage in model.encoder.stages]
    decoder = [stage[0].out_channels for stage in model.decoder_stages]
    assert (encoder, decoder, model.decoder_head.out_channels) == ([32, 64, 128], [128, 64, 32], 3)
    deep = DenoisingAutoencoderModel(
        DenoisingAutoencoderConfig(channels=[4, 8, 8, 16, 16], kernel_size=5, num_channels=1)
    )
    with torch.no_grad():
        outputs = deep.eval()(torch.rand(1, 1, 64, 32))
    assert outputs.latent_map.shape == (1, 16, 2, 1)
    assert outputs.reconstruction.shape == (1, 1, 64, 32)


def test_batch_norms_have_the_configured_constants():
    model = build(batch_norm_eps=0.02, batch_norm_momentum=0.3)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert len(norms) == 2 * len(model.decoder_stages)
    assert {(norm.eps, norm.momentum) for norm in norms} == {(0.02, 0.3)}


def test_it_learns():
    images = random_images(16, 1, 8, 8, seed=0).round()
    model = build(num_channels=1, channels=[16]).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = model(images).loss
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.6 * losses[0]
