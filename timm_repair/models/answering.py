"""Answering: what a model says to a few made-up images. Only the form of its answers counts, and
whether two models answer alike.
"""

from collections.abc import Sequence

import torch
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor, nn

from timm_repair.errors import DataError, ModelError
from timm_repair.models.temporary import capture, evaluating, in_float32

# of the made-up images: activations that differ only for large values (ReLU6) are to differ
_SCALES = (1.0, 0.1, 10.0, 100.0)
# relative; two runs of the same layers on the same numbers agree to the bit, or nearly
_ROUNDING = 1e-6


def made_up(size: Sequence[int], model: nn.Module) -> Tensor:
    """Four images (4, C, H, W) of noise of different strengths, always the same, where the model
    computes.
    """
    noise = torch.randn(len(_SCALES), *size, generator=torch.Generator().manual_seed(0))
    scales = torch.tensor(_SCALES).view(-1, 1, 1, 1)
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
        with evaluating(model), in_float32(model):
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
            " classifier?"
        )
    return found


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
    one, other = (x.double() if not x.is_complex() else x for x in (one, other))
    finite = one.isfinite() & other.isfinite()
    if not torch.equal(one[~finite].nan_to_num(), other[~finite].nan_to_num()):
        return False
    one, other = one[finite], other[finite]
    return bool((one - other).norm() <= _ROUNDING * other.norm())


@torch.no_grad()
def first_difference(model: nn.Module, other: nn.Module, images: Tensor) -> str | None:
    """Path of the module of `model` that answers otherwise than its namesake in `other`, though
    both are given the same; None where the logits are alike.

    Where that is a module that `other` does not have, or only what is between modules differs, the
    path of what holds it ("" is the model itself).
    """
    if alike(logits(model, images), logits(other, images)):
        return None
    theirs = dict(other.named_modules())
    seen: dict[str, list[tuple[Tensor | None, object]]] = {}

    def note(path: str):
        def hook(module: nn.Module, inputs: tuple, output: object) -> None:
            arrived = inputs[0] if inputs and isinstance(inputs[0], Tensor) else None
            seen.setdefault(path, []).append(tuple(map(_kept, (arrived, output))))

        return hook

    with capture(other, {path: note(path) for path in theirs}):
        logits(other, images)
    before, seen = seen, {}
    # in the order in which they end: the inner ones before what holds them
    with capture(model, {path: note(path) for path, _ in model.named_modules()}):
        logits(model, images)
    for path, calls in seen.items():
        expected = before.get(path)
        if expected is None or len(expected) != len(calls):
            continue
        for (arrived, output), (arrived_there, output_there) in zip(calls, expected, strict=True):
            if alike(arrived, arrived_there) and not alike(output, output_there):
                return path
    return ""


def _kept(value: object) -> object:
    # in-place layers overwrite what they are given
    return value.clone() if isinstance(value, Tensor) else value
