"""What every process of a world does for processes/test_exact.py: all that must not depend on how many processes there are.

    torchrun --nproc_per_node N tests/processes/world.py FOLDER

FOLDER holds the model and image folders; the main process adds found.pt. The test itself calls `found_in` as the world of one.
"""

import hashlib
import itertools
import runpy
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests, as pytest has them

import networks
import planted
import timm
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import gather_object
from timm.layers import BatchNormAct2d
from torch import nn

import timm_repair
from timm_repair.architecture import strategies
from timm_repair.architecture.relaxation import discretize, relax
from timm_repair.architecture.search import search
from timm_repair.architecture.skeleton import skeleton_of
from timm_repair.data.collecting import collect_failures
from timm_repair.data.preparing import prepare
from timm_repair.data.repair_data import RepairData
from timm_repair.errors import NoEffectWarning, NonFiniteError, OptionError
from timm_repair.localization.localizing import localize
from timm_repair.localization.scorers import SCORERS
from timm_repair.models.partition import blocks
from timm_repair.models.surgery import extract, swap
from timm_repair.models.temporary import training_mode
from timm_repair.properties.property import Property
from timm_repair.properties.sampling import Sampling
from timm_repair.runtime.batch_norms import sharded
from timm_repair.runtime.randomness import own_randomness
from timm_repair.runtime.runtime import Runtime
from timm_repair.training.batches import Batches
from timm_repair.training.descent import Descent
from timm_repair.training.distilling import FeatureDistillation
from timm_repair.training.job import Job
from timm_repair.training.loop import fit
from timm_repair.training.losses import Losses, anchor_penalty, batch_losses
from timm_repair.training.options import Training
from timm_repair.training.pace import Pace
from timm_repair.training.recalibration import recalibrate

STEPS = 20
# 15: uneven on two and on four; at higher rates a rounding difference grows a thousandfold in 20 steps, on any number of processes
PLAIN = {"steps": STEPS, "batch_size": 15, "evaluations": 1, "learning_rate": 0.002}
SEARCH = {"block": "layer3", "search_share": 0.5, "max_latency": None}
REPAIRS = {
    "archrepair": SEARCH, "replacing": SEARCH | {"mode": "replace"}, "finetune": {"method": "finetune", "level": "network", "hflip": 0.0, "shift": 0.0, "diagnose": True},
    # smooth, and few enough steps that a rounding difference stays one
    "birdnn_retrain": {"method": "birdnn_retrain", "imitate": "layers", "hflip": 0.0, "shift": 0.0},
    "birdnn_finetune": {"method": "birdnn_finetune", "particles": 4, "examples": 30, "steps": 5},
    "linear_program": {"method": "linear_program"},
    "sensei": {"method": "sensei", "hflip": 0.0, "shift": 0.0, "steps": 6, "rotation": 6.0, "translation": 0.03, "shear": 0.02},
    "deep_repair": {"method": "deep_repair", "hflip": 0.0, "shift": 0.0, "steps": 6},
    "arachne": {"method": "arachne", "population": 5, "examples": 30, "steps": 3},
    "care": {"method": "care", "neurons": 3, "particles": 4, "examples": 30, "steps": 3},
    "neu_recover": {"method": "neu_recover", "population": 5, "examples": 30, "steps": 3},
    "random_weights": {"method": "random_weights", "candidates": 4, "examples": 30, "steps": 3},
    "bn_recalibration": {"method": "bn_recalibration"},
    "by the clock": {"method": "finetune", "hflip": 0.0, "shift": 0.0, "seconds": STEPS / 2},
    **{
        name: {"method": name, "hflip": 0.0, "shift": 0.0, "steps": 6} | options
        for name, options in {
            "few_shot_mix": {}, "random_block": {}, "auto_rgn": {}, "wise_ft": {"grid": 2, "recalibration": 2},
            "surgical": {"steps": 20}, "mode": {"rounds": 2}, "apricot": {"steps": 12, "reduced": 2, "adjustments": 2},
        }.items()
    },
    "cached": SEARCH | {"views": 2, "cache": "always", "cache_memory": 1e-4, "cache_disk": 1e-4},  # GiB: not everything fits
}  # fmt: skip
NORMS = {
    "momentum": (nn.BatchNorm2d, {}), "cumulative": (nn.BatchNorm2d, {"momentum": None}), "bare": (nn.BatchNorm2d, {"affine": False}),
    "untracked": (nn.BatchNorm2d, {"track_running_stats": False}), "activated": (BatchNormAct2d, {}), "flat": (nn.BatchNorm1d, {}),
}  # fmt: skip


