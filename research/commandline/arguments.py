"""What can be said on the command line, and what of it goes together.

    launch.py --config exp.py --config.model.features 16 32 --config.optimizer.learning_rate=3e-3

Tokens that begin with `--config.` are taken out first, each with the values that follow it up to the next token that
begins with two dashes (so that -3 is a value); absl's flags read the rest. Which flags go together is a table.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from absl import flags

from research.errors import UserError, did_you_mean

MODES = ("train", "inspect", "evaluate", "predict")
SPLITS = ("test", "validation", "train")
FORMATS = ("table", "json")
CHOICES = {"mode": MODES, "split": SPLITS, "format": FORMATS}

GOES_WITH = {
    "config": ("train", "inspect"),
    "resume": ("train",),
    "workdir": ("train",),
    "tensorboard": ("train",),
    "run": ("evaluate", "predict"),
    "split": ("evaluate",),
    "format": ("inspect", "evaluate", "predict"),
}
"""The modes in which a flag means something."""

OVERRIDE = "--config."


class Override(NamedTuple):
    """A field to change: `--config.model.features 16 32` has the path "model.features" and the values "16" and "32"."""

    path: str
    values: tuple[str, ...]


class Arguments(NamedTuple):
    """A command line that makes sense, but for what its config says. Texts that were not given are None."""

    mode: str
    config: str | None
    resume: str | None
    run: str | None
    workdir: str
    split: str
    format: str
    tensorboard: bool
    verbosity: int
    help: bool
    pictures: tuple[str, ...]
    overrides: tuple[Override, ...]


def make_flags() -> flags.FlagValues:
    """The flags, in the order in which --help shows them."""
    values = flags.FlagValues()

    def text(name, default, meaning):
        flags.DEFINE_string(name, default, meaning, flag_values=values)

    text("config", None, "what to run: FILE.py, FILE.py:ARGUMENT or the config.json of a run")
    text("mode", "train", "train, inspect (show the plan and stop), evaluate or predict")
    text("resume", None, "a run's folder: go on where it stopped")
    text("run", None, "a run's folder: what to evaluate, or to predict with")
    text("workdir", "runs", "where the folders of new runs go")
    text("split", "test", "what to evaluate on: test, validation or train")
    text("format", "table", "of what inspect, evaluate and predict print: table or json")
    flags.DEFINE_boolean("tensorboard", False, "also write TensorBoard event files", flag_values=values)
    flags.DEFINE_integer(
        "verbosity", -1, "of the log: -1 warnings, 0 information, 1 also tracebacks of mistakes", flag_values=values
    )
    flags.DEFINE_boolean(
        "help", False, "this page; with --config, every field of that config", short_name="h", flag_values=values
    )
    return values


def parse(tokens: Sequence[str]) -> Arguments:
    """Reads a command line (without the program's name). Raises UserError with everything that is wrong with it."""
    overrides, rest = take_overrides(tokens)
    values = make_flags()
    try:
        _, *positional = values(["launch.py", *rest])
    except flags.UnrecognizedFlagError as error:
        names = [f"--{name}" for name in values]
        flag = f"--{error.flagname}"
        raise UserError(f"{flag}: no such flag{did_you_mean(flag, names)}") from None
    except flags.Error as error:
        raise UserError(_in_our_words(str(error))) from None
    given = {name for name in values if values[name].present}
    arguments = Arguments(
        pictures=tuple(positional),
        overrides=tuple(overrides),
        **{name: values[name].value for name in Arguments._fields if name in values},
    )
    problems = _value_problems(arguments)
    if not (problems or arguments.help):
        problems = _combination_problems(arguments, given)
    if problems:
        raise UserError(*problems)
    return arguments


def take_overrides(tokens: Sequence[str]) -> tuple[list[Override], list[str]]:
    """The overrides among the tokens, and the tokens that are left; `--` ends both overrides and flags."""
    overrides, rest, tokens = [], [], list(tokens)
    while tokens:
        token = tokens.pop(0)
        if token == "--":
            return overrides, [*rest, token, *tokens]
        if not token.startswith(OVERRIDE):
            rest.append(token)
            continue
        path, equals, value = token.removeprefix(OVERRIDE).partition("=")
        values = [value] if equals else []
        while not equals and tokens and not tokens[0].startswith("--"):
            values.append(tokens.pop(0))
        overrides.append(Override(path, tuple(values)))
    return overrides, rest


def _in_our_words(message: str) -> str:
    """absl's "flag --verbosity=x: ..." and "Missing value for flag --run", with the flag in front."""
    if match := re.fullmatch(r"Missing value for flag (--\w+)", message):
        return f"{match[1]}: needs a value"
    return message.removeprefix("flag ")


def _value_problems(arguments: Arguments) -> list[str]:
    problems = []
    for name in ("config", "resume", "run", "workdir"):
        value = getattr(arguments, name)
        if value is not None and (not value or value.startswith("--")):
            problems.append(f"--{name}: needs a value")
    for name, choices in CHOICES.items():
        value = getattr(arguments, name)
        if value not in choices:
            problems.append(f"--{name}: no {name} '{value}'{did_you_mean(value, choices)}")
    return problems


def _combination_problems(arguments: Arguments, given: set[str]) -> list[str]:
    """What of a command line does not go together, or is missing."""
    mode, problems = arguments.mode, []
    for name in (name for name in GOES_WITH if name in given and mode not in GOES_WITH[name]):
        if name == "run":
            instead = {
                "train": "to go on with a run: --resume",
                "inspect": "to inspect a run: --config RUN/config.json",
            }
            problems.append(f"--run: goes with --mode evaluate or predict; {instead[mode]}")
        else:
            problems.append(f"--{name}: goes with --mode {' or '.join(GOES_WITH[name])}, and this is --mode {mode}")
    if arguments.resume is not None:
        for name in ("config", "workdir", "tensorboard"):
            if name in given:
                problems.append(f"--{name}: a resumed run has its own; leave out either --{name} or --resume")
    of_nothing = bool(arguments.overrides) and arguments.config is None
    if of_nothing:
        known = "a run's config is fixed; a new run can start from its config.json" if given & {"resume", "run"} else ""
        problems.append(f"--config.{arguments.overrides[0].path}: {known or 'say which config with --config FILE'}")
    if mode != "predict":
        problems += [_unexpected(token, arguments) for token in arguments.pictures]
    if mode in ("evaluate", "predict") and arguments.run is None:
        problems.append(f"--mode {mode}: say which run with --run FOLDER")
    if mode == "predict" and not arguments.pictures:
        problems.append("--mode predict: say which pictures, as in --run FOLDER one.png two.png")
    if mode == "inspect" and arguments.config is None and not of_nothing:
        problems.append("--mode inspect: say which config with --config FILE")
    without = not given & {"config", "resume"} and not of_nothing
    if given & {"mode", "workdir", "tensorboard"} and mode == "train" and without:
        problems.append("say what to train with --config FILE, or what to go on with: --resume FOLDER")
    return problems


def _unexpected(token: str, arguments: Arguments) -> str:
    if arguments.config is None and token.partition(":")[0].endswith((".py", ".json")):
        return f"{token}: what is it? a config is given as --config {token}"
    if token.endswith((".png", ".jpg", ".jpeg")):
        return f"{token}: what is it? pictures go with --mode predict"
    return f"{token}: what is it? values of a field are given as --config.PATH VALUE"
