"""Random changes to training examples that leave their meaning as it is.

`augment` is a pure function of a key: example j of a batch is changed by numbers drawn from (key, kind of change, j),
so that adding or removing one kind, or making the batch longer, leaves the other draws as they were. Strengths are
leaves, and strength 0 is the identity; None is absence, and costs nothing.

    Augmentation(rotation=10.0, shift=2.0, elastic=1.0)

Rotation, scale, shift and elastic deformation together say from where in the picture each pixel of the result is
taken, and the picture is sampled once, bilinearly. They need pictures: inputs (batch, height, width, features). Flip
and cutout need at least one axis of space, (batch, ..., features); mixup works for anything.

Coordinates are (row, column) in pixels, and what lies outside of the picture is `fill`.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from research.config import config, leaf
from research.errors import UserError

Coordinates = Float[Array, "batch height width"]


@config
class Augmentation:
    """Which changes are made to the training examples, and how strong they are."""

    rotation: float | None = leaf(None, "largest rotation either way, in degrees", within="[0, 180]")
    scale: float | None = leaf(None, "largest relative change of size: 0.1 is a factor of 0.9 to 1.1", within="[0, 1)")
    shift: float | None = leaf(None, "largest shift along each axis, in pixels", within="[0, inf)")
    elastic: float | None = leaf(None, "smooth random deformation: its standard deviation in pixels", within="[0, inf)")
    flip: float | None = leaf(None, "probability of mirroring left to right (the last axis of space)", within="[0, 1]")
    cutout: float | None = leaf(None, "side of the patch that is blanked, as a fraction of the whole", within="[0, 1]")
    mixup: float | None = leaf(None, "alpha of the Beta distribution that pairs are mixed by", within="[0, inf)")


DRAWS = ("rotation", "scale", "shift", "elastic", "flip", "cutout", "mixup")
"""Every kind of change has a place here, from which its random numbers follow: add new ones at the end."""


def augment(
    augmentation: Augmentation,
    key: Array,
    inputs: Float[ArrayLike, "batch *shape"],
    labels: Int[ArrayLike, "batch"],
    *,
    classes: int,
    fill: ArrayLike | Sequence[ArrayLike] = 0.0,
) -> tuple[Float[Array, "batch *shape"], Array]:
    """A batch, changed at random: the inputs, of the same shape, and the labels.

    inputs: floats, features last, before they are standardised.
    labels: classes as integers; they come back as they are, or with mixup as (batch, classes) float32 probabilities.
    fill: what lies outside of a picture, in the units of `inputs`; one number, or one for each feature.

    Raises UserError for a change that inputs of this shape cannot have.
    """
    _check(augmentation, inputs.shape)
    if augmentation.flip is not None:
        is_flipped = _uniform(key, "flip", (len(inputs),)) < augmentation.flip
        inputs = jnp.where(_for_each(is_flipped, inputs.ndim), jnp.flip(inputs, -2), inputs)
    if _is_geometric(augmentation):
        inputs = sample(inputs, *source(augmentation, key, *inputs.shape[:3]), fill)
    if augmentation.cutout is not None:
        inputs = jnp.where(cut_out(augmentation.cutout, key, inputs.shape), jnp.asarray(fill, inputs.dtype), inputs)
    if augmentation.mixup is not None:
        return mix_up(augmentation.mixup, key, inputs, labels, classes)
    return inputs, labels


def _check(augmentation, shape):
    space = len(shape) - 2
    given = [name for name in DRAWS if getattr(augmentation, name) is not None]
    for name in given:
        if name in ("rotation", "scale", "shift", "elastic") and space != 2:
            raise UserError(
                f"augmentation.{name}: only for pictures, (height, width, features), and these examples are {shape[1:]}"
            )
        if name in ("flip", "cutout") and space < 1:
            raise UserError(f"augmentation.{name}: these examples have features alone and no extent, {shape[1:]}")


def _is_geometric(augmentation):
    return any(getattr(augmentation, name) is not None for name in ("rotation", "scale", "shift", "elastic"))


def _uniform(key, name, shape, low=0.0, high=1.0):
    return jax.random.uniform(jax.random.fold_in(key, DRAWS.index(name)), shape, minval=low, maxval=high)


def _for_each(values, ndim):
    """(batch,) values, to be broadcast against arrays (batch, ...) of `ndim` axes."""
    return values.reshape(-1, *[1] * (ndim - 1))


# ---------------------------------------------------------------------------------------------------------------------
# Geometry: where each pixel of the result comes from


def source(augmentation: Augmentation, key: Array, batch: int, height: int, width: int) -> tuple[Coordinates, ...]:
    """The rows and the columns, in the given pictures, of the pixels of the augmented ones."""
    zero = jnp.zeros((batch,))
    angle, zoom, down, right = zero, zero + 1, zero, zero
    if augmentation.rotation is not None:
        angle = _uniform(key, "rotation", (batch,), -1) * augmentation.rotation
    if augmentation.scale is not None:
        zoom = 1 + _uniform(key, "scale", (batch,), -1) * augmentation.scale
    if augmentation.shift is not None:
        down, right = _uniform(key, "shift", (batch, 2), -1).T * augmentation.shift
    rows, columns = affine_source(angle, zoom, down, right, height, width)
    if augmentation.elastic is not None:
        displacement = smooth_noise(key, batch, height, width) * augmentation.elastic
        rows, columns = rows + displacement[:, 0], columns + displacement[:, 1]
    return rows, columns


def affine_source(angle, zoom, down, right, height: int, width: int) -> tuple[Coordinates, Coordinates]:
    """Where the pixels of pictures come from that are turned, zoomed and then shifted about their centres.

    angle: (batch,) degrees, anticlockwise. zoom: (batch,) factors of size. down, right: (batch,) pixels.
    """
    row, column = (height - 1) / 2, (width - 1) / 2
    y = (jnp.arange(height) - row)[:, None] - _for_each(down, 3)
    x = (jnp.arange(width) - column)[None, :] - _for_each(right, 3)
    radians = angle * (np.pi / 180)
    cosine, sine = _for_each(jnp.cos(radians) / zoom, 3), _for_each(jnp.sin(radians) / zoom, 3)
    return cosine * y + sine * x + row, cosine * x - sine * y + column


def smooth_noise(key: Array, batch: int, height: int, width: int) -> Float[Array, "batch 2 height width"]:
    """Random displacements, down and right, of mean 0 and standard deviation 1 that vary smoothly over a picture.

    White noise, one value for each seventh of the picture, under a Gaussian as wide as that. After Simard, Steinkraus
    and Platt (2003), whose Gaussian of 4 pixels is a seventh of 28.
    """
    down, across = (_smoothing(size).astype(np.float32) for size in (height, width))
    noise = _uniform(key, "elastic", (batch, 2, down.shape[1], across.shape[1]), -1) * np.sqrt(3)
    return jnp.einsum("yi,bdij,xj->bdyx", down, noise, across)


def _smoothing(size: int, parts: int = 7) -> np.ndarray:
    """(size, parts + 1) weights of Gaussians at the ends of equal parts; squares sum to 1, so variance is kept."""
    pixels = (np.arange(size) + 0.5) / size * parts
    weights = np.exp(-0.5 * np.square(pixels[:, None] - np.arange(parts + 1)))
    return weights / np.linalg.norm(weights, axis=1, keepdims=True)


def sample(
    inputs: Float[ArrayLike, "batch height width features"], rows: Coordinates, columns: Coordinates, fill=0.0
) -> Float[Array, "batch height width features"]:
    """Pictures read at (rows, columns), in pixels and in between: bilinearly, with `fill` all around.

    Four gathers from a picture with a rim of `fill`. On two CPU cores and 28x28 pixels these took a fifth of the time
    of matrix products with interpolation weights, in one pass or two.
    """
    batch, height, width, features = inputs.shape
    rimmed = jnp.broadcast_to(jnp.asarray(fill, inputs.dtype), (batch, height + 2, width + 2, features))
    values = rimmed.at[:, 1:-1, 1:-1].set(inputs).reshape(-1)
    row, down = _whole_and_part(rows, height)
    column, right = _whole_and_part(columns, width)
    down, right = down[..., None], right[..., None]
    pixel = (jnp.arange(batch)[:, None, None] * (height + 2) + row) * (width + 2) + column
    corner = pixel[..., None] * features + jnp.arange(features)

    def read(offset):
        return values.at[corner + offset * features].get(mode="promise_in_bounds")

    upper = read(0) * (1 - right) + read(1) * right
    lower = read(width + 2) * (1 - right) + read(width + 3) * right
    return upper * (1 - down) + lower * down


def _whole_and_part(coordinates, size):
    """Index into a rimmed axis and the fraction beyond it; all that is further out counts as the rim."""
    inside = jnp.clip(coordinates, -1, size)
    whole = jnp.minimum(jnp.floor(inside), size - 1)
    return whole.astype(jnp.int32) + 1, inside - whole


# ---------------------------------------------------------------------------------------------------------------------
# Cutout and mixup


def cut_out(side: ArrayLike, key: Array, shape: Sequence[int]) -> Array:
    """(batch, ..., 1) truths: which pixels lie in a box, `side` of the input's extent along every axis of space.

    Its centre is uniform over the input, so that it may stand out over the edge (DeVries and Taylor, 2017).
    """
    batch, *extents = shape[:-1]
    centres = _uniform(key, "cutout", (batch, len(extents)))
    inside = jnp.ones((batch, *[1] * len(extents), 1), bool)
    for axis, extent in enumerate(extents):
        places = (np.arange(extent, dtype=np.float32) + 0.5) / extent
        distance = jnp.abs(places - centres[:, axis, None])
        around = [1] * (len(extents) - axis)
        inside = inside & (distance < side / 2).reshape(batch, *[1] * axis, extent, *around)
    return inside


def mix_up(
    alpha: ArrayLike, key: Array, inputs: ArrayLike, labels: Int[ArrayLike, "batch"], classes: int
) -> tuple[Array, Array]:
    """Each example mixed with the next of the batch, and their labels in the same proportion (Zhang et al., 2018).

    The proportion is drawn from Beta(alpha, alpha) for each example, and its larger part goes to the example itself;
    as the batch is in random order, that changes no distribution.
    """
    share = symmetric_beta(alpha, _uniform(key, "mixup", (2, len(inputs))))
    share = jnp.maximum(share, 1 - share)
    targets = jax.nn.one_hot(labels, classes)
    mixed = (
        _for_each(share, x.ndim) * x + _for_each(1 - share, x.ndim) * jnp.roll(x, -1, axis=0) for x in (inputs, targets)
    )
    return tuple(mixed)


def symmetric_beta(alpha: ArrayLike, uniform: Float[ArrayLike, "2 batch"]) -> Float[Array, "batch"]:
    """Numbers distributed as Beta(alpha, alpha), from two uniform ones each; as Bernoulli(1/2) for alpha 0.

    One line instead of a rejection loop, after Devroye (1996), "Random variate generation in one line of code":
    1/2 +- 1/2 sqrt(y / (1 + y)) with y = (u^(-1/alpha) - 1) cos^2(2 pi v), in a form that cannot overflow.
    """
    power = jnp.exp(jnp.log(uniform[0]) / alpha)
    cosine = jnp.cos(2 * np.pi * uniform[1])
    part = (1 - power) * jnp.square(cosine)
    return 0.5 + 0.5 * jnp.sign(cosine) * jnp.sqrt(part / jnp.maximum(power + part, jnp.finfo(part.dtype).tiny))
