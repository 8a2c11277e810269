"""Facts: what a report holds, as values; `report.Report` tells them.

Apart, so that figures and the page, which a report draws, take it without knowing it.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Any, Self, Union, get_args, get_origin, get_type_hints

from timm_repair.errors import ConfigError, DataError, OptionError, did_you_mean
from timm_repair.options import plain
from timm_repair.report.scores import Scores
from timm_repair.report.verdict import Verdict
from timm_repair.report.versions import VERSION, check_version, upgraded
from timm_repair.report.wording import UNHELD, clean


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All that one repair has to say. Dicts are plain JSON: other objects become names, NaN and
    infinity None.

    Args:
        method: name of the repair method; `options` are its settings.
        model: the original, as the user named it; `base` tells more of it, see
            `lineage.Base.to_dict`.
        weights: `weights.fingerprint` of the repaired model's state dict: what the scores are of.
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
        cost: {"before": {"parameters", "flops", "latency_ms", "latency_range_ms"}, "after": {...},
            "change": {"latency", "latency_range"}}; what could not be measured is None or missing.
        stages: {"name", "seconds", "peak_memory" (bytes)} in the order in which they ran.
        provenance: where each role's examples came from; in "read", role to what was read for it
            and how much of it the original has right (`images.summary.Summary`).
        label_names: readable names of the classes; empty if not known.
        environment: {"processes", "precision", "device", "gradient_accumulation_steps"}: where the
            repair was computed; with the fields above it makes a run the same run.
        notes: what the reader must know, such as what could not be measured.
        properties: of a network with properties, one dict per box, see
            `properties.checking.check`.
        diagnosis: what the failures have in common, `Diagnosis.to_dict()`; None if they were not
            looked at.
        asked: what the user called `repair` with, as far as it is a name or a number: "model",
            "failures", "retain", "passing", "holdout", "method", "seed", "diagnose", "options" and
            "data"; None for what was an object. Empty if not known.
        flows: name of a block with an architecture to how data flow through its raw layers,
            see `architecture.flow`.
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
    history: tuple[Mapping[str, Any], ...] = ()
    cost: dict = dataclasses.field(default_factory=dict)
    stages: tuple[dict, ...] = ()
    seed: int = 0
    versions: dict = dataclasses.field(default_factory=dict)
    provenance: dict = dataclasses.field(default_factory=dict)
    label_names: tuple[str, ...] = ()
    environment: dict = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    properties: tuple[dict, ...] = ()
    diagnosis: dict | None = None
    asked: dict = dataclasses.field(default_factory=dict)
    flows: dict = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        object.__setattr__(self, "scores", tuple(self.scores))
        names = [each.population for each in self.scores]
        if len(set(names)) < len(names):  # none: an error came before the measurement
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
    def verdict(self) -> Verdict:
        """Whether the repair helped or harmed, in words: print it; `.harmful` is True or False."""
        return Verdict.of(
            self.scores,
            seed=self.seed,
            retained=self.provenance.get("read", {}).get("retain"),
            names=self.label_names,
            error_rate=self.provenance.get("error_rate"),
            unheld=any(note.startswith(UNHELD) for note in self.notes),
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
    def from_dict(cls, data: Mapping) -> Self:
        """Inverse of `to_dict`; reads older versions too.

        Raises:
            ConfigError: fields are missing or unknown, or a newer version wrote them.
        """
        data = upgraded(data)
        known = {field.name for field in dataclasses.fields(cls)}
        check_version(data, known | {"version"}, "report")
        _require_kinds(cls, data)
        try:
            scores = tuple(Scores.from_dict(each) for each in data["scores"])
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"the scores of this report are damaged ({error!r}); save the report again"
            ) from error
        return cls(**{name: data[name] for name in known - {"scores"}}, scores=scores)


def _require_kinds(kind: type, data: Mapping) -> None:
    """Raise ConfigError for a field that holds another kind of value than it is declared to."""
    held = {tuple: list, dict: Mapping}
    for name, hint in get_type_hints(kind).items():
        union = get_origin(hint) in (Union, UnionType)
        kinds = [get_origin(each) or each for each in (get_args(hint) if union else (hint,))]
        if name in data and not isinstance(
            value := data[name], tuple(held.get(each, each) for each in kinds)
        ):
            raise ConfigError(
                f"{name!r} of this report is damaged, {value!r:.40}; save the report again"
            )


def name_of(report: Facts, label: int) -> str:
    """What a class is called."""
    names = report.label_names
    return clean(str(names[label]), 60) if 0 <= label < len(names) else f"class {label}"
