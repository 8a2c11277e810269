"""Spaces: a repaired model to be tried by others, as the app in a Space of the Hub.

A Space holds app.py, requirements.txt, this very package (so that it runs what was tried here),
the repaired model or its id, and the original, unless that is on the Hub. What is published is
what `pushing` publishes: no path, no name, no image unless asked.
"""

import logging
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from string import Template

from huggingface_hub import CommitInfo, HfApi
from huggingface_hub.repocard_data import yaml_dump
from torch import nn

from timm_repair.errors import ConfigError, OptionError
from timm_repair.hub import licenses, saving
from timm_repair.hub.card import END, START, merged
from timm_repair.hub.connection import check_repo_id, client, reaching
from timm_repair.hub.lineage import lineage, revert
from timm_repair.hub.loading import from_pretrained
from timm_repair.hub.pictures import gallery_of
from timm_repair.hub.privacy import published
from timm_repair.models.weights import fingerprint
from timm_repair.models.wrapping import unwrapped
from timm_repair.report.report import Report
from timm_repair.report.wording import clean, escape, short_name
from timm_repair.runtime.boundary import public

logger = logging.getLogger(__name__)

MODEL, ORIGINAL = "model", "original"
# what timm_repair installs, but for what a Space has; pinned to what is installed here
REQUIRED = (
    *("torch", "timm", "huggingface-hub", "safetensors", "accelerate", "datasets", "jinja2"),
    *("psutil", "pyyaml", "scipy", "tqdm", "lazy-loader", "wrapt", "griffelib", "rich"),
)
GRADIO = "6.31.0"  # where it is not installed here
_APP = Template('''"""The app of a repaired model; made by timm_repair."""

from pathlib import Path

from timm_repair.app.serving import serve_space

serve_space(Path(__file__).parent, model=$model)
''')


@public
def push_space(
    model: nn.Module,
    repo_id: str,
    *,
    report: Report | None = None,
    model_id: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    commit_message: str | None = None,
    images: bool = False,
) -> CommitInfo:
    """Upload the app as a Space, in one commit: visitors drop images, and see what the original and
    the repaired model say to them, and what the diagnosis found. They change nothing.

    What a README.md that is there says beside our part of it stays.

    Args:
        model: of `repair` or `from_pretrained`.
        repo_id: of the Space, "user/name".
        report: None takes the one the model carries.
        model_id: where the same model is on the Hub: the Space then loads it from there, at the
            commit it has now. None puts the model into the Space.
        private: None follows the owner's default; has no effect on a Space that exists.
        token: None is the one logged in with.
        images: show the pictures of the pattern that the diagnosis found, which are images of the
            repair's data: for data that may be published. Only of a model in the Space.

    Returns:
        The commit: a string, its URL.

    Raises:
        OptionError: `repo_id` is no Hub id; options that do not go together.
        HubError: the Hub cannot be reached, or refuses.
        ConfigError: timm could not load the model again; it carries no report; or what is at
            `model_id` is another model.

    Example:
        >>> repaired.push_space("me/demo")
    """
    check_repo_id(repo_id)
    if images and model_id is not None:
        raise OptionError(
            "the Space has pictures only of a model that it holds: leave model_id out, or"
            " images=True"
        )
    model, api = unwrapped(model), client(token)
    given = report or saving.report_of(model)
    gallery = gallery_of(model, given) if images else None
    report = published(given)
    place = None if model_id is None else _at_a_commit(api, model, model_id, token)
    with tempfile.TemporaryDirectory(prefix="timm_repair-") as scratch:
        folder = Path(scratch)
        if place is None:
            saving.save(model, report, folder / MODEL, gallery=gallery)
        _add_original(model, report, folder)
        _add_package(folder)
        (folder / "app.py").write_text(_APP.substitute(model=repr(place)), encoding="utf-8")
        pins = "".join(f"{name}=={_pinned(name, '*')}\n" for name in REQUIRED)
        (folder / "requirements.txt").write_text(pins, encoding="utf-8")
        with reaching(f"cannot push to the Space {repo_id}"):
            repo_id, head, there = _opened(api, repo_id, private)
        card = merged(there, _card(report, model_id))
        (folder / "README.md").write_text(card, encoding="utf-8")
        with reaching(f"cannot push to the Space {repo_id}"):
            info = api.upload_folder(
                repo_id=repo_id,
                repo_type="space",
                folder_path=folder,
                parent_commit=head,
                commit_message=commit_message or "Upload the app of a repaired model",
                delete_patterns=[f"{part}/*" for part in (MODEL, ORIGINAL, "timm_repair")],
            )
    logger.info("pushed to %s", info)
    return info


