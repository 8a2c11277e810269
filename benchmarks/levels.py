"""Levels of imports: on how many the package and its benchmarks stand, and which imports make them
so many.

    python -m benchmarks.levels             # of packages, as pyproject.toml orders them
    python -m benchmarks.levels --modules   # of single files

A level is one more than the highest that it imports from. Circles are what no level can be given
to; an upward import, against the order in pyproject.toml, is what `lint-imports` names.
"""

import argparse
import ast
from collections.abc import Mapping, Set
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import grimp

import timm_repair

PACKAGES = "timm_repair", "benchmarks"
Graph = Mapping[str, Set[str]]  # name to what it imports


def graph(modules: bool = False) -> Graph:
    """Who imports whom: a package, or a file beside the packages, as one; so the benchmarks."""
    found = grimp.build_graph(*PACKAGES, cache_dir=None)

    def unit(module: str) -> str:
        deep = 1 if module.startswith("benchmarks") else 2
        return module if modules else ".".join(module.split(".")[:deep])

    imports: dict[str, set[str]] = {unit(module): set() for module in found.modules}
    for module in found.modules:
        others = {unit(each) for each in found.find_modules_directly_imported_by(module)}
        imports[unit(module)] |= others - {unit(module)}
    imports["timm_repair"] |= {unit(module) for module in lazily()} & imports.keys()
    return imports


def lazily() -> list[str]:
    """The modules that the package itself imports when a name of its stub is asked for."""
    tree = ast.parse(Path(timm_repair.__file__).with_suffix(".pyi").read_text())
    froms = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return [f"timm_repair.{node.module or alias.name}" for node in froms for alias in node.names]


def levels(imports: Graph) -> dict[str, int]:
    """Name to its level, from 1.

    Raises:
        graphlib.CycleError: there is a circle.
    """
    found: dict[str, int] = {}
    for name in TopologicalSorter(imports).static_order():
        found[name] = 1 + max((found[other] for other in imports[name]), default=0)
    return found


def longest(imports: Graph) -> list[str]:
    """A chain of imports from the highest level to the lowest."""
    found = levels(imports)

    @cache
    def below(name: str) -> list[str]:
        others = imports[name]
        return [name, *(below(max(others, key=lambda other: found[other])) if others else [])]

    return below(max(found, key=lambda name: found[name]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--modules", action="store_true", help="single files instead of packages")
    imports = graph(parser.parse_args().modules)
    by_level: dict[int, list[str]] = {}
    for name, level in levels(imports).items():
        by_level.setdefault(level, []).append(name.removeprefix("timm_repair."))
    for level in sorted(by_level, reverse=True):
        print(f"{level:3} {' '.join(sorted(by_level[level]))}")
    print(f"{max(by_level)} levels: {' > '.join(longest(imports))}")


if __name__ == "__main__":
    main()
