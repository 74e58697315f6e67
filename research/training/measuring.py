"""The process that `tuning` measures a choice with: it trains an experiment, for a moment whenever it is told to.

python -m research.training.measuring exp.py:small '[["optimizer.learning_rate", ["1e-3"]]]'

Its answers are lines of JSON, {"platform": "cpu"} to begin with, and then {"ms": 4.2} for each line that it reads.
"""

import json
import os
import sys
from typing import Any

from research import runtime


def main(config_file: str, overrides: str) -> None:
    """Answers until there is nothing more to read."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what else is printed is no answer

    def answer(**what: Any) -> None:
        print(json.dumps(what), file=answers, flush=True)

    runtime.remember_programs()
    import jax

    from research.commandline import loading
    from research.commandline.overrides import Override, apply
    from research.errors import UserError
    from research.training.experiment import Experiment
    from research.training.first_steps import FirstSteps
    from research.training.tuning import SECONDS

    try:
        config = loading.load_config(config_file, (Experiment,)).config
        steps = FirstSteps(apply(config, [Override(path, tuple(values)) for path, values in json.loads(overrides)]))
        count = steps.warm(SECONDS)
        answer(platform=jax.default_backend())
        for _ in sys.stdin:
            answer(ms=1e3 * steps.take(count) / count)
    except UserError as error:
        answer(error=error.problems[0])
    except Exception as error:
        answer(error=f"{type(error).__name__}: {error}".partition("\n")[0])


if __name__ == "__main__":
    main(*sys.argv[1:])
