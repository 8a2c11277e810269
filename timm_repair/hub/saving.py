"""Saving: a repaired model as a folder in timm's own layout. No network.

Files: config.json (timm's; the edits in `model_args`), model.safetensors, or patch.safetensors for
the repaired part alone, repair.json (the whole Report), README.md (the card), figures/, report.html
(the page that shows the repair) and examples/ (small pictures for it, unless none are wanted). A
repair that changed weights alone keeps the base model's own architecture name and loads in timm
without this package.
"""

import json
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import psutil
import safetensors.torch
import timm
import torch
from timm.models._hub import save_config_for_hf
from torch import nn

from timm_repair.errors import ConfigError, OutputError
from timm_repair.hub import card, pictures
from timm_repair.hub.entry_point import created
from timm_repair.hub.folder import CONFIG, PAGE, PATCH, REPORT, WEIGHTS, writable
from timm_repair.hub.lineage import lineage, revert
from timm_repair.hub.trust.config import MAX_REPORT, read_json
from timm_repair.images.classes import told_names
from timm_repair.images.preprocessing import Preprocessing, told
from timm_repair.models.answering import first_difference, made_up
from timm_repair.models.description import description
from timm_repair.models.weights import fingerprint
from timm_repair.options import RUN
from timm_repair.report.figures import overview
from timm_repair.report.gallery import Gallery
from timm_repair.report.report import Report
from timm_repair.runtime.journal import FOLDER

logger = logging.getLogger(__name__)

SCRATCH = ".saving-"
REMOTE_CODE = "modeling_timm_repair.py"
# in the order in which they are moved into place: the report makes the folder ours, and without a
# config nothing loads it
FILES = (
    *(REPORT, WEIGHTS, PATCH, "README.md", "figures", PAGE, pictures.FOLDER, REMOTE_CODE, RUN),
    CONFIG,
)

# A fixed text: what is saved never becomes code. transformers executes it only for who says
# trust_remote_code=True.
_REMOTE_CODE = '''"""Lets transformers load this model with trust_remote_code=True; timm_repair must be installed."""

import timm_repair  # noqa: F401  registers the architecture with timm
import transformers


class TimmWrapperForImageClassification(transformers.TimmWrapperForImageClassification):
    pass  # of the same name: pipelines warn of names that they do not know
'''  # noqa: E501


def check_output(directory: str | Path) -> Path:
    """The directory to save to, made if missing; called before any work starts, so that no work is
    lost at its end.

    Raises:
        OutputError: it is a file, cannot be written, or holds files that are not of an earlier
            save.
    """
    path = writable(directory)
    there = sorted(
        p.name for p in path.iterdir() if not p.name.startswith(SCRATCH) and p.name != FOLDER
    )
    foreign = there if REPORT not in there else [name for name in there if name not in FILES]
    if foreign:
        raise OutputError(
            f"{str(path)!r} holds {', '.join(foreign[:5])}, which is not a saved repair: choose an"
            " empty directory"
        )
    return path


def check_savable(model: nn.Module) -> None:
    """Raise ConfigError for a model that timm would not load again as what it is: one that timm did
    not make, or that was changed since. What timm builds is given its weights, and both answer the
    same images.
    """
    config = description(model)
    if not timm.is_model(config.get("architecture") or ""):
        said = "names no architecture of timm" if config else "is missing"
        raise ConfigError(
            f"only models made by timm can be saved as timm folders (pretrained_cfg {said}); for"
            " others leave output_dir out, keep repaired.model.state_dict() and repaired.edits, and"
            " rebuild with timm_repair.apply_edits(model, edits)"
        )
    state = model.state_dict()
    if other := [name for name, value in state.items() if not isinstance(value, torch.Tensor)]:
        raise ConfigError(
            f"{other[0]!r} in the model's state is no tensor (get_extra_state), and timm's folders"
            " hold nothing else: leave output_dir out and keep repaired.model.state_dict()"
        )
    with tempfile.TemporaryDirectory() as folder:
        _write_config(model, Path(folder, CONFIG), {})
        rebuilt = created(Path(folder), {"pretrained": False})
    shapes, theirs = (
        {k: v.shape for k, v in each.items()} for each in (state, rebuilt.state_dict())
    )
    if different := sorted(k for k in shapes | theirs if shapes.get(k) != theirs.get(k)):
        first = _here_and_there(different[0], shapes, theirs)
        raise ConfigError(
            f"timm would not build this model again ({first}): it was changed after"
            " timm.create_model (a replaced head?). Make such changes by create_model's own"
            " arguments, such as num_classes"
        )
    rebuilt.load_state_dict(state)
    _require_same_answers(model, rebuilt.eval())


def _here_and_there(name: str, here: dict[str, Any], there: dict[str, Any]) -> str:
    words = [str(tuple(each[name])) if name in each else "missing" for each in (here, there)]
    return f"{name}: {words[0]} here, {words[1]} as timm builds it"


