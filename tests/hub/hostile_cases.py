"""Saved models of evil strangers: each case changes a copy of an intact folder, and says how
loading it has to be refused.
"""

import json
import pickle

import torch
from hub.hostile_tools import (
    GONE,
    WEIGHTS,
    Case,
    Trap,
    args,
    both,
    crowd,
    cut,
    doubled,
    edge,
    edit,
    first,
    genotype,
    gone,
    header,
    in_config,
    linked,
    many_edits,
    node,
    only,
    overflowing,
    pretrained,
    raw,
    sparse,
    swin,
    tensors,
    times,
    top,
    widened,
)

from timm_repair.errors import ModelError, NonFiniteError


def other_formats() -> list[Case]:
    names = ("pytorch_model.bin", "model.pth", "model.pt", "model.pt2", "model.ckpt", "model.npz")
    return [Case(f"only {name}", only(name), "could execute code", ModelError) for name in names]


def files() -> list[Case]:
    deep, lone = (
        b"[" * 100_000 + b"]" * 100_000,
        b'{"architecture": ' + b"[" * 600 + b"]" * 600 + b"}",
    )
    return [
        Case("pickle", raw(WEIGHTS, pickle.dumps(Trap())), "no intact safetensors"),
        Case("zip", raw(WEIGHTS, b"PK\x03\x04" + bytes(100)), "no intact safetensors"),
        Case("empty weights", raw(WEIGHTS, b""), "no intact safetensors"),
        Case("truncated", cut, "no intact safetensors"),
        Case("no weights", gone, "has no model.safetensors", ModelError),
        Case(
            "weights are a directory",
            lambda f: (gone(f), (f / WEIGHTS).mkdir()) and None,
            "no regular file",
        ),
        Case("config of a gigabyte", sparse("config.json", 10**9), "1,000,000,000 bytes"),
        Case("bottomless config", raw("config.json", deep), "nested too deeply"),
        Case("deep config", raw("config.json", lone), "nested too deeply"),
        Case(
            "deep edits",
            in_config(lambda c: c["model_args"].update(edits=json.loads("[" * 200 + "]" * 200))),
            "nested too deeply",
        ),
        Case("duplicate key", doubled, "occurs twice"),
        Case("config is a list", raw("config.json", b"[1]"), "does not name an architecture"),
        Case("config is no UTF-8", raw("config.json", b'{"architecture": "\xff"}'), "damaged"),
        Case("config is empty", raw("config.json", b""), "damaged"),
        Case("digits", raw("config.json", b'{"architecture": ' + b"9" * 5000 + b"}"), "damaged"),
        Case("NaN", pretrained(crop_pct=float("nan")), "NaN is not JSON"),
        Case("Infinity", args(drop_rate=float("inf")), "Infinity is not JSON"),
        Case(
            "1e999",
            raw("config.json", b'{"architecture": "resnet18", "model_args": {"drop_rate": 1e999}}'),
            "out of bounds",
        ),
        Case("config links out", linked("config.json", "/etc/passwd"), "no regular file"),
        Case("weights link out", linked(WEIGHTS, "/etc/passwd"), "no regular file"),
        Case("report links out", linked("repair.json", "/etc/passwd"), "no regular file"),
        Case("links in a circle", linked(WEIGHTS, WEIGHTS), "leads nowhere"),
    ]


