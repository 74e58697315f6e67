"""A run can be killed, stopped, damaged, repeated and resumed, and comes to the same end."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from research.analysis import load_metrics, load_runs
from research.config import override
from research.data import Augmentation
from research.errors import UserError
from research.jsonl import read_rows
from research.parameters import Partition, freeze, train
from research.training import EarlyStopping, loop, run, steps
from research.training.checkpoints import Checkpoints
from research.training.folder import open_run

ROOT = Path(__file__).parents[2]

CONFIG = '''
"""A run of a second that can be caught in the middle."""
from research.data import Digits
from research.models import MLP
from research.training import AdamW, Cosine, EarlyStopping, Experiment, steps


def get_config():
    return Experiment(
        data=Digits(), model=MLP(depth=2, width=16, dropout=0.2, norm="batch"), optimizer=AdamW(learning_rate=0.01),
        schedule=Cosine(), duration=steps(600), batch_size=32, average=0.95, early_stopping=EarlyStopping(patience=60),
        log_every=steps(10), evaluate_every=steps(15), devices=1)
'''
TIMED = ("time", "examples_per_second")


def launch(*arguments, cwd, **options):
    """Starts launch.py in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(ROOT / "launch.py"), *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=cwd, env=environment, **pipes, **options)


def finish(process):
    """The output of a process, which must succeed."""
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output


def rows(folder):
    """The metrics of a run, without what a clock measured."""
    return [{k: v for k, v in row.items() if k not in TIMED} for row in read_rows(folder / "metrics.jsonl")]


def latest(folder):
    """(step, arrays) of the latest checkpoint."""
    with Checkpoints(folder / "checkpoints") as checkpoints:
        step, arrays, about, notes = checkpoints.restore_latest()
    assert not notes
    return step, arrays, about["progress"]


