"""Workbench: all that the app does, without its looks."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import get_token

from timm_repair.app.failures import Failures
from timm_repair.app.opening import Saved, inside, opened, workplace
from timm_repair.app.pair import Answers, Pair
from timm_repair.app.runs import Request, Run, Runs
from timm_repair.app.uploads import Bounds, Upload, uploaded
from timm_repair.data.splits import LEAST
from timm_repair.errors import DataError, NoFailuresError, OptionError, did_you_mean
from timm_repair.hub.exporting import FORMATS, export
from timm_repair.hub.folder import PATCH, writable
from timm_repair.hub.loading import from_pretrained
from timm_repair.hub.pushing import push_to_hub
from timm_repair.methods import METHODS
from timm_repair.options import flat_names
from timm_repair.training.options import Training

STEPS = Training().steps
# those that take any failures of any image classifier
GENERAL = ("archrepair", "finetune", "bn_recalibration")
REPAIRED, ORIGINAL = "repaired", "original"


@dataclass(frozen=True)
class Looked:
    """Images that were looked at, with both models' answers; and what is wrong with others."""

    uploads: tuple[Upload, ...] = ()
    answers: tuple[Answers, ...] = ()
    wrong: tuple[str, ...] = ()


@dataclass(frozen=True)
class Form:
    """What a repair is started with.

    Args:
        start: which model is repaired, REPAIRED or ORIGINAL.
        retain: a folder, a file or a Hub id; "" for none.
        same_holdout: measure on what the repair that is looked at was measured on.
    """

    start: str = REPAIRED
    retain: str = ""
    same_holdout: bool = False
    method: str = GENERAL[0]
    steps: int = STEPS
    diagnose: bool = True


