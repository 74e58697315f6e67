"""Figures show what was found, nothing hides anything else, and nothing is asked for that is not there."""

import numpy as np
import pytest

from research.analysis import (
    draw_cost,
    draw_curves,
    draw_depth,
    draw_importance,
    draw_losses,
    draw_moves,
    draw_scaling,
    draw_strengths,
    draw_values,
    draw_variants,
)
from research.analysis.answers import answers
from research.analysis.drawing import COLOURS
from research.analysis.shares import is_stretched
from research.analysis.sweeps import read_sweep
from research.errors import UserError


@pytest.fixture
def found(world):
    return answers(read_sweep(world.sweep(world.by_field(), examples=500)))


def two_series(world):
    return [
        truth._replace(values={"model.residual": kind, "model.convolutions": str(truth.depth - 1)})
        for kind in ("false", "true")
        for truth in world.degrading()
    ]


def marked(axes, label):
    """The container of error bars with a label."""
    (container,) = (each for each in axes.containers if each.get_label() == label)
    return container


def test_accuracies_by_depth_stand_where_their_ticks_say(found):
    (axes,) = draw_depth(found).axes
    line = marked(axes, "95 % interval").lines[0]
    assert line.get_xdata() == pytest.approx([2, 3, 5, 9, 17])
    ticks = {label.get_text(): place for label, place in zip(axes.get_yticklabels(), axes.get_yticks(), strict=True)}
    assert is_stretched(found)
    assert {"80 %", "90 %", "95 %"} <= set(ticks)
    places, values = zip(*sorted((place, float(text[:-2]) / 100) for text, place in ticks.items()), strict=True)
    for network, height in zip(found.networks, line.get_ydata(), strict=True):
        value = network.mean("test.accuracy")
        if values[0] < value < values[-1]:
            assert 10 ** np.interp(height, places, np.log10(1 - np.array(values))) == pytest.approx(1 - value, rel=0.01)


def test_accuracies_that_span_little_are_on_a_plain_scale(world):
    found = answers(read_sweep(world.sweep(world.all_alike())))
    assert not is_stretched(found)
    (axes,) = draw_depth(found).axes
    drawn = marked(axes, "95 % interval").lines[0].get_ydata()
    assert drawn == pytest.approx([100 * n.mean("test.accuracy") for n in found.networks])


def test_depths_that_do_not_see_the_input_are_shaded(found, world):
    assert "sees a part of the input" in draw_depth(found).axes[0].get_legend_handles_labels()[1]
    always = answers(read_sweep(world.sweep([t._replace(field=9) for t in world.by_field()], "always")))
    assert "sees a part of the input" not in draw_depth(always).axes[0].get_legend_handles_labels()[1]


def test_training_and_test_losses_are_those_of_the_networks(found):
    (axes,) = draw_losses(found).axes
    (training,) = (line for line in axes.lines if line.get_label() == "training")
    assert training.get_ydata() == pytest.approx([network.mean("train.loss") for network in found.networks])
    assert marked(axes, "test").lines[0].get_ydata() == pytest.approx([n.mean("test.loss") for n in found.networks])


def test_a_series_has_one_colour_in_all_figures(world):
    found = answers(read_sweep(world.sweep(two_series(world), examples=300)))
    for draw in (draw_depth, draw_losses, draw_cost):
        (axes,) = draw(found).axes
        for series, colour in zip(found.series, COLOURS, strict=False):
            assert marked(axes, series.name).lines[0].get_color() == colour


@pytest.mark.parametrize("draw", [draw_depth, draw_losses, draw_cost])
@pytest.mark.parametrize("has_perfect", [False, True])
def test_no_text_covers_another(world, draw, has_perfect):
    truths = [world.truth(2, 0.6), world.truth(5, 0.999), world.truth(6, 0.999)] if has_perfect else two_series(world)
    figure = draw(answers(read_sweep(world.sweep(truths, examples=200))))
    figure.draw_without_rendering()
    texts = [t for t in (*figure.axes[0].texts, *figure.axes[0].get_xticklabels(), *figure.axes[0].get_yticklabels())]
    texts += [t for legend in figure.legends for t in legend.get_texts()]
    boxes = [text.get_window_extent() for text in texts if text.get_text() and text.get_visible()]
    assert len(boxes) > 6
    shown = [text.get_text() for text in texts if text.get_text() and text.get_visible()]
    for i, one in enumerate(boxes):
        assert [shown[i + 1 + j] for j, other in enumerate(boxes[i + 1 :]) if one.overlaps(other)] == [], shown[i]


def test_the_front_and_the_depths_are_in_the_figure_of_cost(found):
    (axes,) = draw_cost(found).axes
    assert {text.get_text() for text in axes.texts} == {"2", "3", "5", "9", "17"}
    (front,) = (line for line in axes.lines if line.get_label() == "front")
    assert list(front.get_xdata()) == [network.multiply_adds for network in found.front]


