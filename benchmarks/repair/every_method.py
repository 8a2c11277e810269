r"""Every method of the package on one protocol.

    python -m benchmarks.repair.every_method --models MODELS --data DATA/cifar10 \
        --cells resnet18:contrast_s5:1 resnet18:gaussian_noise_s5:1

One JSON a cell in benchmarks/results/every_method/, as those of default.py, whose protocol it is:
the same failures, passing and retained examples for all, the same selection split and the same
limits on harm. The pattern of the failures is the default repair's own finding; the others do not
see it. Methods that follow gradients have 300 steps of batch 128; those that search without them
have 30 rounds of as many candidates as their options say, and processor time tells what that costs.

Not among them: neu_recover, which needs the checkpoints of a model's training.
"""

from pathlib import Path

from torch import nn

from benchmarks.repair.default import Row, fill, without_pattern
from timm_repair.methods import METHODS

RESULTS = Path(__file__).parents[1] / "results" / "every_method"
ROUNDS = {"steps": 30}

# those that have options of their own, or are cheap and go first
OPTIONS: dict[str, dict] = {
    "noop": {},
    "bn_recalibration": {},
    "finetune": {},
    "few_shot_mix": {},
    "random_weights": ROUNDS,
    "birdnn_finetune": ROUNDS,
    "care": ROUNDS,
    "arachne": ROUNDS,
    # of whose steps a tenth are rounds
    "birdnn": {"retrain_share": 0.9},
}
LAST = ("linear_program",)  # the slowest
LEFT_OUT = ("neu_recover", "archrepair")  # see above; the last has rows of its own


def rows_for(model: nn.Module) -> dict[str, Row]:
    """A row a method, under its name, and the default repair as users have it."""
    others = [name for name in METHODS if name not in (*LEFT_OUT, *LAST)]
    rows = {
        name: Row(name, (OPTIONS.get(name, {}),), without_pattern)
        for name in dict.fromkeys([*OPTIONS, *others])
    }
    return (
        rows
        | {
            "archrepair": Row("archrepair", data=without_pattern),
            "archrepair with the pattern": Row("archrepair"),
        }
        | {name: Row(name, data=without_pattern) for name in LAST}
    )


if __name__ == "__main__":
    fill(__doc__, RESULTS, rows_for)
