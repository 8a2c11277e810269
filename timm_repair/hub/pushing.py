"""Pushing: a repaired model to the Hugging Face Hub, in one commit, as ModelHubMixin and timm users
know it.

What is published is what `saving.save` writes, less what is nobody's business (privacy.py).
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

from timm_repair.errors import ConfigError, OptionError
from timm_repair.hub import saving
from timm_repair.hub.connection import check_repo_id, client, hub_id, reaching
from timm_repair.hub.fetching import check_sums
from timm_repair.hub.folder import PAGE, PATCH, WEIGHTS, Snapshot
from timm_repair.hub.lineage import Base, Lineage, edits_since, lineage
from timm_repair.hub.loading import load_base
from timm_repair.hub.pictures import FOLDER, gallery_of, write_page
from timm_repair.hub.privacy import published
from timm_repair.models.weights import fingerprint
from timm_repair.models.wrapping import unwrapped
from timm_repair.report.gallery import Gallery
from timm_repair.report.report import Report
from timm_repair.runtime.boundary import public

logger = logging.getLogger(__name__)


@public
def push_to_hub(
    model: nn.Module,
    repo_id: str,
    *,
    report: Report | None = None,
    patch: bool = False,
    remote_code: bool = False,
    base_model: str | None = None,
    license: str | None = None,
    revision: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    commit_description: str | None = None,
    allow_patterns: str | Sequence[str] | None = None,
    ignore_patterns: str | Sequence[str] | None = None,
    delete_patterns: str | Sequence[str] | None = None,
    replace_model_card: bool = False,
    readme: str | None = None,
    images: bool = False,
) -> CommitInfo:
    """Upload a repaired model in one commit; the repository is made if there is none.

    A README.md that is there keeps what people wrote in it. Local paths and names of files are left
    out of the report, and no example is uploaded unless `images` says so.

    Args:
        model: of `repair` or `from_pretrained`.
        repo_id: "user/name", or "name" for the user of the token.
        report: None takes the one the model carries.
        patch: upload only what the repair changed, and which base it belongs to; `from_pretrained`
            puts them together again.
        remote_code: add the file with which transformers loads the model under
            trust_remote_code=True, without that import.
        base_model: Hub id of the original, if it was not loaded from there; checked to be the same,
            bit for bit, for a patch.
        license: of the original, if its configuration does not tell.
        revision: branch to push to; made if there is none.
        private: None follows the owner's default; has no effect on a repository that exists.
        token: None is the one logged in with.
        create_pr: open a pull request instead of committing to the main branch.
        commit_message, commit_description, allow_patterns, ignore_patterns, delete_patterns: as for
            `HfApi.upload_folder`.
        replace_model_card: keep nothing of a README.md that is there. `readme`: a card edited
            before the first push, kept alike.
        images: show examples of the holdout, as small pictures, in the report.html that is
            uploaded: for data that may be published.

    Returns:
        The commit: a string, its URL, with `.oid` and `.pr_url`.

    Raises:
        OptionError: `repo_id` is no Hub id; options that do not go together.
        HubError: the Hub cannot be reached, or refuses. Nothing was changed there then, unless it
            says that the push may have happened.
        ConfigError: timm could not load the model again, it carries no report, or no patch can be
            made of it.

    Example:
        >>> repaired.push_to_hub("me/resnet50-repaired", private=True)
    """
    check_repo_id(repo_id)
    _check(model, patch, remote_code, create_pr, revision)
    model, api = unwrapped(model), client(token)
    given = report or saving.report_of(model)
    gallery = gallery_of(model, given) if images else Gallery()
    report, base_model = published(given), hub_id(base_model)
    if patch:
        model, report = _with_known_base(model, report, base_model, token, repo_id)
        base_model = report.base["id"]
    about = {"patch": patch, "base_model": base_model, "license": license}
    with tempfile.TemporaryDirectory(prefix="timm_repair-") as scratch:
        # first: what is wrong shows before anything is made
        folder = saving.save(model, report, scratch, remote_code=remote_code, **about)
        if gallery:  # in the page alone: as files they stay here
            write_page(report, gallery, folder / PAGE)
        with reaching(f"cannot push to {repo_id}"):
            repo_id, head, there = opened(api, repo_id, private, None if create_pr else revision)
        text = "" if replace_model_card else there or readme or ""
        saving.write_card(folder, report, text, repo_id=repo_id, **about)
        # if only some files are pushed, what is there may be all there is
        stale = (
            _stale(patch, remote_code) if allow_patterns is None and ignore_patterns is None else []
        )
        with reaching(f"cannot push to {repo_id}"):
            info = api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                revision=revision,
                create_pr=create_pr or None,
                parent_commit=head,
                commit_message=commit_message or _message(patch, report),
                commit_description=commit_description,
                allow_patterns=_listed(allow_patterns),
                ignore_patterns=_listed(ignore_patterns),
                delete_patterns=stale + (_listed(delete_patterns) or []) or None,
            )
    logger.info("pushed to %s", info)
    return info


_push = push_to_hub  # under the name that `save_pretrained` has an option of


def _check(
    model: Any, patch: bool, remote_code: bool, create_pr: bool, revision: str | None
) -> None:
    if not isinstance(model, nn.Module):
        raise OptionError(
            f"{type(model).__name__} is no model: pass the module, such as repaired.model"
        )
    if create_pr and revision not in (None, "main"):
        raise OptionError(
            "create_pr=True opens a pull request against the main branch: leave"
            f" revision={revision!r} out"
        )
    if revision is not None and re.fullmatch("[0-9a-f]{40}", revision):
        raise OptionError(f"revision={revision!r} is a commit: a push goes to a branch")
    if patch and remote_code:
        raise OptionError(
            "transformers cannot load a patch: leave remote_code=True out, or push the whole model"
        )


def _stale(patch: bool, remote_code: bool) -> list[str]:
    """What an earlier push may have left that does not belong to this one."""
    return [
        WEIGHTS if patch else PATCH,
        "figures/*",
        PAGE,
        f"{FOLDER}/*",
        *([] if remote_code else [saving.REMOTE_CODE]),
    ]


def _listed(patterns: str | Sequence[str] | None) -> list[str] | None:
    return None if patterns is None else [patterns] if isinstance(patterns, str) else list(patterns)


def opened(
    api: HfApi, repo_id: str, private: bool | None, revision: str | None
) -> tuple[str, str | None, str | None]:
    """The repository and branch, made if they are not there: its whole id, the commit that the push
    will follow, and the card there.

    If somebody else pushes in between, the Hub refuses ours, which names that commit.
    """
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if revision is not None and not revision.startswith("refs/"):
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    try:
        info = api.model_info(repo_id, revision=revision, files_metadata=True)
    except RevisionNotFoundError:  # a repository without any commit
        return repo_id, None, None
    listed = {sibling.rfilename: sibling for sibling in info.siblings or ()}
    if "README.md" not in listed:
        return repo_id, info.sha, None
    path = Path(api.hf_hub_download(repo_id, "README.md", revision=info.sha))
    check_sums(Snapshot(path.parent, repo_id, info.sha), listed, ["README.md"])
    return repo_id, info.sha, path.read_text(encoding="utf-8")


def _with_known_base(
    model: nn.Module, report: Report, base_model: str | None, token: str | bool | None, repo_id: str
) -> tuple[nn.Module, Report]:
    """`model` and `report` with a base of the Hub, at a commit, that is bit for bit what was
    repaired. `repo_id` is where to push.

    Raises:
        OptionError: that is the base itself.
        ConfigError: it is not, or no base is known.
    """
    known = lineage(model)
    # what was saved whole has but its report
    base = known.base if known and known.knows_original else Base(report.model, **report.base)
    name = base_model or base.id
    if name is None or base.sha256 is None:
        raise ConfigError(
            "a patch needs a base that others can load: push the original first and pass"
            " base_model='user/name', or repair a model by its timm name or 'hf-hub:user/name'"
        )
    if repo_id in (name, name.partition("/")[2]):
        raise OptionError(
            f"{repo_id!r} is the base of this patch: pushing there would take it away; choose"
            " another repository"
        )
    original, revision = load_base(name, base.revision if name == base.id else None, token)
    if fingerprint(original.state_dict()) != base.sha256:
        raise ConfigError(
            f"{name} does not have the weights that were repaired: push the original, or push the"
            " whole model (patch=False)"
        )
    base = replace(base, id=name, revision=revision)
    if known and known.knows_original:
        known = replace(known, base=base)
    else:
        known = Lineage.between(base, original, model, edits_since(original, model), report)
    model = copy(model)  # the same modules; what it knows of its base is its own
    known.attach(model)
    return model, replace(report, base=base.to_dict())


@public
def save_pretrained(
    model: nn.Module,
    save_directory: str | Path,
    *,
    report: Report | None = None,
    patch: bool = False,
    remote_code: bool = False,
    base_model: str | None = None,
    license: str | None = None,
    repo_id: str | None = None,
    push_to_hub: bool = False,
    images: bool = True,
    **push: Any,
) -> Path:
    """Write a repaired model as a folder: config.json, model.safetensors, repair.json, the card,
    the figures and report.html. No network.

    Args:
        model: of `repair` or `from_pretrained`.
        report: None takes the one the model carries.
        patch, remote_code: see `push_to_hub`.
        base_model, license, repo_id: for the card. Which commit of a base on the Hub a patch
            belongs to, only `push_to_hub` can ask.
        push_to_hub: then push it too, to `repo_id`; `push` are options of `push_to_hub`.
        images: show examples of the holdout in report.html, and keep their small pictures in
            examples/, where the repair took some. They are not pushed.

    Raises:
        OutputError: the directory cannot be written, or holds something else.
        ConfigError: timm could not load the model again; or it carries no report.
    """
    if (push_to_hub and not repo_id) or (push and not push_to_hub):
        raise OptionError(
            "push_to_hub=True and repo_id='user/name' go together"
            if push_to_hub
            else f"{', '.join(push)} needs push_to_hub=True and repo_id="
        )
    _check(model, patch, remote_code, False, None)
    model, base_model = unwrapped(model), hub_id(base_model)
    report = report or saving.report_of(model)
    gallery = gallery_of(model, report) if images else None
    given = {"patch": patch, "base_model": base_model, "license": license}
    if patch and push_to_hub and repo_id:
        model, report = _with_known_base(model, report, base_model, push.get("token"), repo_id)
    path = saving.save(
        model,
        report,
        save_directory,
        remote_code=remote_code,
        repo_id=repo_id if repo_id and "/" in repo_id else None,
        gallery=gallery,
        **given,
    )
    if push_to_hub and repo_id:
        readme = (path / "README.md").read_text(encoding="utf-8")
        try:
            _push(
                model,
                repo_id,
                report=report,
                remote_code=remote_code,
                **given,
                **{"readme": readme, **push},
            )
        except Exception as error:
            error.add_note(
                f"the model is saved in {str(path)!r}: push it again with push_to_hub, of"
                " timm_repair.from_pretrained(folder)"
            )
            raise
    return path


def _message(patch: bool, report: Report) -> str:
    what = "a patch" if patch else "a model"
    return f"Upload {what} repaired with timm_repair ({report.method})"
