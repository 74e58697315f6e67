"""Runs and their metrics as tables, read from what is on disk and nothing else."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from research.analysis import load_metrics, load_runs
from research.analysis.runs import flatten
from research.errors import UserError

ROOT = Path(__file__).parents[2]


def make_run(workdir: Path, run: str, rate: float = 0.1, *, summary: dict | None = None, rows: str = "") -> Path:
    folder = workdir / run
    folder.mkdir(parents=True)
    config = {
        "kind": "Experiment",
        "seed": 7,
        "optimizer": {"kind": "AdamW", "learning_rate": rate, "clip": None},
        "model": {"kind": "ConvNet", "features": [16, 32], "dtype": {"dtype": "bfloat16"}},
        "terms": [{"kind": "L2", "rate": 0.5}, {"kind": "L1", "rate": 0.25}],
    }
    (folder / "config.json").write_text(json.dumps(config))
    inspection = {"parameters": {"total": 10, "by_path": {"head/kernel": 8}}, "layers": [{"path": "head"}]}
    (folder / "inspection.json").write_text(json.dumps(inspection))
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps(summary))
    if rows:
        (folder / "metrics.jsonl").write_text(rows)
    return folder


ROWS = """{"step": 1, "split": "train", "time": 0.1, "loss": "NaN"}
{"step": 1, "split": "validation", "time": 0.2, "loss": 0.5, "accuracy": 0.75}
{"step": 2, "split": "train", "time": 0.3, "loss": "Infin"""


# ---------------------------------------------------------------------------------------------------------------------
# Runs


def test_config_inspection_and_summary_are_columns_by_path(tmp_path):
    folder = make_run(tmp_path, "digits/1", summary={"test": {"accuracy": 0.985}, "reason": "finished"})
    (row,) = load_runs(tmp_path).to_dict("records")
    assert row == {
        "run": str(folder),
        "name": "digits",
        "config": "Experiment",
        "config.seed": 7,
        "config.optimizer": "AdamW",
        "config.optimizer.learning_rate": 0.1,
        "config.optimizer.clip": None,
        "config.model": "ConvNet",
        "config.model.features": (16, 32),
        "config.model.dtype": "bfloat16",
        "config.terms.0": "L2",
        "config.terms.0.rate": 0.5,
        "config.terms.1": "L1",
        "config.terms.1.rate": 0.25,
        "inspection.parameters.total": 10,
        "inspection.parameters.by_path.head/kernel": 8,
        "inspection.layers": ({"path": "head"},),
        "summary.test.accuracy": 0.985,
        "summary.reason": "finished",
    }


def test_the_columns_of_a_config_are_the_paths_that_overrides_use():
    from research.config import config, flat, leaf, structure, to_json

    @config
    class Inner:
        rate: float = leaf(0.5)

    @config
    class Outer:
        inner: Inner = structure(Inner())
        several: tuple[Inner, ...] = structure((Inner(), Inner(rate=0.25)))
        features: tuple[int, ...] = structure((1, 2))
        nothing: float | None = leaf(None)

    columns, paths = flatten(to_json(Outer()), "config"), flat(Outer())
    del paths["several"]  # the items have columns, not the tuple of them
    kinds = {"config": "Outer", "config.several.0": "Inner", "config.several.1": "Inner"}
    assert columns == kinds | {f"config.{path}": value for path, value in paths.items()}


def test_runs_are_found_at_any_depth_in_the_order_of_their_paths(tmp_path):
    for name in ("b/2", "a/deep/er/1", "b/1"):
        make_run(tmp_path / "runs", name)
    assert list(load_runs(tmp_path)["run"]) == [str(tmp_path / "runs" / name) for name in ("a/deep/er/1", "b/1", "b/2")]
    assert list(load_runs(str(tmp_path / "runs/b"))["name"]) == ["b", "b"]


def test_an_unfinished_run_has_nan_in_its_summary(tmp_path):
    make_run(tmp_path, "x/1", summary={"test": {"accuracy": 0.5}})
    make_run(tmp_path, "x/2")
    runs = load_runs(tmp_path)
    np.testing.assert_array_equal(runs["summary.test.accuracy"], [0.5, np.nan])
    assert list(runs["config.seed"]) == [7, 7]


@pytest.mark.parametrize("name", ["config.json", "inspection.json", "summary.json"])
def test_a_run_that_cannot_be_read_is_left_out_with_a_warning(tmp_path, name):
    make_run(tmp_path, "x/1")
    damaged = make_run(tmp_path, "x/2", summary={})
    (damaged / name).write_text('{"kind": "Expe')
    with pytest.warns(UserWarning, match=rf"run {damaged} is left out: .*{name}: damaged or cut off"):
        runs = load_runs(tmp_path)
    assert list(runs["run"]) == [str(tmp_path / "x/1")]


def test_the_config_json_of_something_else_is_no_run(tmp_path):
    make_run(tmp_path, "x/1")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/config.json").write_text('{"hidden_size": 768}')
    with pytest.warns(UserWarning, match="foreign is left out: .*not the config of a run"):
        assert len(load_runs(tmp_path)) == 1


def test_where_no_run_can_be_read_the_table_is_empty(tmp_path):
    (make_run(tmp_path, "x/1") / "config.json").write_text("")
    with pytest.warns(UserWarning, match="left out"):
        runs = load_runs(tmp_path)
    assert (len(runs), list(runs)) == (0, ["run", "name"])


@pytest.mark.parametrize("load", [load_runs, load_metrics])
def test_a_folder_that_is_not_there_or_holds_no_runs_is_told_of(tmp_path, load):
    with pytest.raises(UserError, match="rums: there is no such folder"):
        load(tmp_path / "rums")
    with pytest.raises(UserError, match="no runs in it"):
        load(tmp_path)


# ---------------------------------------------------------------------------------------------------------------------
# Metrics


def test_metric_rows_of_all_runs_stand_in_one_table(tmp_path):
    first, second = make_run(tmp_path, "x/1", rows=ROWS), make_run(tmp_path, "x/2", rows=ROWS)
    make_run(tmp_path, "x/3")
    metrics = load_metrics(tmp_path)
    assert list(metrics) == ["run", "step", "split", "time", "loss", "accuracy"]
    assert list(metrics["run"]) == [str(first)] * 2 + [str(second)] * 2
    assert list(metrics["split"]) == ["train", "validation"] * 2
    np.testing.assert_array_equal(metrics["loss"], [np.nan, 0.5] * 2)
    np.testing.assert_array_equal(metrics["accuracy"], [np.nan, 0.75] * 2)
    assert metrics["loss"].dtype == metrics["time"].dtype == np.float64
    assert metrics["step"].dtype == np.int64


def test_numbers_that_are_not_finite_are_numbers_in_the_table(tmp_path):
    rows = '{"step": 1, "loss": "NaN"}\n{"step": 2, "loss": "-Infinity"}\n{"step": 3, "loss": "Infinity"}\n'
    metrics = load_metrics(make_run(tmp_path, "x/1", rows=rows))
    assert metrics["loss"].dtype == np.float64
    np.testing.assert_array_equal(metrics["loss"], [np.nan, -np.inf, np.inf])


def test_runs_and_metrics_join_on_the_run(tmp_path):
    make_run(tmp_path, "x/1", 0.1, rows=ROWS)
    make_run(tmp_path, "x/2", 0.2, rows=ROWS)
    joined = load_metrics(tmp_path).merge(load_runs(tmp_path), on="run")
    assert list(joined["config.optimizer.learning_rate"]) == [0.1, 0.1, 0.2, 0.2]


def test_before_the_first_row_the_table_is_empty(tmp_path):
    metrics = load_metrics(make_run(tmp_path, "x/1"))
    assert (len(metrics), list(metrics)) == (0, ["run", "step", "split", "time"])


def test_damaged_rows_leave_a_run_out_with_a_warning_or_are_told_of_if_it_was_asked_for(tmp_path):
    make_run(tmp_path, "x/1", rows=ROWS)
    damaged = make_run(tmp_path, "x/2", rows="{}\n{{}\n{}\n")
    with pytest.warns(UserWarning, match=rf"run {damaged} is left out: .*metrics\.jsonl, line 2: damaged"):
        assert set(load_metrics(tmp_path)["run"]) == {str(tmp_path / "x/1")}
    with pytest.raises(UserError, match="line 2: damaged"):
        load_metrics(damaged)


def test_analysis_knows_run_folders_and_no_other_room():
    watched = "m.startswith('research') or m in ('jax', 'pandas')"
    code = f"import sys; import research.analysis; print(*(m for m in sys.modules if {watched}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    rooms = {
        "research",
        "research.analysis",
        *(f"research.analysis.{name}" for name in ("runs", "sweeps", "networks", "statistics", "answers", "choices")),
        *(f"research.analysis.{name}" for name in ("words", "tables", "drawing", "shares", "figures", "sweep_figures")),
        "research.errors",
        "research.jsonl",
    }
    assert set(done.stdout.split()) == rooms
