"""A diagnosis in words: the same sentences on a terminal, in a report and on a card."""

from collections.abc import Sequence
from typing import Any

from timm_repair.report.wording import clean, listed, p_text, wrap

_SHOWN = 5  # of each list
MOST = 50  # of a list of single images, which is cut off there
CLEAR = 0.75  # told apart so well, images differ to the eye too


def text(diagnosis: Any) -> str:
    """All that a `Diagnosis` says, the most useful first."""
    head = f"{diagnosis.n} failures, compared with {diagnosis.retained} retained examples"
    if diagnosis.passing:
        head += f" and {diagnosis.passing} of their population that are right"
    lines = wrap(head + ".") + [""]
    lines += _preprocessing(diagnosis) + _patterns(diagnosis)
    lines += _classes(diagnosis) + _labels(diagnosis) + _images(diagnosis.quality)
    if diagnosis.notes:
        lines += ["", "Notes", *(line for note in diagnosis.notes for line in _item(note))]
    return "\n".join(lines)


def part_words(part: Any) -> str:
    """ "contrast × 0.15 [0.14, 0.16]", with how much it varies."""
    strengths = " ".join(strength.words for strength in part.strengths)
    said = f"{part.kind} {strengths}".strip()
    if len(part.strengths) == 1 and not part.picture:
        said += f" [{part.strengths[0].low:.3g}, {part.strengths[0].high:.3g}]"
    return said + (f", varying by ± {part.spread:.0%}" if part.spread >= 0.05 else "")


def headline(diagnosis: Any) -> str:
    """The answer in one line."""
    wrong = diagnosis.wrong_preprocessing
    if wrong is not None:
        return f"wrong preprocessing: {wrong.name}{_of_some(wrong, '')}"
    if diagnosis.patterns:
        return "; ".join(pattern_words(pattern) for pattern in diagnosis.patterns)
    if diagnosis.same_population:
        return "no corruption: the retained data already are of this population"
    none = "no corruption and no wrong preprocessing that explains them"
    return none + (", though their images clearly differ" if diagnosis.told.right >= CLEAR else "")


def pattern_words(pattern: Any) -> str:
    """A pattern in one line."""
    parts = [" ".join([p.kind, *(s.words for s in p.strengths)]) for p in pattern.parts]
    if not parts:
        return "as retained images"
    if pattern.well:
        return listed(parts)
    return f"perhaps {listed(parts)} (explains {pattern.explained:.0%})"


def _item(words: str) -> list[str]:
    return wrap(f"- {words}", "  ", "    ")


def _percent(told: Any) -> str:
    return f"{told.right:.0%} [{told.low:.0%}, {told.high:.0%}]"


def _of_some(wrong: Any, of: str) -> str:
    """Of how many, where it is not all: " in about 45% of the failures"."""
    return f" in about {wrong.share:.0%}{of}" if wrong.share < 1 else ""


def _preprocessing(diagnosis: Any) -> list[str]:
    wrong = diagnosis.wrong_preprocessing
    if wrong is None:
        return []
    lines = ["Wrong preprocessing: mend the data, not the model"]
    whose = " of the failures" + " and what passes beside them" * bool(diagnosis.passing)
    lines += _item(
        f"{wrong.name}{_of_some(wrong, whose)}. Undone in all, the original has {wrong.right:.0%}"
        f" [{wrong.low:.0%}, {wrong.high:.0%}] of {wrong.n} failures right; a change without"
        f" meaning makes {diagnosis.placebo:.0%} right"
    )
    lines += _item(f"to do: {wrong.fix}{' where these come from' * (wrong.share < 1)}")
    others = [each for each in diagnosis.preprocessing if each.found and each is not wrong]
    for each in others[:2]:
        lines += _item(f"or: {each.name} ({each.right:.0%} right); to do: {each.fix}")
    return [*lines, ""]


