"""Loading: a repaired model is a plain timm model, `timm_repaired(base, edits)`, and timm itself
loads it once this is imported.

`from_pretrained` is the careful way: all is checked first (trust.py, weights.py), one commit is
loaded, patches are put on their base.
"""

import dataclasses
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from timm.models import build_model_with_cfg, get_pretrained_cfg, register_model
from torch import nn

from timm_repair.errors import ConfigError, HubError, ModelError
from timm_repair.fetching import CONFIG, PATCH, REPORT, WEIGHTS, Snapshot, fetch
from timm_repair.lineage import Base, Lineage, edits_since, fingerprint
from timm_repair.partition import Block
from timm_repair.space import Genotype, build
from timm_repair.surgery import extract, swap
from timm_repair.trust import (
    bounded,
    check_arguments,
    check_base,
    check_buffers,
    outline,
    read_config,
    shown,
    sketching,
)
from timm_repair.weights import check_weights, tensor_count

ARCHITECTURE = "timm_repaired"
MAX_EDITS, MAX_PATHS = 64, 512
# times the parameters of the base architecture as timm makes it; plus 10^8, for many classes
MAX_GROWTH = 8


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
        swap(model, block, build(genotype, extract(model, block)))
    return model


@register_model
def timm_repaired(pretrained: bool = False, pretrained_cfg: Any = None, **kwargs: Any) -> nn.Module:
    """timm entry point of every repaired model: `base` with `edits` applied; an instance of the
    base's own class.

    Raises:
        ConfigError: `base` is not the name of a timm architecture, or an edit is malformed.
    """
    base = check_base(kwargs.get("base"))
    if not pretrained_cfg:  # transformers passes none
        own = get_pretrained_cfg(base)
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
    if torch.get_default_device().type != "meta":
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
    first. Not for plain modules.
    """
    config = getattr(model, "pretrained_cfg", None)
    if not edits or not config:
        return
    config, arguments = dict(config), dict(getattr(model, "_model_args", {}))
    arguments["base"] = arguments.get("base", config["architecture"])
    arguments["edits"] = [*arguments.get("edits", []), *edits]
    config["architecture"] = ARCHITECTURE
    model.pretrained_cfg = model.default_cfg = config
    model._model_args = arguments


def from_pretrained(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
    **kwargs: Any,
) -> nn.Module:
    """Load a saved model, whole or a patch, from a folder or the Hub. Nothing in it is executed;
    all of it is checked first.

    Args:
        name_or_path: a folder, "user/name", "hf-hub:user/name" or "local-dir:folder"; ids may end
            in "@revision".
        revision: branch, tag or commit. Config and weights are taken from the same commit.
        token: for private repositories; None is the one logged in with.
        kwargs: for `timm.create_model`: num_classes, in_chans, features_only, drop_rate, ….

    Returns:
        The model in eval mode, in timm's own class.

    Raises:
        ModelError: no such folder; or no safetensors weights.
        HubError: the Hub cannot be reached, or refuses; what was downloaded is damaged.
        ConfigError: config, weights, or the base of a patch are not what they should be.
        NonFiniteError: a weight is NaN or infinite.

    Example:
        >>> model = timm_repair.from_pretrained("me/resnet50-repaired", revision="v1.0")
    """
    download = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
    found = fetch(name_or_path, revision=revision, force_download=force_download, **download)
    config = read_config(found.file(CONFIG))
    origin, report = config.pop("patch", None), found.file(REPORT)
    if (found.file(PATCH) is None) != (origin is None) or None not in (
        found.file(PATCH),
        found.file(WEIGHTS),
    ):
        raise ConfigError(
            f"{name_or_path} is neither a whole model nor a patch: it was not pushed whole"
        )
    with tempfile.TemporaryDirectory(prefix="timm_repair-") as sandbox:
        if origin is None:
            model = _whole(found, config, Path(sandbox), kwargs)
            lineage = Lineage(Base(found.source), (), {}, frozenset(), report=report)
        else:
            base = _base(origin, download)
            model = _patched(found, config, base, Path(sandbox), kwargs)
            described = Base(
                origin["base"],
                origin["base"],
                origin["revision"],
                base.pretrained_cfg.get("architecture"),
                base.pretrained_cfg.get("license"),
                origin["sha256"],
            )
            lineage = Lineage.between(described, base, model, edits_since(base, model), report)
            # another head or input: not the model that the patch made
            if kwargs and not _as_saved(model, base, found.file(PATCH)):
                lineage = Lineage(described, (), {}, frozenset(), report=report)
    if not kwargs.get("features_only"):
        lineage.attach(model)
    return _at_home(model, found).eval()


def _as_saved(model: nn.Module, base: nn.Module, patch: Path) -> bool:
    """Whether `model`, loaded with arguments of the caller's, still is what base and patch make
    together.
    """
    saved = base.state_dict() | safetensors.torch.load_file(patch)
    return all(
        name in saved and torch.equal(value, saved[name])
        for name, value in model.state_dict().items()
    )


def _whole(
    found: Snapshot, config: dict[str, Any], sandbox: Path, kwargs: Mapping[str, Any]
) -> nn.Module:
    """The model of a snapshot with all its weights; `sandbox` is where timm reads it from, and
    holds what was checked alone.
    """
    weights = found.file(WEIGHTS)
    if weights is None:
        raise ConfigError(
            f"{found.source} has no {WEIGHTS}: the base of a patch must be a whole model"
        )
    (sandbox / CONFIG).write_text(json.dumps(config))
    expected = outline(sandbox, 20 * tensor_count(weights) + 1000).state_dict()
    check_weights(weights, expected)
    (sandbox / WEIGHTS).symlink_to(weights.resolve())
    return created(sandbox, kwargs)


def load_base(
    repo_id: str, revision: str | None, token: str | bool | None = None, **download: Any
) -> tuple[nn.Module, str]:
    """The model that a patch belongs to, whole, and the commit it was loaded at.

    Raises:
        HubError, ModelError: it is not there.
        ConfigError: it cannot be the base of a patch.
    """
    try:
        found = fetch(f"hf-hub:{repo_id}", revision=revision, token=token, **download)
    except (HubError, ModelError) as error:
        error.add_note("this is the base model of a patch, without which it is nothing")
        raise
    config = read_config(found.file(CONFIG))
    if config.pop("patch", None):
        raise ConfigError(f"{repo_id}, the base of a patch, is a patch itself: refused")
    with tempfile.TemporaryDirectory(prefix="timm_repair-") as sandbox:
        return _at_home(_whole(found, config, Path(sandbox), {}), found), found.revision


def _base(origin: Mapping[str, Any], download: Mapping[str, Any]) -> nn.Module:
    model, _ = load_base(origin["base"], origin["revision"], **download)
    if (seen := fingerprint(model.state_dict())) != origin["sha256"]:
        raise ConfigError(
            f"{origin['base']} has other weights (SHA-256 {seen[:12]}…) than the base that the"
            f" patch was made for ({origin['sha256'][:12]}…): refused"
        )
    return model


def _patched(
    found: Snapshot,
    config: dict[str, Any],
    base: nn.Module,
    sandbox: Path,
    kwargs: Mapping[str, Any],
) -> nn.Module:
    patch, known = found.file(PATCH), base.state_dict()
    (sandbox / CONFIG).write_text(json.dumps(config))
    expected = outline(sandbox, 20 * (tensor_count(patch) + len(known)) + 1000).state_dict()
    check_weights(patch, expected, part=True)
    state = safetensors.torch.load_file(patch)
    for name, tensor in expected.items():
        if name not in state:
            if name not in known or known[name].shape != tensor.shape:
                raise ConfigError(
                    f"{name} is neither in the patch nor in its base: the patch is not whole"
                )
            state[name] = known[name].contiguous()
    safetensors.torch.save_file(state, sandbox / WEIGHTS, metadata={"format": "pt"})
    return created(sandbox, kwargs)


def created(folder: Path, kwargs: Mapping[str, Any]) -> nn.Module:
    """The model that timm makes of a folder, with its weights unless `kwargs` say otherwise; the
    random state is left alone.

    Raises:
        ConfigError: it cannot.
    """
    try:
        # building a model draws weights that are thrown away
        with torch.random.fork_rng(devices=[]):
            return timm.create_model(f"local-dir:{folder}", **({"pretrained": True} | dict(kwargs)))
    except ConfigError:
        raise
    except Exception as error:  # noqa: BLE001  whatever timm makes of a stranger's first_conv, label_offset and the like
        raise ConfigError(
            f"timm cannot load the saved model ({type(error).__name__}: {shown(error)})"
        ) from error


def _at_home(model: nn.Module, found: Snapshot) -> nn.Module:
    """Let the model's configuration name the place it came from, not the sandbox."""
    place = (
        {"source": "hf-hub", "hf_hub_id": f"{found.repo_id}@{found.revision}"}
        if found.repo_id
        else {"source": "local-dir", "file": str(found.folder.resolve())}
    )
    config = {
        k: v for k, v in model.pretrained_cfg.items() if k not in ("source", "file", "hf_hub_id")
    }
    model.pretrained_cfg = model.default_cfg = config | place
    return model
