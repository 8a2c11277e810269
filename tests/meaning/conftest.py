"""What a trained classifier is needed for: digits, and the network that reads them."""

import digits as of_digits
import pytest
from torch import nn


@pytest.fixture(scope="session")
def digits() -> dict[str, list]:
    """(image, label) pairs: "train" for the classifier, "pool" that failures are drawn from,
    "unseen" for the holdout.
    """
    return of_digits.pairs()


@pytest.fixture(scope="session")
def trained() -> nn.Module:
    """The classifier, in eval mode; take a copy to change it."""
    return of_digits.trained()
