"""What cannot be read is told in clear lines, all at once, and nothing is loaded."""

import json
import pickle
import re
import zipfile

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from research.errors import UserError
from research.pretrained import read_pretrained, save_pretrained
from research.pretrained.files import read_source


def refused(path):
    """The lines of the error that reading raises."""
    with pytest.raises(UserError) as caught:
        read_pretrained(path)
    assert all("\n" not in line and len(line) < 400 for line in caught.value.problems)
    return caught.value.problems


@pytest.fixture
def edit(save):
    """edit(layout, function of {name: array}) -> the lines that reading the edited source gives."""

    def edited(layout, function):
        path, _ = save(layout)
        file = path / "model.safetensors"
        tensors = load_file(file)
        function(tensors)
        save_file(tensors, file)
        return [line.removeprefix(f"{path}: ") for line in refused(path)]

    return edited


@pytest.mark.parametrize("kept", [0, 4, 60, -1, -1000])
def test_a_truncated_file(kept, save):
    path, _ = save("transformers-bert")
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    (line,) = refused(path)
    assert re.match(rf"{re.escape(str(file))}: damaged, cut off or no safetensors file \(.+\)", line)


def test_a_flipped_header_is_an_error_wherever_it_is_flipped(save):
    path, (_, _, parameters, _) = save("transformers-vit")
    file = path / "model.safetensors"
    whole = file.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    rng = np.random.default_rng(0)
    positions = [*range(8), *rng.integers(8, 8 + length, 150)]
    harmless = 0
    for position in positions:
        flipped = bytearray(whole)
        flipped[position] ^= 1 << rng.integers(8)
        file.write_bytes(flipped)
        try:
            source = read_pretrained(path)
        except UserError:
            continue
        harmless += 1  # in "__metadata__", or between a space and another
        assert all(source.parameters[name].tobytes() == array.tobytes() for name, array in parameters.items())
    assert harmless < 0.1 * len(positions)


def test_a_foreign_file(tmp_path):
    file = tmp_path / "notes.safetensors"
    file.write_text("These are not the weights that you are looking for.")
    (line,) = refused(file)
    assert "notes.safetensors: damaged, cut off or no safetensors file" in line
    other = tmp_path / "weights.msgpack"
    other.write_bytes(b"0123")
    assert refused(other) == (f"{other}: no .safetensors or .npz file",)


@pytest.mark.parametrize("name", ["model.safetensors", "weights.npz"])
def test_what_a_failed_download_leaves_is_named(tmp_path, name):
    file = tmp_path / name
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n")
    assert "a pointer of Git LFS" in refused(file)[0]
    file.write_text("\n<!DOCTYPE html><html><body>Not found</body></html>")
    assert "a web page, not weights" in refused(file)[0]


def test_a_header_whose_length_begins_as_a_page_does_is_read(tmp_path):
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(ord("<"))
    file = tmp_path / "a.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + np.float32(3).tobytes())
    assert read_source(file).tensors["a"].tolist() == [3]


def test_a_file_of_a_layout_that_we_do_not_know(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file({f"model.layers.{i}.mlp.gate_proj.weight": np.zeros((2, 2), np.float32) for i in range(4)}, file)
    (line,) = refused(file)
    assert "no layout that we know (transformers-resnet, transformers-vit, " in line
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vitt"}))
    (line,) = refused(tmp_path)
    assert "config.json: no layout for the model_type 'vitt'; did you mean 'vit'?" in line


def test_the_nearest_layout_is_told(save):
    path, _ = save("transformers-bert")
    tensors = load_file(path / "model.safetensors")
    few = {name: array for name, array in tensors.items() if "layer.0.attention" in name}
    file = path.parent / "few.safetensors"
    save_file({**few, **{f"other.{name}.kind": few[name] for name in list(few)[:3]}}, file)
    (line,) = refused(file)
    assert re.search(r"the nearest is transformers-bert, of whose names \d\d% are there", line)


def test_a_file_that_could_be_of_two_layouts(save, monkeypatch):
    from research.pretrained import layouts, transformers_vit

    path, _ = save("transformers-vit")
    (path / "config.json").unlink()
    monkeypatch.setattr(layouts, "LAYOUTS", (transformers_vit.LAYOUT, transformers_vit.LAYOUT._replace(name="other")))
    (line,) = refused(path)
    assert line.endswith("could be any of transformers-vit, other; a config.json beside it has to tell which")


class Bomb:
    """What sets off when it is unpickled."""

    def __reduce__(self):
        return exec, ("raise SystemExit('it ran')",)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.pkl", "model.safetensors"])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_pickle_is_refused_whatever_it_is_called(name, zipped, tmp_path):
    file = tmp_path / name
    if zipped:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(Bomb()))
    else:
        file.write_bytes(pickle.dumps(Bomb()))
    for path in (file, tmp_path):
        (line,) = refused(path)
        assert f"{file}: not read, since a pickle could run any code; convert it where it comes from" in line


