"""Partitions that have a name: what people mostly do with a pretrained network.

    linear_probe()              train a new head on what the rest makes of the examples
    last_blocks(2)              train the last two blocks, and what comes after them
    norm_and_bias()             train norms, biases and the head (BitFit)
    layerwise_decay(0.75)       train all, each block with 0.75 times the rate of the one after it
    full()                      train all
    head_then_all(epochs(5))    train the head, and after five epochs all
    gradual(3, epochs(2))       train the head, then one more block every two epochs, and all after the third

Any of them may be told `new_head=True`, to begin the head anew where the source has other classes, and the pattern of
the head where it is not "head/.*".
"""

import ast
import dataclasses
import inspect
import re
from collections.abc import Callable
from typing import Any

from research.errors import did_you_mean
from research.parameters.partition import OwnStart, Partition, Rule, freeze, train
from research.parameters.selectors import Selector, but, either, last, of_kind, others

HEAD = "head/.*"


def full(*, new_head: bool = False, head: str = HEAD) -> Partition:
    """Train all parameters."""
    return Partition(train(head, reinitialise=True), train(others())) if new_head else Partition(train(".*"))


def linear_probe(*, new_head: bool = True, head: str = HEAD) -> Partition:
    """Train the head alone (Alain and Bengio, 2016)."""
    return Partition(train(head, reinitialise=new_head), freeze(others()))


def last_blocks(blocks: int, *, new_head: bool = False, head: str = HEAD) -> Partition:
    """Train the last blocks and what comes after them (Yosinski et al., 2014)."""
    return Partition(*_with_head(last(blocks), new_head, head), freeze(others()))


def norm_and_bias(*, new_head: bool = False, head: str = HEAD) -> Partition:
    """Train the norms, all biases and the head (BitFit: Ben Zaken et al., 2022)."""
    return Partition(*_with_head(either(of_kind("norm", "bias"), head), new_head, head), freeze(others()))


def layerwise_decay(factor: float = 0.75, *, new_head: bool = False, head: str = HEAD) -> Partition:
    """Train all parameters, those of each block `factor` times as fast as those of the next (Clark et al., 2020).

    What comes after the last block, the head say, has the whole rate; the last block `factor` times that, the first of
    twelve `factor**12`, and what comes before it, the embedding say, `factor**13`.
    """
    if new_head:
        return Partition(train(head, reinitialise=True), train(others(), by_depth=factor))
    return Partition(train(".*", by_depth=factor))


def head_then_all(after: OwnStart, *, new_head: bool = True, head: str = HEAD) -> Partition:
    """Train the head alone at first, so that the rest is not torn about by what a new head does not know yet."""
    return Partition(train(head, reinitialise=new_head), train(others(), after=after))


def gradual(blocks: int, every: OwnStart, *, new_head: bool = True, head: str = HEAD) -> Partition:
    """Train the head, then one more of so many last blocks every so often, then all (Howard and Ruder, 2018).

    What comes after the last block, a norm say, begins with it.
    """
    rules = [train(head, reinitialise=new_head)]
    for i in range(1, blocks + 1):
        inner = (last(i - 1),) if i > 1 else ()
        rules.append(train(but(last(i), *inner, head), after=_times(i, every)))
    return Partition(*rules, train(others(), after=_times(blocks + 1, every)))


def _times(count: int, every: OwnStart) -> OwnStart:
    return dataclasses.replace(every, amount=count * every.amount)


def _with_head(selector: Selector, new_head: bool, head: str) -> tuple[Rule, ...]:
    """Rules that train what is selected, the head among it from new values if asked."""
    return (train(but(selector, head)), train(head, reinitialise=True)) if new_head else (train(selector),)


NAMED: dict[str, Callable[..., Partition]] = {
    strategy.__name__: strategy
    for strategy in (full, linear_probe, last_blocks, norm_and_bias, layerwise_decay, head_then_all, gradual)
}


ARGUMENT = re.compile(r"""\s*(?:(\w+)\s*=)?((?:'[^']*'|"[^"]*"|[^,])+),?""")
"""One of a call, perhaps with its name."""


def from_text(text: str) -> Partition:
    """The partition that a text names, "last_blocks(2)", "gradual(2, 1 epoch)", dashes or not.

    Raises ValueError for any other text.
    """
    name, bracket, rest = text.strip().partition("(")
    strategy = NAMED.get(name.strip().replace("-", "_").lower())
    if strategy is None:
        raise ValueError(f"no partition '{name}'{did_you_mean(name, NAMED)}")
    try:
        if bracket and not rest.endswith(")"):
            raise ValueError("a bracket is left open")
        signature, found = inspect.signature(strategy), ARGUMENT.findall(rest.removesuffix(")"))
        named = {key: value for key, value in found if key}
        given = signature.bind(*(value for key, value in found if not key), **named)
        return strategy(**{key: _value(signature, key, value.strip()) for key, value in given.arguments.items()})
    except (SyntaxError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"'{text}' cannot be understood ({error}); say it as in Python, {name}(...)") from None


def _value(signature: inspect.Signature, name: str, text: str) -> Any:
    """An argument as Python has it, or a duration, in quotes or not."""
    if signature.parameters[name].annotation is OwnStart:
        return OwnStart.from_text(text.strip("'\""))
    return ast.literal_eval(text)


MOST_BLOCKS = 32
"""Of which a name is looked for."""


def as_text(partition: Partition) -> str | None:
    """The name of a partition, "last_blocks(2)", as `from_text` reads it; None for one that has no name."""
    rules = partition.rules
    rates = {rule.by_depth for rule in rules if rule.by_depth is not None}
    first = [rule.after for rule in rules if rule.after is not None][:1]
    calls = [(strategy, ()) for strategy in (full, linear_probe, norm_and_bias)]
    calls += [(last_blocks, (blocks,)) for blocks in range(1, MOST_BLOCKS + 1)]
    calls += [(layerwise_decay, (rate,)) for rate in rates] + [(head_then_all, (after,)) for after in first]
    calls += [(gradual, (len(rules) - 2, after)) for after in first]
    for strategy, arguments in calls:
        usual = inspect.signature(strategy).parameters["new_head"].default
        for new_head in (usual, not usual):
            if strategy(*arguments, new_head=new_head) == partition:
                told = [*map(str, arguments), *([] if new_head == usual else [f"new_head={new_head}"])]
                return f"{strategy.__name__}({', '.join(told)})" if told else strategy.__name__
    return None
