"""Which methods repair which of timm's models: the smallest model of each of timm's families, by
every method of the package for two steps.

    python -m benchmarks.models.every_method  # go on where it was left; an hour or two on one core
    python -m benchmarks.models.every_method --only 'vit_*' --again  # the smallest of these anew

Writes benchmarks/results/methods_of_models.json. The models are those of architectures.py:
random weights, images of 64 pixels where they are taken. A method repairs a model if what it gives
answers, and refuses it with a RepairError, whose words are kept; "raw" is any other error. Exits
with 1 where there is one.
"""

import argparse
import json
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from tqdm import tqdm

import timm_repair
from benchmarks.models.architectures import (
    BUDGET,
    CLASSES,
    EXAMPLES,
    in_turn,
    made,
    said,
    watched,
    write_lines,
)
from benchmarks.models.architectures import RESULTS as COUNTED
from benchmarks.models.blocks import module_of, names
from timm_repair.data.predicting import predict
from timm_repair.errors import RepairError, UnexpectedError
from timm_repair.images.sources import as_images
from timm_repair.methods import METHODS
from timm_repair.runtime.runtime import Runtime

RESULTS = Path(__file__).parents[1] / "results" / "methods_of_models.json"
SWARM = {"particles": 4, "examples": 24}
PATCH = {"population": 4, "examples": 24}
# so that a model is examined in a minute: nobody asks here how well it is repaired
OPTIONS: dict[str, dict] = {
    "archrepair": {"search_share": 0.5, "score": "rgn"},
    "birdnn": SWARM | {"retrain_share": 0.5},
    "birdnn_finetune": SWARM,
    "care": SWARM,
    "arachne": PATCH,
    "neu_recover": PATCH,
    "random_weights": {"candidates": 2},
    "apricot": {"reduced": 2, "steps": 10},
    "surgical": {"steps": 100},  # two for each of its trials, and some to train
}


def examine(name: str) -> dict[str, Any]:
    """The row of one model: method to "repairs", or to the kind and words of its error."""
    model = made(name)
    data = wrong_and_right(model)
    row = {method: tried(model, data, method) for method in METHODS}
    return {"outcome": "repairs", "methods": row}


def wrong_and_right(model: nn.Module) -> dict[str, list[tuple[Image.Image, int]]]:
    """Noise: failures labelled with classes that the model does not answer, retained examples with
    those that it does, but for one of four: there are models whose random weights answer one class
    for all images, and retained examples of one class are refused.
    """
    noise = np.random.default_rng(0)
    pixels = noise.integers(0, 256, (2 * EXAMPLES, 64, 64, 3), np.uint8)
    images = [Image.fromarray(each) for each in pixels]
    asked = as_images([(image, 0) for image in images], model)
    answers = predict(model, asked, asked.preprocessing, Runtime(progress=False)).predictions
    answered = list(enumerate(answers.tolist()))
    failing = [(images[i], (label + 1 + i % 3) % CLASSES) for i, label in answered[:EXAMPLES]]
    retain = [(images[i], (label + (i % 4 == 0)) % CLASSES) for i, label in answered[EXAMPLES:]]
    return {"failures": failing, "retain": retain}


def tried(model: nn.Module, data: dict[str, list], method: str) -> str:
    """What this method makes of the model."""
    options = BUDGET | OPTIONS.get(method, {}) | {"progress": False, "diagnose": False}
    if method == "neu_recover":
        options["checkpoints"] = [earlier(model)]
    try:
        repaired = timm_repair.repair(model, **data, method=method, **options)
        with torch.no_grad():
            repaired.model.eval()(torch.zeros(2, *model.pretrained_cfg["input_size"]))
    except UnexpectedError as error:
        return f"raw: {type(error.__cause__ or error).__name__}: {said(error)}"
    except RepairError as error:
        return f"{type(error).__name__}: {said(error)}"
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  that there is none of these is the claim
        return f"raw: {type(error).__name__}: {said(error)}"
    return "repairs"


def earlier(model: nn.Module) -> dict[str, torch.Tensor]:
    """A state that the model might have had before: other weights, which answer otherwise."""
    generator = torch.Generator().manual_seed(1)
    return {
        key: value * (1 + 0.5 * torch.randn(value.shape, generator=generator))
        if value.is_floating_point()
        else value
        for key, value in model.state_dict().items()
    }


def totals(rows: dict[str, dict]) -> dict[str, Any]:
    """How many models each method repairs and refuses, of those that were reached."""
    reached = [row["methods"] for row in rows.values() if "methods" in row]
    found: dict[str, Counter] = {method: Counter() for method in METHODS}
    for row in reached:
        for method, outcome in row.items():
            kind = "raw" if outcome.startswith("raw") else "refuses"
            found[method]["repairs" if outcome == "repairs" else kind] += 1
    return {
        "models": len(reached),
        "raw before any method": sum(row["outcome"] == "raw" for row in rows.values()),
        "methods": {name: dict(each) for name, each in found.items()},
    }


def smallest(wanted: list[str], parameters: dict[str, int]) -> list[str]:
    """The smallest model of each family, the smallest first; sizes are put into `parameters`."""
    first = {}
    for name in in_turn(wanted, parameters):
        first.setdefault(module_of(name), name)
    return list(first.values())


def main() -> None:
    """Examine the models asked for, and write as one goes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=["*"], metavar="PATTERN", help="as 'resnet*'")
    parser.add_argument("--again", action="store_true", help="also those that have a row")
    parser.add_argument("--memory", type=float, default=8, help="GiB for one model")
    parser.add_argument("--seconds", type=float, default=600, help="of processor, for one model")
    parser.add_argument("--output", type=Path, default=RESULTS)
    asked = parser.parse_args()
    rows = json.loads(asked.output.read_text())["models"] if asked.output.exists() else {}
    counted = json.loads(COUNTED.read_text())["models"] if COUNTED.exists() else {}
    parameters = {name: row["parameters"] for name, row in (counted | rows).items()}
    wanted = list(dict.fromkeys(chain.from_iterable(map(names, asked.only))))
    for name in tqdm(smallest(wanted, parameters), unit="model"):
        if name in rows and not asked.again:
            continue
        found = watched(name, asked.memory, asked.seconds, examine)
        rows[name] = {"parameters": parameters[name], **found}
        write_lines(asked.output, {"totals": totals(rows)}, rows)
    found = totals(rows)
    print(json.dumps(found, indent=1))
    raw = any("raw" in each for each in found["methods"].values())
    raise SystemExit(raw or found["raw before any method"] > 0)


if __name__ == "__main__":
    main()
