"""A property before and after a repair, on inputs that are drawn when the repair has been
chosen.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from timm_repair.properties import answers, pac
from timm_repair.properties.preparing import PropertyData
from timm_repair.properties.property import ANSWERS, Property
from timm_repair.properties.sampling import outputs_of, search, uniform
from timm_repair.runtime.processes import agreed
from timm_repair.runtime.runtime import Runtime


def check(repaired: nn.Module, data: PropertyData, runtime: Runtime) -> list[dict]:
    """One dict per box of each property, plain JSON.

    Its keys: `property`, `box` (from 1); `before` and `after` with the violations among `samples`
    even draws, their `rate` and its 95 % `interval`, and how many an ascent `searched` out besides;
    `pac`, the statement about the repaired network; `drawdown`: of the samples that were no
    violations, how many are now, and how many are answered otherwise; and the `counterexamples`
    that remain.

    The statements of all boxes hold together with confidence 1 - η: each takes its share of η.
    """
    boxes = [(prop, number) for prop in data.properties for number in range(len(prop.regions))]
    eta = data.sampling.eta / len(boxes)
    results = [_checked(repaired, data, runtime, prop, number, eta) for prop, number in boxes]
    return agreed(results, runtime.accelerator)


def _checked(
    repaired: nn.Module,
    data: PropertyData,
    runtime: Runtime,
    prop: Property,
    number: int,
    eta: float,
) -> dict:
    region, sampling = prop.regions[number], data.sampling
    models = {"before": data.original, "after": repaired}
    generator = runtime.generator(f"certificate of box {number} of {prop.name}")
    inputs = uniform(region, pac.samples_needed(sampling.epsilon, eta), generator)
    outputs = {when: outputs_of(model, inputs) for when, model in models.items()}
    violating = {when: region.margin(each) >= 0 for when, each in outputs.items()}
    searched = {}
    for when, model in models.items():
        where = runtime.generator(f"search of box {number} of {prop.name}")
        starts = inputs[~violating[when]]
        found = search(model, region, starts, sampling.ascent, where)
        searched[when] = torch.unique(found, dim=0)
    count = int(violating["after"].sum())
    statement = pac.Statement(count, len(inputs), sampling.epsilon, eta)
    remaining = torch.cat([inputs[violating["after"]], searched["after"]])
    return {
        "property": prop.name,
        "box": number + 1,
        "samples": len(inputs),
        **{when: _told(violating[when], len(searched[when])) for when in models},
        "pac": statement.to_dict(),
        "drawdown": _drawdown(outputs, violating, data.answer),
        "counterexamples": remaining[: sampling.counterexamples].tolist(),
    }


def _told(violating: Tensor, searched: int) -> dict:
    count, total = int(violating.sum()), len(violating)
    return {
        "violations": count,
        "rate": count / total,
        "interval": list(pac.interval(count, total)),
        "searched": searched,
    }


def _drawdown(outputs: dict[str, Tensor], violating: dict[str, Tensor], end: str) -> dict:
    calm = ~violating["before"]
    changed = {}
    for each in ANSWERS:
        before, after = (answers.answers_of(outputs[when], each) for when in ("before", "after"))
        changed[each] = int((before != after)[calm].sum())
    moved = (outputs["after"] - outputs["before"])[calm].abs()
    return {
        "samples": int(calm.sum()),
        "violate_now": int((violating["after"] & calm).sum()),
        "answer": end,
        "changed_answers": changed[end],
        "changed": changed,
        "largest_change_of_an_output": float(moved.max()) if len(moved) else 0.0,
    }


def notes(results: Sequence[Mapping]) -> tuple[str, ...]:
    """Sentences for the report: statements, what remains, and properties that the repair broke."""
    said = []
    for each in results:
        where, after = f"{each['property']}, box {each['box']}", each["after"]
        said.append(f"{where}: {each['pac']['statement']}")
        if after["searched"] and not after["violations"]:
            said.append(
                f"{where}: none of the samples violates, but a search finds {after['searched']}"
                " violations: the property does not hold"
            )
        if _found(each, "after") and not _found(each, "before"):
            said.append(
                f"{where}: the repair BROKE it: neither samples nor a search found a violation"
                f" before, {after['violations']} samples violate now and a search finds"
                f" {after['searched']}"
            )
        elif after["violations"] > each["before"]["violations"]:
            said.append(
                f"{where}: it is violated more often than before: by {after['violations']} of the"
                f" samples now, by {each['before']['violations']} then"
            )
        if new := each["drawdown"]["violate_now"]:
            said.append(f"{where}: {new} of the violating samples did not violate before")
    change = {
        sign: [each["property"] for each in results if sign * _change(each) > 0] for sign in (-1, 1)
    }
    if change[-1] and change[1]:
        mended, broken = (", ".join(dict.fromkeys(change[sign])) for sign in (-1, 1))
        said.append(f"the repair mends {mended} and breaks {broken}")
    return tuple(said)


def _found(result: Mapping, when: str) -> int:
    return result[when]["violations"] + result[when]["searched"]


def _change(result: Mapping) -> int:
    """How many more samples violate than before; where none did or does, what a search finds."""
    samples = result["after"]["violations"] - result["before"]["violations"]
    broken = _found(result, "after") and not _found(result, "before")
    return samples or int(bool(broken))