def _patterns(diagnosis: Any) -> list[str]:
    told = _percent(diagnosis.told)
    if not diagnosis.patterns:
        if diagnosis.same_population:
            return ["No corruption", *_item(
                f"a classifier tells failures from retained images in {told}: the retained data"
                " already are of this population")]  # fmt: skip
        if diagnosis.wrong_preprocessing is not None:
            return []  # that is what happened to them
        return ["None of the corruptions that can be looked for", *_item(
            f"failures differ from retained images (a classifier tells them in {told}), but no"
            " corruption makes retained images look like them: what they show may differ, or what"
            " happened to them is not among the parts")]  # fmt: skip
    lines = []
    whose = "failures and what passes beside them" if diagnosis.passing else "the failures"
    seen = diagnosis.wrong_preprocessing is not None
    title = "The same, seen as a corruption" if seen else "A corruption"
    for number, pattern in enumerate(diagnosis.patterns, start=1):
        whole = max(sum(part.brings for part in pattern.parts), 1.0)
        many = len(diagnosis.patterns) > 1
        lines.append(f"Population {number}: {pattern.share:.0%} of {whose}" if many else title)
        for part in pattern.parts:
            lines += _item(f"{part_words(part)}; {part.brings / whole:.0%} of the fit is its own")
        if not pattern.parts:
            lines += _item("as retained images: nothing is done to them")
            continue
        quality = "explains them well" if pattern.well else "BADLY EXPLAINED"
        lines += _item(
            f"{quality}: a classifier tells failures from retained images in"
            f" {_percent(pattern.plain)}, and from retained images with this done to them in"
            f" {_percent(pattern.made)} (50% is chance): {pattern.explained:.0%} is explained"
        )
        if not pattern.well:
            lines += _item("what is common to them is not one of the parts, or not these alone")
        lines += _item(
            f"the model is wrong on {pattern.error_made:.0%} of retained images with this done to"
            f" them, on {pattern.error_retained:.0%} without"
        )
    return lines


def _name(diagnosis: Any, label: int) -> str:
    names = diagnosis.classes
    return clean(names[label], 30) if names and label < len(names) else f"class {label}"


def _classes(diagnosis: Any) -> list[str]:
    if not diagnosis.confusions:
        return ["", "No class or pair of classes fails more than retained data let expect"]
    lines = ["", "Classes that fail more than retained data let expect"]
    for each in diagnosis.confusions[:_SHOWN]:
        what = _name(diagnosis, each.true)
        if each.predicted is not None:
            what += f" taken for {_name(diagnosis, each.predicted)}"
        lines += _item(
            f"{what}: {each.count} failures, {each.share:.0%} [{each.low:.0%}, {each.high:.0%}],"
            f" expected {each.expected:.0%} (p {p_text(each.p)}, Holm)"
        )
    return lines


def _labels(diagnosis: Any) -> list[str]:
    if not diagnosis.labels:
        return []
    count, expected = len(diagnosis.labels), diagnosis.labels_expected
    lines = ["", f"Likely label errors: {count} of {diagnosis.n} failures"]
    if count <= expected + 2 * max(expected, 1) ** 0.5:
        lines = ["", "No sign of label errors beyond chance; to look at first"]
    elif expected >= 1:
        lines[1] += f", where the model's ordinary errors would give {expected:.0f}"
    for each in diagnosis.labels[:_SHOWN]:
        lines += _item(
            f"{clean(str(each.id), 40)}: labelled {_name(diagnosis, each.label)}, the model says"
            f" {_name(diagnosis, each.predicted)} and gives the label {each.probability:.1%}"
        )
    return lines


def _images(quality: Any) -> list[str]:
    usual = max(quality.modes, key=quality.modes.get) if quality.modes else None
    found = [
        (quality.duplicates, "groups of equal images"),
        (quality.near, "pairs of images that look the same"),
        (quality.leaked, "failures that are among the retained examples too"),
        (quality.conflicting, "failures that have another label among the retained examples"),
        (quality.dark, "images too dark to read"),
        (quality.blank, "blank images"),
        (quality.odd, "images of an unusual size or shape"),
    ]
    lines = [line for ids, what in found if ids for line in _item(
        f"{'at least ' * (len(ids) >= MOST)}{len(ids)} {what}: {_some(ids)}")]  # fmt: skip
    for mode, count in quality.modes.items():
        if mode != usual or mode == "CMYK":
            lines += _item(f"{count} images are stored as {mode}, most as {usual}")
    if quality.turned:
        lines += _item(f"{quality.turned} images have an EXIF orientation, which is not applied")
    return ["", "Single images", *lines] if lines else []


def _some(ids: Sequence[Any]) -> str:
    shown = ", ".join(clean(str(each), 40) for each in ids[:3])
    return shown + (", …" if len(ids) > 3 else "")
