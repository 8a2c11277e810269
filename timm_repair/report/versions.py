"""Saved reports: the version is checked, and what an older one wrote is read."""

from collections.abc import Mapping

from timm_repair.errors import ConfigError

# of the form; 1 knew one repaired block at most, 2 nothing of the base but its name, 3 neither the
# names of the classes, nor where the repair was computed, nor properties, 4 no diagnosis, 5 nothing
# of single examples but their answers, nor what was asked, nor how data flow in a block
VERSION = 6

# the columns of α in histories of before they named their `operations`
OPERATIONS = ("none", "skip", "avg_pool", "max_pool", "sep_conv", "dil_conv")


def upgraded(data: Mapping) -> Mapping:
    """A report of an older version as one of today; any other as it is."""
    if not isinstance(data, Mapping):
        return data
    # one block and its genotype
    if data.get("version") == 1 and {"block", "genotype"} <= data.keys():
        block, genotype = data["block"], data["genotype"]
        rest = {name: value for name, value in data.items() if name not in ("block", "genotype")}
        data = rest | {
            "repaired_blocks": [block] if block else [],
            "genotypes": {block: genotype} if block and genotype else {},
        }
    if data.get("version") in (1, 2) and "base" not in data:
        data = dict(data) | {"base": {}, "weights": None}
    if data.get("version") in (1, 2, 3):
        later = {"label_names": [], "environment": {}, "properties": []}
        data = later | dict(data)
    if data.get("version") in (1, 2, 3, 4):
        data = {"diagnosis": None} | dict(data)
    if data.get("version") in (1, 2, 3, 4, 5):
        data = {"asked": {}, "flows": {}} | dict(data)
    return data


def check_version(data: Mapping, known: set[str], what: str) -> None:
    """Raise ConfigError unless `data` has exactly the fields `known`, and a version that this
    package reads.
    """
    if not isinstance(data, Mapping) or not isinstance(data.get("version"), int):
        raise ConfigError(
            f"this is no saved {what}: it has no version number; give what to_dict() returned"
        )
    if data["version"] > VERSION:
        raise ConfigError(
            f"this {what} has version {data['version']}, newer than {VERSION}; update timm_repair"
        )
    if set(data) != known:
        lacking, unknown = sorted(known - set(data)), sorted(set(data) - known)
        raise ConfigError(f"this {what} lacks {lacking} or has unknown {unknown}; save it again")