def norms(runtime: Runtime, dtype: torch.dtype) -> dict:
    """Outputs, gradients and buffers of every kind of batch norm, over two batches of 13 examples."""
    accelerator, found = runtime.accelerator, {}
    mine = slice(accelerator.process_index, None, accelerator.num_processes)
    for name, (kind, options) in NORMS.items():
        torch.manual_seed(0)
        module = kind(6, **options).to(dtype).train()
        for parameter in module.parameters():
            nn.init.normal_(parameter)
        for number in range(2):
            x = torch.randn(13, 6, *([] if name == "flat" else [5, 4]), dtype=dtype) * 3 + 20
            towards = torch.randn_like(x)[mine]
            x = x[mine].clone().requires_grad_()
            with sharded(module, runtime, "norms"):
                out = module(x)
                (out * towards).sum().backward()
            parts = gather_object([(out.detach(), x.grad)])
            whole = [torch.empty(13, *x.shape[1:], dtype=dtype) for _ in range(2)]
            for process, pair in enumerate(parts):
                for full, part in zip(whole, pair, strict=True):
                    full[process :: accelerator.num_processes] = part
            found |= {f"{name} output {number}": whole[0], f"{name} gradient {number}": whole[1]}
        found |= {
            f"{name} {key}": accelerator.reduce(p.grad, "sum")
            for key, p in module.named_parameters()
        }
        found |= {f"{name} {key}": buffer.clone() for key, buffer in module.named_buffers()}
        assert "forward" not in vars(module)
    return found


def trained(
    model: nn.Module,
    data: RepairData,
    runtime: Runtime,
    steps: int,
    losses: Losses = batch_losses,
    **options,
) -> tuple[dict, list]:
    """The whole of `model` after so many steps without any choosing, and the history."""
    options = Training(**PLAIN | options)
    batches, parameters = Batches(data, options, runtime, "test"), dict(model.named_parameters())
    forward = Job(model, data, options, runtime).forward()
    origin = {name: p.detach().clone() for name, p in parameters.items()}
    descent = Descent(parameters.values(), options, runtime)

    def step(_: int) -> dict:
        return descent.step(
            losses(batches, forward),
            anchor_penalty(parameters, origin, options.anchor or 0.0),
        )

    with training_mode(model, model), sharded(model, runtime, "test"):
        pace = Pace(options, steps, runtime.accelerator)
        history = fit(step, pace=pace, stage="test", runtime=runtime)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}, history


def distilled(model: nn.Module, data: RepairData, runtime: Runtime) -> tuple[dict, list]:
    """As `trained`, by the distillation of what leaves a block; the pattern changes nothing."""
    data = replace(data, pattern=data.retained)
    block = next(block for block in blocks(model) if block.name == "layer3")
    loss = FeatureDistillation.of(Job(model, data, Training(**PLAIN), runtime), block, 3.0)
    assert loss is not None
    swap(model, block, extract(model, block))
    return trained(model, data, runtime, STEPS, losses=loss)


