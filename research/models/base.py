"""What a model is to the rest of the house: two pure functions, `init` and `apply`.

    net = network(ConvNet(features=(16, 32)), spec)
    variables = net.init(key)                                          # {"params": ..., "batch_stats": ...}
    logits, changed = net.apply(variables, inputs, train=True, key=key)
    variables = {**variables, **changed}

A config derived from `Model` is a model, and so is any Flax module of the user's own:

    class Net(nn.Module):
        classes: int | None = None                                     # set from the data if None

        @nn.compact
        def __call__(self, inputs, train):                             # `train` only if it is wanted
            return nn.Dense(self.classes, name="head")(inputs.reshape(len(inputs), -1))

    network(Net(), spec)
"""

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from research.errors import UserError, did_you_mean
from research.spec import Spec

CLASSES_FIELDS = ("classes", "num_classes", "outputs")
FEATURES = "intermediates"  # flax's collection for what `capture_intermediates` catches


class Model:
    """Base of the configs that make a network: `@config class Mine(Model)` with a method `module`.

    The module's `__call__(inputs, train)` gives logits (batch, spec.classes), or for tokens (batch, positions,
    spec.classes). It takes the config as a field, so that
    leaves, a dropout rate say, may be traced; give every layer a name, since a parameter is known by its path.
    """

    def module(self, spec: Spec) -> nn.Module:
        """The Flax module sized for the data. Raises UserError where the data does not suit the model."""
        raise NotImplementedError(f"{type(self).__name__} has no method `module(self, spec)`")

    def stacks(self) -> dict[str, int | range]:
        """Which layers hold several equal blocks stacked, and which blocks they are; as `parameters.views` wants it."""
        return {}


AnyModel = Model | nn.Module
"""What may stand for a model in an experiment."""


class Network(NamedTuple):
    """A model sized for its data, as two pure functions that can be jitted, mapped and differentiated.

    init(key) -> variables: plain nested dicts {"params": {...}, "batch_stats": {...} where the model has such state}.
        Values depend on the key and their path alone.
    apply(variables, inputs, *, train, key=None, features=()) -> (logits, changed):
        inputs (batch, *spec.shape), logits (batch, spec.classes), or for tokens (batch, positions, spec.classes);
        `key` is needed to train with dropout.
        changed holds every collection but the parameters as it is after a training step, and where `features` names
        layers by path ("stage_0/convolution_0"), their outputs: {"features": {path: array}}; the last one of a layer
        that is called several times. Raises UserError for a path that is no layer's.
    stacks: {"block": 12} where a layer holds the equal blocks block_00 to block_11 stacked, for `parameters.views`;
        their layers may be asked for by either path.
    """

    init: Callable[[Array], dict]
    apply: Callable[..., tuple[Array, dict]]
    stacks: Mapping[str, int | range] = MappingProxyType({})


