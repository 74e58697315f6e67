"""Which parameters belong to which group: a partition is a list of rules, and every parameter meets exactly one.

    Partition(
        train("head/.*", reinitialise=True),
        train("stage_2/.*", learning_rate=0.1),            # a multiple of the optimizer's rate
        freeze("stem/.*|stage_[01]/.*"))

A rule picks parameters by a regular expression that must match their whole path, or by a selector (`last(3)`,
`of_kind("norm")`, `others()`: `parameters.selectors`), and says what becomes of them. A rule that picks nothing, a
parameter that no rule picks and one that two rules pick are errors, all told at once: a typo cannot freeze or train in
silence. From the groups follow two flat dicts, and from these everything else: gradients, optimizer state and averages
are of `trainable` alone, and `frozen` is never written.

    chosen = groups(partition, parameters)                  # {"stage_0/convolution_0/kernel": "freeze", ...}
    trainable, frozen = split(parameters, chosen)
    merge(trainable, frozen) == parameters

A block that is stored stacked with others is picked by its own path, block_03/dense/kernel. Where only some blocks of a
stack are frozen the stack is cut in two (`lay_out`), so that the frozen ones cost what frozen ones cost.
"""

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from research.config import config, is_config, leaf, structure
from research.errors import UserError, did_you_mean
from research.parameters import depth
from research.parameters.paths import cut, flatten, unflatten, views
from research.parameters.selectors import Matching, OfAdapters, Others, Selector, as_selector, is_adapter
from research.stacks import as_range, pieces

Group = Literal["train", "freeze"]

SHOWN = 8  # paths in one line of an error


class OwnOptimizer:
    """What a rule may have for an optimizer of its own: the base of training's, which are above this room."""


class OwnSchedule:
    """What a rule may have for a schedule of its own: the base of training's."""


class OwnStart:
    """How long a rule may wait before it begins to train: the base of training's durations."""

    @classmethod
    def from_text(cls, text: str) -> "OwnStart":
        """The one that a text means, "2 epochs". Raises ValueError for any other text."""
        (durations,) = cls.__subclasses__()
        return durations.from_text(text)


@config
class Rule:
    """One rule of a partition: which parameters, and what becomes of them."""

    pattern: str | Selector = structure(".*", "regular expression for whole paths, or a selector such as last(3)")
    group: Group = structure("train", "whether these parameters are trained or frozen")
    learning_rate: float | None = leaf(None, "learning rate, as a multiple of the optimizer's", within="[0, inf)")
    by_depth: float | None = leaf(
        None, "what the rate is multiplied by for each block that a parameter is from the end", within="(0, inf)"
    )
    decay: float | None = leaf(None, "weight decay, as a multiple of the optimizer's", within="[0, inf)")
    clip: float | None = leaf(None, "largest norm of the gradient of these parameters", within="(0, inf)")
    optimizer: OwnOptimizer | None = structure(None, "an optimizer of these parameters' own")
    schedule: OwnSchedule | None = structure(None, "a schedule of their own")
    after: OwnStart | None = structure(None, "how long these parameters are frozen before they are trained")
    reinitialise: bool = structure(False, "begin from new values, whatever the source has")

    def problems(self) -> Iterator[tuple[str, str]]:
        if isinstance(self.pattern, str):
            yield from Matching(pattern=self.pattern).problems()
        if self.group == "freeze":
            for name in ("learning_rate", "by_depth", "decay", "clip", "optimizer", "schedule", "after"):
                if getattr(self, name) is not None:
                    yield name, "what is frozen is not trained, and has none"

    @property
    def is_apart(self) -> bool:
        """Whether its parameters need steps of their own, and not only a rate of their own."""
        return any(value is not None for value in (self.optimizer, self.schedule, self.decay, self.clip, self.after))

    def __str__(self) -> str:
        return f"{self.group}({', '.join((str(as_selector(self.pattern)), *self._attributes()))})"

    @property
    def treatment(self) -> str:
        """What becomes of its parameters, whichever they are: "freeze()", "train(learning_rate=0.1)"."""
        return f"{self.group}({', '.join(self._attributes())})"

    def _attributes(self) -> Iterator[str]:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name not in ("pattern", "group") and value is not None and value is not False:
                says_itself = not is_config(value) or type(value).__str__ is not object.__str__
                yield f"{field.name}={value if says_itself else type(value).__name__}"