def _require_same_answers(model: nn.Module, rebuilt: nn.Module) -> None:
    """Raise ConfigError where `rebuilt`, which timm made with the weights of `model`, is another
    model all the same: other strides, activations or eps have the same weights.
    """
    preprocessing = Preprocessing.of(model)
    told(model, rebuilt)
    images = made_up(preprocessing.input_size, model)
    path = first_difference(model, rebuilt.to(images.device), images)
    remedy = (
        "it was changed after timm.create_model: make such changes by create_model's own arguments,"
        " or leave output_dir out and keep repaired.model.state_dict() and repaired.edits"
    )
    if path is not None:
        here, there = (" ".join(str(m.get_submodule(path)).split()) for m in (model, rebuilt))
        how = f" ({here:.150} here, {there:.150} as timm builds it)" if here != there else ""
        raise ConfigError(
            "timm would load another model, which answers otherwise. The first module whose output"
            f" differs is {path or 'the model itself'!r}{how}: {remedy}"
        )
    again = Preprocessing.of(rebuilt)
    if again != preprocessing:
        before, after = preprocessing.config, again.config
        key = next(key for key in before | after if before.get(key) != after.get(key))
        raise ConfigError(
            f"timm would load the model with another preprocessing ({key}: {before.get(key)} here,"
            f" {after.get(key)} there): {remedy}"
        )


def save(
    model: nn.Module,
    report: Report,
    directory: str | Path,
    *,
    patch: bool = False,
    remote_code: bool = False,
    readme: str | None = None,
    gallery: Gallery | None = None,
    **about: Any,
) -> Path:
    """Write the model folder; see the module's docstring for its files. Never touches the network.

    The files are written to a scratch folder, loaded back and compared, and only then moved in:
    what was there before stays until the new ones are whole.

    Args:
        patch: write only the tensors that the repair changed, and which model of the Hub they
            belong to.
        remote_code: add the file with which transformers loads the model under
            trust_remote_code=True.
        readme: a card that people may have edited; their text stays. None takes the one in the
            folder.
        gallery: pictures for the page and for examples/; None for none.
        about: for the card, see `card.render`.

    Raises:
        OutputError: see `check_output`.
        ConfigError: not a timm model, so that timm could not load it again; or no patch can be made
            of it.
    """
    check_savable(model)
    if report.weights is not None and fingerprint(model.state_dict()) != report.weights:
        raise ConfigError(
            "these are not the weights that the report measured (trained or converted since, or"
            " with another head): repair again; or say with report=dataclasses.replace(report,"
            " weights=None) that its numbers hold all the same"
        )
    target = check_output(directory)
    extra = {"timm_repair": _patch_base(model)} if patch else {}
    if remote_code:
        extra["auto_map"] = {
            "AutoModelForImageClassification": (
                f"{REMOTE_CODE[:-3]}.TimmWrapperForImageClassification"
            )
        }
    readme = _read_text(target / "README.md") if readme is None else readme
    _sweep(target)
    with tempfile.TemporaryDirectory(dir=target, prefix=_scratch(f"{os.getpid()}-")) as scratch:
        folder = Path(scratch) / "new"
        folder.mkdir()
        _write_config(model, folder / CONFIG, extra)
        _write_weights(model, folder, patch)
        if remote_code:
            (folder / REMOTE_CODE).write_text(_REMOTE_CODE)
        (folder / REPORT).write_text(json.dumps(report.to_dict(), indent=1, allow_nan=False))
        _draw(report, folder / "figures")
        gallery = gallery or Gallery()
        pictures.write(gallery, folder / pictures.FOLDER)
        drawn = bool(find_spec("matplotlib"))
        pictures.write_page(report, gallery, folder / PAGE, charts=drawn)
        write_card(folder, report, readme, patch=patch, **about)
        (target / CONFIG).unlink(missing_ok=True)
        for name in FILES:
            new, old = folder / name, target / name
            if old.is_dir():
                shutil.rmtree(old)
            elif not new.exists():
                old.unlink(missing_ok=True)  # of an earlier save: whole weights beside a patch, say
            if new.exists():
                new.replace(old)
    return target


def save_plain(model: nn.Module, folder: Path) -> None:
    """Write a model into `folder`, which is made where it is not there, as timm does: without a
    report.

    Raises:
        ConfigError: timm could not load it again.
    """
    check_savable(model)
    folder.mkdir(exist_ok=True)
    _write_config(model, folder / CONFIG, {})
    _write_weights(model, folder, False)


def _draw(report: Report, folder: Path) -> None:
    """The figures, if they can be drawn: a model is not left unsaved for them."""
    if not find_spec("matplotlib"):  # an optional extra
        return
    folder.mkdir()
    try:
        overview.save_all(report, folder)
    except Exception as error:  # noqa: BLE001  whatever matplotlib makes of fonts, backends, disks
        shutil.rmtree(folder, ignore_errors=True)
        logger.warning(
            "saved without figures (%s: %.200s): draw them from the report, with"
            " `timm-repair report %s`",
            type(error).__name__,
            error,
            REPORT,
        )


