"""A trained network as it is used gives what the run gave."""

import numpy as np
import pytest

from research.data import Digits
from research.deployment.trained import probabilities, read_trained
from research.models import MLP
from research.training import Experiment, evaluation, run, steps
from research.training.folder import open_run
from research.training.plan import boundary
from research.training.reading import load_best, load_for, read_experiment


@pytest.mark.parametrize("scan", [False, True])
def test_it_is_the_best_checkpoint_of_its_run(tmp_path, scan):
    model = MLP(depth=3, width=8, residual=True, scan=scan)
    summary = run.train(Experiment(data=Digits(), model=model, duration=steps(20)), workdir=str(tmp_path))
    trained = read_trained(summary["folder"])
    folder = open_run(summary["folder"])
    experiment = read_experiment(folder)
    loaded, plan = load_for(folder, experiment)
    state, frozen = load_best(folder, experiment, plan)
    raw, normalisation = loaded.splits["test"].inputs[:32], evaluation.as_float32(loaded.normalisation)
    theirs = evaluation.probabilities(plan, boundary(experiment), frozen, *state.used(), raw, normalisation)
    ours = probabilities(trained, trained.parameters, trained.model_state, raw)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert {path for path in trained.parameters if path.startswith("block_")} == {
        f"block_0{block}/dense/{name}" for block in range(3) for name in ("kernel", "bias")
    }
