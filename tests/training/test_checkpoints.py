"""Checkpoints are whole or not there, hold the very bits that were saved, and damage is noticed."""

import errno
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from research.errors import UserError
from research.training import checkpoints as module
from research.training.checkpoints import Checkpoints, match

ROOT = Path(__file__).parents[2]


def content(step: int) -> dict[str, np.ndarray]:
    """Arrays that say of which step they are."""
    random_numbers = np.random.default_rng(step)
    return {
        "step": np.array(step, np.uint32),
        "trainable/block_00/dense/kernel": random_numbers.standard_normal((13, 7)).astype(np.float32),
        "trainable/head/bias": random_numbers.standard_normal(300).astype(np.float32),
    }


def save(folder: Path, *steps: int, best: tuple[int, ...] = (), **options) -> None:
    with Checkpoints(folder, **options) as checkpoints:
        for step in steps:
            checkpoints.save(step, content(step), {"stale": step % 7}, best=step in best)


def assert_same_bits(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert list(a) == list(b)
    for key in a:
        assert isinstance(a[key], np.ndarray)
        assert (a[key].shape, a[key].dtype) == (b[key].shape, b[key].dtype), key
        assert a[key].tobytes() == b[key].tobytes(), key


def assert_is_of_its_step(checkpoint) -> None:
    assert_same_bits(checkpoint.arrays, content(checkpoint.step))
    assert checkpoint.about == {"stale": checkpoint.step % 7}


# ---------------------------------------------------------------------------------------------------------------------
# What is restored


ODD = {
    "not finite, signed zero, denormal": np.array([np.nan, -np.nan, np.inf, -np.inf, -0.0, 1e-45], np.float32),
    "nan with a payload": np.array([0x7FC01234, 0xFF812345], np.uint32).view(np.float32),
    "half": np.array([1.5, -0.0, np.nan], np.float16),
    "double": np.array([np.pi, 5e-324]),
    "bfloat16": np.array([[1.5, np.nan], [-0.0, 3e38]], ml_dtypes.bfloat16),
    "scalar": np.array(3, np.int32),
    "scalar/inside": np.array(-0.0, np.float32),
    "truth": np.array([True, False]),
    "bytes": np.arange(6, dtype=np.uint8).reshape(1, 2, 3),
    "unsigned": np.array([0, 2**32 - 1], np.uint32),
    "long": np.array([-(2**63), 2**63 - 1]),
    "no elements": np.zeros((0, 3), ml_dtypes.bfloat16),
    "a.dotted name/with spaces/größe": np.ones((2, 1), np.float32),
    "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
}


def test_what_is_restored_is_bit_for_bit_what_was_saved(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(7, ODD, {"best": None, "groups": {"head": ["a", "b"]}, "loss": float("inf")}, best=True)
        for restored in (checkpoints.restore_latest(), checkpoints.restore_best()):
            assert_same_bits(restored.arrays, ODD)
            assert restored.step == 7
            assert restored.about == {"best": None, "groups": {"head": ["a", "b"]}, "loss": float("inf")}
            assert restored.notes == []


@pytest.mark.parametrize("arrays", [{}, {"nothing": np.zeros((2, 0), np.float32)}])
def test_a_checkpoint_without_elements_can_be_restored(tmp_path, arrays):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, arrays, {}, best=False)
        assert_same_bits(checkpoints.restore_latest().arrays, arrays)


def test_where_nothing_was_saved_there_is_no_latest_and_a_best_is_an_error(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.restore_latest() is None
    assert checkpoints.steps() == []
    with pytest.raises(UserError, match="no best checkpoint has been saved yet"):
        checkpoints.restore_best()
    with pytest.raises(UserError, match="frozen parameters are damaged .it is missing"):
        checkpoints.restore_frozen()
    assert not (tmp_path / "checkpoints").exists()


def test_the_two_latest_and_the_last_best_are_kept(tmp_path):
    save(tmp_path, 100, 200, 300, 400, 500, best=(200, 300))
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.steps() == [400, 500]
    assert checkpoints.steps("best") == [300]
    assert_is_of_its_step(checkpoints.restore_latest())
    assert_is_of_its_step(checkpoints.restore_best())
    assert checkpoints.restore_latest().step == 500
    assert {path.name for path in tmp_path.rglob("*") if path.name.startswith(".")} == set()


def test_frozen_parameters_are_saved_once_and_verified(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save_frozen(content(0))
        made = (tmp_path / "frozen").stat().st_ino
        checkpoints.save_frozen(content(0))
        assert (tmp_path / "frozen").stat().st_ino == made
        assert_same_bits(checkpoints.restore_frozen(), content(0))
    flip_a_bit(largest_file(tmp_path / "frozen"))
    with pytest.raises(UserError, match="frozen parameters are damaged .file arrays/.*: checksum differs"):
        Checkpoints(tmp_path).restore_frozen()


# ---------------------------------------------------------------------------------------------------------------------
# Saving in the background


def test_buffers_may_be_donated_and_overwritten_as_soon_as_save_returns(tmp_path):
    double = jax.jit(lambda x: x * 2, donate_argnums=0)
    on_device, on_host = jnp.arange(50_000.0), np.arange(10.0)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"device": on_device, "host": on_host}, {}, best=False)
        doubled = double(on_device)
        on_host[:] = -1
        restored = checkpoints.restore_latest().arrays
    np.testing.assert_array_equal(restored["device"], np.arange(50_000, dtype=np.float32))
    np.testing.assert_array_equal(restored["host"], np.arange(10.0))
    np.testing.assert_array_equal(doubled, 2 * np.arange(50_000))


@pytest.fixture
def held_up(monkeypatch):
    """Holds writers up until it is set."""
    go_on, write = threading.Event(), module._write

    def slow(*arguments):
        assert go_on.wait(20)
        write(*arguments)

    monkeypatch.setattr(module, "_write", slow)
    yield go_on
    go_on.set()


def test_save_returns_while_the_disk_is_busy_and_wait_does_not(tmp_path, held_up):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, content(1), {"stale": 1}, best=True)
        assert checkpoints.steps() == checkpoints.steps("best") == []
        held_up.set()
        checkpoints.wait()
        assert checkpoints.steps() == checkpoints.steps("best") == [1]


