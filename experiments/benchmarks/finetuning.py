"""What it costs to train a part: time, memory as predicted and as it is, and our step against one written by hand.

    python experiments/benchmarks/finetuning.py              about ten minutes on two cores
    python experiments/benchmarks/finetuning.py --rounds 3   fewer rounds, and so less sure
    python experiments/benchmarks/finetuning.py --quick      a tiny network: does it run?

A transformer of 12 blocks of width 384 on 16 pictures of 64 patches is trained in full; its last two blocks; its head;
adapters of rank 8 on queries and values, with the head; and the last two blocks and the head on features, what the
frozen beginning makes of the pictures being computed once, as a run does it where nothing changes the pictures. All
take turns in one process, with the flags and the allocator that `launch.py` sets. Printed are the median of the rounds,
with the least and the most in brackets, and ratios, which are taken round by round.

    time       of a step, inside our own compiled chunk of steps
    memory     bytes trained and of optimizer state, as our inspection predicts them and as the arrays are; and what is
               kept for the backward pass, as predicted, beside all temporary bytes of the compiled gradient
    by hand    our step, alone, against the leanest one for the same parts: `value_and_grad` over a dict of what is
               trained, `optax.adamw`, what is frozen passed as it is and not donated. Both begin with the same
               parameters, and that they come to the same is checked first.
"""

import argparse
import functools
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import jax  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
from core import Prepared, interleaved, seconds_until_computed, table  # noqa: E402

from research import runtime  # noqa: E402
from research.data import Glyphs  # noqa: E402
from research.models import ViT  # noqa: E402
from research.parameters import LoRA, last_blocks, linear_probe  # noqa: E402
from research.training import AdamW, Experiment, Finetuning, features, step, steps  # noqa: E402
from research.training.groups import is_decayed  # noqa: E402
from research.training.inspecting import inspect_experiment  # noqa: E402
from research.training.loop import lengths  # noqa: E402

RATE, DECAY = 1e-4, 1e-2
GOALS = {
    "full": 1.0,
    "last two blocks": 0.38,
    "last two blocks on features": 0.38,
    "head": 0.26,
    "head on features": 0.001,
    "LoRA": 0.62,
}
ON_FEATURES = " on features"


class Size(NamedTuple):
    """How large all is."""

    model: ViT
    data: Glyphs
    batch: int
    rounds: int
    long: int
    """Steps in a turn of what is quick."""


FULL = Size(
    ViT(depth=12, width=384, heads=6, patch=4), Glyphs(size=32, examples=64, validation=16, test=16), 16, 7, 500
)
QUICK = Size(ViT(depth=3, width=16, heads=2, patch=4), Glyphs(size=8, examples=16, validation=10, test=10), 8, 2, 10)


def experiments(size: Size) -> dict[str, Experiment]:
    """The same training of more or less of the network."""
    low_rank = LoRA("attention/(query|value)/kernel", rank=8)
    parts = {
        "full": None,
        "last two blocks": Finetuning(partition=last_blocks(2)),
        "head": Finetuning(partition=linear_probe(new_head=False)),
        "LoRA": Finetuning(partition=linear_probe(new_head=False), adapters=(low_rank,)),
    }
    make = functools.partial(
        Experiment,
        data=size.data,
        model=size.model,
        optimizer=AdamW(learning_rate=RATE, weight_decay=DECAY),
        duration=steps(10**6),
        batch_size=size.batch,
        norms="none",
        devices=1,
    )
    return {name: make(finetuning=part) for name, part in parts.items()}