def weights() -> list[Case]:
    return [
        Case("header lies", header(lambda h: None, 10**15), "no intact safetensors"),
        Case("header lies a little", header(lambda h: None, 3 * 2**20), "no intact safetensors"),
        Case("overlap", header(first(data_offsets=[0, 4])), "no intact safetensors"),
        Case("beyond the file", header(first(data_offsets=[0, 10**12])), "no intact safetensors"),
        Case("negative shape", header(first(shape=[-1])), "no intact safetensors"),
        Case("unknown type", header(first(dtype="OBJECT")), "no intact safetensors"),
        Case("100,000 tensors", header(crowd), "has a header of"),
        Case("missing", tensors(lambda s: s.pop("fc.weight")), "lacks fc.weight"),
        Case(
            "extra", tensors(lambda s: s.update({"\x1b[2Jevil": torch.zeros(1)})), "holds ?[2Jevil"
        ),
        Case(
            "shape",
            tensors(lambda s: s.update({"fc.weight": torch.zeros(9, 9)})),
            "fc.weight has shape [9, 9]",
        ),
        Case(
            "integers",
            tensors(lambda s: s.update({"fc.bias": s["fc.bias"].long()})),
            "fc.bias is I64",
        ),
        Case(
            "complex",
            tensors(lambda s: s.update({"fc.bias": s["fc.bias"].to(torch.complex64)})),
            "fc.bias is C64",
        ),
        Case(
            "complex counter",
            tensors(lambda s: s.update({"bn1.num_batches_tracked": torch.tensor(1j)})),
            "is C64",
        ),
        Case(
            "8 bits",
            tensors(lambda s: s.update({"fc.bias": s["fc.bias"].to(torch.float8_e5m2)})),
            "fc.bias is F8_E5M2",
        ),
        Case(
            "NaN weight",
            tensors(lambda s: s["fc.weight"].fill_(float("nan"))),
            "fc.weight is NaN or infinite",
            NonFiniteError,
        ),
        Case(
            "infinite weight",
            tensors(lambda s: s["fc.bias"].fill_(float("-inf"))),
            "fc.bias is NaN or infinite",
            NonFiniteError,
        ),
        Case(
            "overflowing weight", tensors(overflowing), "fc.bias is NaN or infinite", NonFiniteError
        ),
    ]


def bases() -> list[Case]:
    names = (
        "hf-hub:evil/x",
        "local-dir:/etc",
        "timm_repaired",
        "../x",
        "resnet18@evil/x",
        "no_such_model",
        7,
        ["resnet18"],
    )
    found = [
        Case(f"base {name!r}", args(base=name), "name of a timm architecture", timm=True)
        for name in names
    ]
    return found + [
        Case("base is null", args(base=None), "name of a timm architecture", timm=True),
        Case("no base", args(base=GONE), "name of a timm architecture", timm=True),
        Case("architecture is an id", top(architecture="hf-hub:evil/x"), "architecture must be"),
        Case("architecture is a path", top(architecture="../../etc"), "architecture must be"),
        Case("no architecture", top(architecture=GONE), "does not name an architecture"),
    ]


def edits() -> list[Case]:
    loop = [{"source": 1, "target": 0, "operation": "skip"}]
    found = [
        Case(f"path {path!r}", edit(paths=[path]), "not children of one module", timm=True)
        for path in ("../..", "..", "", "/etc/passwd", "layer2.__class__", "forward")
    ]
    found += [
        Case(f"operation {name!r}", edge(operation=name), "unknown operation", timm=True)
        for name in ("__import__", "eval", "none", ["skip"], None, "os.system")
    ]
    found += [
        Case(f"layer {name!r}", node(layer=name), "which this block does not have", timm=True)
        for name in ("__class__", "..", "training", "_modules", "forward.__globals__")
    ]
    found += [
        Case(f"channels {value!r}", node(channels=value), "channels must be an integer", timm=True)
        for value in (10**9, -1, 0, True, 8.0, "8", None)
    ]
    return found + [
        Case(
            "backward edge",
            genotype(edges=loop),
            "source must be an integer from 0 to 0",
            timm=True,
        ),
        Case("edge to nowhere", edge(target=10**6), "target must be an integer", timm=True),
        Case("same edge twice", times("edges", 2), "two edges between the same nodes", timm=True),
        Case("edges", times("edges", 10_000), "at most one edge per pair", timm=True),
        Case("nodes", times("nodes", 10_000), "1 to 512 nodes", timm=True),
        Case("no nodes", genotype(nodes=[]), "1 to 512 nodes", timm=True),
        Case("edits", in_config(many_edits), "at most 64 repairs", timm=True),
        Case("edits are an object", args(edits={"paths": []}), "must be a list", timm=True),
        Case("edits are null", args(edits=None), "must be a list"),
        Case("partial 0", genotype(partial=0), "partial must be an integer", timm=True),
        Case("level", genotype(level="__init__"), "is none of", timm=True),
        Case("version", genotype(version=99), "upgrade timm_repair", timm=True),
        Case("unknown key", edit(module="os"), "exactly the keys", timm=True),
    ]


