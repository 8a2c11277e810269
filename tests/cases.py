"""One row per method, strategy, augmentation and scorer: tiny options, and what the row claims. Without a row,
test_every_… fails at once.
"""

import atexit
import shutil
import tempfile
from dataclasses import dataclass
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
    """

    method: str
    options: dict
    changes: tuple[str, ...] = (WEIGHTS, STATISTICS)
    searches: bool = False
    middle: tuple[str, int] = ("timm_repair.training.batches.Batches.take", 2)


def _searching(**options) -> Case:
    return Case("archrepair", GENTLE | options, searches=True)


def _built(**options) -> Case:
    return Case("archrepair", GENTLE | options, (WEIGHTS, STATISTICS, ARCHITECTURE))


def _tuned(*changes: str, **options) -> Case:
    return Case("finetune", GENTLE | options, changes or (WEIGHTS, STATISTICS))


# smaller than a weight's last bit
STILL = {"batch_norm": "frozen", "learning_rate": 1e-12, "warmup": 1.0}

# the classes that are confused cannot be mended by factors, but a swarm always finds some that lower
# the loss
SWARM = {"particles": 4, "reach": 0.05, "examples": 60}


def _scaled(method: str = "birdnn_finetune", **options) -> Case:
    apply = ("timm_repair.gradient_free.neurons.Factors.apply", 2)
    return Case(method, GENTLE | SWARM | options, (WEIGHTS,), middle=apply)


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


STRATEGY_CASES = {"pc_darts": {}, "darts": {}}

AUGMENTATION_CASES = {"flips": {}}

# every method of METHODS appears, those with several faces several times
METHOD_CASES = {
    "archrepair": _searching(block="layer3"),
    "archrepair localized": _searching(score="rgn", level="layer"),
    "archrepair two blocks": _searching(score="rgn", blocks=2),
    **{f"archrepair {name}": _searching(block="layer2", strategy=name) for name in STRATEGY_CASES},
    "archrepair random": _built(block="layer3", genotype="random"),
    "archrepair random, two blocks": _built(block=("layer2", "layer3"), genotype="random"),
    "archrepair raw": Case("archrepair", GENTLE | {"block": "layer3", "genotype": "raw"}),
    "finetune network": _tuned(),
    "finetune augmented": _tuned(hflip=0.5, shift=0.1),
    "finetune frozen statistics": _tuned(WEIGHTS, batch_norm="frozen"),
    "finetune block": _tuned(level="block", block="layer2"),
    "finetune layer": _tuned(WEIGHTS, level="layer", block="layer1.0.conv1"),
    "finetune two blocks": _tuned(level="block", score="rgn", blocks=2),
    "finetune two layers": _tuned(
        WEIGHTS, level="layer", block=["layer1.0.conv1", "layer3.0.conv2"]
    ),
    "finetune too small": Case("finetune", GENTLE | STILL, NOTHING),
    "birdnn_retrain": Case("birdnn_retrain", GENTLE),
    "birdnn_retrain labels": Case("birdnn_retrain", GENTLE | {"imitate": "labels"}),
    "birdnn_retrain layers, block": Case(
        "birdnn_retrain", GENTLE | {"imitate": "layers", "block": "layer2"}
    ),
    "birdnn_finetune": _scaled(),
    "birdnn_finetune block": _scaled(block="layer3"),
    "birdnn": Case("birdnn", GENTLE | SWARM | {"retrain_share": 0.5}),
    "arachne v1": _patched(version=1),
    "arachne v2, block": _patched(version=2, block="layer4"),
    "care": _scaled("care"),
    "care step, block": _scaled("care", effect="step", block="layer3"),
    "neu_recover": _patched(method="neu_recover", checkpoints=(history(),), share=0.1),
    "linear_program": Case(
        "linear_program",
        GENTLE,
        (WEIGHTS,),
        middle=("timm_repair.methods.linear_program.solve", 1),
    ),
    "bn_recalibration": Case("bn_recalibration", GENTLE | {"batches": 2}, (STATISTICS,)),
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
