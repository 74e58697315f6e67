"""A sweep's folder is read as a table, drawn, and told on a page, whatever became of its trials."""

import json

import pytest

from research.analysis import draw_sweep, load_trials
from research.analysis.report import report
from research.analysis.sweeps import swept_paths
from research.errors import UserError


def trial(index, depth, rate, accuracy):
    figures = None if accuracy is None else {"loss": 1 - accuracy, "accuracy": accuracy}
    return {
        "trial": index,
        "fingerprint": f"{index:016x}",
        "status": "finished" if figures else "not finite",
        "steps": 20,
        "best_step": 10 if figures else None,
        "validation": figures,
        "test": figures,
        "seconds": 1.5,
        "values": {"seed": index, "model.depth": depth, "optimizer.learning_rate": rate, "optimizer": "<AdamW>"},
    }


@pytest.fixture
def folder(tmp_path):
    """A sweep of which one trial diverged, and an older one."""
    rows = [trial(0, 1, 0.01, 0.5), trial(1, 2, 0.01, 0.75), trial(2, 1, 0.2, None), trial(3, 2, 0.2, 0.25)]
    for name, told in (("20250101-000000-aaaaaa", rows[:1]), ("20260101-000000-bbbbbb", rows)):
        (tmp_path / "deep" / name).mkdir(parents=True)
        (tmp_path / "deep" / name / "trials.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in told))
    return tmp_path


def test_the_newest_sweep_is_a_table_of_values_and_figures(folder):
    trials = load_trials(folder)
    assert trials["trial"].tolist() == [0, 1, 2, 3]
    assert trials.groupby("model.depth")["validation.accuracy"].max().to_dict() == {1: 0.5, 2: 0.75}
    assert trials["test.loss"].isna().tolist() == [False, False, True, False]


def test_fields_that_differ_are_drawn_seeds_last(folder):
    assert swept_paths(load_trials(folder)) == ["model.depth", "optimizer.learning_rate", "seed"]
    drawn = [axes for axes in draw_sweep(folder).axes if axes.get_visible()]
    assert [axes.get_xlabel() for axes in drawn] == ["model.depth", "optimizer.learning_rate", "seed"]
    (best,) = (line for line in drawn[0].lines if line.get_label() == "the best")
    assert (best.get_xdata().tolist(), best.get_ydata().tolist()) == ([1, 2], [0.5, 0.75])


def test_the_page_has_the_best_first_and_needs_nothing_else(folder):
    page = report(folder)
    assert "1 not finite" in page
    assert page.index("75.00 %") < page.index("50.00 %") < page.index("25.00 %")
    assert "http" not in page.replace("www.w3.org", "")


def test_text_in_a_page_is_escaped(folder):
    path = folder / "deep" / "20260101-000000-bbbbbb" / "trials.jsonl"
    path.write_text(path.read_text().replace("<AdamW>", "<b>", 1))
    assert "<b>" not in report(folder)
    assert "&lt;b&gt;" in report(folder)


def test_what_is_no_sweep_is_told(tmp_path, folder):
    with pytest.raises(UserError, match="no such folder"):
        load_trials(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no sweep with a trial that is done"):
        load_trials(tmp_path / "empty")
    with pytest.raises(UserError, match="no trial has validation.perplexity"):
        draw_sweep(folder, "validation.perplexity")
