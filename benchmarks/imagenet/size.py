r"""What a repair of a ResNet-50 at 224 pixels costs with 5,000 failures and 1.28 million retained
images: what can be measured without them.

    OMP_NUM_THREADS=1 python -m benchmarks.imagenet.size  # ten minutes on one core, 3 GiB
    python -m benchmarks.imagenet.size \
        --only counts steps  # some parts again, the others are kept

With one thread seconds are those of the processor, which other work on the machine hardly
lengthens; with several those of the wall.

Weights and images are random: neither changes what a step costs. Four parts, each written to
benchmarks/results/imagenet_size.json:

- reading: seconds and memory that so many retained examples take in `as_images` and `prepare`, each
  count in a process of its own. They are rows of a parquet file whose images are tiny (retained
  images are not decoded there) and few failures, so that these do not count.
- counts: how many images archrepair runs in each stage with its defaults, and decodes. Counted by
  hooks, in whole runs with all 1.28 million examples, of a tiny ResNet on made-up images of 32
  pixels: the numbers depend on the options and on how many examples there are. The one decision
  that depends on the model, what the prefix cache keeps, is taken with ResNet-50's FLOPs and bytes
  (bf16).
- steps: FLOPs, seconds and bytes kept for the backward pass (float32), per image, of each kind of
  pass through a ResNet-50, from short repairs at batch size 8. FLOPs are counted forward and
  backward, operation by operation, by torch's formulas for convolutions and linear layers.
- decode: milliseconds to decode a JPEG of 500x375 pixels to 224 on one core.

costs.py extrapolates from these, with assumptions named there, and table.py writes that
into docs/processes.md.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from time import perf_counter
from unittest import mock

import numpy as np
import timm
import torch
from accelerate import Accelerator
from torch import nn

from benchmarks.imagenet.meter import Meter, Metered
from benchmarks.imagenet.reading import decode, reading
from timm_repair.data.predicting import predict
from timm_repair.data.preparing import prepare
from timm_repair.data.repair_data import RepairData
from timm_repair.images.images import Images
from timm_repair.images.pool import CACHE_BYTES, Pool
from timm_repair.images.preprocessing import Preprocessing
from timm_repair.localization.scorers.rgn import rgn
from timm_repair.localization.scores import BlockScores
from timm_repair.methods import named
from timm_repair.models.entering import Place
from timm_repair.models.partition import blocks
from timm_repair.models.tracing import trace
from timm_repair.pipeline import case
from timm_repair.pipeline.measuring import measure
from timm_repair.runtime.runtime import Runtime
from timm_repair.training.job import Job
from timm_repair.training.populations import Populations
from timm_repair.training.prefix import forward as forward_module
from timm_repair.training.prefix.costs import Costs, demands, worthwhile

RESULT = Path(__file__).parents[1] / "results" / "imagenet_size.json"
FAILURES, RETAINED, BLOCKS, VIEWS = 5_000, 1_281_167, ("layer1", "layer4"), (None, 4)
# nothing pays to be kept before layer1
MEASURED = [("layer1", "never"), ("layer4", "never"), ("layer4", "always")]
BATCH = 8
SIDE = 32  # of the tiny model's images


class Made:
    """Reader of made-up images, which counts them."""

    def __init__(self, key: str, side: int):
        self.key, self.side, self.read_by = key, side, defaultdict(int)
        self.meter: Meter | None = None

    def read(self, rows: list[int]) -> list[np.ndarray]:
        if self.meter:
            self.read_by[self.meter.stage] += len(rows)
        seed = len(self.key)
        return [
            np.random.default_rng((seed, row)).integers(
                256, size=(self.side, self.side, 3), dtype=np.uint8
            )
            for row in rows
        ]


def made(key: str, count: int, model: nn.Module, runtime: Runtime | None = None) -> Images:
    """So many images with labels; those that the model gets wrong if there is a runtime to ask it.
    The cache holds as many as it does at 224 pixels.
    """
    preprocessing = Preprocessing.of(model)
    side, labels = preprocessing.input_size[1], torch.arange(count) % model.num_classes
    pool = Pool(Made(key, side), range(count), preprocessing, CACHE_BYTES * side**2 // 224**2)
    images = Images(pool, torch.arange(count), labels, name=key)
    if runtime is not None:
        images.labels = (
            predict(model, images, preprocessing, runtime).predictions + 1
        ) % model.num_classes
        pool.cache = pool.slot = None  # nothing was decoded yet
    return images


def whole_run(
    model: nn.Module, failures: Images, retained: Images, runtime: Metered, **options: object
) -> tuple[RepairData, list[dict]]:
    """archrepair as `repair` runs it: its data, and the passes through the model."""
    meter = runtime.meter
    for images in (failures, retained):
        images.pool.reader.meter = meter
    with meter.attached(model):
        with runtime.stage("prepare"):
            data = prepare(model, failures, retain=retained, runtime=runtime)
        with runtime.stage("evaluate"):
            measure(model, data, runtime)
        outcome = named("archrepair", **options).repair(model, data, runtime)
        with runtime.stage("evaluate"):
            measure(model, data, runtime)
    architecture = [
        bool(row.get("architecture")) for row in outcome.history if row["stage"] == "search"
    ]
    steps = [
        each
        for each in meter.passes
        if each["stage"] == "search" and each["kind"].startswith("step")
    ]
    for each, is_architecture in zip(steps, architecture, strict=True):
        each["kind"] += ", architecture" * is_architecture
    return data, meter.passes


def preferring(block: str) -> Callable:
    """The default score, but the worst block is `block`."""

    def score(job: Job, candidates: list) -> BlockScores:
        found = rgn(job, candidates)
        return replace(
            found, suspiciousness={name: float(name == block) for name in found.suspiciousness}
        )

    return score


def costs_of(model: nn.Module, block: str) -> Costs:
    """What the prefix cache decides by, with maps in bf16."""
    found, calls = next(b for b in blocks(model) if b.name == block), trace(model)
    prefix = Place.at(found.paths[0], calls).flops
    return Costs(
        prefix,
        found.flops,
        calls[""][0].flops - prefix - found.flops,
        2 * int(np.prod(found.in_shape)),
    )


def count(block: str, views: int | None) -> dict:
    """Images by stage and kind of pass, decoded images by stage and source, and what the prefix
    cache keeps.
    """
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=1000).eval()
    model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (3, SIDE, SIDE), "crop_pct": 1.0}
    runtime = Metered(Accelerator(cpu=True), progress=False, meter=Meter())
    failures = made("failures", FAILURES, model, runtime)
    retained = made("retained", RETAINED, model)
    costs = costs_of(timm.create_model("resnet50"), block)
    with mock.patch.object(forward_module, "Costs", lambda *_: costs):
        data, passes = whole_run(
            model, failures, retained, runtime, score=preferring(block), views=views
        )
    options = named("archrepair", views=views).training
    wanted = demands(Populations(data, options, runtime), data, options, costs)
    kept = worthwhile(
        wanted, costs, round((options.caching.cache_memory + options.caching.cache_disk) * 2**30)
    )
    counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for each in passes:
        counts[each["stage"]][each["kind"]] += each["images"]
    return {
        "block": block,
        "views": views,
        "counts": counts,
        "decoded": {i.name: i.pool.reader.read_by for i in (failures, retained)},
        "trained_on": len(data.failing),
        "kept": kept,
        "cost_model": asdict(costs),
        "cache_bytes": sum(kept[d.name] * d.views * costs.bytes for d in wanted if d.name in kept),
    }


def step_costs(block: str, cache: str, batch_size: int) -> list[dict]:
    """Per image of each kind of pass: FLOPs, median seconds, bytes kept for the backward pass; and
    what is trained.
    """
    model = timm.create_model("resnet50").eval().to(memory_format=torch.channels_last)
    runtime = Metered(
        Accelerator(cpu=True),
        progress=False,
        eval_batch_size=4 * batch_size,
        meter=Meter(details=True),
    )
    failures = made("failures", 4 * batch_size, model, runtime)
    retained = made("retained", 8 * batch_size, model)
    _, passes = whole_run(
        model,
        failures,
        retained,
        runtime,
        score=preferring(block),
        steps=12,
        batch_size=batch_size,
        evaluations=1,
        recalibration=2,
        cache=cache,
        views=1 if cache == "always" else None,
    )
    groups = defaultdict(list)
    for each in passes:
        # not the single images of which the latency is taken, nor what is left over
        if each["images"] >= batch_size // 2:
            groups[each["stage"], each["kind"]].append(each)
    return [
        {
            "block": block,
            "batch_size": batch_size,
            "stage": stage,
            "kind": kind,
            "passes": len(group),
            "flops": median(g["flops"] / g["images"] for g in group),
            "seconds": median(g["seconds"] / g["images"] for g in group),
            "saved_bytes": max(g["saved"] / g["images"] for g in group),
            "trained": max(g["trained"] for g in group),
        }
        for (stage, kind), group in groups.items()
    ]


PARTS = {
    "decode": decode,
    "counts": lambda: [count(block, views) for block in BLOCKS for views in VIEWS],
    "steps": lambda: [row for block, cache in MEASURED for row in step_costs(block, cache, BATCH)],
    "reading": lambda: [reading(RETAINED // 10), reading(RETAINED)],
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    arguments = parser.parse_args()
    result = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    for part in arguments.only:
        start = perf_counter()
        result[part] = PARTS[part]()
        print(part, f"{perf_counter() - start:.0f} s", flush=True)
        result |= {
            "benchmark": "imagenet_size",
            "model": "resnet50",
            "failures": FAILURES,
            "retained": RETAINED,
            "weights": sum(p.numel() for p in timm.create_model("resnet50").parameters()),
            "threads": torch.get_num_threads(),
            "versions": case.versions(),
        }
        RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
