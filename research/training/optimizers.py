"""Optimizers: configs whose `transformation` turns gradients into a direction to step against.

    direction, state = AdamW().transformation(is_kernel).update(gradient, state, parameters)
    parameters = parameters - learning_rate * direction

Parameters, gradients and moments are flat dicts by path, of trainable parameters alone. The direction carries neither
the learning rate nor a sign: the rate of a step is `optimizer.learning_rate` times the schedule's multiple. All numbers
of an optimizer are leaves, so that they may be traced and stacked.

Weight decay applies where `decayed(path)` says so. In SGD, momentum, Nesterov and RMSprop it is L2, added to the
gradient before anything else, as in PyTorch; in AdamW, Lion, Adafactor and Muon it is decoupled, added to the direction
at the end, and so multiplied by the learning rate (as in PyTorch, and unlike Loshchilov and Hutter's own formula).

Where equal blocks are stored stacked, `transformation_for` gives each block the direction that it would have alone.
"""

import math
from collections.abc import Callable, Collection
from typing import Any, ClassVar

import jax
import optax
import optax.contrib
from jaxtyping import ArrayLike

from research.config import config, leaf, structure
from research.parameters.partition import OwnOptimizer

Decayed = Callable[[str], bool | ArrayLike]


class Optimizer(OwnOptimizer):
    """Base of the configs of optimizers, which have a leaf `learning_rate`."""

    by_layer: ClassVar[bool] = False
    """Whether what becomes of a number depends on the others of its parameter: on their norm, say, or their mean."""

    learning_rate: float

    def transformation(self, decayed: Decayed) -> optax.GradientTransformation:
        """Gradients to a direction, of flat dicts; `decayed` tells by its path what weight decay applies to.

        It may also give a number, by which weight decay is multiplied there.
        """
        raise NotImplementedError(f"{type(self).__name__} has no transformation()")


def transformation_for(
    optimizer: Optimizer, decayed: Decayed, stacks: Collection[str] = ()
) -> optax.GradientTransformation:
    """The optimizer's transformation where parameters of the layers `stacks` have equal blocks for their first axis."""
    alone = optimizer.transformation(decayed)
    if not stacks or not optimizer.by_layer:
        return alone
    stacked = optax.GradientTransformation(jax.vmap(alone.init), jax.vmap(alone.update))

    def stack_of(path, _):
        return next((stack for stack in stacks if path.startswith(f"{stack}/")), "")

    return by_group(stack_of, lambda stack: stacked if stack else alone)


def by_group(
    group_of: Callable[[str, jax.Array], str], transformation_of: Callable[[str], optax.GradientTransformation]
) -> optax.GradientTransformation:
    """Each parameter by the transformation of its group, which is told by its path and shape."""

    def grouped(parameters):
        groups = {}
        for path, value in parameters.items():
            groups.setdefault(group_of(path, value), {})[path] = value
        return groups

    def init(parameters):
        return {group: transformation_of(group).init(members) for group, members in grouped(parameters).items()}

    def update(gradient, state, parameters):
        members, direction, new = grouped(parameters), {}, {}
        for group, gradients in grouped(gradient).items():
            part, new[group] = transformation_of(group).update(gradients, state[group], members[group])
            direction |= part
        return direction, new

    return optax.GradientTransformation(init, update)


def _learning_rate(default: float) -> Any:
    return leaf(default, "step size, before the schedule", within="[0, inf)")


def _weight_decay(default: float | None, kind: str) -> Any:
    return leaf(default, f"weight decay of kernels, {kind}", within="[0, inf)")


def _decay(default: float, what: str) -> Any:
    return leaf(default, f"decay of the running mean of {what}", within="[0, 1)")


def _chain(*parts: optax.GradientTransformation | None) -> optax.GradientTransformation:
    return optax.chain(optax.identity(), *(part for part in parts if part is not None))  # of no parts, optax makes none


def _decayed_weights(rate: ArrayLike | None, decayed: Decayed) -> optax.GradientTransformation | None:
    if rate is None:
        return None

    def decay(path: str, direction: jax.Array, parameter: jax.Array) -> jax.Array:
        share = decayed(path)
        if share is False:
            return direction
        return direction + (rate if share is True else rate * share) * parameter

    def update(gradient, state, parameters):
        return {path: decay(path, value, parameters[path]) for path, value in gradient.items()}, state

    return optax.GradientTransformation(lambda parameters: optax.EmptyState(), update)


