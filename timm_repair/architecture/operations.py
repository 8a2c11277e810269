"""The operations of Table 3, and two more: (input channels, output channels, stride) -> module.
All keep H, W up to the stride.

They work on a contiguous slice of 1/partial of the channels (PC-DARTS §3.1), another slice at each
node; the other channels take the anchor X_{j-1} alone.
"""

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _identity_conv(c_in: int, c_out: int) -> nn.Conv2d:
    """Table 3's "Identity CNN layer": a 1x1 convolution that starts as the identity on the channels
    both sides have.
    """
    conv = nn.Conv2d(c_in, c_out, 1, bias=False)
    nn.init.dirac_(conv.weight)
    return conv


def _norm(channels: int) -> nn.BatchNorm2d:
    # affine-free (DARTS §2): a learnt scale could stand in for the architecture parameters; the
    # gain after it is the only scale
    return nn.BatchNorm2d(channels, affine=False)


def _every(stride: int) -> list[nn.Module]:
    """What takes every `stride`-th place; nothing where that is all. Not the stride of a 1x1
    convolution: its weight gradient (oneDNN 3.13, AVX2) writes beyond the end of fewer than 8
    channels.
    """
    return [nn.AvgPool2d(1, stride)] if stride > 1 else []


def _skip(c_in: int, c_out: int, stride: int) -> nn.Module:
    if c_in == c_out and stride == 1:
        return nn.Identity()
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        {"0": _identity_conv(c_in, c_out), "1": _norm(c_out)}
    )
    every = _every(stride)
    return nn.Sequential(OrderedDict({"every": every[0]}) | layers if every else layers)


def _avg_pool(c_in: int, c_out: int, stride: int) -> nn.Module:
    pool = nn.AvgPool2d(3, stride, padding=1, count_include_pad=False)
    return nn.Sequential(pool, _identity_conv(c_in, c_out), _norm(c_out))


def _max_pool(c_in: int, c_out: int, stride: int) -> nn.Module:
    return nn.Sequential(
        nn.MaxPool2d(3, stride, padding=1), _identity_conv(c_in, c_out), _norm(c_out)
    )


def _sep_conv(c_in: int, c_out: int, stride: int) -> nn.Module:
    depthwise = nn.Conv2d(c_in, c_in, 3, stride, padding=1, groups=c_in, bias=False)
    return nn.Sequential(
        depthwise, _norm(c_in), nn.ReLU(), nn.Conv2d(c_in, c_out, 1, bias=False), _norm(c_out)
    )


def _dil_conv(c_in: int, c_out: int, stride: int) -> nn.Module:
    dilated = nn.Conv2d(c_in, c_in, 3, stride, padding=2, dilation=2, bias=False)
    return nn.Sequential(dilated, _norm(c_in), nn.ReLU(), _identity_conv(c_in, c_out), _norm(c_out))


def _linear(c_in: int, c_out: int, stride: int) -> nn.Module:
    layers = [nn.Conv2d(c_in, c_out, 1, bias=False), _norm(c_out)]
    return nn.Sequential(*_every(stride), *layers)


class PerImage(nn.Module):
    """Each channel of each image at mean 0 and variance 1 (instance normalization, Ulyanov et al.
    2016): what changes brightness or contrast of an image as a whole is taken out.
    """

    def forward(self, x: Tensor) -> Tensor:
        # of one pixel nothing is left, which torch refuses
        return F.instance_norm(x) if x.shape[2] * x.shape[3] > 1 else torch.zeros_like(x)


def _instance_norm(c_in: int, c_out: int, stride: int) -> nn.Module:
    fitting = [_identity_conv(c_in, c_out)] if c_in != c_out else []
    return nn.Sequential(*_every(stride), *fitting, PerImage())


OPERATIONS: dict[str, Callable[[int, int, int], nn.Module] | None] = {
    "none": None,  # not connected
    "skip": _skip,
    "avg_pool": _avg_pool,
    "max_pool": _max_pool,
    "sep_conv": _sep_conv,
    "dil_conv": _dil_conv,
    # not in Table 3: for tokens that lie on no grid, and what `normalizing` adds
    "linear": _linear,
    "instance_norm": _instance_norm,
}
CANDIDATES = ("none", "skip", "avg_pool", "max_pool", "sep_conv", "dil_conv")
CANDIDATES_IN_LINE = ("none", "skip", "linear")  # of what needs no neighbours

# α starts near uniform with a small lead for "none", so that an edge has to earn its place; a
# larger lead could not be overcome in the few hundred steps of a repair (α moves by about its
# learning rate a step)
NONE_PRIOR = 0.05


def channel_slice(node: int, channels: int, partial: int) -> slice:
    """The channels of node number `node` that operations see: 1/partial of them, contiguous,
    rotating from node to node.
    """
    width = max(channels // partial, 1)
    start = node % (channels // width) * width
    return slice(start, start + width)
