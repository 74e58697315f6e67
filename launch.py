"""The one command: reads a config file, applies overrides, and runs what the file returns.

    python launch.py                                                       what there is to run
    python launch.py --config experiments/digits_cnn.py --config.seed 7    train
    python launch.py --config experiments/misconceptions.py                be taught
    python launch.py --config experiments/digits_cnn.py --help             every field of a config

A mistake of the user's is told in a line, and the exit status is 2; a traceback is for a bug of ours.
"""

import dataclasses
import functools
import gc
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from research import runtime
from research.commandline.arguments import FORMATS_OF_INSPECTIONS, WEIGHTS, Arguments, parse, read_rates
from research.errors import UserError

# Nothing heavy is imported up here: --help and the list of experiments answer at once.


def main(command: Sequence[str], *, may_restart: bool = False) -> int:
    """Runs a command line, the program's name first, and returns the exit status.

    may_restart: whether this process is all about the command, and may start itself anew with better settings.
    1 says that some of the files to predict could not be read, or that what a pipeline came to is not good enough; 2
    that nothing was done.
    """
    logging.use_absl_handler()
    runtime.remember_programs()
    try:
        arguments = parse(command[1:])
        logging.set_verbosity(arguments.verbosity)
        if arguments.tune != "false" and not arguments.help:
            if may_restart and (arguments.config or arguments.resume):  # what trains
                runtime.keep_memory()
            if runtime.FUSIONS not in runtime.tune() or runtime.ONEDNN in os.environ["XLA_FLAGS"]:
                arguments = _without_choice(arguments)
        if len(command) == 1 or arguments.help:
            _list_or_help(arguments, command)
        elif arguments.config is not None:
            return _run_config(arguments, command)
        else:
            return _ACTIONS_ON_RUNS[arguments.mode](arguments, command) or 0
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


def _without_choice(arguments: Arguments) -> Arguments:
    """The arguments where the flags are not ours to choose. Raises UserError if they were to be measured."""
    if arguments.tune == "measure":
        reason = f"XLA_FLAGS names {runtime.FUSIONS} or {runtime.ONEDNN}, or the installed jaxlib does not know them"
        raise UserError(f"--tune measure: there is nothing to choose among: {reason}")
    return arguments._replace(tune="false")


def _interrupt(number: int, frame: Any) -> None:
    """Ctrl-C as Python has it, but later where it would be lost.

    That is in JAX's callback of garbage collection, and in the midst of an import: modules in C make an error of their
    own of what interrupts them.
    """
    while frame is not None:
        if frame.f_code.co_name in ("_xla_gc_callback", "_find_and_load"):
            threading.Timer(0.02, signal.pthread_kill, (threading.main_thread().ident, number)).start()
            return
        frame = frame.f_back
    raise KeyboardInterrupt


def _show_problems(error: UserError) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, soft_wrap=True)
    for problem in error.problems:
        console.print(Text.assemble(("error: ", "bold red"), problem))


def _list_or_help(arguments: Arguments, command: Sequence[str]) -> None:
    from research.commandline import arguments as flags
    from research.commandline import listing
    from research.commandline.console import console as make_console

    console = make_console()
    if not arguments.help:
        console.print(listing.show_experiments(listing.find_experiments()))
    elif arguments.config is None:
        console.print(listing.show_flags(flags.make_flags()))
    else:
        from research.commandline import fields

        config, _, _ = _load(arguments)
        console.print(fields.show_fields(config, arguments.config))


# ---------------------------------------------------------------------------------------------------------------------
# With a config


def _actions_on_configs() -> dict[type, dict[str, Callable]]:
    """What a config file may return, and what each mode does with it: the one place where a new kind is entered."""
    from research.comparisons import Comparison, Growth
    from research.deployment.compression import Compression
    from research.lessons import Lesson
    from research.pipelines import Pipeline
    from research.sweeps import Sweep
    from research.training.experiment import Experiment

    on_comparisons = {"train": _teach, "inspect": _compare}
    return {
        Experiment: {"train": _train, "inspect": _inspect, "profile": _profile, "diff": _diff},
        Sweep: {"train": _train_sweep, "inspect": _inspect_sweep},
        Compression: {"train": _compress},
        Comparison: on_comparisons,
        Growth: on_comparisons,
        Lesson: {"train": _teach},
        Pipeline: {"train": _run_pipeline, "inspect": _inspect_pipeline},
    }


