"""Saving and loading: a repaired model is a plain timm model, `timm_repaired(base, edits)`, in timm's own folder layout.

Files: config.json (timm's; the edits in `model_args`), model.safetensors, repair.json (the whole Report), README.md (the card) and
figures/. A repair that changed weights alone keeps the base model's own architecture name and loads in timm without this package.
"""

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from timm.models import build_model_with_cfg, get_pretrained_cfg, register_model
from timm.models._hub import save_config_for_hf  # not re-exported; timm.models.save_for_hf would also write weights
from torch import nn

from timm_repair import card, figures
from timm_repair.errors import ConfigError, OutputError
from timm_repair.partition import Block
from timm_repair.report import Report
from timm_repair.space import Genotype, build
from timm_repair.surgery import extract, swap

ARCHITECTURE = "timm_repaired"
MAX_EDITS, MAX_PATHS = 64, 512


def apply_edits(model: nn.Module, edits: Sequence[Mapping[str, Any]]) -> nn.Module:
    """Give `model` the architecture of a repair, in place; the added paths start at zero, so it still computes what it did.

    Args:
        edits: [{"paths": [module path, …], "genotype": Genotype.to_dict()}, …], in the order of the repairs.

    Raises:
        ConfigError: an edit is malformed or does not fit the model.
    """
    if not isinstance(edits, (list, tuple)) or len(edits) > MAX_EDITS:
        raise ConfigError(f"edits must be a list of at most {MAX_EDITS} repairs")
    for edit in edits:
        if not isinstance(edit, Mapping) or set(edit) != {"paths", "genotype"}:
            raise ConfigError(f"an edit needs exactly the keys 'paths' and 'genotype', got {edit!r:.200}")
        paths, genotype = edit["paths"], Genotype.from_dict(edit["genotype"])
        if not isinstance(paths, (list, tuple)) or not 1 <= len(paths) <= MAX_PATHS or not all(isinstance(p, str) for p in paths):
            raise ConfigError(f"an edit's paths are a list of module paths, got {paths!r:.200}")
        modules = dict(model.named_modules())
        unknown = [p for p in paths if p not in modules or not p]
        if unknown or len({p.rpartition(".")[0] for p in paths}) > 1 or len(set(paths)) < len(paths):
            raise ConfigError(f"the edit's paths {list(paths)!r:.200} are not children of one module of this model")
        block = Block(paths[0], tuple(paths), "body", None, None, (), 0, 0)
        swap(model, block, build(genotype, extract(model, block)))
    return model


@register_model
def timm_repaired(pretrained: bool = False, pretrained_cfg: Any = None, **kwargs: Any) -> nn.Module:
    """timm entry point of every repaired model: `base` with `edits` applied; an instance of the base's own class.

    Raises:
        ConfigError: `base` is not the name of a timm architecture, or an edit is malformed.
    """
    base = kwargs.get("base")
    # a name with a scheme or a path in it would make timm fetch or read something else
    if not isinstance(base, str) or base == ARCHITECTURE or set(base) & set(":/\\@") or not timm.is_model(base):
        raise ConfigError(f"base must be the name of a timm architecture, got {base!r:.100}")
    if not pretrained_cfg:  # transformers passes none
        own = get_pretrained_cfg(base)
        pretrained_cfg = dataclasses.replace(own, architecture=ARCHITECTURE, url=None, file=None, hf_hub_id=None, tag=None).to_dict()
    return build_model_with_cfg(
        _build, ARCHITECTURE, pretrained, pretrained_cfg=pretrained_cfg, feature_cfg={"feature_cls": "getter"}, **kwargs)


def _build(*, base: str, edits: Sequence[Mapping[str, Any]] = (), **kwargs: Any) -> nn.Module:
    return apply_edits(timm.create_model(base, pretrained=False, **kwargs), edits)


def mark(model: nn.Module, edits: Sequence[Mapping[str, Any]]) -> None:
    """Make timm's exporters describe a model that was given `edits`; a second repair appends to the first. Not for plain modules."""
    config = getattr(model, "pretrained_cfg", None)
    if not edits or not config:
        return
    config, arguments = dict(config), dict(getattr(model, "_model_args", {}))
    arguments["base"] = arguments.get("base", config["architecture"])
    arguments["edits"] = [*arguments.get("edits", []), *edits]
    config["architecture"] = ARCHITECTURE
    model.pretrained_cfg = model.default_cfg = config
    model._model_args = arguments


