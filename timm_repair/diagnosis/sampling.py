"""Which images a diagnosis looks at, and how closely."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from timm_repair.diagnosis.early import first_maps
from timm_repair.diagnosis.populations import Samples
from timm_repair.diagnosis.statistics import Statistics
from timm_repair.diagnosis.trying import Asked
from timm_repair.errors import OptionError
from timm_repair.images.images import Images
from timm_repair.options import check_types
from timm_repair.runtime.runtime import Runtime

FEW = 50  # failures, below which less is asked of them
FEWEST = 12  # below which no corruption can be told from chance


@dataclass(frozen=True, kw_only=True)
class Looking:
    """How closely is looked.

    Args:
        compared: retained images that a pattern is fitted to, and as many to judge it; fewer where
            `pixels` does not allow as many.
        pixels: of all images of a fit, which the time that it takes is proportional to.
        failures: of which statistics are taken, at most.
        parts: of a pattern, at most.
        populations: among the failures, at most; 1 looks for no more.
    """

    compared: int = 160
    pixels: int = 1_500_000
    failures: int = 500
    parts: int = 3
    populations: int = 2

    def __post_init__(self):
        check_types(self)
        for name, least in (("compared", 20), ("pixels", 1), ("failures", FEWEST),
                            ("parts", 1), ("populations", 1)):  # fmt: skip
            if getattr(self, name) < least:
                raise OptionError(f"{name}={getattr(self, name)!r}; must be at least {least}")

    def count(self, input_size: Sequence[int]) -> int:
        """Images of a fit."""
        _, height, width = input_size
        return max(24, min(self.compared, self.pixels // (height * width)))


def part(images: Images, rng: np.random.Generator, most: int) -> Images:
    """At most so many of them, drawn at random, in their order."""
    if len(images) <= most:
        return images
    return images.subset(np.sort(rng.choice(len(images), most, replace=False)).tolist())


def in_proportion(
    passing: Images | None, failures: int, error_rate: float | None, runtime: Runtime
) -> Images | None:
    """Of `passing` as many, drawn at random, as there are to so many failures at this error rate;
    all, where there are fewer.
    """
    if passing is None or not error_rate:
        return passing
    seed = int(torch.randint(2**31, (1,), generator=runtime.generator("passing in proportion")))
    count = max(round(failures * (1 / error_rate - 1)), 1)
    return part(passing, np.random.default_rng(seed), count)


class Drawing:
    """Which images are looked at."""

    def __init__(
        self,
        runtime: Runtime,
        looking: Looking,
        failing: Images,
        retained: Images,
        passing: Images | None,
    ):
        seed = int(torch.randint(2**31, (1,), generator=runtime.generator("diagnosis")))
        self.rng = np.random.default_rng(seed)
        self.device, self.seed, self.looking = runtime.device, runtime.seed, looking
        self.failures = part(failing, self.rng, looking.failures)
        self.few = len(failing) < FEW
        size = failing.preprocessing.input_size
        looked_at = min(looking.failures, 4 * looking.count(size))
        population = self.pixels(part(self.failures, self.rng, looked_at))
        labels = self.failures.labels
        if passing is not None and len(passing):
            # in their natural proportion
            count = round(len(population) * len(passing) / len(failing))
            others = part(passing, self.rng, min(count, looked_at))
            population = torch.cat([population, self.pixels(others)])
            labels = torch.cat([labels, others.labels])
        self.population = population
        count = looking.count(size)
        rows = _like(labels, retained.labels, 2 * count, self.rng)
        chosen = retained.subset(rows)
        both, self.labels = self.pixels(chosen), chosen.labels
        half = len(rows) // 2
        self.fitted_x, self.judged_x, self.half = both[:half], both[half:], half

    def pixels(self, images: Images) -> Tensor:
        """(N, C, H, W) from 0 to 1."""
        return images.pixels(range(len(images))).to(self.device).float() / 255

    @property
    def judged_labels(self) -> Tensor:
        """(N,) of the retained images that patterns are judged by."""
        return self.labels[self.half :]

    def samples(self, model: nn.Module) -> Samples:
        """What patterns are fitted to, and judged by."""
        preprocessing = self.failures.preprocessing
        statistics = Statistics(
            preprocessing.input_size, first_maps(model, preprocessing), self.device
        )
        failing = torch.cat([statistics(x) for x in self.population.split(64)])
        most = 1 if self.few else self.looking.parts
        return Samples(
            _in_parts(statistics), self.fitted_x, self.judged_x, failing, self.population,
            self.seed, most,
            1 if self.few else self.looking.populations,
        )  # fmt: skip

    def failing(self) -> Asked:
        """Failures that the model is asked about again."""
        some = part(self.failures, self.rng, max(100, self.looking.count(
            self.failures.preprocessing.input_size)))  # fmt: skip
        return Asked(self.pixels(some), some.labels)

    def fitted(self) -> Asked:
        """The retained images that patterns are fitted to."""
        return Asked(self.fitted_x, self.labels[: self.half])


def _in_parts(statistics: Statistics):
    """As many images at once as keep the memory small."""
    at_once = max(8, 2**19 // statistics.pixels)
    return lambda x: torch.cat([statistics(part) for part in x.split(at_once)])


def _like(wanted: Tensor, there: Tensor, count: int, rng: np.random.Generator) -> list[int]:
    """Rows of retained examples with the classes of the failures, as often as these have them; of
    any class where a class is missing. Each at most once, while there are enough.
    """
    by_class = {k: rng.permutation((there == k).nonzero().flatten().numpy()).tolist()
                for k in wanted.unique().tolist()}  # fmt: skip
    spare = rng.permutation(len(there)).tolist()
    rows, used = [], set()
    for label in rng.choice(wanted.numpy(), count).tolist():
        pool = by_class[label]
        while pool and pool[-1] in used:
            pool.pop()
        row = pool.pop() if pool else next((r for r in spare if r not in used), None)
        if row is None:
            break
        used.add(row)
        rows.append(row)
    return rows
