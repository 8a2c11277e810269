"""A repair on several processes is that of one: the same counts, choices and bits on all of them, and the same weights up to rounding.

Starting a process takes seconds, so each world runs once, and everything it does is in processes/world.py.
"""

import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import planted
import pytest
import torch
from accelerate import Accelerator, DistributedType, tracking
from accelerate.tracking import GeneralTracker
from accelerate.utils import LoggerType
from processes.world import REPAIRS, found_in
from timm.models import save_for_hf

import timm_repair
from timm_repair import cli
from timm_repair.errors import OptionError
from timm_repair.hub.saving import read_report
from timm_repair.localization.scorers import SCORERS
from timm_repair.runtime.accelerators import make_accelerator
from timm_repair.runtime.runtime import Runtime

ROOT = Path(timm_repair.__file__).parent.parent
WORLDS = (2, pytest.param(4, marks=pytest.mark.long))
COUNTS = {"failures": 97, "train": 151, "unseen": 61}  # of images; odd, so that shards are uneven
CONFUSED = (0, 1)  # the classes that the classifier takes for each other


@pytest.fixture(scope="module")
def folder(tmp_path_factory, pictures) -> Path:
    """The model, what it fails on, and more, as folders."""
    folder = tmp_path_factory.mktemp("worlds")
    # smooth: at a kink of a ReLU or a max-pooling, a rounding difference turns a gradient, and weights go apart
    smooth = planted.classifier(act_layer="gelu", replace_stem_pool=True)
    save_for_hf(planted.confused(smooth), folder / "model", safe_serialization=True)
    failures = [pair for pair in pictures["pool"] if pair[1] in CONFUSED]
    for name, pairs in {
        "failures": failures,
        "train": pictures["train"],
        "unseen": pictures["unseen"],
    }.items():
        for i, (image, label) in enumerate(pairs[: COUNTS[name]]):
            path = folder / name / str(label) / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
    return folder


@pytest.fixture(scope="module")
def alone(folder) -> dict:
    with torch.random.fork_rng():
        return found_in(folder)


@pytest.fixture(scope="module", params=WORLDS, ids="{} processes".format)
def world(request, folder) -> dict:
    """What a world found, and under "output" what it wrote to standard output."""
    count = request.param
    environment = dict(os.environ) | {
        "ACCELERATE_USE_CPU": "true",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    words = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        count,
        Path(__file__).with_name("world.py"),
        folder,
    ]
    process = subprocess.Popen(
        [sys.executable, *map(str, words)],
        env=environment,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        text=True,
        encoding="utf-8",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=300)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # the launcher and its processes
            process.communicate()
    assert process.returncode == 0, errors[-5000:]
    return torch.load(folder / f"found-{count}.pt", weights_only=False) | {"output": output}


def compare(found, expected, relative: float, path: str = "", smallest: float = 1e-9) -> None:
    """Counts and words must be equal, numbers close: in a tensor relative to its largest entry, or
    to `smallest` where all are below that.
    """
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), path
        for key, value in expected.items():
            compare(found[key], value, relative, f"{path}/{key}", smallest)
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), path
        for i, (one, other) in enumerate(zip(found, expected, strict=True)):
            compare(one, other, relative, f"{path}/{i}", smallest)
    elif isinstance(expected, torch.Tensor) and expected.is_floating_point():
        assert found.dtype == expected.dtype and found.shape == expected.shape, path
        distance = (found - expected).abs().max() if len(found) else torch.tensor(0.0)
        assert distance <= relative * expected.abs().max().clamp(min=smallest), (
            f"{path}: {distance} of {expected.abs().max()}"
        )
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=relative, abs=1e-12), path
    else:
        assert (
            torch.equal(found, expected)
            if isinstance(expected, torch.Tensor)
            else found == expected
        ), path


def without_alpha(history: list[dict]) -> list[dict]:
    return [{name: value for name, value in row.items() if name != "alpha"} for row in history]


def test_all_processes_of_a_run_find_the_same_bits(world):
    first, *others = world["digests"]
    assert len(others) + 1 == world["processes"]
    for other in others:
        assert [name for name, value in first.items() if other[name] != value] == []


def test_batch_norms_see_the_whole_batch(world, alone):
    for dtype, tolerance in (("torch.float64", 1e-12), ("torch.float32", 2e-6)):
        compare(world["norms"][dtype], alone["norms"][dtype], tolerance)


