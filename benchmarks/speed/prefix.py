"""What a step of a block's repair costs, as ratio to a step of whole-network fine-tuning, beside
what its FLOPs allow.

    python -m benchmarks.speed.prefix  # all models; about half an hour on two cores
    python -m benchmarks.speed.prefix --models resnet18 --blocks layer4

For each block: a step of fine-tuning it with and without the prefix cache, and a pair of search
steps (architecture, weights), each divided by a step of fine-tuning the whole network that was
measured right before and after it. Weights and images are random: neither changes what a step
costs. The bound counts FLOPs of convolutions and linear layers: 3 F - F_first for the whole
network, F_prefix + 3 F_block + 2 F_suffix without and 3 F_block + 2 F_suffix with the cache; 5
F_relaxed + 4 F_suffix for a pair of the search, where F_relaxed counts the added paths too.
`predicted` is what the cost model that decides about caching expects of a cached step, relative to
one that is not. What is in the result file is not measured again. Writes
benchmarks/results/prefix.json.
"""

import argparse
import json
from collections.abc import Callable
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import timm
import torch
from accelerate import Accelerator
from PIL import Image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.speed.timing import seconds
from timm_repair.architecture import strategies
from timm_repair.architecture.relaxation import RelaxedBlock, relax
from timm_repair.architecture.search import search
from timm_repair.architecture.skeleton import skeleton_of
from timm_repair.data.repair_data import RepairData
from timm_repair.images.preprocessing import Preprocessing
from timm_repair.images.sources import as_images
from timm_repair.models.block import Block
from timm_repair.models.entering import Place
from timm_repair.models.partition import blocks
from timm_repair.models.surgery import extract, swap
from timm_repair.models.temporary import only_trainable, training_mode
from timm_repair.models.tracing import trace
from timm_repair.models.weights import names_in, part_of
from timm_repair.pipeline.case import versions
from timm_repair.runtime.batch_norms import sharded
from timm_repair.runtime.runtime import Runtime
from timm_repair.training.batches import Batches
from timm_repair.training.descent import Descent
from timm_repair.training.job import Job
from timm_repair.training.losses import batch_losses
from timm_repair.training.options import Training
from timm_repair.training.prefix.costs import BYTE_FLOPS, Costs
from timm_repair.training.prefix.forward import Forward

RESULT = Path(__file__).parents[1] / "results" / "prefix.json"
# stages, and of DenseNet-121 two of the paper's blocks from its last third
MODELS = {
    "resnet18": (),
    "resnet50": (),
    "vgg16_bn": (),
    "efficientnet_b0": (),
    "densenet121": (
        "features.denseblock3.denselayer23-denselayer24",
        "features.denseblock4.denselayer15-denselayer16",
    ),
}
# after a ResNet's name: a 3x3 convolution and no pooling at its start, images of 32 pixels
CIFAR = "_cifar_stem"


@dataclass(frozen=True)
class Case:
    model: nn.Module
    data: RepairData
    options: Training
    runtime: Runtime

    def job(self, model: nn.Module) -> Job:
        return Job(model, self.data, self.options, self.runtime)

    def copy(self) -> nn.Module:
        return deepcopy(self.model).to(memory_format=torch.channels_last)


def make_case(name: str, batch_size: int, precision: str) -> Case:
    model = timm.create_model(name.removesuffix(CIFAR), num_classes=10)
    side = 224
    if name.endswith(CIFAR):
        model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        model.maxpool = nn.Identity()
        side = 32
        model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (3, 32, 32), "crop_pct": 1.0}
    pixels = torch.randint(256, (2 * batch_size, side, side, 3), dtype=torch.uint8).numpy()
    pairs = [(Image.fromarray(image), i % 10) for i, image in enumerate(pixels)]
    failing, retained = (
        as_images(part, model) for part in (pairs[:batch_size], pairs[batch_size:])
    )
    data = RepairData(failing, retained, {}, {}, Preprocessing.of(model), 10, None, None, {})
    options = Training(
        batch_size=batch_size,
        views=1,
        cache="always",
        learning_rate=1e-4,
        cache_memory=8.0,
        steps=10_000,
    )
    return Case(
        model.eval(), data, options, Runtime(Accelerator(mixed_precision=precision), progress=False)
    )


def step_of(case: Case, model: nn.Module, part: nn.Module, forward: Forward) -> Callable[[], None]:
    """One step of fine-tuning `part`, on data that were read before. The model stays prepared for
    it, as within a loop of steps.
    """
    batches = Batches(case.data, case.options, case.runtime, "step")
    descent = Descent(part.parameters(), case.options, case.runtime)
    prepared = ExitStack()
    for each in (
        only_trainable(model, names_in(model, part)),
        training_mode(model, part),
        sharded(part, case.runtime, "step"),
    ):
        prepared.enter_context(each)
    # which would be undone if nobody held it
    return lambda prepared=prepared: descent.step(batch_losses(batches, forward))


def relaxed_in(case: Case, model: nn.Module, block: Block) -> RelaxedBlock:
    """The block, made ready for a search, in its place in `model`."""
    strategy = strategies.named("pc_darts", warmup=0.0)
    raw = extract(model, block)
    relaxed = relax(
        raw,
        skeleton_of(raw, block.in_shape, partial=strategy.partial),
        strategy,
        case.runtime.generator("architecture"),
    )
    swap(model, block, relaxed)
    return relaxed