def write_card(folder: Path, report: Report, readme: str | None, **about: Any) -> None:
    """Write README.md, with what people wrote in the card `readme`; `about` as for `card.render`.

    Raises:
        ConfigError: `readme` cannot be understood.
    """
    new = card.render(report, drawn=(folder / "figures").is_dir(), **about)
    # a licence that is said out loud is meant
    text = card.merged(readme, new, keep_license=not about.get("license"))
    (folder / "README.md").write_text(text, encoding="utf-8")


def report_of(model: nn.Module) -> Report:
    """The report of the repair that `model` came from.

    Raises:
        ConfigError: there is none, or its file is damaged.
    """
    known = lineage(model)
    if known is None or known.report is None:
        raise ConfigError(
            "this model carries no report of a repair: pass report=, or load it with"
            " timm_repair.from_pretrained"
        )
    if not isinstance(known.report, Report) and not known.report.is_file():
        raise ConfigError(
            f"the report of this model is gone with {str(known.report)!r}: load the model again, or"
            " pass report="
        )
    return known.report if isinstance(known.report, Report) else read_report(known.report)


def read_report(path: Path) -> Report:
    """The Report in a repair.json.

    Raises:
        ConfigError: it is damaged, or of a newer version.
    """
    return Report.from_dict(read_json(path, f"{str(path)!r}", MAX_REPORT))


def _scratch(owner: object = "") -> str:
    """Begin of the names of scratch folders: those of process `owner` of this machine, or of all of
    its processes.
    """
    return f"{SCRATCH}{socket.gethostname()}-{owner}"


def _sweep(target: Path) -> None:
    """Clear away what saves of this machine that were killed have left; others may be at work."""
    for scratch in target.glob(f"{_scratch()}*"):
        owner = scratch.name.removeprefix(_scratch()).partition("-")[0]
        if owner.isdecimal() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(scratch, ignore_errors=True)


def _read_text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _write_config(model: nn.Module, path: Path, extra: dict[str, Any]) -> None:
    """timm's config.json of `model`, with `extra`."""
    save_config_for_hf(model, str(path))
    config = json.loads(path.read_text())
    # timm restores it from the top level; transformers passes it a second time and would fail
    config.get("model_args", {}).pop("num_classes", None)
    config["pretrained_cfg"].pop("tag", None)  # these are not the weights of that tag any more
    names = told_names(description(model).get("label_names"))  # timm drops them with a new head
    if names and len(names) == cast(Any, model).num_classes:
        config["label_names"] = names
    path.write_text(json.dumps(config | extra, indent=2, allow_nan=False))


def _write_weights(model: nn.Module, folder: Path, patch: bool) -> None:
    """Its weights, or those that the repair changed, beside its config; loaded and compared."""
    if patch:
        origin = lineage(model)
        assert origin is not None, "whoever asks for a patch has checked it"
        name, tensors = PATCH, origin.patch(model)
    else:
        name = WEIGHTS
        tensors = _separate(model.state_dict())
    safetensors.torch.save_file(tensors, folder / name, metadata={"format": "pt"})
    # safetensors would keep it to its owner
    (folder / name).chmod((folder / CONFIG).stat().st_mode)
    if patch:
        return  # `_patch_base` has put it together again
    loaded = created(folder, {}).state_dict()
    if loaded.keys() != tensors.keys() or any(
        not torch.equal(v.to(loaded[k].dtype), loaded[k].cpu()) for k, v in tensors.items()
    ):
        raise ConfigError(
            "the saved folder does not load back to the same weights; the model was changed in a"
            " way the edits do not tell"
        )


def _separate(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors for a file, each with memory of its own. Tied ones are written under each of
    their names: timm asks for every name.
    """
    tensors, seen = {}, set()
    for name, value in state.items():
        tensor = value.detach().cpu().contiguous()
        tensors[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return tensors


def _patch_base(model: nn.Module) -> dict[str, Any]:
    """What a patch says of its base; everything that could make the patch useless is looked for
    here.
    """
    known = lineage(model)
    if known is None or not known.knows_original:
        raise ConfigError(
            "no patch without the original: patch=True takes the model of repair(), or a patch that"
            " was loaded"
        )
    if not known.kept:
        raise ConfigError(
            "the repair changed every tensor of the model: a patch would be all of it; leave"
            " patch=True out"
        )
    base = known.base
    if base.id is None:
        raise ConfigError(
            "a patch needs a base that others can load: repair a model by its timm name or"
            " 'hf-hub:user/name', or push the original and pass base_model='user/name'"
        )
    if base.revision is None:
        raise ConfigError(
            f"which commit of {base.id} was repaired is not known: push_to_hub looks it up"
        )
    revert(model)  # raises unless it gives the base, bit for bit
    return {"version": 1, "base": base.id, "revision": base.revision, "sha256": base.sha256}
