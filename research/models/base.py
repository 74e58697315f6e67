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

import contextlib
import dataclasses
import inspect
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.core.meta
import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from research.config import is_config, validate
from research.errors import UserError, did_you_mean
from research.models.adapters import Kernel, LowRank, adapting, recording, with_keys
from research.models.formulations import formulated
from research.models.heads import check_heads, heads
from research.models.layers import Dropout
from research.models.stack import entering
from research.spec import Spec
from research.stacks import as_range, block_paths, pieces_in

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

    def counted(self) -> str | None:
        """The field that says how many equal layers there are, where `UpTo` can use the first of them alone."""
        return None


AnyModel = Model | nn.Module
"""What may stand for a model in an experiment."""
Edit = Callable[[Array, Any], Any]
"""What is made of a layer's outputs: (inputs, outputs) -> outputs."""


class Altered:
    """Base of the configs that are another model, whose layers compute in another way; see `models.altering`.

    They go wherever a model goes, but are none that people choose, since they are made of trained weights.
    """

    model: AnyModel
    """What is altered; its blocks are not stacked."""

    def alter(self, network: "Network") -> "Network":
        """The network that it is, of that of its model."""
        raise NotImplementedError(f"{type(self).__name__} has no method `alter(self, network)`")


class Network(NamedTuple):
    """A model sized for its data, as two pure functions that can be jitted, mapped and differentiated.

    init(key) -> variables: plain nested dicts {"params": {...}, "batch_stats": {...} where the model has such state}.
        Values depend on the key and their path alone.
    apply(variables, inputs, *, train, key=None, features=(), trained=None, given=None, edits={}) -> (logits, changed):
        inputs (batch, *spec.shape), logits (batch, spec.classes), or for tokens (batch, positions, spec.classes);
        `key` is needed to train with dropout.
        changed holds every collection but the parameters as it is after a training step, and where `features` names
        layers by path ("stage_0/convolution_0"), their outputs: {"features": {path: array}}; the last one of a layer
        that is called several times. What a layer sows as an intermediate can be asked for by the name beneath its
        path: "block_00/attention/weights". Raises UserError for a path that is neither.
        trained: the paths of the parameters that are trained, all if None. In training, what comes before the first
        of them, and every batch norm of which none is, runs as it is evaluated: on running averages, without dropout.
        given: (layer, array), what a layer is given in the place of what comes to it.
        edits: {layer: function}, what is made of a layer's outputs: function(inputs, outputs) stands in their place.
            A layer of a scanned stack cannot be edited; there is no call of its own.
    stacks: {"block": 12} where a layer holds the equal blocks block_00 to block_11 stacked, for `parameters.views`;
        their layers may be asked for by either path. A stack may also be given cut into pieces (`parameters.cut`).
    """

    init: Callable[[Array], dict]
    apply: Callable[..., tuple[Array, dict]]
    stacks: Mapping[str, int | range] = MappingProxyType({})


def network(model: "AnyModel | Altered", spec: Spec, adapters: Mapping[str, LowRank] = MappingProxyType({})) -> Network:
    """The network of a model config, or of a Flax module, for data of a spec.

    adapters: of layers, by path, which `apply` wants to find lora_a and lora_b with; see `models.adapters`.

    A module's field `classes`, `num_classes` or `outputs` that is None is set to the number of classes; its `__call__`
    is told `train=` (or the negated `deterministic=`) if it takes that. Raises UserError for what is no model, for a
    config's field that cannot be, and when used, if what comes out has not the shape (batch, classes).
    """
    if isinstance(model, Altered):
        return _checked(model).alter(network(model.model, spec, adapters))
    sized = _Sized(_module(model, spec), type(model).__name__, spec, stacks(model), adapters)
    return Network(sized.init, sized.apply, sized.stacks)


def reach(
    network: Network,
    variables: Mapping,
    inputs: Array,
    *,
    trained: Collection[str],
    train: bool,
    key: Array | None = None,
) -> tuple[str | None, Array | None]:
    """The first layer that is trained, or has something trained in it, and what comes to it: (layer, array).

    trained: the paths of the parameters that are. Of stacked blocks it is the stack, or the piece ("block[10:12]").
    (None, None) where something of the model itself is trained, or of a layer that is not seen to be called; and where
    the first is called several times, or not with an array first.
    """
    layers, _ = _layers_of(trained)
    stacked = pieces_in(variables["params"], network.stacks)
    caught: dict[str, list[tuple]] = {}
    with _watched(trained, stacked, caught):
        network.apply(variables, inputs, train=train, key=key, trained=trained)
    seen_as = {layer: stack if (stack := layer.partition("/")[0]) in stacked else layer for layer in layers}
    if "" in layers or not caught.keys() >= set(seen_as.values()):
        return None, None
    layer, calls = next(iter(caught.items()))
    arrays = [value for value in calls[0] if isinstance(value, jax.Array)]
    return (layer, arrays[0]) if len(calls) == 1 and arrays and arrays[0] is calls[0][0] else (None, None)


