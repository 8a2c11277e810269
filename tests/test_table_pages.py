"""The tables of the other pages of docs/, from made-up results; and that of the methods."""

import json
import re

from written_tables import *  # noqa: F403
from written_tables import row

from timm_repair.methods import METHODS


def test_speed(run, tmp_path):
    times = {"ratio_median": 0.5, "ratio_min": 0.4, "ratio_max": 0.6}
    speed = {
        "localization": [{"scorer": "rgn", **times}],
        "repair": [{"block": b, **times} for b in ("early", "late")],
    }
    (tmp_path / "speed.json").write_text(json.dumps(speed))
    text = run()
    assert [
        row(text, name)[-1].split(":")[0]
        for name in ("localization, `rgn`", "archrepair of `early`", "archrepair of `late`")
    ] == ["at most 0.45", "at most 1.2", "at most 0.7"]


def million() -> dict:
    """A repair of layer4 with a million retained images, counted and measured."""
    kinds = {
        "prepare": {"forward": 5000},
        "evaluate": {"forward": 6000},
        "localize": {"step": 3000},
        "search": {
            "prefix": 10,
            "step, cached": 6000,
            "step, cached, architecture": 4000,
            "forward": 1000,
        },
        "finetune": {"step": 30000},
    }
    steps = [
        {
            "block": "layer4",
            "stage": "search",
            "kind": kind,
            "flops": 2e12,
            "seconds": 0.9,
            "saved_bytes": 2**23,
            "trained": 2**20,
        }
        for kind in ("step", "step, cached", "step, cached, architecture", "forward", "prefix")
    ]
    run_ = {
        "block": "layer4",
        "views": None,
        "counts": kinds,
        "decoded": {"failures": {"prepare": 5000}, "retained": {"search": 16000}},
        "trained_on": 3000,
        "cache_bytes": 2**30,
    }
    reading = [
        {
            "retained": n,
            "read": {"seconds": 1 + n / 1e5, "bytes": 10 * n},
            "prepare": {"seconds": n / 1e5, "bytes": 2**30},
        }
        for n in (100_000, 1_000_000)
    ]
    return {
        "counts": [run_],
        "steps": steps,
        "reading": reading,
        "decode": {"milliseconds": 4.0},
        "threads": 2,
        "weights": 2**20,
        "failures": 5000,
        "retained": 1_000_000,
    }


def test_a_repair_with_a_million_retained_images(run, tmp_path):
    (tmp_path / "imagenet_size.json").write_text(json.dumps(million()))
    run()
    text = (tmp_path / "processes.md").read_text()
    assert row(text, "search")[1:] == ["11,000", "10,000", "22020", "2.75", "2222"]
    assert row(text, "arithmetic, `layer4`")[1:] == ["825 min", "2200 s", "275 s", "138 s"]
    assert row(text, "decoding JPEGs")[1:] == ["42 s", "10 s", "3.5 s", "3.0 s"]
    assert row(text, "reading and splitting the retained examples")[2] == "20 s"
    assert row(text, "all-reduced in a step of the search, sent by each GPU, `layer4`")[2:] == [
        "0 MiB",
        "7 MiB",
        "8 MiB",
    ]
    # localization takes up to 64 images at once on every process, of a quarter of the failures; a
    # step 128 over all
    assert row(text, "GPU memory: maps kept for the backward pass, `layer4`")[2:] == [
        "1.0 GiB",
        "0.5 GiB",
        "0.4 GiB",
    ]


