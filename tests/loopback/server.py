"""A Hugging Face Hub on the loopback, in this process, that the unmodified clients talk to; tests
can make it fail.

    with HubServer() as hub:
        api = HfApi(endpoint=hub.url, token="hf_me")
        api.create_repo("me/x")

loopback/store.py has the repositories, loopback/routes.py and loopback/reading.py the routes, loopback/http.py the
protocol and the faults, loopback/xet.py the storage of hf_xet. huggingface_hub reads HF_ENDPOINT at
import: pass `endpoint=`, or start a process with `hub_environment`.
"""

import os
import threading
from pathlib import Path

import loopback.reading  # noqa: F401  registers its routes
from loopback.http import Fault, Listener, Record
from loopback.store import Store, User
from loopback.xet import Xet


class HubServer:
    """The Hub. Users: "me" with the token "hf_me", "other" with "hf_other".

    `regular_only` sends all files inside the commit, `part_size` makes LFS uploads multipart, `xet`
    serves hf_xet (without it clients need huggingface_hub.constants.HF_HUB_DISABLE_XET), `cdn`
    serves large files from a second origin, `resolve_cache` redirects small ones, `page_size` cuts
    listings. All but `cdn` can be changed while it runs. `errors` are bugs of this server.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        regular_only: bool = False,
        part_size: int | None = None,
        xet: bool = False,
        cdn: bool = False,
        resolve_cache: bool = False,
        page_size: int = 1000,
    ):
        self.store, self.errors, self.faults = Store(), [], []
        self.regular_only, self.part_size, self.page_size, self.resolve_cache = (
            regular_only,
            part_size,
            page_size,
            resolve_cache,
        )
        self._xet: Xet | None = None
        self.serve_xet = xet
        self._lock = threading.Lock()
        self.listener = Listener(self, port)
        self.cdn = Listener(self) if cdn else None
        self.url, self.port = self.listener.url, self.listener.server_port
        self.running = True

    @property
    def requests(self) -> list[Record]:
        """All requests so far, in order of arrival; those to the second origin are
        `cdn.requests`.
        """
        return self.listener.requests

    @property
    def xet(self) -> Xet | None:
        """The xet storage; None while it is off. Assign True or False."""
        if self.serve_xet and self._xet is None:
            self._xet = Xet()
        return self._xet if self.serve_xet else None

    @xet.setter
    def xet(self, on: bool) -> None:
        self.serve_xet = on

    def add_user(
        self, name: str, token: str, *, orgs: tuple[str, ...] = (), write: bool = True
    ) -> User:
        """Another token; `write=False` is a read-only one."""
        self.store.users[token] = User(name, orgs, write)
        return self.store.users[token]

    def fault(
        self,
        method: str | None,
        path: str,
        *,
        status: int | None = None,
        times: int | None = 1,
        headers: dict | None = None,
        cut_after: int | None = None,
        reset: bool = False,
        delay: float = 0,
        slow: tuple[int, float] | None = None,
        corrupt: bool = False,
        when: str = "before",
    ) -> Fault:
        """Disturb the first `times` requests (None: all) whose method fully matches and in whose
        raw path `path` is found.

        Args:
            status: answer with this, and with `headers` (429 has Retry-After: 1 if none are given);
                when="after": although the request was carried out (a lost reply).
            cut_after: close the connection after so many bytes of a POST's or PUT's body, before it
                is looked at; otherwise, or with when="after", after so many bytes of the answer's
                body (0 and "after": not even its headers).
            reset: close it with a reset. A download that ends is resumed by the client, one that is
                reset is not.
            delay: seconds to wait before anything else.
            slow: (bytes, seconds): the answer's body drips.
            corrupt: flip bytes in the request's body, if it has one, otherwise in the answer's.
        """
        found = Fault(
            method, path, status, times, headers, cut_after, reset, delay, slow, corrupt, when
        )
        self.faults.append(found)
        return found

    def clear_faults(self) -> None:
        """Behave again."""
        self.faults.clear()

    def disturbance(self, method: str, path: str) -> Fault | None:
        """The first fault that takes this request."""
        with self._lock:
            return next((fault for fault in list(self.faults) if fault.takes(method, path)), None)

    def stop(self) -> None:
        """Be down: connections are refused. `start` goes on where it was, on the same port."""
        if self.running:
            self.listener.stop()
            self.running = False

    def start(self) -> None:
        """Be up again."""
        if not self.running:
            requests = self.listener.requests
            self.listener = Listener(self, self.port)
            self.listener.requests = requests
            self.running = True

    def close(self) -> None:
        """Stop for good."""
        self.stop()
        if self.cdn:
            self.cdn.stop()
        if self._xet:
            self._xet.close()

    def __enter__(self) -> "HubServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def hub_environment(
    url: str, home: str | Path, *, token: str | None = None, xet: bool = False
) -> dict[str, str]:
    """The environment for a fresh process that knows no other Hub and has an empty cache; `xet`
    needs a server that has it.
    """
    found = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HF_", "HUGGING_FACE_", "HUGGINGFACE_"))
    }
    found |= {
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    found |= {"HF_TOKEN": token} if token else {}
    found |= {"NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}
    return found | ({"HF_HUB_DISABLE_XET": "1"} if not xet else {})
