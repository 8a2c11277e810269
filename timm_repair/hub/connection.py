"""The one door to the Hub: its client, and its errors as HubError with what to do. Tokens never get
into a message.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from json import JSONDecodeError
from typing import Any, cast
from urllib.parse import urlsplit

from huggingface_hub import HfApi, constants, errors, get_token
from huggingface_hub.utils import HFValidationError, validate_repo_id

from timm_repair.errors import HubError, OptionError, RepairError

# what the client's HTTP library raises when nothing answers: not an OSError in all of its versions
TRANSPORT = tuple(
    {
        base
        for base in errors.HfHubHTTPError.__mro__
        if base.__name__ in ("HTTPError", "RequestException")
    }
)
# KeyError: the answer lacks something
_RAISED: tuple[type[BaseException], ...] = (
    OSError,
    RuntimeError,
    ValueError,
    KeyError,
    errors.EntryNotFoundError,
    *TRANSPORT,
)
_TOKEN = re.compile(r"hf_\w+|(?<=[Bb]earer )\S+")
# queries: signed URLs have keys there
_WORDY = re.compile(r"For more information check: \S+|(?<=\w)\?[\w-]+=[^\s'\"]*")
_HINTS = (
    (
        errors.GatedRepoError,
        "ask for access on its page, then log in (`hf auth login`) or pass token=",
    ),
    (
        errors.RepositoryNotFoundError,
        "check the name; if the repository is private, log in (`hf auth login`) or pass token=",
    ),
    (errors.RevisionNotFoundError, "check revision=: no such branch, tag or commit"),
    (
        errors.EntryNotFoundError,
        "the repository has no such file: if it changed in the meantime, try again",
    ),
    (errors.OfflineModeIsEnabled, "HF_HUB_OFFLINE is set: unset it once to reach the Hub"),
)
_CHANGED = (
    "the repository changed in the meantime, perhaps by this very push, its reply lost: try again"
)
_STATUS = {
    400: "the server refused it; if something was damaged on its way, try again",
    401: "the token is wrong or missing: log in (`hf auth login`) or pass token=",
    403: (
        "this token may not do that: use one that may; a push needs write access to the repository"
    ),
    404: "the server does not know this: check the name, and HF_ENDPOINT if it is set",
    409: _CHANGED,
    412: _CHANGED,
    413: "a file is too large for the server: a patch (patch=True) is much smaller",
    429: "too many requests: wait a little and try again",
}
_SENT = ", but everything had been sent: the push may have happened; look there, or just try again"
_LOCAL = (
    "it is not, or not whole, in the cache, and the Hub was not to be asked (HF_HUB_OFFLINE or"
    " local_files_only)"
)
_XET = "if this server has no xet storage, set HF_HUB_DISABLE_XET=1; otherwise try again"


def client(token: str | bool | None = None) -> HfApi:
    """The Hub's client; `token` as everywhere there: None is the one logged in with, False is none.

    Raises:
        HubError: the token would travel unencrypted to another machine.
    """
    api = HfApi(token=token)
    place = urlsplit(api.endpoint)
    sent = get_token() if token in (None, True) else token
    if sent and place.scheme == "http" and not _loopback(place.hostname or ""):
        raise HubError(
            f"HF_ENDPOINT={api.endpoint} is not encrypted: the token would be readable on the way;"
            " use https"
        )
    return api


def _loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def check_repo_id(repo_id: str, *, owner: bool = False) -> str:
    """`repo_id` if it is one ("name" or "user/name"; with `owner` only the latter).

    Raises:
        OptionError: it is not.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise OptionError(f"{repo_id!r} is no Hub id; write it as 'user/name' ({error})") from error
    if owner and repo_id.count("/") != 1:
        raise OptionError(f"{repo_id!r} is no Hub id with an owner; write it as 'user/name'")
    return repo_id


def hub_id(name: str | None) -> str | None:
    """A model's Hub id from "user/name" or "hf-hub:user/name"; None stays.

    Raises:
        OptionError: it is neither.
    """
    return (
        None
        if name is None
        else check_repo_id(name.removeprefix("hf-hub:").removeprefix("hf_hub:"), owner=True)
    )


def without_token(text: str) -> str:
    """`text` with everything that looks like a token blacked out."""
    return _TOKEN.sub("***", text)


class Unreached(HubError):
    """Nobody answered, or the server failed: what is in the cache may do."""


@contextmanager
def reaching(what: str) -> Iterator[None]:
    """Raise whatever the client raises inside as a HubError that starts with `what` and ends with
    what to do.

    Raises:
        Unreached: nobody answered, or the server failed.
        HubError: see above; its cause is left out where it may hold the token.
    """
    try:
        yield
    except RepairError:
        raise
    except _RAISED as error:
        chain: list[BaseException] = [error]
        while chain[-1].__cause__ is not None:
            chain.append(chain[-1].__cause__)
        told, hint = next(
            ((each, hint) for each in chain if (hint := _hint(each))), (error, "it failed")
        )
        text = (
            without_token(" ".join(_WORDY.sub("", str(told)).split()))[:500] or type(told).__name__
        )
        raise (Unreached if _unanswered(told) else HubError)(f"{what}: {hint} ({text})") from None


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _unanswered(error: BaseException) -> bool:
    status = _status(error)
    return (
        isinstance(error, (ConnectionError, TimeoutError, *TRANSPORT))
        if status is None
        else status >= 500
    )


def _hint(error: BaseException) -> str | None:
    """What to do about it; None if its cause may tell better."""
    if isinstance(error, errors.LocalEntryNotFoundError):
        return None if error.__cause__ else _LOCAL
    for kind, hint in _HINTS:
        if isinstance(error, kind):
            return hint
    status = _status(error)
    if status is None and "xet" in str(error).lower() and not constants.HF_HUB_DISABLE_XET:
        return _XET
    if status in _STATUS:
        return _STATUS[status]
    if _unanswered(error):
        what = f"the server failed (status {status})" if status else "the connection failed"
        return what + (_SENT if _committing(error) else ": nothing is lost, try again")
    if isinstance(error, KeyError | JSONDecodeError | UnicodeDecodeError):
        return "the answer cannot be understood: check HF_ENDPOINT if it is set, and try again"
    return None


def _committing(error: BaseException) -> bool:
    try:
        return "/commit/" in cast(Any, getattr(error, "response", error)).request.url.path
    except (AttributeError, RuntimeError):  # none is known
        return False


def is_hub_id(value: str) -> bool:
    """Whether `value` is shaped like "user/name"."""
    try:
        return bool(check_repo_id(value, owner=True))
    except OptionError:
        return False
