"""Rows of metrics survive crashes and come back as they were; on resume none is there twice."""

import errno
import json
import math
import os
import struct
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest

from research.errors import UserError
from research.jsonl import read_rows
from research.training import writers
from research.training.writers import MetricWriter, check_tensorboard


def line(step: int, split: str = "train", **metrics) -> dict:
    return {"step": step, "split": split, "time": step / 10, **metrics}


def write(folder: Path, *rows: dict) -> Path:
    with MetricWriter(folder) as writer:
        for values in rows:
            writer.write(values)
    return folder / "metrics.jsonl"


def test_rows_come_back_as_they_were(tmp_path):
    rows = [line(1, loss=0.1, accuracy=1.0, skipped=0), line(1, "validation", loss=1e-30), line(2, note="größer")]
    assert read_rows(write(tmp_path, *rows)) == rows


def test_numbers_of_numpy_and_jax_are_written_exactly(tmp_path):
    values = {"loss": np.float32(0.1), "count": np.int64(2**60), "zero": np.zeros((), np.float32), "norms": np.ones(2)}
    (found,) = read_rows(write(tmp_path, line(1, **values)))
    assert np.float32(found["loss"]) == np.float32(0.1)
    assert (found["count"], found["zero"], found["norms"]) == (2**60, 0.0, [1.0, 1.0])


def test_numbers_that_are_not_finite_survive_in_strict_json_here_and_in_pandas(tmp_path):
    path = write(tmp_path, line(1, a=float("nan"), b=float("inf"), c=1.0), line(2, a=np.float32("-inf"), b=0.5, c=2.0))
    for text in path.read_text().splitlines():
        json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    first, second = read_rows(path)
    assert math.isnan(first["a"])
    assert (first["b"], second["a"]) == (math.inf, -math.inf)
    frame = pandas.read_json(path, lines=True)
    np.testing.assert_array_equal(frame["a"].to_numpy(float), [np.nan, -np.inf])
    np.testing.assert_array_equal(frame["b"].to_numpy(float), [np.inf, 0.5])


def test_each_row_is_there_at_once_in_one_write(tmp_path, monkeypatch):
    writes, original = [], os.write
    monkeypatch.setattr(writers.os, "write", lambda file, data: (writes.append(data), original(file, data))[1])
    with MetricWriter(tmp_path) as writer:
        for step in range(3):
            writer.write(line(step))
            assert len(read_rows(tmp_path / "metrics.jsonl")) == len(writes) == step + 1


@pytest.mark.parametrize("kept", range(1, 20, 6))
def test_a_row_that_a_crash_cut_off_is_no_row_and_does_not_harm_the_next(tmp_path, kept):
    path = write(tmp_path, line(1), line(2))
    with open(path, "ab") as file:
        file.write(json.dumps(line(3)).encode()[:kept])
    assert read_rows(path) == [line(1), line(2)]
    write(tmp_path, line(3))
    assert read_rows(path) == [line(1), line(2), line(3)]


