"""Pushing: a repaired model to the Hugging Face Hub, in one commit, as ModelHubMixin and timm users know it.

What is published is what `saving.save` writes, less what is nobody's business: paths of the machine it was made on.
"""

import logging
import re
import tempfile
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, HfApi
from huggingface_hub.errors import RevisionNotFoundError
from torch import nn

from timm_repair import card, saving
from timm_repair.connection import check_repo_id, client, reaching
from timm_repair.errors import ConfigError, OptionError
from timm_repair.fetching import PATCH, WEIGHTS, Snapshot, check_sums
from timm_repair.hub import load_base
from timm_repair.lineage import Base, Lineage, fingerprint, lineage
from timm_repair.report import Report

logger = logging.getLogger(__name__)

_PATH = re.compile(r"(?<![\w:/])(?:[A-Za-z]:|~)?[\\/](?:[^\s\\/:'\"<>|]+[\\/])+(?=[^\s\\/:'\"<>|]*)")


def push_to_hub(
    model: nn.Module, repo_id: str, *, report: Report | None = None, patch: bool = False, remote_code: bool = False,
    base_model: str | None = None, license: str | None = None, revision: str | None = None, private: bool | None = None,
    token: str | bool | None = None, create_pr: bool = False, commit_message: str | None = None, commit_description: str | None = None,
    allow_patterns: str | Sequence[str] | None = None, ignore_patterns: str | Sequence[str] | None = None,
    delete_patterns: str | Sequence[str] | None = None, replace_model_card: bool = False, readme: str | None = None,
) -> CommitInfo:  # fmt: skip
    """Upload a repaired model in one commit; the repository is made if there is none.

    A README.md that is there keeps what people wrote in it: only our section, and the metadata that we own, are renewed. Local paths in
    the report are left out, and no example is ever uploaded.

    Args:
        model: of `repair` or `from_pretrained`.
        repo_id: "user/name", or "name" for the user of the token.
        report: None takes the one the model carries.
        patch: upload only what the repair changed, and which base it belongs to; `from_pretrained` puts them together again, `revert`
            takes them apart.
        remote_code: add the file with which transformers loads the model without importing timm_repair first, if the user says
            trust_remote_code=True.
        base_model: Hub id of the original, if it was not loaded from there; checked to be the same, bit for bit, for a patch.
        license: of the original, if its configuration does not tell.
        revision: branch to push to; made if there is none.
        private: None follows the owner's default; has no effect on a repository that exists.
        token: None is the one logged in with.
        create_pr: open a pull request instead of committing to the main branch.
        commit_message, commit_description, allow_patterns, ignore_patterns, delete_patterns: as for `HfApi.upload_folder`.
        replace_model_card: do not keep anything of a README.md that is there.
        readme: a card edited before the first push, to keep in the same way.

    Returns:
        The commit: a string, its URL, with `.oid` and `.pr_url`.

    Raises:
        OptionError: `repo_id` is no Hub id; `create_pr` with a branch.
        HubError: the Hub cannot be reached, or refuses. Nothing was changed there then, unless it says that the push may have happened.
        ConfigError: timm could not load the model again, it carries no report, or no patch can be made of it.

    Example:
        >>> repaired.push_to_hub("me/resnet50-repaired", private=True)
    """
    check_repo_id(repo_id)
    if create_pr and revision not in (None, "main"):
        raise OptionError(f"create_pr=True opens a pull request against the main branch: leave revision={revision!r} out")
    report, api = _public(report or saving.report_of(model)), client(token)
    if patch:
        model = _with_known_base(model, report, base_model, token)
        base_model = lineage(model).base.id
    about = {"patch": patch, "base_model": base_model, "license": license}
    with tempfile.TemporaryDirectory(prefix="timm_repair-") as scratch, reaching(f"cannot push to {repo_id}"):
        folder = saving.save(model, report, scratch, remote_code=remote_code, **about)  # first: what is wrong shows before anything is made
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None and not create_pr:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        head, there = _there(api, repo_id, revision)
        saving.write_card(folder, report, "" if replace_model_card else there or readme or "", repo_id=repo_id, **about)
        info = api.upload_folder(
            repo_id=repo_id, folder_path=folder, revision=revision, create_pr=create_pr or None, parent_commit=head,
            commit_message=commit_message or f"Upload {'a patch' if patch else 'a model'} repaired with timm_repair ({report.method})",
            commit_description=commit_description, allow_patterns=_listed(allow_patterns), ignore_patterns=_listed(ignore_patterns),
            delete_patterns=_stale(patch, remote_code) + (_listed(delete_patterns) or []))
    logger.info("pushed to %s", info)
    return info


_push = push_to_hub  # under the name that `save_pretrained` has an option of


