"""Options are dataclass fields, given by name, from Python or a command line; all refusals tell the
fix.

- `make` builds an object from flat names, which may be fields of its option groups; `grouped`
  lets a class itself be made so, and `flat` is the way back.
- `by_name`: ours by a string, yours as an object.
- `check_types` refuses values of the wrong type, in `__post_init__`.
- `plain`: any value as JSON; `parse`: NAME=VALUE from a command line.
"""

import ast
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import wraps
from pathlib import PurePath
from types import UnionType
from typing import (
    Any,
    ClassVar,
    Protocol,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from timm_repair.errors import OptionError, did_you_mean


class Dataclass(Protocol):
    """Any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


T = TypeVar("T", bound=Dataclass)
C = TypeVar("C")  # what is a dataclass, which a decorator of it cannot tell yet
_PLAIN = (bool, int, float, str)
RUN = "run.yaml"  # in a folder that a command has written: its arguments, see cli.configuration


def flat_names(kind: type) -> list[str]:
    """The fields of `kind` that are no option groups, and those of its groups."""
    groups = groups_of(kind)
    own = [f.name for f in fields(kind) if f.name not in groups]
    return own + [name for group in groups.values() for name in flat_names(group)]


def groups_of(kind: type) -> dict[str, type]:
    """The option groups among the fields of `kind`: those that are made by calling a dataclass."""
    return {f.name: f.default_factory for f in fields(kind) if is_dataclass(f.default_factory)}


def grouped(kind: type[C]) -> type[C]:
    """A decorator for a dataclass with option groups: it can be made, and `dataclasses.replace`d,
    with the fields of its groups given flat.

    Raises:
        OptionError: a name is neither a field nor that of a group, with a suggestion.

    Example:
        >>> Training(steps=500, hflip=0.0) == Training(steps=500, augmenting=Augmenting(hflip=0.0))
    """
    plainly, groups = kind.__init__, groups_of(kind)
    owner = {name: group for group, each in groups.items() for name in flat_names(each)}

    @wraps(plainly)
    def flatly(self, **values: Any) -> None:
        given: dict[str, dict[str, Any]] = {}
        for name in [name for name in values if name in owner]:
            given.setdefault(owner[name], {})[name] = values.pop(name)
        for group, changes in given.items():
            values[group] = replace(values.get(group) or groups[group](), **changes)
        known = [f.name for f in fields(cast(type[Dataclass], kind))]
        for name in values.keys() - known:
            raise _unknown(kind.__name__, name, [*known, *owner])
        plainly(self, **values)

    kind.__init__ = flatly
    return kind


def make(kind: type[T], values: Mapping[str, Any], what: str | None = None) -> T:
    """`kind` with these fields; fields of its option groups (dataclasses too) are given flat.

    Args:
        what: to call it in messages; None takes the name of `kind`.

    Raises:
        OptionError: a name is not a field of `kind` or of a group, with a suggestion; a group and
            its fields are given together; or as `kind` itself.

    Example:
        >>> make(ArchRepair, {"block": "layer1", "level": "layer", "steps": 500})
    """
    groups = groups_of(kind)
    owner: dict[str, str | None] = {f.name: None for f in fields(kind)}
    owner |= {name: group for group, each in groups.items() for name in flat_names(each)}
    own: dict[str, Any] = {}
    given: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        if name not in owner:
            raise _unknown(what or kind.__name__, name, owner)
        group = owner[name]
        (own if group is None else given.setdefault(group, {}))[name] = value
    for group, options in given.items():
        if group in own:
            raise OptionError(f"give either {group}= or {', '.join(options)}, not both")
        own[group] = groups[group](**options)
    return kind(**own)


def _unknown(what: str, name: str, known: Iterable[str]) -> OptionError:
    error = OptionError(f"{what} has no option {name!r}{did_you_mean(name, known)}")
    error.unknown = name
    return error


def by_name(
    kind: str,
    given: Any,
    table: Mapping[str, Any],
    *,
    contract: type | None = None,
    **options: Any,
) -> Any:
    """What `given` names in `table`, made with `options` if it is a class; an object as it is.

    Args:
        kind: what it is, for messages: "method", "strategy", "scorer".
        contract: a protocol whose attributes and methods an object needs.

    Raises:
        OptionError: unknown name or option, with a suggestion; options for an object, or one that
            lacks what the contract says.
    """
    if not isinstance(given, str):
        if options:
            raise OptionError(
                f"options {', '.join(options)} go with a {kind}'s name; set them on your object"
                " instead"
            )
        asked = (*contract.__annotations__, *vars(contract)) if contract is not None else ()
        lacking = [n for n in asked if not n.startswith("_") and not hasattr(given, n)]
        if lacking or isinstance(given, type):
            what = "class" if isinstance(given, type) else type(given).__name__
            raise OptionError(
                f"{kind}=<{what}>: must be one of {', '.join(table)}, or an object"
                + (f" with {', '.join(lacking)}" if lacking else ", not its class")
            )
        return given
    if given not in table:
        raise OptionError(f"unknown {kind} {given!r}{did_you_mean(given, table)}")
    ours = table[given]
    return make(ours, options, f"{kind} {given!r}") if isinstance(ours, type) else ours


_CALLED = {type(None): "None", int: "a whole number", float: "a number", str: "a string"}
_CALLED |= {bool: "True or False"}


def check_types(options: Any) -> None:
    """Check the fields annotated as plain numbers, strings, booleans, or these or None; called in
    `__post_init__`.

    Raises:
        OptionError: a value has another type, or is a number that is not finite.
    """
    hints = get_type_hints(type(options))
    for option in fields(options):
        hint, value = hints[option.name], getattr(options, option.name)
        if isinstance(hint, type) and is_dataclass(hint) and not isinstance(value, hint):
            group: type = hint
            raise OptionError(f"{option.name}={value!r:.80} must be a {group.__name__}")
        kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        if not set(kinds) <= {*_PLAIN, type(None)}:
            continue
        if type(value).__module__ == "numpy" and callable(getattr(value, "item", None)):
            value = cast(Any, value)
            value = value.item() if getattr(value, "ndim", 1) == 0 else value  # a number of numpy
            object.__setattr__(options, option.name, value)
        allowed = (*kinds, int) if float in kinds else kinds
        if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in kinds):
            names = " or ".join(_CALLED.get(k, k.__name__) for k in kinds)
            raise OptionError(f"{option.name}={value!r} must be {names}")
        if isinstance(value, float) and not math.isfinite(value):
            raise OptionError(f"{option.name}={value!r} must be finite")


def plain(value: Any) -> Any:
    """A copy of `value` as plain JSON: NaN and infinity become None, a dataclass its fields, any
    other object its name (a repr may hold an address, and would differ from run to run).
    """
    if hasattr(value, "tolist") and not isinstance(value, type):
        # a tensor, an array or a number of numpy, which would cost seconds to import
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None  # JSON has no NaN
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, Sequence):
        return [plain(each) for each in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def flat(options: Any) -> dict[str, Any]:
    """A dataclass of options as plain JSON, the fields of its groups beside its own; `make` takes
    them back.
    """
    groups, values = groups_of(type(options)), {}
    for option in fields(options):
        value = getattr(options, option.name)
        values |= flat(value) if option.name in groups else {option.name: plain(value)}
    return values


def parse(pairs: Iterable[str], reserved: Iterable[str] = ()) -> dict[str, Any]:
    """Options from NAME=VALUE texts; a value that is no Python literal is a string.

    Args:
        reserved: names that have an argument --NAME of their own.

    Raises:
        OptionError: a text has no "=", or its name is reserved.
    """
    options: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise OptionError(f"{pair!r} is not NAME=VALUE")
        if name in reserved:
            raise OptionError(
                f"{name}= is an argument of its own, not an option of a method: give it apart"
            )
        try:
            options[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            # a plain word is a string, as is what looks like a literal and is none
            options[name] = value
    return options