def searched(model: nn.Module, data: RepairData, runtime: Runtime) -> dict:
    """A block after the search, and what it comes to."""
    block = next(block for block in blocks(model) if block.name == "layer3")
    raw, strategy = (
        extract(model, block),
        strategies.named("pc_darts", warmup=0.1, learning_rate=0.05),
    )
    relaxed = relax(
        raw, skeleton_of(raw, block.in_shape), strategy, runtime.generator("architecture")
    )
    swap(model, block, relaxed)
    history, _ = search(Job(model, data, Training(**PLAIN), runtime), [relaxed], steps=STEPS)
    return {
        "state": relaxed.state_dict(),
        "history": history,
        "genotype": discretize(relaxed).to_dict(),
    }


def with_property(accelerator: Accelerator, method: str, **options) -> dict:
    """The repair of a network with two properties, of which the second is not violated: what its
    report says of them, and the weights.
    """
    unsafe = Property.allowing("unsafe", [0, 0], [1, 1], [1], outputs=2, answer="highest")
    calm = Property.allowing("calm", [0.1, 0], [0.2, 1], [1], outputs=2, answer="highest")
    few = {"violations": 100, "draws": 20_000, "retained": 300, "ascent": 5}
    repaired = timm_repair.repair(
        networks.ramp(),
        [unsafe, calm],
        method=method,
        data=Sampling(**few, epsilon=0.01, eta=0.01),
        accelerator=accelerator,
        progress=False,
        **options,
    )
    told = [
        {name: each[name] for name in ("property", "samples", "before", "after", "drawdown")}
        for each in repaired.report.properties
    ]
    return {"state": repaired.model.state_dict(), "told": told}


def message(error: type[Exception], run) -> str:
    """What `run()` is refused with, on every process."""
    try:
        run()
    except error as raised:
        said = str(raised)
    else:
        raise AssertionError(f"no {error.__name__}")
    assert len(set(gather_object([said]))) == 1
    return said


def properties(accelerator: Accelerator) -> dict:
    """The repairs of a network with properties, by method."""
    plain = PLAIN | {"learning_rate": 0.02}
    return {
        "birdnn_retrain": with_property(accelerator, "birdnn_retrain", **plain),
        "birdnn_finetune": with_property(
            accelerator, "birdnn_finetune", particles=5, examples=50, steps=5
        ),
        "linear_program": with_property(accelerator, "linear_program"),
    }


@contextmanager
def ticking(process: int) -> Iterator[None]:
    """The clock of loops shows a second more whenever it is looked at, ten where it is not the main
    process's.
    """
    clock = SimpleNamespace(perf_counter=itertools.count(step=10 if process else 1).__next__)
    with patch("timm_repair.training.pace.time", clock):
        yield


def repairs(model, **given) -> dict:
    """The repairs of images, by name: state, history, and what else is told."""
    found = {}
    for name, options in REPAIRS.items():
        if name == "neu_recover":  # the classes are exchanged back
            options = options | {"checkpoints": [planted.confused(model()).state_dict()]}
        with warnings.catch_warnings():  # whether few steps change an answer does not matter:
            warnings.simplefilter("ignore", NoEffectWarning)  # every step is compared
            with ticking(given["accelerator"].process_index):
                repaired = timm_repair.repair(model(), **given | PLAIN | options)
        report = repaired.report
        scores = [
            (each.population, each.before.tolist(), each.after.tolist()) for each in report.scores
        ]
        told = {"genotypes": report.genotypes, "scores": scores}
        found[name] = repaired.model.state_dict(), list(report.history), told
    return found


def refusals(model, data: RepairData, runtime: Runtime) -> dict:
    """What is refused, and how."""
    accelerator = runtime.accelerator
    found = {
        "NaN": message(
            NonFiniteError,
            lambda: trained(model(), data, runtime, 20, learning_rate=1e30, clip=1e30),
        )
    }
    if accelerator.num_processes > 1:
        few = {"method": "finetune", "batch_size": accelerator.num_processes - 1}
        found["few"] = message(
            OptionError, lambda: timm_repair.repair("resnet18", "nowhere", **few)
        )
    return found