def assert_same_run(a, b):
    """Two run folders hold bit for bit the same parameters, metrics, decisions and test figures."""
    assert rows(a) == rows(b)
    (step_a, arrays_a, progress_a), (step_b, arrays_b, progress_b) = latest(a), latest(b)
    assert step_a == step_b
    assert {**progress_a, "time": 0} == {**progress_b, "time": 0}
    assert arrays_a.keys() == arrays_b.keys()
    for key in arrays_a:
        assert np.asarray(arrays_a[key]).tobytes() == np.asarray(arrays_b[key]).tobytes(), key
    ends = [json.loads((folder / "summary.json").read_text()) for folder in (a, b)]
    assert ends[0]["test"] == ends[1]["test"]
    assert ends[0]["best"] == ends[1]["best"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was never disturbed, and the folder of its config file."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "exp.py").write_text(CONFIG)
    finish(launch("--config", "exp.py", cwd=folder))
    (path,) = (folder / "runs" / "exp").iterdir()
    return folder, path


def wait_for(condition, process, seconds=90):
    """Waits until something holds, while a process goes on."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"ended too early: {process.stdout.read()}"
        assert time.monotonic() < end
        time.sleep(0.002)


def count_lines(folder):
    """Lines of metrics in the one run below a folder."""
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("runs/exp/*/metrics.jsonl"))


@pytest.mark.parametrize("moment", ["at the start", "in the middle", "while saving"])
def test_a_run_killed_at_any_moment_and_resumed_is_the_run_never_killed(whole, tmp_path, moment):
    source, path = whole
    process = launch("--config", source / "exp.py", cwd=tmp_path)
    conditions = {
        "at the start": lambda: any(tmp_path.glob("runs/exp/*/metrics.jsonl")),
        "in the middle": lambda: count_lines(tmp_path) > 40,
        "while saving": lambda: count_lines(tmp_path) > 20 and any(tmp_path.glob("runs/exp/*/checkpoints/*/.saving-*")),
    }
    wait_for(conditions[moment], process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (killed,) = (tmp_path / "runs" / "exp").iterdir()
    assert not (killed / "summary.json").exists()
    finish(launch("--resume", killed, cwd=tmp_path))
    assert_same_run(path, killed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_says_how_to_resume_and_ends_cleanly(whole, tmp_path, number):
    source, path = whole
    process = launch("--config", source / "exp.py", cwd=tmp_path)
    wait_for(lambda: count_lines(tmp_path) > 10, process)
    process.send_signal(number)
    output = finish(process)
    assert "Traceback" not in output
    (stopped,) = (tmp_path / "runs" / "exp").iterdir()
    assert f"--resume {stopped.relative_to(tmp_path)}" in " ".join(output.split())
    assert json.loads((stopped / "summary.json").read_text())["reason"] == "interrupted"
    finish(launch("--resume", stopped, cwd=tmp_path))
    assert_same_run(path, stopped)


@pytest.mark.parametrize("seconds", [0.8, 1.8, 2.6])
def test_a_signal_before_the_first_step_ends_the_run_cleanly_too(whole, tmp_path, seconds):
    source, _ = whole
    process = launch("--config", source / "exp.py", "--config.model.width", str(int(17 + 10 * seconds)), cwd=tmp_path)
    time.sleep(seconds)  # while it imports, traces or compiles
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode in (0, 130), output  # 130: there was no run yet
    assert "Traceback" not in output
    runs = list(tmp_path.glob("runs/exp/*"))
    assert bool(runs) == (process.returncode == 0)
    if runs:
        assert json.loads((runs[0] / "summary.json").read_text())["reason"] in ("interrupted", "finished")


def test_config_json_run_again_reproduces_the_metrics_bit_for_bit(whole, tmp_path):
    _, path = whole
    finish(launch("--config", path / "config.json", cwd=tmp_path))
    (again,) = (tmp_path / "runs" / "exp").iterdir()
    assert_same_run(path, again)


def test_evaluating_a_run_again_gives_its_test_figures(whole):
    _, path = whole
    summary = json.loads((path / "summary.json").read_text())
    assert run.evaluate(str(path), split="test")["test"] == summary["test"]
    best = run.evaluate(str(path), split="validation")["validation"]
    assert best["accuracy"] == pytest.approx(summary["best"]["value"], abs=1e-9)


def test_a_run_is_read_as_tables(whole):
    folder, path = whole
    runs = load_runs(folder / "runs")
    assert len(runs) == 1
    assert runs.loc[0, "config.optimizer.learning_rate"] == 0.01
    assert runs.loc[0, "summary.test.accuracy"] == json.loads((path / "summary.json").read_text())["test"]["accuracy"]
    metrics = load_metrics(folder / "runs")
    assert set(metrics["split"]) == {"train", "validation"}
    trained = metrics[metrics["split"] == "train"]
    assert {"learning_rate", "gradient_norm", "gradient_norm/head", "examples_per_second"} <= set(trained.columns)
    assert {"gap_loss", "gap_accuracy"} <= set(metrics[metrics["split"] == "validation"].dropna(axis=1).columns)


@pytest.fixture
def stopped(tiny, tmp_path, monkeypatch):
    """A run of twenty steps that was stopped at ten."""
    monkeypatch.setattr(run.interruption, "signals", _stop_after(tmp_path))
    summary = run.train(tiny(name="stopped"), workdir=str(tmp_path / "runs"))
    monkeypatch.undo()
    assert summary["reason"] == "interrupted"
    return Path(summary["folder"])


def _stop_after(folder):
    import contextlib

    @contextlib.contextmanager
    def signals():
        yield lambda: "SIGTERM" if count_rows(folder) > 3 else None

    return signals


def count_rows(folder):
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("runs/*/*/metrics.jsonl"))


@pytest.mark.parametrize("damage", ["truncated", "flipped", "no checksums"])
def test_a_damaged_latest_checkpoint_falls_back_to_the_one_before_and_says_so(tiny, tmp_path, damage, capsys):
    whole = Path(run.train(tiny(name="whole"), workdir=str(tmp_path))["folder"])
    path = Path(run.train(tiny(name="damaged"), workdir=str(tmp_path))["folder"])
    (path / "summary.json").unlink()
    newest = max((path / "checkpoints" / "latest").glob("[0-9]*"), key=lambda p: int(p.name.split(".")[0]))
    files = [file for file in newest.rglob("*") if file.is_file()]
    largest = max((f for f in files if "checksum" not in f.name), key=lambda f: f.stat().st_size)
    if damage == "truncated":
        os.truncate(largest, largest.stat().st_size // 2)
    elif damage == "flipped":
        content = bytearray(largest.read_bytes())
        content[len(content) // 2] ^= 1
        largest.write_bytes(content)
    else:
        next(file for file in path.rglob("*") if "checksums" in file.name and "latest" in str(file)).unlink()
    capsys.readouterr()
    summary = run.resume(str(path))
    assert summary["steps"] == 20
    said = " ".join(capsys.readouterr().out.split())
    assert "from step 10 " in said or damage == "no checksums"
    assert_same_run(whole, path)


def test_a_run_in_use_is_refused_and_left_alone(stopped):
    before = {file: file.read_bytes() for file in stopped.rglob("*") if file.is_file()}
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import fcntl, time; f = open({str(stopped / '.lock')!r}, 'a'); "
            "fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); time.sleep(60)",
        ],
        stdout=subprocess.PIPE,
    )
    try:
        holder.stdout.readline()
        with pytest.raises(UserError, match="is writing to this run"):
            run.resume(str(stopped))
    finally:
        holder.kill()
        holder.communicate()
    assert {file: file.read_bytes() for file in before} == before


def test_a_checkpoint_of_another_model_is_refused(stopped):
    config = json.loads((stopped / "config.json").read_text())
    config["model"]["width"] = 9
    (stopped / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="block_00/dense/kernel"):
        run.resume(str(stopped))


def test_changed_data_is_refused(stopped):
    config = json.loads((stopped / "config.json").read_text())
    config["data"]["train"] = 51
    (stopped / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="data has changed"):
        run.resume(str(stopped))


def test_a_finished_run_is_not_run_again(tiny, tmp_path):
    summary = run.train(tiny(name="done"), workdir=str(tmp_path))
    path = Path(summary["folder"])
    before = (path / "metrics.jsonl").read_bytes()
    assert run.resume(str(path)) == json.loads((path / "summary.json").read_text())
    assert (path / "metrics.jsonl").read_bytes() == before


def test_early_stopping_stops_after_its_patience_and_keeps_the_best(tiny, tmp_path):
    early = EarlyStopping(patience=3)
    experiment = tiny(name="early", duration=steps(400), early_stopping=early, select="validation/loss")
    summary = run.train(override(experiment, "optimizer.learning_rate", 0.0), workdir=str(tmp_path))
    assert summary["reason"] == "stopped early"
    validation = [row for row in rows(Path(summary["folder"])) if row["split"] == "validation"]
    assert [row["step"] for row in validation] == [10, 20, 30, 40]  # nothing is learned: the first is the best
    assert summary["best"] == {"step": 10, "metric": "validation/loss", "value": validation[0]["loss"]}
    assert run.evaluate(summary["folder"], split="validation")["step"] == 10


def test_the_best_is_the_best_metric_then_the_lowest_loss_and_never_infinite(tiny):
    def judged(select, *pairs):
        progress = loop.Progress()
        kept = [
            loop.judge(tiny(select=select), progress, {"step": step, "accuracy": accuracy, "loss": loss})
            for step, (accuracy, loss) in enumerate(pairs)
        ]
        return kept, progress.best_step, progress.stale

    nan = float("nan")
    by_accuracy = judged("validation/accuracy", (0.5, 2.0), (0.7, 3.0), (0.7, 2.5), (0.7, 2.6), (0.9, nan), (0.6, 0.1))
    assert by_accuracy == ([True, True, True, False, False, False], 2, 4)
    by_loss = judged("validation/loss", (0.5, nan), (0.5, 2.0), (0.9, 3.0), (0.1, 1.0), (0.2, 1.0))
    assert by_loss == ([False, True, False, True, False], 3, 1)


def test_a_run_that_is_no_longer_finite_stops_and_keeps_its_checkpoints(tiny, tmp_path):
    experiment = override(tiny(name="wild", duration=steps(200)), "optimizer.learning_rate", 1e30)
    with pytest.raises(UserError, match=r"step \d+: .* in a row were not finite.*head/kernel"):
        run.train(experiment, workdir=str(tmp_path))
    (path,) = (tmp_path / "wild").iterdir()
    assert open_run(str(path)).read_json("summary.json")["reason"] == "not finite"


def test_a_batch_larger_than_the_data_leaves_no_folder(tiny, tmp_path):
    with pytest.raises(UserError, match="batch_size: 64 is larger than the training split, which has 50"):
        run.train(tiny(batch_size=64), workdir=str(tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_cannot_be_written_is_named(tiny, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="file"):
        run.train(tiny(), workdir=str(tmp_path / "file"))


def test_frozen_parameters_are_saved_once_and_used_on_resuming(tiny, tmp_path):
    experiment = tiny(name="frozen", partition=Partition(rules=(train("head/.*"), freeze("block_.*"))))
    whole = Path(run.train(experiment, workdir=str(tmp_path))["folder"])
    again = Path(run.train(experiment, workdir=str(tmp_path))["folder"])
    (again / "summary.json").unlink()
    shutil.rmtree(again / "checkpoints" / "latest" / "20", ignore_errors=True)
    run.resume(str(again))
    assert rows(whole) == rows(again)
    with Checkpoints(again / "checkpoints") as checkpoints:
        frozen = checkpoints.restore_frozen()
    assert {key for key in frozen} == {f"block_0{i}/dense/{name}" for i in (0, 1) for name in ("kernel", "bias")}


def test_streamed_data_gives_the_run_of_data_in_memory(tiny, streamed, tmp_path):
    memory = Path(run.train(tiny(name="memory"), workdir=str(tmp_path))["folder"])
    disk = Path(run.train(tiny(name="disk", data=streamed), workdir=str(tmp_path))["folder"])
    gaps = ("train_loss", "train_accuracy", "gap_loss", "gap_accuracy")  # streamed, no training split is evaluated
    kept = [{k: v for k, v in row.items() if k not in gaps} for row in rows(memory)]
    assert kept == rows(disk)
    for key, value in latest(memory)[1].items():
        assert np.asarray(value).tobytes() == np.asarray(latest(disk)[1][key]).tobytes(), key
    (disk / "summary.json").unlink()
    newest = max((disk / "checkpoints" / "latest").iterdir(), key=lambda path: int(path.name))
    shutil.rmtree(newest)
    run.resume(str(disk))
    assert kept == rows(disk)


def test_tensorboard_files_are_written_on_request(tiny, tmp_path):
    pytest.importorskip("tensorboardX")
    path = Path(run.train(tiny(name="events"), workdir=str(tmp_path), tensorboard=True)["folder"])
    assert list((path / "tensorboard").glob("events*"))


def test_a_run_stopped_early_and_killed_before_its_summary_does_not_train_on(tiny, tmp_path):
    experiment = tiny(name="early", duration=steps(400), early_stopping=EarlyStopping(patience=2))
    summary = run.train(override(experiment, "optimizer.learning_rate", 0.0), workdir=str(tmp_path))
    assert summary["reason"] == "stopped early"
    path = Path(summary["folder"])
    before = rows(path)
    (path / "summary.json").unlink()
    assert run.resume(str(path)) == {**summary, "wall_time": pytest.approx(summary["wall_time"])}
    assert rows(path) == before


def test_modules_beside_the_config_file_are_kept_with_the_run(whole, tmp_path):
    (tmp_path / "sizes").mkdir()
    (tmp_path / "sizes" / "__init__.py").write_text("")
    (tmp_path / "sizes" / "small.py").write_text("WIDTH = 5")
    (tmp_path / "exp.py").write_text("from sizes.small import WIDTH\n" + CONFIG.replace("width=16", "width=WIDTH"))
    finish(launch("--config", "exp.py", "--config.duration", "10 steps", cwd=tmp_path))
    (path,) = (tmp_path / "runs" / "exp").iterdir()
    shutil.rmtree(tmp_path / "sizes")
    (tmp_path / "exp.py").unlink()
    assert '"test"' in finish(launch("--mode", "evaluate", "--run", path, "--format", "json", cwd=tmp_path))


class Counting(nn.Module):
    """Counts its calls, and reports its activations, as a user's module may."""

    classes: int | None = None

    @nn.compact
    def __call__(self, inputs):
        calls = self.variable("counters", "calls", lambda: jnp.zeros((), jnp.int32))
        if not self.is_initializing() and self.is_mutable_collection("counters"):
            calls.value += 1
        hidden = nn.Dense(4, name="hidden")(inputs)
        self.sow("diagnostics", "activations", hidden)
        return nn.Dense(self.classes, name="head")(hidden)


def test_a_module_may_count_and_report_and_be_averaged(tiny, tmp_path):
    path = Path(run.train(tiny(name="counting", model=Counting(), average=0.9), workdir=str(tmp_path))["folder"])
    _, arrays, _ = latest(path)
    assert arrays["model_state/counters/calls"] == arrays["average/model_state/counters/calls"] == 20
    assert not any("diagnostics" in key for key in arrays)


MISTAKE = """
import flax.linen as nn
from research.data import Digits
from research.training import Experiment

class Net(nn.Module):
    classes: int | None = None
    @nn.compact
    def __call__(self, inputs):
        return nn.Dense(self.clases, name="head")(inputs)

def get_config():
    return Experiment(data=Digits(), model=Net())
"""


def test_a_mistake_in_a_users_module_is_one_line_and_leaves_no_folder(tmp_path):
    (tmp_path / "exp.py").write_text(MISTAKE)
    process = launch("--config", "exp.py", cwd=tmp_path)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "exp.py:10 in __call__: AttributeError" in output
    assert len(output.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("schedule.warmup", "100 examples", "cannot be used here"),
        ("augmentation", Augmentation(rotation=5.0), "augmentation.rotation"),
    ],
)
def test_what_only_tracing_finds_leaves_no_folder(tiny, tmp_path, path, value, message):
    with pytest.raises(UserError, match=message):
        run.train(override(tiny(), path, value), workdir=str(tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


def test_an_evaluation_that_is_not_finite_is_never_the_best(tiny, tmp_path):
    experiment = override(tiny(name="wild", patience_nonfinite=1000), "optimizer.learning_rate", 1e38)
    with pytest.raises(UserError, match="no evaluation had a finite loss"):
        run.train(experiment, workdir=str(tmp_path))
    (path,) = (tmp_path / "wild").iterdir()
    assert open_run(path).read_json("summary.json")["reason"] == "not finite"


def test_a_disk_without_room_is_one_line_and_keeps_what_is_there(tiny, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UserError, match="cannot save a checkpoint in .*: No space left on device"):
        run.train(tiny(name="full"), workdir=str(tmp_path))
    (path,) = (tmp_path / "full").iterdir()
    assert open_run(path).read_json("summary.json")["reason"] == "failed"
    monkeypatch.undo()
    assert run.resume(str(path))["reason"] == "finished"


def test_a_damaged_best_checkpoint_is_stood_in_for_by_the_latest(tiny, tmp_path, capsys):
    path = Path(run.train(tiny(name="damaged"), workdir=str(tmp_path))["folder"])
    (best,) = (path / "checkpoints" / "best").iterdir()
    (best / "checksums.json").unlink()
    assert run.evaluate(str(path))["step"] == 20
    assert "using the latest checkpoint in its place" in " ".join(capsys.readouterr().out.split())


def test_a_damaged_environment_does_not_keep_a_run_from_going_on(stopped):
    (stopped / "environment.json").write_text('{"python": ')
    assert run.resume(str(stopped))["reason"] == "finished"
