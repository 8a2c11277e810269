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
from timm_repair.gradient_free.neurons import Factors, Site, sites, states
from timm_repair.gradient_free.swarm import Swarm
from timm_repair.images.images import Images
from timm_repair.models.temporary import evaluating
from timm_repair.options import check_types
from timm_repair.runtime.processes import agreed, all_processes
from timm_repair.training.history import Row
from timm_repair.training.imitation import neighbours
from timm_repair.training.job import Job
from timm_repair.training.loop import Monitor, fit
from timm_repair.training.objective import objective

RESPONSIBILITY = ("sums", "pairs")


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """Which neurons are scaled, and how the swarm looks for their factors.

    Args:
        neurons: how many, of all layers together.
        responsibility: "sums" is |Σ h(x+) - Σ h(x-)|, "pairs" is Σ |h(x+) - h(x-)| over each x- and
            its neighbour x+.
        particles: of the swarm; `inertia` and `pull` are its w, and its c1 = c2.
        reach: factors lie between 1 - reach and 1 + reach.
        caution: α of the cost (1 - α) · share of failures still wrong + α · share of retained ones
            now wrong.
        clearance: a failure is right for the swarm only by at least this, in standard deviations of
            the margins of retained examples: what is right by a hair is wrong beside it.
        examples: of each population, at most, that the swarm is judged by.
    """

    neurons: int = 20
    responsibility: str = "sums"
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
        if self.responsibility not in RESPONSIBILITY:
            known = did_you_mean(self.responsibility, RESPONSIBILITY)
            raise OptionError(f"unknown responsibility {self.responsibility!r}{known}")
        if min(self.neurons, self.examples) < 1 or self.particles < 2:
            raise OptionError("neurons and examples must be at least 1, particles at least 2")
        if not 0 <= self.caution <= 1 or not 0 < self.reach <= 1 or self.clearance < 0:
            raise OptionError(
                "caution lies between 0 and 1, reach above 0 and at most at 1 (a factor is not"
                " negative), and clearance is not negative"
            )


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
    job: Job, part: nn.Module, paths: Sequence[str] | None, options: Scaling, *, rounds: int
) -> tuple[list[Row], tuple[str, ...]]:
    """Scale the most responsible neurons of `part`. What remains is the best of the swarm's states
    by the selection split, the original included.

    Args:
        part: what may change; `paths` are its modules, None for all.
        rounds: of all particles.

    Returns:
        The history, one row a round, and notes.
    """
    model, data, runtime = job.model, job.data, job.runtime
    if data.retained is None:
        raise DataError(
            "scaling neurons compares failures with well-behaved examples: give retain="
        )
    places = sites(model, data.preprocessing.input_size, paths)
    if not places:
        raise PartitionError(
            "the part to repair has no neurons that can be scaled: name another block"
        )
    chosen = responsible(job, places, options)
    factors = Factors(model, places, chosen.tolist())
    judges = _judges(job, options)
    seed = int(torch.randint(2**31 - 1, (1,), generator=runtime.generator("swarm")))
    swarm = Swarm(
        len(chosen),
        ends=(1 - options.reach, 1 + options.reach),
        particles=options.particles,
        inertia=options.inertia,
        pull=options.pull,
        seed=seed,
    )

    def step(_: int) -> Row:
        swarm.tell(_costs(job, factors, swarm.ask(), judges))
        factors.apply(swarm.best)
        return {"loss": swarm.best_cost}

    choosing, forward = job.training.choosing, job.forward(part)
    with evaluating(model):
        monitor = Monitor(
            part,
            lambda: objective(forward, data, choosing),
            rounds,
            choosing.evaluations,
            choosing.patience,
        )
        start = monitor.best
        history = fit(
            step,
            steps=rounds,
            stage="finetune",
            runtime=runtime,
            monitor=monitor,
            state={"swarm": swarm},
        )
        best = monitor.restore()
    if best > start:
        among = sum(site.tap.channels for site in places)
        return history, (f"{len(chosen)} of {among:,} neurons were scaled",)
    return history, (
        "no factors of the swarm were better than before it on the selection split: those weights"
        " were kept",
    )


@dataclass(frozen=True)
class _Judge:
    """Some examples that the swarm is judged by.

    Args:
        weight: of their share in the cost.
        asked: by how much an answer must be right.
        scale: what margins are measured in.
    """

    images: Images
    weight: float
    asked: float
    scale: float


@torch.no_grad()
def _judges(job: Job, options: Scaling) -> list[_Judge]:
    """The judges of failures and of retained examples."""
    assert job.data.retained is not None, "asked for before"
    failing, retained = (
        _some(each, options.examples, job) for each in (job.data.failing, job.data.retained)
    )
    margins = torch.cat([each[1] for each in _answers(job, retained)])
    finite = margins[margins.isfinite()]
    scale = float(finite.std()) if len(finite) > 1 else 1.0
    scale = agreed(max(scale, 1e-12), job.runtime.accelerator)
    return [
        _Judge(failing, 1 - options.caution, options.clearance * scale, scale),
        _Judge(retained, options.caution, 0.0, scale),
    ]


def _some(images: Images, most: int, job: Job) -> Images:
    generator = job.runtime.generator(f"judges of {images.name}")
    order = torch.randperm(len(images), generator=generator)[:most]
    return images.subset(order.sort().values)


def _answers(job: Job, images: Images) -> list[tuple[Tensor, Tensor]]:
    """Whether the model's answers are right, and their margins, in pieces."""
    runtime, preprocessing = job.runtime, job.data.preprocessing

    def compute(rows: Tensor) -> tuple[Tensor, Tensor]:
        pixels = preprocessing.normalize(images.pixels(rows), runtime.device)
        with runtime.accelerator.autocast():
            outputs = job.model(pixels).float()
        return images.right(outputs, rows), images.margins(outputs, rows)

    with evaluating(job.model):
        return list(runtime.in_batches(compute, torch.arange(len(images))))


@torch.no_grad()
def _costs(job: Job, factors: Factors, places: Tensor, judges: Sequence[_Judge]) -> Tensor:
    """(particles,) costs; each process judges its share of the particles."""
    accelerator = job.runtime.accelerator
    costs = torch.zeros(len(places), dtype=torch.float64, device=job.runtime.device)
    for number in range(accelerator.process_index, len(places), accelerator.num_processes):
        factors.apply(places[number])
        for judge in judges:
            answers = _answers(job, judge.images)
            right, margins = (torch.cat(each) for each in zip(*answers, strict=True))
            wrong = (~right | (margins < judge.asked)).double().mean()
            # how far the wrong ones are from right decides among equal shares, and tells a swarm on
            # a plateau where to go
            lacking = ((judge.asked - margins).clamp(min=0) / judge.scale).double().mean()
            costs[number] += judge.weight * (wrong + 1e-3 * lacking / (1 + lacking))
    return all_processes(costs, accelerator).cpu()