def test_python_objects_in_an_npz_are_refused(tmp_path):
    file = tmp_path / "weights.npz"
    np.savez(file, cls=np.array([Bomb()], object))
    (line,) = refused(file)
    assert line == f"{file}: not read, for it holds Python objects, which could run any code"


@pytest.mark.parametrize("kept", [0, 10, 500, -10])
def test_a_truncated_npz(kept, save):
    path, _ = save("google-vit")
    path.write_bytes(path.read_bytes()[:kept])
    (line,) = refused(path)
    assert line.startswith(f"{path}: damaged, cut off or no .npz file")


def test_a_damaged_npz_is_told_by_its_checksums(save):
    path, _ = save("google-vit")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    (line,) = refused(path)
    assert line.startswith(f"{path}: damaged")


def test_no_file_and_an_empty_folder(tmp_path):
    (tmp_path / "weights.safetensors").touch()
    (line,) = refused(tmp_path / "wieghts.safetensors")
    assert "wieghts.safetensors: no such file or folder; did you mean 'weights.safetensors'?" in line
    (tmp_path / "empty").mkdir()
    (line,) = refused(tmp_path / "empty")
    assert line.endswith("empty: no model.safetensors and no other file of weights in it")


def test_missing_tensors_are_all_told(edit):
    def drop(tensors):
        del tensors["vit.layernorm.weight"], tensors["vit.encoder.layer.1.output.dense.bias"]

    assert edit("transformers-vit", drop) == [
        "vit.layernorm.weight is missing",
        "vit.encoder.layer.1.output.dense.bias is missing",
    ]


def test_extra_tensors_are_refused(edit):
    def add(tensors):
        tensors["blocks.0.ls1.gamma"] = np.ones(32, np.float32)

    assert edit("timm-vit", add) == ["blocks.0.ls1.gamma (32,) is not of a timm-vit like ours"]


def test_half_a_head_is_no_head(save):
    path, _ = save("google-vit")
    tensors = dict(np.load(path))
    del tensors["head/kernel"]
    np.savez(path, **tensors)
    assert refused(path) == (f"{path}: head/bias (5,) is not of a google-vit like ours",)


def test_a_misspelt_name_is_told_with_what_it_may_be(edit):
    def rename(tensors):
        tensors["layer1.0.bn1.wieght"] = tensors.pop("layer1.0.bn1.weight")

    assert edit("torchvision-resnet", rename) == [
        "layer1.0.bn1.weight is missing; did you mean 'layer1.0.bn1.wieght'?",
        "layer1.0.bn1.wieght (4,) is not of a torchvision-resnet like ours; did you mean 'layer1.0.bn1.weight'?",
    ]


def test_wrong_shapes_and_dtypes_are_told_with_everything_else_that_is_wrong(edit):
    def spoil(tensors):
        tensors["transformer.h.0.ln_1.weight"] = np.ones(31, np.float32)
        tensors["transformer.h.0.attn.c_attn.weight"] = np.ones((32, 95), np.float32)
        tensors["transformer.h.1.mlp.c_proj.weight"] = np.ones(5, np.float32)
        tensors["transformer.wpe.weight"] = np.ones((10, 32), np.int32)
        tensors["lm_head.weight"] = np.ones((23, 32), np.float32)
        del tensors["transformer.ln_f.bias"]

    assert sorted(edit("transformers-gpt2", spoil)) == [
        "lm_head.weight is not the same as transformer.wte.weight, to which it is tied in our model",
        "transformer.h.0.attn.c_attn.weight has the shape (32, 95); (32, 96) is needed",
        "transformer.h.0.ln_1.weight has the shape (31,); (32,) is needed",
        "transformer.h.1.mlp.c_proj.weight has the shape (5,); (128, 32) is needed",
        "transformer.ln_f.bias is missing",
        "transformer.wpe.weight holds int32; floating point is needed",
    ]