def test_best_is_written_before_latest(tmp_path, monkeypatch):
    order, write = [], module._write
    monkeypatch.setattr(
        module, "_write", lambda folder, *rest: (order.append(folder.parent.name), write(folder, *rest))
    )
    save(tmp_path, 1, best=(1,))
    assert order == ["best", "latest"]


def test_closing_waits_for_what_is_being_written_also_when_the_body_raises(tmp_path):
    with pytest.raises(KeyboardInterrupt), Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, content(3), {"stale": 3}, best=False)
        raise KeyboardInterrupt
    assert_is_of_its_step(Checkpoints(tmp_path).restore_latest())


def test_a_failure_in_the_background_is_raised_at_the_next_save_and_what_was_there_stays(tmp_path, monkeypatch):
    save(tmp_path, 1, 2, best=(2,))

    def full(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Checkpoints(tmp_path) as checkpoints:
        monkeypatch.setattr(module, "sync", full)
        checkpoints.save(3, content(3), {"stale": 3}, best=True)
        with pytest.raises(UserError, match=r"cannot save a checkpoint in .*: No space left on device"):
            checkpoints.save(4, content(4), {"stale": 4}, best=True)
        assert not list(tmp_path.rglob(".*"))
        monkeypatch.undo()
        checkpoints.save(5, content(5), {"stale": 5}, best=False)
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.steps() == [2, 5]
    assert_is_of_its_step(checkpoints.restore_latest())
    assert checkpoints.restore_best().step == 2


def test_a_bug_in_the_background_is_raised_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_checksums", lambda folder: 1 / 0)
    with pytest.raises(ZeroDivisionError), Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, content(1), {}, best=False)