def kernels(model: AnyModel, spec: Spec) -> dict[str, Kernel]:
    """The kernel of each dense, attention and convolutional layer of a model, by the path the layer is stored at."""
    found: dict[str, Kernel] = {}
    with recording(found):
        jax.eval_shape(network(model, spec).init, jax.random.key(0))
    return found


class Call(NamedTuple):
    """What a layer was given and what it gave, once."""

    path: str
    kind: str
    """The name of its class."""
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def calls(model: AnyModel, spec: Spec) -> tuple[Call, ...]:
    """Every call of a layer that makes one array of another, for one example, in the order in which they end.

    A stack that is scanned is not looked into. Nothing is computed.
    """
    found: list[Call] = []

    def intercept(call, args, kwargs, context):
        outputs = call(*args, **kwargs)
        layer, are_arrays = context.module, bool(args) and all(isinstance(x, jax.Array) for x in (args[0], outputs))
        if context.method_name == "__call__" and layer.path and are_arrays:
            found.append(Call("/".join(layer.path), type(layer).__name__, args[0].shape, outputs.shape))
        return outputs

    net, dtype = network(model, spec), jnp.float32 if spec.tokens is None else jnp.int32
    variables = jax.eval_shape(net.init, jax.random.key(0))

    def run(variables, inputs):
        with nn.intercept_methods(intercept):
            return net.apply(variables, inputs, train=False)[0]

    jax.eval_shape(run, variables, jax.ShapeDtypeStruct((1, *spec.shape), dtype))
    return tuple(found)


def unboxed(variables: Mapping) -> Mapping:
    """The variables of a module without the boxes in which flax keeps how they are to be laid over devices."""
    return flax.core.meta.unbox(variables)


def stacks(model: AnyModel) -> dict[str, int | range]:
    """Which layers of a model hold several equal blocks stacked; a module of the user's own is taken to have none."""
    return model.stacks() if isinstance(model, Model) else {}