def test_stages_that_we_do_not_have(edit):
    def add(tensors):
        tensors["layer1.3.conv1.weight"] = np.zeros((4, 4, 3, 3), np.float32)

    (line,) = edit("torchvision-resnet", add)
    assert line == "stages of 4, 2, 2, 2 blocks of two convolutions; our ResNet has those of depth 18, 34, 50, 101, 152"


def test_a_vgg_with_batch_norm(edit):
    def add(tensors):
        tensors["features.1.running_mean"] = np.zeros(2, np.float32)

    assert edit("torchvision-vgg", add) == ["a VGG with batch norm, whose convolutions have biases as ours have not"]


def test_many_problems_are_not_all_listed(edit):
    def halve(tensors):
        for name in tensors:
            tensors[name] = tensors[name][..., : tensors[name].shape[-1] // 2] if tensors[name].ndim else tensors[name]

    lines = edit("torchvision-resnet", halve)
    assert len(lines) == 13 and re.fullmatch(r"and \d+ more problems", lines[-1])


def settings_give(save, layout, **settings):
    """The lines that reading gives after config.json says otherwise."""
    path, _ = save(layout)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **settings}))
    return [line.removeprefix(f"{path}: ") for line in refused(path)]


def test_what_config_json_may_not_say(save):
    more = {"qkv_bias": False, "hidden_act": "quick_gelu", "intermediate_size": 100}
    lines = settings_give(save, "transformers-vit", **more)
    assert lines[0] == "config.json: qkv_bias is False; our model can only be True"
    assert lines[1] == "the hidden layer of 100 features is no multiple of the width 32, as in our models"
    assert lines[2].startswith("config.json: hidden_act 'quick_gelu' is none that we have")


@pytest.mark.parametrize(
    ("layout", "settings", "line"),
    [
        ("transformers-vit", {"hidden_size": "32"}, "config.json: hidden_size is '32'; a whole number above 0"),
        ("transformers-vit", {"layer_norm_eps": None}, "config.json: layer_norm_eps is None; a number from 0"),
        ("transformers-vit", {"num_attention_heads": 5}, "ViT: heads: 5 heads do not divide the width of 32"),
        (
            "transformers-bert",
            {"num_hidden_layers": 3},
            "config.json: num_hidden_layers is 3, and by the tensors' names it is 2",
        ),
        ("transformers-bert", {"type_vocab_size": 4}, "config.json: type_vocab_size is 4; our model can only be 2"),
        ("transformers-resnet", {"downsample_in_bottleneck": True}, "config.json: downsample_in_bottleneck is True"),
        (
            "transformers-resnet",
            {"depths": [1, 2, 2, 2]},
            "config.json: depths is [1, 2, 2, 2], and by the tensors' names it is [2, 2, 2, 2]",
        ),
        ("timm-resnet", {"architecture": "resnetblur50"}, "config.json: architecture 'resnetblur50' is none that our"),
        ("timm-vit", {"architecture": "vit_base_patch16_clip_224"}, "config.json: architecture 'vit_base_patch16_clip"),
        ("timm-vit", {"model_args": {"num_heads": 4, "global_pool": "avg"}}, "config.json: global_pool is 'avg'"),
    ],
)
def test_what_config_json_may_not_say_either(layout, settings, line, save):
    assert settings_give(save, layout, **settings)[0].startswith(line)


def test_a_damaged_config_json(save):
    path, _ = save("transformers-vit")
    (path / "config.json").write_text('{"model_type": "vi')
    (line,) = refused(path)
    assert "config.json: damaged or cut off, for it is not valid JSON" in line


def test_shards_that_are_missing_or_lead_elsewhere(save):
    path, _ = save("transformers-vit")
    index = path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}))
    (line,) = refused(path)
    assert "cannot read" in line and "model-2.safetensors: No such file" in line
    index.write_text(json.dumps({"weight_map": {"a": "model.safetensors"}}))
    assert refused(path) == (f"{path}: a are in model.safetensors.index.json and in none of its files",)
    index.write_text(json.dumps({"weight_map": {"a": "../model.safetensors"}}))
    assert refused(path) == (f"{index}: '../model.safetensors' is not in the folder",)


