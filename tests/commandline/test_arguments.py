import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from research.commandline.arguments import Override, parse, take_overrides
from research.errors import UserError


def problems(*tokens):
    with pytest.raises(UserError) as caught:
        parse(tokens)
    return caught.value.problems


def test_values_of_an_override_go_up_to_the_next_flag():
    line = "--config exp.py --config.model.features 16 32 --mode inspect --config.seed=7 --config.flag"
    overrides, rest = take_overrides(shlex.split(line))
    assert overrides == [Override("model.features", ("16", "32")), Override("seed", ("7",)), Override("flag", ())]
    assert rest == ["--config", "exp.py", "--mode", "inspect"]


def test_negative_numbers_and_texts_with_equals_are_values():
    overrides, rest = take_overrides(["--config.a", "-3", "-1e-3", "--config.b=x=y", "--config.c="])
    assert overrides == [Override("a", ("-3", "-1e-3")), Override("b", ("x=y",)), Override("c", ("",))]
    assert rest == []


def test_two_dashes_end_the_overrides():
    assert take_overrides(["--config.a", "1", "--", "--config.b", "2"]) == (
        [Override("a", ("1",))],
        ["--", "--config.b", "2"],
    )


words = st.text("abc.-1", min_size=1, max_size=4).filter(lambda word: not word.startswith("--"))
given_overrides = st.lists(st.tuples(st.text("ab.", min_size=1, max_size=4), st.lists(words, min_size=1, max_size=3)))


@given(given_overrides, st.lists(st.sampled_from(["--mode", "--tensorboard", "--run=x"])))
def test_every_override_is_found_wherever_it_stands(wanted, flags):
    tokens = [token for path, values in wanted for token in (f"--config.{path}", *values)]
    overrides, rest = take_overrides([*flags, *tokens, *flags])
    assert [(path, list(values)) for path, values in overrides] == wanted
    assert rest == [*flags, *flags]


def test_flags_and_pictures_may_be_mixed():
    arguments = parse(["--mode", "predict", "one.png", "--run", "runs/a/b", "two.png", "--format=json"])
    assert arguments.pictures == ("one.png", "two.png")
    assert (arguments.run, arguments.format, arguments.mode) == ("runs/a/b", "json", "predict")


def test_how_to_sample_can_be_said():
    line = "--mode sample --run r --prompt 'while ' --tokens 9 --temperature 0.5 --top_k 3 --seed 4"
    arguments = parse(shlex.split(line))
    assert (arguments.prompt, arguments.tokens, arguments.temperature) == ("while ", 9, 0.5)
    assert (arguments.top_k, arguments.top_p, arguments.seed) == (3, None, 4)


