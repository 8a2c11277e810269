"""Folder: the files of a saved model, and where they lie on this machine."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timm_repair.errors import ConfigError, OutputError

CONFIG, WEIGHTS, PATCH, REPORT = (
    "config.json",
    "model.safetensors",
    "patch.safetensors",
    "repair.json",
)
PAGE = "report.html"
WANTED = (CONFIG, WEIGHTS, PATCH, REPORT)


def writable(directory: str | Path) -> Path:
    """The directory, made if missing.

    Raises:
        OutputError: it is a file, or cannot be written.
    """
    if not str(directory).strip():
        raise OutputError(f"{str(directory)!r} names no directory: give one to write to")
    path = Path(directory).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except (OSError, ValueError) as error:  # ValueError: a null byte
        raise OutputError(
            f"cannot write to {str(path)!r} ({error}): choose another output directory"
        ) from error
    return path


def require_apart(output: str | Path, sources: Mapping[str, Any]) -> None:
    """Raise OutputError where `output` lies in a folder that images are read from: what is written
    there would be read as images the next time.

    Args:
        sources: what they are called to where they are; what is no folder is passed over.
    """
    try:
        place = Path(output).expanduser().resolve()
    except (OSError, ValueError):
        return  # whoever writes there says what is wrong with it
    for name, source in sources.items():
        if isinstance(source, Mapping):
            require_apart(output, {f"{name} {key!r}": each for key, each in source.items()})
        elif isinstance(source, str | Path) and str(source):
            folder = Path(source).expanduser()
            if folder.is_dir() and place.is_relative_to(folder.resolve()):
                raise OutputError(
                    f"{str(output)!r} lies in {str(source)!r}, which {name} is read from, and would"
                    " be read as images the next time: choose an output directory elsewhere"
                )


@dataclass(frozen=True)
class Snapshot:
    """Where a saved model lies on this machine; `repo_id` and `revision` (a commit) if it came from
    the Hub.
    """

    folder: Path
    repo_id: str | None = None
    revision: str | None = None

    def file(self, name: str) -> Path | None:
        """The regular file of that name in the folder (the cache of the Hub links to its own), None
        if there is none.

        Raises:
            ConfigError: it leads out of the folder.
        """
        path = self.folder / name
        if not path.exists() and not path.is_symlink():
            return None
        try:
            real, folder = path.resolve(), self.folder.resolve()
        except (OSError, RuntimeError) as error:
            raise ConfigError(
                f"{name} in {str(self.folder)!r} is a link that leads nowhere: refused"
            ) from error
        homes = [folder]
        # models--…/snapshots/<commit>/ beside models--…/blobs/
        if folder.parent.name == "snapshots" and len(folder.parents) > 2:
            # the latter with xet: of all models
            homes += [folder.parents[1] / "blobs", folder.parents[2] / "blobs" / real.parent.name]
        if real.parent not in homes or not real.is_file():
            raise ConfigError(
                f"{name} in {str(self.folder)!r} is no regular file of this folder: refused"
            )
        return real

    def required(self, name: str) -> Path:
        """`file(name)` of one that was found to be there."""
        path = self.file(name)
        assert path is not None, f"{name} was there before"
        return path

    @property
    def source(self) -> str:
        """What to give timm to load it again."""
        return (
            f"hf-hub:{self.repo_id}@{self.revision}"
            if self.repo_id
            else f"local-dir:{self.folder.resolve()}"
        )