def test_a_failure_in_the_background_does_not_hide_what_went_wrong_first(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(KeyError) as raised, Checkpoints(tmp_path / "file") as checkpoints:
        checkpoints.save(1, content(1), {}, best=False)
        raise KeyError("first")
    assert "Not a directory" in raised.value.__notes__[0]


def test_a_folder_that_cannot_be_written_to_is_told_of(tmp_path):
    (tmp_path / "file").touch()
    checkpoints = Checkpoints(tmp_path / "file" / "checkpoints")
    checkpoints.save(1, content(1), {}, best=False)
    with pytest.raises(UserError, match="cannot save a checkpoint in .*checkpoints: Not a directory"):
        checkpoints.close()


FULL_DISK = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import numpy as np
from research.errors import UserError
from research.training.checkpoints import Checkpoints
with Checkpoints(Path(sys.argv[2])) as checkpoints:
    checkpoints.save(1, {"x": np.ones(10)}, {}, best=True)
    checkpoints.wait()
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    checkpoints.save(2, {"x": np.random.default_rng(0).standard_normal(100_000)}, {}, best=True)
    try:
        checkpoints.wait()
    except UserError as error:
        print(error)
    assert checkpoints.steps() == checkpoints.steps("best") == [1]
    assert checkpoints.restore_latest().step == 1
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no limit on the size of files here")
def test_a_write_that_the_system_refuses_orbax_is_told_of_in_one_line(tmp_path):
    done = python(FULL_DISK, tmp_path).communicate(timeout=120)
    assert done[0].strip() == f"cannot save a checkpoint in {tmp_path}: {os.strerror(errno.EFBIG)}", done


# ---------------------------------------------------------------------------------------------------------------------
# Damage


def largest_file(folder: Path) -> Path:
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def flip_a_bit(path: Path, at: int | None = None) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 4
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("name", ["array", "about.json", "checksums.json"])
@pytest.mark.parametrize("damage", [flip_a_bit, truncate, Path.unlink])
def test_a_damaged_latest_checkpoint_falls_back_to_the_one_before_and_says_so(tmp_path, name, damage):
    save(tmp_path, 300, 400)
    folder = tmp_path / "latest/400"
    file = largest_file(folder / "arrays") if name == "array" else folder / name
    if name == "checksums.json" and damage is flip_a_bit:
        flip_a_bit(file, at=file.read_bytes().index(b"about.json") + 30)
    elif name == "checksums.json" and damage is truncate:
        file.write_bytes(file.read_bytes()[:-4])
    else:
        damage(file)
    restored = Checkpoints(tmp_path).restore_latest()
    assert restored.step == 300
    assert_is_of_its_step(restored)
    (note,) = restored.notes
    assert note.startswith("checkpoint at step 400 is damaged (")
    assert note.endswith("); going on from step 300")
    if name == "array":
        where = f"file {file.relative_to(folder).as_posix()}"
        assert where in note
        assert ("is missing" if damage is Path.unlink else "checksum differs") in note


def test_every_file_of_a_checkpoint_is_covered_whichever_bit_flips(tmp_path):
    save(tmp_path, 1, 2)
    files = [path for path in (tmp_path / "latest/2").rglob("*") if path.is_file() and path.stat().st_size]
    assert len(files) > 4
    random_numbers = random.Random(0)
    for path in files:
        if path.name == "checksums.json":
            continue  # its blanks stand for nothing
        whole, at = path.read_bytes(), random_numbers.randrange(path.stat().st_size)
        flip_a_bit(path, at)
        assert Checkpoints(tmp_path).restore_latest().step == 1, (path, at)
        path.write_bytes(whole)
    assert Checkpoints(tmp_path).restore_latest().step == 2


def test_checksums_that_cover_nothing_are_no_checksums(tmp_path):
    save(tmp_path, 1, 2)
    (tmp_path / "latest/2/checksums.json").write_text('{"sha256": {}}')
    assert Checkpoints(tmp_path).restore_latest().step == 1


def test_where_all_are_damaged_each_is_named(tmp_path):
    save(tmp_path, 1, 2, best=(2,))
    for file in (*tmp_path.glob("latest/*/about.json"), *tmp_path.glob("best/*/about.json")):
        flip_a_bit(file)
    with pytest.raises(UserError, match="step 2 is damaged .file about.json: checksum differs.") as raised:
        Checkpoints(tmp_path).restore_latest()
    assert len(raised.value.problems) == 2
    with pytest.raises(UserError, match="best: checkpoint at step 2 is damaged"):
        Checkpoints(tmp_path).restore_best()


def test_a_run_that_goes_on_past_a_damaged_checkpoint_replaces_it(tmp_path):
    save(tmp_path, 300, 400)
    flip_a_bit(largest_file(tmp_path / "latest/400"))
    save(tmp_path, 400)
    restored = Checkpoints(tmp_path).restore_latest()
    assert (restored.step, restored.notes) == (400, [])
    assert_is_of_its_step(restored)
    assert Checkpoints(tmp_path).steps() == [300, 400]


def test_a_damaged_checkpoint_ahead_does_not_push_out_whole_ones(tmp_path):
    save(tmp_path, 300, 400)
    flip_a_bit(largest_file(tmp_path / "latest/400"))
    save(tmp_path, 350)
    assert Checkpoints(tmp_path).steps() == [300, 350]


def test_a_step_saved_again_is_kept_if_it_is_the_same_and_replaced_if_not(tmp_path):
    save(tmp_path, 1, best=(1,))
    made = (tmp_path / "best/1").stat().st_ino
    save(tmp_path, 1, best=(1,))
    assert (tmp_path / "best/1").stat().st_ino == made
    for arrays, about in ((content(1), {"stale": 5}), (content(2), {"stale": 5})):
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(1, arrays, about, best=True)
            for restored in (checkpoints.restore_latest(), checkpoints.restore_best()):
                assert_same_bits(restored.arrays, arrays)
                assert restored.about == about


# ---------------------------------------------------------------------------------------------------------------------
# Killed


class Killed(BaseException):
    """Stands for the end of the process: no handler of ours may catch it."""


@pytest.fixture
def without_orbax(monkeypatch):
    """Has NumPy write the arrays: ten times faster, in as many files. What surrounds it is what is tested."""

    def write_arrays(folder, arrays):
        folder.mkdir()
        for number, array in enumerate(arrays.values()):
            np.save(folder / f"{number}.npy", array)

    def read_arrays(folder, keys):
        return {key: np.load(folder / f"{number}.npy") for number, key in enumerate(keys)}

    monkeypatch.setattr(module, "_write_arrays", write_arrays)
    monkeypatch.setattr(module, "_read_arrays", read_arrays)
    monkeypatch.setattr(os, "fsync", lambda file: None)  # of use against a power cut, not a kill


CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.truncate", "shutil.copytree"}


def test_a_kill_before_any_change_on_disk_leaves_whole_checkpoints(tmp_path, without_orbax):
    """Python tells of each call that changes the disk; the process dies before each in turn."""
    countdown = [0]

    def watch(event, arguments):
        if countdown[0] and threading.current_thread().name.startswith("checkpoints"):
            changes = event in CHANGES or (event == "open" and isinstance(arguments[1], str) and arguments[1] != "rb")
            countdown[0] -= changes
            if changes and not countdown[0]:
                raise Killed

    sys.addaudithook(watch)  # cannot be taken back, but sleeps while the count is 0
    save(tmp_path / "start", 1, 2, best=(1, 2))
    for moment in range(1, 1000):
        folder = tmp_path / str(moment)
        shutil.copytree(tmp_path / "start", folder)
        countdown[0] = moment
        survived = interrupted_save(folder)
        countdown[0] = 0
        after_kill(folder, survived)
        if survived:
            break
    assert moment > 50


def interrupted_save(folder: Path) -> bool:
    """Saves step 3, and again with something else in it, as a run may that goes on from an older checkpoint."""
    checkpoints = Checkpoints(folder)
    try:
        checkpoints.save(3, content(3), {"stale": 3}, best=True)
        checkpoints.wait()
        checkpoints.save(3, content(3), {"stale": 3, "time": 1}, best=True)
        checkpoints.wait()
    except Killed:
        return False
    finally:
        checkpoints._worker.shutdown()
    return True


def after_kill(folder: Path, survived: bool) -> None:
    checkpoints = Checkpoints(folder)
    latest, best = checkpoints.restore_latest(), checkpoints.restore_best()
    assert latest.notes == best.notes == []
    assert latest.step <= best.step
    for group in ("latest", "best"):
        for step in checkpoints.steps(group):
            module._read(folder / group / str(step))  # none is half-written or half-removed
    assert latest.step == best.step == 3 if survived else {latest.step, best.step} <= {2, 3}
    for checkpoint in (latest, best):
        assert_same_bits(checkpoint.arrays, content(checkpoint.step))
        assert checkpoint.about["stale"] == checkpoint.step
    if survived:
        assert latest.about == best.about == {"stale": 3, "time": 1}
    with checkpoints:
        checkpoints.save(4, content(4), {"stale": 4}, best=True)
    assert checkpoints.steps()[-1:] == checkpoints.steps("best") == [4]
    assert not list(folder.rglob(".*"))


SAVE_FOREVER = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[1].split(":")
from test_checkpoints import content
from research.training.checkpoints import Checkpoints
with Checkpoints(Path(sys.argv[2])) as checkpoints:
    last = checkpoints.restore_latest()
    for step in range(1 if last is None else last.step + 1, 100_000):
        checkpoints.save(step, content(step), {"stale": step % 7}, best=step % 3 != 0)
        print(step, flush=True)
"""


def python(code: str, folder: Path) -> subprocess.Popen:
    places = f"{ROOT}:{Path(__file__).parent}" if "test_checkpoints" in code else str(ROOT)
    command = [sys.executable, "-c", code, places, str(folder)]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_kill_9_at_any_moment_leaves_a_whole_latest_and_best(tmp_path):
    random_numbers = random.Random(int(time.time()))
    folders = [tmp_path / str(i) for i in range(2)]
    for _ in range(2):  # the second time, what the first kill left is there
        children = [python(SAVE_FOREVER, folder) for folder in folders]
        for child in children:
            assert child.stdout.readline().strip(), child.communicate()
        for child in children:
            for _ in range(2):  # the third save begins when the first is on the disk
                child.stdout.readline()
            time.sleep(random_numbers.uniform(0, 0.3))
            child.send_signal(signal.SIGKILL)
            child.communicate()
        for folder in folders:
            checkpoints = Checkpoints(folder)
            latest, best = checkpoints.restore_latest(), checkpoints.restore_best()
            assert latest.notes == best.notes == []
            assert_is_of_its_step(latest)
            assert_is_of_its_step(best)
            last_best = latest.step if latest.step % 3 else latest.step - 1
            assert last_best <= best.step <= latest.step + 2


def test_one_who_reads_does_not_disturb_one_who_writes(tmp_path):
    save(tmp_path, 1, best=(1,))
    writing = tmp_path / "latest/.saving-2"
    writing.mkdir()
    with Checkpoints(tmp_path) as reader:
        assert reader.restore_latest().step == reader.restore_best().step == 1
    assert writing.exists()


def test_a_best_checkpoint_that_is_replaced_while_it_is_read_is_read_anew(tmp_path, monkeypatch):
    save(tmp_path, 1, best=(1,))
    verify = module._verify

    def replaced_meanwhile(folder):
        monkeypatch.setattr(module, "_verify", verify)
        save(tmp_path, 2, best=(2,))
        verify(folder)

    monkeypatch.setattr(module, "_verify", replaced_meanwhile)
    best = Checkpoints(tmp_path).restore_best()
    assert (best.step, best.notes) == (2, [])


# ---------------------------------------------------------------------------------------------------------------------
# Fitting


def shape(*sizes: int, dtype=jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, dtype)


def test_arrays_that_fit_come_in_the_order_of_the_template():
    arrays = {"a": np.zeros((2, 3), np.float32), "b": np.zeros((), np.int32)}
    fitted = match(arrays, {"b": shape(dtype=jnp.int32), "a": shape(2, 3)}, "runs/x")
    assert list(fitted) == ["b", "a"]
    assert fitted["a"] is arrays["a"]


def test_a_checkpoint_of_another_model_is_refused_with_all_that_differs():
    arrays = {name: np.zeros((64, 10), np.float32) for name in ("head/kernel", "old/kernel", "other/kernel")}
    template = {"head/kernel": shape(64, 47), "other/kernel": shape(64, 10, dtype=jnp.bfloat16), "new/kernel": shape(1)}
    with pytest.raises(UserError) as raised:
        match(arrays, template, "runs/x")
    assert raised.value.problems == (
        "runs/x: checkpoint of another model: without new/kernel",
        "runs/x: checkpoint of another model: with old/kernel, which is not here",
        "runs/x: checkpoint of another model: head/kernel is (64, 10) there and (64, 47) here",
        "runs/x: checkpoint of another model: other/kernel is float32 there and bfloat16 here",
    )


def test_what_a_checkpoint_holds_can_be_seen_without_this_package(tmp_path):
    save(tmp_path, 1)
    about = json.loads((tmp_path / "latest/1/about.json").read_text())
    assert about["about"] == {"stale": 1}
    assert about["arrays"]["trainable/block_00/dense/kernel"] == {"shape": [13, 7], "dtype": "float32"}
