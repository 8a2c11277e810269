"""Protocols: on what the rows of a comparison are repaired and measured.

- "split", that of `repair`: failures are split into a part to train on, one to choose by and one to
  measure on, or measured on a holdout that shares no example with them.
- "paper", that of ArchRepair's experiments (§4.1): at most 1,000 failures are drawn from the test
  set itself, and the rest of the same test set is measured on.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from datasets import DatasetDict, IterableDatasetDict
from torch import nn

from timm_repair.data.options import DataOptions
from timm_repair.data.predicting import predict
from timm_repair.data.preparing import prepare
from timm_repair.data.repair_data import RepairData
from timm_repair.data.splits import Known
from timm_repair.errors import DataError, NoFailuresError, OptionError, did_you_mean
from timm_repair.images.sources import as_images
from timm_repair.models.weights import check_finite
from timm_repair.pipeline.case import read_data
from timm_repair.properties import preparing
from timm_repair.report.comparison import SPLIT
from timm_repair.runtime.runtime import Runtime

PAPER = "paper"
PROTOCOLS = (SPLIT, PAPER)
FAILURES = 1000  # of the paper's repair set
REST = "rest of the test set"


def require_protocol(name: str, failures: Any, passing: Any) -> None:
    """Raise OptionError unless the protocol is known and fits what is given."""
    if name not in PROTOCOLS:
        raise OptionError(f"unknown protocol {name!r}{did_you_mean(name, PROTOCOLS)}")
    if name == PAPER and preparing.is_property(failures):
        raise OptionError("protocol='paper' goes with images, not with properties")
    if name == PAPER and passing is not None:
        raise OptionError(
            "protocol='paper' takes the whole test set as failures=, and measures on what passes:"
            " leave passing= out"
        )


def data_of(
    protocol: str,
    model: nn.Module,
    failures: Any,
    retain: Any,
    holdout: Any,
    options: Any,
    runtime: Runtime,
    passing: Any = None,
) -> RepairData:
    """The data of all rows under one seed.

    Args:
        failures: with the protocol "paper" the whole test set, right and wrong answers alike.
        holdout: with the protocol "paper" further populations, such as other corruptions.
    """
    if protocol == SPLIT:
        return read_data(model, failures, retain, holdout, options, runtime, passing)
    with runtime.stage("prepare"):
        return _as_in_the_paper(model, failures, retain, holdout, options, runtime)


def _as_in_the_paper(
    model: nn.Module, test: Any, retain: Any, holdout: Any, options: Any, runtime: Runtime
) -> RepairData:
    options = options or DataOptions()
    images = as_images(test, model, name="test set", **vars(options.reading_of("failures", test)))
    check_finite(model)
    answers = predict(model, images, images.preprocessing, runtime).predictions
    wrong = (answers != images.labels).nonzero().flatten()
    if not len(wrong):
        raise NoFailuresError(f"the model gets all {len(images)} examples of the test set right")
    order = torch.randperm(len(wrong), generator=runtime.generator("failures"))
    drawn = wrong[order[:FAILURES]].sort().values
    rate = len(wrong) / len(images)
    failing = images.subset(drawn, name="failures", error_rate=rate, answers=answers[drawn])
    rest = ~Known({"test set": images}).among(images, failing)  # without copies of them either
    if not rest.any():
        raise DataError("protocol='paper': nothing is left of the test set to measure on")
    # a dict of datasets' own is one source with several splits
    several = isinstance(holdout, Mapping) and not isinstance(
        holdout, DatasetDict | IterableDatasetDict
    )
    named = dict(holdout) if several else {"holdout": holdout}
    if REST in named:
        raise OptionError(f"a holdout cannot be called {REST!r} here: protocol='paper' has its own")
    measured = {REST: images.subset(rest.nonzero().flatten(), name=REST)} | {
        name: source for name, source in named.items() if source is not None
    }
    data = prepare(
        model,
        failing,
        retain=retain,
        holdout=measured,
        options=options,
        runtime=runtime,
        hold_out=False,
    )
    told = {"name": PAPER, "text": _told(model, data, rate, runtime)}
    return replace(data, provenance=data.provenance | {"protocol": told})


def _told(model: nn.Module, data: RepairData, error_rate: float, runtime: Runtime) -> str:
    rest = data.holdout[REST]
    right = predict(model, rest, data.preprocessing, runtime).right.float().mean().item()
    count = data.provenance["given"]["failures"]
    return (
        f"as in the paper, the failures ({count}) were drawn from the test set itself, and the rest"
        f" of the same test set ({len(rest)}) is measured on. What was drawn is missing there: the"
        f" original has {right:.1%} of it right, and {1 - error_rate:.1%} of the whole. No accuracy"
        " here is one of an untouched sample"
    )
