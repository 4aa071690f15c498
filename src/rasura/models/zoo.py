"""Small nets of our own. Each maps a batch of images `[B, C, H, W]` to logits `[B, K]`."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rasura.errors import InputError


class ConvNet(nn.Module):
    """Three 3×3 convolutions without BatchNorm, each halving the image, then global average pooling and a head."""

    def __init__(self, channels: int, width: int, classes: int):
        super().__init__()
        self.block1 = _conv_relu_pool(channels, width)
        self.block2 = _conv_relu_pool(width, 2 * width)
        self.block3 = _conv_relu_pool(2 * width, 4 * width)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(4 * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.block3(self.block2(self.block1(images)))
        return self.head(self.pool(maps).flatten(1))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with BatchNorm and a shortcut (He et al., 2016, figure 5 left; option B shortcuts)."""

    def __init__(self, inner: int, outer: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outer)
        same = inner == outer and stride == 1
        self.shortcut = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer))
        )

    def forward(self, maps: Tensor) -> Tensor:
        inside = F.relu(self.bn1(self.conv1(maps)))
        return F.relu(self.bn2(self.conv2(inside)) + self.shortcut(maps))


class ResNet(nn.Module):
    """A residual net with the stem used on small images: one 3×3 convolution, no pooling before the first stage."""

    def __init__(self, channels: int, width: int, blocks: tuple[int, ...], classes: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        widths = [width * 2**stage for stage in range(len(blocks))]
        for stage, (inner, outer, count) in enumerate(zip([width, *widths], widths, blocks, strict=False)):
            stride = 1 if stage == 0 else 2
            rest = [BasicBlock(outer, outer, 1) for _ in range(count - 1)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(BasicBlock(inner, outer, stride), *rest))
        self.stages = len(blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.relu(self.bn1(self.conv1(images)))
        for stage in range(self.stages):
            maps = self.get_submodule(f"layer{stage + 1}")(maps)
        return self.head(self.pool(maps).flatten(1))


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al., 2017, section 3.2) with one projection for queries, keys, values."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, length, width = tokens.shape
        split = self.qkv(tokens).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(split[0], split[1], split[2])
        return self.out(mixed.transpose(1, 2).reshape(batch, length, width))


class TransformerBlock(nn.Module):
    """Pre-norm attention and a two-layer perceptron, each with a shortcut."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class PatchEmbedding(nn.Module):
    """Cut the image into patches, project each, and add a learned position."""

    def __init__(self, channels: int, size: int, patch: int, width: int):
        super().__init__()
        self.project = nn.Conv2d(channels, width, patch, patch)
        self.position = nn.Parameter(torch.empty(1, (size // patch) ** 2, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.position, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        return self.project(images).flatten(2).transpose(1, 2) + self.position


class VisionTransformer(nn.Module):
    """A small vision transformer (Dosovitskiy et al., 2021) with mean-pooled tokens in place of a class token."""

    def __init__(self, channels: int, size: int, patch: int, width: int, depth: int, heads: int, classes: int):
        super().__init__()
        self.embed = PatchEmbedding(channels, size, patch, width)
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embed(images))).mean(1))


def convnet(classes: int, channels: int, size: int, width: int = 16) -> nn.Module:
    """Three convolutions without BatchNorm.

    Args:
        width: channels of the first convolution; the last has four times as many. 1 or more.
    """
    _at_least(size=(size, 8), width=(width, 1))
    return ConvNet(channels, width, classes)


def resnet8(classes: int, channels: int, size: int, width: int = 16) -> nn.Module:
    """A residual net of three stages with one block each.

    Args:
        width: channels of the first stage; they double at each stage. 1 or more.
    """
    _at_least(size=(size, 4), width=(width, 1))
    return ResNet(channels, width, (1, 1, 1), classes)


def resnet18(classes: int, channels: int, size: int, width: int = 64) -> nn.Module:
    """A residual net of four stages with two blocks each.

    Args:
        width: channels of the first stage; they double at each stage. 1 or more.
    """
    _at_least(size=(size, 8), width=(width, 1))
    return ResNet(channels, width, (2, 2, 2, 2), classes)


def vit(
    classes: int, channels: int, size: int, width: int = 64, depth: int = 4, heads: int = 4, patch: int = 4
) -> nn.Module:
    """A small vision transformer.

    Args:
        width: features per token; a multiple of `heads`.
        depth: number of blocks. 1 or more.
        heads: attention heads per block. 1 or more.
        patch: side of a patch in pixels; it divides the image's side.
    """
    _at_least(width=(width, 1), depth=(depth, 1), heads=(heads, 1), patch=(patch, 1))
    if size % patch:
        raise InputError(f"patch: {patch} does not divide the image side {size}; allowed: a divisor of {size}")
    if width % heads:
        raise InputError(f"width: {width} is no multiple of heads {heads}; allowed: a multiple of {heads}")
    return VisionTransformer(channels, size, patch, width, depth, heads, classes)


ZOO = {"convnet": convnet, "resnet8": resnet8, "resnet18": resnet18, "vit": vit}
"""The nets by name. Each takes `classes`, `channels`, `size` (the image's side in pixels) and its own options."""


def _conv_relu_pool(inner: int, outer: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inner, outer, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))


def _at_least(**fields: tuple[int, int]) -> None:
    for name, (value, low) in fields.items():
        if value < low:
            raise InputError(f"{name}: {value}; allowed: {low} or more")
