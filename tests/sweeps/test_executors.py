"""A sweep on a Ray cluster is the sweep in one process, whatever becomes of the workers."""

import contextlib
import dataclasses
import importlib.util
import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from research import runtime
from research.errors import UserError
from research.models import MLP, ConvNet
from research.sweeps import TPE, Halving, Sweep, executors, grid, log_uniform, product, repeat
from research.sweeps import run as module
from research.sweeps.executors import Done, OnRay, Step, Work, work_on
from research.training import interruption, steps


@pytest.fixture
def sweep(base):
    base = dataclasses.replace(base, duration=steps(20), log_every=steps(5), evaluate_every=steps(5))
    space = product(
        grid("model.depth", 1, 2), log_uniform("optimizer.learning_rate", 0.01, 0.1, trials=2), repeat("seed", 2)
    )
    return Sweep(base=base, space=space, judge=1, name="tiny")


def read(summary, name):
    return [json.loads(line) for line in Path(summary["folder"], name).read_text().splitlines()]


def assert_near(a, b):
    """The same to rounding: lists and objects as in JSON."""
    if isinstance(a, dict | list):
        assert type(a) is type(b) and len(a) == len(b)
        for key in a if isinstance(a, dict) else range(len(a)):
            assert_near(a[key], b[key])
    else:
        assert a == (pytest.approx(b, rel=1e-5, abs=1e-6) if isinstance(b, float) else b)


