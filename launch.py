"""The one command: reads a config file, applies overrides, and runs what the file returns.

    python launch.py                                                       what there is to run
    python launch.py --config experiments/digits_cnn.py --config.seed 7    train
    python launch.py --config experiments/digits_cnn.py --help             every field of a config

A mistake of the user's is told in a line, and the exit status is 2; a traceback is for a bug of ours.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from absl import logging

from research.commandline.arguments import Arguments, parse
from research.errors import UserError

# Nothing heavy is imported up here: --help and the list of experiments answer at once.


def main(command: Sequence[str]) -> int:
    """Runs a command line, the program's name first, and returns the exit status."""
    logging.use_absl_handler()
    try:
        arguments = parse(command[1:])
        logging.set_verbosity(arguments.verbosity)
        action = _list_or_help if len(command) == 1 or arguments.help else _ACTIONS[arguments.mode]
        action(arguments, command)
    except UserError as error:
        logging.debug("%s", "".join(traceback.format_exception(error)))
        _show_problems(error)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `launch.py | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def _show_problems(error: UserError) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, soft_wrap=True)
    for problem in error.problems:
        console.print(Text.assemble(("error: ", "bold red"), problem))


def _list_or_help(arguments: Arguments, command: Sequence[str]) -> None:
    from rich.console import Console

    from research.commandline import arguments as flags
    from research.commandline import listing

    console = Console(highlight=False)
    if not arguments.help:
        console.print(listing.show_experiments(listing.find_experiments()))
    elif arguments.config is None:
        console.print(listing.show_flags(flags.make_flags()))
    else:
        from research.commandline import fields

        config, _, _ = _load(arguments)
        console.print(fields.show_fields(config, arguments.config))


def _load(arguments: Arguments) -> tuple[Any, Any, list[str]]:
    """The config with its overrides, the file it came from, and what the overrides changed."""
    from research.commandline import fields, loading, overrides
    from research.training.experiment import Experiment

    loaded = loading.load_config(arguments.config, (Experiment,))
    config = overrides.apply(loaded.config, arguments.overrides)
    return config, loaded.path, fields.changes(loaded.config, config, (path for path, _ in arguments.overrides))


def _train(arguments: Arguments, command: Sequence[str]) -> None:
    from research.training import display, run

    if arguments.resume is not None:
        summary = run.resume(arguments.resume, command=list(command))
    else:
        config, path, changes = _load(arguments)
        summary = run.train(
            config,
            workdir=arguments.workdir,
            config_file=path,
            command=list(command),
            tensorboard=arguments.tensorboard,
            changes=changes,
        )
    display.show_summary(display.console(), summary)


def _inspect(arguments: Arguments, command: Sequence[str]) -> None:
    from research.training import display, run

    config, _, changes = _load(arguments)
    plan = {**run.inspect(config), "changes": changes}
    _print(arguments, plan, lambda console: display.show_plan(console, plan, layers=True))


def _evaluate(arguments: Arguments, command: Sequence[str]) -> None:
    from research.training import display, run

    evaluation = run.evaluate(arguments.run, split=arguments.split)
    _print(arguments, evaluation, lambda console: display.show_evaluation(console, evaluation))


def _predict(arguments: Arguments, command: Sequence[str]) -> None:
    from research.training import display, run

    predictions = run.predict(arguments.run, arguments.pictures)
    _print(arguments, predictions, lambda console: display.show_predictions(console, predictions))


def _print(arguments: Arguments, data: Any, show: Callable[[Any], None]) -> None:
    """The data as JSON, or as a table for people."""
    if arguments.format == "json":
        from research.jsonl import encode

        print(json.dumps(encode(data), indent=2))
    else:
        from research.training import display

        show(display.console())


_ACTIONS = {"train": _train, "inspect": _inspect, "evaluate": _evaluate, "predict": _predict}


if __name__ == "__main__":
    sys.exit(main(sys.argv))