def _load(arguments: Arguments) -> tuple[Any, Path, list[str]]:
    """The config with its overrides, the file it came from, and what the overrides changed."""
    from research.commandline import fields, loading, overrides

    loaded = loading.load_config(arguments.config, tuple(_actions_on_configs()))
    config = overrides.apply(loaded.config, arguments.overrides)
    return config, loaded.path, fields.changes(loaded.config, config, (path for path, _ in arguments.overrides))


def _run_config(arguments: Arguments, command: Sequence[str]) -> int:
    config, path, changes = _load(arguments)
    kind, actions = next((kind, actions) for kind, actions in _actions_on_configs().items() if isinstance(config, kind))
    if arguments.mode not in actions:
        raise UserError(f"--mode {arguments.mode}: {path} returns a {kind.__name__}, for which there is no such mode")
    if arguments.executor != "process" and kind.__name__ != "Sweep":
        raise UserError(
            f"--executor {arguments.executor}: {path} returns a {kind.__name__}, which is run in this process"
        )
    if arguments.tune == "measure" and kind.__name__ != "Experiment":
        raise UserError(f"--tune measure: {path} returns a {kind.__name__}; give it with an Experiment")
    return actions[arguments.mode](arguments, command, config, path, changes) or 0


def _train(arguments: Arguments, command: Sequence[str], config: Any, path: Path, changes: list[str]) -> None:
    from research.training import display, run, tuning

    _choose_flags(arguments, config)
    summary = run.train(
        config,
        workdir=arguments.workdir,
        config_file=path,
        command=list(command),
        tensorboard=arguments.tensorboard,
        changes=changes,
    )
    if arguments.tune != "false":
        tuning.remember_time(config, summary["wall_time"])
    display.show_summary(display.console(), summary)


def _inspect(arguments: Arguments, command: Sequence[str], config: Any, path: Path, changes: list[str]) -> None:
    from research.inspection import roofline, tables
    from research.training import display, run

    if arguments.format in FORMATS_OF_INSPECTIONS and (
        arguments.compile or (arguments.rates and arguments.format == "csv")
    ):
        flag = "--compile" if arguments.compile else "--rates"
        raise UserError(f"{flag}: goes with --format table or json, and this is --format {arguments.format}")
    config = _named(config, path)
    plan, inspection = run.inspect(config, compiled=arguments.compile)
    plan["changes"] = changes
    rates = _rates(arguments)
    if rates is not None:
        plan["network"] |= roofline.as_json(inspection, rates)
    if arguments.format == "csv":
        print(tables.as_csv(inspection), end="")
    elif arguments.format == "html":
        print(tables.as_html(inspection, unfold=arguments.unfold, rates=rates), end="")
    else:

        def show(console):
            display.show_plan(console, plan)
            console.print()
            console.print(tables.show(inspection, console.width, unfold=arguments.unfold, rates=rates))
            display.show_compiled(console, plan)

        _print(arguments, plan, show)


def _profile(arguments: Arguments, command: Sequence[str], config: Any, path: Path, changes: list[str]) -> None:
    from research.training import profiling, profiling_display

    _choose_flags(arguments, config)
    told = profiling.profile(_named(config, path), workdir=arguments.workdir) | {"changes": changes}
    _print(arguments, told, lambda console: profiling_display.show_profile(console, told))


def _choose_flags(arguments: Arguments, config: Any) -> None:
    """Sets XLA's flags as they are fastest for an experiment, where they are ours to set."""
    from research.training import tuning

    if arguments.tune != "false":
        tuning.choose(config, arguments.config, arguments.overrides, may_measure=arguments.tune == "measure")


def _rates(arguments: Arguments) -> Any:
    """The device's rates as --rates tells them, or measured; None without it."""
    from research.inspection import roofline

    if arguments.rates is None:
        return None
    told = read_rates(arguments.rates)
    return roofline.measure_rates() if told == "measure" else roofline.Rates(*told)


def _train_sweep(arguments: Arguments, command: Sequence[str], config: Any, path: Path, changes: list[str]) -> None:
    from research.sweeps import display, run

    runtime.use_all_cores()
    if arguments.tensorboard:
        raise UserError(f"--tensorboard: {path} returns a Sweep, whose metrics are in one table")
    options = {"workdir": arguments.workdir, "config_file": path, "command": list(command), "changes": changes}
    summary = run.run(_named(config, path), executor=arguments.executor, **options)
    display.show_summary(display.console(), summary)


