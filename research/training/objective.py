"""What training minimises: the mean over examples of a loss, and a penalty on the parameters.

An objective of one's own is a config with `losses`, defined in the config file; `penalty` is 0 unless it is told:

    @config
    class Hinge(Objective):
        def losses(self, logits, labels):
            correct = jnp.take_along_axis(logits, labels[:, None], axis=1)
            return jnp.maximum(0, 1 + logits - correct).sum(1) - 1

Its labels are classes. One that takes probabilities as well, which mixup makes of labels, says `takes_probabilities`.

An objective that makes its targets of the examples themselves does so in `prepare`. Those of language have a target for
each token, which is -1 where nothing counts, and a loss for each; the loss of an example is their mean.

    NextToken      inputs  t h e n      targets  h e n -
    MaskedToken    inputs  t # e n      targets  - h - -
"""

import functools
from collections.abc import Callable, Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from research.config import config, leaf, structure
from research.errors import UserError
from research.spec import Spec


class Objective:
    """Base of the configs of objectives."""

    takes_probabilities: ClassVar[bool] = False
    """Whether labels may be probabilities (batch, classes), and not only classes (batch,), as mixup needs."""

    of_tokens: ClassVar[bool] = False
    """Whether there is a target, and a loss, for each token (batch, positions), and not only for each example."""

    def prepare(self, keys: Array, inputs: Array, labels: Array, spec: Spec) -> tuple[Array, Array]:
        """What the model is shown of the examples, and the targets that its logits are held against.

        keys: (batch,), one for each example to draw from: of (seed, step) in training, always the same in evaluation.
        Raises UserError where the data of this spec is not what it is about.
        """
        return inputs, labels

    def losses(self, logits: Float[Array, "batch classes"], labels: Array) -> Float[Array, "batch"]:
        """The loss of each example. Labels are classes (batch,) int32; or, if `takes_probabilities`, also those.

        If it is `of_tokens`, the loss of each token (batch, positions), from logits (batch, positions, tokens).
        """
        raise NotImplementedError(f"{type(self).__name__} has no losses()")

    def mean(self, losses: Array, labels: Array) -> Float[Array, ""]:
        """What is minimised of the losses of a batch: their mean over its examples."""
        return example_losses(losses, labels).mean()

    def penalty(self, parameters: Mapping[str, ArrayLike], decayed: Callable[[str], bool]) -> Float[Array, ""] | float:
        """What is added to the mean loss for the trainable parameters, by path; `decayed` tells which it is about."""
        return 0.0


@config
class CrossEntropy(Objective):
    """Softmax cross-entropy in nats, with label smoothing and L1 and L2 penalties.

    Smoothing by s trains towards (1 - s) of the label and s spread evenly over all classes (Szegedy et al., 2016). The
    penalties are l1 * sum |w| and l2 / 2 * sum w^2 over the decayed parameters (kernels), so that the gradient of the
    latter is l2 * w; unlike an optimizer's decoupled weight decay, they go through its moments.
    """

    takes_probabilities: ClassVar[bool] = True

    label_smoothing: float | None = leaf(None, "part of each label that is spread over all classes", within="[0, 1)")
    l1: float | None = leaf(None, "weight of the sum of the kernels' absolute values", within="[0, inf)")
    l2: float | None = leaf(None, "weight of half the sum of the kernels' squares", within="[0, inf)")

    def losses(self, logits, labels):
        if logits.ndim != 2:
            raise UserError(
                f"objective: CrossEntropy is about one class an example, and the model gives logits {logits.shape}, "
                "for each token; language models are trained by NextToken or MaskedToken"
            )
        logits = logits.astype(jnp.float32)
        classes = logits.shape[-1]
        targets = jax.nn.one_hot(labels, classes) if labels.ndim == 1 else labels.astype(jnp.float32)
        if self.label_smoothing is not None:
            targets = (1 - self.label_smoothing) * targets + self.label_smoothing / classes
        return -jnp.sum(targets * jax.nn.log_softmax(logits), axis=-1)

    def penalty(self, parameters, decayed):
        kernels = [value.astype(jnp.float32) for path, value in parameters.items() if decayed(path)]
        total = jnp.zeros(())
        if self.l1 is not None:
            total += self.l1 * sum(jnp.sum(jnp.abs(kernel)) for kernel in kernels)
        if self.l2 is not None:
            total += self.l2 / 2 * sum(jnp.sum(jnp.square(kernel)) for kernel in kernels)
        return total


