"""The .nnet format of Stanford's ACAS Xu networks: fully connected layers with ReLU, as text. Read
and written.

No package on PyPI reads it and is kept (Stanford's own NNet is not published there), so it is read
here. A line is a list of numbers; nothing is executed, and sizes are bounded. The format knows no
other activation than ReLU.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from timm_repair.errors import OutputError, PropertyError

MOST_BYTES = 256 * 1024**2
MOST_LAYERS, MOST_WIDTH = 1000, 100_000


@dataclass(frozen=True)
class Scaling:
    """How a .nnet file scales: the numbers of its header, kept so that a repaired network is
    written with them.

    Args:
        lower, upper: (inputs,) ends of the inputs, unscaled.
        means, ranges: (inputs + 1,) the last for the outputs: scaled = (x - mean) / range.
    """

    lower: Tensor
    upper: Tensor
    means: Tensor
    ranges: Tensor


class _Lines:
    """The lines of a file that hold numbers, with their numbers for messages."""

    def __init__(self, text: str, name: str):
        lines = enumerate(text.splitlines(), 1)
        self.rest = iter(
            [(n, line) for n, line in lines if line.strip() and not line.lstrip().startswith("//")]
        )
        self.name, self.number = name, 0

    def next(self, count: int | None, what: str) -> list[float]:
        """The numbers of the next line, `count` of them unless that is None."""
        self.number, line = next(self.rest, (self.number + 1, None))
        if line is None:
            raise PropertyError(
                f"{self.name}, line {self.number}: the file ends before {what}; it is cut off"
            )
        try:
            values = [float(value) for value in line.strip().rstrip(",").split(",")]
        except ValueError:
            raise PropertyError(
                f"{self.name}, line {self.number}: {what} must be numbers, not"
                f" {line.strip()[:60]!r}"
            ) from None
        if count is not None and len(values) != count:
            raise PropertyError(
                f"{self.name}, line {self.number}: {what} needs {count} numbers, here are"
                f" {len(values)}"
            )
        if not all(map(math.isfinite, values)):
            raise PropertyError(
                f"{self.name}, line {self.number}: {what} has a number that is not finite"
            )
        return values

    def integers(self, count: int, what: str) -> list[int]:
        """As `next`, of whole numbers."""
        values = self.next(count, what)
        if any(value != int(value) for value in values):
            raise PropertyError(f"{self.name}, line {self.number}: {what} must be whole numbers")
        return [int(value) for value in values]

    def end(self) -> None:
        """Raise PropertyError if there are lines left."""
        number, line = next(self.rest, (0, None))
        if line is not None:
            raise PropertyError(
                f"{self.name}, line {number}: the last bias is before it; the sizes in the header"
                " are of a smaller network"
            )


def read(path: str | Path) -> tuple[nn.Sequential, Scaling]:
    """The network in a .nnet file, for inputs that are scaled already, and its scaling.

    Raises:
        PropertyError: it cannot be read, or is malformed; the message has the line.
    """
    path = Path(path).expanduser()
    try:
        if path.stat().st_size > MOST_BYTES:
            raise PropertyError(
                f"{path.name}: more than {MOST_BYTES} bytes; a network of that size is not read"
            )
        lines = _Lines(path.read_text(encoding="ascii"), path.name)
    except (OSError, UnicodeDecodeError) as error:
        raise PropertyError(
            f"cannot read the network {str(path)!r} ({error}): give a .nnet file"
        ) from error
    layers, inputs, outputs, _ = lines.integers(4, "layers, inputs, outputs, largest layer")
    if not 0 < layers <= MOST_LAYERS:
        raise PropertyError(
            f"{path.name}, line {lines.number}: {layers} layers; 1 to {MOST_LAYERS} are read"
        )
    sizes = lines.integers(layers + 1, "the sizes of the layers")
    if not all(0 < size <= MOST_WIDTH for size in sizes) or (sizes[0], sizes[-1]) != (
        inputs,
        outputs,
    ):
        raise PropertyError(
            f"{path.name}, line {lines.number}: sizes {sizes} do not go from {inputs} inputs to"
            f" {outputs} outputs"
        )
    lines.next(None, "a flag that is no longer used")
    names = ("the lowest inputs", "the highest inputs", "the means", "the ranges")
    scaling = Scaling(
        *(
            torch.tensor(lines.next(inputs + (i > 1), name), dtype=torch.float64)
            for i, name in enumerate(names)
        )
    )
    if not (scaling.ranges != 0).all():
        raise PropertyError(
            f"{path.name}, line {lines.number}: a range is 0; inputs are divided by it"
        )
    modules: list[nn.Module] = []
    for number, (before, after) in enumerate(zip(sizes, sizes[1:], strict=False), 1):
        weight = [lines.next(before, f"a row of layer {number}") for _ in range(after)]
        bias = [lines.next(1, f"a bias of layer {number}") for _ in range(after)]
        layer = linear_layer(torch.tensor(weight), torch.tensor(bias)[:, 0])
        modules += [layer, nn.ReLU()]
    lines.end()
    return nn.Sequential(*modules[:-1]), scaling


def linear_layer(weight: Tensor, bias: Tensor) -> nn.Linear:
    """A layer of these weights (out, in) and biases (out,); the global random state is not
    touched.
    """
    layer = cast(nn.Linear, nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0]))
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return layer


def write(model: nn.Module, path: str | Path, scaling: Scaling | None = None) -> Path:
    """Write `model`, linear layers with ReLU between them, and compare what was written with it.

    Args:
        scaling: of the header; None writes that of inputs which are not scaled and have no ends.

    Raises:
        PropertyError: the format cannot hold this network, or what was written answers otherwise.
        OutputError: the file cannot be written.
    """
    path = Path(path).expanduser()
    linear = layers_of(model)
    sizes = [linear[0].in_features, *(layer.out_features for layer in linear)]
    inputs = sizes[0]
    scaling = scaling or Scaling(
        torch.full((inputs,), -1e30),
        torch.full((inputs,), 1e30),
        torch.zeros(inputs + 1),
        torch.ones(inputs + 1),
    )

    def row(values) -> str:
        return ",".join(repr(float(value)) for value in values) + ","

    lines = [
        "// .nnet, written by timm_repair",
        f"{len(linear)},{inputs},{sizes[-1]},{max(sizes)},",
    ]
    lines += [",".join(map(str, sizes)) + ",", "0,"]
    lines += [
        row(each.tolist()) for each in (scaling.lower, scaling.upper, scaling.means, scaling.ranges)
    ]
    for layer in linear:
        bias = torch.zeros(layer.out_features) if layer.bias is None else layer.bias.detach().cpu()
        lines += [row(weights) for weights in layer.weight.detach().cpu().tolist()]
        lines += [row([value]) for value in bias.tolist()]
    new = path.with_name(path.name + ".new")
    try:
        new.write_text("\n".join(lines) + "\n", encoding="ascii")
        again, _ = read(new)
        for mine, theirs in zip(linear, layers_of(again), strict=True):
            bias = torch.zeros(mine.out_features) if mine.bias is None else mine.bias
            pairs = ((mine.weight, theirs.weight), (bias, theirs.bias))
            if not all(torch.equal(one.detach().cpu().float(), other) for one, other in pairs):
                raise PropertyError(
                    f"{path.name}: what was written is not the network to the last bit; not kept"
                )
        new.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {str(path)!r} ({error}): choose another file") from error
    finally:
        new.unlink(missing_ok=True)
    return path


def holds(model: nn.Module) -> bool:
    """Whether the format can hold `model`."""
    kinds = _kinds(model)
    return kinds == [nn.Linear, nn.ReLU] * (len(kinds) // 2) + [nn.Linear]


def layers_of(model: nn.Module) -> list[nn.Linear]:
    """The linear layers of `model`.

    Raises:
        PropertyError: the format cannot hold it.
    """
    if not holds(model):
        raise PropertyError(
            ".nnet holds linear layers with a ReLU between each two and nothing else: this network"
            f" has {', '.join(dict.fromkeys(kind.__name__ for kind in _kinds(model)))}; write it as"
            " ONNX"
        )
    return [module for module in _children(model) if isinstance(module, nn.Linear)]


def _children(model: nn.Module) -> list[nn.Module]:
    return list(model.children()) if isinstance(model, nn.Sequential) else [model]


def _kinds(model: nn.Module) -> list[type]:
    return [type(child) for child in _children(model)]
