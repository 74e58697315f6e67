"""What the command line does with a `Compression`: runs its methods, checks each against the budget, keeps what passes.

    runs/compress_digits/20260101-120000-3fa9c1/
      compression.json    the config, where it ran, and a row for each network
      table.csv           the same rows
      accuracy.png        accuracy by size, cost and time
      report.html         both on one page
      networks/           a folder for each network that keeps within the budget; see `storage`
      config.py           the file that it came from

There is no config.json in it: what looks for training runs does not meet compressions.

A network that loses more than the budget is told of, and not kept. If none keeps within it, the folder holds the table
alone, and that is an error: nothing is there to be handed on.
"""

import csv
import dataclasses
import io
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from research.config import fingerprint, to_json
from research.deployment import trained
from research.deployment.compression import display, figure, report
from research.deployment.compression.base import Compressed, Work
from research.deployment.compression.compression import Compression, slug
from research.deployment.compression.measuring import counted, judge, latencies, outcomes
from research.deployment.compression.sentences import in_points
from research.deployment.compression.storage import packed, serialised, write_compressed
from research.errors import UserError
from research.jsonl import write_atomically
from research.training import folder
from research.training.reading import load_for, read_experiment

ORIGINAL = "original"
TIMES = (
    ("smaller", "bytes"),
    ("smaller_plain", "bytes_plain"),
    ("cheaper", "flops"),
    ("faster", "milliseconds"),
)
"""(what a network is so many times, by which figure of it and of the original)."""


def compress(
    config: Compression,
    *,
    workdir: str = "runs",
    config_file: Path | None = None,
    command: Sequence[str] = (),
    changes: Sequence[str] = (),
) -> dict[str, Any]:
    """Runs the methods of a compression, shows and returns what each came to, as compression.json holds it.

    Raises UserError, before anything is computed, for a run that is not there and methods that do not apply; of a
    budget that none keeps within, `check_budget` does.
    """
    source = open_run(config.run)
    work = read_work(source)
    check(config, work)
    console, begun = display.console(), time.monotonic()
    kept = folder.create(workdir, config.name or "compression", fingerprint(config))
    try:
        display.show_opening(console, config, work, changes)
        made = []
        for method in config.methods:
            display.show_method(console, method.title)
            made.append(method.compress(work))
        rows = measure(config, work, made)
        for index, (row, compressed) in enumerate(zip(rows[1:], made, strict=True)):
            if row["within"]:
                into = kept.path / "networks" / slug(row["network"])
                write_compressed(into, compressed.network, about(config, index, rows, compressed, command), source)
                row["folder"] = str(into)
        told = {
            "config": to_json(config),
            "environment": folder.environment(command, config_file),
            "seconds": time.monotonic() - begun,
            "source": dict(work.trained.about),
            "budget": config.budget,
            "split": config.split,
            "examples": len(work.loaded.splits[config.split]),
            "batch": config.batch,
            "rows": rows,
        }
        write(kept, told, config_file)
    except BaseException:
        shutil.rmtree(kept.path, ignore_errors=True)
        raise
    display.show_rows(console, told)
    display.show_end(console, kept.path)
    return {**told, "folder": str(kept.path)}


def check_budget(told: Mapping[str, Any]) -> None:
    """Raises UserError where no network that was made keeps within the budget."""
    if not any(row["within"] for row in told["rows"][1:]):
        raise UserError(
            f"budget: no network keeps within {in_points(told['budget'])}, so none is handed on; the table is in "
            f"{told['folder']}"
        )


def open_run(path: str) -> folder.RunFolder:
    """The run to be compressed. Raises UserError, with how to make it where an experiment has its name."""
    try:
        return folder.open_run(path)
    except UserError as error:
        experiment = Path("experiments") / f"{Path(path).name}.py"
        if Path(path).exists() or not experiment.is_file():
            raise
        how = f"; train it first: python launch.py --config {experiment}"
        raise UserError(f"run: {error.problems[0].partition(';')[0]}{how}") from None


def read_work(source: folder.RunFolder) -> Work:
    """What the methods work on. Raises UserError where the run has no checkpoint, or its data has changed."""
    network = trained.read_trained(str(source.path))
    experiment = read_experiment(source)
    loaded, _ = load_for(source, experiment)
    return Work(network, dataclasses.replace(experiment, model=network.model), loaded)


def check(config: Compression, work: Work) -> None:
    """Raises UserError with a line for each method that does not apply to the network."""
    model = type(work.trained.model).__name__
    problems = [
        f"methods.{index}: {method.title}: {model} {problem}"
        for index, method in enumerate(config.methods)
        for problem in method.unsuited(work)
    ]
    if problems:
        raise UserError(*problems)


def measure(config: Compression, work: Work, made: Sequence[Compressed]) -> list[dict[str, Any]]:
    """A row of plain data for the original, and one for each network made of it."""
    networks = [work.trained, *(compressed.network for compressed in made)]
    titles = [ORIGINAL, *(method.title for method in config.methods)]
    right = outcomes(work, networks, config.split)
    seconds = latencies(work, networks, config.split, batch=config.batch, rounds=config.rounds)
    rows = []
    for index, (title, network) in enumerate(zip(titles, networks, strict=True)):
        accuracy, lost = judge(right[0], right[index])
        rows.append(
            {
                "network": title,
                "bytes": len(packed(network)),
                "bytes_plain": len(serialised(network)),
                **counted(network)._asdict(),
                "milliseconds": 1e3 * seconds[index],
                "accuracy": accuracy.value,
                "accuracy_low": accuracy.low,
                "accuracy_high": accuracy.high,
                "lost": lost.value,
                "lost_low": lost.low,
                "lost_high": lost.high,
                "within": bool(lost.value <= config.budget + 1e-9),
                **{f"times_{name}": None for name, _ in TIMES},
                "folder": None,
                "told": made[index - 1].told if index else {},
            }
        )
    for row in rows:
        for name, amount in TIMES:
            row[f"times_{name}"] = rows[0][amount] / row[amount]
    return rows


def about(
    config: Compression, index: int, rows: Sequence[Mapping[str, Any]], compressed: Compressed, command: Sequence[str]
) -> dict[str, Any]:
    """What a network's own folder tells of how it was made, and what that cost."""
    alone = dataclasses.replace(config, methods=(config.methods[index],))
    original, row = rows[0], rows[index + 1]
    figures = ("accuracy", "lost", "lost_low", "lost_high", *(f"times_{name}" for name, _ in TIMES[:3]))
    judged = {name: row[name] for name in figures} | {"original accuracy": original["accuracy"]}
    return {
        "method": row["network"],
        "told": compressed.told,
        "compression": to_json(alone),
        "judged": judged,
        "command": list(command),
    }


def write(kept: folder.RunFolder, told: dict[str, Any], config_file: Path | None) -> None:
    """Writes what a compression came to, in all its forms. Raises UserError."""
    if config_file is not None and config_file.suffix == ".py":
        kept.copy_config_file(config_file)
    kept.write_json("compression.json", told)
    write_atomically(kept.path / "table.csv", as_csv(told["rows"]).encode())
    write_atomically(kept.path / "accuracy.png", figure.as_png(told))
    write_atomically(kept.path / "report.html", report.page_of(told).encode())


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a table, but for what methods tell of themselves."""
    columns = [name for name in rows[0] if name != "told"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