# ---------------------------------------------------------------------------------------------------------------------
# Language


class OfTokens(Objective):
    """Base of objectives that are the cross-entropy, in nats, of tokens that the model is not shown.

    So the perplexity is exp(loss), and loss / log(2) is how many bits a token needs.
    """

    of_tokens: ClassVar[bool] = True

    def losses(self, logits, labels):
        if logits.shape[:-1] != labels.shape:
            raise UserError(
                f"objective: {type(self).__name__} needs logits for each token, (batch, positions, tokens), and the "
                f"model gives {logits.shape}; GPT and BERT(head='tokens') are language models"
            )
        likely = jax.nn.log_softmax(logits.astype(jnp.float32))
        told = jnp.take_along_axis(likely, jnp.maximum(labels, 0)[..., None], axis=-1)[..., 0]
        return jnp.where(labels >= 0, -told, 0.0)

    def check(self, spec: Spec) -> None:
        """Raises UserError unless the examples are sequences of tokens."""
        if spec.tokens is None or len(spec.shape) != 1:
            what = "numbers" if spec.tokens is None else "tokens"
            raise UserError(
                f"objective: {type(self).__name__} is about tokens (positions,); these are {what} {spec.shape}"
            )


@config
class NextToken(OfTokens):
    """Tell each token from those before it (Bengio et al., 2003); the first of a window is told by nobody."""

    def prepare(self, keys, inputs, labels, spec):
        self.check(spec)
        return inputs, jnp.pad(inputs[:, 1:], ((0, 0), (0, 1)), constant_values=-1)


@config
class MaskedToken(OfTokens):
    """Tell tokens that are hidden from what is around them (Devlin et al., 2019, section 3.1 and appendix A.1).

    Of the tokens chosen, 80 % are replaced by the mask, 10 % by any token, and 10 % stay as they are.
    """

    rate: float = leaf(0.15, "share of the tokens that are to be told", within="(0, 1]")
    mask: int = structure(0, "the token that stands for a hidden one, and is no other", within="[0, inf)")
    kept: tuple[int, ...] = structure((), "tokens that are never to be told, such as padding", within="[0, inf)")

    def prepare(self, keys, inputs, labels, spec):
        self.check(spec)
        for name, tokens in (("mask", (self.mask,)), ("kept", self.kept)):
            if tokens and max(tokens) >= spec.tokens:
                raise UserError(f"objective.{name}: {max(tokens)} is no token; there are {spec.tokens}, from 0")
        chosen, how, other = jax.vmap(functools.partial(_draw, inputs.shape[1], spec.tokens))(keys)
        is_chosen = chosen < self.rate
        for token in self.kept:
            is_chosen &= inputs != token
        shown = jnp.where(how < 0.8, self.mask, jnp.where(how < 0.9, other, inputs))
        return jnp.where(is_chosen, shown, inputs), jnp.where(is_chosen, inputs, -1)


def _draw(positions: int, tokens: int, key: Array) -> tuple[Array, Array, Array]:
    """For each position two numbers in [0, 1) and a token."""
    first, second, third = jax.random.split(key, 3)
    uniform = (jax.random.uniform(each, (positions,)) for each in (first, second))
    return *uniform, jax.random.randint(third, (positions,), 0, tokens)


def makes_targets(objective: Objective) -> bool:
    """Whether it makes its targets of the examples themselves."""
    return type(objective).prepare is not Objective.prepare


def example_losses(losses: Array, targets: Array) -> Float[Array, "batch"]:
    """The loss of each example: of tokens, the mean over those that count; 0 where none does."""
    if losses.ndim == 1:
        return losses
    counted = jnp.sum(targets >= 0, axis=-1)
    return jnp.sum(losses, axis=-1) / jnp.maximum(counted, 1)
