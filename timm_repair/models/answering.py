"""Answering: what a model says to a few made-up images. Only the form of its answers counts, and
whether two models answer alike.
"""

from collections.abc import Mapping, Sequence

import torch
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor, nn

from timm_repair.errors import DataError, ModelError
from timm_repair.models.temporary import capture, capture_inputs, in_float32, plain_forward

# of the made-up images: activations that differ only for large values (ReLU6) are to differ
_SCALES = (1.0, 0.1, 10.0, 100.0)
# relative; two runs of the same layers on the same numbers agree to the bit, or nearly
_ROUNDING = 1e-6


def made_up(size: Sequence[int], model: nn.Module) -> Tensor:
    """Four images (4, C, H, W) of noise of different strengths, always the same, where the model
    computes.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(len(_SCALES), *size, generator=generator, dtype=torch.float32, device="cpu")
    scales = noise.new_tensor(_SCALES).view(-1, 1, 1, 1)
    home = next(model.parameters(), torch.zeros(()))
    return (noise * scales).to(home.device)


@torch.no_grad()
def logits(model: nn.Module, images: Tensor) -> Tensor:
    """The model's logits (N, classes), in eval mode and float32; of a transformers model, the
    `logits` of its output.

    Raises:
        ModelError: it does not run on such images.
        DataError: it returns something else.
    """
    try:
        with (
            torch.random.fork_rng(devices=[]),  # the same noise in a model that draws some
            plain_forward(model),
            in_float32(model),
        ):
            torch.manual_seed(0)
            found = model(images)
    except Exception as error:  # the model is somebody's: it may raise anything
        if should_reduce_batch_size(error):
            raise
        size = " x ".join(map(str, images.shape[1:]))
        raise ModelError(
            f"the model does not run on images of {size} ({type(error).__name__}:"
            f" {error!s:.200}): if it takes others, set model.pretrained_cfg['input_size'] ="
            " (channels, height, width)"
        ) from error
    found = getattr(found, "logits", found)
    if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(images):
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise DataError(
            f"the model must return logits of shape (N, classes), not {shape}; is it an image"
            f" classifier?{_way_out(found)}"
        )
    return found


def _way_out(found: object) -> str:
    """What to do about a model that returns more than logits."""
    values = list(found.values()) if isinstance(found, Mapping) else found
    if not isinstance(values, list | tuple) or not any(isinstance(x, Tensor) for x in values):
        return ""
    at = next(iter(found), None) if isinstance(found, Mapping) else 0
    at = "logits" if isinstance(found, Mapping) and "logits" in found else at
    return (
        f" It returns a {type(found).__name__} of {len(values)}: put it into a module whose forward"
        f" returns the logits alone, as model(x)[{at!r}] may be"
    )


def alike(one: object, other: object) -> bool:
    """Whether two outputs are the same tensor up to the last bits; what is no tensor is not
    compared.
    """
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return type(one) is type(other)
    if one.shape != other.shape:
        return False
    if torch.equal(one, other):
        return True
    if one.ndim == 0:
        one, other = one[None], other[None]
    if one.is_complex():
        one, other = torch.view_as_real(one), torch.view_as_real(other)
    one, other = one.double(), other.double()
    finite = one.isfinite() & other.isfinite()
    if not torch.equal(one[~finite].nan_to_num(), other[~finite].nan_to_num()):
        return False
    one, other = (torch.where(finite, x, 0).reshape(len(x) or 1, -1) for x in (one, other))
    # image by image: what differs for one of them does not drown in the others
    return bool(((one - other).norm(dim=1) <= _ROUNDING * other.norm(dim=1)).all())


@torch.no_grad()
def first_difference(model: nn.Module, other: nn.Module, images: Tensor) -> str | None:
    """Path of the module of `model` that answers otherwise than its namesake in `other`, though
    both are given the same; None where the logits are alike.

    Where that is a module that `other` does not have, or only what is between modules differs, the
    path of what holds it ("" is the model itself).
    """
    if alike(logits(model, images), logits(other, images)):
        return None
    expected, seen = _watched(other, images), _watched(model, images)
    # in the order in which they end: the inner ones before what holds them
    for path, calls in seen.items():
        there = expected.get(path, [])
        for (arrived, output), (arrived_there, output_there) in zip(calls, there, strict=False):
            if alike(arrived, arrived_there) and not alike(output, output_there):
                return path
    return ""


Passed = tuple[object, object]


def _watched(model: nn.Module, images: Tensor) -> dict[str, list[Passed]]:
    """What arrives at each module and what leaves it, call by call, in the order of the ends."""
    arrived: dict[str, list[object]] = {}
    passed: dict[str, list[Passed]] = {}

    def enter(path: str):
        def hook(module: nn.Module, inputs: tuple) -> None:
            arrived.setdefault(path, []).append(_kept(inputs[0]) if inputs else None)

        return hook

    def leave(path: str):
        def hook(module: nn.Module, inputs: tuple, output: object) -> None:
            passed.setdefault(path, []).append((arrived[path].pop(), _kept(output)))

        return hook

    paths = [path for path, _ in model.named_modules()]
    before = capture_inputs(model, {path: enter(path) for path in paths})
    with before, capture(model, {path: leave(path) for path in paths}):
        logits(model, images)
    return passed


def _kept(value: object) -> object:
    # in-place layers overwrite what they are given
    return value.clone() if isinstance(value, Tensor) else value