def train(pattern: str | Selector, *, reinitialise: bool = False, **attributes: Any) -> Rule:
    """Train these parameters; `attributes` are those of `Rule`: learning_rate, by_depth, decay, clip, optimizer ..."""
    return Rule(pattern=pattern, group="train", reinitialise=reinitialise, **attributes)


def freeze(pattern: str | Selector) -> Rule:
    """Keep these parameters as they are."""
    return Rule(pattern=pattern, group="freeze")


@config
class Partition:
    """Which parameters are trained and how, and which are frozen; by default all are trained alike."""

    rules: tuple[Rule, ...] = structure((train(".*"),), "rules of which every parameter meets exactly one")

    def __init__(self, *positional: Rule, rules: tuple[Rule, ...] | None = None):
        if positional and rules is not None:
            raise TypeError("Partition: rules are given twice")
        default = type(self).__dataclass_fields__["rules"].default
        object.__setattr__(self, "rules", positional or (default if rules is None else rules))

    @staticmethod
    def from_text(text: str) -> "Partition":
        """One that has a name, as the command line says it: "linear_probe", "last_blocks(2, new_head=True)"."""
        from research.parameters import strategies  # which are made of partitions

        return strategies.from_text(text)

    def __str__(self) -> str:
        from research.parameters import strategies

        return strategies.as_text(self) or " ".join(map(str, self.rules))


# ---------------------------------------------------------------------------------------------------------------------
# Which rule


def claims(partition: Partition, order: Sequence[str]) -> dict[str, int]:
    """The index of the rule that each parameter meets, {path: index}, in the order of the paths.

    order: the paths, and where a selector is about depth, in the order in which the network uses them.
    Raises UserError with a line for each rule that is no regular expression or picks nothing, for the parameters
    that no rule claims, for each two rules that claim the same parameters, and if nothing is left to train. What is
    unclaimed is told only where each rule picks something: a rule that does not may be meant for it.
    """
    order, rules = list(order), partition.rules
    problems = [
        f"partition.rules.{i}.{field}: {text}" for i, rule in enumerate(rules) for field, text in rule.problems()
    ]
    if problems:
        raise UserError(*problems)
    picked, of_adapters = [], {path for path in order if is_adapter(path)}
    for rule in rules:
        try:
            found = as_selector(rule.pattern).select(order)
            picked.append(found if isinstance(rule.pattern, OfAdapters) else found - of_adapters)
        except UserError as error:
            problems.extend(error.problems)
            picked.append(None)
    for i, rule in enumerate(rules):
        if picked[i] == set() and not isinstance(rule.pattern, Others):
            nearest = _nearest(rule.pattern, order) if isinstance(rule.pattern, str) else ""
            problems.append(f"partition: {rule} matches no parameter's whole path{nearest}")
    picked = [paths or set() for paths in picked]
    for i, rule in enumerate(rules):
        if isinstance(rule.pattern, Others):
            picked[i] = set(order).difference(of_adapters, *(other for j, other in enumerate(picked) if j != i))

    is_whole = not problems
    claimed = {path: [i for i, paths in enumerate(picked) if path in paths] for path in order}
    if is_whole and (unclaimed := [path for path, by in claimed.items() if not by]):
        rest = (
            "train(of_adapters()) trains them" if of_adapters.issuperset(unclaimed) else "freeze(others()) keeps them"
        )
        problems.append(f"partition: no rule for {listed(unclaimed)}; {rest}")
    for i, j in itertools.combinations(range(len(rules)), 2):
        if shared := [path for path in order if path in picked[i] and path in picked[j]]:
            problems.append(f"partition: {rules[i]} and {rules[j]} both match {listed(shared)}")
    trained = {i for by in claimed.values() for i in by if rules[i].group == "train"}
    if is_whole and not trained:
        problems.append("partition: nothing is left to train")
    elif is_whole and all(rules[i].after is not None for i in trained):
        problems.append("partition: nothing is trained from the start; every rule has an `after`")
    if problems:
        raise UserError(*problems)
    return {path: by[0] for path, by in claimed.items()}


