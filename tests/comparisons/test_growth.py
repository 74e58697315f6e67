"""How families grow: powers that are known beforehand, and every size that the experiment looks at."""

import json
from pathlib import Path

import numpy as np
import pytest

import launch
from research.commandline.loading import load_config
from research.comparisons import Family, Growth, growth
from research.config import validate
from research.errors import UserError
from research.inspection.comparison import Subject, compare
from research.inspection.matching import resized
from research.models import MLP, ConvNet

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "depth_parameters.py"

SMALL = '''"""Two families."""

from research.comparisons import Family, Growth
from research.models import MLP, ConvNet


def get_config():
    conv = ConvNet(features=(4, 8), convolutions=1)
    return Growth(
        families=(
            Family(model=MLP(depth=1, width=8), inputs=(4, 4, 1), depths=(1, 2, 4), widths=(8, 16)),
            Family(
                model=conv, inputs=(8, 8, 1), depth="convolutions", depths=(1, 2), width="features", widths=(4, 8),
            ),
        ),
        batch=2,
    )
'''


@pytest.mark.parametrize("power", [0, 0.5, 1, 2])
def test_the_slope_of_a_power_is_its_exponent(power):
    sizes = np.array([2, 3, 7, 20])
    assert growth.slope(sizes, 5.0 * sizes**power) == pytest.approx(power, abs=1e-12)


def test_memory_is_four_numbers_a_parameter_and_the_activations_of_the_batch():
    (one,) = compare([Subject(layer=MLP(depth=2, width=8))], (16,), classes=4)
    parameters = 17 * 8 + 9 * 8 + 9 * 4
    small, large = (growth.training_bytes(one.inspection, batch) for batch in (1, 33))
    assert large - small == 32 * one.inspection.memory.activations > 0
    assert small - one.inspection.memory.activations == 4 * 4 * parameters


def test_growth_is_shown_and_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "small.py").write_text(SMALL)
    assert launch.main(["launch.py", "--config", "small.py"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    (kept,) = (tmp_path / "runs" / "small").iterdir()
    assert (kept / "02_with_width.png").stat().st_size > 10_000
    with_depth, with_width = json.loads((kept / "lesson.json").read_text())["sections"]
    mlp, conv = with_depth["rows"]
    assert mlp["sizes"] == [2, 3, 5]  # the head included
    assert mlp["parameters"] == [136 + 90 + 72 * n for n in (0, 1, 3)]
    assert mlp["multiply_adds"] == [128 + 80 + 64 * n for n in (0, 1, 3)]
    assert mlp["slopes"]["parameters"] == pytest.approx(growth.slope(mlp["sizes"], mlp["parameters"]))
    assert conv["sizes"] == [3, 5]
    mlp, conv = with_width["rows"]
    assert mlp["parameters"] == [17 * w + 11 * 10 - 110 + 10 * w + 10 for w in (8, 16)]
    assert conv["parameters"] == [10 * w + (9 * w + 1) * 2 * w + (4 * 2 * w + 1) * 10 for w in (4, 8)]


def test_the_figure_has_a_line_for_each_family_in_every_panel():
    line = growth.Line("MLP", (2, 4, 8), (10, 20, 40), (1, 2, 3), (2, 4, 6), (100, 200, 300))
    figure = growth.draw([line, line._replace(name="other")], [line], 32)
    assert [len(axes.lines) for axes in figure.axes] == [2, 1, 2, 1, 2, 1]
    assert all(axes.get_xscale() == axes.get_yscale() == "log" for axes in figure.axes)
    assert list(figure.axes[0].lines[0].get_ydata()) == [10, 20, 40]


def test_the_experiment_has_every_family_at_sizes_that_it_accepts():
    config = load_config(str(EXPERIMENT), (Growth,)).config
    names = {str(family) for family in config.families}
    assert names == {"MLP", "ConvNet", "VGG", "SmallResNet", "ResNet", "SeparableNet", "ViT", "GPT", "BERT"}
    validate(config)
    for family in config.families:
        for field, values in ((family.depth, family.depths), (family.width, family.widths)):
            assert len(values) >= 4
            for value in values:
                validate(resized(family.model, field, value))


def test_a_size_alone_grows_nothing():
    with pytest.raises(UserError, match="depths: at least two different values"):
        validate(Family(model=MLP(), inputs=(4,), depths=(2, 2), widths=(1, 2)))


def test_a_family_may_have_any_fields_for_its_sizes():
    family = Family(
        model=ConvNet(features=(4, 8)),
        inputs=(8, 8, 1),
        depth="convolutions",
        depths=(1, 2),
        width="features",
        widths=(4, 6),
    )
    assert [one.parameters for one in family.inspected(family.width, family.widths)] == [
        10 * w + (9 * w + 1) * 2 * w + (8 * w + 1) * 10 for w in (4, 6)
    ]