def same_tables(a, b):
    """Chunks of other sizes are other programs, whose numbers differ by rounding."""
    rows = [[row | {"seconds": 0} for row in read(summary, "trials.jsonl")] for summary in (a, b)]
    assert_near(*rows)
    by_trial = [
        sorted(read(summary, "metrics.jsonl"), key=lambda row: (row["trial"], row["step"], row["split"]))
        for summary in (a, b)
    ]
    assert_near(*by_trial)
    examples = []
    for summary in (a, b):
        examples.append({})
        for path in Path(summary["folder"], "examples").glob("*.npz"):
            with np.load(path) as arrays:
                examples[-1] |= dict(zip(arrays["trials"].tolist(), arrays["losses"], strict=True))
    assert examples[0].keys() == examples[1].keys()
    for trial, losses in examples[0].items():
        np.testing.assert_allclose(losses, examples[1][trial], rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------------------------------------------------------------
# Without a cluster


def test_halving_is_refused_before_anything_runs(sweep, tmp_path):
    with pytest.raises(UserError, match="--executor ray: at each rung"):
        module.run(dataclasses.replace(sweep, halving=Halving()), workdir=str(tmp_path), executor="ray")
    assert not list(tmp_path.iterdir())


def test_that_ray_is_missing_is_told(sweep, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"--executor ray: Ray is not installed; .* '\.\[ray\]'"):
        module.run(sweep, workdir=str(tmp_path), executor="ray")
    assert not list(tmp_path.iterdir())


class Direct:
    """What looks like Ray, and runs each task here, when it is asked for the next message."""

    class exceptions:
        class RayError(Exception):
            pass

        class RayTaskError(RayError):
            pass

    def __init__(self):
        self.begun, self.cancelled = [], []

    def cluster_resources(self):
        return {"CPU": 2.0}

    def remote(self, function):
        outer = self

        class Task:
            def options(self, **_):
                return self

            def remote(self, work):
                outer.begun.append([index for index, _ in work.trials])
                return function(work)

        return Task()

    def wait(self, messages, **_):
        return messages[:1], messages[1:]

    def get(self, message):
        if isinstance(message, Exception):
            raise message
        return message

    def cancel(self, messages, force):
        self.cancelled.append(messages)


@pytest.fixture
def direct(monkeypatch):
    found = Direct()
    monkeypatch.setattr(executors, "check", lambda *_: None)
    monkeypatch.setattr(executors, "opened", lambda executor: contextlib.nullcontext(found and OnRay(found)))
    return found


def test_each_slot_has_a_pack_and_the_table_is_that_of_one_process(sweep, tmp_path, direct):
    here = module.run(dataclasses.replace(sweep, name="here"), workdir=str(tmp_path / "here"), executor="ray")
    assert direct.begun[:2] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert len(direct.begun) == 4  # and two to judge
    assert here["reason"] == "finished"
    direct.begun.clear()
    one = dataclasses.replace(sweep, space=log_uniform("optimizer.learning_rate", 0.01, 0.1, trials=5), judge=0)
    module.run(one, workdir=str(tmp_path / "one"), executor="ray")
    assert direct.begun == [[0, 1, 2], [3, 4]]


def test_workers_test_what_validation_chose_where_they_have_all_of_a_program(sweep, tmp_path, direct):
    some = dataclasses.replace(sweep, tested="chosen")
    elsewhere = module.run(some, workdir=str(tmp_path / "elsewhere"), executor="ray")
    tested = [row["trial"] for row in read(elsewhere, "trials.jsonl") if row["test"]]
    here = module.run(some, workdir=str(tmp_path / "here"))
    assert tested == [row["trial"] for row in read(here, "trials.jsonl") if row["test"]]
    assert len(tested) == 2 * 2 + 2  # of two programs two seeds, and one fresh each
    rates = log_uniform("optimizer.learning_rate", 0.01, 0.1, trials=4)
    one = dataclasses.replace(some, space=product(rates, repeat("seed", 2)))  # two workers have two rates each
    whole = module.run(one, workdir=str(tmp_path / "one"), executor="ray")
    assert all(row["test"] for row in read(whole, "trials.jsonl"))


def test_a_pack_that_does_not_fit_into_a_worker_is_halved(sweep, tmp_path, direct, monkeypatch):
    whole = module.run(sweep, workdir=str(tmp_path / "whole"), executor="ray")
    direct.begun.clear()
    monkeypatch.setattr(executors, "free_memory", lambda: 0 if len(direct.begun[-1]) > 2 else 1e12)
    direct_wait = direct.wait
    direct.wait = lambda messages, **_: direct_wait(messages[-1:])  # the one that was begun last
    halved = module.run(sweep, workdir=str(tmp_path / "halved"), executor="ray")
    assert [4, 5] in direct.begun and [6, 7] in direct.begun
    same_tables(whole, halved)


def test_a_pack_whose_workers_are_lost_again_and_again_is_halved_and_then_fails(sweep, tmp_path, direct, monkeypatch):
    monkeypatch.setattr(
        OnRay,
        "_message",
        lambda self, job, message=OnRay._message: (
            None if any(trial.index == 1 for trial in job.trials) else message(self, job)
        ),
    )
    summary = module.run(dataclasses.replace(sweep, judge=0), workdir=str(tmp_path), executor="ray")
    rows = read(summary, "trials.jsonl")
    assert [row["trial"] for row in rows if row["status"] == "failed"] == [1]
    assert "3 workers were lost" in next(row["problems"][0] for row in rows if row["status"] == "failed")
    assert sum(row["status"] == "finished" for row in rows) == 7
    assert direct.begun.count([0, 1, 2, 3]) == 3


def test_a_mistake_of_the_users_in_a_worker_is_told_in_the_table(base):
    bad = dataclasses.replace(base, model=ConvNet(features=(4,) * 5))
    work = Work([(0, "a")], [rounds_json(bad)], (), 1, None)
    (message,) = work_on(work)
    assert "would pool" in message.problems[0]


def rounds_json(experiment):
    from research.config import to_json

    return to_json(experiment)


def test_an_interrupted_sweep_cancels_what_is_under_way_and_goes_on_elsewhere(sweep, tmp_path, direct, monkeypatch):
    whole = module.run(sweep, workdir=str(tmp_path / "whole"), executor="ray")
    stopped = []
    hear = OnRay._message

    def watched(self, job):
        message = hear(self, job)
        if isinstance(message, Done):
            stopped.append("SIGINT")
        return message

    monkeypatch.setattr(OnRay, "_message", watched)
    monkeypatch.setattr(interruption, "signals", lambda: contextlib.nullcontext(lambda: stopped and stopped[0]))
    summary = module.run(sweep, workdir=str(tmp_path / "parts"), executor="ray")
    assert (summary["reason"], summary["done"]) == ("interrupted", 4)
    assert len(direct.cancelled) == 1
    monkeypatch.undo()
    finished = module.run(sweep, workdir=str(tmp_path / "parts"))
    assert finished["reason"] == "finished"
    same_tables(whole, finished)


def test_what_one_process_was_at_is_begun_again(sweep, tmp_path, direct, monkeypatch):
    whole = module.run(sweep, workdir=str(tmp_path / "whole"), executor="ray")
    answers = iter([None, None, *["SIGTERM"] * 10])
    with monkeypatch.context() as patched:
        patched.setattr(interruption, "signals", lambda: contextlib.nullcontext(lambda: next(answers)))
        patched.setattr(executors, "opened", lambda _: contextlib.nullcontext(None))
        stopped = module.run(sweep, workdir=str(tmp_path / "parts"))
    assert list(Path(stopped["folder"], "checkpoints").iterdir())
    finished = module.run(sweep, workdir=str(tmp_path / "parts"), executor="ray")
    assert not list(Path(stopped["folder"], "checkpoints").iterdir())
    same_tables(whole, finished)


def test_a_ray_that_asks_nobody_for_a_token_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", object())
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="Ray was imported before"), executors._connected():
        pass