def test_what_is_not_said_has_a_default():
    arguments = parse(["--config", "exp.py"])
    assert (arguments.mode, arguments.workdir, arguments.split, arguments.format) == ("train", "runs", "test", "table")
    assert not arguments.tensorboard
    assert arguments.overrides == ()


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["--confg", "x"], "--confg: no such flag; did you mean '--config'?"),
        (["--resum=x"], "--resum: no such flag; did you mean '--resume'?"),
        (["--config"], "--config: needs a value"),
        (["--config", "--mode"], "--config: needs a value"),
        (["--config="], "--config: needs a value"),
        (["--config", "x.py", "--verbosity", "loud"], "--verbosity: 'loud' is no whole number"),
        (["--mode", "evalute"], "--mode: no mode 'evalute'; did you mean 'evaluate'?"),
        (["--mode=evaluate", "--run=r", "--split", "tests"], "--split: no split 'tests'; did you mean 'test'?"),
        (["--mode=evaluate", "--run=r", "--format=jsn"], "--format: no format 'jsn'; did you mean 'json'?"),
        (["--mode", "evaluate"], "--mode evaluate: say which run with --run FOLDER"),
        (["--mode", "explain"], "--mode explain: say which run with --run FOLDER"),
        (["--mode", "explain", "--run", "r", "--thorough"], "--thorough: goes with --mode evaluate, and this is"),
        (["--mode", "explain", "--run", "r", "--against", "s"], "--against: goes with --mode diff or evaluate, and"),
        (["--mode", "predict", "x.png"], "--mode predict: say which run with --run FOLDER"),
        (["--mode", "predict", "--run", "r"], "--mode predict: say which pictures, texts or sounds"),
        (["--mode", "sample"], "--mode sample: say which run with --run FOLDER"),
        (["--mode", "export", "--to", "x"], "--mode export: say which run with --run FOLDER"),
        (["--mode", "export", "--run", "r", "--layout", "fathom"], "--layout: say what to make, as in --run FOLDER"),
        (["--mode", "export", "--run", "r", "--formats", "onnx", "--layout", "fathom"], "--formats: is of a folder"),
        (["--mode", "export", "--run", "r", "--formats", "onnx", "--to", "x.npz"], "--formats: is of a folder"),
        (["--mode", "evaluate", "--run", "r", "--format", "csv"], "--format csv: goes with --mode inspect or predict"),
        (["--mode", "predict", "--run", "r", "a", "--format", "html"], "--format html: goes with --mode inspect, and"),
        (["--mode", "predict", "--run", "r", "a.png", "--to", "x"], "--to: goes with --mode export, and this is"),
        (["--mode", "sample", "--run", "r", "--top_k", "3.5"], "--top_k: '3.5' is no whole number"),
        (["--mode", "sample", "--run", "r", "--top_p", "a: b"], "--top_p: 'a: b' is no number"),
        (["--config", "x.py", "--tensorboard=3"], "--tensorboard: '3' is neither true nor false"),
        (["--mode", "sample", "--run", "r", "--split", "test"], "--split: goes with --mode evaluate"),
        (["--mode", "evaluate", "--run", "r", "--prompt", "a"], "--prompt: goes with --mode sample, and this is"),
        (["--mode", "sample", "--run", "r", "a.txt"], "a.txt: what is it?"),
        (["--mode", "inspect"], "--mode inspect: say which config with --config FILE"),
        (["--mode", "train"], "say what to train with --config FILE"),
        (["--tensorboard"], "say what to train with --config FILE"),
        (
            ["--run", "r"],
            "--run: goes with --mode evaluate, explain, predict, sample or export; to go on with a run: --resume",
        ),
        (["--mode", "inspect", "--config", "x.py", "--run", "r"], "--run: goes with --mode evaluate, explain, predict"),
        (["--resume", "r", "--config", "x.py"], "--config: a resumed run has its own"),
        (["--resume", "r", "--workdir", "w"], "--workdir: a resumed run has its own"),
        (["--resume", "r", "--config.seed", "1"], "--config.seed: a run's config is fixed"),
        (["--resume", "r", "--mode", "evaluate"], "--resume: goes with --mode train, and this is --mode evaluate"),
        (["--config.seed", "1"], "--config.seed: say which config with --config FILE"),
        (["--config", "x.py", "--split", "test"], "--split: goes with --mode evaluate or explain, and this is"),
        (["--config", "x.py", "--format", "json"], "--format: goes with --mode inspect or profile or diff"),
        (["--mode", "evaluate", "--run", "r", "--config", "x.py"], "--config: goes with --mode train or inspect"),
        (["exp.py"], "exp.py: what is it? a config is given as --config exp.py"),
        (["exp.py:big"], "exp.py:big: what is it? a config is given as --config exp.py:big"),
        (["--config", "x.py", "one.png"], "one.png: what is it? pictures go with --mode predict"),
        (["--config", "x.py", "--config.a=1", "2"], "2: what is it? values of a field are given as"),
    ],
)
def test_what_makes_no_sense_is_told(tokens, message):
    assert any(problem.startswith(message) for problem in problems(*tokens)), problems(*tokens)


def test_all_that_makes_no_sense_is_told_at_once():
    assert len(problems("--mode", "evaluate", "--config", "x.py", "--tensorboard", "--config.a", "1")) == 3


@pytest.mark.parametrize("more", [[], ["--mode", "inspect"], ["--workdir", "w"], ["--tensorboard"]])
def test_a_config_that_is_lacking_is_asked_for_once(more):
    assert problems("--config.seed", "3", *more) == ("--config.seed: say which config with --config FILE",)


def test_help_is_given_whatever_else_is_said():
    assert parse(["--mode", "evaluate", "--help"]).help
    assert parse(["-h"]).help
