"""Ask a model, change nothing: its blocks, the most suspicious of them, what it gets wrong, and
what that has in common.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from accelerate import Accelerator
from torch import nn

from timm_repair import options as option_groups
from timm_repair.data import collecting
from timm_repair.data.options import DataOptions
from timm_repair.data.predicting import predict
from timm_repair.data.preparing import read, really_failing
from timm_repair.data.splits import without, without_duplicates
from timm_repair.diagnosis import diagnosing, sampling
from timm_repair.diagnosis.diagnosis import Diagnosis
from timm_repair.errors import DataError, require_packages
from timm_repair.hub.loading import load
from timm_repair.images.classes import Classes
from timm_repair.images.images import Images
from timm_repair.localization.localization import Localization
from timm_repair.localization.target import Target
from timm_repair.models import partition
from timm_repair.models.block import Block
from timm_repair.models.weights import check_finite
from timm_repair.pipeline.case import read_data, working_copy
from timm_repair.runtime.accelerators import make_accelerator
from timm_repair.runtime.randomness import own_randomness
from timm_repair.runtime.runtime import Runtime
from timm_repair.training.options import Training


def blocks(
    model: str | nn.Module,
    *,
    granularity: str = "stage",
    names: Sequence[str] | None = None,
    input_size: tuple[int, ...] | None = None,
) -> tuple[Block, ...]:
    """The blocks of `model`, in the order of the forward pass; the model stays untouched.

    Args:
        model: a timm model or its name, or any `nn.Module` that maps images to logits. The weights
            of a name are not loaded.
        granularity, names, input_size: see `partition.blocks`, as for what is returned and raised.
    """
    if isinstance(model, str):
        _, model = load(model, pretrained=False)
    return partition.blocks(model, granularity=granularity, names=names, input_size=input_size)


@dataclass(frozen=True)
class _Asked:
    """The options of `localize`."""

    target: Target = field(default_factory=Target)
    training: Training = field(default_factory=Training)


def localize(
    model: str | nn.Module,
    failures: Any,
    retain: Any = None,
    *,
    seed: int = 0,
    accelerator: Accelerator | None = None,
    progress: bool = True,
    data: DataOptions | None = None,
    **options: Any,
) -> Localization:
    """Which block is most suspicious (paper §3.2), without repairing anything.

    Args:
        options: score=, granularity=, top=, threshold=, … see `Target`; a score that trains reads
            those of `Training`.

    Example:
        >>> timm_repair.localize("resnet50", failures, train, score="spectrum_gradient").ranking
    """
    asked = option_groups.make(_Asked, options, "localize")
    runtime = Runtime(accelerator or make_accelerator(), seed, progress)
    _, model = load(model)
    with own_randomness(seed):
        model = working_copy(model, runtime)
        prepared = read_data(model, failures, retain, None, data, runtime)
        target = replace(asked.target, block=None, blocks=1)
        found = target.choose(model, prepared, asked.training, runtime)[2]
        assert found is not None, "no block is given"
        return found


def diagnose(
    model: str | nn.Module,
    failures: Any,
    retain: Any,
    passing: Any = None,
    *,
    seed: int = 0,
    accelerator: Accelerator | None = None,
    progress: bool = True,
    data: DataOptions | None = None,
    **options: Any,
) -> Diagnosis:
    """What the failures have in common, before anything is repaired: a corruption with its
    strength, a wrong preprocessing with its fix, confused classes, wrong labels, or none of these.

    Args:
        model, failures, retain, seed, accelerator, progress, data: as for `repair`; nothing of the
            failures is set aside.
        passing: examples of the failing population that the model has right, in their natural
            number, in any of these forms; those it has wrong are left out.
        options: compared=, pixels=, failures=, parts=, populations=, see `sampling.Looking`.

    Returns:
        A value: print it, `to_json()` it, `apply(images)` it for more failures, draw its
        `figure(retain, failures)`.

    Raises:
        NoFailuresError: no failures, or none that the model gets wrong.
        DataError: the data cannot be used, or retained examples are missing.
        MissingPackageError: scikit-learn, cleanlab or ImageHash is not installed.

    Example:
        >>> print(timm_repair.diagnose("resnet50", failures, train))
    """
    looking = option_groups.make(sampling.Looking, options, "diagnose")
    require_packages("diagnosis", "a diagnosis", "sklearn", "cleanlab", "imagehash")
    if retain is None:
        raise DataError("diagnose compares failures with retained examples: give retain=")
    runtime = Runtime(accelerator or make_accelerator(), seed, progress)
    asked = data or DataOptions()
    _, model = load(model)
    with own_randomness(seed):
        model = working_copy(model, runtime)
        with runtime.stage("prepare"):
            check_finite(model)
            given = without_duplicates(read(failures, model, asked, "failures"))
            failing = really_failing(model, given, asked, runtime)
            retained = without(read(retain, model, asked, "retain"), failing)
            right = None
            if passing is not None:
                right = read(passing, model, asked, "passing")
                answers = predict(model, right, right.preprocessing, runtime).predictions
                right = right.subset(answers == right.labels)
        names = Classes.of(model).readable
        return diagnosing.diagnose(model, failing, retained, right, runtime, looking, names)


def collect_failures(
    model: str | nn.Module,
    dataset: Any,
    *,
    max_failures: int | None = None,
    seed: int = 0,
    runtime: Runtime | None = None,
    name: str = "failures",
    **options: Any,
) -> Images:
    """The examples of `dataset` that `model` gets wrong, with their share as `error_rate`.

    Args:
        model: it comes back as it was; a string is loaded as `repair` does.
        dataset, max_failures, seed, runtime, name, options: see `collecting.collect_failures`, as
            for what is raised.

    Example:
        >>> failures = collect_failures(model, "drifted/", max_failures=1000)
        >>> repaired = timm_repair.repair(model, failures)
    """
    collecting.check_request(dataset, max_failures, options)
    _, model = load(model)
    return collecting.collect_failures(
        model,
        dataset,
        max_failures=max_failures,
        seed=seed,
        runtime=runtime,
        name=name,
        **options,
    )
