"""Fetching a saved model: a folder, or one commit of a Hub repository, with only the files that
loading needs.

A branch is resolved to a commit once, so that config and weights are of the same push; downloads
are compared with the Hub's checksums.
"""

import hashlib
import logging
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from huggingface_hub import ModelInfo, constants, snapshot_download

from timm_repair.errors import ConfigError, HubError, ModelError, OptionError
from timm_repair.hub.connection import Unreached, check_repo_id, client, reaching
from timm_repair.hub.folder import CONFIG, PATCH, REPORT, WANTED, WEIGHTS, Snapshot
from timm_repair.hub.trust.config import MAX_CONFIG, MAX_REPORT

logger = logging.getLogger(__name__)


def fetch(
    place: str | Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
) -> Snapshot:
    """The files of a saved model.

    Args:
        place: a folder, "local-dir:FOLDER", a Hub id "user/name", "hf-hub:user/name"; ids may end
            in "@revision". A folder wins.

    Raises:
        ModelError: there is no such folder, or no weights in it that can be loaded without
            executing something.
        HubError: the Hub cannot be reached, or refuses.
        OptionError: `place` is neither, or two revisions are given.
    """
    text = str(place)
    scheme, _, rest = text.rpartition(":")
    if scheme == "local-dir" or (not scheme and Path(text).expanduser().is_dir()):
        folder = Path(rest if scheme else text).expanduser()
        if not (folder / CONFIG).is_file():
            raise ModelError(
                f"{str(folder)!r} is not a folder saved by timm_repair or timm: it has no"
                " config.json"
            )
        _require_weights({path.name for path in folder.iterdir()}, repr(str(folder)))
        return Snapshot(folder)
    repo_id, at, pinned = (rest if scheme in ("hf-hub", "hf_hub") else text).partition("@")
    if at and revision not in (None, pinned):
        raise OptionError(f"{text!r} and revision={revision!r} name different revisions: give one")
    try:
        check_repo_id(repo_id, owner=True)
    except OptionError as error:
        raise ModelError(f"{text!r} is neither a folder nor a Hub id 'user/name'") from error
    options = {
        "cache_dir": cache_dir,
        "force_download": force_download,
        "local_files_only": local_files_only,
    }
    return _from_hub(repo_id, pinned or revision, token, options)


def _from_hub(
    repo_id: str, revision: str | None, token: str | bool | None, options: dict[str, Any]
) -> Snapshot:
    info, unreached = None, None
    if not options["local_files_only"] and not constants.HF_HUB_OFFLINE:
        try:
            info = _describe(repo_id, revision, token)
        except Unreached as error:
            unreached = error
    if info is None and options["force_download"]:
        raise unreached or OptionError(
            "force_download=True needs the Hub: leave local_files_only out, and unset"
            " HF_HUB_OFFLINE"
        )
    listed = {sibling.rfilename: sibling for sibling in info.siblings or ()} if info else {}
    if info:
        _require_weights(set(listed), repo_id)
        for name, limit in ((CONFIG, MAX_CONFIG), (REPORT, MAX_REPORT)):
            if name in listed and (listed[name].size or 0) > limit:
                raise ConfigError(
                    f"{name} of {repo_id} has {listed[name].size:,} bytes; more than {limit:,} is"
                    " refused"
                )
    else:  # what is in the cache will do
        options = options | {"local_files_only": True}
    try:
        with reaching(_loading(repo_id, revision)):
            folder = Path(
                snapshot_download(
                    repo_id,
                    revision=info.sha if info else revision,
                    token=token,
                    allow_patterns=list(WANTED),
                    **options,
                )
            )
    except HubError as error:
        raise (
            HubError(f"{unreached}; it is not, or not whole, in the cache") if unreached else error
        ) from None
    found = Snapshot(folder, repo_id, folder.name)
    if info is None:
        _require_weights({path.name for path in folder.iterdir()}, repo_id)
    check_sums(found, listed)
    if info:
        _remember(folder, revision or constants.DEFAULT_REVISION)
    if unreached:
        logger.warning("%s; loaded from the cache: commit %s", unreached, folder.name)
    return found


def _describe(repo_id: str, revision: str | None, token: str | bool | None) -> ModelInfo:
    with reaching(_loading(repo_id, revision)):
        return client(token).model_info(
            repo_id, revision=revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
        )


def _loading(repo_id: str, revision: str | None) -> str:
    return f"cannot load {repo_id}" + (f" at {revision}" if revision else "")


def _remember(folder: Path, revision: str) -> None:
    """Note which commit a branch is at, as the Hub's own client does, for loads without it."""
    ref = folder.parents[1] / "refs" / revision
    if revision != folder.name:
        with suppress(OSError):  # a cache that cannot be written will do
            ref.parent.mkdir(parents=True, exist_ok=True)
            new = ref.with_name(f"{ref.name}.{os.getpid()}.tmp")
            new.write_text(folder.name)
            new.replace(ref)


def _require_weights(names: set[str], where: str) -> None:
    if CONFIG not in names:
        raise ModelError(f"{where} has no config.json: it is no model saved by timm_repair or timm")
    if names & {WEIGHTS, PATCH}:
        return
    others = sorted(
        name
        for name in names
        if name.endswith((".bin", ".pth", ".pt", ".pt2", ".pkl", ".ckpt", ".npz", ".h5"))
    )
    hint = (
        f" Its {', '.join(others[:3])} could execute code when opened: refused." if others else ""
    )
    raise ModelError(
        f"{where} has no {WEIGHTS}: the model was not pushed whole, or not as safetensors.{hint}"
    )


def check_sums(found: Snapshot, listed: Mapping[str, Any], names: Sequence[str] = WANTED) -> None:
    """Compare files with the Hub's checksums (`listed`: name -> sibling), else with those that the
    cache names its files after.

    Raises:
        HubError: one is damaged. It is not in the cache any more.
    """
    for name in names:
        path, link, sibling = found.file(name), found.folder / name, listed.get(name)
        if path is None:
            continue
        if sibling:
            expected = sibling.lfs.sha256 if sibling.lfs else sibling.blob_id
        else:
            expected = link.readlink().name if link.is_symlink() else None
        if not expected or not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", expected):
            continue
        git = b"blob %d\0" % path.stat().st_size
        digest = (
            hashlib.sha256() if len(expected) == 64 else hashlib.sha1(git, usedforsecurity=False)
        )
        with path.open("rb") as file:
            while chunk := file.read(2**22):
                digest.update(chunk)
        if digest.hexdigest() != expected:
            with suppress(OSError):  # a cache that cannot be written
                path.unlink()
            raise HubError(
                f"{name} of {found.repo_id} was damaged on its way, and is thrown away: try again"
            )
