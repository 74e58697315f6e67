"""The card of a compressed network tells that it is one, what it cost, and how it is made again."""

import json
import re
from pathlib import Path

import pytest

from research.config import from_json
from research.deployment import exporting
from research.deployment.compression import Compression, FeaturePruning, Int8, MagnitudePruning, run
from research.jsonl import read_json

METHODS = (
    Int8(),
    MagnitudePruning(sparsity=0.5, retraining=None),
    FeaturePruning(flops=0.9, multiple=1, retraining=None),
)


@pytest.fixture(scope="module")
def compressed(trained_run, tmp_path_factory):
    """What a compression that was asked for at the command line came to."""
    config = Compression(run=trained_run("pictures"), name="small", methods=METHODS, budget=1.0, batch=8, rounds=1)
    return run.compress(config, workdir=str(tmp_path_factory.mktemp("runs")), command=("launch.py", "--config", "s.py"))


@pytest.fixture(scope="module")
def cards(compressed, tmp_path_factory):
    """The card of each network that was made, by what was done."""
    into = tmp_path_factory.mktemp("exports")
    for index, row in enumerate(compressed["rows"][1:]):
        exporting.export(row["folder"], into / str(index), ["stablehlo"])
    return {row["network"]: (into / str(i) / "README.md").read_text() for i, row in enumerate(compressed["rows"][1:])}


def test_it_tells_what_was_done_and_what_that_cost(compressed, cards):
    for row in compressed["rows"][1:]:
        card = cards[row["network"]]
        assert f"**compressed** ({row['network']})" in card.split("## ")[0]
        assert "- budget: 100 points of accuracy, on the test split" in card
        assert f"- lost: {100 * row['lost'] + 0.0:.2f} points (95 % interval" in card
        assert f"from {compressed['rows'][0]['accuracy']:.2%} to {row['accuracy']:.2%}" in card
    assert "- bits: 8 for the weights of " in cards["int8 weights"]


def test_no_figure_of_the_run_stands_under_its_name(trained_run, cards):
    figures = read_json(Path(trained_run("pictures")) / "summary.json")["test"]
    for card in cards.values():
        good = card.split("## How good it is")[1].split("## ")[0]
        assert "of the run" not in good and f"{figures['loss']:.4f}" not in good


def test_its_own_config_makes_it_again(trained_run, cards):
    for method, card in zip(METHODS, cards.values(), strict=True):
        assert "It was made by `python launch.py --config s.py`." in card
        (config,) = re.findall(r"```json\n(.*?)\n```", card, flags=re.S)
        found = from_json(json.loads(config), Compression)
        assert (found.methods, found.budget, found.run) == ((method,), 1.0, trained_run("pictures"))


def test_that_of_a_run_speaks_of_no_compression(trained_run, tmp_path):
    exporting.export(trained_run("pictures"), tmp_path / "it", ["stablehlo"])
    card = (tmp_path / "it" / "README.md").read_text()
    assert "smaller" not in card and "compressed" not in card and "loss, of the run" in card
