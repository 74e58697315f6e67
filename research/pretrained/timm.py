"""The config.json of timm's folders: {"architecture": "vit_base_patch16_224", "num_classes": 1000, "model_args": ...}.

An architecture is a name for arguments of timm's constructors; "model_args" are those given beside it, and they alone
say what cannot be seen from the tensors. See timm/models/_hub.py.
"""

import re
from collections.abc import Mapping
from typing import Any

from research.pretrained.about import About
from research.spec import Spec


def read_settings(about: About, architectures: str, only: Mapping[str, Any]) -> tuple[int, int] | None:
    """The size of pictures, if it is given; settings of the model's arguments become those of `about`.

    architectures: pattern of those that our model can be. An architecture implies what no tensor tells, as that
        pooling is blurred, so that others are refused even if their names fit.
    only: what our model stands for, where arguments may say otherwise.
    """
    name = about.settings.get("architecture")
    if name is not None and not re.fullmatch(rf"({architectures})(\..+)?", str(name)):
        about.problems.append(f"config.json: architecture '{name}' is none that our model can be")
    arguments, pretrained = (_mapping(about.settings.get(name)) for name in ("model_args", "pretrained_cfg"))
    names = about.settings.get("label_names")
    labels = {str(i): name for i, name in enumerate(names)} if isinstance(names, list) else None
    about.settings = {**about.settings, **arguments, "id2label": labels}
    about.needs(only)
    size = pretrained.get("input_size")
    is_size = isinstance(size, list) and len(size) == 3 and all(isinstance(n, int) and n > 0 for n in size)
    return (size[1], size[2]) if is_size else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def architecture(name: str, pooling: str, features: int, spec: Spec, arguments: Mapping[str, Any]) -> dict:
    """The config.json of a model with an architecture's name and what it is told beside it."""
    height, width, channels = spec.shape
    chosen = {**({} if channels == 3 else {"in_chans": channels}), **arguments}
    return {
        "architecture": name,
        "num_classes": spec.classes,
        "num_features": features,
        "global_pool": pooling,
        "label_names": list(spec.names),
        **({"model_args": chosen} if chosen else {}),
        "pretrained_cfg": {"input_size": [channels, height, width], "num_classes": spec.classes},
    }
