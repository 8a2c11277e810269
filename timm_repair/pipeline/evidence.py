"""Evidence: what the failures have in common, looked for before anything is repaired, and made into
more examples to train on.
"""

from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from timm_repair.data.repair_data import RepairData
from timm_repair.diagnosis import diagnosing
from timm_repair.diagnosis.diagnosis import Diagnosis
from timm_repair.diagnosis.wording import headline, pattern_words
from timm_repair.errors import MissingPackageError, require_packages
from timm_repair.pipeline.picturing import pictured_patterns
from timm_repair.properties.preparing import PropertyData
from timm_repair.runtime.runtime import Runtime

# of what tells failures from retained images: a corruption that explains less is not trained on
WORTH = 0.2


@dataclass(frozen=True)
class Evidence:
    """What is known of the failures before they are repaired.

    Args:
        told: the diagnosis for the report: `Diagnosis.to_dict()` with its "headline" and "text";
            None where there is none.
        notes: why there is none, or why it is not trained on.
        pictures: of the patterns, see `Gallery.patterns`.
    """

    told: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()
    pictures: tuple[dict[str, list[bytes]], ...] = ()


def require_diagnosis() -> None:
    """Raise MissingPackageError where a diagnosis lacks a package."""
    require_packages("diagnosis", "a diagnosis", "sklearn", "cleanlab", "imagehash")


def looked_at(
    model: nn.Module, data: RepairData, runtime: Runtime, *, asked: bool, images: bool = False
) -> tuple[RepairData, Evidence]:
    """The data with a `pattern` where a corruption was found that explains the failures to some
    part, and the evidence.

    Only examples that train are looked at, so that what is chosen by and measured stays unseen.

    Args:
        asked: whether the user wants a diagnosis.
        images: whether pictures of the patterns are wanted.
    """
    if isinstance(data, PropertyData) or not asked:
        return data, Evidence()
    if data.retained is None:
        why = "that compares them with retained examples"
        return data, Evidence(notes=(f"the failures were not diagnosed: {why}",))
    try:
        require_diagnosis()
    except MissingPackageError as error:
        return data, Evidence(notes=(f"the failures were not diagnosed: {error}",))
    with runtime.stage("diagnose"):
        found = Diagnosis.from_json(runtime.once("diagnosis", lambda: _found(model, data, runtime)))
    told = found.to_dict() | {
        "headline": headline(found),
        "text": str(found),
        "words": [pattern_words(pattern) for pattern in found.patterns],
    }
    pictures = tuple(pictured_patterns(found, data)) if images else ()
    if not found.patterns:
        return data, Evidence(told, pictures=pictures)
    explained = sum(p.share * p.explained for p in found.patterns if p.parts)
    if explained < WORTH:
        little = f"the corruption found explains {explained:.0%} of what failures have in common"
        return data, Evidence(told, (f"{little}: it is not trained on",), pictures)
    made = found.apply(data.retained, runtime.seed)
    data = replace(data, pattern=made, pattern_explains=explained)
    return data, Evidence(told, pictures=pictures)


def _found(model: nn.Module, data: RepairData, runtime: Runtime) -> str:
    assert data.retained is not None
    # of its stages there is one row in the report
    own = replace(runtime, stages=[], journal=None)
    found = diagnosing.diagnose(
        model,
        data.failing,
        data.retained,
        data.passing,
        own,
        label_names=data.label_names,
        error_rate=data.natural_rate,
    )
    return found.to_json()