def pair_of(case: Case, block: Block) -> Callable[[], None]:
    """Two steps of a search, one for the architecture and one for the weights."""
    model = case.copy()
    forward = case.job(model).forward(part_of(model, block))
    relaxed = relaxed_in(case, model, block)
    return lambda: search(case.job(model), [relaxed], steps=2, forward=forward)


def ratios(
    works: dict[str, Callable[[], None]], whole: Callable[[], None], repeats: int
) -> dict[str, dict]:
    """Each work's time over the mean of the two whole-network steps around it."""
    for work in (whole, *works.values()):  # caches are filled, kernels chosen
        work()
        work()
    found, before = {name: [] for name in works}, seconds(whole)
    for _ in range(repeats):
        for name, work in works.items():
            time, after = seconds(work), seconds(whole)
            found[name].append(2 * time / (before + after))
            before = after
    return {
        name: {"ratio": median(values), "min": min(values), "max": max(values)}
        for name, values in found.items()
    }


def measure_block(case: Case, block: Block, repeats: int) -> dict:
    models = [case.copy() for _ in range(3)]
    parts = [models[0], *(part_of(model, block) for model in models[1:])]
    forwards = [case.job(model).forward() for model in models[:2]]
    forwards.append(case.job(models[2]).forward(parts[2]))
    whole, plain, cached = (
        step_of(case, model, part, each)
        for model, part, each in zip(models, parts, forwards, strict=True)
    )
    return ratios(
        {"plain": plain, "cached": cached, "search_pair": pair_of(case, block)}, whole, repeats
    ) | {"repeats": repeats, "batch_size": case.options.batch_size}


@torch.no_grad()
def flops(case: Case, model: nn.Module) -> int:
    """Of one image's forward pass."""
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, *case.data.preprocessing.input_size))
    return counter.get_total_flops()


def derived(case: Case, block: Block, measured: dict) -> dict:
    """The row of a block: what was measured, beside what its FLOPs allow and what the cost model
    expects.
    """
    model, total = case.copy(), flops(case, case.model)
    cache = case.job(model).forward(part_of(model, block))
    calls = trace(case.model)
    prefix = Place.at(block.paths[0], calls).flops
    kept = torch.Size(cache.layout.shape).numel() * cache.layout.kept.itemsize if cache.kept else 0
    costs = Costs(prefix, block.flops, total - prefix - block.flops, kept)
    relaxed_in(case, model, block)
    added = flops(case, model) - total
    first = next(
        calls[name][0].flops
        for name, module in case.model.named_modules()
        if isinstance(module, nn.Conv2d)
    )
    full = 3 * total - first
    bounds = {
        "plain": (costs.prefix + costs.step) / full,
        "cached": costs.step / full,
        "search_pair": (5 * (costs.part + added) + 4 * costs.suffix) / full,
    }
    row = {
        name: measured[name] | {"bound": bound, "over_bound": measured[name]["ratio"] / bound}
        for name, bound in bounds.items()
    }
    predicted = (
        (costs.step + costs.bytes * BYTE_FLOPS) / (costs.step + costs.prefix) if kept else 1.0
    )
    return {
        "flops_share": block.flops / total,
        "relaxed_flops": 1 + added / block.flops,
        "kept": bool(cache.kept),
        "repeats": measured["repeats"],
        "batch_size": measured["batch_size"],
        **row,
        "cached_over_plain": {
            "predicted": predicted,
            "measured": measured["cached"]["ratio"] / measured["plain"]["ratio"],
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--models", nargs="+", default=[*MODELS, "resnet18" + CIFAR, "resnet50" + CIFAR]
    )
    parser.add_argument("--blocks", nargs="+", help="only these")
    parser.add_argument(
        "--batch-size", type=int, default=8, help="four times as many images of 32 pixels"
    )
    parser.add_argument("--precision", default="no")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    result = (
        json.loads(arguments.output.read_text()) if arguments.output.is_file() else {"rows": []}
    )
    for name in arguments.models:
        case = make_case(
            name, arguments.batch_size * (4 if name.endswith(CIFAR) else 1), arguments.precision
        )
        pairs = (
            {block.name: block for block in blocks(case.model, granularity="pair")}
            if MODELS.get(name)
            else {}
        )
        chosen = [block for block in blocks(case.model) if block.repairable] + [
            pairs[block] for block in MODELS.get(name, ())
        ]
        for block in chosen:
            if arguments.blocks and block.name not in arguments.blocks:
                continue
            key = {"model": name, "block": block.name}
            old = next((row for row in result["rows"] if key.items() <= row.items()), None)
            row = key | derived(case, block, old or measure_block(case, block, arguments.repeats))
            print(json.dumps(row), flush=True)
            result["rows"] = [row if each is old else each for each in result["rows"]] + (
                [] if old else [row]
            )
            result |= {
                "threads": torch.get_num_threads(),
                "device": case.runtime.device.type,
                "precision": arguments.precision,
                "versions": versions(),
            }
            arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
