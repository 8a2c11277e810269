"""Inputs inside the boxes of properties: drawn evenly, and searched by ascent on the margin where
violations are rare.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from timm_repair.errors import OptionError, PropertyError
from timm_repair.options import check_types
from timm_repair.properties import answers
from timm_repair.properties.property import Region

_CHUNK = 20_000  # inputs a forward pass
_STARTS = 500  # of an ascent


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How inputs are drawn from a property; goes where `DataOptions` goes for images.

    Args:
        violations: how many violating inputs are wanted, over all boxes.
        draws: at most so many inputs are drawn evenly from each box to find them; what is lacking
            then is searched.
        ascent: steps of that search, from the inputs that come nearest to a violation.
        retained: how many well-behaved inputs are kept.
        delta: half of them are drawn this near to a violating input, as a share of the box's sides;
            the imitation's neighbourhood.
        selection_share, holdout_share: of both, for choosing and for measuring.
        epsilon: after the repair, a bound on the share of violating inputs that is to be stated …
        eta: … with confidence 1 - eta; see pac.py.
        counterexamples: how many that remain are kept in the report, at most.
    """

    violations: int = 1000
    draws: int = 200_000
    ascent: int = 60
    retained: int = 5000
    delta: float = 0.05
    selection_share: float = 0.2
    holdout_share: float = 0.2
    epsilon: float = 1e-3
    eta: float = 1e-3
    counterexamples: int = 10

    def __post_init__(self):
        check_types(self)
        for name in ("violations", "draws", "retained"):
            if getattr(self, name) < 10:
                raise OptionError(f"{name} must be at least 10, got {getattr(self, name)}")
        for name in ("delta", "selection_share", "holdout_share", "epsilon", "eta"):
            if not 0 < getattr(self, name) < 1:
                raise OptionError(f"{name} must lie between 0 and 1, got {getattr(self, name)}")
        if self.selection_share + self.holdout_share >= 1:
            raise OptionError("selection_share and holdout_share leave nothing to train on")
        if min(self.ascent, self.counterexamples) < 0:
            raise OptionError("ascent and counterexamples must not be negative")


def ends(region: Region) -> tuple[Tensor, Tensor]:
    """The box's lower and upper ends as float32 numbers that lie inside it."""
    lower, upper = region.lower.float(), region.upper.float()
    lower = torch.where(
        lower.double() < region.lower, torch.nextafter(lower, lower.new_tensor(torch.inf)), lower
    )
    upper = torch.where(
        upper.double() > region.upper, torch.nextafter(upper, upper.new_tensor(-torch.inf)), upper
    )
    return torch.minimum(lower, upper), upper


def uniform(region: Region, count: int, generator: torch.Generator) -> Tensor:
    """`count` inputs drawn evenly from the box, (count, inputs) float32."""
    lower, upper = ends(region)
    shares = torch.rand(count, len(lower), generator=generator, dtype=torch.float64)
    drawn = region.lower + shares * (region.upper - region.lower)
    return drawn.float().clamp(lower, upper)


def on_faces(region: Region, count: int, generator: torch.Generator) -> Tensor:
    """`count` inputs on the faces, edges and corners of the box: each number is its lower end, its
    upper end, or drawn.

    Extreme answers of a network often stand there, and even draws never do.
    """
    lower, upper = ends(region)
    which = torch.randint(3, (count, len(lower)), generator=generator)
    return torch.where(
        which == 0, lower, torch.where(which == 1, upper, uniform(region, count, generator))
    )


def near(centres: Tensor, region: Region, delta: float, generator: torch.Generator) -> Tensor:
    """One input near each of `centres` (n, inputs), at most `delta` of each side of the box away,
    and inside it.
    """
    lower, upper = ends(region)
    shift = 2 * torch.rand(centres.shape, generator=generator) - 1
    return (centres + delta * (upper - lower) * shift).clamp(lower, upper)


