"""What datasets and the Hub raise while loading, as DataError with the fix; never with a token."""

from typing import NoReturn

import datasets.exceptions
import huggingface_hub
from huggingface_hub import errors as hub_errors

from timm_repair.errors import DataError

# huggingface_hub's errors have no common base: some are OSErrors, some ValueErrors, some neither,
# as those of its HTTP client
LOADING_ERRORS = (
    OSError,
    ValueError,
    RuntimeError,
    datasets.exceptions.DatasetsError,
    *(
        kind
        for kind in vars(hub_errors).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ),
)
_LOGIN = "log in with `hf auth login`, or pass token= to as_images or collect_failures"
# kinds of errors, or words in their messages (datasets passes on some errors of the Hub in words
# only), and what to do
_FIXES: tuple[tuple[tuple[type, ...], tuple[str, ...], str], ...] = (
    (
        (hub_errors.GatedRepoError,),
        ("gated dataset",),
        f"Accept its conditions on its page on the Hub, then {_LOGIN}",
    ),
    (
        (hub_errors.RevisionNotFoundError,),
        (),
        "Check revision=: a branch, tag or commit of that dataset",
    ),
    ((), ("Bad split", "Unknown split"), "Check split="),
    (
        (),
        ("corresponds to no data", "No columns to parse"),
        "It holds no examples: give at least one image with its label",
    ),
    (
        (),
        ("Config name is missing",),
        "Load it with datasets.load_dataset(id, configuration) and pass what that gives",
    ),
    (
        (),
        ("scripts are no longer supported",),
        "Try revision='refs/convert/parquet', where the Hub keeps a copy without code",
    ),
    (
        (hub_errors.LocalTokenNotFoundError,),
        ("nvalid credentials", "nvalid user token", "401 "),
        f"Your token is not valid: {_LOGIN}",
    ),
    (
        (hub_errors.RepositoryNotFoundError, datasets.exceptions.DatasetNotFoundError),
        (),
        f"Check the path or id; if the dataset is private, {_LOGIN}",
    ),
    (
        (ConnectionError, TimeoutError, hub_errors.OfflineModeIsEnabled),
        ("offline", "onnect"),
        "Check the connection and HF_HUB_OFFLINE, or give a dataset that is on this machine",
    ),
)
_OTHERWISE = (
    "Check the path or id, split= and your access, or load it with datasets.load_dataset and pass"
    " the Dataset"
)


def raise_loading(what: str, error: Exception, token: str | bool | None = None) -> NoReturn:
    """Raise DataError for an `error` that was met while loading: "`what` (the error). What to do".
    No token is ever shown.

    Args:
        what: the beginning of the message.
        error: one of `LOADING_ERRORS`; it becomes the cause, unless its text holds a token.
        token: what the user gave.
    """
    chain: list[BaseException] = []
    first: BaseException
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    said = " ".join(" ".join(map(str, chain)).split())
    fix = next(
        (do for kinds, words, do in _FIXES if _applies(chain, said, kinds, words)), _OTHERWISE
    )
    first = error  # datasets says only that something went wrong; its cause says what
    while isinstance(first, datasets.exceptions.DatasetGenerationError) and first.__cause__:
        first = first.__cause__
    message = f"{what} ({type(first).__name__}: {' '.join(str(first).split())}). {fix}"
    # the HTTP client quotes a header that it refuses, and the token is in one
    secrets = [
        secret
        for secret in (token, huggingface_hub.get_token())
        if isinstance(secret, str) and secret
    ]
    leaked = any(secret in said for secret in secrets)
    for secret in secrets:
        message = message.replace(secret, "***")
    raise DataError(message) from (None if leaked else error)


def _applies(
    chain: list[BaseException], said: str, kinds: tuple[type, ...], words: tuple[str, ...]
) -> bool:
    return any(isinstance(link, kinds) for link in chain) or any(word in said for word in words)