def _at_a_commit(api: HfApi, model: nn.Module, model_id: str, token: str | bool | None) -> str:
    """`model_id` with the commit that it is at, where it is the same model."""
    check_repo_id(model_id, owner=True)
    with reaching(f"cannot load {model_id}"):
        commit = api.model_info(model_id).sha
    there = from_pretrained(model_id, revision=commit, token=token)
    if fingerprint(there.state_dict()) != fingerprint(model.state_dict()):
        raise ConfigError(
            f"{model_id} does not have the weights of this model: push it there first, or leave"
            " model_id out"
        )
    return f"{model_id}@{commit}"


def _add_original(model: nn.Module, report: Report, folder: Path) -> None:
    """What was repaired, unless the Space can load it from the Hub."""
    known = lineage(model)
    if report.base.get("id"):
        return
    if known is None or not known.knows_original:
        logger.warning(
            "the Space shows the repaired model alone: it does not hold its original, which is not"
            " on the Hub. Push what repair() returned, or repair a model of the Hub"
        )
        return
    saving.save_plain(revert(model), folder / ORIGINAL)


def _add_package(folder: Path) -> None:
    """timm_repair itself, as it is here."""
    source = Path(__file__).parents[1]
    for path in sorted(source.rglob("*")):
        if path.is_file() and path.suffix in (
            ".py",
            ".pyi",
            ".md",
            ".html",
            ".css",
            ".js",
            ".typed",
        ):
            target = folder / "timm_repair" / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())


def _pinned(name: str, otherwise: str) -> str:
    """The version that is installed here; of "2.9.0+cpu" the part that everybody can install."""
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError:
        return otherwise


def _card(report: Report, model_id: str | None) -> str:
    """README.md, whose metadata tell the Hub how to run the Space."""
    name = short_name(report.model)
    used = [each for each in (model_id, report.base.get("id")) if each]
    metadata = {
        "title": f"{clean(name, 40)}, repaired",
        "sdk": "gradio",
        "sdk_version": _pinned("gradio", GRADIO),
        "app_file": "app.py",
        "tags": ["timm", "timm_repair"],
        **({"models": used} if used else {}),
        **licenses.metadata(report.base.get("license")),
    }
    verdict = escape(report.verdict.sentences[0], 1000)
    return (
        f"---\n{yaml_dump(metadata, sort_keys=False)}---\n{START}\n"
        f"# {escape(name)}, repaired\n\n{verdict}\n\nDrop images to see what the original and the"
        f" repaired model say to them. Made with timm\\_repair.\n{END}\n"
    )


def _opened(api: HfApi, repo_id: str, private: bool | None) -> tuple[str, str | None, str | None]:
    """The Space, made if there is none: its whole id, its last commit, and its README.md."""
    made = api.create_repo(
        repo_id, repo_type="space", space_sdk="gradio", private=private, exist_ok=True
    )
    info = api.space_info(made.repo_id)
    names = {sibling.rfilename for sibling in info.siblings or ()}
    if "README.md" not in names:
        return made.repo_id, info.sha, None
    path = api.hf_hub_download(made.repo_id, "README.md", repo_type="space", revision=info.sha)
    return made.repo_id, info.sha, Path(path).read_text(encoding="utf-8")
