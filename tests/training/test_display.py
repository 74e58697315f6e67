"""What a person sees: the same figures on a terminal, in a pipe, and at 80 columns."""

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from research.training import display


def pipe(width=80):
    return Console(file=io.StringIO(), width=width, highlight=False)


def terminal(width=80):
    return Console(file=io.StringIO(), width=width, force_terminal=True, force_interactive=True, highlight=False)


def text(console):
    return console.file.getvalue()


class Clock:
    """A clock that is put forward by hand."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def run(console, *, total=1000, every=10, seconds=1.0, evaluate=100, first=0):
    """A run that writes a row every so many steps, a training row taking so many seconds."""
    clock = Clock()
    with display.Progress(total, first, console, clock) as progress:
        for step in range(first + every, total + 1, every):
            clock.now += seconds
            row = {"step": step, "split": "train", "loss": 1 / step, "accuracy": 0.5, "examples_per_second": 4000.0}
            progress.update(row)
            if step % evaluate == 0:
                progress.update({"step": step, "split": "validation", "loss": 0.25, "accuracy": step / total})
    return text(console).splitlines()


PLAN = {
    "name": "digits_cnn",
    "model": "ConvNet",
    "depth": 4,
    "parameters": 30346,
    "trainable": 330,
    "layers": [
        {"path": f"stage_0/convolution_{i}/kernel", "shape": [3, 3, 16, 16], "parameters": 2304, "trainable": i > 0}
        for i in range(60)
    ],
    "data": {"kind": "Digits", "train": 1257, "validation": 180, "test": 360, "shape": [8, 8, 1], "classes": 10},
    "steps": 3000,
    "epochs": 40.0123,
    "batch_size": 64,
    "device": "cpu",
    "folder": "runs/digits_cnn/20260101-120000-3fa9c1",
    "changes": ["optimizer.learning_rate: 0.001 -> 0.003", "seed: 0 -> 7"],
}


def report(classes=3):
    rows = [
        {"name": f"class {i}", "precision": 0.5, "recall": 0.25, "f1": i / classes, "support": 1000 + i}
        for i in range(classes)
    ]
    return {"loss": 0.0412, "accuracy": 0.9871, "precision": 0.91, "recall": 0.92, "f1": 0.93, "classes": rows}


SUMMARY = {
    "test": report(),
    "best": {"step": 2850, "metric": "validation/accuracy", "value": 0.9896},
    "steps": 3000,
    "reason": "finished",
    "wall_time": 79.5,
    "folder": "runs/digits_cnn/" + "very_" * 20 + "long",
}


# ---------------------------------------------------------------------------------------------------------------------
# The line of progress


def test_in_a_pipe_lines_are_plain_few_and_whole():
    lines = run(pipe(), every=1, seconds=0.01, evaluate=1000)
    assert 15 <= len(lines) <= 25
    assert all(re.match(r"step +\d+/1000  loss \d\.\d{4}", line) for line in lines)
    assert all(line.isascii() and len(line) <= 80 for line in lines)
    assert lines[-1].startswith("step 1000/1000")


def test_an_evaluation_has_a_line_unless_one_was_just_written():
    often = run(pipe(), every=1, seconds=0.01, evaluate=2)
    assert len(often) <= 25
    seldom = run(pipe(), every=10, seconds=10.0, evaluate=20)
    assert len(seldom) >= 45


def test_the_last_evaluation_is_always_shown():
    assert "validation 100.00 %" in run(pipe(), evaluate=1000, seconds=0.001)[-1]


@pytest.mark.parametrize("evaluate", [1000, 300])
def test_the_last_step_has_one_line_with_an_evaluation_or_without(evaluate):
    lines = run(pipe(), evaluate=evaluate)
    assert [line.startswith("step 1000/1000") for line in lines] == [False] * (len(lines) - 1) + [True]


@given(st.integers(1, 3000), st.integers(1, 50), st.floats(0, 20), st.integers(1, 500))
def test_no_run_fills_a_pipe(total, every, seconds, evaluate):
    evaluations = total // evaluate
    by_time = total / every * seconds / display.SECONDS_BETWEEN_EVALUATIONS
    lines = run(pipe(), total=total, every=every, seconds=seconds, evaluate=evaluate)
    assert len(lines) <= display.LINES + 2 + min(evaluations, by_time + 2)


def test_a_line_says_step_loss_accuracy_speed_and_time_left():
    line = run(pipe(), every=100, seconds=3.0, evaluate=100)[-2]
    assert line == "step  900/1000  loss 0.0011  validation 80.00 % at 800  4,000 examples/s  3 s left"


def test_the_time_left_follows_from_the_steps_of_this_process():
    clock, console = Clock(), pipe()
    with display.Progress(1000, 800, console, clock) as progress:
        for step in (850, 900):
            clock.now += 60
            progress.update({"step": step, "split": "train", "loss": 1.0, "examples_per_second": 3.0})
    first, second = text(console).splitlines()
    assert "left" not in first  # its time went into compiling
    assert second.endswith("3.0 examples/s  2:00 left")


def test_a_loss_that_is_not_finite_is_shown_as_such():
    console = pipe()
    with display.Progress(2, 0, console) as progress:
        progress.update({"step": 2, "split": "train", "loss": float("nan"), "examples_per_second": 1e6})
    assert "loss nan" in text(console)


def test_on_a_terminal_one_line_is_rewritten_and_notes_stand_above_it():
    console = terminal()
    with display.Progress(20, 0, console) as progress:
        progress.update({"step": 10, "split": "train", "loss": 0.5, "examples_per_second": 10.0})
        progress.note("something happened")
        progress.update({"step": 20, "split": "train", "loss": 0.25, "examples_per_second": 10.0})
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text(console))
    written = [line.split("\r")[-1] for line in plain.split("\n") if line.strip()]
    assert written[-1].startswith("step 20/20  loss 0.2500")
    assert any(line.startswith("note: something happened") for line in written)
    assert text(console).endswith("\x1b[?25h")  # the cursor is back


def test_on_a_terminal_the_line_never_wraps():
    console = terminal(width=40)
    with display.Progress(1000, 0, console) as progress:
        progress.update({"step": 990, "split": "validation", "loss": 0.5, "accuracy": 0.5})
        progress.update({"step": 1000, "split": "train", "loss": 0.5, "examples_per_second": 12345678.0})
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text(console))
    assert max(len(line) for line in re.split(r"[\r\n]", plain)) <= 40


def test_the_terminal_is_left_in_order_when_a_run_fails():
    console = terminal()
    with pytest.raises(ZeroDivisionError), display.Progress(10, 0, console):
        raise ZeroDivisionError
    assert text(console).endswith("\x1b[?25h")


def test_a_terminal_is_redrawn_ten_times_a_second_at_most():
    console, clock = terminal(), Clock()
    with display.Progress(10_000, 0, console, clock) as progress:
        for step in range(1, 1001):
            clock.now += 0.001
            progress.update({"step": step, "split": "train", "loss": 0.5})
    assert text(console).count("\x1b[2K") <= 15


# ---------------------------------------------------------------------------------------------------------------------
# Plans and figures


def shown(show, *arguments, width=80, **keywords):
    console = pipe(width)
    show(console, *arguments, **keywords)
    return text(console)


def test_a_plan_says_what_will_be_done_on_what_and_where():
    lines = [" ".join(line.split()) for line in shown(display.show_plan, PLAN, width=100).splitlines()]
    assert lines == [
        "digits_cnn",
        "model ConvNet, depth 4, 30,346 parameters, of which 330 are trained",
        "data Digits, 8 x 8 x 1, 10 classes: 1,257 train, 180 validation, 360 test",
        "training 3,000 steps of 64 (40 epochs)",
        "device cpu",
        "changed optimizer.learning_rate: 0.001 -> 0.003",
        "seed: 0 -> 7",
        "run runs/digits_cnn/20260101-120000-3fa9c1",
    ]


def test_a_summary_has_test_figures_classes_time_and_folder():
    out = shown(display.show_summary, SUMMARY)
    for part in (
        "98.71 %",
        "0.0412",
        "91.00 %",
        "92.00 %",
        "93.00 %",
        "class 2",
        "1,002",
        "1:20",
        "98.96 % at step 2,850",
    ):
        assert part in out, part
    assert SUMMARY["folder"] in out  # in one piece, to be copied


def test_an_interrupted_run_says_how_to_go_on():
    out = shown(display.show_summary, SUMMARY | {"resume": "python launch.py --resume " + SUMMARY["folder"]})
    assert f"python launch.py --resume {SUMMARY['folder']}" in out


def test_a_summary_does_without_what_is_not_known():
    short = {"steps": 3, "reason": "interrupted", "wall_time": 1.0, "folder": "runs/a", "best": {"value": None}}
    assert "interrupted, after 3 steps" in shown(display.show_summary, short)


def test_of_many_classes_the_worst_are_shown():
    out = shown(display.show_summary, SUMMARY | {"test": report(100)})
    names = re.findall(r"class (\d+)", out)
    assert names == [str(i) for i in range(display.CLASSES_SHOWN)]
    assert f"... {100 - display.CLASSES_SHOWN} with a higher F1 ..." in out


def test_an_evaluation_names_its_split():
    out = shown(display.show_evaluation, {"split": "validation", "step": 5, "folder": "runs/a", "validation": report()})
    assert out.startswith("validation")
    assert "runs/a, step 5" in out


@pytest.mark.parametrize("name", ["plan", "summary", "evaluation"])
def test_in_a_pipe_nothing_but_plain_text_of_80_columns_is_written(name):
    given = {
        "plan": (display.show_plan, PLAN | {"name": "x" * 60}),
        "summary": (display.show_summary, SUMMARY | {"folder": "runs/a"}),
        "evaluation": (display.show_evaluation, {"split": "test", "step": 5, "folder": "runs/a", "test": report()}),
    }
    out = shown(*given[name])
    assert out.isascii()
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.04, "0.0 s"), (8.26, "8.3 s"), (59.96, "1:00"), (65, "1:05"), (3599.6, "1:00:00"), (7207, "2:00:07")],
)
def test_durations_are_said_as_people_do(seconds, words):
    assert display.duration(seconds) == words


def test_names_that_look_like_markup_are_shown_as_they_are(capsys):
    display.note("[bold]x[/bold] :smile:")
    assert capsys.readouterr().out == "note: [bold]x[/bold] :smile:\n"
