"""What is saved in a layout is what is read again, bit for bit; a file is replaced whole, as torch wants it."""

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open

from research.pretrained import LAYOUTS, read_pretrained, save_pretrained


@pytest.mark.parametrize("layout", [layout.name for layout in LAYOUTS])
def test_what_is_saved_is_read_again(layout, save):
    path, (model, spec, parameters, state) = save(layout)
    source = read_pretrained(path)
    assert (source.layout, source.model, source.spec) == (layout, model, spec)
    assert source.parameters.keys() == parameters.keys() and source.state.keys() == state.keys()
    for name, array in {**parameters, **state}.items():
        found = {**source.parameters, **source.state}[name]
        assert (found.dtype, found.tobytes()) == (array.dtype, array.tobytes()), name


def test_a_file_is_replaced_whole_and_says_that_it_is_for_torch(small, tmp_path):
    model, spec, parameters, state = small("torchvision-resnet")
    path = tmp_path / "resnet.safetensors"
    save_pretrained(path, "torchvision-resnet", model, spec, parameters, state)
    newer = {name: jnp.asarray(array + 1) for name, array in parameters.items()}
    save_pretrained(path, "torchvision-resnet", model, spec, newer, state)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    with safe_open(path, framework="np") as file:
        assert file.metadata() == {"format": "pt"}  # without which older versions of transformers refuse it
        assert file.get_tensor("bn1.num_batches_tracked").shape == ()
    found = read_pretrained(path).parameters
    assert all(np.array_equal(found[name], newer[name]) for name in parameters)


def test_a_stacked_model_is_saved_as_the_unrolled_one(small, tmp_path):
    import dataclasses

    model, spec, parameters, _ = small("transformers-gpt2")
    stacked = {path: array for path, array in parameters.items() if not path.startswith("block_")}
    for path in [path for path in parameters if path.startswith("block_00/")]:
        rest = path.removeprefix("block_00/")
        stacked[f"block/{rest}"] = np.stack([parameters[f"block_{i:02d}/{rest}"] for i in range(model.depth)])
    scanned = dataclasses.replace(model, scan=True, remat=True, dropout=0.1)
    save_pretrained(tmp_path / "scanned", "transformers-gpt2", scanned, spec, stacked)
    save_pretrained(tmp_path / "unrolled", "transformers-gpt2", model, spec, parameters)
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("scanned", "unrolled")]
    assert files[0] == files[1]
