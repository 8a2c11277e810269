"""Repair every model of timm for two steps, on images of 64 pixels where it takes them: does it
repair, does it refuse, and with which words, or does a raw error come out?

    python -m benchmarks.models.architectures  # go on where it was left; many hours on one core
    python -m benchmarks.models.architectures --only 'resnet*' 'vit_tiny*' --again  # these anew
    python -m benchmarks.models.architectures --redo raw  # what raised, once it is mended

Writes benchmarks/results/architectures.json. Each model is built at random in a process of its
own, with its failures collected, repaired by each kind of method in turn, saved and loaded back: a
row says how many blocks can be repaired, and of "archrepair" and of "weights" (finetune of a block)
whether they repair, or why not; where both refuse, whether finetune of the network does. A process
that takes more memory or time than is allowed is stopped and its model counted as not run, with the
reason. Exits with 1 if a model raised anything but a RepairError.
"""

import argparse
import json
import os
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from itertools import chain
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import psutil
import timm
import torch
from PIL import Image
from torch import nn
from tqdm import tqdm

import timm_repair
from benchmarks.models.blocks import build, module_of, names
from timm_repair.errors import PartitionError, RepairError, UnexpectedError
from timm_repair.hub import saving

RESULTS = Path(__file__).parents[1] / "results" / "architectures.json"
SIDES, CLASSES, EXAMPLES = (64, 32), 4, 24
OUTCOMES = ("repairs", "refuses", "raw", "not run")
# kind of method -> its name and options
KINDS: dict[str, tuple[str, dict]] = {
    "archrepair": ("archrepair", {"search_share": 0.5, "score": "rgn"}),
    "weights": ("finetune", {"level": "block", "score": "rgn"}),
    "network": ("finetune", {"level": "network"}),
}
BUDGET = {"steps": 2, "batch_size": 4, "evaluations": 1}


def made(name: str) -> nn.Module:
    """The model with random weights, for the smallest images that it takes: `SIDES`, as an argument
    where its constructor has one, or the size that it was made for.
    """
    for side in SIDES:
        config = {"input_size": (3, side, side), "crop_pct": 1.0}
        for arguments in ({"img_size": side}, {}):
            try:
                torch.manual_seed(0)
                model = timm.create_model(
                    name, num_classes=CLASSES, pretrained_cfg_overlay=config, **arguments
                ).eval()
                with torch.no_grad():
                    model(torch.zeros(2, 3, side, side))
                return model
            except Exception:  # noqa: BLE001  timm's models refuse sizes in many ways
                continue
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=CLASSES).eval()


def examples() -> list[tuple[Image.Image, int]]:
    """Noise with labels: most of them are not what a random model answers."""
    noise = np.random.default_rng(0)
    pixels = noise.integers(0, 256, (EXAMPLES, 64, 64, 3), np.uint8)
    return [(Image.fromarray(each), i % CLASSES) for i, each in enumerate(pixels)]


def examine(name: str) -> dict[str, Any]:
    """The row of one model."""
    model = made(name)
    row: dict[str, Any] = {"side": model.pretrained_cfg["input_size"][-1]}
    try:
        row["blocks"] = sum(block.repairable for block in timm_repair.blocks(model))
    except PartitionError:
        row["blocks"] = 0
    failures, refused = timm_repair.collect_failures(model, examples()), None
    for kind in KINDS:
        if kind == "network" and any(
            row[other] == "repairs" for other in ("archrepair", "weights")
        ):
            break
        try:
            repaired(model, failures, kind)
            row[kind] = "repairs"
        except RepairError as error:
            row[kind], refused = f"{type(error).__name__}: {said(error)}", error
    first = next((kind for kind in KINDS if row.get(kind) == "repairs"), None)
    if first is not None:
        return row | {"outcome": "repairs", "method": first}
    return row | {"outcome": "refuses", "error": type(refused).__name__, "words": said(refused)}


def repaired(model: nn.Module, failures: Any, kind: str) -> None:
    """Repair the model by this kind of method, save it, and load it back.

    Raises:
        RepairError: the method refuses. One that was not foreseen is raised as what caused it.
    """
    method, options = KINDS[kind]
    options = BUDGET | options | {"progress": False, "diagnose": False}
    try:
        with tempfile.TemporaryDirectory() as folder:
            timm_repair.repair(model, failures, method=method, output_dir=folder, **options)
            timm_repair.from_pretrained(folder)
    except UnexpectedError as error:
        raise error.__cause__ or error from None


def said(error: BaseException | None) -> str:
    """The first words of an error, in one line."""
    return " ".join(str(error).split())[:300]


