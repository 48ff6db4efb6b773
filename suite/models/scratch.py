"""Networks for 32-pixel images, trained from scratch: two families of ResNets, and plain nets.

Legend: B images, C channels, H x W pixels, K classes.

``resnet18_cifar`` and its family are the ImageNet ResNets of He et al. 2015 (arXiv 1512.03385,
table 1) with a 3x3 stem of stride 1 and no pooling after it, as in kuangliu/pytorch-cifar, whose
state dicts fit unrenamed. ``resnet20`` ... ``resnet110`` are the nets that the paper trains on
CIFAR-10 (section 4.2), whose shortcuts have no parameters (option A). ``plain...`` are the same
nets without shortcuts, for the degradation study.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PadShortcut(nn.Module):
    """Option A of the paper: every ``stride``-th pixel, new channels of zeros; no parameters.

    Half of the new channels come before the old ones and half after, as in
    akamaster/pytorch_resnet_cifar10, whose weights then fit.
    [B, C, H, W] -> [B, C + 2 * pad, ceil(H / stride), ceil(W / stride)].
    """

    def __init__(self, pad: int, stride: int) -> None:
        super().__init__()
        self.pad, self.stride = pad, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))

    def extra_repr(self) -> str:
        return f"pad={self.pad}, stride={self.stride}"


class PlainBlock(nn.Module):
    """Two 3x3 convolutions. [B, C_in, H, W] -> [B, C_out, H / stride, W / stride]."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)

    def body(self, x: Tensor) -> Tensor:
        """The output before the last ReLU, without the shortcut."""
        out: Tensor = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return out

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x))


class BasicBlock(PlainBlock):
    """Two 3x3 convolutions and a shortcut: a 1x1 convolution if the shape changes (option B)."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__(c_in, c_out, stride)
        self.shortcut = nn.Sequential()
        if stride != 1 or c_in != c_out:
            self.shortcut = self.projection(c_in, c_out, stride)

    @staticmethod
    def projection(c_in: int, c_out: int, stride: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        shortcut: Tensor = self.shortcut(x)
        return F.relu(self.body(x) + shortcut)


class PadBlock(BasicBlock):
    """A ``BasicBlock`` whose shortcut has no parameters (option A)."""

    @staticmethod
    def projection(c_in: int, c_out: int, stride: int) -> nn.Sequential:
        return nn.Sequential(PadShortcut((c_out - c_in) // 2, stride))


class ResNet(nn.Module):
    """A 3x3 stem, stages of blocks, the mean over all pixels, a linear layer.

    [B, 3, H, W] -> [B, K] for any H and W.

    Args:
        block: the kind of block.
        widths: channels of each stage; all but the first halve the side of their input.
        depths: blocks of each stage.
        num_classes: K.
    """

    def __init__(
        self,
        block: type[PlainBlock],
        widths: Sequence[int],
        depths: Sequence[int],
        num_classes: int,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.stages = len(widths)
        c_in = widths[0]
        for index, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            first = block(c_in, width, stride=1 if index == 0 else 2)
            rest = [block(width, width, stride=1) for _ in range(depth - 1)]
            self.add_module(f"layer{index + 1}", nn.Sequential(first, *rest))
            c_in = width
        self.linear = nn.Linear(c_in, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        for index in range(self.stages):
            x = self.get_submodule(f"layer{index + 1}")(x)
        # The mean over all pixels is the 4x4 average pooling of the 32 px original, for any size.
        logits: Tensor = self.linear(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return logits


class PlainNet(ResNet):
    """A ``ResNet`` of blocks without shortcuts."""


def _wide(
    kind: type[ResNet], block: type[PlainBlock], depths: Sequence[int]
) -> Callable[[int], nn.Module]:
    """ImageNet's widths. Initial weights are PyTorch's default, as in the original code."""
    return lambda num_classes: kind(block, (64, 128, 256, 512), depths, num_classes)


def _narrow(kind: type[ResNet], block: type[PlainBlock], layers: int) -> Callable[[int], nn.Module]:
    """``layers`` = 6n + 2: a stem, 3 stages of n blocks, a linear layer."""

    def make(num_classes: int) -> nn.Module:
        net = kind(block, (16, 32, 64), (layers // 6,) * 3, num_classes)
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                # "We initialize the weights as in [13]": He et al. 2015, arXiv 1502.01852, eq. 10.
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        return net

    return make


_LAYERS = (20, 32, 44, 56, 110)

NETS: dict[str, Callable[[int], nn.Module]] = {
    "resnet18_cifar": _wide(ResNet, BasicBlock, (2, 2, 2, 2)),
    "resnet34_cifar": _wide(ResNet, BasicBlock, (3, 4, 6, 3)),
    "plain18_cifar": _wide(PlainNet, PlainBlock, (2, 2, 2, 2)),
    "plain34_cifar": _wide(PlainNet, PlainBlock, (3, 4, 6, 3)),
    **{f"resnet{layers}": _narrow(ResNet, PadBlock, layers) for layers in _LAYERS},
    **{f"plain{layers}": _narrow(PlainNet, PlainBlock, layers) for layers in _LAYERS},
}
"""Name of a network -> function of the number of classes."""
