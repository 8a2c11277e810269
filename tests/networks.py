"""Networks made by hand, whose violating regions are known exactly, and the VNN-LIB text of
properties of them.
"""

import planted
import torch
from torch import nn


def ramp(threshold: float = 0.6, outputs: int = 2) -> nn.Sequential:
    """Two inputs, two outputs: y = (x_0 - threshold, 0). In the unit square y_0 >= y_1 exactly
    where x_0 >= threshold. Further `outputs` are -1.

    The hidden layer keeps x_0 and x_1 (which are not negative), and four units that are dead in the
    unit square.
    """
    network = nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, outputs))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network[0].weight[0, 0] = network[0].weight[1, 1] = 1.0
        network[0].bias[2:] = -1.0
        network[2].weight[0, 0] = 1.0
        network[2].bias[0] = -threshold
        network[2].bias[2:] = -1.0
    return network.eval()


def correlating() -> nn.Module:
    """A classifier of the planted pictures: ten hidden units, each for one pattern, and ten
    outputs, each of its unit, by a weight of 1. One that is changed spoils one class.
    """
    model = nn.Sequential(
        nn.AvgPool2d(8), nn.Flatten(), nn.Linear(16, 10), nn.ReLU(), nn.Linear(10, 10)
    )
    signs = torch.from_numpy(planted.PATTERNS.reshape(10, 16) > 128).float() * 2 - 1
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model[2].weight.copy_(10 / 16 * signs)
        model[4].weight.copy_(torch.eye(10))
    model.num_classes = 10
    model.pretrained_cfg = {
        "input_size": (1, 32, 32),
        "mean": (0.5,),
        "std": (0.25,),
        "crop_pct": 1.0,
    }
    return model.eval()


def box(lower: float = 0.0, upper: float = 1.0, axes: int = 2) -> str:
    """Assertions that all inputs lie between."""
    return "\n".join(
        f"(assert (>= X_{i} {lower}))\n(assert (<= X_{i} {upper}))" for i in range(axes)
    )


def declared(inputs: int = 2, outputs: int = 2) -> str:
    """Declarations of the variables."""
    names = [f"X_{i}" for i in range(inputs)] + [f"Y_{i}" for i in range(outputs)]
    return "\n".join(f"(declare-const {name} Real)" for name in names)


# a violation where output 0 is at least output 1: of two outputs, so which end is the answer has to
# be said
UNSAFE = f"; unsafe if y_0 is maximal\n{declared()}\n{box()}\n(assert (<= Y_1 Y_0))\n"
