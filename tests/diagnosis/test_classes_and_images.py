"""Confused classes, wrong labels, images that are no good: each planted."""

from dataclasses import replace

import numpy as np
import planted
import pytest
import torch
from diagnosis import scenes
from PIL import Image

from timm_repair.diagnosis.classes import confusions, label_errors
from timm_repair.diagnosis.diagnosis import Diagnosis
from timm_repair.diagnosis.quality import looked_at
from timm_repair.diagnosis.sampling import in_proportion
from timm_repair.diagnosis.telling import Told, told_apart
from timm_repair.images.sources import as_images
from timm_repair.runtime.runtime import Runtime

CLASSES = range(10)


def retained(per_class: int = 100, errors: int = 9) -> tuple[list[int], list[int]]:
    """Right but for a few, which go evenly to the other classes."""
    true = [k for k in CLASSES for _ in range(per_class)]
    said = [(k + 1 + i) % 10 if i < errors else k for k in CLASSES for i in range(per_class)]
    return true, said


def test_a_confused_pair_is_named_with_its_share():
    labels = [3] * 40 + [k for k in CLASSES for _ in range(6)]
    answers = [5] * 40 + [(k + 1 + i) % 10 for k in CLASSES for i in range(6)]
    found = confusions(labels, answers, retained())
    assert {(c.true, c.predicted) for c in found} == {(3, 5), (3, None)}
    pair = next(c for c in found if c.predicted == 5)
    assert pair.share == pytest.approx(pair.count / 100) and pair.low < pair.share < pair.high
    assert pair.p < 1e-6 and 0 < pair.expected < 0.1


def test_a_lost_class_is_named_by_its_error_rate_where_passing_examples_are_known():
    labels = [7] * 30 + [k for k in CLASSES for _ in range(3)]
    answers = [(k + 1 + i) % 10 for i, k in enumerate(labels)]
    answers = [(a + 1) % 10 if a == k else a for a, k in zip(answers, labels, strict=True)]
    passing = [k for k in CLASSES if k != 7 for _ in range(40)]
    lost = [c for c in confusions(labels, answers, retained(), passing) if c.predicted is None]
    assert [c.true for c in lost] == [7]
    assert lost[0].share == 1 and lost[0].expected == pytest.approx(0.09)


def test_errors_as_on_retained_data_are_no_finding():
    labels = [k for k in CLASSES for _ in range(9)]
    answers = [(k + 1 + i) % 10 for k in CLASSES for i in range(9)]
    assert confusions(labels, answers, retained()) == []


def test_a_class_that_always_was_hard_is_no_finding():
    """Class 3 fails more than the others, and as often as on retained data."""
    true = [k for k in CLASSES for _ in range(100)]
    said = [
        (k + 1 + i % 9) % 10 if i < (40 if k == 3 else 5) else k
        for k in CLASSES
        for i in range(100)
    ]
    labels = [3] * 40 + [k for k in CLASSES if k != 3 for _ in range(5)]
    answers = [(k + 1 + i % 9) % 10 for i, k in enumerate(labels)]
    passing = [k for k in CLASSES for _ in range(60 if k == 3 else 95)]
    assert confusions(labels, answers, (true, said), passing) == []


def test_of_more_passing_examples_than_belong_to_the_failures_some_are_drawn(classifier, pictures):
    images = as_images(pictures["pool"][:60], classifier)
    runtime = Runtime(progress=False)
    assert len(in_proportion(images, 10, 0.25, runtime) or ()) == 30
    assert in_proportion(images, 10, None, runtime) is images
    assert in_proportion(images, 10, 0.1, runtime) is images  # 90 are not there
    assert in_proportion(None, 10, 0.1, runtime) is None


def test_as_many_sure_errors_as_the_model_makes_anyway_are_no_label_errors():
    def sure(k: int, p: float) -> list[float]:
        return [p if i == k else (1 - p) / 9 for i in CLASSES]

    known = torch.arange(10).repeat(30)
    wrong = [i >= 270 for i in range(300)]  # of these it is as sure as of the others
    p_known = torch.tensor(
        [sure((int(k) + bad) % 10, 0.9) for k, bad in zip(known, wrong, strict=True)]
    )
    labels = torch.arange(10).repeat(2)
    p = torch.tensor([sure((int(k) + 1) % 10, 0.95) for k in labels])
    found, expected = label_errors(range(20), labels, p, (known, p_known))
    assert len(found) == 20 and expected == 20
    said = str(replace(Diagnosis(20, 300, 0, 0, (1, 8, 8), Told(0.5, 0.4, 0.6)),
                       labels=tuple(found), labels_expected=expected))  # fmt: skip
    assert "No sign of label errors" in said and "Likely label errors" not in said


def test_label_errors_are_those_that_look_like_another_class():
    def sure(k: int, p: float = 0.9) -> list[float]:
        return [p if i == k else (1 - p) / 9 for i in CLASSES]

    known = torch.arange(10).repeat(30)
    p_known = torch.tensor([sure(int(k), 0.8 + 0.1 * (i % 3)) for i, k in enumerate(known)])
    labels = torch.arange(10).repeat(4)
    # every fourth is typical of the next class; of the others the model is not sure
    p = torch.tensor(
        [sure((int(k) + 1) % 10, 0.97 if i % 4 == 0 else 0.4) for i, k in enumerate(labels)]
    )
    ids = [f"{i}.png" for i in range(40)]
    found, expected = label_errors(ids, labels, p, (known, p_known))
    assert expected == 0
    assert {s.id for s in found} == {f"{i}.png" for i in range(0, 40, 4)}
    assert all(s.predicted == (s.label + 1) % 10 and s.probability < 0.01 for s in found)


def test_images_that_are_no_good_are_listed():
    model = planted.network(in_chans=3)
    many = list(scenes.scenes(20, 0))
    pairs = [(Image.fromarray(image), i % 10) for i, image in enumerate(many)]
    brighter = np.clip(many[0].astype(int) + 6, 0, 255).astype(np.uint8)
    pairs += [
        (Image.fromarray(many[3]), 3),
        (Image.fromarray(brighter), 0),
        (Image.fromarray((many[1] // 20).astype(np.uint8)), 1),
        (Image.new("RGB", (32, 32), (90, 90, 90)), 2),
        (Image.fromarray(many[2]).resize((200, 20)), 2),
        (Image.fromarray(many[4]).convert("CMYK"), 4),
    ]
    kept = as_images([(Image.fromarray(many[5]), 5), (Image.fromarray(many[6]), 9)], model)
    found = looked_at(as_images(pairs, model), kept)
    assert found.duplicates[0] == (3, 20) and (0, 21) in found.near
    assert found.dark == (22,) and found.blank == (23,) and found.odd == (24,)
    assert found.leaked == (5, 6) and found.conflicting == (6,)
    assert found.modes == {"RGB": 25, "CMYK": 1} and found.turned == 0


def test_populations_are_told_apart_by_mean_and_by_spread_and_not_at_all():
    g = torch.Generator().manual_seed(0)
    one, same = torch.randn(2, 150, 20, generator=g)
    assert told_apart(one, same, 0).low < 0.5 < told_apart(one, same, 0).high
    assert told_apart(one, same + 1, 0).low > 0.9
    assert told_apart(one, 3 * same, 0).low > 0.8
    assert told_apart(one, same, 0) == told_apart(one, same, 0)
