"""One row per method, strategy, augmentation and scorer: tiny options, and what the row claims. Without a row,
test_every_… fails at once.
"""

import atexit
import shutil
import tempfile
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import planted
from safetensors.torch import save_file

BUDGET = {"steps": 6, "batch_size": 16, "evaluations": 1, "hflip": 0.0, "shift": 0.0}
# With steps this small a loss falls whatever the random body, so that each row changes what it
# claims to change.
GENTLE = BUDGET | {"learning_rate": 0.001}
WEIGHTS, STATISTICS, ARCHITECTURE = "weights", "statistics", "architecture"
NOTHING = ()


@dataclass(frozen=True)
class Case:
    """A repair of the planted classifier.

    Args:
        changes: all that the returned model has different: WEIGHTS (parameters), STATISTICS (batch
            norms'), ARCHITECTURE (modules).
        middle: a function that is called in its middle, and at which call it is to fail there.
        searches: it may also keep the raw architecture; its report says whether it did.
        last: the state it ends in is kept, since six steps on images that were changed, or towards
            other outputs, need not bring what the selection split measures.
    """

    method: str
    options: dict
    changes: tuple[str, ...] = (WEIGHTS, STATISTICS)
    searches: bool = False
    last: bool = False
    middle: tuple[str, int] = ("timm_repair.training.batches.Batches.take", 2)


def _searching(**options) -> Case:
    # a path takes such small nets twice as long
    return Case("archrepair", GENTLE | {"max_latency": None} | options, searches=True)


def _built(**options) -> Case:
    return Case("archrepair", GENTLE | options, (WEIGHTS, STATISTICS, ARCHITECTURE))


def _tuned(*changes: str, **options) -> Case:
    return Case("finetune", GENTLE | options, changes or (WEIGHTS, STATISTICS))


# smaller than a weight's last bit
STILL = {"batch_norm": "frozen", "learning_rate": 1e-12, "warmup": 1.0}

# the classes that are confused cannot be mended by factors, but a swarm always finds some that lower
# the loss
SWARM = {"particles": 4, "reach": 0.05, "examples": 60}


# after larger transformations the images themselves may look no better in six steps
SMALL = {"rotation": 6.0, "translation": 0.03, "shear": 0.02, "brightness": 8.0, "contrast": 0.05}


def _scaled(method: str = "birdnn_finetune", **options) -> Case:
    apply = ("timm_repair.gradient_free.neurons.Factors.apply", 2)
    return Case(method, GENTLE | SWARM | options, (WEIGHTS,), middle=apply)


def _changing(method: str, **options) -> Case:
    return Case(method, GENTLE | options, last=True)


def _patched(**options) -> Case:
    apply = ("timm_repair.gradient_free.patching.Patch.apply", 2)
    few = {"population": 20, "examples": 60, "method": "arachne"} | options
    return Case(few.pop("method"), GENTLE | few, (WEIGHTS,), middle=apply)


