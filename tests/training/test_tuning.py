"""XLA's flags that were measured to be the fastest: chosen, remembered, recorded, and repeated on resume."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from research import runtime
from research.commandline import loading
from research.models import MLP
from research.training import SGD, AdamW, Cosine, Experiment, epochs, run, steps, tuning
from research.training.folder import open_run
from research.training.reading import read_experiment

ROOT = Path(__file__).resolve().parents[2]
USUAL, OTHER, DEVICES, ONEDNN, NOTHING = runtime.HANDED


@pytest.fixture
def experiment(tiny):
    return tiny()


@pytest.fixture
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "fathom"


@pytest.fixture
def processes(monkeypatch, own_cache):
    """Processes that only say what they are told to: {XLA_FLAGS: milliseconds by round, or an error}."""
    answers, ended = {}, []

    class Process:
        def __init__(self, flags, config_file, overrides):
            self.flags = runtime.handing("", flags)
            self.rounds = iter(answers[self.flags])

        def told(self, what=""):
            if not what:
                return {"platform": answers.get("platform", "cpu")}
            ms = next(self.rounds)
            if isinstance(ms, str):
                raise tuning.Failed(ms)
            return {"ms": ms}

        def __enter__(self):
            return self

        def __exit__(self, *_):
            ended.append(self.flags)

    monkeypatch.setattr(tuning, "_Process", Process)
    monkeypatch.setattr(runtime, "choices", lambda: runtime.HANDED)
    answers["ended"] = ended
    return answers


def answer(processes, **ms):
    for short, flags in zip(("usual", "other", "devices", "onednn", "nothing"), runtime.HANDED.values(), strict=True):
        processes[runtime.handing("", flags)] = ms.get(short, [10.0] * tuning.ROUNDS)


@pytest.mark.parametrize(
    ("other", "devices", "onednn", "nothing", "chosen"),
    [
        (8.0, 9.0, 9.0, 9.0, OTHER),
        (9.0, 9.0, 9.0, 8.0, NOTHING),
        (9.0, 9.0, 8.0, 9.0, ONEDNN),
        (9.0, 8.0, 9.0, 9.0, DEVICES),
        (9.8, 9.8, 9.8, 11.0, USUAL),
        (12.0, 12.0, 12.0, 12.0, USUAL),
    ],
)
def test_the_fastest_is_chosen_if_it_is_faster_by_more_than_chance(
    experiment, processes, other, devices, onednn, nothing, chosen
):
    told = {"other": other, "devices": devices, "onednn": onednn, "nothing": nothing}
    answer(processes, **{name: [ms] * tuning.ROUNDS for name, ms in told.items()})
    found = tuning.measure(experiment, "exp.py", ())
    assert found.name == chosen
    assert chosen in found.told()
    assert tuning.remembered(experiment) == chosen
    assert sorted(processes["ended"]) == sorted(runtime.handing("", flags) for flags in runtime.HANDED.values())


def test_one_slow_round_of_a_busy_machine_changes_nothing(experiment, processes):
    rounds = [10.0, 10.0, 40.0, 10.0, 10.0, 40.0, 10.0]
    answer(processes, usual=rounds, other=[ms * 0.9 for ms in rounds])  # they are busy together
    assert tuning.measure(experiment, "exp.py", ()).name == OTHER
    answer(processes, usual=[10.0, 10.0, 40.0, 10.0, 10.0, 40.0, 10.0])
    assert tuning.measure(experiment, "exp.py", ()).name == USUAL


def test_on_another_device_there_is_nothing_to_choose(experiment, processes):
    answer(processes)
    processes["platform"] = "gpu"
    assert tuning.measure(experiment, "exp.py", ()) is None
    assert tuning.remembered(experiment) is None


def test_what_fails_is_told_and_not_remembered_and_no_process_is_left(experiment, processes):
    answer(processes, usual=[9.0, "no such data"])
    with pytest.raises(tuning.Failed, match="no such data"):
        tuning.measure(experiment, "exp.py", ())
    assert tuning.remembered(experiment) is None
    assert len(processes["ended"]) == len(runtime.HANDED)


def test_another_choice_that_fails_is_out_and_the_others_go_on(experiment, processes):
    answer(processes, other=["killed"], devices=[5.0, "killed"], nothing=[8.0] * tuning.ROUNDS)
    found = tuning.measure(experiment, "exp.py", ())
    assert found.name == tuning.remembered(experiment) == NOTHING
    assert list(found.ms) == [USUAL, ONEDNN, NOTHING]
    assert len(processes["ended"]) == len(runtime.HANDED)


def test_a_choice_holds_for_a_structure_whatever_its_numbers(experiment, processes):
    answer(processes, other=[5.0] * tuning.ROUNDS)
    tuning.measure(experiment, "exp.py", ())
    change = lambda **fields: dataclasses.replace(experiment, **fields)  # noqa: E731
    longer = change(name="other", seed=7, duration=epochs(3), evaluate_every=steps(7), log_every=steps(3))
    faster = change(optimizer=dataclasses.replace(experiment.optimizer, learning_rate=0.5))
    assert tuning.remembered(longer) == tuning.remembered(faster) == OTHER
    others = [change(batch_size=7), change(model=MLP(width=9)), change(precision="bfloat16")]
    other_optimizer = AdamW() if isinstance(experiment.optimizer, SGD) else SGD()
    for other in [*others, change(optimizer=other_optimizer), change(schedule=Cosine())]:
        assert tuning.remembered(other) is None


def test_what_is_remembered_may_be_damaged(experiment, processes, own_cache):
    answer(processes, other=[5.0] * tuning.ROUNDS)
    tuning.measure(experiment, "exp.py", ())
    file = own_cache / "tuned.json"
    for text in (
        "{",
        "[1]",
        json.dumps(dict.fromkeys(json.loads(file.read_text()), "no such choice")),
        json.dumps({key: [1] for key in json.loads(file.read_text())}),
    ):
        file.write_text(text)
        assert tuning.remembered(experiment) is None
    tuning.measure(experiment, "exp.py", ())
    assert tuning.remembered(experiment) == OTHER


@pytest.mark.parametrize(("seconds", "is_measured"), [(tuning.LONG - 1, False), (tuning.LONG, True)])
def test_a_structure_that_trained_for_long_is_measured_before_it_trains_again(
    experiment, processes, monkeypatch, capsys, seconds, is_measured
):
    monkeypatch.setattr(runtime, "_has_begun", lambda: False)
    monkeypatch.setenv("XLA_FLAGS", "")
    answer(processes, other=[5.0] * tuning.ROUNDS)
    again = dataclasses.replace(experiment, seed=7)
    tuning.choose(experiment, "exp.py", (), may_measure=False)
    assert not processes["ended"] and not capsys.readouterr().out  # nothing is known of it
    tuning.remember_time(experiment, seconds)
    tuning.choose(dataclasses.replace(experiment, batch_size=7), "exp.py", (), may_measure=False)
    assert not processes["ended"]
    tuning.choose(again, "exp.py", (), may_measure=False)
    assert bool(processes["ended"]) == ("took more than ten minutes before" in capsys.readouterr().out) == is_measured
    assert os.environ["XLA_FLAGS"] == (runtime.handing("", runtime.HANDED[OTHER]) if is_measured else "")
    tuning.remember_time(experiment, seconds)  # what was chosen stays
    assert tuning.remembered(again) == (OTHER if is_measured else None)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_what_cannot_be_measured_unasked_is_not_tried_at_each_start(experiment, processes, capsys, platform):
    answer(processes, usual=["no memory"] * tuning.ROUNDS)
    processes["platform"] = platform
    tuning.remember_time(experiment, tuning.LONG)
    for is_tried in (True, False):
        tuning.choose(experiment, "exp.py", (), may_measure=False)
        assert ("measuring with which" in capsys.readouterr().out) == is_tried
    tuning.choose(experiment, "exp.py", (), may_measure=True)  # but where it is asked for
    assert "measuring with which" in capsys.readouterr().out


def test_a_run_s_experiment_is_of_the_structure_that_its_file_has(tiny, tmp_path, processes, monkeypatch, capsys):
    """As `--resume` reads it."""
    monkeypatch.setattr(runtime, "_has_begun", lambda: False)
    monkeypatch.setenv("XLA_FLAGS", "")
    experiment = tiny(model=MLP(depth=2, width=8, norm="layer"), duration=steps(4), evaluate_every=steps(2))
    answer(processes)
    again = read_experiment(open_run(run.train(experiment, workdir=str(tmp_path))["folder"]))
    tuning.remember_time(again, tuning.LONG)
    capsys.readouterr()
    tuning.choose(experiment, "exp.py", (), may_measure=False)
    assert "took more than ten minutes before" in capsys.readouterr().out


EXPERIMENT = """
from research.data import Digits
from research.models import MLP
from research.training import Experiment, steps

