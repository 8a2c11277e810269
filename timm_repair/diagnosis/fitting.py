"""Fit a pattern: strengths of parts with which retained images get the statistics of failures."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from scipy.optimize import least_squares
from torch import Tensor

from timm_repair.diagnosis.draws import Draws
from timm_repair.diagnosis.parts import KINDS, ORDER
from timm_repair.diagnosis.parts.overlay import laid
from timm_repair.diagnosis.parts.part import Kind

_MOVE = 0.06  # of a coordinate, to see what it does
_TYPICAL = 3.0  # standard deviations; a statistic that is off by more counts less and less


@dataclass(frozen=True)
class Setting:
    """A kind of part with its strengths, and how much they vary over images; of a fixed overlay the
    picture, see `parts.overlay`.
    """

    name: str
    values: tuple[float, ...]
    spread: float = 0.0
    picture: str = ""

    @property
    def kind(self) -> Kind:
        return KINDS[self.name]


Settings = tuple[Setting, ...]


def applied(settings: Sequence[Setting], x: Tensor, draws: Draws) -> Tensor:
    """Images (N, C, H, W) from 0 to 1 with all parts, in the order in which they act."""
    for setting in sorted(settings, key=lambda s: ORDER[s.name]):
        kind = setting.kind
        if setting.picture:
            x = laid(x, setting.picture)
            continue
        strengths = [
            knob.per_image(
                value,
                setting.spread * (knob.step or 1) if knob.varies else 0,
                draws.normal(f"{kind.name} {knob.name}"),
            )
            for knob, value in zip(kind.knobs, setting.values, strict=True)
        ]
        x = kind(x, draws, *strengths)
    return x


class Fit:
    """Retained images, to be made like failures.

    Args:
        statistics: images to (N, D).
        retained: (N, C, H, W) from 0 to 1.
        failing: (M, D) statistics of the failures.
        draws: of the retained images.
        overlay: what was read off the failures' pixels, see `parts.overlay`.
    """

    def __init__(
        self,
        statistics: Callable[[Tensor], Tensor],
        retained: Tensor,
        failing: Tensor,
        draws: Draws,
        overlay: str = "",
    ):
        self.statistics, self.retained, self.draws = statistics, retained, draws
        self.overlay = overlay
        self._known: dict[Settings, np.ndarray] = {}
        self.few = max(20, len(retained) // 2)
        self.plain = statistics(retained)
        self.mean, self.std = failing.mean(0), failing.std(0)
        # what counts as a large difference, for both
        self.unit = ((self.std.square() + self.plain.std(0).square()) / 2).sqrt() + 1e-3
        self.failing = failing
        # what two samples of one population differ by, squared and averaged
        self.noise = 1.5 * (1 / len(failing) + 1 / len(retained))

    def made(self, settings: Sequence[Setting]) -> Tensor:
        """(N, D) statistics of the retained images with these parts."""
        return self.statistics(applied(settings, self.retained, self.draws))

    def residuals(self, found: Tensor, failing: Tensor | None = None) -> np.ndarray:
        """(2 D,) differences of means and of spreads, in standard deviations."""
        there = (self.mean, self.std) if failing is None else (failing.mean(0), failing.std(0))
        return self.apart((found.mean(0), found.std(0)), there)

    def apart(self, here: tuple[Tensor, Tensor], there: tuple[Tensor, Tensor]) -> np.ndarray:
        """`residuals` between two populations of which means and spreads (D,) are known."""
        means = (here[0] - there[0]) / self.unit
        floor = 0.05 * self.unit
        spreads = ((here[1] + floor) / (there[1] + floor)).log() / 2
        off = torch.cat([means, spreads]).double()
        off = off / torch.sqrt(1 + (off / _TYPICAL) ** 2)
        return (off / math.sqrt(len(self.mean))).cpu().numpy()

    def cost(self, settings: Sequence[Setting]) -> float:
        """How far the populations are apart: 0 for the same, about `noise` for two samples."""
        return float(np.square(self._residuals_of(tuple(settings))).sum())

    def _residuals_of(self, settings: Settings) -> np.ndarray:
        """`residuals`, kept: a fit asks more than once what the same strengths make."""
        if settings not in self._known:
            self._known[settings] = self.residuals(self.made(settings))
        return self._known[settings]

    def screened(self, settings: Sequence[Setting]) -> float:
        """`cost`, roughly: from fewer of the retained images."""
        draws = self._fewer
        found = self.statistics(applied(settings, self.retained[: self.few], draws))
        return float(np.square(self.residuals(found)).sum())

    @cached_property
    def _fewer(self) -> Draws:
        return Draws(self.draws.seed, self.draws.places[: self.few], self.draws.device)

    def refined(
        self, settings: Settings, steps: int = 6, *, spreads: bool = False
    ) -> tuple[Settings, float]:
        """The strengths near these that fit best, and the cost; with `spreads` also how much each
        part varies over images.
        """
        coordinates = _inner(settings, spreads)
        if not len(coordinates):
            return settings, self.cost(settings)
        low, high = _bounds(settings, spreads)
        start = np.clip(coordinates, low + 1e-6, high - 1e-6)

        def residuals(at: np.ndarray) -> np.ndarray:
            return self._residuals_of(_outer(settings, at, spreads))

        found = least_squares(
            residuals,
            start,
            jac=lambda at: self._slopes(residuals, at, high),  # pyright: ignore
            bounds=(low, high),
            max_nfev=steps,
            xtol=3e-3,
            ftol=3e-3,
        )
        return _outer(settings, found.x, spreads), 2 * float(found.cost)

    def _slopes(self, residuals: Callable, at: np.ndarray, high: np.ndarray) -> np.ndarray:
        here, columns = residuals(at), []
        for i in range(len(at)):
            step = _MOVE if at[i] + _MOVE <= high[i] else -_MOVE
            columns.append((residuals(at + step * (np.arange(len(at)) == i)) - here) / step)
        return np.stack(columns, 1)

    def intervals(self, settings: Settings, rng: np.random.Generator) -> list[tuple]:
        """For each part the (low, high) of each strength, 95 %, over bootstrap samples of both
        populations; the fit is taken to be linear so near to its end.
        """
        at = _inner(settings, False)
        if not len(at):
            return [() for _ in settings]
        high = _bounds(settings, False)[1]
        found = self.made(settings)
        slopes = self._slopes(lambda v: self._residuals_of(_outer(settings, v, False)), at, high)
        inverse, here = np.linalg.pinv(slopes, rcond=1e-3), self.residuals(found)
        moved = []
        for _ in range(200):
            ours = torch.from_numpy(rng.integers(0, len(found), len(found))).to(found.device)
            theirs = torch.from_numpy(rng.integers(0, len(self.failing), len(self.failing)))
            there = self.residuals(found[ours], self.failing[theirs.to(found.device)])
            moved.append(at - inverse @ (there - here))
        ends = np.percentile(np.stack(moved), (2.5, 97.5), axis=0)
        low_end, high_end = (_outer(settings, end, False) for end in ends)
        return [
            tuple(zip(low.values, high.values, strict=True))
            for low, high in zip(low_end, high_end, strict=True)
        ]


def _inner(settings: Settings, spreads: bool) -> np.ndarray:
    found = []
    for setting in settings:
        found += [k.inner(v) for k, v in zip(setting.kind.knobs, setting.values, strict=True)]
        if spreads and _varies(setting.kind):
            found.append(setting.spread)
    return np.array(found, dtype=float)


def _outer(settings: Settings, at: np.ndarray, spreads: bool) -> Settings:
    rest, found = list(at), []
    for setting in settings:
        values = tuple(knob.outer(rest.pop(0)) for knob in setting.kind.knobs)
        spread = rest.pop(0) if spreads and _varies(setting.kind) else setting.spread
        found.append(replace(setting, values=values, spread=float(spread)))
    return tuple(found)


def _bounds(settings: Settings, spreads: bool) -> tuple[np.ndarray, np.ndarray]:
    low, high = [], []
    for setting in settings:
        for knob in setting.kind.knobs:
            low.append(knob.inner(knob.low))
            high.append(knob.inner(knob.high))
        if spreads and _varies(setting.kind):
            low.append(0.0)
            high.append(2.0)
    return np.array(low), np.array(high)


def _varies(kind: Kind) -> bool:
    return any(knob.varies for knob in kind.knobs)
