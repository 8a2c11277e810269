"""Whether torch.compile pays for a repair: a step with the compiled model over one without, and how
many steps compiling costs.

    python -m benchmarks.speed.compiled

One block of each model is fine-tuned from the images, 224 pixels, as in prefix.py; steps take
turns. A repair has some hundred steps on a model whose modules are swapped between its stages, so
compiling has to be earned back within one of them. Writes benchmarks/results/compiled.json.
"""

import argparse
import json
from pathlib import Path

import torch

from benchmarks.speed.prefix import make_case, ratios, step_of
from benchmarks.speed.timing import seconds
from timm_repair.models.partition import blocks
from timm_repair.models.weights import part_of
from timm_repair.pipeline.case import versions

RESULT = Path(__file__).parents[1] / "results" / "compiled.json"
BLOCKS = {"resnet18": "layer4", "resnet50": "layer4", "efficientnet_b0": "blocks.5"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(BLOCKS), choices=BLOCKS)
    parser.add_argument("--precision", default="no")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    rows = []
    for name in arguments.models:
        case = make_case(name, 8, arguments.precision)
        eager, compiled = case.copy(), case.copy()
        block = next(block for block in blocks(case.model) if block.name == BLOCKS[name])
        steps = [step_of(case, model, part_of(model, block), None) for model in (eager, compiled)]
        compiled.forward = torch.compile(compiled.forward)  # the modules stay what they are
        first = seconds(steps[1])
        found = ratios({"compiled": steps[1]}, steps[0], arguments.repeats)["compiled"]
        whole = seconds(steps[0])
        rows.append(
            {"model": name, "block": block.name, **found, "compiling_in_steps": first / whole}
        )
        print(rows[-1], flush=True)
    RESULT.write_text(
        json.dumps(
            {
                "device": case.runtime.device.type,
                "threads": torch.get_num_threads(),
                "batch_size": 8,
                "rows": rows,
                "repeats": arguments.repeats,
                "versions": versions(),
            },
            indent=1,
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
