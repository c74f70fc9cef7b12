import json
import struct
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from hf_minibert.errors import UserError
from hf_minibert.runs.curves import plot_curves


def training_line(step: int, loss: float, **more: float) -> dict:
    return {"step": step, "tokens": 1000 * step, "loss": loss, "learning_rate": 1e-4 * step} | more


def write_metrics(folder: Path, lines: list[dict]) -> Path:
    path = folder / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved, to look into."""
    saved: list[Figure] = []
    savefig = Figure.savefig

    def remember(figure: Figure, *arguments: object, **options: object) -> None:
        saved.append(figure)
        savefig(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", remember)
    return saved


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def test_curves_show_losses_held_out_figures_and_baselines(tmp_path: Path, figures: list[Figure]):
    lines = [training_line(step, 9 - step / 50) for step in range(1, 201)]
    lines += [
        {"step": step, "tokens": 1000 * step, "eval_loss": 9.1 - step / 50, "eval_bits_per_byte": 1.234}
        for step in (100, 200)
    ]
    output = tmp_path / "curves.png"
    plot_curves(write_metrics(tmp_path, lines), output, baselines={"unigram": 6.789})
    assert output.read_bytes().startswith(b"\x89PNG")
    assert struct.unpack(">II", output.read_bytes()[16:24]) == (1200, 750)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "metrics.jsonl"]
    (figure,) = figures
    assert legend(figure) == ["training: 5.05", "held-out: 5.10 (1.23 bits per byte)", "unigram: 6.79"]
    raw, smoothed, held_out, baseline = figure.axes[0].get_lines()
    assert list(raw.get_xdata()) == [line["tokens"] for line in lines[:200]]
    assert list(raw.get_ydata()) == [line["loss"] for line in lines[:200]]
    # A straight line stays where it is, but for the last few points, whose window ends early.
    assert list(smoothed.get_ydata())[:195] == pytest.approx(list(raw.get_ydata())[:195])
    assert list(held_out.get_ydata()) == [line["eval_loss"] for line in lines[200:]]
    assert set(baseline.get_ydata()) == {6.789}
    (rate,) = figure.axes[1].get_lines()
    assert list(rate.get_ydata()) == [line["learning_rate"] for line in lines[:200]]
    assert figure.axes[1].get_xlabel() == "tokens seen"


def test_a_classifier_is_compared_with_the_commonest_label(tmp_path: Path, figures: list[Figure]):
    lines = [{"step": step, "loss": 1.0, "learning_rate": 1e-3} for step in (10, 20)]
    lines += [{"step": step, "eval_loss": 0.7, "eval_accuracy": step / 25} for step in (10, 20)]
    baseline = ("always the commonest label", 0.55)
    plot_curves(write_metrics(tmp_path, lines), tmp_path / "curves.png", score="accuracy", score_baseline=baseline)
    _, accuracy, rate = figures[0].axes
    held_out, majority = accuracy.get_lines()
    assert list(held_out.get_ydata()) == [0.4, 0.8]
    assert set(majority.get_ydata()) == {0.55}
    assert "commonest label: 55.0%" in accuracy.get_legend().get_texts()[1].get_text()
    assert rate.get_ylabel() == "learning rate"


@pytest.mark.parametrize(
    "line",
    [
        training_line(1, 9.0),
        training_line(0, 9.0),
        {"step": 1, "loss": 9.0, "learning_rate": 0.0},
        {"step": 1, "tokens": 10, "eval_loss": 9.0},
    ],
)
def test_one_line_is_enough(tmp_path: Path, line: dict):
    plot_curves(write_metrics(tmp_path, [line]), tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_without_token_counts_steps_are_the_axis(tmp_path: Path, figures: list[Figure]):
    lines = [{"step": step, "loss": 1.0, "learning_rate": 1e-3} for step in (10, 20)]
    plot_curves(write_metrics(tmp_path, lines), tmp_path / "curves.png")
    assert figures[0].axes[1].get_xlabel() == "optimizer steps"
    assert list(figures[0].axes[0].get_lines()[0].get_xdata()) == [10, 20]


def test_a_repeated_step_counts_once_and_a_gap_stays_a_gap(tmp_path: Path, figures: list[Figure]):
    lines = [training_line(2, 8.0), training_line(1, 9.0), training_line(2, 7.0), training_line(3, float("nan"))]
    plot_curves(write_metrics(tmp_path, lines), tmp_path / "curves.png")
    assert [str(value) for value in figures[0].axes[0].get_lines()[1].get_ydata()] == ["9.0", "7.0", "nan"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ('{"step": 1, "loss": 2, "learning_rate": 0}\n{"step', "line 2 of"),
        ('{"loss": 2}', "line 1 of"),
        ("3", "line 1 of"),
    ],
)
def test_unreadable_metrics_leave_the_old_picture(tmp_path: Path, content: str, message: str):
    (tmp_path / "metrics.jsonl").write_text(content, encoding="utf-8")
    (tmp_path / "curves.png").write_text("old", encoding="utf-8")
    with pytest.raises(UserError, match=message):
        plot_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_text(encoding="utf-8") == "old"


def test_a_held_out_loss_that_is_not_finite_is_no_error(tmp_path: Path) -> None:
    lines = [{"step": 1, "tokens": 8, "loss": 9.0, "learning_rate": 0.1}]
    lines += [{"step": 1, "tokens": 8, "eval_loss": None, "eval_bits_per_byte": None}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    plot_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
