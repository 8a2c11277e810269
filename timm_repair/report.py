"""Report: what a repair changed, measured on examples that it neither trained nor chose on.

`Scores` is one population before and after; `Report` is everything one repair has to say (print it,
or `to_dict()` it); `Comparison` sets reports on the same examples side by side. Nothing here reads
or writes a file.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import binomtest
from torch import Tensor

from timm_repair import card
from timm_repair.errors import ConfigError, DataError, OptionError, did_you_mean
from timm_repair.saved import VERSION, check_version, plain, upgraded


class Intervals(NamedTuple):
    """Bootstrap intervals (low, high), as shares of 1."""

    before: tuple[float, float]
    after: tuple[float, float]
    change: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Scores:
    """Answers of the original and of the repaired model to the same examples.

    Args:
        population: what the examples are, such as "failing" or "retained".
        labels: (N,) true class indices.
        before: (N,) classes predicted by the original model.
        after: (N,) classes predicted by the repaired model.

    Raises:
        DataError: a field is not one integer per example, the lengths differ, or there is no
            example.
    """

    population: str
    labels: Tensor
    before: Tensor
    after: Tensor

    def __post_init__(self):
        for name in ("labels", "before", "after"):
            value = torch.as_tensor(getattr(self, name))
            if value.ndim != 1 or value.is_floating_point() or value.dtype == torch.bool:
                raise DataError(
                    f"{name} of population {self.population!r} must be a 1-D tensor of class"
                    f" indices, one per example; got shape {tuple(value.shape)} of {value.dtype}"
                )
            object.__setattr__(self, name, value.detach().cpu().long())
        if not len(self.labels) == len(self.before) == len(self.after):
            raise DataError(
                f"population {self.population!r} has {len(self.labels)} labels, {len(self.before)}"
                f" predictions before and {len(self.after)} after; predict the same examples, in"
                " the same order, with both models"
            )
        if not len(self.labels):
            raise DataError(f"population {self.population!r} has no example; leave it out")

    def __eq__(self, other) -> bool:
        return isinstance(other, Scores) and self.to_dict() == other.to_dict()

    @cached_property
    def _counts(self) -> tuple[int, int, int, int]:
        """Right twice, broken, fixed, wrong twice: the four outcomes that all the rest follows
        from.
        """
        before, after = self.before == self.labels, self.after == self.labels
        return tuple(
            int(each.sum())
            for each in (before & after, before & ~after, ~before & after, ~before & ~after)
        )

    @property
    def n(self) -> int:
        return len(self.labels)

    @property
    def accuracy_before(self) -> float:
        return (self._counts[0] + self._counts[1]) / self.n

    @property
    def accuracy_after(self) -> float:
        return (self._counts[0] + self._counts[2]) / self.n

    @property
    def change(self) -> float:
        return (self.fixed - self.broken) / self.n

    @property
    def fixed(self) -> int:
        """Examples wrong before and right after."""
        return self._counts[2]

    @property
    def broken(self) -> int:
        """Examples right before and wrong after."""
        return self._counts[1]

    @property
    def negative_flip_rate(self) -> float:
        """Share of all examples that the repair broke (Yan et al., positive-congruent training)."""
        return self.broken / self.n

    @cached_property
    def p_value(self) -> float:
        """McNemar's exact test, two-sided: how likely counts this unequal are if neither was
        likelier.
        """
        flips = self.fixed + self.broken
        return float(binomtest(self.fixed, flips, 0.5).pvalue) if flips else 1.0

    def intervals(self, *, seed: int = 0, resamples: int = 2000, level: float = 0.95) -> Intervals:
        """Percentile intervals of both accuracies and of their difference, from one paired
        bootstrap.

        Drawing N examples with replacement is drawing the four outcome counts from a multinomial:
        time is free of N.
        """
        if not 0 < level < 1 or resamples < 1:
            raise OptionError(
                f"level must be between 0 and 1 and resamples positive; got {level} and {resamples}"
            )
        shares = np.array(self._counts) / self.n
        right, broken, fixed, _ = (
            np.random.default_rng(seed).multinomial(self.n, shares, size=resamples).T / self.n
        )
        tails = (1 - level) / 2, (1 + level) / 2
        drawn = right + broken, right + fixed, fixed - broken
        return Intervals(*(tuple(np.quantile(values, tails).tolist()) for values in drawn))

    def to_dict(self) -> dict:
        """Plain JSON: one integer per example and field, and a summary for readers, which
        `from_dict` computes anew.
        """
        names = (
            "n",
            "accuracy_before",
            "accuracy_after",
            "fixed",
            "broken",
            "negative_flip_rate",
            "p_value",
        )
        arrays = {name: getattr(self, name).tolist() for name in ("labels", "before", "after")}
        return {
            "population": self.population,
            "summary": {name: getattr(self, name) for name in names},
            **arrays,
        }

    @classmethod
    def from_dict(cls, data: Mapping) -> "Scores":
        """Inverse of `to_dict`."""
        fields = {
            name: torch.tensor(data[name], dtype=torch.long)
            for name in ("labels", "before", "after")
        }
        return cls(data["population"], **fields)


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that one repair has to say. Dicts are plain JSON: other objects become names, NaN and
    infinity None.

    Args:
        method: name of the repair method; `options` are its settings.
        model: the original, as the user named it; `base` tells more of it, see
            `lineage.Base.to_dict`.
        weights: `lineage.fingerprint` of the repaired model's state dict: what the scores are of.
            None if not known.
        scores: held-out populations before and after.
        repaired_blocks: names of the repaired blocks, the most suspicious first; empty if the
            method repairs none in particular.
        blocks: every block found; `localization` is `Localization.to_dict()`, None if nothing was
            localized.
        genotypes: name of a repaired block to the architecture found, `Genotype.to_dict()`; empty
            if the method changes weights only.
        history: one dict per training step: stage, step, loss, lr, perhaps objective, alpha and how
            many edges each block has in it.
        cost: {"before": {"parameters", "flops", "latency_ms"}, "after": {...}}.
        stages: {"name", "seconds", "peak_memory" (bytes)} in the order in which they ran.
        provenance: where each role's examples came from.
        notes: what the reader must know, such as what could not be measured.
    """

    method: str
    model: str
    scores: tuple[Scores, ...]
    base: dict = dataclasses.field(default_factory=dict)
    weights: str | None = None
    options: dict = dataclasses.field(default_factory=dict)
    repaired_blocks: tuple[str, ...] = ()
    blocks: tuple[dict, ...] = ()
    localization: dict | None = None
    genotypes: dict = dataclasses.field(default_factory=dict)
    history: tuple[dict, ...] = ()
    cost: dict = dataclasses.field(default_factory=dict)
    stages: tuple[dict, ...] = ()
    seed: int = 0
    versions: dict = dataclasses.field(default_factory=dict)
    provenance: dict = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "scores", tuple(self.scores))
        names = [each.population for each in self.scores]
        if not names or len(set(names)) < len(names):
            raise DataError(
                f"a report needs one Scores per population, each under its own name; got {names}"
            )
        for field in dataclasses.fields(self):
            if field.name != "scores":
                value = plain(getattr(self, field.name))
                object.__setattr__(
                    self, field.name, tuple(value) if isinstance(value, list) else value
                )

    @property
    def block(self) -> str | None:
        """The repaired block, of several the most suspicious; None if the method repairs none in
        particular.
        """
        return self.repaired_blocks[0] if self.repaired_blocks else None

    @property
    def genotype(self) -> dict | None:
        """The architecture found for `block`; None if the method changes weights only."""
        return self.genotypes.get(self.block)

    @property
    def seconds(self) -> float:
        """Of the repair itself: all stages but preparing the data and measuring."""
        return sum(
            stage["seconds"]
            for stage in self.stages
            if stage["name"] not in ("prepare", "evaluate")
        )

    def population(self, name: str) -> Scores:
        """The Scores of one population."""
        known = {each.population: each for each in self.scores}
        if name not in known:
            raise OptionError(f"the report has no population {name!r}{did_you_mean(name, known)}")
        return known[name]

    def to_dict(self) -> dict:
        """Plain JSON, answers per example included."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            "version": VERSION,
            **plain(fields | {"scores": [each.to_dict() for each in self.scores]}),
        }

    @classmethod
    def from_dict(cls, data: Mapping) -> "Report":
        """Inverse of `to_dict`; reads older versions too.

        Raises:
            ConfigError: fields are missing or unknown, or a newer version wrote them.
        """
        data = upgraded(data)
        known = {field.name for field in dataclasses.fields(cls)}
        check_version(data, known | {"version"}, "report")
        try:
            scores = tuple(Scores.from_dict(each) for each in data["scores"])
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"the scores of this report are damaged ({error!r}); save the report again"
            ) from error
        return cls(**{name: data[name] for name in known - {"scores"}}, scores=scores)

    def __str__(self) -> str:
        return card.text(self)

    def to_markdown(self) -> str:
        """The before/after table as GitHub markdown, both accuracies with their intervals."""
        return card.scores_markdown(self)


@dataclass(frozen=True)
class Comparison:
    """Reports of several methods on the same examples, by label: `print` it for one table.

    Raises:
        DataError: populations, labels or predictions before differ, so the rows were not measured
            on the same thing.
    """

    rows: Mapping[str, Report]

    def __post_init__(self):
        object.__setattr__(self, "rows", dict(self.rows))
        if not self.rows:
            raise DataError("a comparison needs at least one report")
        (first, reference), *others = self.rows.items()
        for label, report in others:
            if [each.population for each in report.scores] != [
                each.population for each in reference.scores
            ]:
                raise DataError(
                    f"{label!r} and {first!r} have different populations; give both the same"
                    " holdout"
                )
            for mine, theirs in zip(report.scores, reference.scores, strict=True):
                for name in ("labels", "before"):
                    if not torch.equal(getattr(mine, name), getattr(theirs, name)):
                        raise DataError(
                            f"{label!r} and {first!r} differ in {name} on {mine.population!r}:"
                            " other examples, or another original; repair the same model with the"
                            " same holdout and seed"
                        )

    def __str__(self) -> str:
        return card.comparison_text(self)

    def to_dict(self) -> dict:
        """Plain JSON."""
        return {
            "version": VERSION,
            "rows": {label: report.to_dict() for label, report in self.rows.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping) -> "Comparison":
        """Inverse of `to_dict`; ConfigError as `Report.from_dict`."""
        check_version(data, {"version", "rows"}, "comparison")
        return cls({label: Report.from_dict(report) for label, report in data["rows"].items()})