def check_output(directory: str | Path) -> Path:
    """The directory to save to, made if missing; called before any work starts, so that no work is lost at its end.

    Raises:
        OutputError: it is a file, cannot be written, or holds files that are not of an earlier save.
    """
    path = Path(directory).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise OutputError(f"cannot write to {str(path)!r} ({error}): choose another output directory") from error
    there = sorted(p.name for p in path.iterdir() if not p.name.startswith(SCRATCH))
    foreign = there if "repair.json" not in there else [name for name in there if name not in FILES]
    if foreign:
        raise OutputError(f"{str(path)!r} holds {', '.join(foreign[:5])}, which is not a saved repair: choose an empty directory")
    return path


SCRATCH = ".saving-"
FILES = ("config.json", "model.safetensors", "repair.json", "README.md", "figures")


def check_savable(model: nn.Module) -> None:
    """Raise ConfigError for a model that timm did not make, or that was changed since, so that timm could not load it again."""
    if not getattr(model, "pretrained_cfg", None):
        raise ConfigError("only models made by timm can be saved as timm folders; for others leave output_dir out, keep "
                          "repaired.model.state_dict() and repaired.edits, and rebuild with timm_repair.apply_edits(model, edits)")
    with tempfile.TemporaryDirectory() as folder:
        _write_config(model, Path(folder, "config.json"))
        rebuilt = _load(Path(folder), pretrained=False).state_dict()
    shapes = {k: v.shape for k, v in model.state_dict().items()}
    if {k: v.shape for k, v in rebuilt.items()} != shapes:
        raise ConfigError("timm would not build this model again: it was changed after timm.create_model (a replaced head?). Make such "
                          "changes by create_model's own arguments, such as num_classes")


def save(model: nn.Module, report: Report, directory: str | Path) -> Path:
    """Write the model folder; see the module's docstring for its files. Never touches the network.

    The files are written to a scratch folder, loaded back and compared, and only then moved in: what was there before stays until the
    new ones are whole.

    Raises:
        OutputError: see `check_output`.
        ConfigError: not a timm model, so that timm could not load it again; keep `state_dict()` and the edits yourself.
    """
    check_savable(model)
    target = check_output(directory)
    with tempfile.TemporaryDirectory(dir=target, prefix=SCRATCH) as scratch:
        folder = Path(scratch) / "new"
        folder.mkdir()
        state = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
        safetensors.torch.save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        _write_config(model, folder / "config.json")
        (folder / "model.safetensors").chmod((folder / "config.json").stat().st_mode)  # safetensors would keep it to its owner
        _check_round_trip(folder, state)
        (folder / "repair.json").write_text(json.dumps(report.to_dict(), indent=1, allow_nan=False))
        (folder / "README.md").write_text(card.render(report), encoding="utf-8")
        if find_spec("matplotlib"):  # an optional extra
            (folder / "figures").mkdir()
            figures.save_all(report, folder / "figures")
        for name in FILES:
            new, old = folder / name, target / name
            if old.is_dir():
                shutil.rmtree(old)
            if new.exists():
                new.replace(old)
    return target


def _load(folder: Path, *, pretrained: bool) -> nn.Module:
    try:
        with torch.random.fork_rng(devices=[]):  # building a model draws weights that are thrown away
            return timm.create_model(f"local-dir:{folder.resolve()}", pretrained=pretrained)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(f"timm cannot build the saved model again ({type(error).__name__}: {error})") from error


def _write_config(model: nn.Module, path: Path) -> None:
    save_config_for_hf(model, str(path))
    config = json.loads(path.read_text())
    # timm restores it from the top level; transformers passes it a second time and would fail
    config.get("model_args", {}).pop("num_classes", None)
    config["pretrained_cfg"].pop("tag", None)  # these are not the weights of that tag any more
    names = model.pretrained_cfg.get("label_names")
    if names and len(names) == model.num_classes:  # timm drops them where it thinks that the head was replaced
        config["label_names"] = list(names)
    path.write_text(json.dumps(config, indent=2, allow_nan=False))


def _check_round_trip(folder: Path, state: dict[str, torch.Tensor]) -> None:
    loaded = _load(folder, pretrained=True).state_dict()
    if loaded.keys() != state.keys() or any(not torch.equal(v, loaded[k].cpu()) for k, v in state.items()):
        raise ConfigError("the saved folder does not load back to the same weights; the model was changed in a way the edits do not tell")


def from_pretrained(name_or_path: str, **kwargs: Any) -> nn.Module:
    """Load a repaired model from a folder or a Hub id; `kwargs` go to `timm.create_model` (num_classes, in_chans, cache_dir, …)."""
    known = ("hf-hub:", "local-dir:")
    if name_or_path.startswith(known):
        source = name_or_path
    elif Path(name_or_path).is_dir():
        source = f"local-dir:{Path(name_or_path).resolve()}"
    else:
        source = f"hf-hub:{name_or_path}"
    return timm.create_model(source, **({"pretrained": True} | kwargs))