def _inspect_sweep(arguments: Arguments, command: Sequence[str], config: Any, path: Path, changes: list[str]) -> None:
    from research.sweeps import depths, display, expectation, plain, plan

    if arguments.format == "html":
        raise UserError(f"--format html: {path} returns a Sweep, whose plan comes as a table, as json and as csv")
    if arguments.compile:
        raise UserError(f"--compile: {path} returns a Sweep; give it with an Experiment, such as one of its trials")
    found, rates = plan.make_plan(_named(config, path), config_file=path), _rates(arguments)
    if arguments.format == "csv":
        print(plain.as_csv(found, rates=rates), end="")
    else:
        expected = expectation.expect(found, found.trials, arguments.workdir)
        options = {"changes": changes, "rates": rates, "expected": expected}
        compiled = len(depths.join(found)) if arguments.executor == "process" else None
        show = functools.partial(display.show, plan=found, unfold=arguments.unfold, compiled=compiled, **options)
        _print(arguments, plain.as_json(found, **options), show)


def _run_pipeline(arguments: Arguments, command: Sequence[str], config: Any, path: Path, changes: list[str]) -> int:
    from research.pipelines import display, run

    if arguments.tensorboard:
        raise UserError(f"--tensorboard: {path} returns a Pipeline; say it of its experiments")
    options = {"workdir": arguments.workdir, "config_file": path, "command": list(command), "changes": changes}
    told = run.run(_named(config, path), **options)
    display.show_summary(display.console(), told)
    return 1 if told["reason"] == "not good enough" else 0


def _inspect_pipeline(
    arguments: Arguments, command: Sequence[str], config: Any, path: Path, changes: list[str]
) -> None:
    from research.pipelines import display, run

    if arguments.format in FORMATS_OF_INSPECTIONS:
        raise UserError(f"--format {arguments.format}: goes with an Experiment; {path} returns a Pipeline")
    stages = run.inspect(_named(config, path))
    _print(
        arguments, {"stages": stages, "changes": changes}, lambda console: display.show_plan(console, stages, changes)
    )


def _diff(arguments: Arguments, command: Sequence[str], config: Any, path: Path, changes: list[str]) -> None:
    from research.commandline import loading
    from research.training import differences
    from research.training.experiment import Experiment

    against = loading.load_config(arguments.against, (Experiment,))
    found = differences.compare(differences.Side(config, path), differences.Side(against.config, against.path))
    _print(arguments, differences.as_json(found), lambda console: differences.show(console, found))


def _compare(arguments: Arguments, command: Sequence[str], config: Any, path: Path, changes: list[str]) -> None:
    from research.lessons import run

    if arguments.format in FORMATS_OF_INSPECTIONS:
        raise UserError(
            f"--format {arguments.format}: goes with an Experiment; {path} returns a {type(config).__name__}"
        )
    config = _named(config, path)
    if arguments.format == "json":
        _print(arguments, {"name": config.name, "changes": changes, "sections": run.tell(config)}, None)
    else:
        run.show(config, changes)


def _teach(arguments: Arguments, command: Sequence[str], config: Any, path: Path, changes: list[str]) -> None:
    from research.lessons import run

    if arguments.tensorboard:
        kind = type(config).__name__ if hasattr(config, "name") else "Lesson"
        raise UserError(f"--tensorboard: {path} returns a {kind}, which logs no metrics")
    run.teach(_named(config, path), workdir=arguments.workdir, config_file=path, command=list(command), changes=changes)


def _compress(arguments: Arguments, command: Sequence[str], config: Any, path: Path, changes: list[str]) -> None:
    from research.deployment.compression import run

    if arguments.tensorboard:
        raise UserError(f"--tensorboard: {path} returns a Compression, which logs no metrics")
    options = {"config_file": path, "command": list(command), "changes": changes}
    run.check_budget(run.compress(_named(config, path), workdir=arguments.workdir, **options))


def _named(config: Any, path: Path) -> Any:
    """The config, called as its file is if its field for a name is empty."""
    return dataclasses.replace(config, name=path.stem) if getattr(config, "name", None) == "" else config


# ---------------------------------------------------------------------------------------------------------------------
# With a run