@dataclasses.dataclass(frozen=True)
class _Sized:
    """A module that is sized for the data; its methods are those of a `Network`."""

    module: nn.Module
    name: str
    spec: Spec
    stacks: Mapping[str, int | range]
    adapters: Mapping[str, LowRank]

    def init(self, key: Array) -> dict:
        inputs = jnp.zeros((1, *self.spec.shape), jnp.float32 if self.spec.tokens is None else jnp.int32)
        with heads(self.spec):
            outputs, variables = self.module.init_with_output({"params": key}, inputs, **self._mode(train=False))
        check_heads(self.spec, variables.get("params", {}), self.name)
        self._check_outputs(outputs)
        state = {kind: tree for kind, tree in variables.items() if kind != FEATURES and not _is_sown(tree)}
        return {"params": {}, **state}

    def apply(
        self,
        variables: Mapping,
        inputs: Array,
        *,
        train: bool,
        key: Array | None = None,
        features: tuple[str, ...] = (),
        trained: Collection[str] | None = None,
        given: tuple[str, Array] | None = None,
        edits: Mapping[str, Edit] = MappingProxyType({}),
    ) -> tuple[Array, dict]:
        self._check_inputs(inputs)
        state = [kind for kind in variables if kind != "params"] if train else []
        stored = pieces_in(variables["params"], self.stacks)
        asked = _Asked(features, stored)
        if train and any(adapter.dropout is not None for adapter in self.adapters.values()):
            if key is None:
                raise self._needs_key(train)
            variables = with_keys(variables, self.adapters, key, stored)
        try:
            with contextlib.ExitStack() as around:
                if given is not None:
                    around.enter_context(_given(*given, stored))
                if edits:
                    around.enter_context(_edited(edits))
                if train and trained is not None:
                    around.enter_context(_fixed(trained))
                if self.adapters:
                    around.enter_context(adapting(self.adapters))  # they see what a layer is given at last
                around.enter_context(heads(self.spec))  # it takes the place of the layer's own call
                around.enter_context(formulated())  # the last: it is the layer's own call
                outputs, changed = self.module.apply(
                    variables,
                    jnp.asarray(inputs),
                    **self._mode(train),
                    rngs=None if key is None else {"params": key},  # flax turns to it for any other purpose, as dropout
                    mutable=[*state, FEATURES] if features else state,
                    capture_intermediates=asked.is_asked_for if features else False,
                )
        except flax.errors.InvalidRngError as error:
            if key is not None:
                raise
            raise self._needs_key(train) from error
        self._check_outputs(outputs)
        captured = changed.pop(FEATURES, {})
        return outputs, {**changed, "features": asked.found(captured)} if features else changed

    def _needs_key(self, train: bool) -> UserError:
        return UserError(f"model: {self.name} draws random numbers when applied with train={train}; give it a key")

    def _mode(self, train: bool) -> dict[str, bool]:
        """What the module wants to be told of whether it trains."""
        accepted = inspect.signature(type(self.module).__call__).parameters
        modes = {"train": train, "deterministic": not train}
        return next(({name: value} for name, value in modes.items() if name in accepted), {})

    def _check_inputs(self, inputs: Any) -> None:
        shape, dtype = jnp.shape(inputs), jnp.result_type(inputs)
        if shape[1:] != tuple(self.spec.shape):
            raise ValueError(f"{self.name}: inputs {shape} are not (batch, *{tuple(self.spec.shape)})")
        if self.spec.tokens is None and not jnp.issubdtype(dtype, jnp.floating):
            raise UserError(f"model: {self.name} was given inputs {shape} of {dtype}; floating point is needed")
        if self.spec.tokens is not None and not jnp.issubdtype(dtype, jnp.integer):
            raise UserError(f"model: {self.name} was given inputs {shape} of {dtype}; tokens are whole numbers")

    def _check_outputs(self, outputs: Any) -> None:
        shape, classes = getattr(outputs, "shape", None), self.spec.classes
        needed = [(classes,)] if self.spec.tokens is None else [(classes,), (*self.spec.shape, classes)]
        if shape is None or len(shape) < 2 or tuple(shape[1:]) not in needed:
            came_out = f"an array of shape {shape}" if shape is not None else f"a {type(outputs).__name__}"
            accepted = " or ".join(f"(batch, {', '.join(map(str, sizes))})" for sizes in needed)
            raise UserError(f"model: {self.name} gave {came_out}; logits {accepted} are needed")


class _Asked:
    """The layers whose outputs are asked for, by path; in a stack, by that of a block."""

    def __init__(self, features: tuple[str, ...], stacks: Mapping[str, int | range]):
        self._stored = {path: _stored(path, stacks) for path in features}
        self._wanted = {path for path, _ in self._stored.values()}
        self._layers: dict[str, None] = {}  # those that are met, in order

    def is_asked_for(self, layer: nn.Module, method: str) -> bool:
        """What flax calls with each layer that it meets, to know whether to keep what comes out."""
        path = "/".join(layer.path)
        self._layers[path] = None
        return method == "__call__" and path in self._wanted

    def found(self, captured: Mapping) -> dict[str, Any]:
        """The outputs by path. Raises UserError for what is no layer, or was not called."""
        return {path: self._outputs(captured, path, *stored) for path, stored in self._stored.items()}

    def _outputs(self, captured: Mapping, path: str, stored: str, index: int | None) -> Any:
        layer, _, name = stored.rpartition("/")
        if stored not in self._layers and (sown := _at(captured, layer).get(name)):
            return sown[-1] if index is None else sown[-1][index]
        if stored not in self._layers:
            raise UserError(f"features: no layer '{path}'{did_you_mean(path, filter(None, self._layers))}")
        if "__call__" not in (found := _at(captured, stored)):
            raise UserError(f"features: layer '{path}' has no outputs to ask for; its `__call__` was not used")
        outputs = found["__call__"][-1]
        return outputs if index is None else outputs[index]


def _at(captured: Mapping, layer: str) -> Mapping:
    """What was caught of a layer, by the name of the method or of what it sows."""
    for part in filter(None, layer.split("/")):
        captured = captured.get(part, {})
    return captured


# ---------------------------------------------------------------------------------------------------------------------
# What is frozen


