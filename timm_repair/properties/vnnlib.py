"""VNN-LIB 1.0: a property from a file, as verifiers of neural networks have it.

Read here and not by a library: `vnnlib` 1.0 on PyPI, the only one that is kept, reads version 2.0
of the language and refuses all files of version 1.0, which the benchmarks of VNN-COMP and ACAS Xu
are written in. Nothing is executed; files, nesting and the number of cases are bounded.
"""

import gzip
import itertools
import re
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import torch

from timm_repair.errors import PropertyError
from timm_repair.properties.property import Clause, Property, Region

MOST_BYTES = 4 * 1024**2
MOST_CASES = 10_000  # conjunctions, once all `or` are multiplied out
MOST_DEPTH = 50
MOST_VARIABLES = 100_000
_TOKEN = re.compile(r"\s+|;[^\n]*|[()]|[^\s();]+")
_VARIABLE = re.compile(r"([XY])_(\d{1,6})")


@dataclass
class Node:
    """A list `(…)` or a word, and the line on which it begins."""

    line: int
    word: str | None = None
    items: list["Node"] = field(default_factory=list)


@dataclass(frozen=True)
class Linear:
    """Σ coefficient · variable + constant."""

    terms: dict[str, float]
    constant: float

    def scaled(self, factor: float) -> "Linear":
        return Linear(
            {name: factor * value for name, value in self.terms.items()}, factor * self.constant
        )

    def plus(self, other: "Linear") -> "Linear":
        names = self.terms.keys() | other.terms.keys()
        terms = {name: self.terms.get(name, 0.0) + other.terms.get(name, 0.0) for name in names}
        return Linear(
            {name: value for name, value in terms.items() if value}, self.constant + other.constant
        )


# a case is a conjunction: (line, Linear) with Linear <= 0 for each
Case = tuple[tuple[int, Linear], ...]


def read(path: str | Path, *, answer: str | None = None) -> Property:
    """The property in a VNN-LIB file, packed by gzip or not.

    Raises:
        PropertyError: it cannot be read, is no VNN-LIB, or a box is empty or unbounded; the message
            has the line.
    """
    path = Path(path).expanduser()
    try:
        if path.stat().st_size > MOST_BYTES:
            raise PropertyError(
                f"{path.name}: more than {MOST_BYTES} bytes; a property of that size is not read"
            )
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8-sig") as file:  # a byte-order mark is none of it
            text = file.read(MOST_BYTES + 1)
        if len(text) > MOST_BYTES:
            raise PropertyError(f"{path.name}: more than {MOST_BYTES} bytes when unpacked")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise PropertyError(
            f"cannot read the property {str(path)!r} ({error}): give a VNN-LIB file"
        ) from error
    return parse(text, name=path.name, answer=answer)


def parse(text: str, *, name: str, answer: str | None = None) -> Property:
    """As `read`, of the file's text."""
    variables: set[str] = set()
    cases: list[Case] = [()]
    for command in _commands(text, name):
        head = command.items[0].word if command.items else None
        if head == "declare-const":
            variables.add(_declared(command, name))
        elif head == "assert" and len(command.items) == 2:
            new = _cases(command.items[1], name, variables)
            if len(cases) * len(new) > MOST_CASES:
                raise PropertyError(f"{name}, line {command.line}: more than {MOST_CASES} cases")
            cases = [one + other for one, other in itertools.product(cases, new)]
        elif head not in ("set-logic", "check-sat", "exit", "set-info"):
            raise _error(
                name, command, f"(declare-const …) or (assert …) is expected, not {head!r}"
            )
    inputs, outputs = [_count(variables, kind, name) for kind in "XY"]
    return Property(name, _regions(cases, inputs, outputs, name), answer)


def _error(name: str, node: Node, message: str) -> PropertyError:
    return PropertyError(f"{name}, line {node.line}: {message}")


def _commands(text: str, name: str) -> list[Node]:
    """The lists of the outermost level."""
    line, stack = 1, [Node(1)]
    for token in _TOKEN.findall(text):
        if token == "(":
            stack.append(Node(line))
            if len(stack) > MOST_DEPTH:
                raise PropertyError(f"{name}, line {line}: nested more than {MOST_DEPTH} deep")
        elif token == ")":
            if len(stack) == 1:
                raise PropertyError(f"{name}, line {line}: a ')' too many")
            done = stack.pop()
            stack[-1].items.append(done)
        elif not token[0].isspace() and token[0] != ";":
            stack[-1].items.append(Node(line, token))
        line += token.count("\n")
    if len(stack) > 1:
        raise PropertyError(f"{name}, line {stack[-1].line}: this '(' is never closed")
    for node in stack[0].items:
        if node.word is not None:
            raise _error(name, node, f"{node.word!r} stands outside of any (…)")
    return stack[0].items


