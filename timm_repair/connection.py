"""The one door to the Hub: its client, and its errors as HubError with what to do. Tokens never get into a message."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from urllib.parse import urlsplit

from huggingface_hub import HfApi, errors
from huggingface_hub.utils import HFValidationError, validate_repo_id

from timm_repair.errors import ConfigError, HubError, OptionError

# what the client's HTTP library raises when nothing answers: not an OSError in all of its versions
TRANSPORT = tuple({base for base in errors.HfHubHTTPError.__mro__ if base.__name__ in ("HTTPError", "RequestException")})
# KeyError: the answer lacks something; the others have no base of their own
_RAISED = (OSError, RuntimeError, ValueError, KeyError, errors.EntryNotFoundError, errors.XetDownloadError, *TRANSPORT)
_TOKEN = re.compile(r"hf_\w+|(?<=[Bb]earer )\S+")
_WORDY = re.compile(r"For more information check: \S+")
_HINTS = (
    (errors.GatedRepoError, "ask for access on its page, then log in (`hf auth login`) or pass token="),
    (errors.RepositoryNotFoundError, "check the name; if the repository is private, log in (`hf auth login`) or pass token="),
    (errors.RevisionNotFoundError, "check revision=: no such branch, tag or commit"),
    (errors.RemoteEntryNotFoundError, "the repository has no such file: if it changed in the meantime, try again"),
    (errors.OfflineModeIsEnabled, "HF_HUB_OFFLINE is set: unset it once to reach the Hub"),
)
_CHANGED = "the repository changed in the meantime: try again, on top of that change"
_STATUS = {
    400: "the server refused it",
    401: "the token is wrong or missing: log in (`hf auth login`) or pass token=",
    403: "this token may not do that: use one with write access to the repository",
    404: "the server does not know this: check the name, and HF_ENDPOINT if it is set",
    409: _CHANGED,
    412: _CHANGED,
    413: "a file is too large for the server: a patch (patch=True) is much smaller",
    429: "too many requests: wait a little and try again",
}
_SENT = ", but after everything was sent: the push may have happened; look, or try again, what is there is not sent twice"


def client(token: str | bool | None = None) -> HfApi:
    """The Hub's client; `token` as everywhere there: None is the one logged in with, False is none.

    Raises:
        HubError: the token would travel unencrypted to another machine.
    """
    api = HfApi(token=token)
    place = urlsplit(api.endpoint)
    if token and place.scheme == "http" and not _loopback(place.hostname or ""):
        raise HubError(f"HF_ENDPOINT={api.endpoint} is not encrypted: the token would be readable on the way; use https")
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


def without_token(text: str) -> str:
    """`text` with everything that looks like a token blacked out."""
    return _TOKEN.sub("***", text)


class Unreached(HubError):
    """Nobody answered, or the server failed: what is in the cache may do."""


@contextmanager
def reaching(what: str) -> Iterator[None]:
    """Raise whatever the client raises inside as a HubError that starts with `what` and ends with what to do.

    Raises:
        Unreached: nobody answered, or the server failed.
        HubError: see above; its cause is left out where it may hold the token.
    """
    try:
        yield
    except RepairError:
        raise
    except _RAISED as error:
        chain = [error]
        while chain[-1].__cause__ is not None:
            chain.append(chain[-1].__cause__)
        reason, hint = next(((each, hint) for each in chain if (hint := _hint(each))), (error, _LAST))
        kind = Unreached if isinstance(reason, (*_LOST, *TRANSPORT)) and _status(reason, 500) >= 500 else HubError
        text = without_token(" ".join(_WORDY.sub("", str(reason)).split()))[:500] or type(reason).__name__
        raise kind(f"{what}: {hint} ({text})") from None


def _status(error: BaseException, default: int) -> int:
    return getattr(getattr(error, "response", None), "status_code", default)


def _hint(error: BaseException) -> str | None:
    """What to do about it; None if its cause may tell better."""
    known = next((hint for kind, hint in _HINTS if isinstance(error, kind)), None) or _STATUS.get(_status(error, 0))
    if known:
        return known
    ...
