"""Collected: the failures found in a dataset, with the examples that passed."""

from timm_repair.images.images import Images


class Collected(Images):
    """What `collect_failures` found: the failures, as `Images`, and beside them `passing`, `Images`
    of the same dataset that the model gets right: all that were read, of a stream a random sample.
    None where there are none.
    """

    passing: Images | None

    @classmethod
    def of(cls, failures: Images, passing: Images | None) -> "Collected":
        """These failures, with what passed."""
        found = cls.__new__(cls)
        vars(found).update(vars(failures))
        found.passing = passing
        return found
