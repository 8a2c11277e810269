import builtins
import subprocess
import sys
from pathlib import Path

import pytest
from report_examples import genotype, report, scores, weights_only

from timm_repair.errors import OutputError, RepairError

pytest.importorskip("matplotlib")

from timm_repair import figures  # noqa: E402


def words(figure) -> list[str]:
    """Every text of a drawn figure."""
    from matplotlib.text import Text

    figure.draw_without_rendering()
    return [text.get_text() for text in figure.findobj(Text) if text.get_text() and text.get_visible()]


def test_architecture_labels_every_path_without_overlap():
    figure = figures.architecture(report())
    figure.draw_without_rendering()
    labels = [text for text in figure.axes[0].texts if "_" in text.get_text() or text.get_text() == "skip"]
    assert len(labels) == len(report().genotype["edges"])
    boxes = [label.get_window_extent() for label in labels]
    assert not any(a.overlaps(b) for index, a in enumerate(boxes) for b in boxes[:index])


def test_architecture_says_when_nothing_was_added():
    assert any(
        "raw architecture was kept" in text for text in words(figures.architecture(report(genotype=genotype(()))))
    )
    assert any("weights only" in text for text in words(figures.architecture(weights_only())))


def test_architecture_draws_operations_and_names_of_any_kind():
    plan = genotype([(0, 22, "my$op$_x")] + [(i, i + 1, "sep_conv") for i in range(22)], nodes=23)
    plan["nodes"][3]["layer"] = "$conv_{dw}$.with.a.long.name"
    assert "my$op$_x" in words(figures.architecture(report(genotype=plan)))


def test_suspiciousness_marks_the_repaired_block():
    figure = figures.suspiciousness(report())
    ax = figure.axes[0]
    colors = [bar.get_facecolor() for bar in ax.patches]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["layer1", "layer2", "layer3", "layer4"]
    assert colors[2] not in colors[:2] + colors[3:] and len(set(colors)) == 2
    assert "33  repaired" in words(figure)


def test_before_after_shows_counts_and_whiskers():
    sure = scores("all right", kept=50, broken=0, fixed=0, missed=0)
    figure = figures.before_after(report(scores=(*report().scores, sure)))
    assert "+280 fixed\n−30 broken" in words(figure)
    assert [round(bar.get_height(), 1) for bar in figure.axes[0].patches] == [40.0, 65.0, 79.2, 78.9, 100.0, 100.0]
    assert len(figure.axes[0].collections) == 6


def test_trajectories_follow_the_history():
    axes = figures.trajectories(report()).axes
    loss, objective = axes[:2]
    assert [len(line.get_xdata()) for line in loss.lines] == [60, 90]
    assert loss.lines[1].get_xdata()[0] == 60
    assert [line.get_label() for line in objective.lines] == ["search"]
    assert axes[2].images[0].get_array().sum() == pytest.approx(21)


def test_figures_without_data_say_so():
    with pytest.raises(RepairError, match="localization"):
        figures.suspiciousness(weights_only())
    with pytest.raises(RepairError, match="history"):
        figures.trajectories(report(history=()))


def test_overview_leaves_out_what_a_method_lacks():
    assert len(figures.overview(report()).axes) == 3
    assert len(figures.overview(weights_only()).axes) == 1


def test_save_all_writes_what_there_is(tmp_path):
    paths = figures.save_all(weights_only(), tmp_path / "new")
    assert {path.stem for path in paths} == {"architecture", "before_after", "overview", "trajectories"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def test_save_all_explains_an_unwritable_directory(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        figures.save_all(report(), tmp_path / "file")


def test_missing_matplotlib_is_explained(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(RepairError, match=r"timm_repair\[figures\]"):
        figures.before_after(report())


def test_importing_figures_does_not_import_matplotlib():
    code = "import sys, timm_repair.figures; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[1]).returncode == 0
