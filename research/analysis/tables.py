"""The networks of a sweep as a table.

networks = load_networks("runs/depth_sweep")                   # a row a network: figures with intervals, and costs
networks.pivot(index="depth", columns="series", values="test.accuracy")
"""

from pathlib import Path
from typing import TYPE_CHECKING

from research.analysis.answers import answers
from research.analysis.sweeps import read_sweep

if TYPE_CHECKING:
    import pandas


def load_networks(folder: Path | str) -> "pandas.DataFrame":
    """A row for each network of the newest sweep in `folder`: a program at the values that validation chose for it.

    Columns: `program`, `series`, `budget`, `network` (its numbers), `depth`, `seeds`, `fresh` (judged on fresh seeds),
    the chosen values by path; means over seeds by name ("validation.accuracy", "test.loss", "train.loss"); "low" and
    "high" of the 95 % interval of test figures; `difference` from the best in the test figure that the sweep selects
    by, with its interval and the corrected `p`; the share of draws in which it is `best_in`; `is_best`, `is_smallest`
    (that is as good), `on_front`; and costs. Raises UserError where there is no sweep.
    """
    import pandas

    found = answers(read_sweep(folder))
    rows = []
    for network in found.networks:
        told = found.compared.get(network.program)
        row = {
            "program": network.program,
            "series": network.series,
            "budget": found.budget(network),
            "network": network.label,
            "depth": network.depth,
            "seeds": len(network.trials),
            "fresh": network.is_fresh,
            **network.setting,
            **{name: float(values.mean()) for name, values in network.figures.items()},
        }
        for measure, intervals in found.intervals.items():
            row[f"test.{measure}.low"] = intervals[network.program].low
            row[f"test.{measure}.high"] = intervals[network.program].high
        row |= {
            "difference": told.difference.value if told else 0.0,
            "difference.low": told.difference.low if told else 0.0,
            "difference.high": told.difference.high if told else 0.0,
            "p": told.p if told else 1.0,
            "best_in": found.chances.get(network.program),
            "is_best": network is found.best,
            "is_smallest": network is found.smallest,
            "on_front": network in found.front,
            "receptive_field": network.field,
            "parameters": network.parameters,
            "trainable": network.trainable,
            "multiply_adds": network.multiply_adds,
            "training_flops": network.training_flops,
        }
        rows.append(row)
    return pandas.DataFrame(rows)