def groups(partition: Partition, paths: Iterable[str]) -> dict[str, Group]:
    """The group of each parameter, {path: group}, in the order of `paths`. Raises UserError as `claims` does."""
    return {path: partition.rules[i].group for path, i in claims(partition, list(paths)).items()}


def split(parameters: Mapping[str, Any], groups: Mapping[str, Group]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters as two flat dicts, (trainable, frozen). Raises KeyError for a parameter without a group."""
    trainable = {path: leaf for path, leaf in parameters.items() if groups[path] == "train"}
    frozen = {path: leaf for path, leaf in parameters.items() if groups[path] != "train"}
    return trainable, frozen


def merge(trainable: Mapping[str, Any], frozen: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters in one flat dict. Raises ValueError for a path that is in both."""
    if both := trainable.keys() & frozen.keys():
        raise ValueError(f"{listed(sorted(both))} cannot be trainable and frozen at once")
    return {**trainable, **frozen}


def is_kernel(path: str) -> bool:
    """Whether weight decay, L1 and L2 apply by default: to kernels and embeddings, not to biases and scales."""
    return path.rpartition("/")[-1] in ("kernel", "embedding")


def undecayed(patterns: Sequence[str], paths: Iterable[str]) -> set[str]:
    """The parameters whose path ends as one of some regular expressions says: "bias", "norm/scale".

    Numbers of layers may be left out: "norm/scale" is also norm_0/scale. Raises UserError for a pattern that is none or
    matches nothing, and for a parameter that two of them match.
    """
    paths, problems, ends = list(paths), [], {}
    for i, pattern in enumerate(patterns):
        if not_one := [text for _, text in Matching(pattern=pattern).problems()]:
            problems.append(f"no_decay.{i}: {not_one[0]}")
            continue
        end = re.compile(f"(?:.*/)?(?:{pattern})")
        ends[pattern] = [path for path in paths if end.fullmatch(path) or end.fullmatch(re.sub(r"_\d+/", "/", path))]
        if not ends[pattern]:
            tails = {path[slash.end() :] for path in paths for slash in re.finditer("/", path)}
            problems.append(f"no_decay: no parameter's path ends in '{pattern}'{did_you_mean(pattern, tails)}")
    for (one, first), (other, second) in itertools.combinations(ends.items(), 2):
        if both := [path for path in first if path in second]:
            problems.append(f"no_decay: '{one}' and '{other}' both match {listed(both)}")
    if problems:
        raise UserError(*problems)
    return {path for found in ends.values() for path in found}


def _nearest(pattern: str, paths: list[str]) -> str:
    """The nearest of what could have been meant: a path, or all that lies under a layer; or else the layers."""
    layers = {path[: slash.start()] for path in paths for slash in re.finditer("/", path)}
    near = did_you_mean(pattern, [*paths, *(f"{layer}/.*" for layer in layers)])
    return near or did_you_mean(pattern, {f"{path.partition('/')[0]}/.*" for path in paths if "/" in path})


def listed(paths: Sequence[str]) -> str:
    """Some paths in one line of a message: the first of them, and how many more there are."""
    more = len(paths) - SHOWN
    return ", ".join(paths[:SHOWN]) + (f" and {more} more" if more > 0 else "")


# ---------------------------------------------------------------------------------------------------------------------
# How they are stored


class Treatment(NamedTuple):
    """How a stored parameter is trained. Of a stack it has the block for its first axis, and there is one each."""

    rules: tuple[int, ...]
    """The rules that its blocks meet, of which all are apart or none; one if it is no stack."""
    heights: tuple[int, ...]
    """How many blocks each is from the end."""
    decayed: bool
    """Whether weight decay applies."""

    @property
    def rule(self) -> int:
        """The rule, where it needs steps of its own."""
        return self.rules[0]


class Layout(NamedTuple):
    """How parameters are stored for a partition: pairs of a path and what belongs to it, so that it can be hashed."""

    points: tuple[tuple[str, tuple[int, ...]], ...]
    """Before which blocks stacks are cut."""
    stacks: tuple[tuple[str, range], ...]
    """The stacks, as they are then."""
    trained: tuple[tuple[str, Treatment], ...]
    """By stored path."""
    frozen: tuple[tuple[str, tuple[int, ...]], ...]
    """The rules that stored parameters meet which are not trained."""


def lay_out(
    partition: Partition,
    parameters: Mapping[str, Any],
    order: Sequence[str],
    *,
    stacks: Mapping[str, int | range],
    decayed: Callable[[str], bool] = is_kernel,
) -> Layout:
    """Which stacks must be cut, and how each stored parameter is trained. Raises UserError as `claims` does.

    parameters: arrays or shapes, as the model stores them; order: their views' paths, in the order of use.
    A stack is cut between two blocks of which one is frozen or needs steps of its own; blocks that differ in their rate
    alone stay together.
    """
    claimed, heights = claims(partition, order), depth.heights(order)

    def steps_of(view: str) -> tuple[Any, ...]:
        """What blocks must have in common to be stored together."""
        rule = partition.rules[claimed[view]]
        if rule.group == "freeze":
            return ("freeze",)
        return ("train", claimed[view] if rule.is_apart else None, decayed(view), rule.reinitialise)

    points: dict[str, tuple[int, ...]] = {}
    whole = _stored(parameters, stacks)
    for stack, blocks in stacks.items():
        members = [paths for leaf, paths in whole.items() if leaf.startswith(f"{stack}/")]
        points[stack] = tuple(
            block
            for i, block in enumerate(as_range(blocks))
            if i and any(steps_of(paths[i]) != steps_of(paths[i - 1]) for paths in members)
        )
    cut_stacks = {
        piece: members
        for stack, blocks in stacks.items()
        for piece, members in pieces(stack, as_range(blocks), points[stack]).items()
    }
    trained, frozen = {}, {}
    for leaf_path, paths in _stored(cut(parameters, stacks, points), cut_stacks).items():
        rules = tuple(claimed[path] for path in paths)
        if partition.rules[rules[0]].group == "freeze":
            frozen[leaf_path] = rules
        else:
            trained[leaf_path] = Treatment(rules, tuple(heights[path] for path in paths), decayed(paths[0]))
    return Layout(*(tuple(found.items()) for found in (points, cut_stacks, trained, frozen)))


def _stored(parameters: Mapping[str, Any], stacks: Mapping[str, int | range]) -> dict[str, list[str]]:
    """The paths of what each stored parameter holds, in order: those of its blocks, or its own."""
    found: dict[str, list[str]] = {}
    for path, view in views(parameters, stacks).items():
        found.setdefault(view.leaf, []).append(path)
    return found


# ---------------------------------------------------------------------------------------------------------------------
# For a training loop of one's own


def labels(partition: Partition, parameters: Any, order: Sequence[str] | None = None) -> Any:
    """The rule that each parameter meets, as text in the place of the parameter: what `optax.partition` takes.

        transformations = {str(rule): optax.set_to_zero() if rule.group == "freeze" else mine for rule in rules}
        optax.partition(transformations, labels(partition, parameters))

    parameters: flat or nested dicts. order: as `claims` wants it, for selectors that are about depth.
    """
    return _in_place(parameters, {path: str(partition.rules[i]) for path, i in _claimed(partition, parameters, order)})


def mask(partition: Partition, parameters: Any, order: Sequence[str] | None = None) -> Any:
    """Whether each parameter is trained, in the place of the parameter: what `optax.masked` takes.

    `optax.masked` hands on the gradient of what is outside its mask: set it to zero, or the frozen parameters move.

        optax.chain(
            optax.masked(mine, mask(partition, parameters)),
            optax.masked(optax.set_to_zero(), jax.tree.map(operator.not_, mask(partition, parameters))))
    """
    trained = {path: partition.rules[i].group == "train" for path, i in _claimed(partition, parameters, order)}
    return _in_place(parameters, trained)


def _claimed(partition: Partition, parameters: Any, order: Sequence[str] | None) -> Iterable[tuple[str, int]]:
    return claims(partition, list(_flat(parameters)) if order is None else order).items()


def _in_place(parameters: Mapping[str, Any], found: Mapping[str, Any]) -> Any:
    """What was found by path, in a tree like that of the parameters."""
    by_path = {path: found[path] for path in _flat(parameters)}
    return unflatten(by_path) if _is_nested(parameters) else by_path


def _flat(parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    return flatten(parameters) if _is_nested(parameters) else parameters


def _is_nested(parameters: Mapping[str, Any]) -> bool:
    return any(isinstance(branch, Mapping) for branch in parameters.values())
