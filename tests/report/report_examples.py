"""Made-up reports for the tests of everything that shows one. The numbers are plausible, and
nobody's result.
"""

import dataclasses

import torch

from timm_repair.report.report import Report
from timm_repair.report.scores import Scores

EDGES = [
    (0, 1, "sep_conv"),
    (0, 2, "skip"),
    (1, 3, "max_pool"),
    (2, 2, "dil_conv"),
    (0, 5, "avg_pool"),
    (3, 4, "sep_conv"),
    (2, 5, "dil_conv"),
    (4, 5, "skip"),
]


def scores(
    population: str = "failing",
    *,
    kept: int = 370,
    broken: int = 30,
    fixed: int = 280,
    missed: int = 320,
) -> Scores:
    """Scores with the four outcome counts given."""
    n = kept + broken + fixed + missed
    labels = torch.arange(n) % 10
    wrong = (labels + 1) % 10
    index = torch.arange(n)
    before = torch.where(index < kept + broken, labels, wrong)
    after = torch.where(
        (index < kept) | ((index >= kept + broken) & (index < kept + broken + fixed)), labels, wrong
    )
    return Scores(population, labels, before, after)


def genotype(edges=EDGES, *, nodes: int = 6) -> dict:
    return {
        "version": 1,
        "level": "unit",
        "partial": 4,
        "nodes": [{"layer": str(index), "channels": 256, "scale": 1} for index in range(nodes)],
        "edges": [{"source": a, "target": b, "operation": operation} for a, b, operation in edges],
    }


def history() -> tuple[dict, ...]:
    rows = [
        {
            "stage": "search",
            "step": i,
            "loss": 2.2 * 0.97**i + 0.3,
            "lr": 0.01,
            "objective": 2.4 * 0.975**i + 0.4,
        }
        for i in range(60)
    ]
    rows[-1]["alpha"] = [[(3 * edge + 5 * op) % 7 / 3 for op in range(6)] for edge in range(21)]
    return (
        *rows,
        *(
            {"stage": "finetune", "step": i, "loss": 0.9 * 0.98**i + 0.1, "lr": 0.01}
            for i in range(90)
        ),
    )


def read(**changes) -> dict:
    """What was read for a role: `Summary.to_dict()`."""
    found = {
        "name": "failures",
        "source": "/home/me/failures",
        "n": 1000,
        "left_out": {},
        "matched": "the model's names",
        "classes": {"cat": "3 cat", "dog": "5 dog"},
        "per_class": {"cat": 500, "dog": 500},
        "preprocessing": "resize 32, centre crop 32, from pretrained_cfg",
        "accuracy": 0.0,
        "asked": 1000,
        "stream": None,
    }
    return found | changes


def report(**changes) -> Report:
    """An archrepair of layer3 of a ResNet; `changes` replace fields."""
    names = ("layer1", "layer2", "layer3", "layer4")
    values = Report(
        method="archrepair",
        model="resnet18_cifar10",
        options={"strategy": "pc_darts", "steps": 150},
        scores=(scores(), scores("retained", kept=780, broken=12, fixed=9, missed=199)),
        repaired_blocks=("layer3",),
        blocks=tuple(
            {"name": name, "role": "body", "num_params": 147_968 * 4**index}
            for index, name in enumerate(names)
        ),
        localization={
            "scorer": "spectrum_gradient",
            "suspiciousness": dict(zip(names, (1.0, 6.0, 33.0, 10.0), strict=True)),
            "threshold": 0.4,
            "details": {"top": 50},
        },
        genotypes={"layer3": genotype()},
        history=history(),
        cost={
            "before": {"parameters": 11_173_962, "flops": 1_112_000_000, "latency_ms": 4.1},
            "after": {"parameters": 11_290_000, "flops": 1_151_000_000, "latency_ms": 4.6},
            "change": {"latency": 0.122, "latency_range": [0.081, 0.15]},
        },
        stages=tuple(
            {"name": name, "seconds": seconds, "peak_memory": 2**30 + index * 2**28}
            for index, (name, seconds) in enumerate(
                (("evaluate", 3.2), ("search", 40.5), ("finetune", 21.0))
            )
        ),
        versions={"timm_repair": "0.1.0", "timm": "1.0.31", "torch": "2.15.0"},
        provenance={
            "failing": {"source": "/home/me/failures", "n": 1000, "sha256": "ab" * 32},
            "read": {
                "failures": read(),
                "retain": read(accuracy=0.792, left_out={"unreadable": 2}),
            },
        },
        notes=("the learning rate was halved once: the loss had become unstable",),
    )
    return dataclasses.replace(values, **changes)


def localization(blocks: int = 4, layers: int = 20, **changes) -> dict:
    """`Localization.to_dict()` with everything that a scorer can say, of a network of so many
    blocks and layers.
    """
    names = [f"layer{index + 1}" for index in range(blocks)]
    owner = {
        f"{name}.{index // 2}.conv{index % 2 + 1}": name
        for name in names
        for index in range(layers // blocks)
    }
    scores = [0.24 - 0.03 * index for index in range(blocks)]
    neurons = [
        {
            "layer": layer,
            "channel": 7 * index,
            "score": 0.9 - 0.04 * index,
            "active_wrong": 500 - index,
            "active_right": 9 * index,
        }
        for index, layer in enumerate(list(owner)[:20])
    ]
    found = {
        "scorer": "rgn",
        "suspiciousness": dict(zip(names, scores, strict=True)),
        "ranking": names,
        "threshold": None,
        "layers": owner,
        "layer_scores": {layer: (3 * index) % 11 / 20 for index, layer in enumerate(owner)},
        # of the distance
        "errors": {
            name: 0.012 + 0.004 * index if index else 0.0 for index, name in enumerate(names)
        },
        "gains": {name: 0.31 - 0.04 * index for index, name in enumerate(names)},
        "tied": names[:2],
        "details": {"misclassified": 512, "correct": 1204, "top_neurons": neurons},
    }
    return found | changes


def two_blocks(**changes) -> Report:
    """An archrepair of the two stages that could not be told apart."""
    plans = {
        "layer1": genotype([(0, 1, "sep_conv"), (1, 1, "skip")], nodes=2),
        "layer2": genotype([(0, 0, "max_pool")], nodes=2),
    }
    rows = [dict(row) for row in history()]
    rows[59]["edges"] = [12, 9]  # of the 21 rows of α
    fields = {
        "repaired_blocks": ("layer1", "layer2"),
        "genotypes": plans,
        "history": tuple(rows),
        "localization": localization(),
    }
    return report(**fields | changes)


def weights_only(**changes) -> Report:
    """A repair of the same model that changes weights only and has nothing retained."""
    note = "no retained data: forgetting could not be measured"
    fields = {
        "method": "finetune network",
        "repaired_blocks": (),
        "localization": None,
        "genotypes": {},
        "notes": (note,),
    }
    return report(
        **fields | {"scores": (scores(kept=360, broken=40, fixed=200, missed=400),)} | changes
    )
