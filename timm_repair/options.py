"""Options are dataclass fields: make() builds them from names, check_types() refuses values of the
wrong type; both tell the fix.
"""

import math
from collections.abc import Mapping
from dataclasses import fields
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from timm_repair.errors import OptionError, did_you_mean

T = TypeVar("T")
_PLAIN = (bool, int, float, str)


def make(kind: type[T], values: Mapping[str, Any]) -> T:
    """`kind(**values)`.

    Raises:
        OptionError: a name is not a field of `kind`, with a suggestion; or as `kind` itself.
    """
    known = {f.name for f in fields(kind)}
    for name in values:
        if name not in known:
            raise OptionError(f"{kind.__name__} has no option {name!r}{did_you_mean(name, known)}")
    return kind(**values)


def check_types(options: Any) -> None:
    """Check the fields annotated as plain numbers, strings, booleans, or these or None; called in
    `__post_init__`.

    Raises:
        OptionError: a value has another type, or is a number that is not finite.
    """
    hints = get_type_hints(type(options))
    for option in fields(options):
        hint, value = hints[option.name], getattr(options, option.name)
        kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        if not set(kinds) <= {*_PLAIN, type(None)}:
            continue
        allowed = (*kinds, int) if float in kinds else kinds
        if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in kinds):
            names = " or ".join("None" if kind is type(None) else kind.__name__ for kind in kinds)
            raise OptionError(f"{option.name}={value!r} must be {names}")
        if isinstance(value, float) and not math.isfinite(value):
            raise OptionError(f"{option.name}={value!r} must be finite")