def steps() -> dict:
    """Files of results: steps beside their bounds, drift of logits, several processes, compiled."""
    times = {"ratio": 0.3, "min": 0.25, "max": 0.4, "bound": 0.25, "over_bound": 1.2}

    def row_of(model: str, block: str, over: float) -> dict:
        return {
            "model": model,
            "block": block,
            "flops_share": 0.2,
            "plain": times,
            "cached": times | {"over_bound": over},
            "search_pair": times,
            "cached_over_plain": {"predicted": 0.5, "measured": 0.6},
        }

    rows = [
        row_of("resnet18", "layer1", 2.0),
        row_of("resnet50_cifar_stem", "layer4", 1.2),
        row_of("vgg16_bn", "features.0-5", 1.3),
    ]
    drift = [
        {
            "model": "net",
            "block": b,
            "largest_logit": 15.0,
            **{p: {"max": m, "mean": m / 10} for p in ("same", "fp16", "bf16")},
        }
        for b, m in (("a", 0.02), ("b", 0.01))
    ]
    found = {"median": 0.9, "min": 0.8, "max": 1.0}
    scaling = {"processes": 2, "rows": [{"work": "search", "efficiency": found, "machine": found}]}
    compiled = {
        "rows": [
            {
                "model": "net",
                "block": "a",
                "ratio": 0.95,
                "min": 0.9,
                "max": 1.0,
                "compiling_in_steps": 41.7,
            }
        ]
    }
    return {
        "prefix": {"rows": rows},
        "drift": {"rows": drift},
        "scaling": scaling,
        "compiled": compiled,
    }


def test_steps_beside_their_bounds(run, tmp_path):
    for name, file in steps().items():
        (tmp_path / f"{name}.json").write_text(json.dumps(file))
    run()
    text = (tmp_path / "speed.md").read_text()
    assert row(text, "resnet18")[1:7] == [
        "`layer1`",
        "20 %",
        "0.30",
        "0.30 (0.25 – 0.40)",
        "0.25",
        "2.00",
    ], "no target for an early stage"
    assert row(text, "resnet50, 3x3 stem, 32 px")[6] == "1.20 met"
    assert row(text, "vgg16_bn")[6:] == ["1.30 missed", "0.30", "0.25", "0.50", "0.60"]
    assert row(text, "net")[1:] == ["2", "15", *["0.02 / 0.002"] * 3]
    assert row(text, "search")[1:] == ["0.90 (0.80 – 1.00)"] * 2 and row(text, "net, `a`")[1:] == [
        "0.95",
        "0.90 – 1.00",
        "42",
    ]


def test_methods_with_their_papers_as_links(run, tmp_path):
    run()
    text = (tmp_path / "methods" / "README.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| [")]
    assert [re.match(r"\| \[(\w+)\]\(\1\.md\) \| \S", line)[1] for line in rows] == [*METHODS]
    cells = row(text, "[bn_recalibration](bn_recalibration.md)")
    assert "[arXiv:2006.16971](https://arxiv.org/abs/2006.16971)" in cells[2]
    assert cells[3] == "batch-norm statistics"
    assert row(text, "[archrepair](archrepair.md)")[3].startswith("architecture, weights")


def test_draws_of_failures_with_nothing_in_common(run, tmp_path):
    nothing = {"patterns": [], "preprocessing": None, "told": 0.5}
    drawn = [
        nothing,
        nothing,
        nothing | {"patterns": [["veil"]], "told": 0.6},
        nothing | {"preprocessing": "upside down"},
    ]
    (tmp_path / "diagnosis_clean.json").write_text(json.dumps({"resnet": drawn}))
    run()
    text = (tmp_path / "diagnosis.md").read_text()
    assert row(text, "resnet") == ["resnet", "4", "2", "1", "1", "52%"]


def test_what_each_method_repairs(run, tmp_path):
    refused = "PartitionError: no block | none"
    models = {
        "one": {"methods": {"finetune": "repairs", "mode": refused, "care": "raw: TypeError: no"}},
        "two": {"methods": {"finetune": "repairs", "mode": "repairs", "care": "repairs"}},
        "slow": {"outcome": "not run", "why": "more than 600 s"},
    }
    found = {"totals": {"methods": dict.fromkeys(("care", "mode", "finetune"))}, "models": models}
    (tmp_path / "methods_of_models.json").write_text(json.dumps(found))
    run()
    text = (tmp_path / "blocks.md").read_text()
    assert row(text, "finetune")[1:4] == ["2", "0", "0"]
    assert row(text, "mode")[1:4] == ["1", "1", "0"]
    assert row(text, "care")[1:4] == ["1", "0", "1"]
