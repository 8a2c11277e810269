"""Keeping: whatever fails after the work, its result is not lost."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from timm_repair.errors import OutputError, RepairError
from timm_repair.pipeline.repaired import Repaired


@contextmanager
def kept(
    repaired: Callable[[], Repaired], doing: str, resumable: Path | None = None
) -> Iterator[None]:
    """Put the result of the work on any error of what comes after it, and say how to go on.

    Args:
        repaired: gives what is done by then.
        doing: what comes after, for the message: "saving the repaired model".
        resumable: the output directory in which the same call goes on, if it has one.

    Raises:
        RepairError: as met inside, or an OutputError for any other error, with the attribute
            `repaired`.
    """
    try:
        yield
    except Exception as error:  # of any kind: hours of work hang on it
        told = error
        if not isinstance(error, RepairError):
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            told = OutputError(f"{doing} failed ({reason:.300})")
        vars(told)["repaired"] = repaired()
        told.add_note(
            "the repair itself is done: model and report are this error's attribute `repaired`"
            " (repaired.save_pretrained(folder) saves them, repaired.model.state_dict() are the"
            " weights)"
        )
        if resumable is not None:
            told.add_note(
                f"mend the cause and run the same again: it goes on in {str(resumable)!r} from the"
                " last checkpoint"
            )
        if told is error:
            raise
        raise told from error
    except BaseException as error:  # interrupted
        vars(error)["repaired"] = repaired()
        raise
