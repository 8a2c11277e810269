"""Lineage: the model that a repair started from, the way back to it, and the repaired part alone (a
patch).

`Base` is what a report tells of the original; `Lineage`, kept on a repaired model, is what `revert`
and a patch need: the tensors that the repair changed, as they were. All other tensors are shared
with the original, bit for bit.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from torch import Tensor, nn

from timm_repair.architecture.cell import Cell
from timm_repair.errors import ConfigError
from timm_repair.models.block import Block
from timm_repair.models.copying import copied
from timm_repair.models.surgery import extract, restore
from timm_repair.models.weights import fingerprint, own_copy, same_value
from timm_repair.models.wrapping import unwrapped
from timm_repair.report.gallery import Gallery
from timm_repair.report.report import Report
from timm_repair.runtime.boundary import public

ATTRIBUTE = "_timm_repair"  # on a repaired model; private, as timm's own _model_args


@dataclass(frozen=True)
class Base:
    """The original of a repair.

    Args:
        name: as the user named it.
        id: its Hub id, if it was loaded from there; `revision`, the commit.
        architecture: timm's name; None for other modules.
        license: as the configuration that came with its weights tells it.
        sha256: over its weights, see `fingerprint`.
    """

    name: str
    id: str | None = None
    revision: str | None = None
    architecture: str | None = None
    license: str | None = None
    sha256: str | None = None

    @classmethod
    def of(cls, name: str, model: nn.Module, *, loaded: bool) -> "Base":
        """Describe `model`. No network: the commit is looked up in the Hub's cache.

        Args:
            loaded: the model was loaded under `name`, with pretrained weights; a model that
                somebody brought may have been trained since.
        """
        config = getattr(model, "pretrained_cfg", None) or {}
        repo_id, _, revision = (
            (config.get("hf_hub_id") or "").partition("@") if loaded else ("", "", "")
        )
        if config.get("source") == "local-dir" or repo_id.count("/") != 1 or config.get("file"):
            repo_id = ""
        # of a model that somebody made, timm's configuration tells the licence of weights that it
        # may not have
        license = (
            config.get("license")
            if loaded or config.get("source") in ("hf-hub", "local-dir")
            else None
        )
        return cls(
            name,
            repo_id or None,
            _cached_commit(repo_id, revision) if repo_id else None,
            config.get("architecture"),
            license,
            fingerprint(model.state_dict()),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, without what is not known; the name is the report's."""
        return {
            key: value for key, value in asdict(self).items() if value is not None and key != "name"
        }


def _cached_commit(repo_id: str, revision: str) -> str | None:
    for name in ("model.safetensors", "config.json", "pytorch_model.bin"):
        path = try_to_load_from_cache(repo_id, name, revision=revision or None)
        if isinstance(path, str):
            return Path(path).parent.name
    return None


@dataclass
class Lineage:
    """The way back from a repaired model to its original.

    Args:
        base: the original.
        edits: what this repair changed in the architecture.
        original: the tensors of the original that the repaired model does not have, or has with
            other values.
        kept: names of the tensors that are the same in both.
        pretrained_cfg, model_args: timm's description of the original.
        report: the repair's Report, or the repair.json that holds it.
        gallery: pictures of what it fixed and broke; None where they lie beside that file, if
            there are any.
        previous: the original's own lineage, if it was a repaired model.
    """

    base: Base
    edits: tuple[dict, ...]
    original: dict[str, Any]
    kept: frozenset[str]
    pretrained_cfg: dict | None = None
    model_args: dict | None = None
    report: "Report | Path | None" = None
    previous: "Lineage | None" = None
    gallery: Gallery | None = None

    @property
    def knows_original(self) -> bool:
        """Whether the original can be given back."""
        return bool(self.kept or self.original)

    @classmethod
    def between(
        cls,
        base: Base,
        original: nn.Module,
        repaired: nn.Module,
        edits: Sequence[dict],
        report: "Report | Path | None",
    ) -> "Lineage":
        """What `repaired` changed; the changed tensors of `original` are copied to the CPU."""
        before, after = original.state_dict(), repaired.state_dict()
        kept = {k for k, v in before.items() if k in after and same_value(v, after[k])}
        changed = {k: own_copy(_on_cpu(v)) for k, v in before.items() if k not in kept}
        return cls(
            base,
            tuple(edits),
            changed,
            frozenset(kept),
            deepcopy(getattr(original, "pretrained_cfg", None)),
            deepcopy(getattr(original, "_model_args", None)),
            report,
            lineage(original),
        )

    def attach(self, model: nn.Module) -> None:
        """Keep this on `model`; it goes along when the model is copied."""
        object.__setattr__(model, ATTRIBUTE, self)

    def patch(self, model: nn.Module) -> dict[str, Tensor]:
        """The tensors of the repaired `model` that its original does not have with these values."""
        return {
            k: v.detach().cpu().contiguous()
            for k, v in model.state_dict().items()
            if k not in self.kept
        }


def _on_cpu(value: Any) -> Any:
    return value.cpu() if isinstance(value, Tensor) else value


def lineage(model: nn.Module) -> Lineage | None:
    """What is known of where `model` comes from; None for a model that timm_repair neither repaired
    nor loaded.
    """
    return getattr(model, ATTRIBUTE, None)


@public
def revert(model: nn.Module) -> nn.Module:
    """The model as it was before its last repair, bit for bit, as a new one; `model` is not
    changed.

    Works for what `repair` returned, and for a patch that `from_pretrained` loaded. A model saved
    whole does not hold its original: load that by the id in its card.

    Raises:
        ConfigError: the original is not known, or the model was trained on since its repair.

    Example:
        >>> original = timm_repair.revert(repaired.model)
    """
    model = unwrapped(model)
    known = lineage(model)
    if known is None or not known.knows_original:
        raise ConfigError(
            "this model does not hold its original: revert takes the model of repair(), or a patch"
            " loaded by timm_repair.from_pretrained without another head or input; otherwise load"
            " the base model that its card names"
        )
    reverted = copied(model)
    for edit in reversed(known.edits):
        block = Block.at(edit["paths"])
        cell = extract(reverted, block)
        if not isinstance(cell, Cell):
            raise ConfigError(
                f"block {block.name!r} was changed since its repair: the original cannot be given"
                " back"
            )
        restore(reverted, block, cell.unwrapped())
    state = reverted.state_dict()
    state = {name: known.original.get(name, value) for name, value in state.items()}
    for name, tensor in (*reverted.named_parameters(), *reverted.named_buffers()):
        if name in state and state[name].dtype != tensor.dtype:
            tensor.data = tensor.data.to(state[name].dtype)
    reverted.load_state_dict(state)
    if known.base.sha256 and fingerprint(reverted.state_dict()) != known.base.sha256:
        raise ConfigError(
            "the model was changed since its repair, by training or by a conversion to another"
            " dtype: the original cannot be given back bit for bit"
        )
    for name, value in (
        ("pretrained_cfg", known.pretrained_cfg),
        ("default_cfg", known.pretrained_cfg),
        ("_model_args", known.model_args),
    ):
        if value is not None:
            setattr(reverted, name, deepcopy(value))
    if known.previous is None:
        delattr(reverted, ATTRIBUTE)
    else:
        known.previous.attach(reverted)
    return reverted


def edits_since(original: nn.Module, model: nn.Module) -> list[dict]:
    """The edits of `model` that its `original` does not have, by timm's record of both."""
    before, after = (
        getattr(each, "_model_args", {}).get("edits", []) for each in (original, model)
    )
    return list(after[len(before) :])
