"""What the command line shows of predictions and exports."""

import io

import pytest
from rich.console import Console

from research.deployment import display

TOLD = {
    "folder": "runs/a/1",
    "step": 1200,
    "to": "exports/a",
    "parameters": 99_754,
    "examples": 360,
    "largest difference": {"stablehlo": 0.0},
    "left_out": {"onnx": "onnx: does not support the operation 'sort'"},
    "accuracy": 0.9875,
}


def shown(show, what) -> str:
    file = io.StringIO()
    show(Console(file=file, width=80, highlight=False, emoji=False, markup=False), what)
    return file.getvalue()


def test_predictions_have_the_likeliest_classes_of_each_file():
    predictions = [
        {"file": "a/seven.png", "classes": [["7", 0.9], ["1", 0.06], ["9", 0.03], ["0", 0.01]], "note": "inverted"},
        {"file": "b.png", "classes": [["no", 1.0]], "note": None},
    ]
    lines = [line.split() for line in shown(display.show_predictions, predictions).splitlines()]
    assert lines[1] == ["a/seven.png", "7", "90.00", "%", "inverted"]
    assert lines[2:4] == [["1", "6.00", "%"], ["9", "3.00", "%"]]
    assert lines[4] == ["b.png", "no", "100.00", "%"]


def test_an_export_tells_what_was_tried_and_what_was_left_out():
    out = shown(display.show_export, TOLD)
    assert "360 test examples: off by 0.0e+00" in " ".join(out.split())
    assert "left out: onnx: does not support the operation 'sort'" in out
    assert out.splitlines()[-1].endswith("exports/a")


@pytest.mark.parametrize(
    ("show", "what"),
    [
        (display.show_predictions, [{"file": "p" * 99, "classes": [["c" * 50, 1.0]], "note": "n" * 60}]),
        (display.show_export, TOLD | {"folder": "f" * 99}),
    ],
)
def test_in_a_pipe_nothing_but_plain_text_of_80_columns_is_written(show, what):
    out = shown(show, what)
    assert out.isascii()
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) <= 80
