"""A head for each of several tasks, on one trunk.

    with heads(spec):
        module.apply(variables, inputs)         # where params/head has digits/kernel, letters/kernel, ...

No model is edited: its last layer, `head`, a dense one with a feature for each class of all tasks, hands what comes to
it to a dense layer for each task, `head/digits` say, and gives their logits side by side. So a rule about "head/.*" is
about all of them, and everything else has the path that it has where there is one task.
"""

from contextlib import AbstractContextManager, nullcontext

import flax.linen as nn
import jax.numpy as jnp

from research.errors import UserError
from research.spec import Spec

HEAD = "head"


def heads(spec: Spec) -> AbstractContextManager:
    """Within it, the head of a model is one for each task of the spec; nothing is changed where it has none."""
    if not spec.tasks:
        return nullcontext()

    def intercept(call, args, kwargs, context):
        module = context.module
        if context.method_name != "__call__" or module.path != (HEAD,):
            return call(*args, **kwargs)
        if not isinstance(module, nn.Dense) or module.features != spec.classes:
            raise UserError(f"model: its layer '{HEAD}' is not dense with a feature for each class, {spec.classes}")
        each = [module.clone(features=classes, name=task, parent=module) for task, classes in spec.tasks]
        return jnp.concatenate([head(*args, **kwargs) for head in each], axis=-1)

    return nn.intercept_methods(intercept)


def check_heads(spec: Spec, parameters: dict, name: str) -> None:
    """Raises UserError unless the parameters of a model, nested, have a head for each task."""
    if not {task for task, _ in spec.tasks} <= parameters.get(HEAD, {}).keys():
        needed = f"a dense layer '{HEAD}' that comes last, of which each task is given its own"
        raise UserError(f"model: {name} has no head; for several tasks it needs {needed}")
