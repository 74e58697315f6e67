"""A judgement's figures against scikit-learn and SciPy, its intervals, and what is said of two networks."""

import json

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from research.analysis import evaluation_figures
from research.analysis.evaluation_page import evaluation_page, sentence
from research.analysis.judgement import compare, figure, judge
from research.analysis.judgement import sentence as sentence_of_pair
from research.errors import UserError

NAMES = ("cat", "dog", "<owl>")


def drawn(seed=0, examples=300, skill=2.0):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, examples)
    logits = random.normal(size=(examples, 3)) + skill * (np.arange(3) == labels[:, None])
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True), labels


@pytest.fixture(scope="module")
def judged():
    probabilities, labels = drawn()
    turned, _ = drawn(skill=1.0)
    told = judge(probabilities, labels, NAMES, {"rotation_15": probabilities, "rotation_30": turned})
    harder = [{"name": "rotation", "strengths": [15, 30], "per": "degrees either way"}]
    about = {"folder": "runs/a/1", "name": "a", "step": 7, "split": "test", "examples": len(labels), "left_out": []}
    return about | told | {"harder": harder}


def test_figures_are_those_of_scikit_learn(judged):
    probabilities, labels = drawn()
    says, figures = probabilities.argmax(1), judged["figures"]
    assert figures["accuracy"] == pytest.approx(metrics.accuracy_score(labels, says))
    assert figures["macro_f1"] == pytest.approx(metrics.f1_score(labels, says, average="macro"))
    recalls = metrics.recall_score(labels, says, average=None)
    assert figures["worst_class_accuracy"] == pytest.approx(recalls.min())
    assert figures["class/dog/accuracy"] == pytest.approx(recalls[1])
    assert judged["confusion"] == metrics.confusion_matrix(labels, says).tolist()


def test_intervals_hold_what_they_are_of(judged):
    for name, (low, high) in judged["intervals"].items():
        assert low <= judged["figures"][name] <= high, name
    low, high = judged["intervals"]["accuracy"]
    wilson = stats.binomtest(round(300 * judged["figures"]["accuracy"]), 300).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((wilson.low, wilson.high), abs=0.01)


def test_what_is_not_changed_has_the_same_accuracy_and_what_is_harder_less(judged):
    figures = judged["figures"]
    assert figures["robustness/rotation_15/accuracy"] == figures["accuracy"]
    assert figures["robustness/rotation_30/accuracy"] < figures["accuracy"] - 0.1
    assert figures["robustness/least_accuracy"] == figures["robustness/rotation_30/accuracy"]


def test_a_figure_that_does_not_exist_is_refused_with_the_nearest(judged):
    assert figure(judged["figures"], "accuracy") == judged["figures"]["accuracy"]
    with pytest.raises(UserError, match="no figure 'acuracy'; did you mean 'accuracy'?"):
        figure(judged["figures"], "acuracy")
    with pytest.raises(UserError, match="did you mean 'robustness/rotation_15/accuracy'"):
        figure(judged["figures"], "robustness/rotation_16/accuracy")


def test_the_surest_mistakes_come_first(judged):
    rows = judged["confidently_wrong"]
    assert all(row["label"] != row["predicted"] for row in rows)
    assert [row["probability"] for row in rows] == sorted((row["probability"] for row in rows), reverse=True)
    probabilities, labels = drawn()
    hardest = probabilities[np.arange(len(labels)), labels].argmin()
    assert judged["hardest"][0]["example"] == hardest


def test_tasks_have_figures_of_their_own_and_classes_without_examples_do_not_count():
    probabilities = np.array([[0.9, 0.1, 0, 0], [0.2, 0.8, 0, 0], [0, 0, 0.6, 0.4]])
    told = judge(probabilities, np.array([0, 0, 2]), "abcd", tasks={"one": slice(0, 2), "two": slice(2, 4)})
    assert told["figures"]["one/accuracy"] == 0.5 and told["figures"]["two/accuracy"] == 1
    assert told["figures"]["worst_class_accuracy"] == 0.5


@pytest.mark.parametrize("only_first, only_second", [(5, 0), (8, 2), (30, 12), (4, 4), (0, 0)])
def test_two_networks_are_told_apart_by_mcnemars_exact_test(only_first, only_second):
    first = np.array([True] * only_first + [False] * only_second + [True] * 20 + [False] * 3)
    second = np.array([False] * only_first + [True] * only_second + [True] * 20 + [False] * 3)
    pair = compare(first, second)
    parted = only_first + only_second
    expected = stats.binomtest(only_first, parted).pvalue if parted else 1.0
    assert pair.p == pytest.approx(expected)
    assert (pair.only_first, pair.only_second, pair.both, pair.neither) == (only_first, only_second, 20, 3)
    assert pair.low <= pair.difference <= pair.high
    said = sentence_of_pair(pair, "a", "b")
    assert ("cannot be told from" in said) == (expected >= 0.05) and said.count(".") >= 1


def test_the_page_stands_alone_and_says_what_the_figures_say(judged):
    pictures = {i: np.random.default_rng(i).integers(0, 255, (8, 8, 1)).astype(np.uint8) for i in range(300)}
    page = evaluation_page(judged, pictures, maximum=255.0)
    assert page.startswith("<!doctype html>") and "<owl>" not in page and "&lt;owl&gt;" in page
    assert "http" not in page.replace("http://www.w3.org", "").replace("https://www.w3.org", "")
    assert page.count("data:image/png;base64,") >= len(judged["hardest"])
    assert all(name.replace("<owl>", "&lt;owl&gt;") in page for name in judged["figures"])
    assert f"{100 * judged['figures']['accuracy']:.1f} % of 300 test examples are right" in page
    assert "The worst class is" in sentence(judged)[1]


@pytest.mark.parametrize(
    "kind, raw",
    [
        ("bytes", np.frombuffer(b"<text of a>", np.uint8).astype(np.int32)),
        ("table", np.zeros(6)),
        ("array", np.ones((9, 2))),
    ],
)
def test_examples_that_are_no_pictures_are_shown_too(judged, kind, raw):
    page = evaluation_page(judged, dict.fromkeys(range(300), raw), kind=kind)
    assert "Hardest" in page and "<text of a>" not in page


def test_without_mistakes_and_without_harder_examples_there_is_a_page_all_the_same():
    labels = np.array([0, 1, 2] * 5)
    told = judge(np.eye(3)[labels], labels, NAMES)
    about = {"folder": "r", "name": "a", "step": 1, "split": "validation", "examples": 15, "left_out": ["all"]}
    judged = json.loads(json.dumps(about | told | {"harder": []}))
    assert told["confidently_wrong"] == [] and told["figures"]["ece"] == 0
    assert evaluation_figures.draw_robustness(judged) is None
    assert "There is no mistake" in evaluation_page(judged) and "100.0 %" in sentence(judged)[0]
    assert "worst class" not in sentence(judged)[1]
