"""Serving: the app in a browser, on this machine; or as a Space.

Nothing is loaded from elsewhere: no fonts, no analytics. Only this machine can reach it; what is
uploaded lies in a folder of its own, which is gone when the app ends.
"""

import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from timm_repair.app import views
from timm_repair.app.workbench import Workbench
from timm_repair.errors import OptionError, OutputError, require_packages
from timm_repair.hub.spaces import MODEL, ORIGINAL

HOST = "127.0.0.1"
HERE = [HOST, "localhost"]
# sans-serif of the system: themes of gradio fetch theirs
FONTS = ("system-ui", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
MONOSPACE = ("ui-monospace", "Consolas", "monospace")
QUEUE = 32  # clicks that wait, of all who look
ENVIRONMENT = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}


def serve(
    place: str | Path,
    *,
    port: int | None = None,
    share: bool = False,
    browser: bool = False,
    work: str | Path | None = None,
    original: str | None = None,
    ready: Callable[[str], object] = lambda url: None,
) -> None:
    """Open the app on a repair, until Ctrl-C.

    Args:
        place: a finished repair's folder, a folder with several, or a Hub id.
        port: None takes the first free one from 7860.
        share: also on a public address of gradio's, for a while. Whoever comes then, from this
            machine too, can only look: nothing is collected, repaired, exported or pushed.
        browser: open it in one.
        work: the folder for failures, new repairs and exported files; None takes PLACE-app, beside
            a folder.
        original: what was repaired, if the repair does not tell: any name of a model.
        ready: called with the address once the app can be looked at.

    Raises:
        MissingPackageError: gradio is not installed.
        RepairError: `place` holds no repair that can be read.
        OutputError: the port is taken.
    """
    require_packages("app", "the app", "gradio")
    if port is not None and not 0 < port < 2**16:
        raise OptionError(f"port={port}: must be from 1 to 65535")
    bench = Workbench.of(place, work=work, owner=not share, original=original)
    run(bench, ready, server_name=HOST, server_port=port, share=share, inbrowser=browser)


def serve_space(folder: Path, *, model: str | None = None) -> None:
    """What app.py of a Space calls: visitors look, and change nothing.

    Args:
        folder: of the Space; see `hub.spaces` for what it holds.
        model: Hub id of the repaired model, at a commit; None for the one in the folder.
    """
    original = folder / ORIGINAL
    bench = Workbench.of(
        model or folder / MODEL,
        owner=False,
        original=str(original) if original.is_dir() else None,
    )
    # the Hub says by the environment where; elsewhere it is this machine
    host = os.environ.get("GRADIO_SERVER_NAME", HOST)
    run(bench, lambda url: None, server_name=host, share=False, inbrowser=False)


def run(bench: Workbench, ready: Callable[[str], object], *, share: bool, **options: Any) -> None:
    """Serve it until Ctrl-C, then stop what is at work; `options` are those of gradio's launch."""
    with _settings():
        # not before the settings, which gradio reads when it is imported
        from timm_repair.app.page import Page, allowed, gr

        blocks = Page(bench).blocks
        try:
            _, local, public = blocks.queue(max_size=QUEUE).launch(
                share=share,
                theme=_theme(gr),
                css=views.style(),
                max_file_size=bench.bounds.size,
                allowed_paths=allowed(bench),
                footer_links=[],
                ssr_mode=False,
                enable_monitoring=False,
                quiet=True,
                prevent_thread_lock=True,
                app_kwargs={"middleware": [] if share else _guard(options.get("server_name"))},
                **options,
            )
            ready(public or local)
            threading.Event().wait()
        except OSError as error:
            raise OutputError(
                f"the app cannot be served ({error}): choose another port="
            ) from error
        finally:
            bench.close()
            blocks.close(verbose=False)


def _guard(server_name: str | None) -> list[Any]:
    """Refuses a stranger's page whose name was made to lead to this machine, which browsers take
    for one page with ours.
    """
    if server_name != HOST:
        return []
    kind = import_module("starlette.middleware").Middleware
    hosts = import_module("starlette.middleware.trustedhost").TrustedHostMiddleware
    return [kind(hosts, allowed_hosts=HERE)]


def _theme(gr: Any) -> Any:
    theme = gr.themes.Default(primary_hue="blue", font=FONTS, font_mono=MONOSPACE)
    # what is to be read stands out from what it stands on (4.5 to 1 at least)
    readable = {
        "block_info_text_color": "*neutral_600",
        "block_info_text_color_dark": "*neutral_300",
        "body_text_color_subdued": "*neutral_600",
        "body_text_color_subdued_dark": "*neutral_300",
        "button_primary_background_fill": "*primary_700",
        "button_primary_background_fill_dark": "*primary_700",
        "button_primary_background_fill_hover": "*primary_800",
        "button_primary_background_fill_hover_dark": "*primary_800",
        "button_cancel_background_fill": "*neutral_100",
        "button_cancel_background_fill_dark": "*neutral_700",
        "button_cancel_background_fill_hover": "*neutral_200",
        "button_cancel_background_fill_hover_dark": "*neutral_600",
        "button_cancel_text_color": "#9f1d1d",
        "button_cancel_text_color_dark": "#ffb4a8",
    }
    return theme.set(**readable)


@contextmanager
def _settings() -> Iterator[None]:
    """Gradio's settings that it reads from the environment."""
    before = {name: os.environ.get(name) for name in (*ENVIRONMENT, "GRADIO_TEMP_DIR")}
    with tempfile.TemporaryDirectory(prefix="timm_repair-app-") as uploads:
        os.environ |= ENVIRONMENT | {"GRADIO_TEMP_DIR": uploads}
        try:
            yield
        finally:
            _restore(before)


def _restore(before: Mapping[str, str | None]) -> None:
    for name, value in before.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
