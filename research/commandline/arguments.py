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

MODES = ("train", "inspect", "profile", "diff", "evaluate", "explain", "predict", "sample", "export")
SPLITS = ("test", "validation", "train")
FORMATS = ("table", "json", "csv", "html")
EXECUTORS = ("process", "ray")
TUNES = ("true", "false", "measure")
FORMATS_OF_INSPECTIONS = ("csv", "html")
FORMATS_OF_PREDICTIONS = ("csv",)
WEIGHTS = (".safetensors", ".npz")
"""The endings of files of weights, beside which export makes folders."""
CHOICES = {"mode": MODES, "split": SPLITS, "format": FORMATS, "executor": EXECUTORS, "tune": TUNES}

GOES_WITH = {
    "config": ("train", "inspect", "profile", "diff"),
    "against": ("diff", "evaluate"),
    "resume": ("train",),
    "workdir": ("train", "inspect", "profile"),
    "executor": ("train",),
    "tensorboard": ("train",),
    "run": ("evaluate", "explain", "predict", "sample", "export"),
    "split": ("evaluate", "explain"),
    "thorough": ("evaluate",),
    "format": ("inspect", "profile", "diff", "evaluate", "explain", "predict", "sample", "export"),
    "unfold": ("inspect",),
    "rates": ("inspect",),
    "compile": ("inspect",),
    "prompt": ("sample",),
    "tokens": ("sample",),
    "temperature": ("sample",),
    "top_k": ("sample",),
    "top_p": ("sample",),
    "seed": ("sample",),
    "to": ("export",),
    "layout": ("export",),
    "formats": ("export",),
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
    against: str | None
    resume: str | None
    run: str | None
    workdir: str
    executor: str
    split: str
    thorough: bool
    format: str
    unfold: bool
    rates: str | None
    compile: bool
    prompt: str
    tokens: int | None
    temperature: float
    top_k: int | None
    top_p: float | None
    seed: int
    to: str | None
    layout: str | None
    formats: str | None
    tensorboard: bool
    tune: str
    verbosity: int
    help: bool
    pictures: tuple[str, ...]
    overrides: tuple[Override, ...]


def is_of_partition(path: str) -> bool:
    """Whether a field is of the partition, which alone may be changed of a run that goes on."""
    return path.removeprefix("finetuning.").partition(".")[0] == "partition"


def make_flags() -> flags.FlagValues:
    """The flags, in the order in which --help shows them."""
    values = flags.FlagValues()

    def text(name, default, meaning):
        flags.DEFINE_string(name, default, meaning, flag_values=values)

    def number(name, default, meaning, kind=flags.DEFINE_integer):
        kind(name, default, meaning, flag_values=values)

    text("config", None, "what to run: FILE.py, FILE.py:ARGUMENT or the config.json of a run")
    text(
        "mode",
        "train",
        "train, inspect (show the plan and stop), profile (where the time of a step goes), diff, evaluate, explain, "
        "predict, sample or export",
    )
    text(
        "against",
        None,
        "diff: another config, or a run, whose layers are compared with those of --config; evaluate: another run",
    )
    text(
        "resume",
        None,
        "a run's folder: go on where it stopped; with another partition, if that is said, in a new folder",
    )
    text(
        "run",
        None,
        "a run's folder, to evaluate, explain, sample or predict with, or to export; predict: or an exported one",
    )
    text("workdir", "runs", "where the folders of runs are")
    text("executor", "process", "of a sweep: process, or ray for a cluster, that at RAY_ADDRESS or one of its own")
    text("split", "test", "what to evaluate on, or to explain examples of: test, validation or train")
    thorough = "evaluate: also calibration, intervals and harder examples, kept in the run's folder as a page"
    flags.DEFINE_boolean("thorough", False, thorough, flag_values=values)
    text(
        "format",
        "table",
        "of what all modes but train print: table or json; inspect: csv or html; predict: csv",
    )
    flags.DEFINE_boolean("unfold", False, "inspect: show each of equal blocks", flag_values=values)
    text("rates", None, "inspect: the device's FLOP/s and bytes/s, as in 175e9,20e9, or: measure")
    flags.DEFINE_boolean("compile", False, "inspect: also compile, and show XLA's own figures", flag_values=values)
    text("prompt", "\n", "what a language model is to go on from")
    number("tokens", None, "how many to sample; up to the length that the model was trained on if not given")
    number("temperature", 1.0, "of sampling: 0 takes the likeliest token, more than 1 dares more", flags.DEFINE_float)
    number("top_k", None, "sample from the k likeliest tokens alone")
    number("top_p", None, "sample from the likeliest tokens that are p likely together", flags.DEFINE_float)
    number("seed", 0, "of sampling")
    text("to", None, "export: the folder, exports/NAME if not given, or the .safetensors or .npz file, that is made")
    text(
        "layout",
        None,
        "export: whose names and shapes, such as torchvision-resnet; fathom: our own; adapters: without their base; "
        "those of the source that the run began with, or else our own, if only a file is given",
    )
    text("formats", None, "export: of a folder, stablehlo or stablehlo,onnx; all that are installed if not given")
    flags.DEFINE_boolean("tensorboard", False, "also write TensorBoard event files", flag_values=values)
    text(
        "tune",
        "true",
        "set XLA's flags so that programs are fast, where XLA_FLAGS does not: true, false, or measure which are the "
        "fastest for this experiment on this machine, a minute, and remember it",
    )
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


KINDS_OF_VALUES = {
    "invalid literal for int()": "no whole number",
    "could not convert string to float": "no number",
    "('Non-boolean argument": "neither true nor false",
}
"""What is wrong with a flag's value, by how Python's or absl's own words for it begin."""


def _in_our_words(message: str) -> str:
    """absl's "flag --verbosity=x: invalid literal ..." and "Missing value for flag --run", as people say it."""
    if match := re.fullmatch(r"Missing value for flag (--\w+)", message):
        return f"{match[1]}: needs a value"
    for beginning, what in KINDS_OF_VALUES.items():
        if match := re.fullmatch(rf"flag (--\w+)=(.*?): {re.escape(beginning)}.*", message, re.DOTALL):
            return f"{match[1]}: '{match[2]}' is {what}"
    return message.removeprefix("flag ")


def _value_problems(arguments: Arguments) -> list[str]:
    problems = []
    for name in ("config", "against", "resume", "run", "workdir", "to", "layout", "formats"):
        value = getattr(arguments, name)
        if value is not None and (not value or value.startswith("--")):
            problems.append(f"--{name}: needs a value")
    if arguments.rates is not None and read_rates(arguments.rates) is None:
        problems.append(f"--rates: '{arguments.rates}' is neither FLOP/s and bytes/s, as in 175e9,20e9, nor measure")
    for name, choices in CHOICES.items():
        value = getattr(arguments, name)
        if value not in choices:
            problems.append(f"--{name}: no {name} '{value}'{did_you_mean(value, choices)}")
    return problems


def read_rates(text: str) -> tuple[float, float] | str | None:
    """FLOP/s and bytes/s, or "measure"; None for what is neither."""
    if text == "measure":
        return text
    try:
        flops, bandwidth = map(float, text.split(","))
    except ValueError:
        return None
    return (flops, bandwidth) if flops > 0 and bandwidth > 0 else None


def _combination_problems(arguments: Arguments, given: set[str]) -> list[str]:
    """What of a command line does not go together, or is missing."""
    mode, problems = arguments.mode, []
    for name in (name for name in GOES_WITH if name in given and mode not in GOES_WITH[name]):
        if name == "run":
            instead = {
                "train": "to go on with a run: --resume",
                "inspect": "to inspect a run: --config RUN/config.json",
                "profile": "to profile a run's steps: --config RUN/config.json",
                "diff": "to compare runs: --config RUN --against RUN",
            }
            *modes, last = GOES_WITH["run"]
            problems.append(f"--run: goes with --mode {', '.join(modes)} or {last}; {instead[mode]}")
        else:
            problems.append(f"--{name}: goes with --mode {' or '.join(GOES_WITH[name])}, and this is --mode {mode}")
    if arguments.resume is not None:
        for name in ("config", "workdir", "executor", "tensorboard"):
            if name in given:
                problems.append(f"--{name}: a resumed run has its own; leave out either --{name} or --resume")
    changes = [each.path for each in arguments.overrides if arguments.resume is None or not is_of_partition(each.path)]
    of_nothing = bool(changes) and arguments.config is None
    if of_nothing:
        known = ""
        if given & {"resume", "run"}:
            but = " but for its partition" if arguments.resume is not None else ""
            known = f"a run's config is fixed{but}; a new run can start from its config.json"
        problems.append(f"--config.{changes[0]}: {known or 'say which config with --config FILE'}")
    if mode not in ("predict", "explain"):
        problems += [_unexpected(token, arguments) for token in arguments.pictures]
    if mode in GOES_WITH["run"] and arguments.run is None:
        problems.append(f"--mode {mode}: say which run with --run FOLDER")
    of_predictions = mode == "predict" and arguments.format in FORMATS_OF_PREDICTIONS
    if arguments.format in FORMATS_OF_INSPECTIONS and mode != "inspect" and not of_predictions:
        modes = "inspect or predict" if arguments.format in FORMATS_OF_PREDICTIONS else "inspect"
        problems.append(f"--format {arguments.format}: goes with --mode {modes}, and this is --mode {mode}")
    if arguments.layout is not None and arguments.to is None:
        problems.append("--layout: say what to make, as in --run FOLDER --to NAME.safetensors")
    if arguments.formats is not None and (arguments.layout or (arguments.to or "").endswith(WEIGHTS)):
        problems.append("--formats: is of a folder for others, and this saves weights; leave it out")
    if arguments.tune == "measure" and (mode not in ("train", "profile") or arguments.config is None):
        problems.append("--tune measure: goes with --config FILE and --mode train or profile")
    if mode == "predict" and not arguments.pictures:
        problems.append("--mode predict: say which pictures, texts or sounds, as in --run FOLDER one.png two.png")
    if mode in ("inspect", "diff") and arguments.config is None and not of_nothing:
        problems.append(f"--mode {mode}: say which config with --config FILE")
    if mode == "diff" and arguments.against is None:
        problems.append("--mode diff: say with what it is compared, as in --config ONE.py --against OTHER.py")
    without = not given & {"config", "resume"} and not of_nothing
    if given & {"mode", "workdir", "executor", "tensorboard"} and mode == "train" and without:
        problems.append("say what to train with --config FILE, or what to go on with: --resume FOLDER")
    return problems


def _unexpected(token: str, arguments: Arguments) -> str:
    if arguments.config is None and token.partition(":")[0].endswith((".py", ".json")):
        return f"{token}: what is it? a config is given as --config {token}"
    if token.endswith((".png", ".jpg", ".jpeg")):
        return f"{token}: what is it? pictures go with --mode predict and explain"
    return f"{token}: what is it? values of a field are given as --config.PATH VALUE"
