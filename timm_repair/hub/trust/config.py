"""The config.json of a stranger: reduced to what timm needs, with every value checked."""

import dataclasses
import inspect
import json
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from timm.models import PretrainedCfg, build_model_with_cfg

from timm_repair.errors import ConfigError

# bytes; a report has some 30 for each example measured
MAX_CONFIG, MAX_REPORT = 8 * 2**20, 64 * 2**20
MAX_DEPTH = 64
MAX_INTEGER, MAX_CLASSES = 1_000_000, 1_000_000
MAX_WINDOW = 48  # some of timm's constructors loop in Python over all pairs of a window's pixels

_SOURCES = {
    "url",
    "file",
    "state_dict",
    "hf_hub_id",
    "hf_hub_filename",
    "source",
    "custom_load",
    "architecture",
    "tag",
}
_SIZES = ("input_size", "test_input_size", "min_input_size", "pool_size", "test_pool_size")
_PRETRAINED = {f.name for f in dataclasses.fields(PretrainedCfg)} - _SOURCES
_TOP = (
    "architecture",
    "num_classes",
    "num_features",
    "global_pool",
    "model_args",
    "label_names",
    "label_descriptions",
)
# what decides where things are read from, or how they are built, is for the caller to say, never
# for a file
_RESERVED = {
    *inspect.signature(timm.create_model).parameters,
    *inspect.signature(build_model_with_cfg).parameters,
}
_RESERVED |= {"features_only", "out_indices", "feature_cls", "device", "dtype"}
_RESERVED -= {"kwargs"}


def read_json(path: Path, what: str, limit: int = MAX_CONFIG) -> Any:
    """The JSON of a file of at most `limit` bytes, without NaN, duplicate keys or bottomless
    nesting.

    Raises:
        ConfigError: it is none of that.
    """
    try:
        if path.stat().st_size > limit:
            raise ConfigError(
                f"{what} has {path.stat().st_size:,} bytes; more than {limit:,} is refused"
            )
        found = json.loads(
            path.read_bytes(), object_pairs_hook=_unique, parse_constant=_no_constant
        )
    except RecursionError as error:
        raise ConfigError(f"{what} is nested too deeply: refused") from error
    except (OSError, ValueError) as error:  # of which JSON's and Unicode's errors are
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"{what} is damaged ({shown(error)}): save or download it again"
        ) from error
    level = [found]
    # whoever walks through it later, as repr and json.dumps do, must not run out of stack
    for _ in range(MAX_DEPTH):
        level = [
            each
            for one in level
            if isinstance(one, dict | list)
            for each in (one.values() if isinstance(one, dict) else one)
        ]
    if level:
        raise ConfigError(f"{what} is nested too deeply: refused")
    return found


def shown(text: object, length: int = 300) -> str:
    """`text` for a message, without characters that a terminal would obey."""
    return "".join(c if c.isprintable() else "?" for c in str(text)[:length])


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ConfigError(
            "a key occurs twice in one object: refused, since readers differ in which one they take"
        )
    return found


def _no_constant(name: str) -> None:
    raise ConfigError(f"{name} is not JSON, and no number of a saved model")


def read_config(path: Path) -> dict[str, Any]:
    """A config.json of timm's, reduced to what describes the model: places to read from, and keys
    nobody knows, are dropped.

    Raises:
        ConfigError: a value is missing, of the wrong kind, or out of bounds.
    """
    config = read_json(path, "config.json")
    if not isinstance(config, dict) or not isinstance(config.get("architecture"), str):
        raise ConfigError(
            "config.json does not name an architecture: this is no model saved by timm or"
            " timm_repair"
        )
    architecture = config["architecture"]
    arguments = config.get("model_args", {})
    pretrained = config.get("pretrained_cfg", {})
    _check_name("architecture", architecture)
    if not isinstance(arguments, dict) or not isinstance(pretrained, dict):
        raise ConfigError("config.json: model_args and pretrained_cfg must be objects")
    if forbidden := sorted(_RESERVED & arguments.keys()):
        raise ConfigError(f"config.json: model_args may not set {', '.join(forbidden)}")
    if "base" in arguments:
        _check_name("base", arguments["base"])
    if not isinstance(arguments.get("edits", []), list):
        raise ConfigError(f"config.json: edits must be a list, got {arguments['edits']!r:.50}")
    check_arguments(arguments)
    count = config.get("num_classes", pretrained.get("num_classes", 1000))
    for each in (count, arguments.get("num_classes", count)):
        if type(each) is not int or not 0 <= each <= MAX_CLASSES:
            raise ConfigError(
                f"config.json: num_classes must be an integer from 0 to {MAX_CLASSES:,}, got"
                f" {each!r:.50}"
            )
    kept = {key: value for key, value in pretrained.items() if key in _PRETRAINED}
    for key in _SIZES:
        if kept.get(key) is not None and not _is_size(kept[key]):
            raise ConfigError(
                f"config.json: {key} must be two or three positive integers, got {kept[key]!r:.100}"
            )
    for key in ("label_names", "label_descriptions"):
        for names in (config.get(key), kept.get(key)):  # timm reads both
            _check_labels(key, names)
    _check_size(
        "pretrained_cfg",
        {
            key: value
            for key, value in kept.items()
            if key not in ("label_names", "label_descriptions")
        },
    )
    patch = {"patch": _check_patch(config["timm_repair"])} if "timm_repair" in config else {}
    return {key: config[key] for key in _TOP if key in config} | {"pretrained_cfg": kept} | patch


