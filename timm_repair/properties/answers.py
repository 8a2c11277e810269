"""Answers: which end of a network's outputs is its answer, read from its properties; networks that
answer by the lowest.

Everything else in this package takes the highest output for the answer. A network that answers by
its lowest has its outputs negated while it is repaired, by a hook on the whole, which changes no
weight and is taken away afterwards.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from timm_repair.errors import PropertyError
from timm_repair.properties.property import Property


def of(properties: Sequence[Property]) -> str:
    """ "highest" or "lowest": the end at which the properties look.

    A clause that says of one output that it is below several others looks at the lowest; one that
    says of one output that it is above several, at the highest. Where clauses compare two outputs
    only, an output that must not be above any other is the lowest one.

    Raises:
        PropertyError: the comparisons do not tell, or contradict each other or what was given as
            `answer`.
    """
    ends = [(prop.name, (prop.answer,) if prop.answer else _ends(prop)) for prop in properties]
    common = set.intersection(*(set(each) for _, each in ends))
    if len(common) == 1:
        return common.pop()
    told = "; ".join(f"{name}: {' or '.join(each) or 'neither'}" for name, each in ends)
    raise PropertyError(
        "whether the network answers by its highest or its lowest output does not follow from the"
        f" comparisons ({told}): say it, with answer='highest' or answer='lowest'"
    )


def _ends(prop: Property) -> tuple[str, ...]:
    ends = {"highest", "lowest"}
    for region in prop.regions:
        pairs = [clause.compared() for clause in region.clauses]
        if not all(pairs):
            return ()  # it says something else than which output is above which
        if len(pairs) > 1 and all(len(each) == 1 for each in pairs):
            below, above = ({each[0][side] for each in pairs} for side in (0, 1))
            # one of several is below the same output: that one is not the lowest
            ends &= {"lowest"} if len(above) == 1 else {"highest"} if len(below) == 1 else set()
        for clause in pairs:
            if len(clause) > 1:
                below, above = ({pair[side] for pair in clause} for side in (0, 1))
                ends &= {"lowest"} if len(below) == 1 else {"highest"} if len(above) == 1 else set()
    return tuple(sorted(ends))


def _negate(module: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
    return -output


def negate(model: nn.Module) -> None:
    """From here on `model` returns its outputs negated; `restore` undoes it."""
    model.register_forward_hook(_negate)


def restore(model: nn.Module) -> None:
    """`model`, or a copy made of it since, returns its own outputs again."""
    for key, hook in list(model._forward_hooks.items()):
        if hook is _negate:
            del model._forward_hooks[key]


@contextmanager
def raw(model: nn.Module) -> Iterator[bool]:
    """`model` returns its own outputs for a while, whether or not they are negated otherwise."""
    negated = any(hook is _negate for hook in model._forward_hooks.values())
    restore(model)
    try:
        yield negated
    finally:
        if negated:
            negate(model)


def answers_of(outputs: Tensor, end: str) -> Tensor:
    """(n,) the answers in `outputs` (n, K)."""
    return outputs.argmin(1) if end == "lowest" else torch.argmax(outputs, 1)
