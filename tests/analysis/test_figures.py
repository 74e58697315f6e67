"""The picture of a run shows its metrics, whatever state the run is in."""

import json

import numpy as np
import pytest

from research.analysis import draw_run
from research.errors import UserError


@pytest.fixture
def make_run(tmp_path):
    """Writes a run folder by hand: only what a run leaves, no code of ours."""

    def make(rows, summary=None):
        run = tmp_path / "runs" / "digits" / "1"
        run.mkdir(parents=True)
        (run / "config.json").write_text('{"kind": "Experiment"}')
        (run / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        if summary is not None:
            (run / "summary.json").write_text(json.dumps(summary))
        return run

    return make


def rows():
    for step in (10, 20, 30):
        norms = {"update_norm/head": 0.01 * step, "parameter_norm/head": 2.0}
        yield {"step": step, "split": "train", "loss": 1 / step, "accuracy": 1 - 1 / step, **norms}
        yield {"step": step, "split": "validation", "loss": 2 / step, "accuracy": 1 - 2 / step}


def lines(axes):
    return {line.get_label(): (line.get_xdata(), line.get_ydata()) for line in axes.lines}


def test_the_lines_are_the_metrics(make_run):
    classes = [{"name": "one", "f1": 0.5}, {"name": "two", "f1": 0.75}]
    test = {"accuracy": 0.625, "classes": classes, "mistakes": [{"label": "one", "predicted": "two", "count": 3}]}
    run = make_run(rows(), {"test": test, "best": {"step": 20}})
    figure = draw_run(run.parent.parent)
    loss, error, ratio, mistakes = figure.axes
    np.testing.assert_allclose(lines(loss)["validation"], [[10, 20, 30], [0.2, 0.1, 2 / 30]])
    np.testing.assert_allclose(lines(error)["training batches"], [[10, 20, 30], [10, 5, 10 / 3]])
    np.testing.assert_allclose(lines(error)["best checkpoint, step 20"][0], [20, 20])
    np.testing.assert_allclose(lines(ratio)["head"], [[10, 20, 30], [0.05, 0.1, 0.15]])
    widths = {
        label.get_text(): bar.get_width()
        for label, bar in zip(mistakes.get_yticklabels(), mistakes.patches, strict=True)
    }
    assert widths == {"two": 0.75, "one": 0.5}
    assert "62.50 %" in figure._suptitle.get_text()
    assert mistakes.get_xlabel() == "most often: one taken for two, 3 x"


def test_a_language_model_has_a_line_of_perplexity_and_is_judged_by_its_bits(make_run):
    told = [{**row, "perplexity": 100 / row["step"]} for row in rows()]
    figure = draw_run(make_run(told, {"test": {"accuracy": 0.5, "bits_per_byte": 2.25}}))
    np.testing.assert_allclose(lines(figure.axes[3])["validation"], [[10, 20, 30], [10, 5, 10 / 3]])
    assert figure._suptitle.get_text() == "digits: 2.250 bits per byte of test"


def test_a_run_under_way_is_drawn_without_its_end(make_run, tmp_path):
    figure = draw_run(make_run(list(rows())[:1]))
    assert "not tested yet" in figure.axes[3].texts[0].get_text()
    figure.savefig(tmp_path / "figure.png")


def test_a_run_without_metrics_is_an_error(make_run):
    with pytest.raises(UserError, match="no metrics have been logged yet"):
        draw_run(make_run([]))
