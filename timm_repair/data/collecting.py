"""Collecting failures: the examples of a dataset that a model gets wrong."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from timm_repair.data.checking import check_answers
from timm_repair.data.collected import Collected
from timm_repair.data.collecting_streams import failures_of_stream
from timm_repair.data.options import DataOptions
from timm_repair.data.predicting import predict
from timm_repair.errors import NoFailuresError, OptionError
from timm_repair.images.reading import Reading
from timm_repair.images.sources import as_images, require_token, split_options
from timm_repair.models.weights import check_finite
from timm_repair.runtime.runtime import Runtime


def check_request(
    dataset: Any,
    max_failures: int | None,
    options: Mapping[str, Any],
    max_passing: int | None = None,
    data: DataOptions | None = None,
) -> tuple[Reading, dict[str, Any]]:
    """How `dataset` is read, and how it is got at.

    Raises:
        OptionError: for what `collect_failures` cannot do, before any work starts.
    """
    for name, most in (("max_failures", max_failures), ("max_passing", max_passing)):
        if most is not None and (type(most) is not int or most < 1):
            raise OptionError(f"{name}={most!r}; must be at least 1, or None for all")
    reading, access = split_options(options)
    if data is not None:
        if not isinstance(data, DataOptions):
            raise OptionError(f"data={data!r} must be a timm_repair.DataOptions, or None")
        given = {name: value for name, value in options.items() if name not in access}
        reading = replace(data.reading_of("failures", dataset), **given)
    reading.require_fit(dataset)
    require_token(access.get("token"))
    return reading, access


def collect_failures(
    model: nn.Module,
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

    Where it stops: a dataset is asked about as a whole, and `max_failures` are drawn from what was
    found. A stream is read from its start, batch by batch, until there are `max_failures`, or else
    `max_examples`, or else `streams.BUFFER` failures, or it ends; so the failures are its first
    ones, and no more than these, `max_passing` passing examples and one batch are held at a time.

    Args:
        model: it comes back as it was.
        dataset: anything that `repair` takes as failures: see `as_images`.
        max_failures: at most so many, drawn at random; of a stream the first ones. None for all; of
            a stream, for `max_examples` (then a bound on the failures kept, not on the examples
            read), or else for `streams.BUFFER`, with a logged warning where there are more.
        max_passing: at most so many passing examples, drawn at random from all that were read. None
            for all; of a stream, for `collecting_streams.PASSING`.
        seed: of the draws.
        runtime: where to compute; None makes one.
        name: what to call them in messages.
        data: how to read it, as `repair` takes it; `options` go before.
        **options: of `as_images`.

    Returns:
        The failures, `Images` that `repair` takes. `passing` is None where nothing passed.

    Raises:
        NoFailuresError: the model gets every example right.
        LabelError: another reading of the labels fits the model's answers far better.
        DataError: as `as_images`.

    Example:
        >>> failures = collect_failures(model, "drifted/", max_failures=1000)
        >>> repaired = timm_repair.repair(model, failures, retain=train)
    """
    reading, access = check_request(dataset, max_failures, options, max_passing, data)
    check_finite(model)
    runtime = runtime or Runtime(seed=seed)
    draw = Runtime(runtime.accelerator, seed).generator
    if reading.streams(dataset):
        return failures_of_stream(
            model,
            dataset,
            max_failures,
            runtime,
            name,
            reading,
            max_passing=max_passing,
            generator=draw("passing"),
            **access,
        )
    images = as_images(dataset, model, name=name, **access, **vars(reading))
    answers = predict(model, images, images.preprocessing, runtime).predictions
    check_answers(images, images.labels, answers)
    wrong = (answers != images.labels).nonzero().flatten()
    right = (answers == images.labels).nonzero().flatten()
    if len(wrong) == 0:
        raise NoFailuresError(
            f"the model gets all {len(images)} examples right: there is nothing to repair"
        )
    rate = len(wrong) / len(images)
    wrong = _drawn(wrong, max_failures, draw("failures"))
    right = _drawn(right, max_passing, draw("passing"))
    # the cache of the whole may be full of examples that are not failures
    failures = images.subset(
        wrong, own_cache=True, name=name, error_rate=rate, answers=answers[wrong]
    )
    passing = images.subset(right, own_cache=True, name=f"{name} (passing)", answers=answers[right])
    return Collected.of(failures, passing if len(passing) else None)


def _drawn(rows: torch.Tensor, most: int | None, generator: torch.Generator) -> torch.Tensor:
    """At most so many of `rows` (n,), in their order."""
    if most is None or len(rows) <= most:
        return rows
    return rows[torch.randperm(len(rows), generator=generator)[:most]].sort().values
