"""Registration: timm learns that there are repaired models, at no cost until there is one."""

from types import ModuleType
from typing import Any


def timm_repaired(pretrained: bool = False, **kwargs: Any) -> Any:
    """timm entry point of every repaired model, see `entry_point.repaired`."""
    # what builds one needs torch and timm, which are being imported when timm learns of it
    from timm_repair.hub.entry_point import repaired

    return repaired(pretrained, **kwargs)


def register(timm: ModuleType) -> None:
    """Tell timm of the entry point; called when timm is imported, or at once if it is already."""
    timm.models.register_model(timm_repaired)