def _check_patch(spec: Any) -> dict[str, Any]:
    """What a patch says of its base: {"version": 1, "base": Hub id, "revision": commit, "sha256":
    of its weights}.
    """
    if not isinstance(spec, dict) or set(spec) != {"version", "base", "revision", "sha256"}:
        raise ConfigError(
            "config.json: timm_repair must have exactly version, base, revision and sha256, got"
            f" {spec!r:.200}"
        )
    if type(spec["version"]) is not int or spec["version"] != 1:
        raise ConfigError(
            f"this patch has version {spec['version']!r:.20}; this timm_repair reads 1: upgrade"
            " timm_repair"
        )
    if (
        not isinstance(spec["base"], str)
        or spec["base"].count("/") != 1
        or not all(
            re.fullmatch(r"\w[\w.-]{0,95}", part, re.ASCII) and ".." not in part
            for part in spec["base"].split("/")
        )
    ):
        raise ConfigError(
            "config.json: the base of a patch must be a Hub id 'user/name', got"
            f" {spec['base']!r:.100}"
        )
    for key, digits in (("revision", 40), ("sha256", 64)):
        if not isinstance(spec[key], str) or not re.fullmatch(f"[0-9a-f]{{{digits}}}", spec[key]):
            raise ConfigError(
                f"config.json: {key} of a patch must be {digits} hexadecimal digits, got"
                f" {spec[key]!r:.100}"
            )
    return spec


def check_base(base: Any) -> str:
    """`base` if it is the name of an architecture that timm has.

    Raises:
        ConfigError: it is not; a name with a scheme or a path in it would make timm fetch or read
            something else.
    """
    if (
        not isinstance(base, str)
        or base == "timm_repaired"
        or set(base) & set(":/\\@")
        or not timm.is_model(base)
    ):
        raise ConfigError(f"base must be the name of a timm architecture, got {base!r:.100}")
    return base


def _check_name(key: str, name: Any) -> None:
    if key == "architecture" and name == "timm_repaired":
        return
    try:
        check_base(name)
    except ConfigError as error:
        raise ConfigError(
            f"config.json: {key} must be the name of a timm architecture, got {name!r:.100}"
        ) from error


def _is_size(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) in (2, 3)
        and all(type(v) is int and 1 <= v <= 65_536 for v in value)
    )


def _check_labels(key: str, value: Any) -> None:
    if value is None:
        return
    if not isinstance(value, list | dict) or len(value) > MAX_CLASSES:
        raise ConfigError(f"config.json: {key} must be a list or an object of names")
    for name in (*value, *value.values()) if isinstance(value, dict) else value:
        if (
            not isinstance(name, str)
            or len(name) > 1000
            or any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in name)
        ):
            raise ConfigError(f"config.json: {key} holds {name!r:.80}, which is no name of a class")
        if re.search(r"<\s*[A-Za-z/!?]", name):
            raise ConfigError(f"config.json: {key} holds markup, {name!r:.80}: refused")


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Look for absurd numbers in what a model is built with. Objects that no JSON holds, which only
    a caller can give, pass.

    Raises:
        ConfigError: there are some.
    """
    # edits have checks of their own
    _check_size("model_args", {key: value for key, value in arguments.items() if key != "edits"})


def _check_size(what: str, value: Any, depth: int = 0, limit: int = MAX_INTEGER) -> None:
    """Raise ConfigError unless it is of modest size."""
    if depth > 8:
        raise ConfigError(f"config.json: {what} is nested too deeply")
    if isinstance(value, dict | list | tuple):
        if len(value) > 10_000:
            raise ConfigError(f"config.json: {what} has {len(value):,} entries: refused")
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            _check_size(
                f"{what}.{shown(key, 60)}",
                each,
                depth + 1,
                MAX_WINDOW if "window" in str(key) else limit,
            )
    elif isinstance(value, str):
        if len(value) > 10_000:
            raise ConfigError(
                f"config.json: {what} is a text of {len(value):,} characters: refused"
            )
    elif isinstance(value, int | float) and not -limit <= value <= limit:
        raise ConfigError(f"config.json: {what} is {value!r:.50}, out of bounds")