class Subject(NamedTuple):
    """A training that is ready: its plan and data, and all that is not donated."""

    it: Prepared
    plan: Any
    data: Any
    frozen: dict[str, jax.Array]

    def state(self) -> Any:
        """A new state."""
        return jax.block_until_ready(step.initial_state(self.it.plan, self.it.leaves)[0])

    @classmethod
    def of(cls, experiment: Experiment, *, cached: bool = False) -> "Subject":
        """With features in the place of pictures, if `cached`."""
        from research.training.evaluation import to_device

        it = Prepared.of(experiment)
        state, frozen = step.initial_state(it.plan, it.leaves)
        if not cached:
            return cls(it, it.plan, it.data, frozen)
        cut = features.find_cut(it.plan, experiment, it.loaded)
        plan, loaded = features.on_features(it.plan, experiment, it.loaded, cut, state, frozen)
        return cls(it, plan, to_device(plan, loaded.splits["train"], None), frozen)


# ---------------------------------------------------------------------------------------------------------------------
# Time


def turn(subject: Subject, count: int) -> Callable[[], float]:
    """Seconds of a step, in a chunk of so many."""
    kept = [subject.state()]

    def run() -> float:
        def chunk() -> Any:
            kept[0], logged = step.train_chunk(
                subject.plan, subject.it.leaves, subject.frozen, kept[0], subject.data, lengths(0, [count])
            )
            return kept[0], logged

        return seconds_until_computed(chunk) / count

    run()  # compiles
    return run


def times(subjects: Mapping[str, Subject], size: Size, rounds: int) -> list[tuple[str, ...]]:
    """A row for each: milliseconds a step, the ratio to full, and the goal."""
    turns = [turn(subject, size.long if name == "head on features" else 1) for name, subject in subjects.items()]
    taken = dict(zip(subjects, interleaved(*turns, rounds=rounds), strict=True))
    rows = []
    for name, own in taken.items():
        ratios = [mine / full for mine, full in zip(own, taken["full"], strict=True)]
        rows.append((name, spread(own, 1e3), spread(ratios), f"{GOALS[name]:g}"))
    return rows


# ---------------------------------------------------------------------------------------------------------------------
# Memory


def memory(subjects: Mapping[str, Subject]) -> list[tuple[str, ...]]:
    """A row for each: bytes as predicted and as they are. Raises AssertionError where these are not the same."""
    rows = []
    for name, subject in subjects.items():
        found = inspect_experiment(subject.it.experiment, subject.plan, subject.it.loaded).memory
        state = subject.state()
        trained = sum(value.nbytes for value in state.trainable.values())
        optimizer = sum(leaf.nbytes for leaf in jax.tree.leaves(state.optimizer_state))
        predicted = found.parameters - found.frozen
        assert (predicted, found.optimizer) == (trained, optimizer), (
            name,
            predicted,
            trained,
            found.optimizer,
            optimizer,
        )
        there = temporaries(subject, state)
        sizes = (predicted, trained, found.optimizer, optimizer, found.activations, there)
        rows.append((name, *(f"{size:,}" for size in sizes), f"{found.activations / there:.2f}" if there else ""))
    return rows


def temporaries(subject: Subject, state: Any) -> int:
    """All that the compiled gradient holds besides its arguments and results."""
    batch = jax.eval_shape(lambda data: batch_of(subject, data), subject.data)
    gradient = jax.jit(functools.partial(step.loss_and_gradient, subject.plan))
    arguments = (subject.it.leaves, subject.frozen, state.trainable, state.model_state, batch, jax.random.key(0))
    return gradient.lower(*arguments).compile().memory_analysis().temp_size_in_bytes


def batch_of(subject: Subject, data: Any) -> dict[str, jax.Array]:
    """That of the first step."""
    zero = np.uint32(0)
    return step.batch_at(subject.plan, subject.it.leaves, data, zero, zero)


# ---------------------------------------------------------------------------------------------------------------------
# By hand


