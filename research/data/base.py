"""What every dataset comes to: named splits of raw arrays, and how a network is to see them.

A dataset config is loaded into a `Loaded`: three disjoint, stratified splits as they are stored (uint8 pictures stay
uint8), the spec that sizes a model's ends, and a normalisation fitted on the training split alone.

    loaded = Digits().load()
    batch = loaded.splits["train"].read(np.arange(64))      # (64, 8, 8, 1), raw
    inputs = normalise(loaded.normalisation, batch)          # float32, mean 0 and deviation 1 over the training split

Which example is in which split is a fixed hash of its position: it depends on no seed, so that every trial of every
sweep is judged on the same examples. `describe` keeps with a run what its inputs need to be seen as they were.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from research.errors import UserError
from research.spec import Spec

SPLITS = ("train", "validation", "test")
CHUNK_BYTES = 2**20  # of inputs that are turned into float64 at a time: what fits a core's cache
SAMPLE = 10_000  # examples that the normalisation of data too large for memory is fitted on

Kind = Literal["image", "table", "array", "bytes"]
Background = Literal["dark", "light"]


@dataclasses.dataclass(frozen=True)
class Split:
    """Examples in memory. `inputs` (examples, *shape), raw as stored; `labels` (examples,) int32."""

    inputs: np.ndarray
    labels: np.ndarray

    def __len__(self):
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example."""
        return self.inputs.shape[1:]

    @property
    def dtype(self) -> np.dtype:
        """Of the raw inputs."""
        return self.inputs.dtype

    def read(self, indices: np.ndarray) -> np.ndarray:
        """The raw inputs (len(indices), *shape) at these positions of the split."""
        return self.inputs[indices]

    def take(self, indices: np.ndarray) -> "Split":
        """The part of the split at these positions."""
        return Split(self.inputs[indices], self.labels[indices])


@dataclasses.dataclass(frozen=True)
class Streamed:
    """Examples that stay on disk: as `Split`, without `inputs`. `reader` turns rows of the source into raw inputs."""

    labels: np.ndarray
    rows: np.ndarray
    shape: tuple[int, ...]
    dtype: np.dtype
    reader: Callable[[np.ndarray], np.ndarray]

    def __len__(self):
        return len(self.labels)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """The raw inputs (len(indices), *shape) at these positions of the split.

        Raises UserError naming a file that cannot be read.
        """
        return self.reader(self.rows[indices])

    def take(self, indices: np.ndarray) -> "Streamed":
        """The part of the split at these positions."""
        return dataclasses.replace(self, labels=self.labels[indices], rows=self.rows[indices])


class Normalisation(NamedTuple):
    """(x * scale - mean) / deviation; mean and deviation are float32, one for each feature (the last axis)."""

    scale: float
    mean: np.ndarray
    deviation: np.ndarray


class Loaded(NamedTuple):
    """A dataset, read.

    splits: "train", "validation" and "test". Labels of -1 are none: the examples themselves are what is to be told.
    normalisation: None where inputs are tokens, which are names and not amounts.
    kind: "bytes" where tokens are the bytes of a text in UTF-8.
    background: of pictures drawn on a plain one, else None.
    maximum: the raw value of white, where the inputs are pictures whose black is 0, else None.
    """

    spec: Spec
    splits: dict[str, Split | Streamed]
    normalisation: Normalisation | None
    kind: Kind
    background: Background | None = None
    maximum: float | None = None


class Dataset:
    """Base of the configs of datasets."""

    def load(self) -> Loaded:
        """The data, read and checked. Raises UserError for what is missing, damaged or cannot be."""
        raise NotImplementedError(f"{type(self).__name__} has no load()")

    def source(self) -> "Dataset":
        """What `load` depends on: one config for all that load the same."""
        return self


# ---------------------------------------------------------------------------------------------------------------------
# Putting together


