"""The first maps of a model: what it sees before it understands."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from timm_repair.images.preprocessing import Preprocessing
from timm_repair.models.entering import Place, arriving
from timm_repair.models.tracing import trace

CHANNELS = 32  # at most so many of them are looked at


def first_maps(model: nn.Module, preprocessing: Preprocessing) -> Callable[[Tensor], Tensor] | None:
    """Images (N, C, H, W) from 0 to 1 to what arrives at the model's second convolution or, where
    there is none, at the module after the first; None for a model without convolutions.
    """
    calls = trace(model)
    order = sorted((made[0].start, path) for path, made in calls.items() if path)
    kinds = (nn.Conv1d, nn.Conv2d)
    convolutions = [path for _, path in order if isinstance(model.get_submodule(path), kinds)]
    if not convolutions:
        return None
    leaves = [path for _, path in order if not list(model.get_submodule(path).children())]
    after = leaves[leaves.index(convolutions[0]) + 1 :]
    wanted = convolutions[1] if len(convolutions) > 1 else next(iter(after), None)
    if wanted is None:
        return None
    place = Place(wanted, (), 0)
    mean, std = (
        torch.tensor(v, dtype=torch.float32).view(1, -1, 1, 1)
        for v in (preprocessing.mean, preprocessing.std)
    )

    @torch.no_grad()
    def maps(x: Tensor) -> Tensor:
        given = (x - mean.to(x.device)) / std.to(x.device)
        found = arriving(model, [place], [given])[wanted].float()
        if found.ndim == 3:  # tokens
            found = found.transpose(1, 2)[..., None]
        every = max(1, -(-found.shape[1] // CHANNELS))
        return found[:, ::every]

    return maps