RESERVED = {
    "checkpoint_path": "/etc/passwd",
    "pretrained": False,
    "pretrained_cfg": {"file": "x"},
    "cache_dir": "/",
    "features_only": True,
    "pretrained_strict": False,
    "model_cfg": {},
    "kwargs_filter": ["a"],
    "pretrained_cfg_overlay": {"url": "http://evil"},
}


def sizes() -> list[Case]:
    found = [
        Case(
            f"model_args {key}",
            args(**{key: value}),
            f"may not set {key}",
            timm=key == "checkpoint_path",
        )
        for key, value in RESERVED.items()
    ]
    found += [
        Case(
            f"num_classes {value!r}",
            top(num_classes=value),
            "num_classes must be",
            timm=value == 10**12,
        )
        for value in (-1, True, 10**12, 4.0, "4", None)
    ]
    found += [
        Case(f"input_size {value!r}", pretrained(input_size=value), "input_size must be")
        for value in ([10**9] * 3, [3, 0, 32], "3x32x32", [3], [3, True, 32])
    ]
    return found + [
        Case("model_args num_classes", args(num_classes=-1), "num_classes must be"),
        Case("channels", args(channels=[10**9, 1, 1, 1]), "out of bounds", timm=True),
        Case("layers", args(layers=[10**9, 1, 1, 1]), "out of bounds", timm=True),
        Case("many layers", args(layers=[10**6, 1, 1, 1]), "more than", timm=True),
        Case("wide layers", args(channels=[10**5] * 4), "", timm=True),
        Case("negative layers", args(layers=[-1, -1, -1, -1]), ""),
        Case("entries", args(layers=[1] * 20_000), "20,000 entries", timm=True),
        Case("long text", args(act_layer="x" * 20_000), "20,000 characters", timm=True),
        Case(
            "nested arguments", args(layers=[[[[[[[[[[1]]]]]]]]]]), "nested too deeply", timm=True
        ),
        Case("unknown argument", args(evil=1), "timm cannot build", timm=True),
        Case("attention masks", swin(img_size=100_000), "beside its"),
        Case(
            "attention masks of a base",
            widened("swin_tiny_patch4_window7_224", img_size=100_000),
            "beside its",
            timm=True,
        ),
        Case(
            "windows",
            widened("tiny_vit_5m_224", window_sizes=[1000] * 4),
            "out of bounds",
            timm=True,
        ),
        Case(
            "model_args is a list", in_config(lambda c: c.update(model_args=[])), "must be objects"
        ),
        Case("label_offset", pretrained(label_offset=3), "timm cannot load", late=True),
    ]


def labels() -> list[Case]:
    names = (
        "<script>alert(1)</script>",
        "\x1b[31m",
        "a\u202eb",
        "line\nbreak",
        "a\u2028b",
        "\ud800",
        7,
        None,
        "x" * 2000,
    )
    found = [
        Case(
            f"label {name!r:.30}",
            top(label_names=[name, "b", "c", "d"]),
            "config.json: label_names holds",
        )
        for name in names
    ]
    return found + [
        Case("labels are a text", top(label_names="abcd"), "must be a list or an object"),
        Case(
            "description",
            top(label_descriptions={"tench": "<img src=x onerror=alert(1)>"}),
            "holds markup",
        ),
        Case(
            "label of pretrained_cfg",
            both(top(label_names=GONE), pretrained(label_names=["<b>", "b", "c", "d"])),
            "holds markup",
        ),
    ]


WHOLE = [*other_formats(), *files(), *weights(), *bases(), *edits(), *sizes(), *labels()]
