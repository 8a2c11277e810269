"""Folder: the files of a saved model, and where they lie on this machine."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

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
    path = Path(directory).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise OutputError(
            f"cannot write to {str(path)!r} ({error}): choose another output directory"
        ) from error
    return path


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
