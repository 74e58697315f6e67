"""A page about a pipeline that needs nothing else: how it ended and why, its stages as a diagram, every attempt.

Path("report.html").write_text(page("runs/pipeline_digits"))
"""

import html
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from research.analysis import page as shell
from research.analysis.sweeps import si
from research.errors import UserError
from research.jsonl import read_json

STYLE = """
.flow { align-items: stretch; display: flex; flex-wrap: wrap; gap: .8rem 2.2rem; margin: 1.2rem 0 }
.stage { border: 1px solid var(--line); border-top: 4px solid var(--line); border-radius: 6px; flex: 1 1 12rem;
  max-width: 20rem; padding: .6rem .8rem; position: relative }
.stage:not(:last-child)::after { color: var(--quiet); content: "\\2192"; font-size: 1.3rem; position: absolute;
  right: -1.75rem; top: calc(50% - 1rem) }
.stage.held { border-top-color: #2e9e5b } .stage.failed { border-top-color: #d24b3e }
.stage.ahead { border-style: dashed; color: var(--quiet) }
.stage h3 { font-size: 1rem; margin: 0 } .stage p { font-size: .87rem; margin: .2rem 0 }
.stage ol { font-size: .87rem; margin: .4rem 0 0; padding-left: 1.2rem } .stage li { margin: .15rem 0 }
.whole { white-space: nowrap } td.changed { min-width: 12rem; white-space: normal }
.yes { color: #2e9e5b } .no { color: #d24b3e }
@media (max-width: 40rem) { .flow { flex-direction: column; gap: 1.8rem } .stage { flex-basis: auto; max-width: none }
  .stage:not(:last-child)::after { bottom: -1.75rem; content: "\\2193"; right: 50%; top: auto } }
@media print { .stage { break-inside: avoid } }
"""
PERCENT = ("accuracy", "recall", "precision", "f1", "ece", "points_lost")
"""What a figure's name ends with that is shown in per cent."""
SIGNS = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than"}


def page(folder: Path | str) -> str:
    """The page of the pipeline in a folder. Raises UserError where there is none."""
    path = Path(folder, "pipeline.json")
    if not path.is_file():
        raise UserError(f"{folder}: holds no pipeline.json, so it is no pipeline's")
    told = read_json(path)
    parts = (
        f"<style>{STYLE}</style>",
        f"<header><h1>{_text(told['name'])}</h1><p class=quiet>{_text(_state(told))}</p></header>",
        f"<section class=verdict>{''.join(_verdict(told))}</section>",
        f"<section class=flow>{''.join(_stages(told))}</section>",
        *(_attempts(stage, Path(told["folder"])) for stage in told["stages"]),
    )
    return shell.page(told["name"], "\n".join(parts))


def _text(value: Any) -> str:
    return html.escape(str(value))


def _state(told: Mapping[str, Any]) -> str:
    done = sum(_held(stage) for stage in told["stages"])
    took = f", {told['seconds']:.0f} s" if "seconds" in told else ""
    return f"{done} of {len(told['plan'])} stages done{took}."


def _held(stage: Mapping[str, Any]) -> bool:
    return bool(stage["attempts"]) and stage["attempts"][-1]["holds"]


# ---------------------------------------------------------------------------------------------------------------------
# What happened and why


def sentence(told: Mapping[str, Any]) -> str:
    """How it ended, in a sentence."""
    stages, last = told["stages"], (told["stages"] or [{}])[-1]
    if told["reason"] == "finished":
        final = stages[-1]
        judged = [each for stage in stages if stage["attempts"] for each in stage["attempts"][-1]["judged"]]
        held = f"all {len(judged)} conditions hold" if judged else "no stage has a gate"
        return f"Every stage is done, and {held}; what came of the last, {final['name']}, is in {_within(final, told)}."
    if told["reason"] == "not good enough":
        ways = len(last["attempts"])
        missed = "; ".join(_missed(each) for each in last["attempts"][-1]["judged"] if not each["holds"])
        tried = f" after {ways} ways were tried" if ways > 1 else ""
        return f"{last['name']} is not good enough{tried}: {missed}. What comes after it was not run."
    if told["reason"] == "failed":
        return f"{last.get('name', 'It')} failed: {'; '.join(told.get('problems', ()))}"
    if told["reason"] == "interrupted":
        return f"Interrupted at {last.get('name', 'the start')}; the same command goes on from there."
    return f"Under way, at {last.get('name', 'the start')}."


def _missed(judged: Mapping[str, Any]) -> str:
    name, *on, sign, bound = judged["condition"].split()
    asked = f"{SIGNS[sign]} {figure(name, float(bound))}"
    return f"{' '.join((name, *on))} is {figure(name, judged['value'])}, and {asked} was asked for"


def _verdict(told: Mapping[str, Any]) -> Iterator[str]:
    yield f"<p class=answer>{_text(sentence(told))}</p>"
    notes = []
    for stage in told["stages"]:
        for number, (before, after) in enumerate(zip(stage["attempts"], stage["attempts"][1:], strict=False), start=1):
            missed = "; ".join(_missed(each) for each in before["judged"] if not each["holds"])
            notes.append(f"{stage['name']}, way {number}: {missed}. So next: {after['changes'][-1]}.")
        if len(stage["attempts"]) > 1 and " on test" in stage["gate"]:
            notes.append(
                f"{stage['name']}: {len(stage['attempts'])} ways were judged on the test split, which its figures are "
                "a little too good for."
            )
    if notes:
        yield f"<ul>{''.join(f'<li>{_text(note)}</li>' for note in notes)}</ul>"