@pytest.mark.parametrize("scorer", SCORERS)
def test_localization_counts_every_example_once(world, alone, scorer):
    found, expected = world["localized"][scorer], alone["localized"][scorer]
    # an error is what remains of a difference of two numbers of its block's size
    for block, value in expected["suspiciousness"].items() if found["errors"] else ():
        bound = 1e-6 * max(abs(value), expected["errors"][block])
        assert found["errors"][block] == pytest.approx(expected["errors"][block], abs=bound), block
    compare(found | {"errors": None}, expected | {"errors": None}, 1e-6)
    assert found["errors"].keys() == expected["errors"].keys()
    if "failing" in found["details"]:
        assert found["details"]["failing"] == world["read"]["failing"], (
            "the model gets all of them wrong"
        )
        read = world["read"]["failing"] + found["details"]["retained_read"]
        assert found["details"]["misclassified"] + found["details"]["correct"] == read


def test_collecting(world, alone):
    wrong = [f"{label}/{i}.png" for label in CONFUSED for i in range(label, COUNTS["unseen"], 10)]
    assert sorted(alone["collected"]) == sorted(wrong) and len(wrong) == 13, (
        "the confused classes, and nothing else"
    )
    assert world["collected"] == alone["collected"] and world["read"] == alone["read"]


def test_training_in_double_precision_is_the_same(world, alone):
    compare(world["double"], alone["double"], 1e-11)


@pytest.mark.parametrize("name", ["plain", "clipped", "anchored", "distilled", *REPAIRS])
def test_training_is_the_same_up_to_rounding(world, alone, name):
    # a bias that has only begun to leave zero is a sum of gradients that were rounded at their size
    compare(world["states"][name], alone["states"][name], 5e-5, smallest=0.01)
    compare(without_alpha(world["histories"][name]), without_alpha(alone["histories"][name]), 5e-5)


def test_the_clipping_and_the_anchor_made_a_difference(alone):
    weights = {
        name: alone["states"][name]["fc.weight"] for name in ("plain", "clipped", "anchored")
    }
    for name in ("clipped", "anchored"):
        assert (weights[name] - weights["plain"]).abs().max() > 1e-3 * weights["plain"].abs().max()


def test_the_search_finds_the_same_architecture(world, alone):
    compare(world["search"]["state"], alone["search"]["state"], 5e-5)
    compare(
        without_alpha(world["search"]["history"]), without_alpha(alone["search"]["history"]), 5e-5
    )
    assert (
        world["search"]["genotype"] == alone["search"]["genotype"]
        and alone["search"]["genotype"]["edges"]
    )


@pytest.mark.parametrize("name", REPAIRS)
def test_repairs_are_the_same(world, alone, name):
    assert world[name] == alone[name]
    assert bool(alone[name]["genotypes"]) == (name in ("archrepair", "replacing", "cached"))


@pytest.mark.parametrize("method", ["birdnn_retrain", "birdnn_finetune", "linear_program"])
def test_repairs_of_properties_are_the_same(world, alone, method):
    found, expected = (each["properties"][method] for each in (world, alone))
    compare(found, expected, 5e-5)
    first, second = expected["told"]
    assert first["before"]["violations"] > first["after"]["violations"]
    assert second["before"]["violations"] == 0


def test_recalibration_averages_over_whole_batches(world, alone):
    compare(world["recalibrated"], alone["recalibrated"], 5e-5)


def test_bfloat16(world, alone):
    losses = [[row["loss"] for row in each["histories"]["half"]] for each in (world, alone)]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_errors_are_raised_by_all_processes(world, alone):
    assert "nan" in world["NaN"] and "lower learning_rate" in world["NaN"] and "nan" in alone["NaN"]
    assert "batch_size" in world["few"] and f"{world['processes']} processes" in world["few"]


def test_one_report_by_the_script(world, folder):
    if world["processes"] == 2:
        assert world["output"].count("Saved to") == world["output"].count("Cost of the repair") == 1
        assert {"config.json", "model.safetensors", "repair.json", "README.md"} <= {
            path.name for path in (folder / "out").iterdir()
        }
        assert not [path.name for path in (folder / "out").iterdir() if path.name.startswith(".")]


# ---- one process: what is refused, and trackers