def get_config():
    return Experiment(data=Digits(), model=MLP(width=8), duration=steps(8), evaluate_every=steps(4))
"""


def launch(folder, *arguments, **environment):
    kept = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS" and not name.startswith("MALLOC_")}
    return subprocess.run(
        [sys.executable, str(ROOT / "launch.py"), *arguments],
        cwd=folder,
        env=kept | {"XDG_CACHE_HOME": str(folder), **environment},
        capture_output=True,
        text=True,
    )


def flags_of(environment):
    ours = (runtime.FUSIONS, runtime.ONEDNN, runtime.DEVICES)
    return [word for word in environment["XLA_FLAGS"].split() if any(name in word for name in ours)]


def words(flags):
    return runtime.handing("", flags).split()


def test_a_choice_is_measured_told_recorded_used_again_and_repeated_on_resume(tmp_path):
    (tmp_path / "exp.py").write_text(EXPERIMENT)
    first = launch(tmp_path, "--config", "exp.py", "--tune", "measure", "--config.optimizer.learning_rate", "0.01")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "measuring with which of XLA's flags" in first.stdout
    assert "XLA hands" in first.stdout
    file = tmp_path / "fathom" / "tuned.json"
    ((key, chosen),) = json.loads(file.read_text()).items()
    (run,) = (tmp_path / "runs" / "exp").iterdir()
    assert flags_of(json.loads((run / "environment.json").read_text())) == words(runtime.HANDED[chosen])

    file.write_text(json.dumps({key: OTHER}))
    second = launch(tmp_path, "--config", "exp.py", "--tune", "measure")
    assert "as was measured before" in second.stdout and "measuring with which" not in second.stdout
    _, other_run = sorted((tmp_path / "runs" / "exp").iterdir())
    expected = words(runtime.HANDED[OTHER])
    assert flags_of(json.loads((other_run / "environment.json").read_text())) == expected

    file.unlink()  # what is remembered has changed, and the run goes on as it began
    (other_run / "summary.json").unlink()
    resumed = launch(tmp_path, "--resume", str(other_run))
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    (again,) = json.loads((other_run / "environment.json").read_text())["resumed"]
    assert flags_of(again) == expected


@pytest.mark.parametrize(
    "began",
    [
        "",
        "--xla_other=1",
        f"--{runtime.FUSIONS}=LIBRARY_FUSION_TYPE_REDUCE --xla_other=2",
        f"--xla_other=2 --{runtime.FUSIONS}= --{runtime.ONEDNN}=true",
        f"--{runtime.FUSIONS}= --{runtime.DEVICES}=2",
    ],
)
def test_a_run_goes_on_with_the_flags_that_it_began_with_whatever_they_are(tmp_path, monkeypatch, began):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "environment.json").write_text(json.dumps({"XLA_FLAGS": began}))
    monkeypatch.setattr(runtime, "_has_begun", lambda: False)
    monkeypatch.setenv("XLA_FLAGS", f"--xla_mine=1 --{runtime.FUSIONS}=LIBRARY_FUSION_TYPE_DOT --{runtime.ONEDNN}=x")
    tuning.repeat(str(tmp_path))
    assert os.environ["XLA_FLAGS"].split() == ["--xla_mine=1", *flags_of({"XLA_FLAGS": began})]


@pytest.mark.parametrize("said", [{"XLA_FLAGS": f"--{runtime.DEVICES}=3"}, {"JAX_NUM_CPU_DEVICES": "3"}])
def test_how_many_devices_there_are_is_not_ours_to_choose_where_the_user_says_it(tmp_path, monkeypatch, said):
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.delenv("JAX_NUM_CPU_DEVICES", raising=False)
    monkeypatch.setattr(runtime, "cores", lambda: 2)
    assert DEVICES in runtime.choices()
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    assert DEVICES not in runtime.choices() and USUAL in runtime.choices()
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "environment.json").write_text(json.dumps({"XLA_FLAGS": f"--{runtime.FUSIONS}= --{runtime.DEVICES}=2"}))
    monkeypatch.setattr(runtime, "_has_begun", lambda: False)
    tuning.repeat(str(tmp_path))
    assert os.environ["XLA_FLAGS"].split() == [*said.get("XLA_FLAGS", "").split(), f"--{runtime.FUSIONS}="]


def test_a_run_that_does_not_say_leaves_the_flag_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "_has_begun", lambda: False)
    monkeypatch.setenv("XLA_FLAGS", "--xla_mine=1")
    (tmp_path / "config.json").write_text("{}")
    for text in (None, "{", "[]", "{}", '{"XLA_FLAGS": 1}'):
        if text is not None:
            (tmp_path / "environment.json").write_text(text)
        tuning.repeat(str(tmp_path))
        tuning.repeat(str(tmp_path / "no such run"))
    assert os.environ["XLA_FLAGS"] == "--xla_mine=1"


def test_once_jax_has_computed_a_flag_stays_and_that_is_told(monkeypatch):
    monkeypatch.setattr(runtime, "_has_begun", lambda: True)
    monkeypatch.setenv("XLA_FLAGS", "--xla_mine=1")
    with pytest.warns(UserWarning, match="has computed already"):
        runtime.hand({runtime.FUSIONS: ""})
    assert os.environ["XLA_FLAGS"] == "--xla_mine=1"


def test_an_experiment_that_cannot_run_says_so_where_it_is_measured(tmp_path):
    (tmp_path / "exp.py").write_text(EXPERIMENT.replace("width=8", "width=0"))
    failed = launch(tmp_path, "--config", "exp.py", "--tune", "measure")
    assert failed.returncode == 2
    assert "model.width" in failed.stderr
    assert not (tmp_path / "fathom" / "tuned.json").exists()


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (("--tune", "measur"), {}, "--tune: no tune 'measur'; did you mean 'measure'?"),
        (("--tune", "measure", "--mode", "inspect"), {}, "--tune measure: goes with --config FILE and --mode train or"),
        (("--tune", "measure"), {"XLA_FLAGS": f"--{runtime.FUSIONS}="}, "there is nothing to choose among: XLA_FLAGS"),
        (("--tune", "measure"), {"XLA_FLAGS": f"--{runtime.ONEDNN}=1"}, "there is nothing to choose among: XLA_FLAGS"),
    ],
)
def test_what_cannot_be_measured_is_told_before_anything_is_done(tmp_path, arguments, environment, message):
    (tmp_path / "exp.py").write_text(EXPERIMENT)
    refused = launch(tmp_path, "--config", "exp.py", *arguments, **environment)
    assert refused.returncode == 2
    assert message in " ".join(refused.stderr.split())
    assert not (tmp_path / "runs").exists()


NETWORK = """
from research.data import Digits
from research.models import ConvNet
from research.training import Experiment, steps

