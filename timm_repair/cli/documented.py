"""Documented: which options there are, with their defaults and meaning, read from the source and
its docstrings.

Nothing is imported: help is there at once, where torch and timm would take seconds, and what it
says is what the code says. A thing is named by its path from the package: "methods.METHODS".
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import griffe

PACKAGE = "timm_repair"
ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Option:
    """A field of a dataclass of options; `default` is as the source has it, None where there is
    none.
    """

    name: str
    default: str | None
    meaning: str


@dataclass(frozen=True)
class Group:
    """A dataclass of options: what it says of itself, and its own fields."""

    title: str
    options: tuple[Option, ...]


def options(path: str) -> tuple[Group, ...]:
    """The options of a dataclass and of its option groups, as `timm_repair.options.make` takes
    them: each group by itself.
    """
    kind = _found(path)
    meanings, own, groups = _meanings(kind), [], []
    for name, default in _fields(kind).items():
        if inner := _group_of(default):
            groups += options(inner)
        else:
            own.append(Option(name, _shown(default), meanings.get(name, "")))
    first = Group(_summary(kind), tuple(own))
    return (first, *groups) if own else tuple(groups)


def names(path: str) -> list[str]:
    """What the options of a dataclass are called, those of its groups too."""
    return [option.name for group in options(path) for option in group.options]


def parameters(path: str) -> list[str]:
    """What the arguments of a function are called."""
    return [parameter.name for parameter in _found(path).parameters]


def keys(path: str) -> list[str]:
    """The names in a table: keys of a dict, parts of a tuple."""
    value = _found(path).value
    parts = value.keys if isinstance(value, griffe.ExprDict) else value.elements
    return [str(_literal(part)) for part in parts]


def value(path: str) -> Any:
    """A constant of the source."""
    return _literal(_found(path).value)


def row(path: str, key: str) -> str:
    """The path of the class that a table has under this key."""
    table = _found(path).value
    rows = {str(_literal(k)): v for k, v in zip(table.keys, table.values, strict=True)}
    return _relative(rows[key].canonical_path)


@cache
def _module(path: str) -> Any:
    place = ROOT.joinpath(*path.split("."))
    file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    return griffe.visit(f"{PACKAGE}.{path}", filepath=file, code=file.read_text(encoding="utf-8"))


def _found(path: str) -> Any:
    """The class, function or constant at `path`, also where that module only imports it."""
    module, _, name = path.rpartition(".")
    member = _module(module).members[name]
    return _found(_relative(member.target_path)) if member.is_alias else member


def _relative(path: str) -> str:
    return path.removeprefix(f"{PACKAGE}.")


def _literal(expression: Any) -> Any:
    if isinstance(expression, griffe.ExprName):
        return value(_relative(expression.canonical_path))
    return ast.literal_eval(str(expression))


def _bases(kind: Any) -> list[Any]:
    """What a class is made from, as far as that is in the package."""
    named = [base for base in kind.bases if isinstance(base, griffe.ExprName)]
    paths = [base.canonical_path for base in named]
    return [_found(_relative(path)) for path in paths if path.startswith(f"{PACKAGE}.")]


def _fields(kind: Any) -> dict[str, Any]:
    """The fields of a dataclass to the expressions of their defaults, in the order of Python."""
    found: dict[str, Any] = {}
    for base in _bases(kind):
        found |= _fields(base)
    for name, each in kind.attributes.items():
        if "instance-attribute" in each.labels:  # no class variable, no property
            found[name] = each.value
    return found


def _shown(default: Any) -> str | None:
    """A default as text; what a constant stands for."""
    if isinstance(default, griffe.ExprName):
        default = _found(_relative(default.canonical_path)).value
    return None if default is None else str(default)


def _group_of(default: Any) -> str | None:
    """The path of the dataclass that makes the default of a field, None where none does."""
    for argument in _arguments(default):
        if argument.name == "default_factory" and isinstance(argument.value, griffe.ExprName):
            path = argument.value.canonical_path
            return _relative(path) if path.startswith(f"{PACKAGE}.") else None
    return None


def _arguments(expression: Any) -> Iterator[Any]:
    if isinstance(expression, griffe.ExprCall) and str(expression.function) == "field":
        yield from (a for a in expression.arguments if isinstance(a, griffe.ExprKeyword))


def _sections(kind: Any) -> list[Any]:
    return kind.docstring.parse("google", warnings=False) if kind.docstring else []


def _summary(kind: Any) -> str:
    """The first sentence of a docstring."""
    texts = [s.value for s in _sections(kind) if s.kind is griffe.DocstringSectionKind.text]
    return " ".join(texts[0].split()).split(". ")[0].rstrip(".") if texts else ""


def _meanings(kind: Any) -> dict[str, str]:
    found: dict[str, str] = {}
    for base in _bases(kind):
        found |= _meanings(base)
    for section in _sections(kind):
        if section.kind is griffe.DocstringSectionKind.parameters:
            for parameter in section.value:
                # several are explained together: "score, top: see …"
                for name in parameter.name.split(","):
                    found[name.strip()] = " ".join(parameter.description.split())
    return found
