"""The page: the workbench in gradio. Here is where things stand and what a click changes; what is
done is the workbench's, how it looks the views'.
"""

import logging
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any

from timm_repair.app import views
from timm_repair.app.runs import DONE, RUNNING, Status
from timm_repair.app.workbench import (
    GENERAL,
    ORIGINAL,
    REPAIRED,
    STEPS,
    Form,
    Looked,
    Workbench,
    holdout_of,
    retain_of,
)
from timm_repair.errors import RepairError
from timm_repair.hub.exporting import FORMATS
from timm_repair.runtime.boundary import of_the_family

logger = logging.getLogger(__name__)
# of an extra: the type checker has nothing to say where it is not installed
gr: Any = import_module("gradio")

EVERY = 1.0  # seconds between two looks at a repair that is at work
KEPT = 3600  # seconds that an upload stays on the disk of this machine
QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
ON = (("the repaired model", REPAIRED), ("the original", ORIGINAL))
Changes = dict[Any, Any]  # component to its new value


class Page:
    """The components, and what a click does: each handler returns the components it changes."""

    def __init__(self, bench: Workbench):
        self.bench = bench
        names = list(bench.repairs)
        with gr.Blocks(
            title="timm_repair", analytics_enabled=False, delete_cache=(KEPT, KEPT)
        ) as self.blocks:
            gr.HTML("<h1>timm_repair</h1>")
            self.chosen = gr.Dropdown(
                names, value=names[0], label="Repair", visible=bench.owner or len(names) > 1
            )
            self.head = gr.HTML()
            self.looked = gr.State(Looked(), time_to_live=KEPT)
            with gr.Tabs():
                with gr.Tab("Try it"):
                    self._try()
                if bench.owner:
                    with gr.Tab("Repair again"):
                        self._again()
                with gr.Tab("Compare"):
                    self.table = gr.HTML()
                if bench.owner:
                    with gr.Tab("Export"):
                        self._export()
            self._connect()

    # ---- where things stand

    def _try(self) -> None:
        bounds = self.bench.bounds
        with gr.Row():
            with gr.Column(scale=1):
                self.files = gr.File(
                    label=f"Images, at most {bounds.count} at once",
                    file_count="multiple",
                    file_types=["image"],
                    height=180,
                )
            with gr.Column(scale=2, elem_classes="tr-pattern"):
                self.pattern = gr.HTML()
        self.tried = gr.HTML()  # what went wrong
        self.answers = gr.HTML()
        if not self.bench.owner:
            return
        with gr.Group(visible=False) as self.collecting:
            gr.HTML('<h3 class="tr-pad">Which answers of the repaired model are wrong?</h3>')
            self.picked = gr.CheckboxGroup([], label="Images")
            with gr.Row(equal_height=True):
                self.label = gr.Dropdown([], label="Their true class", scale=2)
                self.collect = gr.Button("Collect as failures", variant="primary", scale=1)
        self.taken = gr.HTML()

    def _again(self) -> None:
        self.collected = gr.HTML()
        self.take_back = gr.Button("Take back what was collected last", size="sm")
        with gr.Row():
            with gr.Column():
                self.on = gr.Radio(list(ON), value=REPAIRED, label="Repair")
                self.method = gr.Dropdown(list(GENERAL), value=GENERAL[0], label="Method")
                self.steps = gr.Number(STEPS, label="Steps", precision=0, minimum=1)
            with gr.Column():
                self.retain = gr.Textbox(
                    label="What it must not forget",
                    info="A folder, a file or a Hub id; without it forgetting cannot be measured.",
                )
                self.held = gr.Checkbox(label="Measure on what this repair was measured on")
                self.diagnose = gr.Checkbox(
                    value=True, label="Ask first what the failures have in common"
                )
        with gr.Row():
            self.start = gr.Button("Start the repair", variant="primary")
            self.cancel = gr.Button("Cancel", variant="stop", interactive=False)
        self.started = gr.HTML()
        self.progress = gr.HTML()
        self.timer = gr.Timer(EVERY, active=False)

    def _export(self) -> None:
        self.format = gr.Radio(list(FORMATS), value="onnx", label="One file, as")
        self.write = gr.Button("Export", variant="primary")
        self.exported = gr.HTML()
        self.file = gr.File(label="The exported model", interactive=False, visible=False)
        if not self.bench.logged_in:
            gr.HTML(
                '<p class="tr-soft">To push to the Hub, log in (<code>hf auth login</code>) and'
                " start the app again.</p>"
            )
            return
        gr.HTML("<h3>Push to the Hub</h3>")
        self.repo = gr.Textbox(label="Repository", placeholder="user/name")
        self.hidden = gr.Checkbox(value=True, label="Private, if it is new")
        self.images = gr.Checkbox(label="Show examples of the holdout in its report.html")
        self.push = gr.Button("Push", variant="primary")
        self.pushed = gr.HTML()

    def _connect(self) -> None:
        def on(event: Callable, handler: Callable, given: list, changed: list, says: Any) -> None:
            event(told(handler, says), given, [*changed, says], **QUIET)

        try_ = [self.answers, self.looked]
        again = []
        if self.bench.owner:
            try_ += [self.picked, self.collecting]
            again = [self.collected, self.retain, self.held, self.label]
        everything = [self.head, self.pattern, self.table, *try_, *again]
        chosen = [self.chosen, self.files]
        on(self.blocks.load, self.choose, chosen, everything, self.tried)
        on(self.chosen.change, self.choose, chosen, everything, self.tried)
        on(self.files.change, self.look, chosen, try_, self.tried)
        if not self.bench.owner:
            return
        given = [self.chosen, self.looked, self.picked, self.label]
        on(self.collect.click, self.do_collect, given, [self.collected, self.picked], self.taken)
        on(
            self.take_back.click,
            self.do_take_back,
            [self.chosen],
            [self.collected],
            self.started,
        )
        form = [self.on, self.retain, self.held, self.method, self.steps, self.diagnose]
        work = [self.progress, self.timer, self.start, self.cancel]
        on(self.start.click, self.do_start, [self.chosen, *form], work, self.started)
        on(self.cancel.click, self.do_cancel, [], work, self.started)
        on(self.timer.tick, self.watch, [], [*work, self.chosen, self.table], self.started)
        on(self.blocks.load, self.watch, [], [*work, self.chosen, self.table], self.started)
        on(
            self.write.click,
            self.do_export,
            [self.chosen, self.format],
            [self.file],
            self.exported,
        )
        if self.bench.logged_in:
            given = [self.chosen, self.repo, self.hidden, self.images]
            on(self.push.click, self.do_push, given, [], self.pushed)

    # ---- what a click does

    def choose(self, name: str, files: list[str] | None) -> Changes:
        """Another repair is looked at."""
        saved = self.bench.saved(name)
        changes = {
            self.head: views.head(saved),
            self.pattern: views.pattern(saved),
            self.table: views.compared(list(self.bench.repairs.values())),
        }
        try:
            return changes | self._models(name) | self.look(name, files)
        except RepairError as error:  # what can be told without them is
            return changes | {self.answers: "", self.tried: views.say(str(error), "bad")}

    def _models(self, name: str) -> Changes:
        """What follows from the models of a repair, for its owner."""
        if not self.bench.owner:
            return {}
        pair, asked = self.bench.pair(name), self.bench.saved(name).report.asked
        classes = [(called, i) for i, called in enumerate(pair.names)]
        held = holdout_of(asked) is not None
        return {
            self.collected: self._collected(name),
            self.retain: retain_of(asked),
            self.held: gr.update(value=held, visible=held),
            self.label: gr.update(choices=classes, value=None),
        }

    def look(self, name: str, files: list[str] | None) -> Changes:
        """Images were dropped, or taken away."""
        looked, lacking = Looked(), ""
        if files:
            looked, lacking = self.bench.look(name, files), self.bench.pair(name).lacking
        changes: Changes = {self.answers: views.answers(looked, lacking)}
        if self.bench.owner:
            images = [(f"image {i + 1}", i) for i in range(len(looked.uploads))]
            changes |= {
                self.looked: looked,
                self.picked: gr.update(choices=images, value=[]),
                self.collecting: gr.update(visible=bool(images)),
            }
        return changes

    def do_collect(
        self, name: str, looked: Looked, picked: list[int], label: int | None
    ) -> Changes:
        """Wrong ones are kept."""
        said = self.bench.collect(name, looked, picked, label)
        return {
            self.collected: self._collected(name),
            self.picked: gr.update(value=[]),
            self.taken: views.say(said, "good"),
        }

    def do_take_back(self, name: str) -> Changes:
        """The last of them are thrown away."""
        said = self.bench.take_back(name)
        return {self.collected: self._collected(name), self.started: views.say(said)}

    def _collected(self, name: str) -> str:
        failures = self.bench.failures(name)
        return views.collected(failures.counts(), failures.folder)

    def do_start(self, name: str, *form: Any) -> Changes:
        """A repair begins, or goes on."""
        start, retain, held, method, steps, diagnose = form
        self.bench.start(name, Form(start, retain, held, method, int(steps or 0), diagnose))
        return self._work() | {self.started: ""}

    def do_cancel(self) -> Changes:
        """It ends."""
        if self.bench.runs.current is not None:
            self.bench.runs.current.cancel()
        return self._work()

    def watch(self) -> Changes:
        """A second has passed; what was repaired meanwhile can be chosen."""
        known, run = list(self.bench.repairs), self.bench.runs.current
        if run is None or run.at_work or (names := self.bench.refresh()) == known:
            return self._work()
        return self._work() | {
            self.chosen: gr.update(choices=names),
            self.table: views.compared(list(self.bench.repairs.values())),
        }

    def _work(self) -> Changes:
        run = self.bench.runs.current
        status = None if run is None else run.status()
        busy = status is not None and status.state == RUNNING
        return {
            self.progress: views.progress(status, self._verdict(status)),
            self.timer: gr.Timer(EVERY, active=busy),
            self.start: gr.update(interactive=not busy),
            self.cancel: gr.update(interactive=busy),
        }

    def _verdict(self, status: Status | None) -> str:
        """Of a repair that is done, if it can be chosen already."""
        name = "" if status is None else f"{self.bench.work.name}/{status.name}"
        if status is None or status.state != DONE or name not in self.bench.repairs:
            return ""
        return self.bench.saved(name).report.verdict.sentences[0]

    def do_export(self, name: str, format: str) -> Changes:
        """The model is written as one file."""
        path = self.bench.export(name, format)
        return {
            self.file: gr.update(value=str(path), visible=True),
            self.exported: views.say(f"Written to {path}", "good"),
        }

    def do_push(self, name: str, repo_id: str, private: bool, images: bool) -> Changes:
        """It is on the Hub."""
        url = self.bench.push(name, repo_id, private=private, images=images)
        return {self.pushed: views.say(f"Pushed: {url}", "good")}


def told(handler: Callable[..., Changes], says: Any) -> Callable[..., Changes]:
    """`handler`, whose errors become a sentence in the component `says`."""

    @wraps(handler)
    def guarded(*given: Any) -> Changes:
        try:
            return {says: ""} | handler(*given)
        except RepairError as error:
            return {says: views.say(str(error), "bad")}
        except Exception as error:  # what gradio, torch and strangers' models raise
            logger.exception("the app: %s", handler.__name__)
            return {says: views.say(str(of_the_family(error, "the app")), "bad")}

    return guarded


def allowed(bench: Workbench) -> list[str]:
    """The folders that the browser may read files from, beside what it uploaded."""
    return [str(Path(bench.work, "exports").resolve())] if bench.owner else []
