"""Fetching a saved model: a folder, or one commit of a Hub repository, with only the files that loading needs.

A branch is resolved to a commit once, so that config and weights are of the same push; downloads are compared with the Hub's checksums.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from timm_repair.connection import check_repo_id, client, reaching
from timm_repair.errors import ConfigError, HubError, ModelError, OptionError
from timm_repair.trust import MAX_CONFIG, MAX_REPORT

WEIGHTS, PATCH, REPORT = "model.safetensors", "patch.safetensors", "repair.json"
WANTED = ("config.json", WEIGHTS, PATCH, REPORT)


@dataclass(frozen=True)
class Snapshot:
    """Where a saved model lies on this machine; `repo_id` and `revision` (a commit) if it came from the Hub."""

    folder: Path
    repo_id: str | None = None
    revision: str | None = None

    def file(self, name: str) -> Path | None:
        """The regular file of that name in the folder (the cache of the Hub links to its own), None if there is none.

        Raises:
            ConfigError: it leads out of the folder.
        """
        path = self.folder / name
        if not path.exists() and not path.is_symlink():
            return None
        real, folder = path.resolve(), self.folder.resolve()
        blobs = folder.parent.parent / "blobs"  # models--…/snapshots/<commit>/ beside models--…/blobs/
        if real.parent not in ((folder, blobs) if folder.parent.name == "snapshots" else (folder,)) or not real.is_file():
            raise ConfigError(f"{name} in {str(self.folder)!r} is no regular file of this folder: refused")
        return real

    @property
    def source(self) -> str:
        """What to give timm to load it again."""
        return f"hf-hub:{self.repo_id}@{self.revision}" if self.repo_id else f"local-dir:{self.folder.resolve()}"


def fetch(place: str | Path, *, revision: str | None = None, token: str | bool | None = None, cache_dir: str | Path | None = None,
          force_download: bool = False, local_files_only: bool = False) -> Snapshot:
    """The files of a saved model.

    Args:
        place: a folder, "local-dir:FOLDER", a Hub id "user/name", "hf-hub:user/name"; ids may end in "@revision". A folder wins.

    Raises:
        ModelError: there is no such folder, or no weights in it that can be loaded without executing something.
        HubError: the Hub cannot be reached, or refuses.
        OptionError: `place` is neither, or two revisions are given.
    """
    text = str(place)
    scheme, _, rest = text.rpartition(":")
    if scheme == "local-dir" or (not scheme and Path(text).expanduser().is_dir()):
        folder = Path(rest if scheme else text).expanduser()
        if not (folder / "config.json").is_file():
            raise ModelError(f"{str(folder)!r} is not a folder saved by timm_repair or timm: it has no config.json")
        _require_weights({path.name for path in folder.iterdir()}, repr(str(folder)))
        return Snapshot(folder)
    repo_id, at, pinned = (rest if scheme in ("hf-hub", "hf_hub") else text).partition("@")
    if at and revision not in (None, pinned):
        raise OptionError(f"{text!r} and revision={revision!r} name different revisions: give one")
    try:
        check_repo_id(repo_id, owner=True)
    except OptionError as error:
        raise ModelError(f"{text!r} is neither a folder nor a Hub id 'user/name'") from error
    options = {"cache_dir": cache_dir, "force_download": force_download, "local_files_only": local_files_only}
    return _from_hub(repo_id, pinned or revision, token, options)


def _from_hub(repo_id: str, revision: str | None, token: str | bool | None, options: dict[str, Any]) -> Snapshot:
    info = None
    if not options["local_files_only"] and not constants.HF_HUB_OFFLINE:
        info = _describe(repo_id, revision, token)
    if info is not None:
        listed = {sibling.rfilename: sibling for sibling in info.siblings or ()}
        _require_weights(set(listed), repo_id)
        for name, limit in (("config.json", MAX_CONFIG), (REPORT, MAX_REPORT)):
            if name in listed and (listed[name].size or 0) > limit:
                raise ConfigError(f"{name} of {repo_id} has {listed[name].size:,} bytes; more than {limit:,} is refused")
    else:  # what is in the cache will do
        options = options | {"local_files_only": True, "force_download": False}
    with reaching(f"cannot load {repo_id}" + (f" at {revision}" if revision else "")):
        folder = Path(snapshot_download(
            repo_id, revision=info.sha if info else revision, token=token, allow_patterns=list(WANTED), **options))
    found = Snapshot(folder, repo_id, folder.name)
    if info is None:
        _require_weights({path.name for path in folder.iterdir()}, repo_id)
    else:
        _check_sums(found, listed)
    return found


def _describe(repo_id: str, revision: str | None, token: str | bool | None) -> Any:
    """What the Hub says of the repository and its files; None if it does not answer."""
    try:
        with reaching(f"cannot load {repo_id}" + (f" at {revision}" if revision else "")):
            try:
                return client(token).model_info(repo_id, revision=revision, files_metadata=True)
            except (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError):
                raise
            except OSError as error:
                if getattr(getattr(error, "response", None), "status_code", 500) < 500:
                    raise
                return None
    except HubError as error:
        if "the connection failed" in str(error):
            return None
        raise


def _require_weights(names: set[str], where: str) -> None:
    if "config.json" not in names:
        raise ModelError(f"{where} has no config.json: it is no model saved by timm_repair or timm")
    if names & {WEIGHTS, PATCH}:
        return
    others = sorted(name for name in names if name.endswith((".bin", ".pth", ".pt", ".pt2", ".pkl", ".ckpt", ".npz", ".h5")))
    hint = f" Its {', '.join(others[:3])} could execute code when opened: refused." if others else ""
    raise ModelError(f"{where} has no {WEIGHTS}: the model was not pushed whole, or not as safetensors.{hint}")


def _check_sums(found: Snapshot, listed: dict[str, Any]) -> None:
    for name in WANTED:
        path, sibling = found.file(name), listed.get(name)
        if path is None or sibling is None:
            continue
        lfs = sibling.lfs.sha256 if sibling.lfs else None
        if lfs is not None:
            digest = hashlib.sha256()
        elif sibling.blob_id and len(sibling.blob_id) == 40:  # a git blob
            digest, lfs = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False), sibling.blob_id
        else:
            continue
        with path.open("rb") as file:
            while chunk := file.read(2**22):
                digest.update(chunk)
        if digest.hexdigest() != lfs:
            raise HubError(f"{name} of {found.repo_id} was damaged on its way: load it again with force_download=True")
