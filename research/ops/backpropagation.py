"""Backpropagation from scratch: a multilayer network, forward, and backward as derived by hand.

    layers = initial(key, (64, 32, 10), "relu")                       # 64 inputs, 32 hidden features, 10 classes
    loss, gradients = loss_and_gradients(layers, inputs, targets, "relu", "cross_entropy")
    layers = descend(layers, gradients, 0.1)

Examples are rows. Layer l has a kernel W_l (in, out) and a bias b_l (out,). a_0 are the inputs, and have no parameters:

    z_l = a_{l-1} W_l + b_l        (batch, out)
    a_l = f(z_l)                   for the hidden layers; the last one's z_L are the scores, which the loss takes

The loss J is a mean over the batch. Let d_l = dJ/dz_l, of the shape of z_l. For example n and features i and j on the
two sides of a kernel, z_l[n, j] = sum_i a_{l-1}[n, i] W_l[i, j] + b_l[j], and the chain rule gives three lines:

    dJ/dW_l[i, j]     = sum_n d_l[n, j] a_{l-1}[n, i]            dJ/dW_l     = a_{l-1}^T d_l
    dJ/db_l[j]        = sum_n d_l[n, j]                          dJ/db_l     = d_l summed over the batch, nothing else
    dJ/da_{l-1}[n, i] = sum_j d_l[n, j] W_l[i, j]                dJ/da_{l-1} = d_l W_l^T

and since f acts on each number alone, d_{l-1} = dJ/da_{l-1} * f'(z_{l-1}): on to the layer before. It begins with d_L,
which is the loss's own affair (`loss_gradient`). Nothing here is differentiated by JAX; the tests compare with it.

Source: Rumelhart, Hinton and Williams, "Learning representations by back-propagating errors" (1986).
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import ArrayLike, Float

Activation = Literal["sigmoid", "tanh", "relu"]
Loss = Literal["cross_entropy", "squared_error"]
Batch = Float[Array, "batch _"]  # examples by features


class Layer(NamedTuple):
    """A dense layer's parameters, or their gradients: kernel (in, out) and bias (out,)."""

    kernel: Array
    bias: Array


Layers = tuple[Layer, ...]


def initial(key: Array, sizes: Sequence[int], activation: Activation) -> Layers:
    """A layer between each two of `sizes`, inputs first; float32 kernels at random, biases 0.

    The deviation of a kernel is sqrt(2 / in) before a ReLU, which loses half of the variance (He et al., 2015), and
    sqrt(1 / in) elsewhere (LeCun et al., 1998). Raises ValueError for fewer than two sizes.
    """
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"initial: sizes {tuple(sizes)} must be those of inputs, hidden layers if any, and outputs")
    layers = []
    for number, (before, after) in enumerate(itertools.pairwise(sizes)):
        gain = 2 if activation == "relu" and number < len(sizes) - 2 else 1
        kernel = jax.random.normal(jax.random.fold_in(key, number), (before, after)) * (gain / before) ** 0.5
        layers.append(Layer(kernel, jnp.zeros(after)))
    return tuple(layers)


# ---------------------------------------------------------------------------------------------------------------------
# Activations


def sigmoid(z: Array) -> Array:
    """1 / (1 + exp(-z)), by way of tanh, which does not overflow."""
    return (jnp.tanh(z / 2) + 1) / 2


def activate(activation: Activation, z: Array) -> Array:
    """f(z), number by number."""
    return _ACTIVATIONS[activation](z)


def slope(activation: Activation, a: Array) -> Array:
    """f'(z), told from a = f(z) alone, so that z need not be kept.

    sigmoid: with e = exp(-z), f = 1 / (1 + e) and f' = e / (1 + e)^2 = f * e / (1 + e) = f (1 - f).
    tanh: f = sinh / cosh and f' = (cosh^2 - sinh^2) / cosh^2 = 1 - f^2.
    relu: 1 where z > 0, which is where a > 0, else 0. At z = 0 it has no derivative, and 0 is the custom.
    """
    return _SLOPES[activation](a)


_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"sigmoid": sigmoid, "tanh": jnp.tanh, "relu": jax.nn.relu}
_SLOPES: dict[str, Callable[[Array], Array]] = {
    "sigmoid": lambda a: a * (1 - a),
    "tanh": lambda a: 1 - a * a,
    "relu": lambda a: (a > 0).astype(a.dtype),
}