def assemble(
    name: str,
    splits: Mapping[str, Split | Streamed],
    names: Sequence[str],
    *,
    kind: Kind,
    scale: float = 1.0,
    background: Background | None = None,
    maximum: float | None = None,
    tokens: int | None = None,
) -> Loaded:
    """Splits, checked against each other, with the normalisation of the training split, unless they are of `tokens`.

    Raises UserError (beginning with `name`) for a split without examples, labels out of range, a single class, a class
    without training examples, splits of different shapes, and inputs that are not finite.
    """
    splits = {split: splits[split] for split in SPLITS}
    train = splits["train"]
    if len(names) < 2:
        raise UserError(f"{name}: a single class ({', '.join(names)}), and two are the least that can be told apart")
    for split, examples in splits.items():
        check_labels(f"{name}: {split}", examples.labels, len(names))
        if len(examples) == 0:
            raise UserError(f"{name}: the {split} split has no examples")
        if isinstance(examples, Split) and len(examples.inputs) != len(examples):
            raise UserError(f"{name}: {split}: {len(examples.inputs)} inputs and {len(examples)} labels")
        if examples.shape != train.shape:
            raise UserError(f"{name}: {split} examples are {_by(examples.shape)}, those of train {_by(train.shape)}")
        if isinstance(examples, Split):
            check_finite(f"{name}: {split}", examples.inputs)
    counts = np.bincount(train.labels, minlength=len(names))
    if not counts.all():
        absent = [names[label] for label in np.flatnonzero(counts == 0)]
        raise UserError(f"{name}: no training examples of class {_some(absent)}")
    spec = Spec(tuple(map(int, train.shape)), len(names), tuple(map(str, names)), tokens)
    normalisation = fit(train, scale) if tokens is None else None
    return Loaded(spec, splits, normalisation, kind, background, maximum)


def check_labels(where: str, labels: np.ndarray, classes: int) -> None:
    """Raises UserError unless every label is in [0, classes)."""
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise UserError(f"{where}: label {labels[wrong[0]]} of example {wrong[0]} is not one of 0 to {classes - 1}")


def check_finite(where: str, inputs: np.ndarray) -> None:
    """Raises UserError naming the first example (of axis 0) that holds a value that is not finite."""
    if not np.issubdtype(inputs.dtype, np.floating):
        return
    for start, chunk in _chunks(inputs):
        finite = np.isfinite(chunk)
        if not finite.all():
            example = start + int(np.flatnonzero(~finite.reshape(len(chunk), -1).all(1))[0])
            raise UserError(f"{where}: example {example} holds values that are not finite (NaN or infinity)")


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


# ---------------------------------------------------------------------------------------------------------------------
# Splitting


def hold_out(labels: np.ndarray, **parts: float) -> dict[str, np.ndarray]:
    """Positions (sorted) of each part and of "train", the rest: disjoint, stratified, the same on every call.

    `parts` are fractions (float, rounded up) or numbers (int) of examples by the name of the split, taken in the order
    given: a part does not move when one after it changes. Each part has of every class its share, to one
    example, and every class stays in train. Raises UserError naming the field, `data.part`, where that cannot be.

        hold_out(labels, test=0.2, validation=0.1)   # {"test": ..., "validation": ..., "train": ...}
    """
    classes, codes = np.unique(labels, return_inverse=True)
    queues = [np.flatnonzero(codes == code) for code in range(len(classes))]
    queues = [queue[np.argsort(hashed(queue), kind="stable")] for queue in queues]
    everything = np.array([len(queue) for queue in queues])
    split, taken = {}, np.zeros(len(classes), int)
    for part, wanted in parts.items():
        number = _number(f"data.{part}", wanted, len(labels))
        if number > (everything - taken - 1).sum():
            raise UserError(f"data.{part}: {wanted} of {len(labels)} examples leaves no training examples of a class")
        share = _apportion(number, everything, everything - taken - 1)
        split[part] = np.sort(np.concatenate([q[t : t + s] for q, t, s in zip(queues, taken, share, strict=True)]))
        taken += share
    split["train"] = np.sort(np.concatenate([q[t:] for q, t in zip(queues, taken, strict=True)]))
    return split