def test_a_long_row_that_was_cut_off_at_the_start_of_the_file_goes_too(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1' + b" " * 200_000)
    assert read_rows(write(tmp_path, line(1))) == [line(1)]


@pytest.mark.parametrize("damage", [b'{"step": 2, "spl\n', b"\x00\x00\xff\n", b"[1, 2]\n", b"\n", b"3\n"])
def test_a_damaged_row_in_the_middle_is_told_of_by_its_line(tmp_path, damage):
    path = write(tmp_path, line(1))
    path.write_bytes(path.read_bytes() + damage + path.read_bytes())
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2: damaged"):
        read_rows(path)
    with MetricWriter(tmp_path) as writer, pytest.raises(UserError, match=r"metrics\.jsonl, line 2: damaged"):
        writer.truncate_after(1)


def test_rows_past_the_checkpoint_are_dropped_and_the_others_stay_to_the_byte(tmp_path):
    rows = [line(1, loss=1e-05), line(2), line(2, "validation"), line(3), line(4)]
    path = write(tmp_path, *rows)
    path.write_bytes(path.read_bytes().replace(b"1e-05", b"0.1e-4") + b'{"step": 5')
    before = path.read_bytes().splitlines(keepends=True)
    with MetricWriter(tmp_path) as writer:
        writer.truncate_after(2)
        assert path.read_bytes().splitlines(keepends=True) == before[:3]
        writer.write(line(3, loss=7.0))
        writer.sync()
    assert path.read_bytes().splitlines(keepends=True)[:3] == before[:3]
    assert read_rows(path)[3:] == [line(3, loss=7.0)]


def test_without_rows_past_the_checkpoint_the_file_is_left_alone(tmp_path):
    path = write(tmp_path, line(1), line(2))
    made = path.stat().st_ino
    with MetricWriter(tmp_path) as writer:
        writer.truncate_after(2)
        writer.write(line(3))
    assert path.stat().st_ino == made
    assert read_rows(path) == [line(1), line(2), line(3)]


def test_a_run_without_a_checkpoint_drops_all_rows(tmp_path):
    path = write(tmp_path, line(1), line(2))
    with MetricWriter(tmp_path) as writer:
        writer.truncate_after(0)
    assert path.read_bytes() == b""


# ---------------------------------------------------------------------------------------------------------------------
# Disks


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_disk_that_is_full_is_told_of(tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with MetricWriter(tmp_path) as writer, pytest.raises(UserError, match=r"metrics\.jsonl: No space left on device"):
        writer.write(line(1))


def test_a_row_that_fits_only_in_part_is_taken_back(tmp_path, monkeypatch):
    path = write(tmp_path, line(1))
    room, original = [10], os.write

    def nearly_full(file, data):
        if room[0] == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = original(file, data[: room[0]])
        room[0] -= written
        return written

    with MetricWriter(tmp_path) as writer:
        with monkeypatch.context() as patch:
            patch.setattr(writers.os, "write", nearly_full)
            with pytest.raises(UserError, match="No space left on device"):
                writer.write(line(2))
        writer.write(line(3))
    assert read_rows(path) == [line(1), line(3)]


def test_a_folder_that_cannot_be_written_to_is_told_of(tmp_path):
    with pytest.raises(UserError, match=r"cannot write .*gone/metrics\.jsonl: No such file"):
        MetricWriter(tmp_path / "gone")


# ---------------------------------------------------------------------------------------------------------------------
# TensorBoard


def events(folder: Path) -> list:
    """The events in a folder, in order. A record is length (8 bytes), its checksum (4), data, its checksum (4)."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            found.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found


def scalars(folder: Path) -> list[tuple[str, int, float]]:
    return [(value.tag, event.step, value.simple_value) for event in events(folder) for value in event.summary.value]


def test_without_the_wish_no_event_files_are_written(tmp_path):
    write(tmp_path, line(1, loss=0.5))
    assert os.listdir(tmp_path) == ["metrics.jsonl"]


def test_metrics_go_to_tensorboard_by_split(tmp_path):
    pytest.importorskip("tensorboardX")
    with MetricWriter(tmp_path, tensorboard=True) as writer:
        writer.write(line(1, loss=0.5, note="text"))
        writer.write(line(2, "validation", loss=np.float32(0.25), accuracy=1))
        writer.sync()
    expected = [("train/loss", 1, 0.5), ("validation/loss", 2, 0.25), ("validation/accuracy", 2, 1.0)]
    assert scalars(tmp_path / "tensorboard") == expected
    assert "tensorflow" not in sys.modules


def test_tensorboard_is_told_on_resume_to_forget_what_is_past_the_checkpoint(tmp_path):
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    with MetricWriter(tmp_path, tensorboard=True) as writer:
        writer.truncate_after(40)
        writer.write(line(50, loss=0.5))
    starts = [e for e in events(tmp_path / "tensorboard") if e.session_log.status == event_pb2.SessionLog.START]
    assert [event.step for event in starts] == [41]


def test_tensorboard_without_its_package_is_told_of_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(writers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"need tensorboardX: pip install 'fathom\[tensorboard\]'"):
        MetricWriter(tmp_path, tensorboard=True)
    assert os.listdir(tmp_path) == []
    with pytest.raises(UserError):
        check_tensorboard()