class Stub(Accelerator):
    """As much of an Accelerator as is looked at before it is refused."""

    distributed_type = mixed_precision = device = None  # pyright: ignore
    gradient_accumulation_steps = num_processes = None  # pyright: ignore

    def __init__(self, **options):
        self.__dict__ |= {"distributed_type": DistributedType.NO, "mixed_precision": "no", "device": torch.device("cpu"),
                          "gradient_accumulation_steps": 1, "num_processes": 1} | options  # fmt: skip


@pytest.mark.parametrize(("options", "said"), [
    *(({"distributed_type": kind}, f"under {kind.value}.*without that plugin")
      for kind in (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)),
    ({"gradient_accumulation_steps": 64, "num_processes": 4}, "batch_size=128 is less than the 4 processes x 64 accumulated parts"),
    ({"mixed_precision": "fp16"}, "fp16.*needs a GPU"),
])  # fmt: skip
def test_what_is_refused(options, said):
    with pytest.raises(OptionError, match=said):
        timm_repair.repair("no model is loaded", "nor data", accelerator=Stub(**options))


@pytest.mark.parametrize("options", [{"distributed_type": kind} for kind in (DistributedType.MULTI_GPU, DistributedType.MULTI_CPU)]
                         + [{"mixed_precision": "fp16", "device": torch.device("cuda")}, {"mixed_precision": "bf16"},
                            {"gradient_accumulation_steps": 4}])  # fmt: skip
def test_what_is_not(options):
    Runtime(Stub(**options))


def test_what_accelerate_itself_refuses():
    with pytest.raises(OptionError, match="accelerate refuses.*Choose between"):
        make_accelerator(log_with="paper")


class Memory(GeneralTracker):
    """Keeps what it is given."""

    name, requires_logging_directory, tracker = "memory", False, None
    rows: ClassVar[list] = []

    def __init__(self, run_name: str = "", **_):
        super().__init__()

    def store_init_configuration(self, values: dict) -> None:
        pass

    def log(self, values: dict, step: int | None = None, **_) -> None:
        self.rows.append((step, values))


def expected_rows(history: list[dict]) -> list[tuple]:
    kept = ("loss", "lr", "objective", "architecture")
    return [
        (i, {f"{row['stage']}/{name}": row[name] for name in kept if name in row})
        for i, row in enumerate(history)
    ]


@pytest.mark.filterwarnings("ignore::timm_repair.NoEffectWarning")  # every row is told all the same
def test_trackers_get_every_row(folder, monkeypatch):
    monkeypatch.setattr(Memory, "rows", [])
    accelerator = Accelerator(cpu=True, log_with=Memory())
    accelerator.init_trackers("test")
    repaired = timm_repair.repair(f"local-dir:{folder / 'model'}", str(folder / "failures"), retain=str(folder / "train"), block="layer3",
                                  steps=8, batch_size=16, evaluations=1, max_latency=None, accelerator=accelerator, progress=False, diagnose=False)  # fmt: skip
    assert Memory.rows == expected_rows(repaired.report.history)
    assert {next(iter(values)) for _, values in Memory.rows} == {"search/loss", "finetune/loss"}


def test_rows_of_an_earlier_run_are_counted_but_not_logged(monkeypatch):
    monkeypatch.setattr(Memory, "rows", [])
    accelerator = Accelerator(cpu=True, log_with=Memory())
    accelerator.init_trackers("test")
    runtime = Runtime(accelerator)
    runtime.skip_logged(3)
    runtime.skip_logged(0)
    runtime.log({"stage": "search", "step": 3, "loss": 1.0})
    assert Memory.rows == [(3, {"search/loss": 1.0})]


def test_a_tracker_from_the_command_line(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Memory, "rows", [])
    # under a name that accelerate has: not every version takes new ones
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "tensorboard", Memory)
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: [LoggerType.TENSORBOARD])
    command = ["repair", f"--model=local-dir:{folder / 'model'}", f"--failures={folder / 'failures'}", f"--output={tmp_path / 'out'}",
               "--method=finetune", "--no-diagnosis", "--set=steps=3", "--set=batch_size=8"]  # fmt: skip
    assert cli.main([*command, "--log-with=tensorboard"]) == 0
    assert Memory.rows == expected_rows(read_report(tmp_path / "out" / "repair.json").history)
    if not find_spec("wandb"):
        assert cli.main([*command, "--log-with=wandb", "--overwrite"]) == 2
        assert "not installed" in capsys.readouterr().err
