"""A run judged: the figures that its evaluation has, harder examples, other runs, and what is refused."""

import dataclasses
import json

import numpy as np
import pytest

from research.data import PythonText
from research.errors import UserError
from research.models import GPT
from research.training import NextToken, Task, Tasks, judging, run, steps


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("runs"))
    return lambda experiment, name: run.train(dataclasses.replace(experiment, name=name), workdir=folder)["folder"]


@pytest.fixture
def judged(tiny, make, request):
    """A run's folder and its judgement."""
    cached = request.config.stash.setdefault(STASH, {})
    if "folder" not in cached:
        cached["folder"] = make(tiny(), "one")
        cached["judged"] = judging.judge_run(cached["folder"], against=cached["folder"])
    return cached["folder"], cached["judged"]


STASH = pytest.StashKey[dict]()


def test_its_figures_are_those_of_the_evaluation(judged):
    folder, told = judged
    plain = run.evaluate(folder)["test"]
    assert told["figures"]["accuracy"] == pytest.approx(plain["accuracy"])
    assert told["figures"]["loss"] == pytest.approx(plain["loss"])
    assert told["figures"]["nll"] == pytest.approx(plain["loss"], rel=1e-4)  # cross-entropy is what it minimised
    recalls = {row["name"]: row["recall"] for row in plain["classes"]}
    assert {row["name"]: row["recall"] for row in told["classes"]} == pytest.approx(recalls)
    assert told["figures"]["worst_class_accuracy"] == pytest.approx(min(recalls.values()))


def test_examples_are_made_harder_and_that_is_told_by_name(judged):
    folder, told = judged
    assert [each["name"] for each in told["harder"]] == ["noise", "missing"]
    assert "robustness/noise_100/accuracy" in told["figures"] and told["figures"]["parameters"] > 0
    quick = judging.figures_of(folder, harder=False)
    assert quick.items() <= told["figures"].items() and not any(name.startswith("robustness") for name in quick)


def test_it_is_kept_in_the_run_as_data_and_as_a_page(judged):
    folder, told = judged
    kept = judging.write_judgement(told)
    read = json.loads((judging.folder.open_run(folder).path / "evaluation.json").read_text())
    assert read["figures"] == told["figures"] and read["classes"] == told["classes"]
    assert [file.rpartition("/")[2] for file in kept["files"]][:2] == ["evaluation.json", "evaluation.html"]
    assert "is it good enough?" in (judging.folder.open_run(folder).path / "evaluation.html").read_text()


def test_a_run_cannot_be_told_from_itself(judged):
    _, told = judged
    assert told["against"]["difference"] == 0 and told["against"]["p"] == 1
    assert "cannot be told from" in told["against"]["sentence"]


def test_another_run_is_compared_example_by_example(judged, tiny, make):
    folder, _ = judged
    other = make(tiny(duration=steps(10), seed=1), "other")
    pair = judging.compare_runs(folder, other)
    accuracies = [run.evaluate(each)["test"]["accuracy"] for each in (folder, other)]
    assert pair["difference"] == pytest.approx(accuracies[0] - accuracies[1])
    assert pair["only_first"] - pair["only_second"] == round(23 * pair["difference"])


def test_a_run_on_other_data_is_refused_in_one_line(judged, tiny, make):
    folder, _ = judged
    experiment = tiny()
    other = make(dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, held_out=29)), "others")
    with pytest.raises(UserError, match="was judged on other data") as error:
        judging.compare_runs(folder, other)
    assert len(error.value.problems) == 1


def test_a_split_that_is_not_there_is_refused(judged):
    with pytest.raises(UserError, match="no split 'tset'; did you mean 'test'?"):
        judging.figures_of(judged[0], "tset")


def test_data_that_is_streamed_is_judged_alike(judged, tiny, streamed, make):
    folder = make(tiny(data=streamed), "streamed")
    told = judging.judge_run(folder, harder=False)
    assert told["figures"]["accuracy"] == pytest.approx(run.evaluate(folder)["test"]["accuracy"])


def test_each_task_has_its_accuracy(tiny, make):
    data = Tasks(one=Task(tiny().data), two=Task(dataclasses.replace(tiny().data, classes=4)))
    folder = make(tiny(data=data), "tasks")
    figures, plain = judging.figures_of(folder, harder=False), run.evaluate(folder)["test"]
    assert figures["accuracy"] == pytest.approx(plain["accuracy"])
    assert figures["two/accuracy"] == pytest.approx(plain["tasks"]["two"]["accuracy"])


def test_a_language_model_is_judged_by_its_tokens(tiny, make):
    data = PythonText(length=8, stride=400)
    model = GPT(depth=1, width=8, heads=2, context=8)
    folder = make(tiny(data=data, model=model, objective=NextToken(), duration=steps(4)), "language")
    told, plain = judging.judge_run(folder, against=folder), run.evaluate(folder)["test"]
    assert told["figures"]["accuracy"] == pytest.approx(plain["accuracy"], rel=1e-5)
    low, high = told["intervals"]["loss"]
    assert low < plain["loss"] < high and "language model" in told["left_out"][0]
    assert told["against"]["difference"] == 0
    judging.write_judgement(told)
    assert np.isfinite(told["figures"]["perplexity"])
