"""Progress: what a command tells on the way, on standard error."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

LOGGER = "timm_repair"


@contextmanager
def told(*, quiet: bool) -> Iterator[None]:
    """What is logged under "timm_repair" is told while the work inside goes on."""
    logging.basicConfig(format="%(message)s")
    yield
