"""Scaling the neurons that are responsible for a misbehaviour (BIRDNN, fine-tuning)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from timm_repair.errors import (
    DataError,
    OptionError,
    PartitionError,
    did_you_mean,
    require_packages,
)
from timm_repair.gradient_free.judging import Answers, Cost, Judges, some
from timm_repair.gradient_free.neurons import Factors, Site, sites, states
from timm_repair.gradient_free.searching import search
from timm_repair.gradient_free.swarm import Swarm
from timm_repair.images.images import Images
from timm_repair.models.temporary import evaluating
from timm_repair.models.weights import owners
from timm_repair.options import check_types
from timm_repair.runtime.processes import agreed
from timm_repair.training.history import Row
from timm_repair.training.imitation import neighbours
from timm_repair.training.job import Job

RESPONSIBILITY = ("sums", "pairs")


@dataclass(frozen=True, kw_only=True)
class Swarming:
    """How a swarm looks for the factors of neurons.

    Args:
        neurons: how many are scaled.
        particles: of the swarm.
        inertia: its w, how much of its velocity a particle keeps.
        pull: its c1 = c2, towards the best places found.
        reach: factors lie between 1 - reach and 1 + reach.
        caution: α of the cost (1 - α) · share of failures still wrong + α · share of retained ones
            now wrong.
        clearance: a failure is right for the swarm only by at least this, in standard deviations of
            the margins of retained examples: what is right by a hair is wrong beside it.
        examples: of each population, at most, that the swarm is judged by.
    """

    neurons: int = 20
    particles: int = 20
    inertia: float = 0.8
    pull: float = 0.41
    reach: float = 1.0
    caution: float = 0.5
    clearance: float = 0.1
    examples: int = 500

    def __post_init__(self):
        check_types(self)
        require_packages("properties", "a particle swarm", "pymoo")
        if min(self.neurons, self.examples) < 1 or self.particles < 2:
            raise OptionError("neurons and examples must be at least 1, particles at least 2")
        if not 0 <= self.caution <= 1 or self.reach <= 0 or self.clearance < 0:
            raise OptionError(
                "caution lies between 0 and 1, reach is positive, and clearance is not negative"
            )


@dataclass(frozen=True, kw_only=True)
class Scaling(Swarming):
    """Which neurons are scaled, of all layers together, and how the swarm looks for their factors.

    Args:
        responsibility: "sums" is |Σ h(x+) - Σ h(x-)|, "pairs" is Σ |h(x+) - h(x-)| over each x- and
            its neighbour x+.
    """

    responsibility: str = "sums"

    def __post_init__(self):
        super().__post_init__()
        if self.responsibility not in RESPONSIBILITY:
            known = did_you_mean(self.responsibility, RESPONSIBILITY)
            raise OptionError(f"unknown responsibility {self.responsibility!r}{known}")
        if self.reach > 1:
            raise OptionError("reach is at most 1: a factor is not negative")


def responsible(job: Job, places: Sequence[Site], options: Scaling) -> Tensor:
    """(k,) numbers of the most responsible neurons at `places`, in order. Pairs are failures and
    neighbours.
    """
    model, data, runtime = job.model, job.data, job.runtime
    near = neighbours(job, model, most=5 * options.examples, margin=0.0)
    pairs = torch.where(near.rows >= 0, near.rows, near.of_any_class).cpu()
    bad = (pairs >= 0).nonzero().flatten()[: options.examples]
    if data.retained is None or not len(bad):
        raise DataError(
            "the model gets no retained example right: there is no behaviour to compare the"
            " failures' with"
        )

    def run(images: Images) -> Callable[[], object]:
        def compute(rows: Tensor) -> None:
            model(data.preprocessing.normalize(images.pixels(rows), runtime.device))

        return lambda: list(runtime.in_batches(compute, torch.arange(len(images))))

    with evaluating(model), torch.no_grad():
        behaved = states(model, places, run(data.retained.subset(pairs[bad])))
        misbehaved = states(model, places, run(data.failing.subset(bad)))
    difference = behaved - misbehaved
    score = difference.sum(0).abs() if options.responsibility == "sums" else difference.abs().sum(0)
    chosen = score.topk(min(options.neurons, len(score))).indices.sort().values.cpu()
    return agreed(chosen, runtime.accelerator)


def scale_neurons(
    job: Job, paths: Sequence[str] | None, options: Scaling, *, rounds: int
) -> tuple[list[Row], tuple[str, ...]]:
    """Scale the most responsible neurons. What remains is the best of the swarm's states by the
    selection split, the original included.

    Args:
        paths: of the modules that may change, None for all.
        rounds: of all particles.

    Returns:
        The history, one row a round, and notes.
    """
    places = scalable(job, paths)
    return scaled(job, places, responsible(job, places, options), options, rounds=rounds)


def scalable(job: Job, paths: Sequence[str] | None) -> tuple[Site, ...]:
    """The neurons of the modules at `paths`, None for all.

    Raises:
        DataError: there are no retained examples to compare the failures with.
        PartitionError: there are no such neurons.
    """
    if job.data.retained is None:
        raise DataError(
            "scaling neurons compares failures with well-behaved examples: give retain="
        )
    places = sites(job.model, job.data.preprocessing.input_size, paths)
    if not places:
        raise PartitionError(
            "the part to repair has no neurons that can be scaled: name another block"
        )
    return places


def scaled(
    job: Job, places: Sequence[Site], chosen: Tensor, options: Swarming, *, rounds: int
) -> tuple[list[Row], tuple[str, ...]]:
    """Scale the neurons `chosen` (k,), numbers over `places`, by factors that the swarm finds; as
    `scale_neurons`.
    """
    factors = Factors(job.model, places, chosen.tolist())
    part = owners(job.model, factors.original)
    judges = judges_of(job, part, options, rounds=rounds)
    seed = int(torch.randint(2**31 - 1, (1,), generator=job.runtime.generator("swarm")))
    swarm = Swarm(
        len(chosen),
        ends=(1 - options.reach, 1 + options.reach),
        particles=options.particles,
        inertia=options.inertia,
        pull=options.pull,
        seed=seed,
    )
    history, notes, better = search(
        judges,
        part,
        swarm,
        apply=factors.apply,
        cost=_cost(judges, options),
        rounds=rounds,
    )
    if better:
        among = sum(site.tap.channels for site in places)
        return history, (f"{len(chosen)} of {among:,} neurons were scaled", *notes)
    return history, (
        "no factors of the swarm were better than before it on the selection split: those weights"
        " were kept",
    )


def judges_of(job: Job, part: nn.Module, options: Swarming, *, rounds: int) -> Judges:
    """Failures and retained examples, as many as the options say."""
    sets = {name: job.data.train[name] for name in ("failing", "retained")}
    rows = {name: some(images, options.examples, job) for name, images in sets.items()}
    return Judges(job, part, rows, reads=rounds * options.particles)


def _cost(judges: Judges, options: Swarming) -> Cost:
    """(1 - α) · share of failures still wrong + α · share of retained examples now wrong."""
    margins = judges.answers()[1].margins
    finite = margins[margins.isfinite()]
    scale = float(finite.std()) if len(finite) > 1 else 1.0
    scale = agreed(max(scale, 1e-12), judges.job.runtime.accelerator)

    def part(answers: Answers, asked: float) -> Tensor:
        wrong = (~answers.right | (answers.margins < asked)).double().mean()
        # how far the wrong ones are from right decides among equal shares, and tells a swarm on a
        # plateau where to go
        lacking = ((asked - answers.margins).clamp(min=0) / scale).double().mean()
        return wrong + 1e-3 * lacking / (1 + lacking)

    def cost(failing: Answers, retained: Answers) -> Tensor:
        mended = (1 - options.caution) * part(failing, options.clearance * scale)
        return mended + options.caution * part(retained, 0.0)

    return cost