@cache
def history() -> str:
    """The file of a state in which the planted classifier had no fault."""
    folder = tempfile.mkdtemp(prefix="timm_repair-tests-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = Path(folder) / "earlier.safetensors"
    save_file(planted.classifier().state_dict(), path)
    return str(path)


STRATEGY_CASES = {
    "pc_darts": {},
    "darts": {},
    "snas": {},
    "gdas": {},
    "drnas": {},
    "bayes_nas": {},
}

AUGMENTATION_CASES = {"flips": {}}

# every method of METHODS appears, those with several faces several times
METHOD_CASES = {
    "archrepair": _searching(block="layer3"),
    "archrepair localized": _searching(score="rgn", level="layer"),
    "archrepair within latency": Case("archrepair", GENTLE | {"max_latency": 1.0}),
    "archrepair two blocks": _searching(score="rgn", blocks=2),
    **{f"archrepair {name}": _searching(block="layer2", strategy=name) for name in STRATEGY_CASES},
    "archrepair perturbation": _searching(block="layer2", selection="perturbation"),
    "archrepair random": _built(block="layer3", genotype="random"),
    "archrepair random, two blocks": _built(block=("layer2", "layer3"), genotype="random"),
    "archrepair normalized": Case(
        "archrepair",
        GENTLE | {"block": "layer3", "genotype": "normalized", "max_latency": None},
        (WEIGHTS, STATISTICS, ARCHITECTURE),
    ),
    "archrepair raw": Case("archrepair", GENTLE | {"block": "layer3", "genotype": "raw"}),
    "finetune network": _tuned(),
    "finetune augmented": replace(_tuned(hflip=0.5, shift=0.1), last=True),
    "finetune frozen statistics": _tuned(WEIGHTS, batch_norm="frozen"),
    "finetune block": _tuned(level="block", block="layer2"),
    "finetune layer": _tuned(WEIGHTS, level="layer", block="layer1.0.conv1"),
    "finetune two blocks": _tuned(level="block", score="rgn", blocks=2),
    "finetune two layers": _tuned(
        WEIGHTS, level="layer", block=["layer1.0.conv1", "layer3.0.conv2"]
    ),
    "finetune neuron": _tuned(WEIGHTS, level="neuron", top=1),
    "finetune neurons of a block": _tuned(WEIGHTS, level="neuron", block="layer2", top=9),
    "finetune too small": Case("finetune", GENTLE | STILL, NOTHING),
    "birdnn_retrain": Case("birdnn_retrain", GENTLE),
    "birdnn_retrain labels": Case("birdnn_retrain", GENTLE | {"imitate": "labels"}),
    "birdnn_retrain layers, block": Case(
        "birdnn_retrain", GENTLE | {"imitate": "layers", "block": "layer2"}, last=True
    ),
    "birdnn_finetune": _scaled(),
    "birdnn_finetune block": _scaled(block="layer3"),
    "birdnn": Case("birdnn", GENTLE | SWARM | {"retrain_share": 0.5}),
    "arachne v1": _patched(version=1),
    "arachne v2, block": _patched(version=2, block="layer4"),
    "care": _scaled("care"),
    "care step, block": _scaled("care", effect="step", block="layer3"),
    "neu_recover": _patched(method="neu_recover", checkpoints=(history(),), share=0.1),
    "sensei": _changing("sensei", **SMALL),
    "sensei filters, sure": _changing(
        "sensei", **SMALL, filters=True, skip_below=0.01, pair_limit=1
    ),
    "sensei block": _changing("sensei", **SMALL, block="layer2"),
    "few_shot_mix": _changing("few_shot_mix"),
    "few_shot_mix block": _changing("few_shot_mix", block="layer3", strength=1.0),
    "deep_repair": _changing("deep_repair"),
    "deep_repair statistics": _changing("deep_repair", transfer="statistics", train_failures=True),
    "linear_program": Case(
        "linear_program",
        GENTLE,
        (WEIGHTS,),
        middle=("timm_repair.methods.linear_program.solve", 1),
    ),
    "bn_recalibration": Case("bn_recalibration", GENTLE | {"batches": 2}, (STATISTICS,)),
    "surgical": Case("surgical", GENTLE | {"candidates": ["layer2", "layer3"]}),
    "auto_rgn": Case("auto_rgn", GENTLE | {"rate": 1e-4}),
    "auto_rgn eb, frozen statistics": Case(
        "auto_rgn", GENTLE | {"rate": 1e-4, "criterion": "eb", "batch_norm": "frozen"}, (WEIGHTS,)
    ),
    "mode": Case("mode", GENTLE | {"rounds": 2, "examples": 80}),
    "apricot": Case("apricot", GENTLE | {"reduced": 3, "adjustments": 1, "recalibration": 1}),
    "wise_ft": Case("wise_ft", GENTLE | {"recalibration": 2}),
    "wise_ft of a block": Case(
        "wise_ft", GENTLE | {"options": {"level": "block", "block": "layer2"}, "recalibration": 2}
    ),
    "wise_ft of nothing": Case(
        "wise_ft",
        GENTLE | {"of": "noop", "grid": 2, "recalibration": 1},
        NOTHING,
        middle=("timm_repair.pipeline.case.measure", 1),
    ),
    "noop": Case("noop", GENTLE, NOTHING, middle=("timm_repair.pipeline.case.measure", 1)),
    "random_block": Case("random_block", GENTLE),
    "random_block, two layers": Case(
        "random_block", GENTLE | {"granularity": "layer", "blocks": 2}, (WEIGHTS,)
    ),
    "random_weights": Case(
        "random_weights",
        GENTLE | {"candidates": 12, "examples": 60, "evaluations": 6, "block": "layer2"},
        (WEIGHTS,),
        middle=("timm_repair.methods.random_weights.predict", 3),
    ),
}

# scorer -> whether it claims to name a planted fault
SCORER_CASES = {
    "spectrum_gradient": False,
    "spectrum": False,
    "gradient": False,
    "enrichment": False,
    "shift": False,
    "gain": False,
    "rgn": True,
    "probe": False,
    "random": False,
}