@config
class SGD(Optimizer):
    """The gradient itself."""

    learning_rate: float = _learning_rate(0.1)
    weight_decay: float | None = _weight_decay(None, "as L2")

    def transformation(self, decayed):
        return _chain(_decayed_weights(self.weight_decay, decayed))


@config
class Momentum(Optimizer):
    """A decaying sum of gradients (Polyak, 1964)."""

    looks_ahead: ClassVar[bool] = False

    learning_rate: float = _learning_rate(0.01)
    momentum: float = leaf(0.9, "what remains of the sum after a step", within="[0, 1)")
    weight_decay: float | None = _weight_decay(None, "as L2")

    def transformation(self, decayed):
        trace = optax.trace(self.momentum, nesterov=self.looks_ahead)
        return _chain(_decayed_weights(self.weight_decay, decayed), trace)


@config
class Nesterov(Momentum):
    """Momentum that looks a step ahead (Nesterov, 1983, in the form of Sutskever et al., 2013)."""

    looks_ahead: ClassVar[bool] = True


@config
class RMSprop(Optimizer):
    """Gradients over the root of their running mean square (Tieleman and Hinton, 2012)."""

    learning_rate: float = _learning_rate(1e-3)
    decay: float = _decay(0.9, "squares")
    epsilon: float = leaf(1e-8, "added to the root", within="[0, inf)")
    momentum: float | None = leaf(None, "momentum of what results", within="[0, 1)")
    weight_decay: float | None = _weight_decay(None, "as L2")

    def transformation(self, decayed):
        return _chain(
            _decayed_weights(self.weight_decay, decayed),
            optax.scale_by_rms(self.decay, self.epsilon, eps_in_sqrt=False),
            None if self.momentum is None else optax.trace(self.momentum),
        )


@config
class Adam(Optimizer):
    """Running means of gradients over the root of those of their squares (Kingma and Ba, 2015)."""

    learning_rate: float = _learning_rate(1e-3)
    beta1: float = _decay(0.9, "gradients")
    beta2: float = _decay(0.999, "squares")
    epsilon: float = leaf(1e-8, "added to the root", within="[0, inf)")

    def transformation(self, decayed):
        return _chain(optax.scale_by_adam(self.beta1, self.beta2, self.epsilon))


@config
class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019)."""

    learning_rate: float = _learning_rate(1e-3)
    beta1: float = _decay(0.9, "gradients")
    beta2: float = _decay(0.999, "squares")
    epsilon: float = leaf(1e-8, "added to the root", within="[0, inf)")
    weight_decay: float | None = _weight_decay(0.01, "decoupled")

    def transformation(self, decayed):
        return _chain(
            optax.scale_by_adam(self.beta1, self.beta2, self.epsilon), _decayed_weights(self.weight_decay, decayed)
        )


@config
class Lion(Optimizer):
    """The sign of an interpolated momentum (Chen et al., 2023); wants a tenth of AdamW's rate, ten times its decay."""

    learning_rate: float = _learning_rate(1e-4)
    beta1: float = leaf(0.9, "share of the running mean in the direction", within="[0, 1)")
    beta2: float = _decay(0.99, "gradients")
    weight_decay: float | None = _weight_decay(0.1, "decoupled")

    def transformation(self, decayed):
        return _chain(optax.scale_by_lion(self.beta1, self.beta2), _decayed_weights(self.weight_decay, decayed))


@config
class Adafactor(Optimizer):
    """Mean squares by row and column of a matrix, steps relative to a parameter's size (Shazeer and Stern, 2018)."""

    by_layer: ClassVar[bool] = True

    learning_rate: float = _learning_rate(0.01)
    decay: float = leaf(0.8, "exponent by which the mean of squares slows down", within="(0, inf)")
    epsilon: float = leaf(1e-30, "added to squares", within="[0, inf)")
    clip: float | None = leaf(1.0, "largest root mean square of a parameter's update", within="(0, inf)")
    momentum: float | None = leaf(None, "decay of a running mean of updates", within="[0, 1)")
    weight_decay: float | None = _weight_decay(None, "decoupled")
    smallest_factored: int = structure(128, "shortest side of a matrix that is factored", within="[1, inf)")

    def transformation(self, decayed):
        return _chain(
            optax.scale_by_factored_rms(
                decay_rate=self.decay, epsilon=self.epsilon, min_dim_size_to_factor=self.smallest_factored
            ),
            None if self.clip is None else optax.clip_by_block_rms(self.clip),
            optax.scale_by_param_block_rms(),
            None if self.momentum is None else optax.ema(self.momentum, debias=False),
            _decayed_weights(self.weight_decay, decayed),
        )