def child(name: str, answer: Connection, examine: Callable[[str], dict[str, Any]]) -> None:
    """Examine one model and send its row."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    saving.find_spec = lambda name: None  # no figures: they take longer than all the rest
    try:
        row = examine(name)
    except MemoryError as error:
        row = {"outcome": "not run", "why": f"memory: {said(error)}"}
    except BaseException as error:  # noqa: BLE001  that there is none of these is the claim
        place = [
            f"{Path(frame.filename).name}:{frame.lineno} {frame.name}"
            for frame in traceback.extract_tb(error.__traceback__)
            if "timm_repair" in frame.filename
        ]
        row = {"outcome": "raw", "error": type(error).__name__, "words": said(error)}
        row |= {"at": place[-1] if place else ""}
    answer.send(row)


def watched(
    name: str,
    memory: float,
    seconds: float,
    examine: Callable[[str], dict[str, Any]] = examine,
) -> dict[str, Any]:
    """The row of one model, examined in a process that may take so many GiB and seconds of
    processor time.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(["timm_repair", "benchmarks.models.blocks"])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=child, args=(name, sender, examine))
    process.start()
    sender.close()
    begun, held = monotonic(), psutil.Process(process.pid)
    try:
        while not receiver.poll(0.1):
            if not process.is_alive():
                return {"outcome": "not run", "why": f"its process ended with {process.exitcode}"}
            if sum(held.cpu_times()[:2]) > seconds:
                return {"outcome": "not run", "why": f"more than {seconds:.0f} s"}
            if held.memory_info().rss > memory * 2**30:
                return {"outcome": "not run", "why": f"more than {memory:.0f} GiB"}
        return receiver.recv() | {"seconds": round(monotonic() - begun, 1)}
    except (EOFError, psutil.NoSuchProcess):
        return {"outcome": "not run", "why": "its process was killed"}
    finally:
        process.kill()
        process.join()


def in_turn(wanted: list[str], known: dict[str, int]) -> list[str]:
    """The names: the smallest of each of timm's families, then the next of each, … Their numbers of
    parameters are put into `known`.
    """
    for name in tqdm([name for name in wanted if name not in known], desc="count", unit="model"):
        known[name] = sum(parameter.numel() for parameter in build(name).parameters())
    turn: Counter[str] = Counter()
    ranked = []
    for name in sorted(wanted, key=lambda name: (known[name], name)):
        turn[module_of(name)] += 1
        ranked.append((turn[module_of(name)], known[name], name))
    return [name for *_, name in sorted(ranked)]


def totals(rows: dict[str, dict]) -> dict[str, Any]:
    """How many models there are of each outcome, and the refusals by their kind."""
    count = Counter(row["outcome"] for row in rows.values())
    refusals = Counter(row["error"] for row in rows.values() if row["outcome"] == "refuses")
    kinds = {kind: Counter(row.get(kind) == "repairs" for row in rows.values()) for kind in KINDS}
    return {
        "models": len(rows),
        **{outcome: count[outcome] for outcome in OUTCOMES},
        "repaired by": {kind: kinds[kind][True] for kind in KINDS},
        "refusals": dict(refusals.most_common()),
    }


def write(path: Path, rows: dict[str, dict], parameters: dict[str, int], limits: dict) -> None:
    """One line for each model, also those not reached, so that a change of one shows as such."""
    waiting = {"outcome": "not run", "why": "not reached"}
    every = {name: {"parameters": n} | rows.get(name, waiting) for name, n in parameters.items()}
    write_lines(path, {"limits": limits, "totals": totals(every)}, every)


def write_lines(path: Path, head: dict, rows: dict[str, dict]) -> None:
    """Versions, `head`, and one line for each model."""
    versions = {"timm": timm.__version__, "torch": torch.__version__.partition("+")[0]}
    head = {"versions": versions, **head}
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(rows[name])}" for name in sorted(rows))
    new = path.with_suffix(".new")
    new.write_text(json.dumps(head, indent=1)[:-2] + ',\n "models": {\n' + lines + "\n }\n}\n")
    os.replace(new, path)


def main() -> None:
    """Examine the models asked for, and write as one goes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=["*"], metavar="PATTERN", help="as 'resnet*'")
    parser.add_argument("--again", action="store_true", help="also those that have a row")
    parser.add_argument("--redo", choices=OUTCOMES, help="only those whose row says this")
    parser.add_argument("--memory", type=float, default=6, help="GiB for one model")
    parser.add_argument("--seconds", type=float, default=120, help="of processor, for one model")
    parser.add_argument("--output", type=Path, default=RESULTS)
    asked = parser.parse_args()
    before = json.loads(asked.output.read_text())["models"] if asked.output.exists() else {}
    parameters = {name: row.pop("parameters") for name, row in before.items()}
    rows = {name: row for name, row in before.items() if row.get("why") != "not reached"}
    in_turn(names(), parameters)
    todo = [
        name
        for name in dict.fromkeys(chain.from_iterable(map(names, asked.only)))
        if (rows.get(name, {}).get("outcome") == asked.redo if asked.redo else asked.again)
        or (not asked.redo and name not in rows)
    ]
    limits = {"GiB": asked.memory, "seconds": asked.seconds}
    try:
        for name in tqdm(in_turn(todo, parameters), unit="model"):
            rows[name] = watched(name, asked.memory, asked.seconds)
            if rows[name]["outcome"] != "repairs":
                tqdm.write(f"{name}: {json.dumps(rows[name])}")
            write(asked.output, rows, parameters, limits)
    finally:  # also when interrupted
        write(asked.output, rows, parameters, limits)
    print(json.dumps(totals(rows), indent=1))
    raise SystemExit(any(row["outcome"] == "raw" for row in rows.values()))


if __name__ == "__main__":
    main()
