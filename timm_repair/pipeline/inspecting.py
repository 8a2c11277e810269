"""Ask a model, change nothing: its blocks, the most suspicious of them, how much it has right, what
it gets wrong, and what that has in common.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import Any

from accelerate import Accelerator
from torch import nn

from timm_repair import options as option_groups
from timm_repair.data import collecting
from timm_repair.data.checking import check_answers
from timm_repair.data.collected import Collected
from timm_repair.data.options import DataOptions
from timm_repair.data.predicting import predict
from timm_repair.data.preparing import unsplit
from timm_repair.diagnosis import diagnosing, sampling
from timm_repair.diagnosis.diagnosis import Diagnosis
from timm_repair.errors import DataError
from timm_repair.hub.loading import load
from timm_repair.images.classes import Classes
from timm_repair.images.sources import as_images
from timm_repair.localization.localization import Localization
from timm_repair.localization.target import Target
from timm_repair.models import partition
from timm_repair.models.block import Block
from timm_repair.models.wrapping import unwrapped
from timm_repair.pipeline.case import read_data, working_copy
from timm_repair.pipeline.evidence import require_diagnosis
from timm_repair.report.evaluation import Evaluation
from timm_repair.runtime.accelerators import make_accelerator
from timm_repair.runtime.boundary import public
from timm_repair.runtime.randomness import own_randomness
from timm_repair.runtime.runtime import Runtime
from timm_repair.training.options import Training


@public
def blocks(
    model: str | PathLike | nn.Module,
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
    if not isinstance(model, nn.Module):
        _, model = load(model, pretrained=False)
    model = unwrapped(model)
    return partition.blocks(model, granularity=granularity, names=names, input_size=input_size)


@dataclass(frozen=True)
class _Asked:
    """The options of `localize`."""

    target: Target = field(default_factory=Target)
    training: Training = field(default_factory=Training)


@public
def localize(
    model: str | PathLike | nn.Module,
    failures: Any,
    retain: Any = None,
    passing: Any = None,
    *,
    seed: int = 0,
    accelerator: Accelerator | None = None,
    progress: bool = True,
    data: DataOptions | None = None,
    **options: Any,
) -> Localization:
    """Which block is most suspicious (paper §3.2), without repairing anything.

    Args:
        model, failures, retain, passing, seed, accelerator, progress, data: as for `repair`.
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
        prepared = read_data(model, failures, retain, None, data, runtime, passing)
        target = replace(asked.target, block=None, blocks=1)
        found = target.choose(model, prepared, asked.training, runtime)[2]
        assert found is not None, "no block is given"
        return found


@public
def diagnose(
    model: str | PathLike | nn.Module,
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
            number, in any of these forms; those it has wrong are left out. None takes those that
            `collect_failures` gave with the failures.
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
    require_diagnosis()
    if retain is None:
        raise DataError("diagnose compares failures with retained examples: give retain=")
    runtime = Runtime(accelerator or make_accelerator(), seed, progress)
    asked = data or DataOptions()
    _, model = load(model)
    with own_randomness(seed):
        model = working_copy(model, runtime)
        with runtime.stage("prepare"):
            failing, retained, right = unsplit(
                model, failures, retain=retain, passing=passing, options=asked, runtime=runtime
            )
        names = Classes.of(model).readable
        rate = failing.error_rate
        return diagnosing.diagnose(model, failing, retained, right, runtime, looking, names, rate)


@public
def evaluate(
    model: str | PathLike | nn.Module,
    images: Any,
    *,
    accelerator: Accelerator | None = None,
    progress: bool = True,
    data: DataOptions | None = None,
) -> Evaluation:
    """How many of `images` the model has right, as a whole and class by class.

    Args:
        model, accelerator, progress, data: as for `repair`.
        images: labelled images in any form that `repair` takes; the split is that of the holdout.

    Raises:
        DataError: the images cannot be used, or there is none.
        LabelError: another reading of the labels fits the model's answers far better.

    Example:
        >>> print(timm_repair.evaluate("resnet50", "unseen/"))
    """
    runtime = Runtime(accelerator or make_accelerator(), progress=progress)
    name, model = load(model)
    model = working_copy(model, runtime)
    reading = (data or DataOptions()).reading_of("holdout", images)
    found = as_images(images, model, name="images", **vars(reading))
    if not len(found):
        raise DataError("images: there is none to evaluate: give labelled images")
    answers = predict(model, found, found.preprocessing, runtime).predictions
    check_answers(found, found.labels, answers)
    source = str(found.origin.get("source", found.name))
    return Evaluation(name, source, found.labels, answers, found.class_names)


@public
def collect_failures(
    model: str | PathLike | nn.Module,
    dataset: Any,
    *,
    max_failures: int | None = None,
    max_passing: int | None = None,
    seed: int = 0,
    runtime: Runtime | None = None,
    name: str = "failures",
    data: DataOptions | None = None,
    **options: Any,
) -> Collected:
    """The examples of `dataset` that `model` gets wrong, with their share as `error_rate`, and as
    `passing` those that it gets right.

    A dataset is asked about as a whole; a stream is read until there are `max_failures` (or
    `max_examples`, or 10,000) failures, or it ends.

    Args:
        model: it comes back as it was; a string is loaded as `repair` does.
        dataset, max_failures, max_passing, seed, runtime, name, data, options: see
            `collecting.collect_failures`, as for what is raised.

    Example:
        >>> failures = collect_failures(model, "drifted/", max_failures=1000)
        >>> repaired = timm_repair.repair(model, failures)
    """
    collecting.check_request(dataset, max_failures, options, max_passing, data)
    _, model = load(model)
    return collecting.collect_failures(
        model,
        dataset,
        max_failures=max_failures,
        max_passing=max_passing,
        seed=seed,
        runtime=runtime,
        name=name,
        data=data,
        **options,
    )