def _stale(patch: bool, remote_code: bool) -> list[str]:
    """What an earlier push may have left that does not belong to this one."""
    return [WEIGHTS if patch else PATCH, "figures/*", *([] if remote_code else [saving.REMOTE_CODE])]


def _listed(patterns: str | Sequence[str] | None) -> list[str] | None:
    return None if patterns is None else [patterns] if isinstance(patterns, str) else list(patterns)


def _there(api: HfApi, repo_id: str, revision: str | None) -> tuple[str | None, str | None]:
    """The commit that the push will follow, and the card there; if somebody else pushes in between, the Hub refuses ours."""
    try:
        info = api.model_info(repo_id, revision=revision, files_metadata=True)
    except RevisionNotFoundError:  # a repository without any commit
        return None, None
    listed = {sibling.rfilename: sibling for sibling in info.siblings}
    if "README.md" not in listed:
        return info.sha, None
    path = Path(api.hf_hub_download(repo_id, "README.md", revision=info.sha))
    check_sums(Snapshot(path.parent, repo_id, info.sha), listed, ["README.md"])
    return info.sha, path.read_text(encoding="utf-8")


def _with_known_base(model: nn.Module, report: Report, base_model: str | None, token: str | bool | None) -> nn.Module:
    """`model` with the way back to a base of the Hub, at a commit, that is bit for bit what was repaired.

    Raises:
        ConfigError: it is not, or no base is known.
    """
    known = lineage(model)
    base = known.base if known and known.kept else Base(report.model, **report.base)  # what was saved whole knows it by its report alone
    name = base_model or base.id
    if name is None or base.sha256 is None:
        raise ConfigError("a patch needs a base that others can load: push the original first and pass base_model='user/name', or repair a "
                          "model by its timm name or 'hf-hub:user/name'")
    check_repo_id(name, owner=True)
    original, revision = load_base(name, base.revision if name == base.id else None, token)
    if fingerprint(original.state_dict()) != base.sha256:
        raise ConfigError(f"{name} does not have the weights that were repaired: push the original, or push the whole model (patch=False)")
    base = replace(base, id=name, revision=revision)
    if known and known.kept:
        known = replace(known, base=base)
    else:
        edits = getattr(model, "_model_args", {}).get("edits", [])[len(getattr(original, "_model_args", {}).get("edits", [])):]
        known = Lineage.between(base, original, model, edits, report)
    model = copy(model)  # the same modules; what it knows of its base is its own
    known.attach(model)
    return model


def _public(report: Report) -> Report:
    """The report without paths of this machine."""
    fields = {name: _without_paths(getattr(report, name)) for name in ("options", "provenance", "notes", "stages", "versions")}
    name = report.model if report.model.startswith(("hf-hub:", "hf_hub:")) or "/" not in report.model else card.short_name(report.model)
    return replace(report, model=_without_paths(name), **fields)


def _without_paths(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        public = "dataset" in value  # its source is a Hub id, no path
        return {k: v if k == "source" and public else _without_paths(v, k) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_without_paths(each, key) for each in value)
    if not isinstance(value, str):
        return value
    if key == "source" and re.search(r"[\\/]|\.(parquet|csv|jsonl?)$", value):
        return "local data"
    return _PATH.sub("…/", value)


def save_pretrained(
    model: nn.Module, save_directory: str | Path, *, report: Report | None = None, patch: bool = False, remote_code: bool = False,
    base_model: str | None = None, license: str | None = None, repo_id: str | None = None, push_to_hub: bool = False, **push: Any,
) -> Path:  # fmt: skip
    """Write a repaired model as a folder: config.json, model.safetensors, repair.json, the card and the figures. No network.

    Args:
        model: of `repair` or `from_pretrained`.
        report: None takes the one the model carries.
        patch, remote_code: see `push_to_hub`.
        base_model, license, repo_id: for the card.
        push_to_hub: then push it too, to `repo_id`; `push` are options of `push_to_hub`.

    Raises:
        OutputError: the directory cannot be written, or holds something else.
        ConfigError: timm could not load the model again; or it carries no report.
    """
    if (push_to_hub and not repo_id) or (push and not push_to_hub):
        raise OptionError("push_to_hub=True and repo_id='user/name' go together" if push_to_hub else
                          f"{', '.join(push)} needs push_to_hub=True and repo_id=")
    given = {"patch": patch, "remote_code": remote_code, "base_model": base_model, "license": license}
    report = report or saving.report_of(model)
    path = saving.save(model, report, save_directory, repo_id=repo_id if repo_id and "/" in repo_id else None, **given)
    if push_to_hub:
        _push(model, repo_id, report=report, **given, **push)
    return path