@torch.no_grad()
def outputs_of(model: nn.Module, inputs: Tensor) -> Tensor:
    """The network's own outputs (n, K) for `inputs` (n, D), on the CPU.

    Raises:
        PropertyError: the network takes other inputs.
    """
    device = next(model.parameters()).device
    with answers.raw(model):
        try:
            return torch.cat(
                [model(chunk.to(device)).float().cpu() for chunk in inputs.split(_CHUNK)]
            )
        except RuntimeError as error:
            raise PropertyError(
                f"the network does not take {inputs.shape[1]} numbers: {str(error)[:200]}"
            ) from error


def ascend(model: nn.Module, region: Region, starts: Tensor, steps: int) -> Tensor:
    """`starts` (n, inputs) moved uphill on the margin of the violation, inside the box; each stops
    where it violates.
    """
    lower, upper = ends(region)
    device, inputs = next(model.parameters()).device, starts.clone()
    with answers.raw(model), torch.enable_grad():
        for step in range(steps):
            moving = (
                inputs.detach().clone().to(device).requires_grad_()
            )  # on a CPU .to() is no copy
            margins = region.margin(model(moving))
            (gradient,) = torch.autograd.grad(margins.sum(), moving)
            size = 0.1 * (1 - step / steps) * (upper - lower)
            moved = (inputs + size * gradient.sign().cpu()).clamp(lower, upper)
            inputs = torch.where((margins.detach() >= 0).cpu()[:, None], inputs, moved)
    return inputs


def search(
    model: nn.Module, region: Region, starts: Tensor, steps: int, generator: torch.Generator
) -> Tensor:
    """Violating inputs (n, D) that ascents find from the best of `starts` and of draws on the faces
    of the box.
    """
    found = []
    for candidates in (starts, on_faces(region, _CHUNK, generator)):
        margins = region.margin(outputs_of(model, candidates))
        best = candidates[margins.topk(min(_STARTS, len(candidates))).indices]
        climbed = ascend(model, region, best, steps)
        found.append(climbed[region.margin(outputs_of(model, climbed)) >= 0])
    return torch.cat(found)


@dataclass(frozen=True)
class Drawn:
    """What was found in one box: violating inputs (n, D), well-behaved ones (m, D), and among how
    many even draws there were how many violations.
    """

    violating: Tensor
    behaved: Tensor
    draws: int
    hits: int


def explore(
    model: nn.Module, region: Region, wanted: int, options: Sampling, generator: torch.Generator
) -> Drawn:
    """Draw from the box until `wanted` inputs violate; then search, and fill up with neighbours of
    what was found.
    """
    violating, behaved, drawn, hits = [], [], 0, 0
    best, nearest = torch.zeros(0, len(region.lower)), torch.zeros(0)
    while drawn < options.draws and hits < wanted:
        inputs = uniform(region, min(_CHUNK, options.draws - drawn), generator)
        margins = region.margin(outputs_of(model, inputs))
        bad = margins >= 0
        violating.append(inputs[bad])
        behaved.append(inputs[~bad])
        drawn, hits = drawn + len(inputs), hits + int(bad.sum())
        top = margins[~bad].topk(min(_STARTS, int((~bad).sum()))).indices
        best = torch.cat([best, inputs[~bad][top]])
        nearest = torch.cat([nearest, margins[~bad][top]])
        top = nearest.topk(min(_STARTS, len(nearest))).indices
        best, nearest = best[top], nearest[top]
    found = torch.cat(violating)
    if len(found) < wanted and options.ascent:
        found = torch.cat([found, search(model, region, best, options.ascent, generator)])
        for _ in range(50 if len(found) else 0):
            if len(found) >= wanted:
                break
            centres = found[torch.randint(len(found), (wanted,), generator=generator)]
            neighbours = near(centres, region, options.delta, generator)
            found = torch.cat(
                [found, neighbours[region.margin(outputs_of(model, neighbours)) >= 0]]
            )
    return Drawn(
        torch.unique(found, dim=0)[:wanted] if hits < wanted else found[:wanted],
        torch.cat(behaved),
        drawn,
        hits,
    )
