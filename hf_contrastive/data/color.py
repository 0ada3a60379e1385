"""Colour, blur and geometry on a batch of images, every image with its own parameters, in place where possible.

All take float32 images [n, C, H, W] in 0..1 and one parameter per image; each agrees with torchvision's function for
one image (`torchvision.transforms.v2.functional`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


# ITU-R 601 luma, with torchvision's digits
_LUMA = (0.2989, 0.587, 0.114)


def _per_image(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def luma(images: Tensor) -> Tensor:
    """Grey value of colour images: [n, 3, H, W] -> [n, 1, H, W]."""
    red, green, blue = images.split(1, dim=1)
    return (red * _LUMA[0]).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2])


def adjust_brightness_(images: Tensor, factor: Tensor) -> Tensor:
    """Multiplies by `factor` [n] and cuts off at 0 and 1, in place."""
    return images.mul_(_per_image(factor)).clamp_(0.0, 1.0)


def adjust_contrast_(images: Tensor, factor: Tensor) -> Tensor:
    """Moves every pixel away from (or towards) the image's mean grey value by `factor` [n], in place."""
    # two means in a row: a sum over one whole image at once may be split among threads, and rounds differently then
    means = images.mean(dim=3).mean(dim=2)
    if images.shape[1] == 3:
        mean = means[:, 0] * _LUMA[0] + means[:, 1] * _LUMA[1] + means[:, 2] * _LUMA[2]
    else:
        mean = means[:, 0]
    return images.mul_(_per_image(factor)).add_(_per_image((1.0 - factor) * mean)).clamp_(0.0, 1.0)


def adjust_saturation_(images: Tensor, factor: Tensor) -> Tensor:
    """Moves every pixel away from (or towards) its own grey value by `factor` [n], in place. Grey images stay."""
    if images.shape[1] == 1:
        return images
    grey = luma(images).mul_(_per_image(1.0 - factor))
    return images.mul_(_per_image(factor)).add_(grey).clamp_(0.0, 1.0)


def adjust_hue_(images: Tensor, shift: Tensor) -> Tensor:
    """Turns the hue by `shift` [n] (in turns: -0.5 to 0.5), in place. Grey images stay.

    Same as going to HSV and back (value and chroma are kept), written as the piecewise linear function of the hue that
    each channel is: `channel = max - chroma * clamp(2 - |hue - centre|, 0, 1)`, which needs a fraction of the passes.
    """
    if images.shape[1] == 1:
        return images
    red, green, blue = images.unbind(dim=1)
    high = torch.maximum(torch.maximum(red, green), blue)
    chroma = high - torch.minimum(torch.minimum(red, green), blue)
    scale = chroma.clamp_min(1e-12).reciprocal_()
    # hue in sixths of a turn: 0 + (g-b)/chroma where red is largest, 2 + (b-r)/chroma green, 4 + (r-g)/chroma blue
    hue = (red - green).mul_(scale).add_(4.0)
    is_green = high == green
    hue = torch.where(is_green, (blue - red).mul_(scale).add_(2.0), hue)
    hue = torch.where(high == red, (green - blue).mul_(scale), hue)
    hue.add_((shift * 6.0).view(-1, 1, 1))
    wrapped, turns = scale, torch.empty_like(scale)
    for channel, centre in ((red, 3.0), (green, 1.0), (blue, -1.0)):
        # (hue + n) mod 6 lies around 2 where the channel is smallest; n = 5, 3, 1 for red, green, blue
        torch.add(hue, centre, out=wrapped)
        torch.mul(wrapped, 1.0 / 6.0, out=turns).round_()
        wrapped.sub_(turns.mul_(6.0)).abs_().neg_().add_(2.0).clamp_(0.0, 1.0).mul_(chroma)
        torch.sub(high, wrapped, out=channel)
    return images


def solarize_(images: Tensor, threshold: float = 0.5) -> Tensor:
    """Inverts the pixels at or above `threshold`, in place."""
    return images.copy_(torch.where(images >= threshold, 1.0 - images, images))


