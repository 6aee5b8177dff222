r"""A U-Net for images of any size >= 8 and any channel count, conditioned on the noise level and the class.

Built for speed on processors and cards alike: activations stay in channels-last memory, normalisation is over each
whole sample, attention is written out, and pixels may be folded into channels at the entrance. Residual blocks are
$x + \mathrm{conv}(\varphi((1 + a)\,\mathrm{norm}(\mathrm{conv}(\varphi(\mathrm{norm}(x)))) + b))$ with $(a, b)$ linear
in the condition.

Source: Ronneberger et al. 2015 (arXiv:1505.04597); Ho et al. 2020 (arXiv:2006.11239); FiLM, Perez et al. 2018.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from scorefield.checks import check_count, check_shape
from scorefield.networks.condition import Condition
from scorefield.networks.norms import normalise
from scorefield.settings import UNetSize


class SampleNorm(nn.Module):
    """Normalisation of each sample over its channels and pixels, in channels-last memory (one group, no gains).

    The gains are left to the convolution or the condition that follows: long rows are what a processor is fast at, and
    a norm over the channels of each pixel costs four times as much.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, H, W) over C, H and W."""
        return normalise(x.permute(0, 2, 3, 1), 3).permute(0, 3, 1, 2)


class PixelNorm(nn.Module):
    """Normalisation of each pixel over its channels, (B, P, C), with a gain and a shift per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, P, C) over C."""
        return torch.addcmul(self.bias, normalise(x, 1), self.weight)


class Residual(nn.Module):
    """Two 3 x 3 convolutions, the second conditioned by scale and shift, added to the input."""

    def __init__(self, channels: int, out: int, condition: int) -> None:
        super().__init__()
        self.first = nn.Sequential(SampleNorm(channels), nn.SiLU(), nn.Conv2d(channels, out, 3, padding=1))
        self.norm = SampleNorm(out)
        self.film = nn.Linear(condition, 2 * out)
        self.second = nn.Conv2d(out, out, 3, padding=1)
        self.skip = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """One residual block on (B, C, H, W) under the condition e (B, condition)."""
        scale, shift = self.film(e)[:, :, None, None].chunk(2, dim=1)
        h = torch.addcmul(shift, self.norm(self.first(x)), 1 + scale)
        return self.skip(x) + self.second(nn.functional.silu(h))


class Attention(nn.Module):
    """Self-attention between the pixels of the coarsest resolution, written out, added to the input."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = PixelNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)  # the keys' bias would have gradient zero
        self.out = nn.Linear(channels, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Attention over the H W pixels of (B, C, H, W)."""
        b, c, h, w = x.shape
        tokens = x.permute(0, 2, 3, 1).reshape(b, h * w, c)
        q, k, v = self.qkv(self.norm(tokens)).reshape(b, h * w, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(q @ k.transpose(-1, -2) * (c // self.heads) ** -0.5, dim=-1)
        mixed = (weights @ v).transpose(1, 2).reshape(b, h * w, c)
        return x + self.out(mixed).reshape(b, h, w, c).permute(0, 3, 1, 2)


class UNet(nn.Module):
    """U-Net with skip connections, attention at the coarsest resolution: (x, c, y) -> (B, C, H, W).

    Args:
        shape: shape (C, H, W) of one image, H and W >= 8; padded inside to what the resolutions divide.
        size: width, blocks, resolutions, patch.
        classes: number of classes; 0 for none.
    """

    def __init__(self, shape: Sequence[int], size: UNetSize | None = None, *, classes: int = 0) -> None:
        super().__init__()
        size = size or UNetSize()
        for name in ("width", "blocks", "resolutions", "patch"):
            check_count(name, getattr(size, name))
        if len(shape) != 3 or min(shape[1:]) < 8:
            raise ValueError(f"the U-Net needs images (C, H, W) with sides >= 8, got shape {tuple(shape)}; use the MLP")
        self.shape, self.patch = tuple(shape), size.patch
        self.multiple = size.patch * 2 ** (size.resolutions - 1)
        if self.multiple > min(shape[1:]):
            raise ValueError(
                f"patch x 2**(resolutions - 1) must be at most the image's side, {min(shape[1:])}, got {self.multiple}"
            )
        widths = [size.width * 2**k for k in range(size.resolutions)]
        features = 4 * size.width
        pixels = shape[0] * size.patch**2
        self.condition = Condition(features, classes)
        self.entrance = nn.Conv2d(pixels, size.width, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        channels, skips = size.width, []
        for level, width in enumerate(widths):
            for _ in range(size.blocks):
                self.down.append(Residual(channels, width, features))
                channels = width
                skips.append(channels)
            if level < len(widths) - 1:
                self.down.append(nn.Conv2d(channels, channels, 3, stride=2, padding=1))
        heads = max(1, channels // 64)
        self.middle = Attention(channels, heads if channels % heads == 0 else 1)
        for level, width in reversed(list(enumerate(widths))):
            for _ in range(size.blocks):
                self.up.append(Residual(channels + skips.pop(), width, features))
                channels = width
            if level > 0:
                self.up.append(nn.Upsample(scale_factor=2, mode="nearest"))
        last = nn.Conv2d(channels, pixels, 3, padding=1)
        nn.init.zeros_(last.weight)
        self.exit = nn.Sequential(SampleNorm(channels), nn.SiLU(), last)
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, x: Tensor, c: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        """F(x, c, y), shaped like x. Without c there is one noise level."""
        check_shape("x", x, (len(x), *self.shape), "the shape the network was built for")
        height, width = x.shape[-2:]
        e = nn.functional.silu(self.condition(x.new_zeros(len(x)) if c is None else c, y))
        h = nn.functional.pad(x, (0, -width % self.multiple, 0, -height % self.multiple))
        h = nn.functional.pixel_unshuffle(h, self.patch) if self.patch > 1 else h
        h = self.entrance(h.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2))  # channels last, also under vmap
        skips = []
        for module in self.down:
            if isinstance(module, Residual):
                h = module(h, e)
                skips.append(h)
            else:
                h = module(h)
        h = self.middle(h)
        for module in self.up:
            h = module(torch.cat([h, skips.pop()], dim=1), e) if isinstance(module, Residual) else module(h)
        h = self.exit(h)
        h = nn.functional.pixel_shuffle(h, self.patch) if self.patch > 1 else h
        return h[..., :height, :width].to(x.dtype)
