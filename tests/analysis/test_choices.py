"""Choices along a number: the figure, the sentence and the page say what was put into the folder."""

import numpy as np
import pytest

from research.analysis import draw_choices, draw_depth
from research.analysis.answers import answers
from research.analysis.choices import find_axis, runs_of
from research.analysis.report import report
from research.analysis.sweeps import read_sweep
from research.analysis.words import at_place, sentence, verdict
from research.errors import UserError

EXAMPLES = (10, 100, 1000)
TRUTHS = {"scratch": (0.50, 0.75, 0.95), "probe": (0.80, 0.82, 0.84), "full": (0.60, 0.92, 0.95)}
WORK = {"scratch": 3_000, "probe": 1_000, "full": 3_100}
OF_BATCH = {10: "10", 100: "32", 1000: "32"}


def strategies(world, names=tuple(TRUTHS), examples=EXAMPLES, **more):
    """A network for each strategy and number of examples, with what goes along with each."""
    return [
        world.truth(
            5,
            TRUTHS[name][EXAMPLES.index(count)],
            values={
                "name": name,
                "finetuning": {"scratch": "none"}.get(name, f"Finetuning({name})"),
                "data.examples": str(count),
                "batch_size": OF_BATCH[count],
                **more,
            },
            parameters=5_000,
            multiply_adds=WORK[name],
        )
        for count in examples
        for name in names
    ]


@pytest.fixture
def found(world):
    return answers(read_sweep(world.sweep(strategies(world), seed=1)))


def test_the_axis_is_the_number_with_the_most_values_and_a_name_stands_for_what_goes_with_it(found):
    assert found.axis.path == "data.examples"
    assert [choice.name for choice in found.axis.choices] == list(TRUTHS)
    for choice in found.axis.choices:
        assert list(choice.networks) == list(EXAMPLES)
        for at, network in choice.networks.items():
            assert network.figures["test.accuracy"].mean() == pytest.approx(
                TRUTHS[choice.name][EXAMPLES.index(at)], abs=0.03
            )


def test_without_names_choices_are_told_by_what_they_differ_in(world):
    truths = strategies(world)
    for truth in truths:
        truth.values.pop("name")
    axis = answers(read_sweep(world.sweep(truths))).axis
    assert [choice.name for choice in axis.choices] == [
        "finetuning none",
        "finetuning Finetuning(probe)",
        "finetuning Finetuning(full)",
    ]


@pytest.mark.parametrize(
    "case",
    ["one choice", "one place", "no number", "number of the model", "depths"],
)
def test_where_nothing_is_to_be_chosen_there_is_no_axis(world, case):
    truths = {
        "one choice": lambda: strategies(world, names=("full",)),
        "one place": lambda: strategies(world, examples=(10,)),
        "no number": lambda: [world.truth(5, 0.9, values={"name": name}) for name in TRUTHS],
        "number of the model": lambda: [
            world.truth(5, 0.9, values={"model.residual": kind, "model.width": width})
            for kind in ("true", "false")
            for width in ("8", "16")
        ],
        "depths": lambda: [
            world.truth(depth, 0.9, values={"batch_size": size, "model.convolutions": str(depth - 1)})
            for size in ("8", "16")
            for depth in (2, 5)
        ],
    }[case]()
    folder = world.sweep(truths)
    assert answers(read_sweep(folder)).axis is None
    with pytest.raises(UserError, match="no number outside the model"):
        draw_choices(folder)
    draw_depth(folder)


def test_at_each_place_the_cheapest_as_good_as_the_best_is_chosen(found):
    chosen = [(place.at, found.axis.choice_of(place.enough)) for place in found.axis.places]
    assert chosen == [(10, "probe"), (100, "full"), (1000, "scratch")]  # which takes a little less than full
    assert {found.axis.choice_of(place.best) for place in found.axis.places[:2]} == {"probe", "full"}
    told = sentence(found)
    assert told.startswith("What to choose by examples: probe at 10; full at 100; scratch at 1,000.")
    assert told in verdict(found)


def test_the_sentence_on_a_place_tells_which_are_worse_and_by_how_much(found):
    place = found.axis.places[0]
    told = at_place(found, place)
    assert told.startswith("examples 10: probe is best, ")
    worse = told.partition("worse: ")[2]
    assert worse.index("full") < worse.index("scratch")
    gap = found.interval(found.axis.choices[0].networks[10]).value - found.interval(place.best).value
    assert f"scratch (−{-100 * gap:.1f} points, p < 0.001)" in worse


def test_each_choice_is_a_line_through_its_figures(found):
    figure = draw_choices(found)
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["10", "100", "1,000"]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == list(TRUTHS)
    for choice, line in zip(found.axis.choices, axes.containers, strict=True):
        x, y = line.lines[0].get_data()
        np.testing.assert_allclose(x, EXAMPLES, rtol=0.2)
        heights = [found.interval(network).value for network in choice.networks.values()]
        np.testing.assert_array_equal(np.argsort(y), np.argsort(heights))


def test_the_page_shows_the_figure_the_places_and_what_each_costs(found):
    page = report(found)
    assert "What to choose by examples" in page
    assert page.count("<li>examples ") == len(EXAMPLES)
    assert 'aria-label="Test accuracy by examples"' in page
    costs = page[page.index("<table id=costs") :].partition("</table>")[0]
    assert [name for name in TRUTHS if f"<td>{name}</td>" in costs] == list(TRUTHS)
    assert "Nothing can be said of depth" not in page


def test_neighbours_of_one_name_are_told_together():
    assert runs_of([(1, "a"), (2, "a"), (3, "b"), (4, "a")]) == [("a", [1, 2]), ("b", [3]), ("a", [4])]
    assert find_axis([]) is None
