"""Collecting failures: the examples of a dataset that a model gets wrong."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from timm_repair.data.collecting_streams import failures_of_stream
from timm_repair.data.predicting import predict
from timm_repair.errors import NoFailuresError, OptionError
from timm_repair.images.images import Images
from timm_repair.images.sources import as_images, require_token, split_options
from timm_repair.models.weights import check_finite
from timm_repair.runtime.runtime import Runtime


def check_request(dataset: Any, max_failures: int | None, options: Mapping[str, Any]) -> None:
    """Raise OptionError for what `collect_failures` cannot do, before any work starts."""
    if max_failures is not None and max_failures < 1:
        raise OptionError(f"max_failures={max_failures!r}; must be at least 1, or None for all")
    reading, access = split_options(options)
    reading.require_fit(dataset)
    require_token(access.get("token"))


def collect_failures(
    model: nn.Module,
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
        model: it comes back as it was.
        dataset: anything `as_images` takes.
        max_failures: at most so many, drawn at random; of a stream the first ones. None for all; of
            a stream, for `max_examples` (then a bound on the failures kept, not on the examples
            read), or else for `streams.BUFFER`, with a logged warning where there are more.
        seed: of the draw.
        runtime: where to compute; None makes one.
        name: what to call them in messages.
        **options: of `as_images`.

    Raises:
        NoFailuresError: the model gets every example right.
        DataError: as `as_images`.

    Example:
        >>> failures = collect_failures(model, "drifted/", max_failures=1000)
        >>> repaired = timm_repair.repair(model, failures)
    """
    check_request(dataset, max_failures, options)
    check_finite(model)
    runtime = runtime or Runtime(seed=seed)
    reading, access = split_options(options)
    if reading.streams(dataset):
        return failures_of_stream(model, dataset, max_failures, runtime, name, reading, **access)
    images = as_images(dataset, model, name=name, **options)
    wrong = (
        (predict(model, images, images.preprocessing, runtime).predictions != images.labels)
        .nonzero()
        .flatten()
    )
    if len(wrong) == 0:
        raise NoFailuresError(
            f"the model gets all {len(images)} examples right: there is nothing to repair"
        )
    rate = len(wrong) / len(images)
    if max_failures is not None and len(wrong) > max_failures:
        generator = Runtime(runtime.accelerator, seed).generator("failures")
        wrong = wrong[torch.randperm(len(wrong), generator=generator)[:max_failures]].sort().values
    # the cache of the whole may be full of examples that are not failures
    return images.subset(wrong, own_cache=True, name=name, error_rate=rate)
