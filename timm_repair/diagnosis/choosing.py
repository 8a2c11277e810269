"""Choose the parts of a pattern: forward, one that helps most after the other; then backward, those
without which it fits as well are dropped. What remains is the simplest that explains.
"""

from dataclasses import replace

from timm_repair.diagnosis.fitting import Fit, Setting, Settings
from timm_repair.diagnosis.parts import KINDS, overlay

REFINED = 5  # candidates a round whose strengths are fitted
KEPT = 14  # kinds that go on to the second round: the others explained nothing alone
HOPELESS = 8  # times as far as the best as it starts, a kind will not become the best
GAIN = 0.15  # share of what is left that a part must explain, and
LEAST = 0.05  # of all: less may be the imperfection of another part


def chosen(fit: Fit, *, channels: int, most: int) -> tuple[Settings, list[float]]:
    """The parts, the most important first, and the costs: of nothing, with the first part, with
    the first two, …

    Args:
        channels: of the images; some parts need three.
        most: parts.
    """
    kinds = [name for name, kind in KINDS.items() if channels == 3 or not kind.colour]
    pattern: Settings = ()
    cost = fit.cost(pattern)
    at_first = cost
    for _ in range(most):
        if cost < 1.2 * fit.noise:
            break
        found, order = _best_with_one_more(fit, pattern, kinds)
        if found is None or not _helps(fit, at_first, cost, found[1]):
            break
        pattern, cost = found
        kinds = [name for name in order[:KEPT] if name not in {s.name for s in pattern}]
    pattern, cost = _without_idle(fit, pattern, at_first, cost)
    return _by_importance(fit, _varied(fit, pattern, cost))


def _helps(fit: Fit, at_first: float, before: float, after: float) -> bool:
    return before - after > max(GAIN * before, LEAST * at_first, 0.5 * fit.noise)


def _best_with_one_more(
    fit: Fit, pattern: Settings, kinds: list[str]
) -> tuple[tuple[Settings, float] | None, list[str]]:
    screened = []
    for name in kinds:
        tried = [(fit.screened(s), s) for s in ((*pattern, last) for last in _starts(name, fit))]
        if tried:
            screened.append(min(tried, key=lambda pair: pair[0]))
    screened.sort(key=lambda pair: pair[0])
    order, best = [settings[-1].name for _, settings in screened], None
    so_far = fit.screened(pattern)
    for rough, settings in screened[:REFINED]:
        if rough > so_far and not settings[-1].kind.knobs:
            continue  # it has no strength that could make it better
        if best is not None and rough > HOPELESS * best[1] + fit.noise:
            break
        found = fit.refined(settings, 4)
        best = found if best is None or found[1] < best[1] else best
    return best, order


def _starts(name: str, fit: Fit) -> list[Setting]:
    if name == overlay.NAME:
        return [Setting(name, (), picture=fit.overlay)] if fit.overlay else []
    kind = KINDS[name]
    return [Setting(name, tuple(map(float, start)), kind.varying) for start in kind.starts]


def _without_idle(
    fit: Fit, pattern: Settings, at_first: float, cost: float
) -> tuple[Settings, float]:
    """Parts dropped one by one, as long as nothing is lost that a part must bring."""
    while len(pattern) > 1:
        fewer = [
            fit.refined(tuple(s for s in pattern if s is not without), 3) for without in pattern
        ]
        best = min(fewer, key=lambda pair: pair[1])
        if _helps(fit, at_first, best[1], cost):
            break
        pattern, cost = best
    return pattern, cost


def _varied(fit: Fit, pattern: Settings, cost: float) -> Settings:
    """With how much each part varies over images, where that fits better."""
    if not pattern:
        return pattern
    start = tuple(
        replace(s, spread=max(0.1, s.spread)) if any(k.varies for k in s.kind.knobs) else s
        for s in pattern
    )
    varied, spread_cost = fit.refined(start, 5, spreads=True)
    fixed, cost = fit.refined(pattern, 3)
    return varied if spread_cost < 0.95 * cost else fixed


def _by_importance(fit: Fit, pattern: Settings) -> tuple[Settings, list[float]]:
    needed = {s: fit.cost(tuple(other for other in pattern if other is not s)) for s in pattern}
    ordered = tuple(sorted(pattern, key=lambda s: -needed[s]))
    return ordered, [fit.cost(ordered[:count]) for count in range(len(ordered) + 1)]
