import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from report.report_examples import genotype, localization, report, scores, two_blocks, weights_only

from timm_repair.errors import OutputError, RepairError

pytest.importorskip("matplotlib", reason="for want of matplotlib")

from timm_repair.report.comparison import Comparison
from timm_repair.report.figures.accuracy import before_after
from timm_repair.report.figures.architecture import architecture
from timm_repair.report.figures.overview import overview, save_all
from timm_repair.report.figures.suspiciousness import suspiciousness
from timm_repair.report.figures.trajectories import trajectories  # noqa: E402
from timm_repair.report.pareto import pareto
from timm_repair.report.rows import Row, Run


def words(figure) -> list[str]:
    """Every text of a drawn figure."""
    from matplotlib.text import Text

    figure.draw_without_rendering()
    return [
        text.get_text() for text in figure.findobj(Text) if text.get_text() and text.get_visible()
    ]


def test_architecture_labels_every_path_without_overlap():
    figure = architecture(report())
    figure.draw_without_rendering()
    labels = [
        text for text in figure.axes[0].texts if "_" in text.get_text() or text.get_text() == "skip"
    ]
    assert len(labels) == len(report().genotype["edges"])
    boxes = [label.get_window_extent() for label in labels]
    assert not any(a.overlaps(b) for index, a in enumerate(boxes) for b in boxes[:index])


def test_architecture_says_when_nothing_was_added():
    assert any(
        "raw architecture was kept" in text
        for text in words(architecture(report(genotypes={"layer3": genotype(())})))
    )
    assert any("weights only" in text for text in words(architecture(weights_only())))


def test_architecture_draws_operations_and_names_of_any_kind():
    plan = genotype([(0, 22, "my$op$_x")] + [(i, i + 1, "sep_conv") for i in range(22)], nodes=23)
    plan["nodes"][3]["layer"] = "$conv_{dw}$.with.a.long.name"
    assert "my$op$_x" in words(architecture(report(genotypes={"layer3": plan})))


def test_architecture_of_several_blocks_is_one_panel_each():
    figure = architecture(two_blocks())
    assert [ax.get_title(loc="left") for ax in figure.axes] == [
        f"What was built into layer{i}" for i in (1, 2)
    ]
    assert [
        len([text for text in ax.texts if "_" in text.get_text() or text.get_text() == "skip"])
        for ax in figure.axes
    ] == [2, 1]


def test_suspiciousness_marks_the_repaired_block():
    figure = suspiciousness(report())
    ax = figure.axes[0]
    colors = [bar.get_facecolor() for bar in ax.patches]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == [
        "layer1",
        "layer2",
        "layer3",
        "layer4",
    ]
    assert colors[2] not in colors[:2] + colors[3:] and len(set(colors)) == 2
    assert "33  repaired" in words(figure)


def test_suspiciousness_shows_errors_gains_and_ties():
    figure = suspiciousness(report(localization=localization(), repaired_blocks=("layer1",)))
    shown = words(figure)
    assert "0.24  gain 0.31  repaired" in shown and "0.210 ± 0.016  gain 0.27  tied" in shown
    assert "0.180 ± 0.020  gain 0.23" in shown
    bars = [
        segment[:, 0].round(3).tolist()
        for lines in figure.axes[0].collections
        for segment in lines.get_segments()
    ]
    assert bars == [[0.194, 0.226], [0.16, 0.2], [0.126, 0.174]]
    assert "±" not in "".join(words(overview(report(localization=localization()))))


@pytest.mark.parametrize(("blocks", "layers"), [(4, 20), (5, 60), (20, 120), (1, 1)])
def test_suspiciousness_shows_every_layer_in_network_order(blocks, layers):
    found = localization(blocks, layers)
    figure = suspiciousness(report(localization=found, repaired_blocks=("layer1",)))
    figure.draw_without_rendering()
    by_block, by_layer = figure.axes
    assert [round(bar.get_height(), 3) for bar in by_layer.patches] == list(
        found["layer_scores"].values()
    )
    places = [bar.get_x() for bar in by_layer.patches]
    assert places == sorted(places)
    red, *others = [bar.get_facecolor() for bar in by_block.patches]
    assert red not in others and len(set(others)) <= 1, "what is not repaired has one grey"
    colors = [bar.get_facecolor() for bar in by_layer.patches]
    named = list(zip(found["layers"].values(), colors, strict=True))
    assert all((block == "layer1") == (color == red) for block, color in named)
    for (one, color), (other, beside) in pairwise(named):
        assert (one == other) == (color == beside), "neighbours differ"
    labels = [label for label in by_layer.get_xticklabels() if label.get_text()]
    lefts = [label.get_window_extent().x1 for label in labels]
    assert labels and all(b - a > 6 for a, b in zip(lefts, lefts[1:], strict=False)), (
        "labels are thinned out where they would meet"
    )


def test_layers_of_a_neuron_scorer_are_counted():
    layers = {"a.0": "a", "a.1": "a", "b.0": "b"}
    vulnerable = {"a.1": [0, 5, 6], "b.0": [2]}
    found = {
        "scorer": "spectrum",
        "suspiciousness": {"a": 3.0, "b": 1.0},
        "layers": layers,
        "details": {"vulnerable": vulnerable},
    }
    figure = suspiciousness(report(localization=found, repaired_blocks=("a",)))
    assert [bar.get_height() for bar in figure.axes[1].patches] == [
        0,
        3,
        1,
    ] and "vulnerable neurons" in words(figure)


