"""Saved patches of evil strangers, as hostile_cases.py has whole models."""

import pickle
import shutil

import torch
from hub.hostile_tools import (
    GONE,
    WEIGHTS,
    Case,
    Trap,
    args,
    linked,
    patch,
    raw,
    tensors,
    top,
)

from timm_repair.errors import NonFiniteError

PATCHED = "patch.safetensors"


def specs() -> list[Case]:
    """What config.json says of a patch."""
    found = [
        Case(f"base {value!r}", patch(base=value), "must be a Hub id")
        for value in (
            "/etc",
            "../x",
            "hf-hub:evil/x",
            "local-dir:/etc",
            "evil",
            "evil/..",
            "a/b/c",
            "evil/x@main",
            "",
            7,
            None,
        )
    ]
    found += [
        Case(f"{key} {value!r:.20}", patch(**{key: value}), f"{key} of a patch must be")
        for key, value in (
            ("revision", "main"),
            ("revision", "A" * 40),
            ("revision", None),
            ("sha256", "A" * 64),
            ("sha256", 7),
        )
    ]
    found += [
        Case(f"version {value!r}", patch(version=value), "upgrade timm_repair")
        for value in (2, "1", True, 1.0, None)
    ]
    return found + [
        Case("no revision", patch(revision=GONE), "exactly version, base, revision and sha256"),
        Case("unknown key", patch(url="http://evil"), "exactly version, base, revision and sha256"),
        Case("spec is a list", top(timm_repair=[1]), "exactly version, base, revision and sha256"),
    ]


def files() -> list[Case]:
    """What is in the folder and in the file of tensors."""
    return [
        Case(
            "patch and weights",
            lambda f: shutil.copy(f.parent / WEIGHTS, f) and None,
            "neither a whole model nor a patch",
        ),
        Case("config of a whole model", top(timm_repair=GONE), "neither a whole model nor a patch"),
        Case(
            "weights of a whole model",
            lambda folder: (folder / PATCHED).rename(folder / WEIGHTS) and None,
            "neither a whole model",
        ),
        Case("edits are null", args(edits=None), "must be a list"),
        Case("patch links out", linked(PATCHED, "/etc/passwd"), "no regular file"),
        Case("other weights", patch(sha256="0" * 64), "has other weights", base=True),
        Case("pickle", raw(PATCHED, pickle.dumps(Trap())), "no intact safetensors", base=True),
        Case(
            "missing",
            tensors(lambda s: s.pop(next(k for k in s if ".gains." in k)), PATCHED),
            "neither in the patch",
            base=True,
        ),
        Case(
            "extra",
            tensors(lambda s: s.update(evil=torch.zeros(1)), PATCHED),
            "holds evil",
            base=True,
        ),
        Case(
            "shape",
            tensors(lambda s: s.update({"fc.weight": torch.zeros(9, 9)}), PATCHED),
            "has shape [9, 9]",
            base=True,
        ),
        Case(
            "NaN",
            tensors(
                lambda s: next(v for v in s.values() if v.is_floating_point()).fill_(float("nan")),
                PATCHED,
            ),
            "is NaN",
            NonFiniteError,
            base=True,
        ),
        Case("many layers", args(layers=[10**5, 1, 1, 1]), "more than", base=True),
        Case("other architecture", args(layers=[2, 2, 2, 2]), "neither in the patch", base=True),
    ]


PATCH = [*specs(), *files()]