# ---------------------------------------------------------------------------------------------------------------------
# Losses


def loss(scores: Batch, targets: Batch, kind: Loss) -> Float[Array, ""]:
    """The mean over the batch; `targets` (batch, classes) are 1 for an example's class and 0 elsewhere.

    cross_entropy: -sum_k y_k log p_k with p = softmax(z).
    squared_error: 1/2 sum_k (a_k - y_k)^2 with a = sigmoid(z), as in textbooks; it learns slowly where a is wrong and
        sure of it.
    """
    if kind == "cross_entropy":
        return -jnp.mean(jnp.sum(targets * _log_softmax(scores), axis=1))
    return jnp.mean(jnp.sum(jnp.square(sigmoid(scores) - targets), axis=1)) / 2


def loss_gradient(scores: Batch, targets: Batch, kind: Loss) -> Batch:
    """d_L = dJ/dz_L, (batch, classes). The mean over the batch divides all of it by the number of examples.

    cross_entropy: log p_k = z_k - log sum_j exp z_j, whose derivative by z_i is [k = i] - p_i. So
        dJ/dz_i = -sum_k y_k ([k = i] - p_i) = p_i sum_k y_k - y_i = p_i - y_i, the targets being 1 in all.
    squared_error: dJ/da_i = a_i - y_i, and by the sigmoid's slope dJ/dz_i = (a_i - y_i) a_i (1 - a_i). Left out, as it
        often is, the last factor makes this the gradient of another loss.
    """
    if kind == "cross_entropy":
        return (jnp.exp(_log_softmax(scores)) - targets) / len(scores)
    outputs = sigmoid(scores)
    return (outputs - targets) * slope("sigmoid", outputs) / len(scores)


def _log_softmax(scores):
    shifted = scores - jnp.max(scores, axis=1, keepdims=True)  # changes nothing, and exp does not overflow
    return shifted - jnp.log(jnp.sum(jnp.exp(shifted), axis=1, keepdims=True))


# ---------------------------------------------------------------------------------------------------------------------
# Forward, backward, and a step downhill


def forward(layers: Layers, inputs: Batch, activation: Activation) -> tuple[tuple[Batch, ...], Batch]:
    """What each layer was given, a_0 to a_{L-1}, which the way back needs; and the scores z_L (batch, classes)."""
    if inputs.shape[1] != layers[0].kernel.shape[0]:
        raise ValueError(f"forward: inputs {inputs.shape} do not fit the first kernel, {layers[0].kernel.shape}")
    activations = [inputs]
    for kernel, bias in layers[:-1]:
        activations.append(activate(activation, activations[-1] @ kernel + bias))
    kernel, bias = layers[-1]
    return tuple(activations), activations[-1] @ kernel + bias


def backward(layers: Layers, activations: tuple[Batch, ...], d: Batch, activation: Activation) -> Layers:
    """The gradients, in the form of the layers, from d = dJ/dz_L and what `forward` kept; see the top of this file."""
    gradients = []
    for (kernel, _), a in zip(reversed(layers), reversed(activations), strict=True):
        gradients.append(Layer(kernel=a.T @ d, bias=jnp.sum(d, axis=0)))
        if len(gradients) < len(layers):  # nobody asks for the gradient of the inputs
            d = (d @ kernel.T) * slope(activation, a)
    return tuple(reversed(gradients))


def loss_and_gradients(
    layers: Layers, inputs: Batch, targets: Batch, activation: Activation, kind: Loss
) -> tuple[Float[Array, ""], Layers]:
    """The loss of a batch, and its gradient with respect to every parameter."""
    activations, scores = forward(layers, inputs, activation)
    gradients = backward(layers, activations, loss_gradient(scores, targets, kind), activation)
    return loss(scores, targets, kind), gradients


def descend(layers: Layers, gradients: Layers, learning_rate: float | Float[ArrayLike, ""]) -> Layers:
    """One step of gradient descent: against the gradient, hence the minus."""
    return jax.tree.map(lambda parameter, gradient: parameter - learning_rate * gradient, layers, gradients)