def found_in(folder: Path) -> dict:
    """Everything, as tensors and plain values."""
    accelerator = Accelerator(cpu=True)
    runtime, found = Runtime(accelerator, progress=False), {"processes": accelerator.num_processes}

    def model(**options) -> nn.Module:
        return timm.create_model(f"local-dir:{folder / 'model'}", pretrained=True, **options).eval()

    places = [str(folder / name) for name in ("failures", "train", "unseen")]
    given = {
        "failures": places[0],
        "retain": places[1],
        "accelerator": accelerator,
        "progress": False,
        "diagnose": False,
    }
    found["norms"] = {str(dtype): norms(runtime, dtype) for dtype in (torch.float64, torch.float32)}

    found["collected"] = collect_failures(model(), places[2], runtime=runtime).ids
    data, found["localized"] = prepare(model(), places[0], retain=places[1], runtime=runtime), {}
    for name in SCORERS:
        result = localize(suspect := model(), blocks(suspect), data, score=name, runtime=runtime)
        found["localized"][name] = result.to_dict() | {"neurons": result.neurons}
    found["read"] = {"failing": len(data.failing), "retained": len(data.retained)}
    found["states"], found["histories"] = {}, {}
    for name, options in {
        "plain": {},
        "clipped": {"clip": 0.05},
        "anchored": {"anchor": 1.0, "shift": 0.0},
    }.items():
        found["states"][name], found["histories"][name] = trained(
            model(), data, runtime, STEPS, **options
        )
    found["states"]["distilled"], found["histories"]["distilled"] = distilled(
        model(), data, runtime
    )
    precise = model().double()
    precise.register_forward_pre_hook(lambda module, inputs: (inputs[0].double(),))
    found["double"] = trained(precise, data, runtime, STEPS, learning_rate=0.02)
    with own_randomness(0):
        found["search"] = searched(model(), data, runtime)
    # dropout of shards of unequal size draws unequally often
    found["dropout"], _ = trained(model(drop_rate=0.3), data, runtime, 2)
    found["random"] = torch.get_rng_state()
    renewed = model()
    recalibrate(Job(renewed, data, Training(**PLAIN), runtime), renewed, batches=3)
    found["recalibrated"] = renewed.state_dict()

    for name, (state, history, told) in repairs(model, holdout=places[2], **given).items():
        found["states"][name], found["histories"][name], found[name] = state, history, told
    found["properties"] = properties(accelerator)
    found |= refusals(model, data, runtime)
    AcceleratorState._reset_state()
    half = Runtime(Accelerator(cpu=True, mixed_precision="bf16"), progress=False)
    found["half"], found["histories"]["half"] = trained(model(), data, half, 5)
    AcceleratorState._reset_state()
    return found


def digest(value) -> str:
    """Of all bits."""
    if isinstance(value, torch.Tensor):
        value = (str(value.dtype), tuple(value.shape), value.contiguous().numpy().tobytes())
    elif isinstance(value, dict):
        value = [(key, digest(each)) for key, each in value.items()]
    elif isinstance(value, list | tuple):
        value = [digest(each) for each in value]
    return hashlib.sha256(repr(value).encode()).hexdigest()


def main() -> None:
    folder = Path(sys.argv[1])
    found = found_in(folder)
    found["digests"] = gather_object([{name: digest(value) for name, value in found.items()}])
    accelerator = Accelerator(cpu=True)
    if accelerator.is_main_process:
        torch.save(found, folder / f"found-{accelerator.num_processes}.pt")
    if accelerator.num_processes > 2:
        return
    given = {
        name: folder / place
        for name, place in (("failures", "failures"), ("retain", "train"), ("output", "out"))
    }
    given["model"] = f"local-dir:{folder / 'model'}"
    sys.argv = [
        "repair.py",
        *(f"--{name}={value}" for name, value in given.items()),
        "--set=steps=4",
        "--set=block=layer3",
    ]
    runpy.run_path(str(Path(__file__).parents[2] / "examples" / "repair.py"), run_name="__main__")


if __name__ == "__main__":
    main()
