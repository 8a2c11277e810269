"""Reverting: the original of a repair that is saved, as a folder of timm's."""

from pathlib import Path

from torch import nn

from timm_repair.errors import ConfigError, RepairError
from timm_repair.hub.folder import CONFIG, REPORT
from timm_repair.hub.lineage import lineage, revert
from timm_repair.hub.loading import from_pretrained, load
from timm_repair.hub.saving import read_report, save_plain
from timm_repair.images.writing import replacing
from timm_repair.models.weights import fingerprint


def save_original(directory: Path, output: Path, *, overwrite: bool = False) -> str:
    """Save the model as it was before the repair in `directory`; returns where it is from.

    A patch holds its original. Of a model saved whole it is loaded by the name that the report has,
    and must have the weights that were repaired, bit for bit.

    Raises:
        ConfigError: there is no repair; the original is gone, or another one by now.
        OutputError: `output` cannot be written, or holds something.
    """
    with replacing(output, CONFIG, overwrite=overwrite) as folder:
        original, origin = _original(directory)
        save_plain(original, folder)
    return origin


def _original(directory: Path) -> tuple[nn.Module, str]:
    if not (directory / REPORT).is_file():
        raise ConfigError(f"{str(directory)!r} holds no repair: give the directory of a saved one")
    model = from_pretrained(directory)
    known = lineage(model)
    if known is not None and known.knows_original:
        return revert(model), "the patch"
    report = read_report(directory / REPORT)
    name, sha256 = report.model, report.base.get("sha256")
    try:
        _, original = load(name)
    except RepairError as error:
        raise ConfigError(
            f"the repair was saved whole, and holds no original; {name!r}, which it was made from,"
            f" cannot be loaded ({error})"
        ) from error
    if sha256 is None or fingerprint(original.state_dict()) != sha256:
        raise ConfigError(
            f"the repair was saved whole, and holds no original; {name!r}, which it was made from,"
            " has other weights by now"
        )
    return original, name
