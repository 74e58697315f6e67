"""A program as StableHLO and as ONNX, with any number of examples in a batch.

StableHLO is written by `jax.export` for CPU, CUDA and TPU at once, and takes the weights as an argument, {path: array}:
they are on the disk once, in the safetensors file beside, a program of any size stays small, no compiler folds
constants as large as the weights, and what was fine-tuned further runs in the same program. Where our convolutions
have a formulation for the CPU, the file holds both, and each platform takes its own. ONNX holds its weights, as all
that run ONNX expect it.
"""

import importlib.util
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from research.deployment.program import Program
from research.errors import UserError
from research.inspection.program import Branches, Once, called

PLATFORMS = ("cpu", "cuda", "tpu")
NEEDED_FOR_ONNX = ("jax2onnx", "onnxruntime")
OPSET = 21


def has_onnx() -> bool:
    """Whether the extra `onnx` is installed."""
    return all(importlib.util.find_spec(name) is not None for name in NEEDED_FOR_ONNX)


def stablehlo(program: Program, dtype: Any) -> bytes:
    """The serialized program (arrays, raw) -> probabilities. Raises UserError for what StableHLO has no words for.

    dtype: of raw inputs. `jax.export.deserialize` reads it back.
    """
    arrays = {path: jax.ShapeDtypeStruct(np.shape(array), array.dtype) for path, array in program.arrays.items()}
    export = jax.export.export
    try:
        function = for_any_batch(program, dtype)
        exported = export(jax.jit(function), platforms=PLATFORMS)(arrays, _inputs(program, dtype))
        return bytes(exported.serialize())
    except UserError:
        raise
    except Exception as error:  # whatever an operation's own lowering raises
        raise UserError(f"stablehlo: {_in_a_line(error)}") from error


def onnx(program: Program, dtype: Any) -> bytes:
    """The model of raw inputs as ONNX. Raises UserError where the extra is missing, and for operations it lacks."""
    if not has_onnx():
        raise UserError('onnx: needs jax2onnx and onnxruntime: pip install -e ".[onnx]"')
    import jax2onnx

    function, inputs = for_any_batch(program, dtype), _inputs(program, dtype)
    plain = inlined(lambda raw: function(program.arrays, raw), inputs)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its own use of JAX
            model = jax2onnx.to_onnx(
                plain, [inputs], model_name="network", opset=OPSET, input_names=["raw"], output_names=["probabilities"]
            )
    except Exception as error:  # each of its operations raises what it likes
        raise UserError(f"onnx: {_in_a_line(error)}") from error
    return model.SerializeToString()


def for_any_batch(program: Program, dtype: Any) -> Callable[[Any, Any], jax.Array]:
    """The program's function, which can be traced with a batch of unknown size.

    A model that wants to know its batch as a number, by `len(inputs)` say, is mapped over examples instead: to one
    that is evaluated and not trained, that is the same.
    """

    def alone(arrays: Any, raw: Any) -> jax.Array:
        return jax.vmap(lambda one: program.function(arrays, one[None])[0])(raw)

    arrays = {path: jax.ShapeDtypeStruct(np.shape(array), array.dtype) for path, array in program.arrays.items()}
    try:
        jax.eval_shape(program.function, arrays, _inputs(program, dtype))
    except (TypeError, ValueError):
        return alone
    return program.function


def _inputs(program: Program, dtype: Any) -> jax.ShapeDtypeStruct:
    (batch,) = jax.export.symbolic_shape("batch")
    return jax.ShapeDtypeStruct((batch, *program.data.spec.shape), jnp.dtype(dtype))


def _in_a_line(error: Exception) -> str:
    """What went wrong, and at which operation where that is known."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = f"{text[:160]}..." if len(text) > 160 else text
    name = _operation(error)
    return f"cannot be written: {text}" if name is None else f"does not support the operation '{name}' here: {text}"


def _operation(error: BaseException) -> str | None:
    """The operation that was being written when an error came up, as its frames tell."""
    found = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        equations = [value for value in frame.f_locals.values() if isinstance(value, JaxprEqn)]
        found = equations[-1].primitive.name if equations else found
    return found


# ---------------------------------------------------------------------------------------------------------------------
# Plain operations


def inlined(function: Callable[[Any], jax.Array], inputs: jax.ShapeDtypeStruct) -> Callable[[Any], jax.Array]:
    """The same function as nothing but operations: no calls, no rules for gradients, XLA's form for any platform."""
    closed = jax.make_jaxpr(function)(inputs)
    return lambda raw: _evaluate(closed.jaxpr, closed.consts, [raw])[0]


def _evaluate(body: Jaxpr, constants: Sequence[Any], operands: Sequence[Any]) -> list[Any]:
    values = dict(zip((*body.constvars, *body.invars), (*constants, *operands), strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for equation in body.eqns:
        if equation.primitive.name == "platform_index":  # read by branches alone, of which one is taken here
            continue
        match called(equation):
            case Once(times=1) as call:
                given = call.given([read(atom) for atom in equation.invars])
                results = _evaluate(call.body, _constants(equation, call.body), given)
            case Branches((only,)):
                results = _evaluate(only, _constants(equation, only), [read(atom) for atom in equation.invars[1:]])
            case _ if equation.primitive is jax.lax.pad_p:
                results = [_padded(*map(read, equation.invars), equation.params["padding_config"])]
            case _:
                given = [read(atom) for atom in equation.invars]
                results = equation.primitive.bind(*given, **equation.primitive.get_bind_params(equation.params))
                results = results if equation.primitive.multiple_results else [results]
        values.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in body.outvars]


def _padded(array: Any, value: Any, widths: Sequence[tuple[int, int, int]]) -> Any:
    """What `pad` gives, as a concatenation where it can be: jax2onnx wants to know the size of a batch to pad it."""
    if any(low < 0 or high < 0 or between for low, high, between in widths):
        return jax.lax.pad(array, value, widths)

    def border(axis: int, width: int) -> list[Any]:
        shape = (*array.shape[:axis], width, *array.shape[axis + 1 :])
        return [jax.lax.broadcast_in_dim(value, shape, ())] if width else []

    for axis, (low, high, _) in enumerate(widths):
        if low or high:
            array = jax.lax.concatenate([*border(axis, low), array, *border(axis, high)], axis)
    return array


def _constants(equation: JaxprEqn, body: Jaxpr) -> Sequence[Any]:
    """The constants of a body among an equation's parameters."""
    for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda leaf: isinstance(leaf, ClosedJaxpr)):
        if isinstance(value, ClosedJaxpr) and value.jaxpr is body:
            return value.consts
    return []
