"""A lesson as a user meets it: run by launch.py from a config file, shown at 80 columns, kept in a folder."""

import json
import sys

import numpy as np
import pytest

import launch
from research.lessons import run

LESSON = '''"""A lesson of no time."""

import numpy as np

from research.config import config, structure
from research.lessons import Lesson, Section


@config
class TwoMeans(Lesson):
    """What a mean tells."""

    count: int = structure(4, "numbers", within="[1, inf)")
    fail: bool = structure(False, "stop in the middle")

    def sections(self):
        numbers = np.arange(self.count)
        yield Section(
            "The mean",
            """
            One paragraph that is written
            over two lines.

            And another.
            """,
            rows=[{"of": "all", "mean": numbers.mean(), "many": self.count > 3, "numbers": numbers}],
        )
        if self.fail:
            raise RuntimeError("a bug")
        from matplotlib.figure import Figure

        figure = Figure(figsize=(1, 1))
        figure.subplots().plot(numbers)
        yield Section("A figure, drawn!", "It has no table.", figure=figure)


def get_config():
    return TwoMeans()
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "means.py").write_text(LESSON)
    return tmp_path


@pytest.fixture
def command(capsys):
    def start(*tokens):
        status = launch.main(["launch.py", *map(str, tokens)])
        out, err = capsys.readouterr()
        return status, out, err

    return start


def test_a_lesson_is_shown_and_kept(folder, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    status, out, err = command("--config", "means.py", "--config.count", "6", "--workdir", "w")
    assert (status, err) == (0, "")
    for part in ("TwoMeans  What a mean tells.", "changed  count: 4 -> 6", "1. The mean", "2. A figure, drawn!", "2.5"):
        assert part in out
    assert "One paragraph that is written over two lines.\n\nAnd another." in out
    assert max(map(len, out.splitlines())) <= 80
    (kept,) = (folder / "w" / "two_means").iterdir()
    assert f"kept in w/two_means/{kept.name}" in out
    assert {path.name for path in kept.iterdir()} == {"lesson.json", "config.py", "02_a_figure_drawn.png"}
    assert (kept / "02_a_figure_drawn.png").read_bytes().startswith(b"\x89PNG")
    told = json.loads((kept / "lesson.json").read_text())
    assert told["config"] == {"kind": "TwoMeans", "count": 6, "fail": False}
    assert told["environment"]["command"][:3] == ["launch.py", "--config", "means.py"]
    first, second = told["sections"]
    assert first["rows"] == [{"of": "all", "mean": 2.5, "many": True, "numbers": [0, 1, 2, 3, 4, 5]}]
    assert first["text"] == "One paragraph that is written over two lines.\n\nAnd another."
    assert (first["figure"], second["figure"]) == (None, "02_a_figure_drawn.png")


def test_a_kept_lesson_can_be_run_again_from_its_folder_and_is_no_training_run(folder, command):
    command("--config", "means.py")
    (kept,) = (folder / "runs" / "two_means").iterdir()
    status, out, _ = command("--config", kept / "config.py")
    assert (status, "1. The mean" in out) == (0, True)
    status, _, err = command("--mode", "evaluate", "--run", kept)
    assert status == 2
    assert "is no run folder" in err


def test_of_a_lesson_that_fails_nothing_is_kept(folder, command):
    with pytest.raises(RuntimeError, match="a bug"):
        command("--config", "means.py", "--config.fail")
    assert list((folder / "runs").rglob("*.json")) == []
    assert list((folder / "runs" / "two_means").iterdir()) == []


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["--mode", "inspect"], "--mode inspect: means.py returns a Lesson, for which there is no such mode"),
        (["--tensorboard"], "--tensorboard: means.py returns a Lesson, which logs no metrics"),
        (["--config.count", "0"], "count: 0 is not in [1, inf)"),
        (["--config.cont", "1"], "cont: no such field; TwoMeans has no 'cont'; did you mean 'count'?"),
        (["--workdir", "means.py"], "cannot make a run folder in means.py"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(folder, command, tokens, message):
    status, out, err = command("--config", "means.py", *tokens)
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {message}")
    assert len(err.splitlines()) == 1
    assert [path.name for path in folder.iterdir()] == ["means.py"]


def test_what_a_config_file_may_return_is_told(folder, command):
    (folder / "bad.py").write_text("def get_config():\n    return 1\n")
    _, _, err = command("--config", "bad.py")
    assert err.startswith("error: bad.py: get_config must return an Experiment or ")
    assert " or Lesson or Pipeline, and returned an int\n" in err


def test_help_shows_the_fields_of_a_lesson(folder, command):
    status, out, _ = command("--config", "means.py", "--help")
    assert status == 0
    assert "count" in out
    assert "numbers" in out


def test_a_class_without_sections_says_what_it_needs():
    from research.lessons import Lesson

    with pytest.raises(NotImplementedError, match="Lesson has no method `sections"):
        Lesson().sections()


def test_lessons_can_be_imported_without_what_they_compute_with():
    import subprocess

    code = "import sys, research.lessons; print(sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for heavy in ("jax", "numpy", "matplotlib", "rich"):
        assert f"'{heavy}'" not in loaded


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        (True, "yes"),
        (np.bool_(False), "no"),
        (1234567, "1,234,567"),
        (np.int32(-5), "-5"),
        (0.123456, "0.1235"),
        (np.float32(1e-9), "1e-09"),
        ("as it is", "as it is"),
        (np.array([[1, 20], [300, 4]]), "  1  20\n300   4"),
        ([1.5, 2.0], "1.5   2"),
    ],
)
def test_values_are_shown_as_people_write_them(value, shown):
    assert run.show_value(value) == shown
