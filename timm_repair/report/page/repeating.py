"""Repeating: what to type to repeat a repair, from what it was asked."""

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from timm_repair.report.facts import Facts

ROLES = ("failures", "retain", "passing")


def command(report: Facts) -> str:
    """For a shell where all that was given has a name, else in Python; empty if it is not known."""
    asked = report.asked
    if not asked:
        return ""
    held = asked.get("holdout")
    given = [asked.get("model"), asked.get("method"), asked.get("failures")]
    given += [asked[role] for role in ROLES if role in asked]
    given += list(held.values()) if isinstance(held, Mapping) else [held] * ("holdout" in asked)
    named = all(isinstance(each, str) for each in given)
    return _shell(asked) if named and not report.properties else _python(asked)


def _shell(asked: Mapping[str, Any]) -> str:
    words = ["timm-repair repair"]
    for name in ("model", *ROLES):
        words += [f"--{name} {_quoted(asked[name])}"] if asked.get(name) else []
    held = asked.get("holdout")
    for name, place in held.items() if isinstance(held, Mapping) else ():
        words.append(f"--holdout {_quoted(f'{name}={place}')}")
    if isinstance(held, str):
        words.append(f"--holdout {_quoted(held)}")
    words += [f"--method {_quoted(asked['method'])}", f"--seed {asked.get('seed', 0)}"]
    words += ["--no-diagnosis"] * (asked.get("diagnose") is False)
    for flag, values in (("--data", asked.get("data")), ("--set", asked.get("options"))):
        words += [f"{flag} {_quoted(f'{name}={value}')}" for name, value in (values or {}).items()]
    return " \\\n  ".join([*words, "--output out"])


def _quoted(value: Any) -> str:
    """For a shell, on one line, without what a terminal would obey."""
    return shlex.quote("".join(c if c.isprintable() else "?" for c in str(value)))


def _python(asked: Mapping[str, Any]) -> str:
    arguments = list(_arguments(asked))
    return "timm_repair.repair(\n    " + ",\n    ".join(arguments) + ",\n)"


def _arguments(asked: Mapping[str, Any]) -> Iterator[str]:
    yield _value(asked.get("model"), "model")
    yield _value(asked.get("failures"), "failures")
    for name in ("retain", "passing", "holdout", "method", "seed", "diagnose"):
        if name in asked and not (name == "diagnose" and asked[name]):
            yield f"{name}={_value(asked[name], name)}"
    if data := asked.get("data"):
        told = ", ".join(f"{name}={value!r}" for name, value in data.items())
        yield f"data=timm_repair.DataOptions({told})"
    for name, value in (asked.get("options") or {}).items():
        yield f"{name}={value!r}"


def _value(value: Any, name: str) -> str:
    """A value as Python writes it; of an object that was given the name of a variable."""
    if isinstance(value, Mapping):
        inside = ", ".join(
            f"{key!r}: {_value(each, f'{name}_{i}')}" for i, (key, each) in enumerate(value.items())
        )
        return f"{{{inside}}}"
    return name if value is None else repr(value)