def figure(name: str, value: float) -> str:
    """A figure for people: accuracies in per cent, large numbers with a prefix."""
    if name.rpartition("/")[2].endswith(PERCENT):
        return f"{100 * value:.2f} %"
    return si(value) if abs(value) >= 1000 else f"{value:.4g}"


# ---------------------------------------------------------------------------------------------------------------------
# The diagram


def _stages(told: Mapping[str, Any]) -> Iterator[str]:
    reached = {stage["name"]: stage for stage in told["stages"]}
    for planned in told["plan"]:
        stage = reached.get(planned["name"])
        attempts = stage["attempts"] if stage else []
        state = "ahead" if not attempts else "held" if _held(stage) else "failed"
        lines = [f"<h3>{_text(planned['name'])}</h3><p class=quiet>{_text(planned['what'])}</p>"]
        if planned["gate"] and not attempts:
            lines.append(f"<p>asked for: {_text(', '.join(planned['gate']))}</p>")
        if len(attempts) == 1:
            lines.append(f"<p>{_marks(attempts[0])}</p>")
        elif attempts:
            lines.append(f"<ol>{''.join(f'<li>{_way(each)}</li>' for each in attempts)}</ol>")
        yield f"<div class='stage {state}'>{''.join(lines)}</div>"


def _way(attempt: Mapping[str, Any]) -> str:
    """An attempt in a line or two."""
    begun = _text(attempt["changes"][-1] if attempt["changes"] else "as it is")
    return f"{begun}<br>{_marks(attempt)}"


def _marks(attempt: Mapping[str, Any]) -> str:
    """What was asked for, or where nothing was, the first figure of examples."""
    if attempt["judged"]:
        return " ".join(map(_mark, attempt["judged"]))
    for split, values in attempt["figures"].items():
        for name, value in values.items() if split != "network" else ():
            return _text(f"{name} on {split} {figure(name, value)}")
    return ""


def _mark(judged: Mapping[str, Any]) -> str:
    """A condition's figure, and whether it is good enough."""
    name = judged["condition"].split()[0]
    state, sign = ("yes", "&#10003;") if judged["holds"] else ("no", "&#10007;")
    return f"<span class='{state} whole'>{_text(name)} {_text(figure(name, judged['value']))} {sign}</span>"


# ---------------------------------------------------------------------------------------------------------------------
# The attempts


def _attempts(stage: Mapping[str, Any], root: Path) -> str:
    """A table of a stage's attempts: what was changed, what was asked for, all figures."""
    rows = stage["attempts"]
    if not rows:
        return ""
    columns = list(dict.fromkeys(_columns(rows)))
    titles = ("#way", "changed", *(f"#{name} {of}".strip() for of, name in columns), "gate", "#seconds", "folder")
    body = [
        shell.row(
            (
                shell.cell(number),
                f"<td class=changed>{_text('; '.join(attempt['changes']) or '-')}</td>",
                *(_figure_cell(attempt, column) for column in columns),
                shell.cell(_gate(attempt["judged"])),
                shell.cell(f"{attempt['seconds']:.0f}" + (" (done before)" if attempt["was_done"] else "")),
                f"<td>{_link(attempt['folder'], root)}</td>",
            ),
            "best" if attempt["holds"] else "",
        )
        for number, attempt in enumerate(rows, start=1)
    ]
    verdict = next((each["sweep"]["verdict"] for each in rows if each.get("sweep")), None)
    said = f"<p>{_text(verdict)}</p>" if verdict else ""
    return f"<section><h2>{_text(stage['name'])}</h2>{said}{shell.table(stage['name'], titles, body)}</section>"


def _columns(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    for row in rows:
        for of, values in row["figures"].items():
            yield from (("" if of == "network" else of, name) for name in values)


def _figure_cell(attempt: Mapping[str, Any], column: tuple[str, str]) -> str:
    of, name = column
    value = attempt["figures"].get(of or "network", {}).get(name)
    return "<td></td>" if value is None else shell.cell(figure(name, value), float(value))


def _gate(judged: Sequence[Mapping[str, Any]]) -> str:
    return "; ".join(f"{each['condition']} {'holds' if each['holds'] else 'fails'}" for each in judged) or "-"


def _within(stage: Mapping[str, Any], told: Mapping[str, Any]) -> str:
    """The folder of what came of a stage, from that of the pipeline on where it lies in there."""
    return str(_relative(stage["attempts"][-1]["folder"], Path(told["folder"])))


def _relative(folder: str, root: Path) -> Path:
    path = Path(folder)
    return path.relative_to(root) if path.is_relative_to(root) else path


def _link(folder: str, root: Path) -> str:
    """A link from the pipeline's page to a folder."""
    target = _relative(folder, root)
    return f"<a href='{html.escape(str(target))}/'>{_text(target)}</a>"
