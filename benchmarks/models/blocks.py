"""Cut every model of timm into blocks and check what comes out; nothing is computed, no weights
are needed.

    python -m benchmarks.models.blocks  # all models, about a quarter of an hour on one core
    python -m benchmarks.models.blocks --resume  # go on after an interruption
    python -m benchmarks.models.blocks --only 'resnet*'  # a few of them; the others' rows stay

Writes benchmarks/results/blocks.json. A row gives, for each granularity, `[blocks of the body,
repairable ones]`, with the reasons where these differ, or only the reason why no block can be
repaired. Exits with 1 if a model breaks a rule of `violations`.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterable
from fnmatch import fnmatch
from itertools import chain, pairwise
from multiprocessing import Pool
from pathlib import Path

import timm
import torch
from torch import nn
from tqdm import tqdm

from timm_repair.errors import PartitionError
from timm_repair.models.block import Block
from timm_repair.models.partition import blocks_in
from timm_repair.models.tracing import Trace, trace

RESULTS = Path(__file__).parents[1] / "results" / "blocks.json"
GRANULARITIES = ("stage", "unit", "layer")
OUTCOMES = ("all", "some", "none")  # of the body's blocks can be repaired


def module_of(name: str) -> str:
    """The file that timm defines the model in, as "resnet"."""
    return timm.model_entrypoint(name).__module__.removeprefix("timm.models.")


def names(pattern: str = "*") -> list[str]:
    """timm's own models; timm_repair registers one more, which is any of them."""
    return [
        name
        for name in timm.list_models()
        if timm.model_entrypoint(name).__module__.startswith("timm.") and fnmatch(name, pattern)
    ]


def build(name: str) -> nn.Module:
    """The model with neither weights nor memory for them."""
    with torch.device("meta"):
        return timm.create_model(name)


def examine(name: str) -> tuple[str, dict, list[str]]:
    """The name of a model, its row, and the rules that it breaks."""
    model = build(name)
    calls = trace(model)
    row, broken = {"module": module_of(name)}, []
    for granularity in GRANULARITIES:
        try:
            found = blocks_in(model, calls, granularity=granularity)
        except PartitionError as error:
            row[granularity] = why = reason(str(error))
            broken += (
                []
                if why
                else [f"{granularity}: the error does not say why, or not what to pass: {error}"]
            )
        else:
            row[granularity] = summary(found)
            broken += [
                f"{granularity}: {rule}" for rule in violations(model, calls, found, granularity)
            ]
    return name, row, broken


def reason(message: str) -> str:
    """Why no block can be repaired, from the message of the error; "" if that is missing, or what
    to pass instead.
    """
    _, _, rest = message.partition("can be repaired: ")
    why, _, remedy = rest.partition(". ")
    return why if "names=[" in remedy and "granularity=" in remedy else ""


def summary(found: Iterable[Block]) -> list:
    """How many blocks the body has, how many can be repaired, and what the others are."""
    body = [block for block in found if block.role == "body"]
    refused = Counter(block.reason for block in body if block.reason)
    reasons = "; ".join(f"{count} x {why}" for why, count in refused.items())
    return [len(body), len(body) - refused.total(), *([reasons] if reasons else [])]


