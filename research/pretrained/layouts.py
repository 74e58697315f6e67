"""The layouts that we know, and which of them a source has, told by the names of its tensors."""

from collections.abc import Mapping
from typing import Any

from research.errors import UserError, did_you_mean
from research.pretrained import (
    google_vit,
    timm_vit,
    torchvision_resnet,
    torchvision_vgg,
    transformers_bert,
    transformers_gpt2,
    transformers_resnet,
    transformers_vit,
)
from research.pretrained.files import Source
from research.pretrained.layout import Layout, plain

LAYOUTS: tuple[Layout, ...] = (
    transformers_resnet.LAYOUT,
    transformers_vit.LAYOUT,
    transformers_gpt2.LAYOUT,
    transformers_bert.LAYOUT,
    torchvision_resnet.LAYOUT,
    torchvision_vgg.LAYOUT,
    torchvision_resnet.TIMM,
    timm_vit.LAYOUT,
    google_vit.LAYOUT,
)

ENOUGH = 0.5  # of the names of file and layout together that both must have


def named(name: str) -> Layout:
    """The layout of a name. Raises UserError where there is none."""
    known = {layout.name: layout for layout in LAYOUTS}
    if name not in known:
        raise UserError(f"layout: no '{name}'{did_you_mean(name, known)}")
    return known[name]


def recognise(source: Source) -> Layout:
    """The layout of a source. Raises UserError where it is none that we know, or could be several."""
    likeness = [(_likeness(layout, source), layout) for layout in _candidates(source)]
    best = max(how_much for how_much, _ in likeness)
    found = [layout for how_much, layout in likeness if how_much == best]
    if best < ENOUGH:
        known = ", ".join(layout.name for layout in LAYOUTS)
        near = f"; the nearest is {found[0].name}, of whose names {best:.0%} are there" if best else ""
        raise UserError(f"{source.path}: no layout that we know ({known}){near}")
    if len(found) > 1:
        names = ", ".join(layout.name for layout in found)
        raise UserError(f"{source.path}: could be any of {names}; a config.json beside it has to tell which")
    return found[0]


def has_our_paths(source: Source) -> bool:
    """Whether the names of a source are paths of ours, head/kernel, and no layout's."""
    are_paths = all("." not in name for name in source.tensors) and any("/" in name for name in source.tensors)
    is_told = not {"model_type", "architecture"}.isdisjoint(source.settings)
    return are_paths and not is_told and all(_likeness(layout, source) < ENOUGH for layout in LAYOUTS)


def _candidates(source: Source) -> list[Layout]:
    """Those that config.json leaves open."""
    settings: Mapping[str, Any] = source.settings
    if (kind := settings.get("model_type")) is not None:
        found = [layout for layout in LAYOUTS if kind in layout.model_types]
        if not found:
            kinds = [kind for layout in LAYOUTS for kind in layout.model_types]
            raise UserError(
                f"{source.path}: config.json: no layout for the model_type '{kind}'{did_you_mean(kind, kinds)}"
            )
        return found
    if "architecture" in settings:
        return [layout for layout in LAYOUTS if layout.name.startswith("timm-")]
    return [layout for layout in LAYOUTS if layout is not torchvision_resnet.TIMM]  # whose names are torchvision's


def _likeness(layout: Layout, source: Source) -> float:
    """How much of the names of a layout and of a source, indices apart, both have: from 0 to 1."""
    there = {plain(name) for name in layout.canonical(source.tensors) if not layout.is_unused(name)}
    of_samples = [{plain(row.theirs) for row in layout.rows(sample)} for sample in layout.samples]
    return max(len(there & names) / max(1, len(there | names)) for names in of_samples)