@pytest.mark.parametrize(
    "found",
    [
        {"scorer": "rgn", "suspiciousness": {"a": 0.0, "b": 0.0}},
        {"scorer": "probe", "suspiciousness": {"a": -0.2, "b": None}, "errors": {"a": 0.1}},
        {
            "scorer": "rgn",
            "suspiciousness": {"a": 1.0, "b": 0.5},
            "layers": {"a": "a", "b": "b"},
            "layer_scores": {"a": 1.0, "b": 0.5},
        },
        {"scorer": "random", "suspiciousness": {}},
    ],
)
def test_suspiciousness_without_layers_is_one_panel(found):
    figure = suspiciousness(report(localization=found, repaired_blocks=("a",)))
    figure.draw_without_rendering()
    assert len(figure.axes) == 1
    overview(report(localization=found, repaired_blocks=("a",))).draw_without_rendering()


def test_of_many_blocks_the_overview_shows_the_highest_and_the_repaired():
    figure = overview(report(localization=localization(40, 80), repaired_blocks=("layer40",)))
    shown = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert shown == [f"layer{index}" for index in (*range(1, 24), 40)]
    assert any("the 24 highest of 40 blocks" in text for text in words(figure))


def test_before_after_shows_counts_and_whiskers():
    sure = scores("all right", kept=50, broken=0, fixed=0, missed=0)
    figure = before_after(report(scores=(*report().scores, sure)))
    assert "+280 fixed\n−30 broken" in words(figure)
    assert [round(bar.get_height(), 1) for bar in figure.axes[0].patches] == [
        40.0,
        65.0,
        79.2,
        78.9,
        100.0,
        100.0,
    ]
    assert len(figure.axes[0].collections) == 6


def test_trajectories_follow_the_history():
    axes = trajectories(report()).axes
    loss, objective = axes[:2]
    assert [len(line.get_xdata()) for line in loss.lines] == [60, 90]
    assert loss.lines[1].get_xdata()[0] == 60
    assert [line.get_label() for line in objective.lines] == ["search"]
    assert axes[2].images[0].get_array().sum() == pytest.approx(21)
    several = trajectories(two_blocks())
    assert {"layer1", "layer2"} <= set(words(several)) and several.axes[2].lines[0].get_ydata()[
        0
    ] == 11.5


def test_figures_without_data_say_so():
    with pytest.raises(RepairError, match="localization"):
        suspiciousness(weights_only())
    with pytest.raises(RepairError, match="history"):
        trajectories(report(history=()))


def test_overview_leaves_out_what_a_method_lacks():
    assert len(overview(report()).axes) == 3
    assert len(overview(two_blocks()).axes) == 4
    assert len(overview(weights_only()).axes) == 1


def test_save_all_writes_what_there_is(tmp_path):
    paths = save_all(weights_only(), tmp_path / "new")
    assert {path.stem for path in paths} == {
        "architecture",
        "before_after",
        "overview",
        "trajectories",
    }
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def test_save_all_explains_an_unwritable_directory(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        save_all(report(), tmp_path / "file")


def test_importing_figures_does_not_import_matplotlib():
    code = "import sys, timm_repair.report.figures; sys.exit('matplotlib' in sys.modules)"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[2]
        ).returncode
        == 0
    )


def compared() -> Comparison:
    """Three methods: one that is better, one that keeps more, one that is worse in both."""

    def made(fixed: int, broken: int, seconds: float):
        found = scores(fixed=fixed, missed=600 - fixed)
        kept = scores("retained", kept=792 - broken, broken=broken, fixed=0, missed=208)
        stages = ({"name": "all", "seconds": seconds, "peak_memory": 0},)
        return report(scores=(found, kept), stages=stages)

    return Comparison.of({"$a$": made(300, 40, 9), "b": made(200, 10, 3), "c": made(100, 20, 9)})


def test_pareto_shows_each_method_in_four_views():
    figure = pareto(compared())
    figure.draw_without_rendering()
    assert len(figure.axes) == 4
    first = figure.axes[0]
    front = next(line for line in first.lines if line.get_linestyle() == ":").get_xydata()
    assert front.round(1).tolist() == [[75.2, 67.0], [78.2, 57.0]], "c is beaten"
    cheap = next(line for line in figure.axes[2].lines if line.get_linestyle() == ":").get_xydata()
    assert cheap.round(1).tolist() == [[3.0, 57.0], [9.0, 67.0]]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert set(labels) == {"original", "$a$", "b", "c"}
    for ax in figure.axes[:3]:  # no axis leads to what cannot be
        assert min(ax.get_xlim()[0], ax.get_ylim()[0]) > -5 and ax.get_ylim()[1] < 105
        assert all(tick >= 0 for tick in ax.get_xticks() if tick >= ax.get_xlim()[0])


def test_pareto_leaves_out_what_was_not_measured():
    plain = Comparison.of({"a": report(cost={})})
    assert sum(ax.axison for ax in pareto(plain).axes) == 3
    nothing = Comparison({"a": Row("a", (Run(0, error="KeyError"),))})
    with pytest.raises(RepairError, match="nothing to draw"):
        pareto(nothing)
