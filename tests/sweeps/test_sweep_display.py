"""What came of a sweep, in the terminal."""

import io

import pytest
from rich.console import Console

from research.sweeps.display import Progress, show_summary


@pytest.fixture
def summary():
    programs = []
    for index, (name, part) in enumerate((("scratch", "none"), ("full", "Finetuning(partition full)"))):
        values = {"name": name, "finetuning": part, "optimizer.learning_rate": 0.01}
        accuracy = 0.9 + index / 100
        programs.append(
            {
                "values": {"name": name, "finetuning": part},
                "chosen": {"values": values, "value": accuracy, "test": {"accuracy": accuracy}},
                "judged": {"accuracies": [], "losses": []},
                "done": 3,
                "not finite": 0,
                "failed": 0,
            }
        )
    return {"programs": programs, "select": "validation/accuracy"} | {
        "front": [],
        "cost": None,
        "verdict": "",
        "folder": "runs/tuned/1",
        "reason": "finished",
    }


def test_what_tells_programs_apart_is_in_columns_and_said_once(summary):
    file = io.StringIO()
    show_summary(Console(file=file, width=80), summary)
    lines = [line.split() for line in file.getvalue().splitlines() if line.strip()]
    assert lines[0] == ["name", "trials", "validation", "test", "best", "with"]
    assert [line[0] for line in lines[1:3]] == ["scratch", "full"]
    assert lines[2][1:] == ["3", "91.00", "%", "91.00", "%", "learning_rate", "0.01"]
    assert "Finetuning" not in file.getvalue()


def test_a_column_that_would_be_empty_is_left_out(summary):
    for program in summary["programs"]:
        del program["chosen"]["values"]["optimizer.learning_rate"]
    file = io.StringIO()
    show_summary(Console(file=file, width=80), summary)
    assert file.getvalue().split()[:4] == ["name", "trials", "validation", "test"]
    assert "best with" not in file.getvalue()


def test_long_values_are_cut_in_lines_of_progress():
    file = io.StringIO()
    progress = Progress(Console(file=file, width=300), trials=2, done=0)
    progress.begin(1, 2, {"finetuning.partition": "train('head/.*') " * 9, "model.depth": "3"}, 2)
    progress.end([], None)
    (line,) = file.getvalue().splitlines()
    assert "partition train('head/.*') train('head/.*') tra..., depth 3" in line
