"""Which blocks a method repairs: those named by the user, or those that localization finds most
suspicious (paper §3.2).
"""

from dataclasses import asdict, dataclass

from torch import nn

from timm_repair.data.repair_data import RepairData
from timm_repair.errors import OptionError, PartitionError, did_you_mean
from timm_repair.localization.localization import Localization
from timm_repair.localization.localizing import DEFAULT_SCORER, Scorer, localize
from timm_repair.localization.places import placed
from timm_repair.localization.scorers import SCORERS
from timm_repair.localization.scores import NeuronScorer
from timm_repair.models import partition
from timm_repair.models.block import Block
from timm_repair.models.partition import GRANULARITIES
from timm_repair.models.weights import part_of
from timm_repair.options import check_types
from timm_repair.runtime.processes import agreed
from timm_repair.runtime.runtime import Runtime
from timm_repair.training.job import Job
from timm_repair.training.options import Training


@dataclass(frozen=True, kw_only=True)
class Target:
    """How the blocks are chosen; the same fields serve every method that repairs some.

    Args:
        block: the block's name, or the names of several, which are repaired together; None lets
            `score` choose.
        blocks: how many `score` chooses, the most suspicious first; they are repaired together,
            within the same budget as one. None is one where a score is asked for, and otherwise as
            many as `places.placed` finds best.
        granularity: what a block is, see `partition.blocks`.
        names: exactly these blocks instead, cut by hand, see `partition.blocks`.
        score: see `localizing.localize`, as for the next two; "spectrum_gradient" is the paper's.
            None is the default score, as one evidence among others, see `places`.
        top: how many neurons count as vulnerable.
        threshold: the score above which a neuron is vulnerable, instead of `top`.
    """

    block: str | tuple[str, ...] | None = None
    blocks: int | None = None
    granularity: str = "stage"
    names: tuple[str, ...] | None = None
    score: str | Scorer | None = None
    top: int = 50
    threshold: float | None = None

    def __post_init__(self):
        check_types(self)
        for name in ("block", "names"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        chosen = self.chosen
        if (
            not all(isinstance(name, str) for name in chosen)
            or len(set(chosen)) < len(chosen)
            or self.block == ()
        ):
            raise OptionError(f"block={self.block!r} must be a name, or several different names")
        if self.names is not None and not (
            isinstance(self.names, tuple) and all(isinstance(name, str) for name in self.names)
        ):
            raise OptionError(f"names={self.names!r:.80} must be a list of names, or None")
        if not (
            self.score is None or isinstance(self.score, str | NeuronScorer) or callable(self.score)
        ):
            raise OptionError(
                f"score={self.score!r:.80} must be the name of a score, or a function"
            )
        if isinstance(self.score, str) and self.score not in SCORERS:
            raise OptionError(f"unknown scorer {self.score!r}{did_you_mean(self.score, SCORERS)}")
        if self.blocks is not None and self.blocks < 1:
            raise OptionError(f"blocks must be at least 1, got {self.blocks}")
        if self.several and self.block is not None:
            raise OptionError(
                "give either block=, the names, or blocks=, how many the score chooses, not both"
            )
        if self.granularity not in GRANULARITIES:
            raise OptionError(
                "unknown granularity"
                f" {self.granularity!r}{did_you_mean(self.granularity, GRANULARITIES)}"
            )
        if self.top < 1:
            raise OptionError(f"top must be at least 1, got {self.top}")

    @property
    def chosen(self) -> tuple:
        """The names in `block`; empty where the score chooses."""
        return (
            self.block
            if isinstance(self.block, tuple)
            else ()
            if self.block is None
            else (self.block,)
        )

    @property
    def several(self) -> bool:
        """Whether the score is to choose more than one."""
        return (self.blocks or 1) > 1

    @property
    def open(self) -> bool:
        """Whether all evidence is to tell which blocks are repaired together, and how many."""
        asked = self.chosen or self.blocks is not None or self.score is not None
        return not asked and self.granularity == "stage"

    def require_named(self, method: str) -> None:
        """Raise OptionError where a score is to choose, for a method that repairs the whole network
        unless blocks are named.
        """
        if self.several:
            raise OptionError(
                f"blocks= is not used by {method}: name them, block=(…), or leave it out"
            )
        ignored = [name for name in ("names", "score") if getattr(self, name) is not None]
        if ignored and not self.chosen:
            raise OptionError(
                f"{ignored[0]}= is not used by {method}, which changes the whole network unless"
                " block= names what to change"
            )

    def named_part(
        self, model: nn.Module, data: RepairData, training: Training, runtime: Runtime
    ) -> tuple[tuple[Block, ...], tuple[Block, ...], nn.Module, list[str] | None]:
        """For a method that repairs the blocks named, or the whole network: all blocks, those
        named, the part that they are, and its modules' paths; without names none, none, the model
        and None.
        """
        if not self.chosen:
            return (), (), model, None
        found, chosen, _ = self.choose(model, data, training, runtime)
        paths = [path for block in chosen for path in block.paths]
        return found, chosen, part_of(model, *chosen), paths

    def among(self, model: nn.Module, input_size: tuple[int, ...]) -> tuple[Block, ...]:
        """All blocks of `model`; those that are asked for are among them, and can be repaired.

        Raises:
            PartitionError: a name in `block` does not exist, or cannot be repaired (the message
                says why).
            OptionError: there are fewer repairable blocks than `blocks`.
        """
        found = partition.blocks(
            model, granularity=self.granularity, names=self.names, input_size=input_size
        )
        by_name = {b.name: b for b in found}
        for name in self.chosen:
            if name not in by_name:
                raise PartitionError(
                    f"the model has no block {name!r}{did_you_mean(name, by_name)}"
                )
            if by_name[name].reason:
                raise PartitionError(f"block {name!r} cannot be repaired: {by_name[name].reason}")
        available = sum(b.repairable for b in found)
        if self.blocks is not None and self.blocks > available:
            raise OptionError(
                f"blocks={self.blocks}, but the model has {available} that can be repaired:"
                f" give at most {available}"
            )
        return found

    def choose(
        self, model: nn.Module, data: RepairData, training: Training, runtime: Runtime
    ) -> tuple[tuple[Block, ...], tuple[Block, ...], Localization | None]:
        """All blocks, those to repair (the most suspicious first), and the localization where one
        was needed; errors as `among`.
        """
        found = self.among(model, data.preprocessing.input_size)
        by_name = {b.name: b for b in found}
        if self.chosen:
            return found, tuple(by_name[name] for name in self.chosen), None
        available = [b for b in found if b.repairable]

        def localized() -> dict:
            scored = localize(
                model,
                found,
                data,
                score=self.score or DEFAULT_SCORER,
                top=self.top,
                threshold=self.threshold,
                training=training,
                runtime=runtime,
            )
            if self.open:
                scored = placed(Job(model, data, training, runtime), available, scored)
            return asdict(agreed(scored, runtime.accelerator))

        localization = Localization(**runtime.once("localization", localized))
        names = localization.ranking[: self.blocks or 1]
        if places := localization.details.get("places"):
            names = places[0]["blocks"]
        return found, tuple(by_name[name] for name in names), localization
