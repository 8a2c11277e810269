"""The entry point: a repaired model is a plain timm model, `timm_repaired(base, edits)`, and timm
itself builds it once timm_repair is imported.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import timm
import torch
from timm.models import build_model_with_cfg, get_pretrained_cfg
from torch import nn

from timm_repair.architecture.cell import build
from timm_repair.architecture.genotype import Genotype
from timm_repair.errors import ConfigError
from timm_repair.hub.trust.build import bounded, check_buffers, sketching
from timm_repair.hub.trust.config import check_arguments, check_base, shown
from timm_repair.models.block import Block
from timm_repair.models.description import description
from timm_repair.models.surgery import extract, swap
from timm_repair.runtime.boundary import public
from timm_repair.runtime.fence import default_device

ARCHITECTURE = "timm_repaired"  # as registration.py calls it
MAX_EDITS, MAX_PATHS = 64, 512
# times the parameters of the base architecture as timm makes it; plus 10^8, for many classes
MAX_GROWTH = 8


@public
def apply_edits(model: nn.Module, edits: Sequence[Mapping[str, Any]]) -> nn.Module:
    """Give `model` the architecture of a repair, in place; the added paths start at zero, so it
    still computes what it did.

    Args:
        edits: [{"paths": [module path, …], "genotype": Genotype.to_dict()}, …], in the order of the
            repairs.

    Raises:
        ConfigError: an edit is malformed or does not fit the model.
    """
    if not isinstance(edits, (list, tuple)) or len(edits) > MAX_EDITS:
        raise ConfigError(f"edits must be a list of at most {MAX_EDITS} repairs")
    for edit in edits:
        if not isinstance(edit, Mapping) or set(edit) != {"paths", "genotype"}:
            raise ConfigError(
                f"an edit needs exactly the keys 'paths' and 'genotype', got {edit!r:.200}"
            )
        paths, genotype = edit["paths"], Genotype.from_dict(edit["genotype"])
        if (
            not isinstance(paths, (list, tuple))
            or not 1 <= len(paths) <= MAX_PATHS
            or not all(isinstance(p, str) for p in paths)
        ):
            raise ConfigError(f"an edit's paths are a list of module paths, got {paths!r:.200}")
        modules = dict(model.named_modules())
        unknown = [p for p in paths if p not in modules or not p]
        if (
            unknown
            or len({p.rpartition(".")[0] for p in paths}) > 1
            or len(set(paths)) < len(paths)
        ):
            raise ConfigError(
                f"the edit's paths {list(paths)!r:.200} are not children of one module of this"
                " model"
            )
        block = Block.at(paths)
        # where the model is: strangers' files are tried on "meta", where nothing takes memory
        with next(model.parameters()).device:
            swap(model, block, build(genotype, extract(model, block)))
    return model


def repaired(pretrained: bool = False, pretrained_cfg: Any = None, **kwargs: Any) -> nn.Module:
    """What timm's entry point `timm_repaired` gives: `base` with `edits` applied; an instance of
    the base's own class.

    Raises:
        ConfigError: `base` is not the name of a timm architecture, or an edit is malformed.
    """
    base = check_base(kwargs.get("base"))
    if not pretrained_cfg:  # transformers passes none
        own = get_pretrained_cfg(base)
        assert own is not None, "check_base knows it"
        pretrained_cfg = dataclasses.replace(
            own, architecture=ARCHITECTURE, url=None, file=None, hf_hub_id=None, tag=None
        ).to_dict()
    return build_model_with_cfg(
        _build,
        ARCHITECTURE,
        pretrained,
        pretrained_cfg=pretrained_cfg,
        feature_cfg={"feature_cls": "getter"},
        **kwargs,
    )


def _build(*, base: str, edits: Sequence[Mapping[str, Any]] = (), **kwargs: Any) -> nn.Module:
    # the numbers may be a stranger's: look before memory is taken
    if default_device() != "meta":
        # what timm's create_model did not take itself comes from a config.json
        if "checkpoint_path" in kwargs:
            raise ConfigError("model_args may not set checkpoint_path")
        check_arguments(kwargs)
        with sketching():
            usual = timm.create_model(base)
        with sketching(100 * sum(1 for _ in usual.modules()) + 1000):
            model = _build(base=base, edits=edits, **kwargs)
        check_buffers(model)
        usual, asked = (sum(p.numel() for p in each.parameters()) for each in (usual, model))
        if asked > MAX_GROWTH * usual + 10**8:
            raise ConfigError(
                f"the saved model has {asked:,} parameters, its base {usual:,}: refused"
            )
    with bounded():
        return apply_edits(timm.create_model(base, pretrained=False, **kwargs), edits)


def mark(model: nn.Module, edits: Sequence[Mapping[str, Any]]) -> None:
    """Make timm's exporters describe a model that was given `edits`; a second repair appends to the
    first. Not for modules that timm did not make.
    """
    config, arguments = description(model), dict(getattr(model, "_model_args", {}))
    if not edits or not config.get("architecture"):
        return
    arguments["base"] = arguments.get("base", config["architecture"])
    arguments["edits"] = [*arguments.get("edits", []), *edits]
    config["architecture"] = ARCHITECTURE
    named = cast(Any, model)  # a module's own attributes, which torch's hints do not know
    named.pretrained_cfg = named.default_cfg = config
    named._model_args = arguments


def created(folder: Path, kwargs: Mapping[str, Any]) -> nn.Module:
    """The model that timm makes of a folder, with its weights unless `kwargs` say otherwise; the
    random state is left alone.

    Raises:
        ConfigError: it cannot.
    """
    options: dict[str, Any] = {"pretrained": True} | dict(kwargs)
    try:
        # building a model draws weights that are thrown away
        with torch.random.fork_rng(devices=[]):
            return timm.create_model(f"local-dir:{folder}", **options)
    except ConfigError:
        raise
    except Exception as error:  # noqa: BLE001  whatever timm makes of a stranger's first_conv, label_offset and the like
        raise ConfigError(
            f"timm cannot load the saved model ({type(error).__name__}: {shown(error)})"
        ) from error
