"""What training minimises: the mean over examples of a loss, and a penalty on the parameters.

An objective of one's own is a config with `losses`, defined in the config file; `penalty` is 0 unless it is told:

    @config
    class Hinge(Objective):
        def losses(self, logits, labels):
            correct = jnp.take_along_axis(logits, labels[:, None], axis=1)
            return jnp.maximum(0, 1 + logits - correct).sum(1) - 1

Its labels are classes. One that takes probabilities as well, which mixup makes of labels, says `takes_probabilities`.
"""

from collections.abc import Callable, Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from research.config import config, leaf


class Objective:
    """Base of the configs of objectives."""

    takes_probabilities: ClassVar[bool] = False
    """Whether labels may be probabilities (batch, classes), and not only classes (batch,), as mixup needs."""

    def losses(self, logits: Float[Array, "batch classes"], labels: Array) -> Float[Array, "batch"]:
        """The loss of each example. Labels are classes (batch,) int32; or, if `takes_probabilities`, also those."""
        raise NotImplementedError(f"{type(self).__name__} has no losses()")

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
