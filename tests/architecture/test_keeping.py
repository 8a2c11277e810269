import pytest
import torch
from cases import GENTLE

from timm_repair import repair
from timm_repair.errors import OptionError
from timm_repair.methods import named
from timm_repair.training.objective import Judged


def judged(right: list[float]) -> Judged:
    """Of one population, all of it."""
    each = torch.tensor(right, dtype=torch.float64) / len(right)
    return Judged(each.sum().item(), {"failing": each})


def test_better_is_what_is_better_by_more_than_its_error():
    before = [0.0] * 50 + [1.0] * 50
    # d is 1 for k of 100 examples: mean k/100, error sqrt(k/100 (1 - k/100) / 99)
    for more, better in ((0, False), (2, True), (30, True)):
        after = judged([1.0] * more + before[more:])
        assert after.beats(judged(before)) == better, more
        assert not judged(before).beats(after)
    # as many fixed as broken: no better, however many
    assert not judged([1.0] * 50 + [0.0] * 50).beats(judged(before))
    # pairs count, not sums: 3 more by 3 changes, and by 43 that nearly cancel
    few, many = [1.0] * 3 + before[3:], [1.0] * 23 + [0.0] * 27 + [1.0] * 30 + [0.0] * 20
    assert judged(few).beats(judged(before)) and not judged(many).beats(judged(before))


@pytest.fixture
def given(failures, pictures) -> dict:
    data = {"retain": pictures["train"][:200], "failures": failures.subset(range(60))}
    return data | {"block": "layer2", "level": "layer", "progress": False, "diagnose": False}


@pytest.mark.filterwarnings("ignore::timm_repair.NoEffectWarning")
@pytest.mark.parametrize(("a_path", "kept"), [(0.0, 6), (0.03, 3), (0.09, 1), (0.2, 0)])
def test_the_strongest_edges_within_the_limit_stay(a_path, kept, classifier, given, monkeypatch):
    """Six are searched, and all are better than none."""

    def slowdown(job, sites, before, after, label) -> float:
        paths = sum(len(cell.genotype.edges) for cell in after)
        # the first question is whether one may be added
        return 1.0 if label == "one path" else 1 + a_path * paths

    strong = []

    def strengths(cell) -> dict:
        found = {edge: float(i) for i, edge in enumerate(cell.genotype.edges)}
        strong.extend(sorted(found, key=lambda edge: -found[edge]))
        return found

    keeping = "timm_repair.architecture.keeping"
    monkeypatch.setattr(f"{keeping}.slowdown", slowdown)
    monkeypatch.setattr(f"{keeping}.strengths", strengths)
    monkeypatch.setattr(f"{keeping}.discretize", lambda relaxed, _: relaxed.skeleton)
    monkeypatch.setattr(
        f"{keeping}.judged",
        lambda forward, *_: Judged(float(sum(p.numel() for p in forward.model.parameters())), {}),
    )
    report = repair(classifier, **given, **GENTLE).report
    edges = report.genotypes["layer2"]["edges"]
    assert len(strong) == 6 and len(edges) == kept
    said = [note for note in report.notes if "searched edges were kept" in note]
    assert bool(said) == (kept < 6) and all(f"{kept} of 6 searched" in note for note in said)
    found = {(edge["source"], edge["target"]) for edge in edges}
    assert found == {(edge.source, edge.target) for edge in strong[:kept]}


@pytest.mark.filterwarnings("ignore::timm_repair.NoEffectWarning")
def test_where_one_path_is_too_slow_nothing_is_searched(classifier, given, monkeypatch):
    monkeypatch.setattr("timm_repair.architecture.keeping.slowdown", lambda *_: 1.5)
    report = repair(classifier, **given, **GENTLE).report
    assert report.genotypes["layer2"]["edges"] == []
    assert [row["stage"] for row in report.history] == ["finetune"] * GENTLE["steps"]
    assert any("1.50 times as long (max_latency=1.1)" in note for note in report.notes)
    assert not any("no edge was better" in note for note in report.notes)
    monkeypatch.setattr("timm_repair.architecture.keeping.slowdown", None)  # is not asked
    free = repair(classifier, **given, **GENTLE | {"max_latency": None}).report
    assert "search" in {row["stage"] for row in free.history}


def test_the_limit_is_a_ratio():
    with pytest.raises(OptionError, match="max_latency=0.5 asks that added paths make the model"):
        named("archrepair", max_latency=0.5)