def by_hand(subject: Subject) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """(initial optimizer state of trainable, the step) as short as they can be."""
    network, decayed = subject.plan.network(subject.it.experiment), is_decayed(subject.plan)
    optimizer = optax.adamw(RATE, weight_decay=DECAY, mask=lambda tree: {path: decayed[path] for path in tree})

    @functools.partial(jax.jit, donate_argnums=(1, 2))
    def train(frozen, trainable, moments, inputs, labels):
        def loss(trainable):
            logits, _ = network.apply(subject.plan.merge(trainable, frozen, {}), inputs, train=True)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        value, gradient = jax.value_and_grad(loss)(trainable)
        updates, moments = optimizer.update(gradient, moments, trainable)
        return optax.apply_updates(trainable, updates), moments, value

    return optimizer.init, train


def pair(subject: Subject) -> tuple[Callable[[], float], Callable[[], float]]:
    """A turn of a step by hand, and of ours, that were checked to do the same."""
    begin, train = by_hand(subject)
    ours = jax.jit(functools.partial(step.train_step, subject.plan), donate_argnums=2)
    batch = jax.jit(functools.partial(batch_of, subject))(subject.data)
    state = subject.state()
    trainable = jax.tree.map(jax.numpy.array, state.trainable)
    hand = [trainable, begin(trainable)]
    mine = [state]

    def run_hand() -> float:
        def one() -> Any:
            hand[0], hand[1], value = train(subject.frozen, hand[0], hand[1], batch["inputs"], batch["labels"])
            return hand, value

        return seconds_until_computed(one)

    def run_ours() -> float:
        def one() -> Any:
            mine[0], told = ours(subject.it.leaves, subject.frozen, mine[0], batch)
            return mine[0], told

        return seconds_until_computed(one)

    run_hand(), run_ours()  # compile
    for path, value in hand[0].items():
        if path.endswith("key/bias"):  # the softmax takes no note of it: its gradient is rounding
            continue
        moved = np.abs(np.asarray(mine[0].trainable[path]) - np.asarray(value))
        assert np.median(moved) < 0.01 * RATE, path  # where a gradient is rounding alone, Adam takes its sign
    return run_hand, run_ours


def against_hand(subjects: Mapping[str, Subject], rounds: int) -> list[tuple[str, ...]]:
    """A row for each: milliseconds a step of both, and ours by that written by hand."""
    rows = []
    for name, subject in subjects.items():
        hand, ours = interleaved(*pair(subject), rounds=rounds)
        ratios = [mine / lean for mine, lean in zip(ours, hand, strict=True)]
        rows.append((name, spread(hand, 1e3), spread(ours, 1e3), spread(ratios)))
    return rows


# ---------------------------------------------------------------------------------------------------------------------


def spread(values: list[float], unit: float = 1.0) -> str:
    """Median, least and most."""
    return f"{statistics.median(values) * unit:.4g} ({min(values) * unit:.4g} to {max(values) * unit:.4g})"


def main(arguments: list[str]) -> None:
    """Prints the three tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tiny network, two rounds")
    parser.add_argument("--rounds", type=int, metavar="N", help="turns of each")
    asked = parser.parse_args(arguments)
    size = QUICK if asked.quick else FULL
    rounds = asked.rounds or size.rounds
    begun = time.perf_counter()
    found = experiments(size)
    subjects = {name: Subject.of(experiment) for name, experiment in found.items()}
    cached = {name + ON_FEATURES: Subject.of(found[name], cached=True) for name in ("last two blocks", "head")}
    header = ("trained", "ms a step", "ratio to full", "goal")
    table("Time of a step", header, times(subjects | cached, size, rounds))
    header = ("trained", "trained B", "there", "optimizer B", "there", "kept B", "temporary B", "ratio")
    table("Memory, predicted and there", header, memory(subjects))
    header = ("trained", "by hand, ms", "ours, ms", "ratio (goal: at most 1.02)")
    table("Our step against one by hand", header, against_hand(subjects, rounds))
    print(f"{rounds} rounds, {time.perf_counter() - begun:.0f} s in all")


if __name__ == "__main__":
    runtime.keep_memory()
    runtime.tune()
    main(sys.argv[1:])
