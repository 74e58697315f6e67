"""A comparison as a user meets it: run by launch.py from a config file, shown at 80 columns, kept in a folder."""

import json

import pytest

import launch
from research.comparisons import Comparison, Subject, side_by_side
from research.config import validate
from research.errors import UserError
from research.models import MLP, LeNet

MODELS = '''"""Two models and a function."""

from research.comparisons import Comparison, Subject
from research.models import MLP, LeNet


def double(parameters, inputs):
    return 2 * inputs


def get_config():
    return Comparison(
        subjects=(Subject(layer=LeNet()), Subject(layer=MLP(depth=1)), Subject(layer=double)),
        inputs=(28, 28, 1),
        classes=10,
        rounds=2,
        batch=1,
    )
'''


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "two.py").write_text(MODELS)

    def run(*tokens):
        status = launch.main(["launch.py", "--config", "two.py", *tokens])
        out, err = capsys.readouterr()
        return status, out, err.splitlines()

    return run


def test_a_comparison_is_shown_and_kept(command, tmp_path):
    status, out, err = command("--workdir", "w", "--config.subjects.1.layer.width", "16")
    assert (status, err) == (0, [])
    text = " ".join(out.split())
    for part in (
        "two  Models or layers",
        "changed  subjects.1.layer.width: 128 -> 16",
        "LeNet: 61,706 parameters, MLP: 12,730 parameters, 4.8 times fewer.",
        "MLP 12,730 0.206 50.9 kB 784*16 + 16 + 16*10 + 10",
        "MLP 12.7 k 25.4 k 2 28x28",
        "median of 2 calls",
    ):
        assert " ".join(part.split()) in text
    assert max(map(len, out.splitlines())) <= 80
    (kept,) = (tmp_path / "w" / "two").iterdir()
    assert {path.name for path in kept.iterdir()} == {"lesson.json", "config.py", "02_what_an_example_costs.png"}
    sections = json.loads((kept / "lesson.json").read_text())["sections"]
    assert sections[0]["rows"][1] == {
        "name": "MLP",
        "parameters": 12_730,
        "bytes": 50_920,
        "formula": "784*16 + 16 + 16*10 + 10",
    }
    cost = sections[1]["rows"][1]
    assert (cost["multiply_adds"], cost["depth"], cost["receptive_field"]) == (784 * 16 + 160, 2, [28, 28, 1])
    assert cost["seconds"]["low"] <= cost["seconds"]["median"] <= cost["seconds"]["high"]


def test_as_json_it_is_printed_and_nothing_is_kept(command, tmp_path):
    status, out, _ = command("--mode", "inspect", "--format", "json", "--config.rounds", "0")
    assert status == 0
    told = json.loads(out)
    assert told["name"] == "two"
    assert [row["parameters"] for row in told["sections"][0]["rows"]] == [61_706, 101_770, 0]
    assert [row["seconds"] for row in told["sections"][1]["rows"]] == [None] * 3
    assert not (tmp_path / "runs").exists()


def test_inspected_it_is_shown_and_not_kept(command, tmp_path):
    status, out, _ = command("--mode", "inspect", "--config.rounds", "0")
    assert status == 0
    assert "61,706" in out
    assert "kept in" not in out
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("tokens", "problem"),
    [
        (
            ["--mode", "inspect", "--format", "csv"],
            "--format csv: goes with an Experiment; two.py returns a Comparison",
        ),
        (["--tensorboard"], "--tensorboard: two.py returns a Comparison, which logs no metrics"),
        (
            ["--mode", "diff", "--against", "two.py"],
            "--mode diff: two.py returns a Comparison, for which there is no such mode",
        ),
        (
            ["--config.inputs", "8", "8", "1"],
            "LeNet needs pictures of at least (12, 12, features); these have (8, 8, 1)",
        ),
        (["--config.rounds", "-1"], "rounds: -1 is not in [0, inf)"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_kept(command, tmp_path, tokens, problem):
    status, _, err = command(*tokens)
    assert (status, err) == (2, [f"error: {problem}"])
    assert not list((tmp_path / "runs").glob("*/*"))


def test_one_subject_or_two_of_one_name_cannot_be_compared():
    with pytest.raises(UserError, match="subjects: there is one; at least two can be compared"):
        validate(Comparison(subjects=(Subject(layer=MLP()),)))
    with pytest.raises(UserError, match="subjects: two are called 'MLP'; give one another name"):
        validate(Comparison(subjects=(Subject(layer=MLP()), Subject(layer=MLP(depth=3)))))
    validate(Comparison(subjects=(Subject(layer=MLP()), Subject(name="deeper", layer=MLP(depth=3)))))


def test_a_bar_is_as_long_as_its_logarithm_and_says_its_number():
    subjects = (Subject(layer=LeNet()), Subject(layer=MLP(depth=1)), Subject(name="none", layer=lambda p, x: x))
    compared = side_by_side.compare(subjects, (28, 28, 1), classes=10)
    figure = side_by_side.draw(compared, 8)
    parameters, products = figure.axes
    assert [text.get_text().strip() for text in parameters.texts] == ["61,706", "101,770", "0"]
    assert [bar.get_x() + bar.get_width() for bar in parameters.patches] == pytest.approx([61_706, 101_770, 61_706 / 3])
    assert parameters.get_xscale() == products.get_xscale() == "log"
    assert [label.get_text() for label in parameters.get_yticklabels()] == ["LeNet", "MLP", "none"]
    low, high = parameters.get_ylim()
    assert low > high  # the first on top
