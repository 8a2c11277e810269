"""Try each wrong preprocessing: undo it, ask the model again, and see whether the failures then
look like retained images.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from timm_repair.diagnosis.findings import Pattern, Undone
from timm_repair.diagnosis.fitting import Fit
from timm_repair.diagnosis.looking import CLOSER, Done, Looks, degraded
from timm_repair.diagnosis.undoing import (
    CONSTANTS,
    Mistake,
    affine_pair,
    mistakes,
    scale_of,
)
from timm_repair.images.images import Images
from timm_repair.images.preprocessing import Preprocessing
from timm_repair.models.temporary import evaluating_on
from timm_repair.runtime.runtime import Runtime

TRIED = 10  # mistakes that the model is asked about: those after whose undoing images look best
LESS = 0.9  # of the distance between the populations must be left
ANY_SCALE = "on another scale of values (other constants of normalization)"
MENDED = 0.05  # of the failures must become right, beyond those that any change makes right


@dataclass(frozen=True)
class Asked:
    """Images that the model is asked about: (N, C, H, W) from 0 to 1 and their labels (N,)."""

    x: Tensor
    labels: Tensor


class Asking:
    """The original model, and how often it is right on changed images.

    Args:
        model: it comes back as it was.
    """

    def __init__(self, model: nn.Module, preprocessing: Preprocessing, runtime: Runtime):
        self.model, self.preprocessing, self.runtime = model, preprocessing, runtime

    @torch.no_grad()
    def right(
        self, asked: Asked, constants: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    ) -> Tensor:
        """(N,) bool; `constants` are the mean and standard deviation to normalize with instead of
        the model's own.
        """
        mean, std = constants or (self.preprocessing.mean, self.preprocessing.std)
        channels = asked.x.shape[1]
        mean, std = (
            asked.x.new_tensor(v[:channels]).view(1, -1, 1, 1) for v in (tuple(mean), tuple(std))
        )
        pixels = (asked.x.clamp(0, 1) * 255).round() / 255

        def ask(rows: Tensor) -> Tensor:
            given = ((pixels[rows] - mean) / std).to(self.runtime.device)
            with self.runtime.accelerator.autocast():
                return self.model(given).argmax(1).cpu()

        with evaluating_on(self.model, self.runtime.device):
            answers = list(self.runtime.in_batches(ask, torch.arange(len(pixels))))
        return torch.cat(answers) == asked.labels

    def probabilities(self, images: Images) -> Tensor:
        """(N, classes) that the model gives, float32."""

        def ask(rows: Tensor) -> Tensor:
            given = self.preprocessing.normalize(images.pixels(rows), self.runtime.device)
            with self.runtime.accelerator.autocast():
                return self.model(given).float().softmax(1).cpu()

        with evaluating_on(self.model, self.runtime.device), torch.no_grad():
            return torch.cat(list(self.runtime.in_batches(ask, torch.arange(len(images)))))


def tried(
    asking: Asking, fit: Fit, failing: Asked, retained: Asked, patterns: Sequence[Pattern] = ()
) -> tuple[list[Undone], float]:
    """What was undone, the best first, and the share right after a change without meaning.

    Args:
        fit: of the same retained images; its statistics say how alike images look.
        patterns: of the failures, found with the same fit.
    """
    placebo = max(
        float(asking.right(Asked(change(failing.x), failing.labels)).float().mean())
        for change in (lambda x: x.flip(3), lambda x: x.roll((1, 1), (2, 3)))
    )
    found = _of_pixels(
        asking, Looks(fit, asking.runtime.seed, degraded(patterns)), failing, placebo
    )
    found += _of_constants(asking, failing, retained, placebo)
    usual = [m.name for m in mistakes(asking.preprocessing.mean, asking.preprocessing.std)]
    return _ranked(found, usual), placebo


def _ranked(found: list[Undone], usual: list[str]) -> list[Undone]:
    """Those that are so first, in the order in which they came. Of these, who mends clearly fewer
    failures than the best is none; who mends as many, as far as samples of this size can tell, is
    no less likely, so that the more usual mistake goes first, and a special one before any scale.
    """
    so = [each for each in found if each.found]
    least = max((each.low for each in so if each.name != ANY_SCALE), default=0.0)
    so = [replace(each, found=each.high >= least) for each in so]
    others = [each for each in found if not each.found] + [e for e in so if not e.found]
    so = [each for each in so if each.found]

    def place(each: Undone) -> tuple[bool, int]:
        known = each.name in usual
        return each.name == ANY_SCALE, usual.index(each.name) if known else len(usual)

    if so:
        first = so[0]  # closest to retained images
        close = [e for e in so if e.high >= first.low and first.high >= e.low]
        so = sorted(close, key=place) + [e for e in so if e not in close]
    return so + sorted(others, key=lambda each: -each.right)


def _interval(right: Tensor) -> tuple[float, float]:
    bounds = binomtest(int(right.sum()), len(right)).proportion_ci(method="wilson")
    return float(bounds.low), float(bounds.high)


def _of_pixels(asking: Asking, looks: Looks, failing: Asked, placebo: float) -> list[Undone]:
    x = failing.x
    channels, square = x.shape[1], x.shape[2] == x.shape[3]
    possible = [
        m
        for m in mistakes(asking.preprocessing.mean, asking.preprocessing.std)
        if (channels == 3 or not m.colour) and (square or not m.square)
    ]
    any_scale = _rescaled(x, looks.fit.retained)
    ranked = sorted((looks.done(m) for m in [*possible, any_scale]), key=lambda done: done.nearest)
    found = []
    for done in ranked[:TRIED]:
        if done.nearest >= LESS * looks.before:
            break  # no share of the failures looks more like it: whatever they answer, it is none
        mistake = done.mistake
        right = asking.right(Asked(mistake.undo(x).contiguous(), failing.labels))
        low, high = _interval(right)
        share = float(right.float().mean())
        so, of = False, 1.0
        if low > placebo + MENDED:
            # right by it: so many at least were wrong for it
            least = (low - placebo) / (1 - placebo)
            of = 1.0 if mistake is any_scale else looks.share(done, least)
            so = _is_so(looks, done, share, of, mistake is any_scale)
        so = so or (mistake is not any_scale and of == 1 and _lossy(looks, done))
        found.append(Undone(mistake.name, mistake.fix, share, low, high, len(right), None, so, of))
    return found


def _is_so(looks: Looks, done: Done, right: float, share: float, any_scale: bool) -> bool:
    """Whether failures look like the mistake, of which so many are right when it is undone, made to
    a share of them.
    """
    if share < 1:  # a few strange images make much look a little more alike
        return looks.same(done.nearest)
    same = looks.same(done.after)
    if any_scale:  # which some scale nearly does to much that is none
        return same and looks.explained(done)
    mends = right >= 0.5 and done.after < LESS * looks.before
    return same or (mends and not looks.better_explained(done))


def _lossy(looks: Looks, done: Done) -> bool:
    """Whether images look so much like it that no answers are needed, which they may not give."""
    before, close = looks.before, looks.same(done.after)
    close = close and done.after < CLOSER * before and before > 20 * looks.fit.noise
    return close and looks.explained(done)


def _rescaled(x: Tensor, like: Tensor) -> Mistake:
    gain, offset = scale_of(x, like)
    do, undo = affine_pair(gain, offset)
    channels = ("red", "green", "blue") if len(gain) == 3 else ("grey",)
    values = zip(channels, gain.tolist(), offset.tolist(), strict=True)
    way = ", ".join(f"{name} = (value {-o:+.2f}) / {g:.2f}" for name, g, o in values)
    return Mistake(
        ANY_SCALE,
        f"take it back, of values from 0 to 1: {way}",
        undo,
        do,
    )


def _of_constants(asking: Asking, failing: Asked, retained: Asked, placebo: float) -> list[Undone]:
    """The model's own constants may be the wrong ones: then retained images suffer too."""
    own = tuple(map(float, asking.preprocessing.mean)), tuple(map(float, asking.preprocessing.std))
    before, found = None, []
    for name, (mean, std) in CONSTANTS.items():
        channels = failing.x.shape[1]
        constants = tuple(map(float, mean[:channels])), tuple(map(float, std[:channels]))
        if constants == own:
            continue
        right, others, better = asking.right(failing, constants), None, False
        low, high = _interval(right)
        if low > placebo:  # else it is none, whatever retained images are
            before = asking.right(retained) if before is None else before
            others = asking.right(retained, constants)
            gained, lost = int((others & ~before).sum()), int((before & ~others).sum())
            better = gained > lost and float(binomtest(lost, gained + lost).pvalue) < 0.01
        found.append(
            Undone(
                f"the model was trained with other constants of normalization: {name}",
                f"set model.pretrained_cfg['mean'], ['std'] to {constants[0]}, {constants[1]}",
                float(right.float().mean()),
                low,
                high,
                len(right),
                None if others is None else float(others.float().mean()),
                better,
            )
        )
    return found