def network(model: Model | nn.Module, spec: Spec) -> Network:
    """The network of a model config, or of a Flax module, for data of a spec.

    A module's field `classes`, `num_classes` or `outputs` that is None is set to the number of classes; its `__call__`
    is told `train=` (or the negated `deterministic=`) if it takes that. Raises UserError for what is no model, and
    when used, if what comes out has not the shape (batch, classes).
    """
    module, name = _module(model, spec), type(model).__name__
    mode = _mode_argument(module)
    stacks = model.stacks() if isinstance(model, Model) else {}

    def call(train: bool) -> dict[str, bool]:
        return {"train": {"train": train}, "deterministic": {"deterministic": not train}}.get(mode, {})

    def check(outputs) -> None:
        shape = getattr(outputs, "shape", None)
        needed = [(spec.classes,)] if spec.tokens is None else [(spec.classes,), (*spec.shape, spec.classes)]
        if shape is None or len(shape) < 2 or tuple(shape[1:]) not in needed:
            came_out = f"an array of shape {shape}" if shape is not None else f"a {type(outputs).__name__}"
            accepted = " or ".join(f"(batch, {', '.join(map(str, sizes))})" for sizes in needed)
            raise UserError(f"model: {name} gave {came_out}; logits {accepted} are needed")

    def check_inputs(inputs) -> None:
        dtype = jnp.result_type(inputs)
        what = f"model: {name} was given inputs {jnp.shape(inputs)} of {dtype}"
        if spec.tokens is None and not jnp.issubdtype(dtype, jnp.floating):
            raise UserError(f"{what}; floating point is needed")
        if spec.tokens is not None and not jnp.issubdtype(dtype, jnp.integer):
            raise UserError(f"{what}; tokens are whole numbers")

    def init(key: Array) -> dict:
        inputs = jnp.zeros((1, *spec.shape), jnp.float32 if spec.tokens is None else jnp.int32)
        outputs, variables = module.init_with_output({"params": key}, inputs, **call(train=False))
        check(outputs)
        state = {kind: tree for kind, tree in variables.items() if kind != FEATURES and not _is_sown(tree)}
        return {"params": {}, **state}

    def apply(
        variables: Mapping, inputs: Array, *, train: bool, key: Array | None = None, features: tuple[str, ...] = ()
    ) -> tuple[Array, dict]:
        if jnp.shape(inputs)[1:] != tuple(spec.shape):
            raise ValueError(f"{name}: inputs {jnp.shape(inputs)} are not (batch, *{tuple(spec.shape)})")
        check_inputs(inputs)
        state = [kind for kind in variables if kind != "params"] if train else []
        layers: dict[str, None] = {}
        stored = {path: _stored(path, stacks) for path in features}
        wanted = {path for path, _ in stored.values()}

        def is_asked_for(layer: nn.Module, method: str) -> bool:
            path = "/".join(layer.path)
            layers[path] = None
            return method == "__call__" and path in wanted

        try:
            outputs, changed = module.apply(
                variables,
                jnp.asarray(inputs),
                **call(train),
                rngs=None
                if key is None
                else {"params": key},  # to which flax turns for "dropout" and any other purpose
                mutable=[*state, FEATURES] if features else state,
                capture_intermediates=is_asked_for if features else False,
            )
        except flax.errors.InvalidRngError as error:
            if key is not None:
                raise
            raise UserError(
                f"model: {name} draws random numbers when applied with train={train}; give it a key"
            ) from error
        check(outputs)
        captured = changed.pop(FEATURES, {})
        if features:
            changed["features"] = {path: _feature(captured, path, *stored[path], layers) for path in features}
        return outputs, changed

    return Network(init, apply, stacks)


def _is_sown(tree: Any) -> bool:
    """Whether a collection is what a module only reports by `sow`, which is no state: tuples that grow."""
    return any(isinstance(leaf, tuple) for leaf in jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, tuple)))


def _module(model: Any, spec: Spec) -> nn.Module:
    if isinstance(model, nn.Module):
        for name in CLASSES_FIELDS:
            if getattr(model, name, 0) is None:
                return model.clone(**{name: spec.classes})
        return model
    if isinstance(model, Model):
        return model.module(spec)
    if isinstance(model, type) and issubclass(model, nn.Module | Model):
        raise UserError(f"model: {model.__name__} is a class; give an instance, {model.__name__}()")
    raise UserError(f"model: {model!r} is neither a model config nor a Flax module")


def _mode_argument(module: nn.Module) -> str | None:
    """The argument that tells the module whether it trains, if it has one."""
    accepted = inspect.signature(type(module).__call__).parameters
    return next((name for name in ("train", "deterministic") if name in accepted), None)


def _stored(path: str, stacks: Mapping[str, int | range]) -> tuple[str, int | None]:
    """The layer that gives the outputs of a path, and which of its stacked blocks if it holds several."""
    for name, blocks in stacks.items():
        if not path.startswith(f"{name}_"):
            continue
        number, slash, rest = path.removeprefix(f"{name}_").partition("/")
        blocks = blocks if isinstance(blocks, range) else range(blocks)
        if number.isdecimal() and int(number) in blocks:
            return f"{name}{slash}{rest}", blocks.index(int(number))
    return path, None


def _feature(captured: Mapping, path: str, stored: str, index: int | None, layers: Mapping[str, None]) -> Any:
    if stored not in layers:
        raise UserError(f"features: no layer '{path}'{did_you_mean(path, filter(None, layers))}")
    for part in stored.split("/"):
        captured = captured.get(part, {})
    if "__call__" not in captured:
        raise UserError(f"features: layer '{path}' has no outputs to ask for; its `__call__` was not used")
    outputs = captured["__call__"][-1]
    return outputs if index is None else outputs[index]