def _resume(arguments: Arguments, command: Sequence[str]) -> None:
    from research.training import display, folder, reading, run, tuning

    if arguments.tune != "false":
        tuning.repeat(arguments.resume)
    if arguments.overrides:
        from research.commandline import overrides

        change = functools.partial(overrides.apply, overrides=arguments.overrides)
        summary = run.migrate(arguments.resume, change, command=list(command))
    else:
        summary = run.resume(arguments.resume, command=list(command))
    if arguments.tune != "false":
        tuning.remember_time(reading.read_experiment(folder.open_run(arguments.resume)), summary["wall_time"])
    display.show_summary(display.console(), summary)


def _evaluate(arguments: Arguments, command: Sequence[str]) -> None:
    from research.training import display, run

    if arguments.thorough:
        _judge(arguments)
        return
    evaluation = run.evaluate(arguments.run, split=arguments.split)
    if arguments.against is not None:
        from research.training import judging

        evaluation["against"] = judging.compare_runs(arguments.run, arguments.against, arguments.split)
    _print(arguments, evaluation, lambda console: display.show_evaluation(console, evaluation))


def _judge(arguments: Arguments) -> None:
    from research.training import judging, judging_display

    judged = judging.judge_run(arguments.run, arguments.split, against=arguments.against)
    judged = judging.write_judgement(judged)
    _print(arguments, judged, lambda console: judging_display.show_judgement(console, judged))


def _explain(arguments: Arguments, command: Sequence[str]) -> None:
    from research.explanation import display, explaining

    told = explaining.explain_run(arguments.run, arguments.pictures, split=arguments.split)
    _print(arguments, told, lambda console: display.show_explanation(console, told))


def _predict(arguments: Arguments, command: Sequence[str]) -> int:
    from research.commandline.console import progress
    from research.deployment import display, predicting

    with progress("files") as done:
        found = predicting.predict(arguments.run, arguments.pictures, done)
    problems = UserError(*found.problems) if found.problems else None
    if problems and not found.predictions:
        raise problems
    if arguments.format == "csv":
        print(predicting.as_csv(found.predictions), end="")
    else:
        _print(arguments, found.predictions, lambda console: display.show_predictions(console, found.predictions))
    if problems:
        _show_problems(problems)
    return 1 if problems else 0


def _sample(arguments: Arguments, command: Sequence[str]) -> None:
    from research.training import display, run

    how = {name: getattr(arguments, name) for name in ("temperature", "top_k", "top_p", "seed")}
    console = display.console()
    if arguments.format == "table" and console.is_terminal:  # as it is written
        display.show_prompt(console, arguments.prompt)
        show = functools.partial(print, end="", flush=True)
        run.sample(arguments.run, arguments.prompt, count=arguments.tokens, on_text=show, **how)
        print()
        return
    sampled = run.sample(arguments.run, arguments.prompt, count=arguments.tokens, **how)
    _print(arguments, sampled, lambda console: display.show_sample(console, sampled))


def _export(arguments: Arguments, command: Sequence[str]) -> None:
    if arguments.layout is None and Path(arguments.to or "").suffix not in WEIGHTS:
        from research.deployment import display, exporting

        asked = None if arguments.formats is None else arguments.formats.split(",")
        told = exporting.export(arguments.run, arguments.to, asked)
        _print(arguments, told, lambda console: display.show_export(console, told))
        return
    from research.training import display, exporting

    if arguments.layout == "adapters":
        told = exporting.export_adapters(arguments.run, arguments.to)
    else:
        told = exporting.export_run(arguments.run, arguments.to, arguments.layout)
    _print(arguments, told, lambda console: display.show_export(console, told))


def _print(arguments: Arguments, data: Any, show: Callable[[Any], None]) -> None:
    """The data as JSON, or as a table for people."""
    if arguments.format == "json":
        from research.jsonl import encode

        print(json.dumps(encode(data), indent=2))
    else:
        from research.commandline.console import console

        show(console())


_ACTIONS_ON_RUNS = {
    "train": _resume,
    "evaluate": _evaluate,
    "explain": _explain,
    "predict": _predict,
    "sample": _sample,
    "export": _export,
}


if __name__ == "__main__":
    signal.signal(signal.SIGINT, _interrupt)
    # Nearly all that is imported stays to the end, and Python looks through it for cycles, once more as it ends: seldom
    # here, and not at the end, which takes 0.8 s off a prediction of 3.7.
    gc.set_threshold(10_000, 20, 20)
    status = main(sys.argv, may_restart=True)
    gc.freeze()
    sys.exit(status)