def _fixed(trained: Collection[str]) -> contextlib.AbstractContextManager:
    """Within it, layers that training does not touch run as they are evaluated.

    Those are all up to the first that is trained, or has something trained in it, and batch norms of which no parameter
    is trained. Of the model itself, which is around all others, only its own parameters count.
    """
    layers, around = _layers_of(trained)
    met = "" in layers

    def intercept(call, args, kwargs, context):
        nonlocal met
        module, path = context.module, "/".join(context.module.path)
        met = met or path in layers or path in around
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        if isinstance(module, Dropout | nn.Dropout) and not met:
            return args[0]
        if isinstance(module, nn.BatchNorm) and path not in layers and (not met or "params" in module.variables):
            return _on_averages(module, call, args, kwargs)
        return call(*args, **kwargs)

    return nn.intercept_methods(intercept)


def _layers_of(trained: Collection[str]) -> tuple[set[str], set[str]]:
    """The layers that have parameters which are trained, and those around them."""
    layers = {path.rpartition("/")[0] for path in trained}
    return layers, {layer[: slash.start()] for layer in layers for slash in re.finditer("/", layer)}


@contextlib.contextmanager
def _watched(trained: Collection[str], stacks: Collection[str], caught: dict[str, list[tuple]]) -> Iterator[None]:
    """Within it, `caught` gets what each layer is given that is trained, or has something trained in it.

    That is nothing, (), where another method is called before `__call__`. Of stacked blocks it gets what comes to all
    of them, and nothing from within.
    """
    layers, blocks = set().union(*_layers_of(trained)), set()

    def look(path, outputs):
        blocks.add(path)
        if path in layers:
            caught.setdefault(path, []).append((outputs,))
        return outputs

    def intercept(call, args, kwargs, context):
        path = "/".join(context.module.path)
        if path in layers and path not in blocks and path.partition("/")[0] not in stacks:
            if context.method_name == "__call__":
                caught.setdefault(path, []).append(args)
            elif context.method_name != "setup":
                caught.setdefault(path, [()])
        return call(*args, **kwargs)

    with entering(look), nn.intercept_methods(intercept):
        yield


def _given(layer: str, inputs: Array, stacks: Collection[str]) -> contextlib.AbstractContextManager:
    """Within it, a layer is given these inputs, whatever comes to it; what that would be is then of no use."""
    if layer in stacks:
        return entering(lambda path, outputs: inputs if path == layer else outputs)

    def intercept(call, args, kwargs, context):
        if context.method_name == "__call__" and "/".join(context.module.path) == layer:
            args = (inputs, *args[1:])
        return call(*args, **kwargs)

    return nn.intercept_methods(intercept)


def _edited(edits: Mapping[str, Edit]) -> contextlib.AbstractContextManager:
    """Within it, something else is made of the outputs of layers, by path."""

    def intercept(call, args, kwargs, context):
        outputs = call(*args, **kwargs)
        path = "/".join(context.module.path)
        return edits[path](args[0], outputs) if context.method_name == "__call__" and path in edits else outputs

    return nn.intercept_methods(intercept)


def _on_averages(module: nn.BatchNorm, call: Callable, args: tuple, kwargs: dict[str, Any]) -> Array:
    """The outputs of a batch norm by its running averages, whichever way it was told to use the batch's own."""
    if module.use_running_average is None:
        return call(args[0], **{**kwargs, "use_running_average": True})
    told = module.use_running_average
    object.__setattr__(module, "use_running_average", True)  # flax has no other way to tell a layer that is at work
    try:
        return call(*args, **kwargs)
    finally:
        object.__setattr__(module, "use_running_average", told)


# ---------------------------------------------------------------------------------------------------------------------
# What is given


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
        return _checked(model).module(spec)
    if isinstance(model, type) and issubclass(model, nn.Module | Model):
        raise UserError(f"model: {model.__name__} is a class; give an instance, {model.__name__}()")
    raise UserError(f"model: {model!r} is neither a model config nor a Flax module")


def _checked(model: Model) -> Model:
    """The config, if nothing is wrong with it. One that holds arrays came through `jit`, and was checked before."""
    if not is_config(model) or any(
        isinstance(leaf, jax.Array | np.ndarray | np.generic) for leaf in jax.tree.leaves(model)
    ):
        return model
    try:
        return validate(model)
    except UserError as error:
        raise UserError(*(f"{type(model).__name__}: {problem}" for problem in error.problems)) from None


def _stored(path: str, stacks: Mapping[str, int | range]) -> tuple[str, int | None]:
    """The layer that gives the outputs of a path, and which of its stacked blocks if it holds several."""
    for name, blocks in stacks.items():
        for index, block in enumerate(block_paths(name, as_range(blocks))):
            if path == block or path.startswith(f"{block}/"):
                return name + path.removeprefix(block), index
    return path, None