def test_each_network_has_its_line_by_learning_rate_and_step(found):
    for figure in (draw_values(found, "optimizer.learning_rate"), draw_curves(found)):
        (axes,) = figure.axes
        assert axes.get_legend_handles_labels()[1] == ["2", "3", "5", "9", "17"]
    (axes,) = draw_values(found, "optimizer.learning_rate").axes
    rates = [line.get_xdata() for line in axes.lines if line.get_label() == "5"]
    assert rates[0] == pytest.approx([0.001, 0.003, 0.01])


def test_importances_are_bars_in_percent(found):
    (axes,) = draw_importance(found).axes
    assert [tick.get_text() for tick in axes.get_yticklabels()][-1] == "convolutions"
    assert sum(bar.get_width() for bar in axes.patches) == pytest.approx(100)


def test_a_curve_of_scaling_is_drawn_where_there_is_one(world, found):
    assert draw_scaling(answers(read_sweep(world.sweep(world.degrading(), "few")))) is None
    truths = [world.truth(d, 0.9, test=0.05 + 2 / d, parameters=100 * d, spread=0.0) for d in (2, 3, 5, 9, 17, 33)]
    figure = draw_scaling(world.sweep(truths, "law", seeds=9))
    assert figure.axes[0].get_xscale() == figure.axes[0].get_yscale() == "log"


def test_losses_are_drawn_as_losses(world):
    found = answers(read_sweep(world.sweep(world.overfitting(), select="validation/loss", examples=300)))
    (axes,) = draw_depth(found).axes
    assert axes.get_ylabel() == "test loss"
    assert marked(axes, "95 % interval").lines[0].get_ydata() == pytest.approx(
        [n.mean("test.loss") for n in found.networks]
    )


def test_what_is_not_there_is_not_drawn(world):
    folder = world.sweep(world.by_field(), metrics=False)
    assert draw_curves(folder) is None
    assert draw_importance(world.sweep(world.by_field()[:1], "one", rates=(0.01,))) is None
    (folder / "sweep.json").unlink()
    with pytest.raises(UserError, match="no network in it whose depth is known"):
        draw_depth(folder)


def test_variants_stand_one_below_the_other_the_best_by_the_test_split_on_top(world):
    truths = world.of_kinds(none=0.8, l1=0.9, l2=0.83)
    found = answers(read_sweep(world.with_strengths(world.sweep(truths, examples=800, rates=(0.003,)))))
    (axes,) = draw_variants(found).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["none", "l2", "l1"]
    values = [100 * found.interval(found.networks[i]).value for i in (0, 2, 1)]
    drawn = [container.lines[0].get_xdata()[0] for container in axes.containers]
    assert drawn == pytest.approx(values)
    (band,) = axes.patches
    low, high = 100 * np.array(found.interval(found.none)[1:])
    assert (band.get_x(), band.get_x() + band.get_width()) == pytest.approx((low, high))


def test_strengths_have_a_panel_each_with_none_for_comparison(world):
    truths = world.of_kinds(none=0.8, l1=0.9, l2=0.83)
    found = answers(read_sweep(world.with_strengths(world.sweep(truths, examples=300, rates=(0.003,)))))
    panels = [axes for axes in draw_strengths(found).axes if axes.get_visible()]
    assert [axes.get_xlabel() for axes in panels] == ["l1", "l2"]
    for axes, program in zip(panels, (1, 2), strict=True):
        assert [label.get_text() for label in axes.get_xticklabels()] == ["0.1", "0.2"]
        rows = [row for row in found.sweep.rows if row["program"] == program and row["stage"] == "search"]
        for place, strength in enumerate((0.1, 0.2)):
            told = [
                r["validation"]["accuracy"] for r in rows if r["values"]["objective." + axes.get_xlabel()] == strength
            ]
            assert axes.lines[0].get_ydata()[place] == pytest.approx(100 * np.mean(told))
    assert draw_strengths(answers(read_sweep(world.sweep(world.by_field(), "deep2")))) is None


def test_the_best_depth_is_drawn_by_the_size_of_the_data_with_what_is_not_told_from_it(world):
    found = answers(read_sweep(world.sweep(world.by_size(), examples=300)))
    (axes,) = draw_moves(found).axes
    (line,) = axes.containers
    assert line.lines[0].get_xdata() == pytest.approx([100, 1_000, 10_000])
    assert line.lines[0].get_ydata().tolist() == [2, 3, 4]
    assert draw_moves(answers(read_sweep(world.sweep(world.by_field(), "plain")))) is None


def test_losses_of_language_models_are_drawn_in_bits(world):
    folder = world.sweep(world.overfitting(), select="validation/loss", examples=300)
    nats = answers(read_sweep(folder))
    path = folder / "trials.jsonl"
    path.write_text(path.read_text().replace('"test": {', '"test": {"bits_per_byte": 0.0, '))
    (axes,) = draw_depth(folder).axes
    assert axes.get_ylabel() == "test bits per byte"
    drawn = marked(axes, "95 % interval").lines[0].get_ydata()
    assert drawn == pytest.approx([nats.interval(network).value / np.log(2) for network in nats.networks])
