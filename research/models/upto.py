"""Depth as a number: the first layers of a deep network alone, how many being a value that one program takes.

    UpTo(model=ConvNet(features=(8,), convolutions=16), used=4)    # what ConvNet(features=(8,), convolutions=4) is

Of equal layers one after another (the model's `counted` says which) those in use are the first, and the others hand on
what they are given. They are scanned, and what is not in use is not computed, so that a shallow network in a deep one's
program takes about the time that it takes by itself; but where lanes are side by side (`jax.vmap`), all of them are
computed.

Parameters have the paths of the deep network, and those in use begin as in the shallow one; no gradient comes to the
others. So a sweep trains networks of all depths with one program, and compiles one instead of many.
"""

from research.config import config, leaf, structure
from research.models import in_use
from research.models.base import Altered, AnyModel, Network


@config
class UpTo(Altered):
    """A model of whose equal layers the first alone are in use."""

    model: AnyModel = structure(doc="the deep one: a config whose `counted` names the field that says how many")
    used: int = leaf(doc="how many", within="[1, inf)")

    def alter(self, network: Network) -> Network:
        def init(key):
            with in_use.using(self.used):
                return network.init(key)

        def apply(variables, inputs, **options):
            with in_use.using(self.used):
                return network.apply(variables, inputs, **options)

        return network._replace(init=init, apply=apply)
