"""Repaired: a repaired model and its report."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo
from torch import nn

from timm_repair.hub import exporting, pushing, spaces
from timm_repair.properties import networks, saving
from timm_repair.report.gallery import Gallery
from timm_repair.report.page import page
from timm_repair.report.report import Report

FRAMED = 12  # images of one kind and population in a notebook


@dataclass(frozen=True, repr=False)
class Repaired:
    """A repaired model, a plain timm model in eval mode, and the report of what the repair fixed
    and broke.
    """

    model: nn.Module
    report: Report
    edits: tuple[dict, ...] = ()
    main_process: bool = True  # False on all processes but one: only that one prints and saves
    gallery: Gallery = field(default_factory=Gallery)  # small pictures of what it fixed and broke

    def __repr__(self) -> str:
        """Two lines; `print(repaired.report)` says all."""
        return f"Repaired {type(self.model).__name__}. {self.report!r}"

    def to_html(self, *, images: bool = True) -> str:
        """One page that shows the repair and needs no network: save it as a file, open it in a
        browser.

        Args:
            images: show examples that were fixed and broken, where pictures were taken.
        """
        return self.report.to_html(self.gallery if images else None)

    def _repr_html_(self) -> str:
        # notebooks are shared and keep what they show: a few images, not all
        return page.framed(page.html(self.report, self.gallery, most=FRAMED))

    @property
    def harmful(self) -> bool:
        """Whether the repaired model is worse than the original on a holdout beyond its interval,
        or was trained on labels that the original contradicts wholesale; see `report.verdict`.
        """
        return self.report.verdict.harmful

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> Path:
        """Write config.json, model.safetensors, repair.json, the card, the figures and report.html;
        see `pushing.save_pretrained`. Of a network with properties: network.onnx, network.nnet and
        repair.json, see `properties.saving.save`.

        Writes nothing in all processes but the main one.
        """
        if not self.main_process:
            return Path(save_directory)
        if self.report.properties:
            return saving.save(self.model, self.report, save_directory)
        return pushing.save_pretrained(self.model, save_directory, report=self.report, **options)

    def push_to_hub(self, repo_id: str, **options: Any) -> CommitInfo | None:
        """Upload them in one commit; see `pushing.push_to_hub`. Does nothing, and returns None, in
        all processes but the main one.
        """
        return (
            pushing.push_to_hub(self.model, repo_id, report=self.report, **options)
            if self.main_process
            else None
        )

    def push_space(self, repo_id: str, **options: Any) -> CommitInfo | None:
        """Upload the app as a Space, where others try the model; see `spaces.push_space`. Does
        nothing, and returns None, in all processes but the main one.
        """
        return (
            spaces.push_space(self.model, repo_id, report=self.report, **options)
            if self.main_process
            else None
        )

    def export(self, path: str | Path, *, format: str = "onnx") -> Path:
        """Write the model as one file that runs without timm_repair; see `exporting.export`. A
        network with properties is written as its name ends, in .onnx or .nnet.
        """
        if self.report.properties:
            return networks.save(self.model, path)
        return exporting.export(self.model, path, format=format)