@dataclass
class Workbench:
    """The repairs of a place, and what is done with them. Made by `Workbench.of`; `close` it.

    Args:
        place: a folder or a Hub id, see `opening.opened`.
        work: the folder for what is made: failures, new repairs, exported files.
        owner: whether who looks may also make things on this machine. A visitor only looks.
        original: what the original of the repairs is called; None takes what they tell.
    """

    place: str
    work: Path
    owner: bool = True
    original: str | None = None
    bounds: Bounds = field(default_factory=Bounds)
    repairs: dict[str, Saved] = field(default_factory=dict)

    def __post_init__(self):
        self.runs = Runs(self.work)
        self._pairs: dict[str, Pair] = {}
        self._failures: dict[str, Failures] = {}
        self._lock = threading.RLock()  # gradio asks from several threads
        self._read()

    @classmethod
    def of(
        cls,
        place: str | Path,
        *,
        work: str | Path | None = None,
        owner: bool = True,
        original: str | None = None,
    ) -> "Workbench":
        """Open a place.

        Raises:
            ConfigError, ModelError, HubError: it holds no repair that can be read.
        """
        chosen = workplace(place) if work is None else Path(work).expanduser()
        return cls(str(place), chosen, owner, original)

    def _read(self) -> None:
        found = [*opened(self.place)]
        if self.owner and self.work.is_dir():
            found += [each for each in inside(self.work, within=self.work.name)]
        self.repairs = {each.name: each for each in found}

    def refresh(self) -> list[str]:
        """Read the place again; the names of its repairs."""
        with self._lock:
            self._read()
            return list(self.repairs)

    def saved(self, name: str) -> Saved:
        """One of the repairs.

        Raises:
            OptionError: there is none of that name.
        """
        if name not in self.repairs:
            raise OptionError(f"there is no repair {name!r}{did_you_mean(name, self.repairs)}")
        return self.repairs[name]

    def pair(self, name: str) -> Pair:
        """Its two models; those that were asked last are kept."""
        saved = self.saved(name)
        with self._lock:
            if name not in self._pairs:
                # an original that was named is that of what the app was opened with
                given = None if name.startswith(f"{self.work.name}/") else self.original
                self._pairs = {name: Pair.of(saved, given)}
            return self._pairs[name]

    def look(self, name: str, paths: Sequence[str | Path]) -> Looked:
        """Both models' answers to the images of these files."""
        pair = self.pair(name)
        found, wrong = uploaded(paths, pair.preprocessing, self.bounds)
        with self._lock:
            answers = pair.answers([each.image for each in found])
        return Looked(tuple(found), tuple(answers), tuple(wrong))

    # ---- what only the owner may

    def failures(self, name: str) -> Failures:
        """Where failures of this repair's model are collected."""
        classes = self.pair(name).classes
        with self._lock:
            found = self._failures.get(name)
            if found is None:
                found = self._failures[name] = Failures(self.work / "failures", classes)
            return found

    def collect(self, name: str, looked: Looked, chosen: Sequence[int], label: int | None) -> str:
        """Keep the chosen ones of what was looked at as failures of class `label`; what came of it,
        in words.

        Raises:
            DataError: nothing is chosen, or the repaired model has one right.
        """
        self._require_owner()
        if not chosen or not all(0 <= i < len(looked.uploads) for i in chosen):
            raise DataError("choose the images that are wrong")
        if label is None:
            raise DataError("choose their true class")
        right = [i for i in chosen if looked.answers[i].after[0].label == label]
        called = self.pair(name).names[label]
        if right:
            listed = ", ".join(f"image {i + 1}" for i in right)
            raise DataError(f"{listed}: the repaired model says {called} already, it is no failure")
        new = self.failures(name).add([looked.uploads[i] for i in chosen], label)
        known = len(chosen) - new
        return f"Collected {new} as {called}" + (f"; {known} were there already." if known else ".")

    def take_back(self, name: str) -> str:
        """Remove what was collected last; what came of it, in words."""
        self._require_owner()
        gone = self.failures(name).take_back()
        return f"Took {gone} back." if gone else "There is nothing to take back."

    def request(self, name: str, form: Form) -> Request:
        """What `start` repairs.

        Raises:
            OptionError: the method is not known, or takes no such option.
        """
        saved, failures = self.saved(name), self.failures(name)
        if form.method not in METHODS:
            raise OptionError(f"unknown method {form.method!r}{did_you_mean(form.method, METHODS)}")
        asked = saved.report.asked
        data = dict(asked.get("data") or {}) if form.same_holdout or form.retain else {}
        if (label_map := failures.label_map) is not None:
            data["label_map"] = label_map | (data.get("label_map") or {})
        takes = "steps" in flat_names(METHODS[form.method])
        return Request(
            model=self._start(saved, form.start),
            failures=str(failures.folder),
            examples=failures.contents(),
            retain=form.retain.strip() or None,
            holdout=holdout_of(asked) if form.same_holdout else None,
            method=form.method,
            diagnose=form.diagnose,
            options={"steps": int(form.steps)} if takes else {},
            data=data,
        )

    def _start(self, saved: Saved, which: str) -> str:
        if which == REPAIRED:
            local = not saved.source.startswith("hf-hub:")
            return f"local-dir:{saved.folder.resolve()}" if local else saved.source
        if self.original is not None:
            folder = Path(self.original).expanduser()
            return f"local-dir:{folder.resolve()}" if folder.is_dir() else self.original
        base = saved.report.base
        if base.get("id"):
            return "@".join(filter(None, (f"hf-hub:{base['id']}", base.get("revision"))))
        return saved.report.model

    def start(self, name: str, form: Form) -> Run:
        """Start a repair of the failures collected, or go on with it.

        Raises:
            RepairError: see `request` and `Runs.start`.
        """
        self._require_owner()
        with self._lock:
            request = self.request(name, form)
            _require_enough(len(request.examples), held_out=request.holdout is not None)
            return self.runs.start(request, steps=request.options.get("steps", 0))

    def export(self, name: str, format: str) -> Path:
        """Write the repaired model as one file; where it is.

        Raises:
            RepairError: see `exporting.export`.
        """
        self._require_owner()
        folder = writable(self.work / "exports")
        path = folder / f"{name.replace('/', '-')}{FORMATS.get(format, '')}"
        return export(self.pair(name).repaired, path, format=format)

    @property
    def logged_in(self) -> bool:
        """Whether there is a token to push with."""
        return self.owner and get_token() is not None

    def push(self, name: str, repo_id: str, *, private: bool, images: bool) -> str:
        """Push the repair to the Hub, as it was saved; the commit's URL.

        Raises:
            RepairError: see `pushing.push_to_hub`.
        """
        self._require_owner()
        saved = self.saved(name)
        readme = saved.folder / "README.md"
        text = readme.read_text(encoding="utf-8") if readme.is_file() else None
        # a model of its own: what is pushed tells of the place that it was loaded from
        model = from_pretrained(saved.source)
        patch = (saved.folder / PATCH).is_file()
        options = {"patch": patch, "readme": text, "images": images}
        return str(push_to_hub(model, repo_id.strip(), private=private or None, **options))

    def close(self) -> None:
        """Stop what is at work."""
        self.runs.close()

    def _require_owner(self) -> None:
        if not self.owner:
            raise OptionError("a visitor cannot do this: run timm-repair app on your own machine")


def _require_enough(count: int, *, held_out: bool) -> None:
    """Raise NoFailuresError, before anything takes its time, unless a repair has enough of them."""
    needed = LEAST * (2 if held_out else 3)  # to train, to choose by, to measure on
    if count < needed:
        raise NoFailuresError(f"{count} failures are too few: collect at least {needed}")


def holdout_of(asked: Mapping[str, Any]) -> str | dict[str, str] | None:
    """What a repair was measured on, where that has a name."""
    held = asked.get("holdout")
    if isinstance(held, dict) and held and all(isinstance(each, str) for each in held.values()):
        return held
    return held if isinstance(held, str) else None


def retain_of(asked: Mapping[str, Any]) -> str:
    """What a repair kept its model from forgetting, where that has a name; else ""."""
    found = asked.get("retain")
    return found if isinstance(found, str) else ""
