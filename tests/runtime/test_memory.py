"""Where a batch does not fit in memory, parts of it do: the same results from smaller batches, each
example counted once.
"""

import copy
import itertools
import logging
from functools import partial

import planted
import pytest
import torch
from making import quiet, repair_data
from torch import nn

from timm_repair.data.predicting import predict
from timm_repair.errors import MemoryExceededError
from timm_repair.localization.localizing import localize
from timm_repair.localization.scorers import SCORERS, probing
from timm_repair.models import entering
from timm_repair.models.partition import blocks
from timm_repair.runtime.memory import out_of_memory_explained
from timm_repair.runtime.runtime import Runtime

TRAINED_AT_ONCE = probing.BATCH  # by the one scorer that trains
ERRORS = {"device": torch.OutOfMemoryError, "host": RuntimeError}


def fail(error: str = "device") -> None:
    """Run out of memory: as CUDA says it, or truly, by asking the host for more than its addresses
    can tell.
    """
    if error == "device":
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of"
            " 79.25 GiB"
        )
    torch.empty(2**50)


class Limited(nn.Module):
    """Takes as many images at once as are told, forward or backward."""

    def __init__(self, limit: int, error: str, backward: bool):
        super().__init__()
        self.limit, self.error, self.backward = limit, error, backward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.limit and not x.is_meta:
            if not self.backward:
                fail(self.error)
            if x.requires_grad:
                x.register_hook(lambda gradient: fail(self.error))
        return x


def limited(
    model: nn.Module, limit: int, error: str = "device", *, backward: bool = False
) -> nn.Module:
    """A copy that runs out of memory in its middle, so that some neurons have been counted by
    then.
    """
    model = copy.deepcopy(model)
    model.layer2[0].act1 = nn.Sequential(Limited(limit, error, backward), model.layer2[0].act1)
    return model


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return planted.confused(planted.classifier())


@pytest.fixture(scope="module")
def data(model):
    wrong, right = planted.wrong_by(model, planted.pictures(500), at_least=100)
    return repair_data(model, wrong[:100], right[:150])


def found(model, data, score, runtime):
    return localize(model, blocks(model), data, score=score, runtime=runtime)


def assert_same(one, other):
    assert one.suspiciousness == pytest.approx(other.suspiciousness, rel=1e-5, abs=1e-9)
    assert one.errors == pytest.approx(other.errors, rel=1e-4, abs=1e-9)
    assert {name: value for name, value in one.details.items() if name != "top_neurons"} == {
        name: value for name, value in other.details.items() if name != "top_neurons"
    }
    for layer, values in one.neurons.items():
        torch.testing.assert_close(values, other.neurons[layer], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("error", ERRORS)
def test_predict(model, data, error, caplog):
    expected = predict(model, data.retained, data.preprocessing, quiet())
    runtime, sizes = quiet(), []
    smaller = limited(model, 70, error)
    smaller.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    got = predict(smaller, data.retained, data.preprocessing, runtime)
    assert torch.equal(got.predictions, expected.predictions)
    torch.testing.assert_close(got.losses, expected.losses)
    assert sizes == [150, 75, 37, 37, 37, 37, 2], "halved until it fits, and then no larger"
    warnings = [
        record.getMessage() for record in caplog.records if record.levelno == logging.WARNING
    ]
    assert len(warnings) == 1 and "150 images" in warnings[0] and "37 are evaluated" in warnings[0]
    sizes.clear()
    predict(smaller, data.failing, data.preprocessing, runtime)
    assert sizes == [37, 37, 26], "remembered for the rest of the run"
    assert len(caplog.records) == 1 and runtime.eval_batch_size == 256


@pytest.mark.parametrize(
    ("error", "backward"), [("device", False), ("host", True)], ids=["forward", "backward"]
)
@pytest.mark.parametrize("score", sorted(SCORERS))
def test_localize(model, data, score, error, backward, monkeypatch):
    # what arrives at a block is computed for all examples at once, here it is computed anew in each
    # batch
    monkeypatch.setattr(probing, "entrances", partial(entering.entrances, budget=0))
    limit, asked = (TRAINED_AT_ONCE, 256) if score == "probe" else (11, 48)
    smaller, runtime = limited(model, limit, error, backward=backward), quiet(eval_batch_size=asked)
    assert_same(
        found(smaller, data, score, runtime), found(limited(model, 999), data, score, quiet())
    )
    forward = score not in ("random", "gain", "rgn") and not backward
    trained = score in ("gain", "rgn", "gradient", "spectrum_gradient", "enrichment")
    expected = {
        name for name, used in ((False, forward and score != "gradient"), (True, trained)) if used
    }
    assert set(runtime.fitting) == expected and all(
        size <= limit for size in runtime.fitting.values()
    )


@pytest.mark.parametrize("score", sorted(set(SCORERS) - {"random", "probe"}))
def test_not_even_one(model, data, score):
    smaller = limited(model, 0)
    with pytest.raises(
        MemoryExceededError, match="a single image does not fit in memory: use a device with more"
    ) as caught:
        found(smaller, data, score, quiet(eval_batch_size=2))
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError) and isinstance(
        caught.value, MemoryError
    )
    with pytest.raises(MemoryExceededError):
        predict(smaller, data.failing, data.preprocessing, quiet(eval_batch_size=1))
    assert not any(
        module._forward_hooks or module._forward_pre_hooks for module in smaller.modules()
    )


def test_a_training_step_is_not_cut(model, data, monkeypatch):
    monkeypatch.setattr(probing, "entrances", partial(entering.entrances, budget=0))
    with pytest.raises(
        MemoryExceededError,
        match="32 images does not fit in memory: choose a score that trains nothing",
    ):
        found(limited(model, TRAINED_AT_ONCE - 1), data, "probe", quiet())
    for error in ERRORS:
        with pytest.raises(
            MemoryExceededError, match="batch_size=128 does not fit in memory: lower batch_size"
        ) as caught:
            with out_of_memory_explained("batch_size=128"):
                fail(error)
        assert isinstance(caught.value.__cause__, ERRORS[error])


def test_other_errors_are_not_retried():
    runtime, asked = quiet(), []

    def fails(batch: torch.Tensor) -> None:
        asked.append(len(batch))
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        list(runtime.in_batches(fails, torch.arange(8)))
    with pytest.raises(RuntimeError, match="mat1"), out_of_memory_explained("batch_size=8"):
        fails(torch.arange(8))
    assert asked == [8, 8] and not runtime.fitting


@pytest.mark.parametrize("limits", [(13, 13), (13, 5), (1, 1), (40, 7)])
def test_each_index_is_in_one_result(limits):
    """Also where less fits later on."""
    calls, runtime = itertools.count(), Runtime(progress=False, eval_batch_size=16)

    def compute(batch: torch.Tensor) -> list[int]:
        if len(batch) > limits[next(calls) > 1]:
            fail()
        return batch.tolist()

    results = list(runtime.in_batches(compute, torch.arange(50)))
    assert sum(results, []) == list(range(50))
    assert max(map(len, results)) <= limits[0] and len(results[-2]) <= limits[1]
