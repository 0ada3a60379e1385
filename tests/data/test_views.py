"""Views: each step against torchvision, draws that depend on nothing but their coordinates, settings."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as reference

from hf_contrastive.data import EvalTransform, SimCLRViews, stateless_uniform
from hf_contrastive.data.color import (
    adjust_brightness_,
    adjust_contrast_,
    adjust_hue_,
    adjust_saturation_,
    affine,
    blur_kernel_size,
    gaussian_blur,
    luma,
    perspective,
    solarize_,
)


ONLY_CROP = {"flip": 0.0, "jitter_p": 0.0, "gray_p": 0.0, "blur_p": 0.0}


def pil_images(count: int, size: tuple[int, int] = (40, 50), seed: int = 0) -> list[Image.Image]:
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for _ in range(count)]


def floats(images: list[Image.Image]) -> list[torch.Tensor]:
    return [reference.to_image(image).float() / 255 for image in images]


# ---------------------------------------------------------------------------- steps


@pytest.mark.parametrize(
    ("ours", "theirs", "factors"),
    [
        (adjust_brightness_, reference.adjust_brightness, [0.0, 0.3, 1.0, 1.4, 1.8]),
        (adjust_contrast_, reference.adjust_contrast, [0.0, 0.3, 1.0, 1.4, 1.8]),
        (adjust_saturation_, reference.adjust_saturation, [0.0, 0.3, 1.0, 1.4, 1.8]),
        (adjust_hue_, reference.adjust_hue, [-0.5, -0.2, 0.0, 0.1, 0.5]),
    ],
)
def test_jitter_steps_equal_torchvision(ours, theirs, factors):
    images = torch.rand(5, 3, 9, 11, generator=torch.Generator().manual_seed(0))
    images[:, :, 0] = 0.5  # a grey row
    images[:, :, 1] = images[:, :, 1].round()  # pure colours, black and white
    images[:, 0, 2] = images[:, 1, 2]  # two channels share the maximum or minimum
    result = ours(images.clone(), torch.tensor(factors))
    for image, factor, got in zip(images, factors, result, strict=True):
        torch.testing.assert_close(got, theirs(image, factor), atol=3e-6, rtol=0)


def test_gray_blur_and_solarize_equal_torchvision():
    images = torch.rand(3, 3, 12, 14, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(luma(images), reference.rgb_to_grayscale(images), atol=1e-6, rtol=0)
    torch.testing.assert_close(solarize_(images.clone()), reference.solarize(images, 0.5), atol=0, rtol=0)
    sigma = torch.tensor([0.1, 0.9, 2.0])
    blurred = gaussian_blur(images, sigma, 5)
    for image, value, got in zip(images, sigma.tolist(), blurred, strict=True):
        torch.testing.assert_close(got, reference.gaussian_blur(image, [5, 5], [value, value]), atol=2e-6, rtol=0)


def test_blur_kernel_is_a_tenth_of_the_side_and_odd():
    assert [blur_kernel_size(size) for size in (8, 32, 64, 96, 224)] == [3, 3, 7, 9, 23]


def test_affine_equals_torchvision():
    images = torch.rand(3, 1, 17, 17, generator=torch.Generator().manual_seed(2))
    angle, zoom, shear = (
        torch.tensor([0.0, 20.0, -35.0]),
        torch.tensor([1.0, 1.2, 0.8]),
        torch.tensor([0.0, 8.0, -12.0]),
    )
    shift = torch.tensor([[2.0, -1.0], [0.0, 3.0], [-2.0, 1.0]])
    result = affine(images, angle, shift, zoom, shear)
    for row in range(3):
        expected = reference.affine(
            images[row],
            angle=float(angle[row]),
            translate=shift[row].tolist(),
            scale=float(zoom[row]),
            shear=[float(shear[row]), 0.0],
            interpolation=InterpolationMode.BILINEAR,
        )
        torch.testing.assert_close(result[row], expected, atol=2e-5, rtol=0)


def test_perspective_equals_torchvision():
    images = torch.rand(3, 2, 17, 23, generator=torch.Generator().manual_seed(2))
    start = torch.tensor([[0, 0], [22, 0], [22, 16], [0, 16]])
    moved = torch.stack([start, start, start])
    moved[1] += torch.tensor([[3, 1], [-2, 4], [-5, -3], [1, -2]])
    moved[2] += torch.tensor([[0, 6], [0, 0], [0, 0], [7, 0]])
    result = perspective(images, moved.double())
    torch.testing.assert_close(result[0], images[0], atol=2e-5, rtol=0)
    for row in range(3):
        expected = reference.perspective(
            images[row], start.tolist(), moved[row].tolist(), interpolation=InterpolationMode.BILINEAR, fill=0
        )
        # pixels at the border of what was moved are drawn to black by torchvision's own mask
        inside = reference.perspective(torch.ones(1, 17, 23), start.tolist(), moved[row].tolist(), fill=0)[0] > 0.999
        torch.testing.assert_close(result[row][:, inside], expected[:, inside], atol=2e-4, rtol=0)


def test_an_image_that_comes_again_has_further_views():
    """With as many draws as one that has more views."""
    images = pil_images(2)
    views = SimCLRViews.logos(16, num_views=1, seed=3)
    twice = views([images[0], images[1], images[0]], [4, 9, 4], 2, np.array([0, 0, 1]))
    wider = SimCLRViews.logos(16, num_views=2, seed=3)([images[0]], [4], 2)
    assert torch.equal(twice[0, 0], wider[0, 0])
    assert torch.equal(twice[2, 0], wider[0, 1])
    assert not torch.equal(twice[0], twice[2])


@pytest.mark.parametrize("size", [16, 32, 60])
def test_crops_equal_torchvision(size):
    images = pil_images(4)
    views = SimCLRViews(size, **ONLY_CROP)
    boxes = views.draw([(40, 50)] * 4, range(4), 2)["box"]
    from_floats, from_pil = views(floats(images), range(4), 2), views(images, range(4), 2)
    for row in range(8):
        top, left, height, width = boxes[row].tolist()
        where = (top, left, height, width, [size, size])
        expected = reference.resized_crop(floats(images)[row // 2], *where, antialias=True)
        torch.testing.assert_close(from_floats[row // 2, row % 2], expected, atol=1e-6, rtol=0)
        eight_bit = reference.resized_crop(reference.to_image(images[row // 2]), *where, antialias=True).float() / 255
        torch.testing.assert_close(from_pil[row // 2, row % 2], eight_bit, atol=1e-6, rtol=0)


def test_whole_pipeline_equals_the_steps_one_by_one():
    images = pil_images(12)
    views = SimCLRViews(24, gray_p=0.3, solarize_p=0.3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), seed=3)
    plan, result = views.draw([(40, 50)] * 12, range(12), 1), views(floats(images), range(12), 1)
    orders = list(itertools.permutations(range(4)))
    steps = [
        reference.adjust_brightness,
        reference.adjust_contrast,
        reference.adjust_saturation,
        reference.adjust_hue,
    ]
    for row in range(24):
        top, left, height, width = plan["box"][row].tolist()
        x = reference.resized_crop(floats(images)[row // 2], top, left, height, width, [24, 24], antialias=True)
        if plan["flip"][row]:
            x = reference.horizontal_flip(x)
        if plan["jitter"][row]:
            for step in orders[plan["order"][row]]:
                x = steps[step](x, float(plan["factors"][row, step]))
        if plan["gray"][row]:
            x = reference.rgb_to_grayscale(x, 3)
        if plan["blur"][row]:
            x = reference.gaussian_blur(x, [3, 3], [float(plan["sigma"][row])] * 2)
        clear = torch.ones_like(x, dtype=torch.bool)
        if plan["solarize"][row]:
            clear = (x - 0.5).abs() > 1e-5  # rounding decides on which side of the threshold the others fall
            x = reference.solarize(x, 0.5)
        x = reference.normalize(x, [0.4, 0.5, 0.6], [0.2, 0.3, 0.4])
        torch.testing.assert_close(result[row // 2, row % 2][clear], x[clear], atol=5e-5, rtol=0)
        assert clear.float().mean() > 0.99
    for name in ("flip", "jitter", "gray", "blur", "solarize"):
        assert 0 < plan[name].sum() < 24, name  # both branches were seen


# ---------------------------------------------------------------------------- draws


def test_uniform_numbers_are_uniform_and_independent():
    u = stateless_uniform(0, 0, np.arange(20_000), np.zeros(20_000, dtype=int), 8)
    assert u.min() >= 0
    assert u.max() < 1
    assert np.abs(u.mean(axis=0) - 0.5).max() < 0.01
    assert np.abs(u.var(axis=0) - 1 / 12).max() < 0.003
    counts = np.stack([np.histogram(column, bins=16, range=(0, 1))[0] for column in u.T])
    assert ((counts - 1250) ** 2 / 1250).sum(axis=1).max() < 45  # chi-square, 15 degrees of freedom
    correlation = np.corrcoef(np.concatenate((u[1:].T, u[:-1].T)))
    assert np.abs(correlation - np.eye(16)).max() < 0.035


def test_each_coordinate_changes_the_draws():
    def draw(seed=0, epoch=0, index=0, view=0):
        return stateless_uniform(seed, epoch, np.array([index]), np.array([view]), 4)[0]

    base = draw()
    for other in (draw(seed=1), draw(epoch=1), draw(index=1), draw(view=1), draw(index=-1)):
        assert np.abs(base - other).max() > 1e-3
    assert np.abs(draw(epoch=1) - draw(index=1)).max() > 1e-3  # coordinates are not interchangeable
    assert np.abs(draw(index=1) - draw(view=1)).max() > 1e-3
    # nor does any combination repeat: epoch 1 of seed 0 is not epoch 0 of seed 1
    grid = [draw(*place)[0] for place in itertools.product(range(4), repeat=4)]
    assert len(set(grid)) == 4**4


def test_crop_boxes_have_the_distribution_of_torchvision():
    views = SimCLRViews(32, 1, crop_scale=(0.2, 0.9))
    boxes = views.draw([(40, 60)] * 4000, range(4000))["box"]
    torch.manual_seed(0)
    crop, image = v2.RandomResizedCrop(32, scale=(0.2, 0.9)), torch.zeros(3, 40, 60)
    drawn = [crop.make_params([image]) for _ in range(1500)]
    theirs = np.array([[box["top"], box["left"], box["height"], box["width"]] for box in drawn])
    assert (boxes >= 0).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= [40, 60]).all()
    error = theirs.std(axis=0) * np.sqrt(1 / 1500 + 1 / 4000)
    assert (np.abs(boxes.mean(axis=0) - theirs.mean(axis=0)) < 4 * error).all()
    assert np.abs(boxes.std(axis=0) / theirs.std(axis=0) - 1).max() < 0.08


def test_crop_falls_back_when_no_box_fits():
    views = SimCLRViews(8, 1, crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0))
    boxes = views.draw([(10, 40), (40, 10), (9, 9)], range(3))["box"]
    assert boxes.tolist() == [[0, 15, 10, 10], [15, 0, 10, 10], [0, 0, 9, 9]]


def test_views_do_not_depend_on_batch_order_or_threads():
    images = pil_images(8) + pil_images(8, size=(30, 24), seed=1)
    views = SimCLRViews.imagenet(24, solarize_p=0.2, affine_p=0.5, rotate=20, translate=0.1, zoom=(0.8, 1.2), shear=5)
    together = views(images, range(16), 3)
    alone = torch.cat([views([image], [row], 3) for row, image in enumerate(images)])
    shuffled = np.random.default_rng(0).permutation(16)
    mixed = views([images[row] for row in shuffled], shuffled, 3)
    assert torch.equal(together, alone)
    assert torch.equal(together[torch.from_numpy(shuffled)], mixed)
    threads = torch.get_num_threads()
    torch.set_num_threads(2 if threads == 1 else 1)
    try:
        assert torch.equal(together, views(images, range(16), 3))
    finally:
        torch.set_num_threads(threads)


def test_views_differ_between_views_images_and_epochs():
    image = pil_images(1)[0]
    views = SimCLRViews(16, num_views=3)
    result = views([image, image], [0, 1], 0)
    assert result.shape == (2, 3, 3, 16, 16)
    flat = torch.cat((result.flatten(0, 1), views([image], [0], 1).flatten(0, 1))).flatten(1)
    distance = torch.cdist(flat, flat) + torch.eye(9) * 9
    assert distance.min() > 0.1


def test_switching_a_step_off_leaves_the_other_draws():
    full, less = SimCLRViews(16), SimCLRViews(16, blur_p=0.0, jitter_p=0.1)
    a, b = full.draw([(20, 20)] * 9, range(9)), less.draw([(20, 20)] * 9, range(9))
    assert (a["box"] == b["box"]).all()
    assert (a["flip"] == b["flip"]).all()
    assert (a["gray"] == b["gray"]).all()
    assert not b["blur"].any()


def test_probabilities_and_strengths_are_those_asked_for():
    views = SimCLRViews(8, 1, jitter_strength=0.2, jitter_p=0.5, gray_p=0.5, flip=0.25, solarize_p=0.1)
    plan = views.draw([(8, 8)] * 4000, range(4000))
    rates = {name: plan[name].mean() for name in ("flip", "jitter", "gray", "blur", "solarize")}
    wanted = {"flip": 0.25, "jitter": 0.5, "gray": 0.5, "blur": 0.5, "solarize": 0.1}
    assert max(abs(rates[name] - wanted[name]) for name in wanted) < 0.03
    low, high = plan["factors"].min(axis=0), plan["factors"].max(axis=0)
    np.testing.assert_allclose(low, [0.84, 0.84, 0.84, -0.04], atol=2e-3)
    np.testing.assert_allclose(high, [1.16, 1.16, 1.16, 0.04], atol=2e-3)
    assert np.bincount(plan["order"], minlength=24).min() > 100


# ---------------------------------------------------------------------------- images in, settings


def test_single_channel_views_keep_to_what_makes_sense():
    image = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 3)
    views = SimCLRViews(8, channels=1, gray_p=1.0, jitter_p=1.0, mean=0.5, std=0.5)
    result = views([image, image], [0, 1])
    assert result.shape == (2, 2, 1, 8, 8)
    assert torch.isfinite(result).all()
    assert SimCLRViews.digits(12)([image], [0]).shape == (1, 2, 1, 12, 12)


def test_no_crop_takes_the_whole_image_untouched():
    image = pil_images(1, size=(16, 16))[0]
    views = SimCLRViews(16, crop=False, **ONLY_CROP)
    assert torch.equal(views([image], [0])[0, 0], floats([image])[0])
    wide = SimCLRViews(8, crop=False, **ONLY_CROP)
    assert wide.draw([(10, 30)], [0])["box"][0].tolist() == [0, 10, 10, 10]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_tiny_views_and_images(size):
    image = pil_images(1, size=(1, 2))[0]
    views = SimCLRViews(size, blur_p=0.0 if size == 1 else 1.0)
    assert torch.isfinite(views([image], [0])).all()


def test_views_never_write_into_their_source():
    array = np.full((16, 16, 3), 0.25, dtype=np.float32)
    SimCLRViews(16, crop=False, flip=0.0)([array], [0])
    assert (array == 0.25).all()


def test_mixed_types_in_one_batch():
    image = pil_images(1, size=(20, 20))[0]
    views = SimCLRViews(20, crop=False, **ONLY_CROP)
    both = views([image, floats([image])[0]], [0, 1])
    torch.testing.assert_close(both[0], both[1], atol=1e-6, rtol=0)


@pytest.mark.parametrize("preset", ["imagenet", "cifar", "gsimclr_cifar", "gsimclr_imagenet", "digits"])
def test_presets_survive_json_and_describe_themselves(preset):
    views = getattr(SimCLRViews, preset)(16, seed=4, num_views=3)
    again = SimCLRViews.from_dict(json.loads(json.dumps(views.to_dict())))
    image = pil_images(1)[0]
    assert torch.equal(views([image], [5], 2), again([image], [5], 2))
    assert again.to_dict() == views.to_dict()
    assert "\n" not in views.describe()
    assert views.describe().startswith(f"3 views of {views.channels}x16x16")


def test_paper_presets_hold_the_papers_numbers():
    paper = SimCLRViews.gsimclr_cifar().to_dict()
    assert (paper["crop"], paper["flip"], paper["jitter_strength"], paper["jitter_p"], paper["gray_p"]) == (
        False,
        0.5,
        0.2,
        0.5,
        0.5,
    )
    cifar = SimCLRViews.cifar().to_dict()
    assert (cifar["jitter_strength"], cifar["jitter_p"], cifar["blur_p"], cifar["crop_scale"]) == (
        0.5,
        0.8,
        0,
        [0.08, 1],
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "size must be a whole number of at least 1, got 0"),
        ({"num_views": 0}, "num_views must be"),
        ({"flip": 1.5}, "flip must be a probability from 0 to 1, got 1.5"),
        ({"crop_scale": (0.5, 0.2)}, "crop_scale must satisfy"),
        ({"crop_scale": (0.0, 1.0)}, "crop_scale must satisfy"),
        ({"blur_sigma": 3}, "blur_sigma must be two numbers"),
        ({"jitter_strength": -1}, "jitter_strength must be a number of at least 0"),
        ({"jitter_strength": 4.0}, "jitter_strength must be at most 2.5"),
        ({"channels": 2}, "channels must be 1 or 3, got 2"),
        ({"mean": (0.5, 0.5)}, r"mean must hold one number per channel \(3\)"),
        ({"std": 0.0}, "std must be above 0"),
        ({"shear": 95.0}, "shear must be below 90"),
        ({"seed": -1}, "seed must be"),
    ],
)
def test_wrong_settings_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        SimCLRViews(**{"size": 8, **arguments})


def test_wrong_calls_are_named():
    views = SimCLRViews(8)
    with pytest.raises(ValueError, match="one length, got 1 and 2"):
        views(pil_images(1), [0, 1])
    with pytest.raises(ValueError, match="at least one image"):
        views([], [])
    with pytest.raises(ValueError, match=r"image in row 7 cannot be read: float pixels must lie in 0\.\.1"):
        views([np.full((4, 4), 200.0)], [7])
    with pytest.raises(ValueError, match="unknown view settings colour; allowed: size"):
        SimCLRViews.from_dict({"size": 8, "colour": 1})


# ---------------------------------------------------------------------------- evaluation


@pytest.mark.parametrize("shape", [(40, 50), (50, 40), (32, 32), (17, 90)])
@pytest.mark.parametrize("crop_fraction", [1.0, 0.875])
def test_eval_transform_equals_torchvision(shape, crop_fraction):
    images = pil_images(2, size=shape)
    transform = EvalTransform(28, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), crop_fraction=crop_fraction)
    theirs = v2.Compose(
        [
            v2.Resize(round(28 / crop_fraction), antialias=True),
            v2.CenterCrop(28),
            v2.Normalize([0.4, 0.5, 0.6], [0.2, 0.3, 0.4]),
        ]
    )
    result = transform(floats(images))
    for got, image in zip(result, floats(images), strict=True):
        torch.testing.assert_close(got, theirs(image), atol=1e-5, rtol=0)
    assert (transform(images) - result).abs().max() < 1.1 / 255 / 0.2
    assert EvalTransform.from_dict(json.loads(json.dumps(transform.to_dict()))).to_dict() == transform.to_dict()


def test_eval_transform_like_views():
    transform = EvalTransform.like(SimCLRViews.cifar(24))
    assert (transform.size, transform.channels, transform.mean) == (24, 3, (0.4914, 0.4822, 0.4465))
    with pytest.raises(ValueError, match="crop_fraction"):
        EvalTransform(8, crop_fraction=0.0)
