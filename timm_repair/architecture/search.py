"""Search: the alternation of Eq. 9 (weights, on one part of the repair data) and Eq. 10
(architecture, on the other part).

First order, any strategy; one that is `joint` moves both on the same batch. While the gates are
shut α has no gradient, so the strategy's warm-up trains weights and gates alone. An architecture
step counts as a step. Several blocks are searched at once: a step moves the weights, or the
architectures, of all.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from timm_repair.architecture.cell import added_parameters
from timm_repair.architecture.relaxation import RelaxedBlock
from timm_repair.architecture.strategies.strategy import joint
from timm_repair.data.repair_data import RepairData
from timm_repair.models.temporary import only_trainable, training_mode
from timm_repair.models.weights import names_in
from timm_repair.runtime.batch_norms import sharded
from timm_repair.runtime.memory import out_of_memory_explained
from timm_repair.runtime.randomness import Drawn
from timm_repair.runtime.runtime import Runtime
from timm_repair.training.batches import Batches
from timm_repair.training.descent import Descent, gradient_step
from timm_repair.training.history import Row
from timm_repair.training.job import Job
from timm_repair.training.loop import fit
from timm_repair.training.losses import Losses, anchor_penalty, anchor_strength, batch_losses
from timm_repair.training.pace import Pace
from timm_repair.training.prefix.forward import Forward

ARCHITECTURE_SHARE = 0.2  # of the repair data
# how far α can move in a search when the strategy leaves its learning rate open; PC-DARTS's own on
# CIFAR-10
ALPHA_REACH = 2.0


def search(
    job: Job,
    relaxed: Sequence[RelaxedBlock],
    *,
    steps: int,
    forward: Forward | None = None,
    losses: Losses = batch_losses,
) -> tuple[list[Row], int]:
    """Train the blocks in `relaxed`, which are in place in the job's model, for `steps` steps in
    all; nothing else in the model changes.

    Args:
        relaxed: blocks of one strategy.
        forward: the model's answers while only these change; None runs it from the images.
        losses: what both kinds of steps minimize on their batches, see `losses.batch_losses`.

    Returns:
        The history, and where the schedule of the weights has come to. The history's last row has
        α, the edges of one block after those of the other, and under "edges" how many each block
        has; None where a block has another's operation not among its own.
    """
    model, data, training, runtime = job.model, job.data, job.training, job.runtime
    forward, strategy = forward or job.forward(), relaxed[0].strategy
    together = joint(strategy)
    for_weights, for_architecture = (
        Batches(data, training, runtime, f"search {purpose}", None if together else rows)
        for purpose, rows in _split_rows(data, runtime).items()
    )
    architecture = [p for each in relaxed for p in each.architecture_parameters()]
    # gates start shut, where α has no gradient: one step of weights first, however short the search
    warm = max(round(strategy.warmup * steps), 1) if strategy.warmup else 0
    turns = sum(_is_turn(i, i, warm, together) for i in range(steps))
    rate = strategy.learning_rate or ALPHA_REACH / max(turns, 1)
    adam = _adam(architecture, rate, runtime)
    arch_steps = 0 if together else turns  # those that move no weights
    fresh = [p for each in relaxed for p in added_parameters(each.cell)]
    trained = (p for each in relaxed for p in each.weight_parameters())
    pace = Pace(training, steps, runtime.accelerator)
    schedule = {"total": training.steps - arch_steps, "span": steps - arch_steps}
    descent = Descent(trained, training, runtime, fresh=fresh, pace=pace, **schedule)
    near = _anchor(relaxed, anchor_strength(training, data))

    def step(i: int) -> Row:
        at = pace.reached(i)
        turn = _is_turn(i, at, warm, together)
        for each in relaxed:
            each.progress = min(at / max(steps - 1, 1), 1.0)
        alpha_rate = rate * max(at, 1) / max(i, 1)  # a step may stand for several
        adam.param_groups[0]["lr"] = alpha_rate
        with out_of_memory_explained(f"batch_size={training.batch_size}"):
            those = losses(for_weights if together or not turn else for_architecture, forward)
            if not turn:
                return descent.step(those, near())
            own = [term for each in relaxed for term in each.penalty()]
            if together:
                row = descent.step(those, near(), own, beside=(adam, architecture))
            else:
                loss = gradient_step(adam, architecture, [those, own], runtime)
                row = Row(loss=loss, lr=alpha_rate)
            for each in relaxed:
                each.observe(training.batch_size)
            row["architecture"] = True
            return row

    part = nn.ModuleList(relaxed)
    trains = training_mode(model, part, batch_norm=training.batch_norm)
    with only_trainable(model, names_in(model, part)), trains, sharded(part, runtime, "search"):
        state = {"part": part, "adam": adam, "descent": descent}
        state |= {"weights": for_weights, "architecture": for_architecture}
        samples = {f"samples {i}": Drawn(each.generator) for i, each in enumerate(relaxed)}
        history = fit(step, pace=pace, stage="search", runtime=runtime, state=state | samples)
    _tell_architectures(history, relaxed)
    return history, descent.place


def _anchor(relaxed: Sequence[RelaxedBlock], strength: float) -> Callable[[], list[Tensor]]:
    """What gives `anchor_penalty` of the blocks' weights towards what they are now."""
    weights = dict(nn.ModuleList(each.cell for each in relaxed).named_parameters())
    origin = {name: p.detach().clone() for name, p in weights.items()} if strength else {}
    return lambda: anchor_penalty(weights, origin, strength)


def _is_turn(i: int, at: int, warm: int, together: bool) -> bool:
    """Whether step `i` moves the architecture, where the schedule has come to `at`."""
    return at >= warm and (together or (i - warm) % 2 == 0)


def _adam(architecture: list[nn.Parameter], rate: float, runtime: Runtime):
    # no weight decay: in Adam it would erase the prior of "none" while the gates are shut
    adam = torch.optim.Adam(architecture, lr=rate, betas=(0.5, 0.999))
    return runtime.accelerator.prepare_optimizer(adam)


def _tell_architectures(history: list[Row], relaxed: Sequence[RelaxedBlock]) -> None:
    """Put α into the last row of the history, and what its rows and columns are."""
    if not history:
        return
    row = history[-1]
    named = list(dict.fromkeys(o for each in relaxed for o in each.skeleton.candidates))
    row["alpha"] = [
        [round(edge[own.index(name)], 5) if name in own else None for name in named]
        for each in relaxed
        for own, edge in ((each.skeleton.candidates, edge) for edge in each.alpha.tolist())
    ]
    row["edges"] = [len(each.alpha) for each in relaxed]
    row["operations"] = named


def _split_rows(data: RepairData, runtime: Runtime) -> dict[str, dict[str, Tensor]]:
    """Disjoint rows for "weights" and for "architecture", by population, with examples of
    each in both.

    The second is the smaller one: an architecture has some dozens of parameters, a block's weights
    have millions.
    """
    generator = runtime.generator("search parts")
    parts: dict[str, dict[str, Tensor]] = {"weights": {}, "architecture": {}}
    for name, images in data.train.items():
        order = torch.randperm(len(images), generator=generator)
        cut = max(round(ARCHITECTURE_SHARE * len(images)), 1)
        parts["architecture"][name] = order[:cut]
        parts["weights"][name] = order[cut:] if len(images) > 1 else order
    return parts
