"""A run folder is made whole, found again, and written to by one process at a time."""

import errno
import json
import os
import platform
import re
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from research import jsonl
from research.errors import UserError
from research.training.folder import RunFolder, create, environment, open_run

ROOT = Path(__file__).parents[2]


def finished(workdir: Path, name: str = "digits") -> RunFolder:
    run = create(workdir, name, "3fa9c1d2")
    run.write_json("config.json", {"kind": "Experiment"})
    return run


# ---------------------------------------------------------------------------------------------------------------------
# Making


def test_a_run_is_called_by_its_time_and_fingerprint_and_no_two_are_the_same(tmp_path):
    runs = [create(tmp_path / "runs", "digits", "3fa9c1d2") for _ in range(5)]
    assert len({run.path for run in runs}) == 5
    for run in runs:
        assert run.path.is_dir()
        assert run.path.parent == tmp_path / "runs/digits"
        assert re.fullmatch(r"\d{8}-\d{6}-3fa9c1(-\d)?", run.path.name)
        assert run.name == "digits"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../up", ".hidden"])
def test_a_name_that_is_no_name_of_a_folder_is_refused(tmp_path, name):
    with pytest.raises(UserError, match="cannot be the name of a folder"):
        create(tmp_path, name, "3fa9c1")
    assert list(tmp_path.iterdir()) == []


def test_a_workdir_that_is_a_file_is_told_of(tmp_path):
    (tmp_path / "runs").touch()
    with pytest.raises(UserError, match=r"cannot make a run folder in .*runs: (Not a directory|File exists)"):
        create(tmp_path / "runs", "digits", "3fa9c1")