def violations(
    model: nn.Module, calls: Trace, found: tuple[Block, ...], granularity: str
) -> list[str]:
    """What is wrong with a partition; nothing, one hopes."""
    owned = Counter(chain.from_iterable(block.parameters for block in found))
    broken = [f"{name} is in {times} blocks" for name, times in owned.items() if times > 1]
    if granularity != "layer":  # there norms are in no block
        broken += [
            f"{name} is in no block"
            for name, _ in model.named_parameters()
            if name not in owned and not loose(name, found)
        ]
    once = [block for block in found if all(len(calls.get(path, ())) == 1 for path in block.paths)]
    times = sorted(
        (calls[block.paths[0]][0].start, calls[block.paths[-1]][0].end, block.name)
        for block in once
    )
    broken += [
        f"{b} begins before {a} ends"
        for (_, end, a), (start, _, b) in pairwise(times)
        if start < end
    ]
    repairable = [block for block in found if block.repairable]
    for block in repairable:
        shapes = [shape for shape in (block.in_shape, block.out_shape) if shape is not None]
        if block.maps and len(shapes) < 2:
            broken.append(f"{block.name} has no shapes")
        elif granularity != "layer" and not all(len(shape) in (2, 3, 4) for shape in shapes):
            broken.append(f"{block.name} maps {block.in_shape} to {block.out_shape}")
    called = [block for block in found if not block.reason]
    if called != once and granularity != "layer":
        broken += [
            f"{block.name} is not called once, but without a reason"
            for block in called
            if block not in once
        ]
    again = blocks_in(
        model, calls, granularity=granularity, names=[block.name for block in repairable]
    )
    if [(block.paths, block.parameters) for block in again] != [
        (block.paths, block.parameters) for block in repairable
    ]:
        broken.append("the blocks' names lead to other blocks")
    return broken


def loose(parameter: str, found: Iterable[Block]) -> bool:
    """Whether it is held by a module that blocks are inside of, as position embeddings are: no
    block could own it.
    """
    holder = parameter.rpartition(".")[0]
    return any(
        not holder or path.startswith(f"{holder}.") for block in found for path in block.paths
    )


def outcome(cell: list | str) -> str:
    """How much of a body can be repaired."""
    return "none" if isinstance(cell, str) else "all" if cell[0] == cell[1] else "some"


def totals(rows: dict[str, dict]) -> dict:
    """How many models there are of each outcome: by granularity, by timm's files, and what stands
    in the way.
    """
    count = {name: Counter(outcome(row[name]) for row in rows.values()) for name in GRANULARITIES}
    files: dict[str, Counter] = {}
    for row in rows.values():
        files.setdefault(row["module"], Counter())[outcome(row["stage"])] += 1
    refused = (row["stage"] for row in rows.values() if isinstance(row["stage"], str))
    # what most blocks are
    why = Counter(reasons.split("; ")[0].partition(" x ")[2] or reasons for reasons in refused)
    return {
        "models": len(rows),
        **{name: {each: count[name][each] for each in OUTCOMES} for name in GRANULARITIES},
        "none at stage": dict(why.most_common()),
        "modules": {
            name: {each: n for each, n in files[name].items() if n} for name in sorted(files)
        },
    }


def write(path: Path, rows: dict[str, dict]) -> None:
    """One line for each model, so that a change of one shows as such."""
    head = {"versions": {"timm": timm.__version__}, "totals": totals(rows)}
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(rows[name])}" for name in sorted(rows))
    path.write_text(json.dumps(head, indent=1)[:-2] + ',\n "models": {\n' + lines + "\n }\n}\n")


def main() -> None:
    """Examine the models asked for, and write as one goes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", default="*", metavar="PATTERN", help="models to examine, as 'resnet*'"
    )
    parser.add_argument("--resume", action="store_true", help="leave out models that have a row")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    before = json.loads(arguments.output.read_text())["models"] if arguments.output.exists() else {}
    known = set(names())
    rows = {name: row for name, row in before.items() if name in known}
    todo = [name for name in names(arguments.only) if not (arguments.resume and name in rows)]
    failed = False
    try:
        with Pool(arguments.jobs, torch.set_num_threads, (1,), maxtasksperchild=100) as pool:
            for i, (name, row, broken) in enumerate(
                tqdm(pool.imap_unordered(examine, todo), total=len(todo), unit="model")
            ):
                rows[name] = row
                for rule in broken:
                    failed = True
                    tqdm.write(f"{name}: {rule}")
                if i % 20 == 19:
                    write(arguments.output, rows)
    finally:  # also when interrupted
        write(arguments.output, rows)
    print(json.dumps(totals(rows), indent=1))
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
