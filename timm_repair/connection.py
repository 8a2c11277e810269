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
_TOKEN = re.compile(r"hf_\w+|(?<=[Bb]earer )\S+")
_HINTS = (
    (errors.GatedRepoError, "ask for access on its page, then log in (`hf auth login`) or pass token="),
    (errors.RepositoryNotFoundError, "check the name; if the repository is private, log in (`hf auth login`) or pass token="),
    (errors.RevisionNotFoundError, "check revision=: no such branch, tag or commit"),
    (errors.OfflineModeIsEnabled, "HF_HUB_OFFLINE is set, and it is not in the cache: unset it once to download"),
    (errors.LocalEntryNotFoundError, "the Hub was not reached, and it is not in the cache: check the network and try again"),
    (errors.EntryNotFoundError, "the repository has no such file"),
)
_STATUS = {
    401: "log in (`hf auth login`) or pass token=",
    403: "this token may not do that: use one with write access to the repository",
    409: "the repository changed in the meantime: try again",
    412: "the repository changed in the meantime: try again",
    413: "a file is too large for the server",
    429: "too many requests: wait a little and try again",
}


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


@contextmanager
def reaching(what: str) -> Iterator[None]:
    """Raise whatever the client raises inside as a HubError that starts with `what` and ends with what to do.

    Raises:
        HubError: see above; its cause is left out where it may hold the token.
    """
    try:
        yield
    except (HubError, ConfigError, OptionError):
        raise
    except (OSError, RuntimeError, ValueError, *TRANSPORT) as error:
        reason = without_token(" ".join(str(error).split()))[:500] or type(error).__name__
        raise HubError(f"{what}: {_hint(error)} ({reason})") from None


def _hint(error: Exception) -> str:
    for kind, hint in _HINTS:
        if isinstance(error, kind):
            return hint
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in _STATUS:
        return _STATUS[status]
    if status is not None and status >= 500:
        return f"the server failed (status {status}): nothing is lost, try again later"
    if isinstance(error, ConnectionError | TimeoutError | TRANSPORT):
        return "the connection failed: nothing is lost, try again"
    return "it failed"
