"""Roles: what the user calls failures, passing, retain and holdout, read."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast

from datasets import DatasetDict, IterableDatasetDict
from torch import nn

from timm_repair.data.checking import require_one_vocabulary
from timm_repair.data.options import DataOptions
from timm_repair.errors import DataError, NoFailuresError
from timm_repair.images.classes import Classes
from timm_repair.images.images import Images
from timm_repair.images.preprocessing import Preprocessing
from timm_repair.images.reading import Reading
from timm_repair.images.sources import as_images, leave_out_unreadable


@dataclass(frozen=True)
class Roles:
    """What was read, as it was given: nothing is left out but what cannot be read.

    Args:
        failures: of these the model may have some right.
        passing: examples of the failing population, of which it may have some wrong.
        retain: examples of what must not be forgotten.
        holdout: population to its images.
    """

    failures: Images
    passing: Images | None
    retain: Images | None
    holdout: dict[str, Images] = field(default_factory=dict)

    @classmethod
    def read(
        cls,
        model: nn.Module,
        options: DataOptions,
        failures: Any,
        retain: Any,
        passing: Any,
        holdout: Any = None,
    ) -> "Roles":
        """What `prepare` was given.

        Raises:
            DataError: a source cannot be read, or their labels are of different vocabularies.
            NoFailuresError: no failures.
        """
        given = _read(failures, model, options, "failures")
        # a dict of datasets' own is one source with several splits
        several = isinstance(holdout, Mapping) and not isinstance(
            holdout, DatasetDict | IterableDatasetDict
        )
        named = cast(Mapping[str, Any], holdout if several else {"holdout": holdout})
        if several:
            _require_populations(named)
        measured = {
            name: _read(h, model, options, "holdout", name)
            for name, h in named.items()
            if h is not None
        }
        kept = None if retain is None else _read(retain, model, options, "retain")
        right = _passing(passing, failures, retain, model, options)
        found = cls(given, right, kept, measured)
        require_one_vocabulary(found.named)
        return found

    @property
    def named(self) -> dict[str, Images]:
        """All that was read, by what to call it in a message."""
        roles = {"failures": self.failures, "retain": self.retain, "passing": self.passing}
        return {name: images for name, images in roles.items() if images is not None} | {
            f"holdout {name!r}": images for name, images in self.holdout.items()
        }


def _require_populations(holdout: Mapping[Any, Any]) -> None:
    """Raise DataError for populations without a name or without images."""
    for name, images in holdout.items():
        if not isinstance(name, str) or not name:
            raise DataError(
                f"holdout: {name!r:.80} must be a text that says which population it is, as"
                " {'failing': ..., 'clean': ...}"
            )
        if images is None:
            raise DataError(f"holdout {name!r} is None: give its images, or leave it out")


def _passing(
    given: Any, failures: Any, retain: Any, model: nn.Module, options: DataOptions
) -> Images | None:
    """What was given, else what `collect_failures` gave with the failures, unless it was given as
    retained examples.
    """
    passing = getattr(failures, "passing", None) if given is None else given
    if passing is None or (given is None and passing is retain):
        return None
    return _read(passing, model, options, "passing")


def _tell_of_repair(error: DataError, role: str) -> None:
    """Add to an error the options that it speaks of, as `repair` has them."""
    meant = [f.name for f in fields(Reading) if f"{f.name}=" in str(error)]
    if not meant:
        return
    here = [f"{role}_split" if name == "split" else name for name in meant]
    given = ", ".join(f"{name}=…" for name in here)
    flags = " ".join(f"--data {name}=…" for name in here if name != "transform")
    error.args = (
        f"{error}. In a repair: data=timm_repair.DataOptions({given})"
        + (f", on the command line {flags}" if flags else ""),
        *error.args[1:],
    )


def _read(
    source: Any, model: nn.Module, options: DataOptions, role: str, population: str | None = None
) -> Images:
    empty = not isinstance(source, str | Path) and hasattr(source, "__len__") and len(source) == 0
    if empty and role == "failures":
        raise NoFailuresError(
            "no failures were given; give examples that the model gets wrong, with their true"
            " labels"
        )
    name = role if population is None else f"{role} {population!r}"
    try:
        images = as_images(
            source,
            model,
            name=name,
            check_readable=role != "retain",
            **vars(options.reading_of(role, source)),
        )
        if role == "retain" and images.small:  # its pixels are compared anyway
            images = leave_out_unreadable(images)
    except DataError as error:
        _tell_of_repair(error, role)
        raise
    if len(images) == 0:
        raise DataError(f"{name}: no examples; give at least one")
    if (
        images.preprocessing != Preprocessing.of(model)
        or int(images.labels.max()) >= (classes := Classes.of(model)).count
        or (images.class_names or classes.readable) != (classes.readable or images.class_names)
    ):
        raise DataError(
            f"{name}: these Images were made for another model; make them with as_images(...,"
            " model)"
        )
    return images
