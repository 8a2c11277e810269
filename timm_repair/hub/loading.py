"""Loading a model: by any name, as it is, or what a repair saved.

`load` takes what a user calls a model. `from_pretrained` is the careful way to a repaired one: all
is checked first (trust/), one commit is loaded, patches are put on their base.
"""

import json
import tempfile
import warnings
from collections.abc import Mapping
from difflib import get_close_matches
from os import PathLike
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import timm
import torch
from torch import nn

from timm_repair.errors import (
    AssumptionWarning,
    ConfigError,
    HubError,
    ModelError,
    RepairError,
    meant,
)
from timm_repair.hub.entry_point import created
from timm_repair.hub.fetching import fetch
from timm_repair.hub.folder import CONFIG, PATCH, REPORT, WEIGHTS, Snapshot
from timm_repair.hub.lineage import Base, Lineage, edits_since
from timm_repair.hub.trust.build import outline
from timm_repair.hub.trust.config import read_config
from timm_repair.hub.trust.weights import check_weights, tensor_count
from timm_repair.models.description import description
from timm_repair.models.weights import check_finite, fingerprint
from timm_repair.models.wrapping import unwrapped
from timm_repair.runtime.boundary import public

# endings of files with weights alone
_WEIGHTS = {".pth", ".pt", ".bin", ".safetensors", ".ckpt", ".tar", ".pkl"}


def load(model: str | PathLike | nn.Module, *, pretrained: bool = True) -> tuple[str, nn.Module]:
    """The model, out of what wraps it, and what to call it. A string is created by timm, with its
    pretrained weights where these are wanted; a path is that of a folder.

    Raises:
        ModelError: timm cannot load it, or it is nothing that a repair can work on.
        NonFiniteError: a weight is NaN or infinite, and the logits with it.
    """
    if isinstance(model, PathLike):
        model = f"local-dir:{Path(model).expanduser()}"
    if isinstance(model, str):
        name, model = model, _create(model, pretrained).eval()
    else:
        model = unwrapped(model)
        config = description(model)
        # a repaired model is called by what was repaired: "timm_repaired" would say nothing
        name = (
            getattr(model, "_model_args", {}).get("base")
            or config.get("architecture")
            or type(model).__name__
        )
    if next(model.parameters(), None) is None:
        raise ModelError(f"the model ({type(model).__name__}) has no parameters: nothing to repair")
    check_finite(model)
    return name, model


def _create(name: str, pretrained: bool) -> nn.Module:
    scheme, _, place = name.rpartition(":")
    if not scheme and not timm.is_model(name):
        raise ModelError(_unknown(name))
    if scheme == "local-dir" and not Path(place, "config.json").is_file():
        raise ModelError(_no_folder(Path(place)))
    try:
        return timm.create_model(name, pretrained=pretrained)
    except (OSError, RuntimeError, ValueError) as error:  # huggingface_hub's errors are among these
        if scheme and pretrained:
            try:
                return from_pretrained(name)  # it may be a patch, which timm cannot load
            except RepairError:
                pass
        raise ModelError(f"cannot load {name!r} ({type(error).__name__}: {error})") from error


def _no_folder(place: Path) -> str:
    """Why no model lies there, and what was meant perhaps."""
    if place.is_dir():
        return f"{str(place)!r} is not a folder saved by timm: it has no config.json"
    beside = [p.name for p in place.parent.iterdir()] if place.parent.is_dir() else []
    close = meant(place.name, beside)
    hint = f"; did you mean {str(place.with_name(close))!r}?" if close else ""
    return f"there is no folder {str(place)!r}{hint}"


def _unknown(name: str) -> str:
    """Why timm has no such model, and what was meant perhaps."""
    if not name.strip():
        return "the name of the model is empty: give one, such as 'resnet50' or 'hf-hub:user/name'"
    if Path(name).suffix.lower() in _WEIGHTS:
        lacking = "" if Path(name).expanduser().is_file() else ", which does not exist"
        return (
            f"{name!r} is a file of weights{lacking}; these alone do not say which model they are"
            f" of. Give timm.create_model(NAME, num_classes=…, checkpoint_path={name!r}), or a"
            " folder that was saved with its config as 'local-dir:FOLDER'"
        )
    if Path(name).expanduser().is_dir():
        lacking = "" if Path(name, "config.json").is_file() else ", which lacks a config.json"
        return f"{name!r} is a folder{lacking}: a saved model is given as 'local-dir:{name}'"
    if "/" in name:
        return (
            f"there is no folder {name!r}, and timm no model of that name: a saved model is given"
            " as 'local-dir:FOLDER', one of the Hub as 'hf-hub:user/name'"
        )
    close = get_close_matches(name.split(".")[0], timm.list_models(), n=3)
    hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
    return f"timm has no model {name!r}{hint} (timm.list_models() has all names)"


@public
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
    config = read_config(found.required(CONFIG))
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
            known = cast(Any, base).pretrained_cfg
            described = Base(
                origin["base"],
                origin["base"],
                origin["revision"],
                known.get("architecture"),
                known.get("license"),
                origin["sha256"],
            )
            lineage = Lineage.between(described, base, model, edits_since(base, model), report)
            # another head or input: not the model that the patch made
            if kwargs and not _as_saved(model, base, found.required(PATCH)):
                lineage = Lineage(described, (), {}, frozenset(), report=report)
    if not kwargs:
        _tell_of_changes(model, report)
    if not kwargs.get("features_only"):
        lineage.attach(model)
    return _at_home(model, found).eval()


def _tell_of_changes(model: nn.Module, report: Path | None) -> None:
    """Warn where the weights are not those that the report beside them tells of."""
    try:
        told = json.loads(report.read_text(encoding="utf-8"))["weights"] if report else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return  # whoever reads the report says what is wrong with it
    if told is not None and fingerprint(model.state_dict()) != told:
        warnings.warn(
            f"the weights are not those that {REPORT} beside them tells of: they were trained"
            " on, or changed by hand, since the repair, and its numbers are not this model's",
            AssumptionWarning,
            stacklevel=4,
        )


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
    config = read_config(found.required(CONFIG))
    if config.pop("patch", None):
        raise ConfigError(f"{repo_id}, the base of a patch, is a patch itself: refused")
    assert found.revision is not None, "fetched from the Hub"
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
    patch, known = found.required(PATCH), base.state_dict()
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


def _at_home(model: nn.Module, found: Snapshot) -> nn.Module:
    """Let the model's configuration name the place it came from, not the sandbox."""
    place = (
        {"source": "hf-hub", "hf_hub_id": f"{found.repo_id}@{found.revision}"}
        if found.repo_id
        else {"source": "local-dir", "file": str(found.folder.resolve())}
    )
    named = cast(Any, model)  # a module's own attributes, which torch's hints do not know
    config = {
        k: v for k, v in named.pretrained_cfg.items() if k not in ("source", "file", "hf_hub_id")
    }
    named.pretrained_cfg = named.default_cfg = config | place
    return model