@config
class Muon(Optimizer):
    """Orthogonalised momentum for the kernels of hidden layers, Nesterov Adam for the rest (Jordan et al., 2024).

    A kernel is taken as the matrix (inputs, outputs) that it stands for: a convolution's as (height * width * inputs,
    outputs), one of Flax's attention as (inputs, heads * features), or, where it brings heads together, as
    (heads * features, outputs). The head and everything of fewer than two axes go to Adam. With `rms`, updates of
    kernels have about the size of Adam's (0.2: Liu et al., 2025), so that one learning rate and one weight decay serve
    both; without, they are scaled by sqrt(max(1, outputs / inputs)), as by Jordan.
    """

    by_layer: ClassVar[bool] = True

    learning_rate: float = _learning_rate(1e-3)
    momentum: float = _decay(0.95, "gradients of kernels")
    rms: float | None = leaf(0.2, "root mean square of a kernel's update", within="(0, inf)")
    beta1: float = _decay(0.9, "gradients, in Adam")
    beta2: float = _decay(0.999, "squares, in Adam")
    epsilon: float = leaf(1e-8, "added to denominators", within="[0, inf)")
    weight_decay: float | None = _weight_decay(0.01, "decoupled")
    iterations: int = structure(5, "Newton-Schulz iterations that orthogonalise", within="[1, inf)")

    def transformation(self, decayed):
        orthogonalised = optax.contrib.scale_by_muon(
            ns_steps=self.iterations,
            beta=self.momentum,
            eps=self.epsilon,
            weight_dimension_numbers=lambda kernels: dict.fromkeys(kernels, optax.contrib.MuonDimensionNumbers(0, 1)),
        )
        scaled = optax.stateless_with_tree_map(lambda update, _: update * _muon_scale(update.shape, self.rms))
        muon = _of_matrices(_chain(orthogonalised, scaled))
        adam = optax.scale_by_adam(self.beta1, self.beta2, self.epsilon, nesterov=True)
        return _chain(
            by_group(_muon_or_adam, {"muon": muon, "adam": adam}.__getitem__),
            _decayed_weights(self.weight_decay, decayed),
        )


def _muon_or_adam(path: str, value: jax.Array) -> str:
    layer, _, name = path.rpartition("/")
    is_hidden_kernel = name == "kernel" and value.ndim >= 2 and layer.split("/")[0] != "head"
    return "muon" if is_hidden_kernel else "adam"


def _of_matrices(of_matrices: optax.GradientTransformation) -> optax.GradientTransformation:
    """A transformation of matrices as one of kernels of any number of axes."""

    def matrices(kernels):
        return {path: _as_matrix(path, kernel) for path, kernel in kernels.items()}

    def init(kernels):
        return of_matrices.init(matrices(kernels))

    def update(gradient, state, kernels):
        direction, state = of_matrices.update(matrices(gradient), state, matrices(kernels))
        return {path: direction[path].reshape(kernel.shape) for path, kernel in gradient.items()}, state

    return optax.GradientTransformation(init, update)


def _as_matrix(path: str, kernel: jax.Array) -> jax.Array:
    """(inputs, outputs). In Flax's attention, query, key and value have (inputs, heads, features)."""
    makes_heads = path.rpartition("/")[0].rpartition("/")[2] in ("query", "key", "value")
    return kernel.reshape((kernel.shape[0], -1) if makes_heads else (-1, kernel.shape[-1]))


def _muon_scale(shape: tuple[int, int], rms: ArrayLike | None) -> ArrayLike:
    inputs, outputs = shape
    if rms is None:
        return math.sqrt(max(1, outputs / inputs))
    return rms * math.sqrt(max(inputs, outputs))