def _number(field: str, wanted: float, examples: int) -> int:
    number = math.ceil(wanted * examples - 1e-9) if isinstance(wanted, float) else wanted
    if number < 1:
        raise UserError(f"{field}: {wanted} of {examples} examples is a split of zero examples")
    if number >= examples:
        raise UserError(f"{field}: {wanted} of {examples} examples leaves none for training")
    return number


def _apportion(total: int, counts: np.ndarray, room: np.ndarray) -> np.ndarray:
    """`total` shared out in proportion to `counts`, at most `room` each, by largest remainder (Hamilton's method)."""
    quota = total * counts / counts.sum()
    share = np.minimum(np.floor(quota + 1e-9).astype(int), room)
    while share.sum() < total:
        share[np.argmax(np.where(share < room, quota - share, -np.inf))] += 1
    return share


def hashed(values: np.ndarray | int) -> np.ndarray:
    """A fixed 64-bit hash of each integer: the output function of SplitMix64 (Steele, Lea and Flood, 2014).

    Written out because NumPy does not promise that its generators' streams stay as they are.
    """
    x = np.asarray(values).astype(np.uint64)
    with np.errstate(over="ignore"):
        x = (x + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def complete(given: Mapping[str, Split | Streamed], **parts: float) -> dict[str, Split | Streamed]:
    """The splits given, and those of `parts` that are not among them cut off the training split by `hold_out`."""
    absent = {part: wanted for part, wanted in parts.items() if part not in given}
    if not absent:
        return dict(given)
    rows = hold_out(given["train"].labels, **absent)
    return {**given, **{split: given["train"].take(rows[split]) for split in rows}}


# ---------------------------------------------------------------------------------------------------------------------
# Normalising


def fit(train: Split | Streamed, scale: float) -> Normalisation:
    """The mean and deviation of each feature over a training split, computed in float64.

    Of a streamed split a fixed sample is read. A feature that is constant gets the deviation 1, and so becomes 0.
    Means and sums of squares of chunks are merged as by Chan, Golub and LeVeque (1979), eq. 2.1.
    """
    count, mean, squares = 0, 0.0, 0.0
    for chunk in _samples(train):
        x = chunk.reshape(-1, chunk.shape[-1]).astype(np.float64) * scale
        n, m = len(x), x.mean(0)
        s = np.square(x - m).sum(0)
        squares = squares + s + np.square(m - mean) * (count * n / (count + n))
        mean = mean + (m - mean) * (n / (count + n))
        count += n
    deviation = np.sqrt(squares / count)
    constant = deviation <= 1e-12 * np.abs(mean)
    deviation = np.where(constant, 1.0, deviation)
    return Normalisation(float(scale), mean.astype(np.float32), deviation.astype(np.float32))


def _samples(train: Split | Streamed):
    if isinstance(train, Split):
        yield from (chunk for _, chunk in _chunks(train.inputs))
        return
    chosen = np.sort(np.argsort(hashed(np.arange(len(train))), kind="stable")[:SAMPLE])
    step = max(1, CHUNK_BYTES // max(1, 8 * math.prod(train.shape)))
    for start in range(0, len(chosen), step):
        yield train.read(chosen[start : start + step])


def _chunks(inputs: np.ndarray):
    step = max(1, CHUNK_BYTES // max(1, 8 * math.prod(inputs.shape[1:])))
    for start in range(0, len(inputs), step):
        yield start, inputs[start : start + step]


def normalise(normalisation: Normalisation | None, inputs: Any) -> Any:
    """Raw inputs (..., features), of NumPy or JAX, as the network sees them: float32 of the same shape.

    Without a normalisation they are tokens, and become int32.
    """
    if normalisation is None:
        return inputs.astype(np.int32)
    scale, mean, deviation = normalisation
    return (inputs.astype(np.float32) * scale - mean) / deviation


def sizes_by_task(spec: Spec, split: Split | Streamed) -> tuple[int, ...]:
    """How many examples a split has of each task; one number where there are none."""
    if not spec.tasks:
        return (len(split),)
    return tuple(np.bincount(spec.task_of(split.labels), minlength=len(spec.tasks)).tolist())


def first_of_each(spec: Spec, split: Split | Streamed, most: Sequence[int]) -> np.ndarray:
    """Positions of the first examples of a split, at most so many of each task, as `sizes_by_task` counts them."""
    sizes = sizes_by_task(spec, split)
    starts, counts = np.cumsum([0, *sizes[:-1]]), np.minimum(sizes, most)
    return np.concatenate([start + np.arange(count) for start, count in zip(starts, counts, strict=True)])


def of_examples(normalisation: Normalisation | None, spec: Spec, labels: Any) -> Normalisation | None:
    """A normalisation as `normalise` takes it for examples (batch, *shape) with these labels.

    Of several tasks each has its own: mean and deviation are (tasks, features), and here (batch, 1, ..., features).
    """
    if normalisation is None or not spec.tasks:
        return normalisation
    shape = (labels.shape[0], *(1,) * (len(spec.shape) - 1), -1)
    of = spec.task_of(labels)
    mean, deviation = (value[of].reshape(shape) for value in (normalisation.mean, normalisation.deviation))
    return normalisation._replace(mean=mean, deviation=deviation)


# ---------------------------------------------------------------------------------------------------------------------
# Keeping with a run


class Description(NamedTuple):
    """What a run needs to know of its data to be used on other inputs; the fields are those of `Loaded`."""

    spec: Spec
    normalisation: Normalisation | None
    kind: Kind
    background: Background | None
    maximum: float | None
    examples: tuple[int, ...] = ()
    """In the training split, of each task; one number where there are none."""


def describe(loaded: Loaded) -> dict[str, Any]:
    """What a run keeps of its data, as `json.dumps` takes it; `from_description` reads it back."""
    normalisation, sizes = None, sizes_by_task(loaded.spec, loaded.splits["train"])
    if loaded.normalisation is not None:
        scale, mean, deviation = loaded.normalisation
        normalisation = {"scale": scale, "mean": mean.tolist(), "deviation": deviation.tolist()}
    return {
        "shape": list(loaded.spec.shape),
        "classes": loaded.spec.classes,
        "names": list(loaded.spec.names),
        "tokens": loaded.spec.tokens,
        "tasks": [
            {"name": name, "classes": classes, "training_examples": count}
            for (name, classes), count in zip(loaded.spec.tasks, sizes, strict=False)
        ],
        "kind": loaded.kind,
        "background": loaded.background,
        "maximum": loaded.maximum,
        "normalisation": normalisation,
        "examples": {split: len(examples) for split, examples in loaded.splits.items()},
        "streamed": any(isinstance(examples, Streamed) for examples in loaded.splits.values()),
    }


def from_description(data: Mapping[str, Any]) -> Description:
    """What `describe` wrote, to the last bit. Raises UserError for anything else."""
    try:
        told_tasks = data.get("tasks", [])
        tasks = tuple((task["name"], task["classes"]) for task in told_tasks)
        spec = Spec(tuple(data["shape"]), data["classes"], tuple(data["names"]), data.get("tokens"), tasks)
        told, normalisation = data["normalisation"], None
        if told is not None:
            mean, deviation = (np.array(told[key], np.float32) for key in ("mean", "deviation"))
            normalisation = Normalisation(float(told["scale"]), mean, deviation)
        examples = tuple(task["training_examples"] for task in told_tasks) or (data["examples"]["train"],)
        about = (data["kind"], data["background"], data["maximum"])
        description = Description(spec, normalisation, *about, examples)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"the run's description of its data cannot be read ({type(error).__name__}: {error})") from None
    is_fitting = (normalisation is None) == (spec.tokens is not None)
    if normalisation is not None:
        sizes = ((len(tasks),) if tasks else ()) + spec.shape[-1:]
        is_fitting &= normalisation.mean.shape == normalisation.deviation.shape == sizes
    if len(spec.names) != spec.classes or not is_fitting:
        raise UserError("the run's description of its data contradicts itself (classes, names, shape, normalisation)")
    return description
