"""The one command, as a user meets it: what it says, what it starts, and what it refuses without leaving anything."""

import csv
import importlib
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import launch
from research.config import to_json

ROOT = Path(__file__).parents[1]

EXPERIMENT = '''"""An experiment of a second."""

from research.data import Digits
from research.models import MLP
from research.training import SGD, Experiment, steps


def get_config(width="8"):
    return Experiment(
        data=Digits(),
        model=MLP(depth=2, width=int(width)),
        optimizer=SGD(learning_rate=0.1),
        duration=steps(6),
        batch_size=32,
        evaluate_every=steps(3),
        log_every=steps(3),
        devices=1,
    )
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty current folder with the experiment exp.py."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exp.py").write_text(EXPERIMENT)
    return tmp_path


@pytest.fixture
def command(capsys):
    """Runs a command line in this process; gives status, standard output and the lines of standard error."""

    def run(*tokens):
        status = launch.main(["launch.py", *map(str, tokens)])
        out, err = capsys.readouterr()
        return status, out, err.splitlines()

    return run


@pytest.fixture
def calls(monkeypatch):
    """What would have been run, in place of running it."""
    from research.training import run

    made = []

    def instead(name, answer):
        def call(*arguments, **keywords):
            made.append((name, arguments, keywords))
            return answer

        monkeypatch.setattr(run, name, call)

    instead("train", SUMMARY)
    instead("resume", SUMMARY)
    instead("inspect", (dict(PLAN, network={}), inspected()))
    instead("evaluate", {"folder": "runs/exp/1", "split": "test", "step": 6, "test": REPORT})
    instead("sample", {"prompt": "while ", "text": "True:", "tokens": [84], "folder": "runs/exp/1", "step": 6})
    return made


def inspected():
    """The inspection of a network of one layer."""
    import jax.numpy as jnp

    from research.inspection import inspect

    parameters = {"head": {"kernel": jnp.zeros((9, 10)), "bias": jnp.zeros(10)}}
    apply = lambda p, x: x @ p["head"]["kernel"] + p["head"]["bias"]  # noqa: E731
    return inspect(apply, parameters, jnp.zeros((1, 9)), name="Affine")


REPORT = {
    "loss": 0.5,
    "accuracy": 0.875,
    "precision": 0.8,
    "recall": 0.7,
    "f1": 0.6,
    "classes": [{"name": "seven", "precision": 0.8, "recall": 0.7, "f1": 0.6, "support": 9}],
}
SUMMARY = {
    "name": "exp",
    "reason": "finished",
    "steps": 6,
    "wall_time": 1.5,
    "best": {"step": 3, "metric": "validation/accuracy", "value": 0.9},
    "folder": "runs/exp/1",
    "test": REPORT,
}
PLAN = {
    "name": "exp",
    "model": "MLP",
    "parameters": 100,
    "trainable": 100,
    "layers": [{"path": "head/kernel", "shape": [10, 10], "parameters": 100, "trainable": True}],
    "data": {"kind": "Digits", "train": 10, "validation": 5, "test": 5, "shape": [8, 8, 1], "classes": 10},
    "steps": 6,
    "epochs": 0.1,
    "batch_size": 32,
    "device": "cpu",
}


def start(*tokens, code=(), **options):
    """Runs launch.py, or code that uses it, as a program of its own."""
    program = ["-c", *code] if code else ["launch.py", *tokens]
    return subprocess.run([sys.executable, *program], cwd=ROOT, capture_output=True, text=True, **options)


# ---------------------------------------------------------------------------------------------------------------------
# What it says


@pytest.mark.parametrize("tokens", [[], ["--help"], ["--confg", "x"], ["--mode", "evaluate"]])
def test_nothing_heavy_is_imported_to_list_to_help_or_to_refuse_flags(tokens):
    code = f"import sys, launch; launch.main(['launch.py', *{tokens}]); print(sorted(sys.modules), file=sys.stderr)"
    loaded = start(code=[code], check=True).stderr
    for heavy in ("jax", "numpy", "flax", "pandas", "sklearn", "matplotlib", "orbax", "tensorflow_datasets"):
        assert f"'{heavy}'" not in loaded


def test_with_nothing_it_lists_the_experiments_and_how_to_go_on():
    done = start()
    assert done.returncode == 0
    assert done.stderr == ""
    for path in (ROOT / "experiments").glob("[!_]*.py"):
        assert f"python launch.py --config experiments/{path.name}" in done.stdout
    assert "--mode inspect --config FILE" in done.stdout
    assert "\x1b" not in done.stdout


def test_help_is_a_page_of_flags():
    done = start("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for flag in ("--config FILE", "--mode", "--run", "--resume", "--workdir", "--split", "--format", "--tensorboard"):
        assert flag in done.stdout


def test_help_with_a_config_has_every_field(folder, command):
    status, out, err = command("--config", "exp.py", "--help")
    assert (status, err) == (0, []), "\n".join(err)
    text = " ".join(out.split())
    for part in ("optimizer: SGD", "Adafactor, Muon", "model.width 8", "duration 6 steps", "seed 0"):
        assert part in text


def test_help_shows_the_values_that_overrides_give(folder, command):
    _, out, _ = command("--config", "exp.py", "--config.optimizer", "adamw", "--config.seed", "77", "--help")
    assert "optimizer: AdamW" in out
    assert "77" in out


def test_a_reader_that_has_seen_enough_is_no_bug():
    program = subprocess.Popen(
        [sys.executable, "launch.py"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    program.stdout.close()
    assert program.stderr.read() == ""
    program.stderr.close()
    assert program.wait() == 1


# ---------------------------------------------------------------------------------------------------------------------
# What it starts


def test_a_config_is_trained_with_its_overrides(folder, command, calls):
    tokens = ["--config", "exp.py:16", "--config.optimizer.learning_rate", "3e-3", "--config.seed=7", "--workdir", "w"]
    status, out, err = command(*tokens, "--tensorboard")
    assert (status, err) == (0, []), "\n".join(err)
    ((name, (experiment,), keywords),) = calls
    assert name == "train"
    assert (experiment.model.width, experiment.optimizer.learning_rate, experiment.seed) == (16, 0.003, 7)
    assert keywords.pop("command") == ["launch.py", *tokens, "--tensorboard"]
    assert keywords.pop("changes") == ["optimizer.learning_rate: 0.1 -> 0.003", "seed: 0 -> 7"]
    assert keywords == {"workdir": "w", "config_file": Path("exp.py"), "tensorboard": True}
    assert "87.50 %" in out


def test_the_json_of_a_run_is_trained_like_its_file(folder, command, calls):
    command("--config", "exp.py")
    experiment = calls[0][1][0]
    (folder / "config.json").write_text(json.dumps(to_json(experiment)))
    command("--config", "config.json")
    assert calls[1][1][0] == experiment


def test_a_run_is_resumed(folder, command, calls):
    assert command("--resume", "runs/exp/1")[0] == 0
    assert calls == [("resume", ("runs/exp/1",), {"command": ["launch.py", "--resume", "runs/exp/1"]})]


def test_inspect_prints_the_plan_and_what_overrides_changed(folder, command, calls):
    _, out, _ = command("--mode", "inspect", "--config", "exp.py", "--config.seed", "3")
    assert [name for name, *_ in calls] == ["inspect"]
    assert re.search(r"head +head +10 +100 +90\b", out)
    assert "seed: 0 -> 3" in out


def test_an_inspection_can_be_had_as_csv_and_as_a_page(folder, command, calls):
    _, out, _ = command("--mode", "inspect", "--config", "exp.py", "--format", "csv")
    (row,) = (row for row in csv.DictReader(out.splitlines()) if row["parameters"] != "0")
    assert (row["layer"], row["parameters"], row["formula"]) == ("head", "100", "9*10 + 10")
    _, out, _ = command("--mode", "inspect", "--config", "exp.py", "--format", "html")
    assert out.startswith("<!doctype html>") and "9*10 + 10" in out


@pytest.mark.parametrize(("flag", "form"), [("--compile", "csv"), ("--compile", "html"), ("--rates=1e9,1e9", "csv")])
def test_what_a_format_has_no_place_for_is_refused(folder, command, calls, flag, form):
    status, out, errors = command("--mode", "inspect", "--config", "exp.py", "--format", form, flag)
    assert (status, out, calls) == (2, "", [])
    assert errors[0].startswith(f"error: {flag.partition('=')[0]}: goes with --format table or json")


def test_the_rates_of_a_device_give_the_least_time(folder, command, calls):
    flags = ["--mode", "inspect", "--config", "exp.py", "--format", "json"]
    _, out, _ = command(*flags, "--rates", "190,1e99")  # forward: 90 multiply-adds and 10 additions; backward as much
    assert json.loads(out)["network"]["least_seconds"] == pytest.approx(2, rel=0.1)
    for wrong in ("fast", "1e9", "0,1", "1,2,3"):
        status, _, errors = command(*flags, "--rates", wrong)
        assert status == 2 and errors[0].startswith(f"error: --rates: '{wrong}'")


@pytest.mark.parametrize(
    ("tokens", "key", "value"),
    [
        (["--mode", "inspect", "--config", "exp.py"], "parameters", 100),
        (["--mode", "evaluate", "--run", "runs/exp/1"], "test", REPORT),
        (["--mode", "sample", "--run", "runs/exp/1"], "text", "True:"),
    ],
)
def test_json_is_all_that_is_printed_when_asked_for(folder, command, calls, tokens, key, value):
    _, out, _ = command(*tokens, "--format", "json")
    assert json.loads(out)[key] == value


def test_an_evaluation_against_another_run_ends_in_a_sentence(folder, command, calls, monkeypatch):
    from research.training import judging

    monkeypatch.setattr(judging, "compare_runs", lambda *arguments: {"sentence": f"{arguments} cannot be told apart."})
    status, out, _ = command("--mode", "evaluate", "--run", "runs/exp/1", "--against", "runs/exp/2")
    assert status == 0 and "('runs/exp/1', 'runs/exp/2', 'test') cannot be told apart." in " ".join(out.split())


def test_an_explanation_takes_pictures_and_a_split(folder, command, monkeypatch):
    from research.explanation import explaining

    made = []

    def instead(*arguments, **keywords):
        made.append((arguments, keywords))
        return {"used": "all"}

    monkeypatch.setattr(explaining, "explain_run", instead)
    status, out, _ = command("--mode", "explain", "--run", "r", "a.png", "b.png", "--format", "json")
    assert status == 0 and json.loads(out) == {"used": "all"}
    assert made == [(("r", ("a.png", "b.png")), {"split": "test"})]


def test_evaluate_takes_a_split(folder, command, calls):
    _, out, _ = command("--mode", "evaluate", "--run", "runs/exp/1", "--split", "test")
    assert calls == [("evaluate", ("runs/exp/1",), {"split": "test"})]
    assert "seven" in out
    assert "87.50 %" in out


@pytest.mark.parametrize("problems", [[], ["two.png: damaged"]])
def test_predict_takes_pictures_and_its_status_tells_of_those_that_could_not_be_read(
    folder, command, monkeypatch, problems
):
    from research.deployment import predicting

    made = []
    found = predicting.Predicted(
        [{"file": "one.png", "classes": [["seven", 0.75], ["one", 0.25]], "note": "inverted"}], problems
    )
    monkeypatch.setattr(predicting, "predict", lambda *arguments: made.append(arguments) or found)
    status, out, err = command("--mode", "predict", "--run", "runs/exp/1", "one.png", "two.png")
    assert made == [("runs/exp/1", ("one.png", "two.png"), None)]
    assert "75.00 %" in out
    assert "inverted" in out
    assert status == len(problems)
    assert err == [f"error: {problem}" for problem in problems]
    _, out, _ = command("--mode", "predict", "--run", "runs/exp/1", "one.png", "two.png", "--format", "csv")
    assert next(csv.DictReader(out.splitlines()))["probability of seven"] == "0.75"


def test_no_file_that_can_be_read_is_a_mistake(folder, command, monkeypatch):
    from research.deployment import predicting

    monkeypatch.setattr(predicting, "predict", lambda *_: predicting.Predicted([], ["one.png: damaged"]))
    status, out, err = command("--mode", "predict", "--run", "runs/exp/1", "one.png")
    assert (status, out, err) == (2, "", ["error: one.png: damaged"])


def test_sample_takes_a_prompt_and_how_to_draw(folder, command, calls):
    flags = ["--prompt", "while ", "--tokens", "5", "--temperature", "0.5", "--top_k", "9", "--top_p", "0.9"]
    _, out, _ = command("--mode", "sample", "--run", "runs/exp/1", *flags)
    how = {"count": 5, "temperature": 0.5, "top_k": 9, "top_p": 0.9, "seed": 0}
    assert calls == [("sample", ("runs/exp/1", "while "), how)]
    assert out == "while True:\n"


def test_export_saves_in_the_layout_that_is_asked_for(folder, command, monkeypatch):
    from research.training import exporting

    def exported(run, to, layout="adapters"):
        return {"folder": run, "step": 7, "to": to, "layout": layout, "parameters": 100}

    monkeypatch.setattr(exporting, "export_run", exported)
    monkeypatch.setattr(exporting, "export_adapters", exported)
    for flags, layout in (["--layout", "vit"], "vit"), ([], None), (["--layout", "adapters"], "adapters"):
        flags = ["--mode", "export", "--run", "runs/exp/1", "--to", "w.safetensors", *flags]
        _, out, _ = command(*flags, "--format", "json")
        assert json.loads(out) == exported("runs/exp/1", "w.safetensors", layout)
    _, out, _ = command(*flags)
    assert "step 7" in out and out.rstrip().endswith("w.safetensors")


def test_ctrl_c_outside_of_training_ends_it_quietly(folder, command, monkeypatch):
    from research.training import run

    def interrupted(*arguments, **keywords):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "inspect", interrupted)
    assert command("--mode", "inspect", "--config", "exp.py") == (130, "", [])


def test_a_bug_has_a_traceback(folder, command, monkeypatch):
    from research.training import run

    monkeypatch.setattr(run, "inspect", lambda experiment, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        command("--mode", "inspect", "--config", "exp.py")


def test_the_traceback_of_a_mistake_is_shown_when_asked_for(folder):
    (folder / "bad.py").write_text("def get_config():\n    return 1 / 0\n")
    done = start("--config", str(folder / "bad.py"), "--verbosity", "1")
    assert done.returncode == 2
    assert "return 1 / 0" in done.stderr


# ---------------------------------------------------------------------------------------------------------------------
# What it refuses


BAD = "from research.training import Experiment\n"


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["--config", "exq.py"], "exq.py: no such file; did you mean 'exp.py'?"),
        (["--config", "exp.py:x"], "exp.py:11 in get_config: ValueError: invalid literal for int() with base 10: 'x'"),
        (["--config", "bad.py"], "bad.py:2: ZeroDivisionError: division by zero"),
        (
            ["--config", "exp.py", "--config.sede", "1"],
            "sede: no such field; Experiment has no 'sede'; did you mean 'seed'?",
        ),
        (
            ["--config", "exp.py", "--config.model.dept", "1"],
            "model.dept: no such field; MLP has no 'dept'; did you mean 'depth'?",
        ),
        (["--config", "exp.py", "--config.seed", "one"], "seed: 'one' is no whole number"),
        (
            ["--config", "exp.py", "--config.optimizer", "adafacto"],
            "optimizer: no kind 'adafacto'; did you mean 'Adafactor'?",
        ),
        (["--config", "exp.py", "--config.batch_size", "0"], "batch_size: 0 is not in [1, inf)"),
        (["--config", "exp.py", "--config.duration", "5 parsecs"], "duration: '5 parsecs' is in no unit that is known"),
        (
            ["--config", "exp.py", "--config.batch_size", "100000"],
            "batch_size: 100000 is larger than the training split",
        ),
        (["--config", "exp.py", "--workdir", "exp.py"], "cannot make a run folder in exp.py"),
        (
            ["--config", "config.json"],
            "config.json: sede: no such field; Experiment has no 'sede'; did you mean 'seed'?",
        ),
        (["--resume", "runs/nowhere"], "runs/nowhere: there is no such run"),
        (["--mode", "evaluate", "--run", "runs/nowhere"], "runs/nowhere: there is no such run"),
        (["--mode", "predict", "--run", "runs/nowhere", "one.png"], "runs/nowhere: there is no such run"),
        (["--mode", "evalute", "--run", "runs/nowhere"], "--mode: no mode 'evalute'; did you mean 'evaluate'?"),
        (["--confg", "exp.py"], "--confg: no such flag; did you mean '--config'?"),
    ],
)
def test_a_mistake_is_one_line_and_status_2_and_leaves_nothing(folder, command, tokens, message):
    (folder / "bad.py").write_text("from research.training import Experiment\n1 / 0\n")
    (folder / "config.json").write_text('{"kind": "Experiment", "sede": 1}')
    before = {path: path.read_bytes() for path in folder.iterdir()}
    status, out, err = command(*tokens)
    assert status == 2
    assert out == ""
    assert any(line.startswith(f"error: {message}") for line in err), err
    assert all(line.startswith("error: ") for line in err)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_every_mistake_has_a_line_of_its_own(folder, command):
    status, _, err = command(
        "--config", "exp.py", "--config.sede", "1", "--config.seed", "x", "--config.batch_size", "0"
    )
    assert status == 2
    assert [line.split(":")[1].strip() for line in err] == ["sede", "seed", "batch_size"]


def test_as_a_program_too_a_mistake_has_status_2_and_no_traceback(folder):
    done = start("--config", str(folder / "exp.py"), "--config.sede", "1")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "error: sede: no such field; Experiment has no 'sede'; did you mean 'seed'?\n"


# ---------------------------------------------------------------------------------------------------------------------
# From one end to the other


def test_a_run_is_trained_evaluated_and_trained_again_to_the_same_figures(folder, command):
    status, out, err = command("--config", "exp.py")
    assert (status, err) == (0, []), "\n".join(err)
    (run,) = (folder / "runs" / "exp").iterdir()
    assert str(run.relative_to(folder)) in out
    assert json.loads((run / "config.json").read_text())["kind"] == "Experiment"
    summary = json.loads((run / "summary.json").read_text())

    status, out, err = command("--mode", "evaluate", "--run", run, "--format", "json")
    assert (status, err) == (0, []), "\n".join(err)
    assert json.loads(out)["test"] == summary["test"]

    status, out, err = command("--config", run / "config.json")
    assert (status, err) == (0, []), "\n".join(err)
    (again,) = {*(folder / "runs" / "exp").iterdir()} - {run}
    assert json.loads((again / "summary.json").read_text())["test"] == summary["test"]


def test_an_interrupt_in_the_midst_of_an_import_waits_for_its_end(folder, monkeypatch):
    (folder / "held.py").write_text("import signal\n\nsignal.raise_signal(signal.SIGINT)\nwhole = True\n")
    monkeypatch.syspath_prepend(folder)
    before = signal.signal(signal.SIGINT, launch._interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            importlib.import_module("held")
            time.sleep(30)  # it comes while this lasts
    finally:
        signal.signal(signal.SIGINT, before)
    assert sys.modules.pop("held").whole