def test_a_workdir_that_may_not_be_written_to_is_told_of(tmp_path, monkeypatch):
    def refuse(self, *arguments, **options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(UserError, match=r"cannot make a run folder in .*runs: Permission denied"):
        create(tmp_path / "runs", "digits", "3fa9c1")


# ---------------------------------------------------------------------------------------------------------------------
# Finding


def test_a_run_is_opened_by_its_path(tmp_path):
    run = finished(tmp_path)
    assert open_run(str(run.path)) == run


def test_the_folder_of_a_name_means_its_newest_run(tmp_path):
    run = finished(tmp_path)
    newer = run.path.with_name("99991231-235959-000000")
    newer.mkdir()
    assert open_run(run.path.parent) == run  # what holds no config.json is no run
    (newer / "config.json").write_text("{}")
    assert open_run(run.path.parent).path == newer


def test_what_is_no_run_folder_is_told_of_with_the_nearest_run(tmp_path):
    run = finished(tmp_path / "runs")
    mistyped = run.path.with_name(run.path.name.replace("3fa9c1", "3af9c1"))
    with pytest.raises(UserError, match=f"3af9c1: there is no such run; did you mean '{run.path}'"):
        open_run(mistyped)
    with pytest.raises(UserError, match=f"there is no such run; did you mean '{run.path}'"):
        open_run(tmp_path / "runs/digit" / run.path.name)
    with pytest.raises(UserError, match=f"runs is no run folder, for it .* did you mean '{run.path}'"):
        open_run(run.path.parent.parent)
    with pytest.raises(UserError, match="there is no such run$"):
        open_run(tmp_path / "elsewhere/far/away")
    with pytest.raises(UserError, match=r"no run folder, for it holds no config\.json"):
        open_run(Path(__file__))


# ---------------------------------------------------------------------------------------------------------------------
# The lock


HOLD = """
import sys
sys.path.insert(0, sys.argv[1])
from research.training.folder import open_run
with open_run(sys.argv[2]).lock():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_and_told_who_holds_the_run_until_that_one_is_gone(tmp_path):
    run = finished(tmp_path)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(ROOT), str(run.path)], **pipes)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=rf"{run.path}: process {holder.pid} is writing to this run"), run.lock():
            pass
        assert run.read_json("config.json")  # who reads needs no lock
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    with run.lock():
        assert (run.path / ".lock").read_text() == f"{os.getpid()}\n"


def test_a_lock_is_let_go_of_and_holds_within_one_process_too(tmp_path):
    run = finished(tmp_path)
    for _ in range(2):
        with run.lock(), pytest.raises(UserError, match=f"process {os.getpid()} is writing"), run.lock():
            pass


def test_a_run_that_cannot_be_locked_is_told_of(tmp_path):
    run = RunFolder(tmp_path / "gone")
    with pytest.raises(UserError, match=r"cannot lock .*gone: No such file"), run.lock():
        pass


# ---------------------------------------------------------------------------------------------------------------------
# Files


def test_json_comes_back_as_it_was_and_is_strict(tmp_path):
    run = finished(tmp_path)
    data = {"a": [1, 2.5, None, True, "ü"], "loss": {"inf": float("inf"), "minus": -float("inf")}, "empty": {}}
    run.write_json("summary.json", data)
    assert run.read_json("summary.json") == data
    run.write_json("summary.json", {"x": np.float32(0.5), "y": np.arange(2), "z": (Path("a/b"), float("nan"))})
    strict = json.loads((run.path / "summary.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert strict == {"x": 0.5, "y": [0, 1], "z": ["a/b", "NaN"]}


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b'{"a": 1}}', b"\xff\x00", b'{"a": \x00\x00'])
def test_json_that_is_cut_off_or_damaged_is_told_of(tmp_path, content):
    run = finished(tmp_path)
    (run.path / "summary.json").write_bytes(content)
    with pytest.raises(UserError, match=r"summary\.json: damaged or cut off"):
        run.read_json("summary.json")


def test_json_that_is_missing_is_told_of(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*summary\.json: No such file"):
        RunFolder(tmp_path).read_json("summary.json")
    assert not RunFolder(tmp_path).has("summary.json")


@pytest.mark.parametrize("name", ["replace", "fsync"])
def test_a_disk_that_is_full_leaves_the_old_file_and_nothing_half_written(tmp_path, monkeypatch, name):
    run = finished(tmp_path)
    before = sorted(os.listdir(run.path))

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(jsonl.os, name, full)
        with pytest.raises(UserError, match=r"cannot write .*config\.json: No space left on device"):
            run.write_json("config.json", {"kind": "Other"})
    assert run.read_json("config.json") == {"kind": "Experiment"}
    assert sorted(os.listdir(run.path)) == before


def test_the_file_is_forced_to_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    order, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(jsonl.os, "fsync", lambda file: (order.append("fsync"), fsync(file))[1])
    monkeypatch.setattr(jsonl.os, "replace", lambda *paths: (order.append("replace"), replace(*paths))[1])
    finished(tmp_path)
    assert order[-3:] == ["fsync", "replace", "fsync"]  # content, name, folder


def test_the_config_file_is_kept_to_the_byte(tmp_path):
    run = finished(tmp_path)
    (tmp_path / "mine.py").write_bytes(b"# \xc3\xbc\r\nx = 1")
    run.copy_config_file(tmp_path / "mine.py")
    assert (run.path / "config.py").read_bytes() == b"# \xc3\xbc\r\nx = 1"
    with pytest.raises(UserError, match=r"cannot copy .*none\.py to .*: No such file"):
        run.copy_config_file(tmp_path / "none.py")


# ---------------------------------------------------------------------------------------------------------------------
# Where it ran


def git(folder: Path, *words: str) -> str:
    me = ["-c", "user.name=A", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(folder), *me, *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_environment_says_what_the_result_may_depend_on(tmp_path, monkeypatch):
    jax.devices()  # before XLA reads a flag that it does not know
    monkeypatch.setenv("XLA_FLAGS", "--flag")
    found = environment(["launch.py", "--config", "x.py"], tmp_path / "x.py")
    assert found["python"] == platform.python_version()
    assert found["versions"]["jax"] == jax.__version__
    assert found["versions"]["numpy"] == np.__version__
    assert all(found["versions"][name] for name in ("jaxlib", "flax", "optax", "orbax-checkpoint"))
    assert len(found["devices"]) == jax.device_count()
    assert found["XLA_FLAGS"] == "--flag"
    assert found["command"] == ["launch.py", "--config", "x.py"]
    assert platform.node() not in json.dumps(found["platform"]) or len(platform.node()) < 4
    json.dumps(found, allow_nan=False)


def test_the_environment_knows_the_revision_and_whether_files_were_changed(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "exp.py").write_text("x = 1")
    assert environment(config_file=tmp_path / "exp.py")["git"] is None  # nothing committed yet
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "begin")
    revision = git(tmp_path, "rev-parse", "HEAD")
    assert environment(config_file=tmp_path / "exp.py")["git"] == {"revision": revision, "changed": False}
    (tmp_path / "exp.py").write_text("x = 2")
    assert environment(config_file=tmp_path / "exp.py")["git"] == {"revision": revision, "changed": True}


@pytest.mark.parametrize("path", ["", "no-such-folder"])
def test_without_git_the_environment_is_told_all_the_same(tmp_path, monkeypatch, path):
    monkeypatch.setenv("PATH", path)
    assert environment(config_file=tmp_path / "gone/x.py")["git"] is None


def test_environments_of_resumed_runs_are_added(tmp_path):
    run = finished(tmp_path)
    run.write_json("environment.json", {"python": "3.11"})
    run.append_environment(run.read_json("environment.json"), {"python": "3.12"})
    run.append_environment(run.read_json("environment.json"), {"python": "3.13"})
    expected = {"python": "3.11", "resumed": [{"python": "3.12"}, {"python": "3.13"}]}
    assert run.read_json("environment.json") == expected