# ---------------------------------------------------------------------------------------------------------------------
# With one


@pytest.fixture(scope="module")
def cluster():
    """A cluster of two workers on this machine."""
    if importlib.util.find_spec("ray") is None:  # importing it here would be too early for its token
        pytest.skip("Ray is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "cores", lambda: 2)
        for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"):
            patch.delenv(name, raising=False)
        with executors._connected() as ray:
            yield OnRay(ray)


@pytest.fixture
def on_ray(cluster, monkeypatch):
    monkeypatch.setattr(
        executors, "opened", lambda executor: contextlib.nullcontext(cluster if executor == "ray" else None)
    )


@pytest.mark.ray
def test_it_listens_to_this_machine_alone_and_asks_for_a_token(cluster):
    import ray

    assert all(node["NodeManagerAddress"] == "127.0.0.1" for node in ray.nodes())
    assert os.environ["RAY_AUTH_MODE"] == "token"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, *_, inode, _, _, _, _, _, _ = line.split()[:17]
        if state == "0A" and inode in inodes_of_our_processes():
            assert local.startswith("0100007F:"), local


def inodes_of_our_processes():
    """The sockets of this process and of those that it started, at any remove."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            number, rest = path.parent.name, path.read_text().rpartition(")")[2].split()
            parents[int(number)] = int(rest[1])
    ours, found = {os.getpid()}, set()
    while more := {child for child, parent in parents.items() if parent in ours} - ours:
        ours |= more
    for process in ours:
        for path in Path(f"/proc/{process}/fd").glob("*"):
            with contextlib.suppress(OSError):
                found.add(os.readlink(path).removeprefix("socket:[").removesuffix("]"))
    return found


@pytest.mark.ray
def test_a_worker_that_is_killed_changes_nothing(sweep, tmp_path, on_ray, monkeypatch):
    whole = module.run(sweep, workdir=str(tmp_path / "whole"))
    killed, hear = [], OnRay._message

    def watched(self, job):
        message = hear(self, job)
        if isinstance(message, Step) and message.step == 5 and not killed:
            killed.append(message.worker)
            os.kill(message.worker, signal.SIGKILL)
        return message

    monkeypatch.setattr(OnRay, "_message", watched)
    summary = module.run(sweep, workdir=str(tmp_path / "cluster"), executor="ray")
    assert killed
    same_tables(whole, summary)


@pytest.mark.ray
def test_a_search_on_a_cluster_asks_for_what_it_asks_for_here(sweep, tmp_path, on_ray):
    search = TPE(trials=4, batch=2, startup=2)
    sweep = dataclasses.replace(sweep, space=grid("model", MLP(width=4), MLP(width=8), MLP(width=6)), search=search)
    here = module.run(sweep, workdir=str(tmp_path / "here"))
    there = module.run(sweep, workdir=str(tmp_path / "there"), executor="ray")
    same_tables(here, there)
