"""Accelerators: made as the launcher and the user say, or refused."""

import warnings
from typing import Any

from accelerate import Accelerator

from timm_repair.errors import OptionError

# they spread or replace a model's parameters behind its back; a repair trains one part of the model
# and takes it out
REFUSED = ("FSDP", "DEEPSPEED", "MEGATRON_LM")


def make_accelerator(**options: Any) -> Accelerator:
    """An Accelerator as the launcher and `options` say.

    Raises:
        OptionError: there can be none, such as one with float16 on a CPU.
    """
    try:
        return Accelerator(**options)
    except (ValueError, ImportError) as error:
        raise OptionError(f"accelerate refuses: {error}") from error


def tracking(name: str | None, output: str) -> Accelerator | None:
    """An Accelerator with that tracker; None where none is wanted."""
    if name is None:
        return None
    # beside the output, which holds nothing but the saved repair
    place = f"{output.rstrip('/')}-logs"
    with warnings.catch_warnings():
        # what it warns of is an error below
        warnings.filterwarnings("ignore", "`log_with=", UserWarning)
        accelerator = make_accelerator(log_with=name, project_dir=place)
    if not accelerator.log_with:
        raise OptionError(
            f"--log-with {name}: its package is not installed; pip install it, or leave the"
            " option out"
        )
    accelerator.init_trackers("timm_repair")
    return accelerator


def refuse_unfit(accelerator: Accelerator) -> None:
    """Raise OptionError for an accelerator that a repair does not run under."""
    kind = accelerator.distributed_type.value
    if kind in REFUSED:
        raise OptionError(
            f"a repair does not run under {kind}: it trains one part of the model, which every"
            " process must have as a whole. Launch it as plain data parallelism (accelerate launch"
            " --multi_gpu), without that plugin"
        )
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        # accelerate would compute in float32 without a word
        raise OptionError("mixed_precision='fp16' needs a GPU: choose 'bf16' or 'no'")