def test_heads_that_nothing_tells(save):
    path, _ = save("timm-vit")
    (path / "config.json").unlink()
    (line,) = refused(path)
    assert line.endswith(
        'no tensor tells how many heads there are; put them in a config.json beside it: {"num_heads": 4}'
    )
    (path / "config.json").write_text('{"num_heads": 4, "pretrained_cfg": {"input_size": [3, 12, 16]}}')
    assert read_pretrained(path).model.heads == 4


def test_half_precision_is_read_as_it_is(save):
    path, _ = save("transformers-vit")
    file = path / "model.safetensors"
    save_file({name: array.astype(ml_dtypes.bfloat16) for name, array in load_file(file).items()}, file)
    assert {array.dtype.name for array in read_pretrained(path).parameters.values()} == {"bfloat16"}


# ---------------------------------------------------------------------------------------------------------------------
# Saving


def not_saved(path, layout, model, spec, parameters, state=None):
    with pytest.raises(UserError) as caught:
        save_pretrained(path, layout, model, spec, parameters, state)
    assert [file.name for file in path.parent.iterdir() if file != path] == []
    return [line.removeprefix(f"{path}: ") for line in caught.value.problems]


def test_a_model_that_a_layout_cannot_tell_of_is_not_saved(tmp_path, small):
    import dataclasses

    model, spec, parameters, state = small("transformers-vit")
    other = dataclasses.replace(model, epsilon=1e-3, activation="gelu_tanh")
    assert not_saved(tmp_path / "x", "google-vit", model, spec, parameters, state)[0].endswith(
        "saved to a .npz file, not to a folder"
    )
    square = spec._replace(shape=(12, 12, 3))
    assert not_saved(tmp_path / "x.npz", "google-vit", other, square, parameters) == [
        "google-vit has no way to say epsilon=0.001; it would be 1e-06"
    ]
    assert not_saved(tmp_path / "x", "transformers-bert", model, spec, parameters) == [
        "transformers-bert is for a BERT, and this is a ViT"
    ]
    (line,) = not_saved(tmp_path / "x", "transformers-vitt", model, spec, parameters)
    assert line == "layout: no 'transformers-vitt'; did you mean 'transformers-vit'?"


def test_an_npz_file_holds_no_bfloat16(tmp_path, small):
    model, spec, parameters, _ = small("google-vit")
    half = {path: array.astype(ml_dtypes.bfloat16) for path, array in parameters.items()}
    (line,) = not_saved(tmp_path / "x.npz", "google-vit", model, spec, half)
    assert line == "an .npz file cannot hold bfloat16; use float32"


def test_parameters_that_do_not_fit_are_not_saved(tmp_path, small):
    model, spec, parameters, state = small("torchvision-resnet")
    changed = {**parameters, "more/kernel": np.zeros(2), "head/bias": np.zeros(4, np.float32)}
    del changed["stem/norm/bias"]
    assert sorted(not_saved(tmp_path / "x", "torchvision-resnet", model, spec, changed, state)) == [
        "head/bias is (4,); the model's is (5,)",
        "more/kernel has no name in torchvision-resnet",
        "stem/norm/bias is missing",
    ]
    assert "batch_stats/stem/norm/mean is missing" in not_saved(
        tmp_path / "x", "torchvision-resnet", model, spec, parameters
    )


def test_a_folder_that_is_there_is_left_alone(save, small):
    path, _ = save("transformers-vit")
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    assert not_saved(path, "transformers-vit", *small("transformers-vit")) == [
        "exists already; give the path of a new folder"
    ]
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before


def test_a_failed_write_leaves_nothing(tmp_path, small, monkeypatch):
    def fail(tensors, path, metadata):
        path.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.numpy.save_file", fail)
    for path in (tmp_path / "folder", tmp_path / "file.safetensors"):
        lines = not_saved(path, "transformers-vit", *small("transformers-vit"))
        assert lines == [f"cannot write {path}: No space left on device"]
        assert not path.exists()
