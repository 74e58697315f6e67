"""Every experiment, each in a process of its own as its docstring says, and what came of it as a table of Markdown.

    python experiments/benchmarks/experiments.py                    all of them, into experiments/RESULTS.md
    python experiments/benchmarks/experiments.py --only vgg resnet  some of them; the table's other rows stay
    python experiments/benchmarks/experiments.py --steps 3          a few steps of each, to see that they run

An experiment whose command begins with a variable (MNIST_DIR=...) is skipped where that is not set, and one that is
about a run where that is not there. One that fails does not stop the others; the exit status is then 1. With --steps,
figures mean nothing and are printed only, unless --out names a file.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from research.commandline.listing import Listed, find_experiments  # noqa: E402

HEADER = ("experiment", "model", "parameters", "steps", "seconds", "test split", "date", "versions")
TITLE = """# What the experiments come to

Written by `python experiments/benchmarks/experiments.py`. One run each, on one machine on one day: seconds are those of
the whole command, and differ from machine to machine.
"""


def main(arguments: Sequence[str]) -> int:
    """Runs the experiments asked for, writes the table after each, and returns the exit status."""
    asked = parse(arguments)
    experiments = find_experiments(asked.folder)
    if unknown := set(asked.only) - {listed.name for listed in experiments}:
        print(f"--only: no experiment {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    out = asked.out or (ROOT / "experiments" / "RESULTS.md" if asked.steps is None else None)
    rows = read_table(out) if out is not None and out.exists() else {}
    failed = []
    for listed in experiments:
        if asked.only and listed.name not in asked.only:
            continue
        if (variable := missing_variable(listed)) is not None:
            print(f"{listed.name}: skipped, since {variable} is not set", flush=True)
            continue
        if (needed := missing_run(asked.folder / f"{listed.name}.py")) is not None:
            print(f"{listed.name}: skipped, since there is no run {needed}", flush=True)
            continue
        row = run(listed, asked.folder, asked.steps)
        print(f"{listed.name}: {row['test split']}, {row['seconds']} s", flush=True)
        rows[listed.name] = row
        if row["test split"] == FAILED:
            failed.append(listed.name)
        if out is not None:
            out.write_text(f"{TITLE}\n{show_table(rows)}\n")
    if out is None:
        print(f"\n{show_table(rows)}")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="the experiments to run")
    parser.add_argument("--steps", type=int, metavar="N", help="train for N steps")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the table; experiments/RESULTS.md by default")
    parser.add_argument("--folder", type=Path, default=ROOT / "experiments", help="where the experiments are")
    return parser.parse_args(arguments)


def missing_variable(listed: Listed) -> str | None:
    """The variable that an experiment's command begins with, where the environment does not have it."""
    variable, equals, _ = listed.command.split(maxsplit=1)[0].partition("=")
    return variable if equals and not os.environ.get(variable) else None


# ---------------------------------------------------------------------------------------------------------------------
# Running

NO_TRAINING, FAILED = "no training", "failed"


def run(listed: Listed, folder: Path, steps: int | None) -> dict[str, str]:
    """An experiment run by launch.py in a process of its own: its row of the table."""
    file = folder / f"{listed.name}.py"
    with tempfile.TemporaryDirectory() as workdir:
        command = [sys.executable, "launch.py", "--config", str(file), "--workdir", workdir]
        if steps is not None and (trained := trains(file)) is not None:
            command += [f"{trained}.duration", f"{steps} steps", f"{trained}.evaluate_every", f"{steps} steps"]
        begun = time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        seconds = time.perf_counter() - begun
        if done.returncode != 0:
            print(done.stdout[-2000:], done.stderr[-4000:], sep="\n", file=sys.stderr, flush=True)
        found = figures(Path(workdir)) if done.returncode == 0 else {"test split": FAILED}
    versions = [f"Python {platform.python_version()}"]
    versions += [f"{name} {importlib.metadata.version(name)}" for name in ("jax", "flax")]
    row = {
        "experiment": f"`{listed.name}`",
        "seconds": f"{seconds:.0f}",
        "date": datetime.date.today().isoformat(),
        "versions": ", ".join(versions),
    }
    return {column: (row | found).get(column, "") for column in HEADER}


def trains(file: Path) -> str | None:
    """Where the overrides of what a config file trains begin; None for lessons, which know no steps.

    What is broken fails when it is run.
    """
    from research.commandline.loading import load_config
    from research.errors import UserError
    from research.sweeps import Sweep
    from research.training.experiment import Experiment

    try:
        config = load_config(str(file), (object,)).config
    except UserError:
        return None
    return "--config" if isinstance(config, Experiment) else "--config.base" if isinstance(config, Sweep) else None


def missing_run(file: Path) -> str | None:
    """The run that a config file is to compress, if it is not there."""
    from research.commandline.loading import load_config
    from research.deployment.compression import Compression
    from research.errors import UserError

    try:
        config = load_config(str(file), (object,)).config
    except UserError:
        return None
    return config.run if isinstance(config, Compression) and not (ROOT / config.run).exists() else None


def figures(workdir: Path) -> dict[str, str]:
    """What the one run in a folder came to; of a sweep, its best trial."""
    summaries = list(workdir.glob("*/*/summary.json"))
    if not summaries:
        return {"test split": NO_TRAINING}
    summary = json.loads(summaries[0].read_text())
    if "trials" in summary:
        best = summary["best"]
        return {
            "model": f"the best of {summary['done']:,} trials",
            "steps": f"{best['steps']:,}",
            "test split": show_figures(best["test"]),
        }
    inspected = json.loads(summaries[0].with_name("inspection.json").read_text())
    return {
        "model": inspected["model"],
        "parameters": f"{inspected['parameters']:,}",
        "steps": f"{summary['steps']:,}",
        "test split": show_figures(summary["test"]),
    }


def show_figures(test: dict[str, Any]) -> str:
    """The figures of a test split: of a language model those that are used for one, of a classifier its accuracy."""
    shown = [f"{test[name]:.3f} {name.replace('_', ' ')}" for name in test if name.startswith("bits_per_")]
    if "perplexity" in test:
        shown.append(f"perplexity {test['perplexity']:.2f}")
    return ", ".join([*shown, f"{100 * test['accuracy']:.2f} %"])


# ---------------------------------------------------------------------------------------------------------------------
# The table


def show_table(rows: dict[str, dict[str, str]]) -> str:
    """Rows by the name of their experiment, as Markdown."""
    lines = [HEADER, ["---"] * len(HEADER), *([rows[name][column] for column in HEADER] for name in sorted(rows))]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def read_table(file: Path) -> dict[str, dict[str, str]]:
    """The rows that a file of ours holds."""
    lines = [line.strip().strip("|").split("|") for line in file.read_text().splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line] for line in lines]
    return {line[0].strip("`"): dict(zip(HEADER, line, strict=True)) for line in cells}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