def get_config():
    model = ConvNet(features=(8, 16), hidden=(16,))
    return Experiment(data=Digits(), model=model, duration=steps(8), evaluate_every=steps(4), batch_size=32)
"""


@pytest.mark.parametrize("name", [DEVICES, ONEDNN])
def test_by_another_choice_training_comes_to_the_same_and_no_word_of_what_cannot_be_kept(
    tmp_path, own_cache, monkeypatch, name
):
    monkeypatch.setenv("XLA_FLAGS", "")
    if name not in runtime.choices():
        pytest.skip("jaxlib has oneDNN since 0.11, and one core is one device")
    monkeypatch.chdir(tmp_path)
    Path("exp.py").write_text(NETWORK)
    key = tuning._key(loading.load_config("exp.py", (Experiment,)).config)
    own_cache.mkdir(exist_ok=True)
    losses = []
    for each in (USUAL, name):
        (own_cache / "tuned.json").write_text(json.dumps({key: each}))
        done = launch(tmp_path, "--config", "exp.py", "--workdir", each.replace(" ", "-"))
        assert (done.returncode, done.stderr) == (0, "")
        (run,) = Path(each.replace(" ", "-"), "exp").iterdir()
        environment = json.loads((run / "environment.json").read_text())
        assert flags_of(environment) == words(runtime.HANDED[each])
        assert len(environment["devices"]) == (runtime.cores() if each == DEVICES else 1)
        losses.append([json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