def _declared(command: Node, name: str) -> str:
    words = [item.word or "" for item in command.items]
    if len(words) != 3 or words[2] != "Real" or not _VARIABLE.fullmatch(words[1]):
        raise _error(
            name,
            command,
            "declare (declare-const X_0 Real) for inputs and (declare-const Y_0 Real) for outputs",
        )
    return words[1]


def _count(variables: set[str], kind: str, name: str) -> int:
    numbers = sorted(int(each[2:]) for each in variables if each[0] == kind)
    if not numbers or numbers != list(range(len(numbers))) or len(numbers) > MOST_VARIABLES:
        raise PropertyError(
            f"{name}: {kind}_0, {kind}_1, … must be declared without a gap; declared are"
            f" {numbers[:20]}"
        )
    return len(numbers)


def _cases(node: Node, name: str, variables: set[str]) -> list[Case]:
    """The disjunction of conjunctions that `node` says."""
    head = node.items[0].word if node.items else None
    rest = node.items[1:]
    if head == "or" and rest:
        return list(itertools.chain.from_iterable(_cases(item, name, variables) for item in rest))
    if head == "and" and rest:
        parts = [_cases(item, name, variables) for item in rest]
        if torch.tensor([len(part) for part in parts], dtype=torch.float64).prod() > MOST_CASES:
            raise _error(name, node, f"more than {MOST_CASES} cases")
        return [tuple(itertools.chain(*each)) for each in itertools.product(*parts)]
    if head in ("<=", "<", ">=", ">", "=") and len(rest) == 2:
        less = _linear(rest[0], name, variables).plus(
            _linear(rest[1], name, variables).scaled(-1.0)
        )
        # a strict comparison is closed: the two differ on a set without volume
        both = {"<": [1], "<=": [1], ">": [-1], ">=": [-1], "=": [1, -1]}[head]
        return [tuple((node.line, less.scaled(float(sign))) for sign in both)]
    raise _error(
        name, node, f"(<= a b), (>= a b), (and …) or (or …) is expected, not {head or node.word!r}"
    )


def _linear(node: Node, name: str, variables: set[str]) -> Linear:
    if node.word is not None:
        if node.word in variables:
            return Linear({node.word: 1.0}, 0.0)
        if _VARIABLE.fullmatch(node.word):
            raise _error(name, node, f"{node.word} was not declared")
        try:
            value = float(node.word)
        except ValueError:
            raise _error(
                name, node, f"{node.word!r} is neither a number nor a declared variable"
            ) from None
        if abs(value) > 1e300 or value != value:
            raise _error(name, node, f"{node.word} is not finite")
        return Linear({}, value)
    head = node.items[0].word if node.items else None
    parts = [_linear(item, name, variables) for item in node.items[1:]]
    if head in ("+", "-") and parts:
        signs = [
            1.0 if head == "+" or (place == 0 and len(parts) > 1) else -1.0
            for place in range(len(parts))
        ]
        total = Linear({}, 0.0)
        for sign, part in zip(signs, parts, strict=True):
            total = total.plus(part.scaled(sign))
        return total
    if head == "*" and len(parts) == 2 and any(not part.terms for part in parts):
        factor, other = parts if not parts[0].terms else parts[::-1]
        return other.scaled(factor.constant)
    raise _error(
        name,
        node,
        "only sums, differences and products with a number are read: properties are linear",
    )


def _regions(cases: list[Case], inputs: int, outputs: int, name: str) -> tuple[Region, ...]:
    """One region per box: cases of the same box are its clauses."""
    boxes: dict[tuple, tuple[torch.Tensor, torch.Tensor, list[Clause]]] = {}
    for case in cases:
        lower, upper = (
            torch.full((inputs,), value, dtype=torch.float64) for value in (-torch.inf, torch.inf)
        )
        rows, bounds = [], []
        for line, comparison in case:
            if {variable[0] for variable in comparison.terms} == {"Y"}:
                row = torch.zeros(outputs, dtype=torch.float64)
                for variable, value in comparison.terms.items():
                    row[int(variable[2:])] = value
                rows.append(row)
                bounds.append(-comparison.constant)
            elif len(comparison.terms) == 1:
                ((variable, value),) = comparison.terms.items()
                side, axis = -comparison.constant / value, int(variable[2:])
                if value > 0:
                    upper[axis] = min(float(upper[axis]), side)
                else:
                    lower[axis] = max(float(lower[axis]), side)
            else:
                raise PropertyError(
                    f"{name}, line {line}: a comparison is about one input, or about outputs; boxes"
                    " are all that is read"
                )
        if not rows:
            raise PropertyError(
                f"{name}: a case says nothing of the outputs, so every input in it would be a"
                " violation"
            )
        key = tuple(lower.tolist() + upper.tolist())
        clause = Clause(torch.stack(rows), torch.tensor(bounds, dtype=torch.float64))
        boxes.setdefault(key, (lower, upper, []))[2].append(clause)
    return tuple(Region(lower, upper, tuple(clauses)) for lower, upper, clauses in boxes.values())