def blur_kernel_size(size: int) -> int:
    """SimCLR's kernel: a tenth of the image side, made odd, at least 3 pixels (arXiv 2002.05709, appendix A)."""
    return max(3, int(0.1 * size) // 2 * 2 + 1)


def gaussian_blur(images: Tensor, sigma: Tensor, kernel_size: int) -> Tensor:
    """Blurs with a separable Gaussian of `sigma` [n] pixels, edges reflected.

    Args:
        images (`Tensor` [n, C, H, W]): images.
        sigma (`Tensor` [n]): standard deviation in pixels.
        kernel_size (`int`): odd number of taps, at most twice the image side minus one.

    Returns:
        `Tensor` [n, C, H, W].
    """
    half = kernel_size // 2
    offsets = torch.arange(-half, half + 1, dtype=images.dtype, device=images.device)
    weights = torch.softmax(-0.5 * (offsets / sigma.view(-1, 1)).square(), dim=1)
    for dim in (3, 2):
        length = images.shape[dim]
        padded = F.pad(images, (half, half, 0, 0) if dim == 3 else (0, 0, half, half), mode="reflect")
        total = torch.zeros_like(images)
        for tap in range(kernel_size):
            total.addcmul_(padded.narrow(dim, tap, length), _per_image(weights[:, tap]))
        images = total
    return images


def perspective(images: Tensor, corners: Tensor) -> Tensor:
    """Moves the corners of every image, as if it were seen from the side; bilinear, black outside.

    Args:
        images (`Tensor` [n, C, H, W]): images.
        corners (`Tensor` [n, 4, 2]): where (0, 0), (W - 1, 0), (W - 1, H - 1) and (0, H - 1) come to lie, in pixels right and down of
            the image's corner (the convention of torchvision).

    Returns:
        `Tensor` [n, C, H, W].
    """
    height, width = images.shape[2:]
    known = torch.tensor([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], dtype=torch.float64)
    # the map (a x + b y + c, d x + e y + f) / (g x + h y + 1) from the moved corners back to the image's
    x, y = corners.double().unbind(-1)
    u, v = known.unbind(-1)
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    upper = torch.stack((x, y, one, zero, zero, zero, -u * x, -u * y), -1)
    lower = torch.stack((zero, zero, zero, x, y, one, -v * x, -v * y), -1)
    right = torch.cat((u, v)).expand(len(x), 8)
    map_ = torch.linalg.solve(torch.cat((upper, lower), 1), right)
    rows, columns = (torch.arange(side, dtype=torch.float64) + 0.5 for side in (height, width))
    places = torch.stack(
        (columns.expand(height, width), rows[:, None].expand(height, width), torch.ones(height, width)), -1
    )
    numerators = torch.einsum("hwk,nck->nhwc", places, map_[:, :6].view(-1, 2, 3))
    divisors = torch.einsum("hwk,nk->nhw", places[..., :2], map_[:, 6:]) + 1
    found = numerators / divisors[..., None]
    # normalised coordinates of grid_sample run over 2 per side
    grid = 2 * found / torch.tensor([width, height], dtype=torch.float64) - 1
    return F.grid_sample(images, grid.to(images.dtype), mode="bilinear", padding_mode="zeros", align_corners=False)


def affine(images: Tensor, angle: Tensor, shift: Tensor, zoom: Tensor, shear: Tensor) -> Tensor:
    """Turns, shifts, zooms and shears about the image's centre, bilinear, black outside.

    Args:
        images (`Tensor` [n, C, H, W]): images.
        angle (`Tensor` [n]): degrees, clockwise.
        shift (`Tensor` [n, 2]): pixels to the right and down.
        zoom (`Tensor` [n]): magnification.
        shear (`Tensor` [n]): degrees along the rows.

    Returns:
        `Tensor` [n, C, H, W].
    """
    height, width = images.shape[2:]
    turn, tilt = torch.deg2rad(angle.double()), torch.deg2rad(shear.double())
    # forward = turn * shear * zoom about the centre; sampling needs its inverse
    cos, sin, tan = torch.cos(turn), torch.sin(turn), torch.tan(tilt)
    forward = torch.stack((torch.stack((cos, -cos * tan - sin), -1), torch.stack((sin, -sin * tan + cos), -1)), -2)
    inverse = torch.linalg.inv(forward * zoom.double().view(-1, 1, 1))
    offset = -(inverse @ shift.double().unsqueeze(-1))
    # normalised coordinates of grid_sample run over 2 per side
    scale = torch.tensor([width / 2.0, height / 2.0], dtype=torch.float64)
    matrix = inverse * scale.view(1, 1, 2) / scale.view(1, 2, 1)
    theta = torch.cat((matrix, offset / scale.view(1, 2, 1)), dim=2).to(images.dtype)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
