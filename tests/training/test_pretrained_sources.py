"""A run begins with what others trained, in any layout, and its result can be saved as they would save it."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from research.commandline.loading import load_config
from research.config import config, structure
from research.data import TFDS, Normalised
from research.data.base import Dataset, Loaded, Normalisation, Split, from_description, normalise
from research.errors import UserError
from research.models import GPT, ConvNet, ResNet, ViT, network
from research.parameters import Partition, flatten, freeze, linear_probe, others, read, train, views
from research.pretrained import read_pretrained, save_pretrained
from research.pretrained.resizing import change_channels, resize_positions
from research.spec import Spec
from research.training import Experiment, Finetuning, Pretrained, run, steps
from research.training.exporting import export_run
from research.training.folder import open_run
from research.training.plan import make_plan
from research.training.sources import fit, read_source

VIT = ViT(depth=2, width=16, heads=4, patch=4, expansion=2)
RESNET = ResNet(depth=18, width=4)
PICTURES = Spec((12, 16, 3), 5, ("ant", "bee", "cat", "dog", "eel"))
LAYOUTS = {"transformers-vit": VIT, "timm-vit": dataclasses.replace(VIT, epsilon=1e-6), "torchvision-resnet": RESNET}


@config
class Noise(Dataset):
    """Pictures of nothing."""

    shape: tuple[int, ...] = structure((12, 16, 3))
    classes: int = structure(5)

    def load(self) -> Loaded:
        random = np.random.default_rng(0)

        def split(count):
            labels = (np.arange(count) % self.classes).astype(np.int32)
            return Split(random.normal(size=(count, *self.shape)).astype(np.float32), labels)

        splits = {name: split(count) for name, count in (("train", 16), ("validation", 10), ("test", 10))}
        channels = self.shape[-1]
        mean, deviation = np.linspace(0.1, 0.3, channels), np.linspace(0.8, 0.9, channels)
        normalisation = Normalisation(0.5, mean.astype(np.float32), deviation.astype(np.float32))
        names = tuple(f"class {i}" for i in range(self.classes))
        return Loaded(Spec(self.shape, self.classes, names), splits, normalisation, kind="image", background="dark")


def random_arrays(model, spec, seed=0):
    """Random parameters and state of a model."""
    variables = jax.eval_shape(network(model, spec).init, jax.random.key(0))
    parameters, random = variables.pop("params"), np.random.default_rng(seed)

    def filled(shapes):
        return {
            path: (np.abs if path.endswith("var") else np.asarray)(random.normal(size=shape.shape)).astype(np.float32)
            for path, shape in flatten(shapes).items()
        }

    return filled(parameters), filled(variables)


@pytest.fixture
def saved(tmp_path):
    """saved(layout) -> the folder or file of a random model in that layout, with its parameters and state."""

    def made(layout, spec=PICTURES):
        model = LAYOUTS[layout]
        arrays = random_arrays(model, spec)
        path = tmp_path / ("source.safetensors" if layout.startswith("torchvision") else "source")
        save_pretrained(path, layout, model, spec, *arrays)
        return path, arrays

    return made


def tuned(path, model, partition, **fields):
    data = Noise(**{name: fields.pop(name) for name in ("shape", "classes") if name in fields})
    return Experiment(
        data=data,
        model=model,
        finetuning=Finetuning(source=Pretrained(str(path)), partition=partition),
        duration=steps(2),
        evaluate_every=steps(2),
        batch_size=8,
        devices=1,
        norms="none",
        **fields,
    )


def begin(experiment):
    plan = make_plan(experiment, experiment.data.load())
    return fit(plan, experiment, experiment.finetuning.source.read())


def problems(make):
    with pytest.raises(UserError) as caught:
        make()
    return caught.value.problems


NEW_HEAD = Partition(train("head/.*", reinitialise=True), train(others()))


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("layout", ["transformers-vit", "torchvision-resnet"])
def test_a_model_begins_with_the_weights_of_others(saved, layout, scan):
    path, (parameters, state) = saved(layout)
    model = LAYOUTS[layout]
    if scan and not hasattr(model, "scan"):
        return
    model = dataclasses.replace(model, scan=True) if scan else model
    beginning = begin(tuned(path, model, Partition()))
    stacks = model.stacks()
    found = {view: read(beginning.arrays, view, stacks) for view in views(beginning.arrays, stacks)}
    assert found.keys() == {*parameters, *state}
    for name, value in (parameters | state).items():
        assert found[name].tobytes() == value.tobytes(), name
    assert (dict(beginning.fitted), beginning.notes) == ({}, ())
    assert beginning.about["layout"] == layout
    assert all(name.endswith("num_batches_tracked") for name in beginning.unused)


def test_ends_of_other_sizes_are_fitted_and_the_plan_says_so(saved, tmp_path, capsys):
    path, (parameters, _) = saved("transformers-vit")
    model = dataclasses.replace(VIT, scan=True)
    experiment = tuned(path, model, NEW_HEAD, shape=(24, 16, 1), classes=3)
    beginning = begin(experiment)
    assert beginning.fitted == {
        "embedding/kernel": "averaged from 3 to 1 channels",
        "positions": "bicubic from 3x4 to 6x4",
    }
    expected = resize_positions(parameters["positions"], (3, 4), (6, 4), 1)
    np.testing.assert_array_equal(beginning.arrays["positions"], expected)
    averaged = change_channels(parameters["embedding/kernel"], 1)
    np.testing.assert_array_equal(beginning.arrays["embedding/kernel"], averaged)
    assert beginning.unused == ("head/kernel", "head/bias")
    summary = run.train(dataclasses.replace(experiment, name="tuned"), workdir=str(tmp_path / "runs"))
    told = open_run(summary["folder"]).read_json("inspection.json")
    begins = {row["path"]: row["begins"] for row in told["layers"]}
    assert {name for name, how in begins.items() if how == "fitted"} == {"embedding/kernel", "positions"}
    assert {name for name, how in begins.items() if how == "new"} == {"head/kernel", "head/bias"}
    assert begins["block_01/attention/query/kernel"] == "loaded"
    assert told["partition"]["fitted"]["positions"] == "bicubic from 3x4 to 6x4"
    assert told["partition"]["source"]["sha256"]
    said = capsys.readouterr().out
    assert "fitted      positions: bicubic from 3x4 to 6x4" in said
    assert "not used    head/kernel, head/bias" in said


def test_a_run_of_ours_is_fitted_as_well(saved, tmp_path):
    first = run.train(
        dataclasses.replace(tuned("", VIT, Partition()), finetuning=None, name="first"), workdir=str(tmp_path)
    )
    beginning = begin(tuned(first["folder"], VIT, Partition(), shape=(12, 20, 4)))
    assert beginning.fitted == {
        "embedding/kernel": "repeated from 3 to 4 channels",
        "positions": "bicubic from 3x4 to 3x5",
    }


def test_what_the_sources_config_says_otherwise_is_noted(saved):
    path, _ = saved("transformers-vit")
    other = dataclasses.replace(VIT, heads=2, dropout=0.1, scan=True)
    assert begin(tuned(path, other, Partition())).notes == ("heads is 4 in the source's model, and 2 here",)
    (path / "config.json").unlink()
    lines = problems(lambda: read_source(str(path)))
    assert "no tensor tells how many heads there are" in lines[0]


def test_half_precision_becomes_single(saved):
    path, (parameters, _) = saved("timm-vit")
    file = path / "model.safetensors"
    save_file({name: array.astype(np.float16) for name, array in load_file(file).items()}, file)
    arrays = begin(tuned(path, LAYOUTS["timm-vit"], Partition())).arrays
    assert {array.dtype.name for array in arrays.values()} == {"float32"}
    np.testing.assert_array_equal(arrays["head/kernel"], parameters["head/kernel"].astype(np.float16))


# ---------------------------------------------------------------------------------------------------------------------
# Bad input


def test_all_that_does_not_fit_is_told_at_once_and_nothing_is_begun(saved, tmp_path):
    path, _ = saved("transformers-vit")
    other = dataclasses.replace(VIT, depth=3, width=20)
    lines = problems(lambda: run.train(tuned(path, other, linear_probe()), workdir=str(tmp_path / "runs")))
    assert f"{path}: depth is 2 in the source's model, and 3 here" in lines[:2]
    assert lines[2].startswith(f"{path}: without block_02/attention/key/bias, ")
    assert lines[-1].startswith(f"{path}: ")
    assert lines[-1].endswith(" more; a rule with reinitialise=True would begin them anew")
    assert "block_00/attention/key/bias is (16,) there and (20,) here" in lines[-1]
    assert not (tmp_path / "runs").exists()


def test_a_source_that_cannot_be_read_and_a_partition_with_a_typo_are_told_together(saved, tmp_path):
    path, _ = saved("transformers-vit")
    file = path / "model.safetensors"
    tensors = load_file(file)
    tensors["vit.layernorm.wieght"] = tensors.pop("vit.layernorm.weight")
    tensors["vit.layernorm.bias"] = tensors["vit.layernorm.bias"][:3]
    tensors["classifier.bias"] = tensors["classifier.bias"].astype(np.int32)
    save_file(tensors, file)
    experiment = tuned(path, VIT, Partition(train("haed/.*"), freeze(others())))
    lines = problems(lambda: run.train(experiment, workdir=str(tmp_path / "runs")))
    assert "did you mean 'head/.*'" in lines[0]
    told = [line.removeprefix(f"{path}: ") for line in lines[1:]]
    assert "vit.layernorm.weight is missing; did you mean 'vit.layernorm.wieght'?" in told
    assert "vit.layernorm.bias has the shape (3,); (16,) is needed" in told
    assert "classifier.bias holds int32; floating point is needed" in told
    assert not (tmp_path / "runs").exists()


def test_files_that_are_none_are_refused_in_a_line(saved, tmp_path):
    path, _ = saved("transformers-vit")
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-7])
    (line,) = problems(lambda: read_source(str(path)))
    assert "damaged, cut off or no safetensors file" in line
    file.unlink()
    (line,) = problems(lambda: read_source(str(path)))
    assert line == f"{path}: no model.safetensors and no other file of weights in it"
    (path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    (line,) = problems(lambda: read_source(str(path)))
    assert "pytorch_model.bin: not read, since a pickle could run any code; convert it" in line
    (line,) = problems(lambda: read_source(str(tmp_path / "sauce.safetensors")))
    assert line.startswith(f"{tmp_path / 'sauce.safetensors'}: no such file or folder")


# ---------------------------------------------------------------------------------------------------------------------
# By our own paths, and back


def test_a_file_by_our_own_paths_is_a_source(tmp_path):
    model = ConvNet(features=(3, 4), norm="batch", hidden=(5,))
    parameters, state = random_arrays(model, PICTURES)
    np.savez(tmp_path / "mine.npz", **parameters, **state)
    save_file(parameters | state, tmp_path / "mine.safetensors")
    for name in ("mine.npz", "mine.safetensors"):
        beginning = begin(tuned(tmp_path / name, model, Partition()))
        assert beginning.about["layout"] == "fathom"
        for path, value in (parameters | state).items():
            assert beginning.arrays[path].tobytes() == value.tobytes(), path
    lines = problems(lambda: begin(tuned(tmp_path / "mine.npz", dataclasses.replace(model, features=(3, 5)), NEW_HEAD)))
    path = "stage_1/convolution_0/kernel"
    assert lines[-1].startswith(f"{tmp_path / 'mine.npz'}: ")
    assert f"{path} is (3, 3, 3, 4) there and (3, 3, 3, 5) here" in lines[-1]


def finished(path, model, tmp_path, **fields):
    experiment = tuned(path, model, NEW_HEAD, classes=3, name="done", average=0.9, **fields)
    return run.train(experiment, workdir=str(tmp_path / "runs"))["folder"]


def test_a_result_is_saved_in_the_layout_of_its_source(saved, tmp_path):
    path, _ = saved("transformers-vit")
    folder = finished(path, dataclasses.replace(VIT, scan=True), tmp_path)
    told = export_run(folder, tmp_path / "result")
    assert told["layout"] == "transformers-vit"
    found, weights = read_pretrained(tmp_path / "result"), read_source(folder)
    assert found.spec.names == ("class 0", "class 1", "class 2")
    assert found.model == VIT
    assert found.parameters.keys() == weights.parameters.keys()
    for name, value in weights.parameters.items():
        assert found.parameters[name].tobytes() == value.tobytes(), name
    assert told["parameters"] == sum(value.size for value in weights.parameters.values())


def test_a_result_is_saved_with_how_its_pictures_are_prepared(saved, tmp_path):
    path, _ = saved("transformers-vit")
    folder = finished(path, VIT, tmp_path)
    export_run(folder, tmp_path / "result")
    told = json.loads((tmp_path / "result" / "preprocessor_config.json").read_text())
    data = from_description(json.loads((Path(folder) / "data.json").read_text()))
    pictures = np.random.default_rng(0).integers(0, 256, (2, *data.spec.shape))
    theirs = (pictures * told["rescale_factor"] - np.array(told["image_mean"])) / np.array(told["image_std"])
    np.testing.assert_allclose(theirs, normalise(data.normalisation, pictures), rtol=1e-5, atol=1e-5)
    assert (told["size"]["height"], told["size"]["width"]) == data.spec.shape[:2]
    (note,) = (note for note in read_source(str(tmp_path / "result")).about["notes"] if "normalised" in note)
    assert str(told["image_mean"]) in note
    assert "`research.data.Normalised` does so here" in note


def test_a_result_is_saved_by_our_own_paths_and_is_a_source_again(tmp_path):
    model = ConvNet(features=(3,), norm="batch")
    parameters, state = random_arrays(model, PICTURES)
    np.savez(tmp_path / "first.npz", **parameters, **state)
    folder = finished(tmp_path / "first.npz", model, tmp_path)
    assert export_run(folder, tmp_path / "ours.npz")["layout"] == "fathom"
    export_run(folder, tmp_path / "ours.safetensors", "fathom")
    weights = read_source(folder)
    assert weights.model_state
    for name in ("ours.npz", "ours.safetensors"):
        again = read_source(str(tmp_path / name))
        for path, value in (weights.parameters | weights.model_state).items():
            assert (again.parameters | again.model_state)[path].tobytes() == value.tobytes(), path
        assert begin(tuned(tmp_path / name, model, Partition(), classes=3)).unused == ()


def test_what_a_layout_has_no_words_for_is_refused(saved, tmp_path):
    path, _ = saved("transformers-vit")
    folder = finished(path, VIT, tmp_path)
    (line,) = problems(lambda: export_run(folder, tmp_path / "there", "transformers-vitt"))
    assert line == "layout: no 'transformers-vitt'; did you mean 'transformers-vit'?"
    lines = problems(lambda: export_run(folder, tmp_path / "there", "timm-vit"))
    assert lines == (f"{tmp_path / 'there'}: timm-vit has no way to say epsilon=1e-12; it would be 1e-06",)
    (line,) = problems(lambda: export_run(folder, tmp_path / "there", "fathom"))
    assert line == f"{tmp_path / 'there'}: our own paths are saved to a .safetensors or .npz file"
    assert not (tmp_path / "there").exists()


# ---------------------------------------------------------------------------------------------------------------------
# The experiment

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "finetune_pretrained.py"


def load(argument):
    return load_config(f"{EXPERIMENT}:{argument}", (Experiment,)).config


def test_the_experiment_trains_on_a_folder_of_pictures(saved, tmp_path):
    path, _ = saved("transformers-vit")
    random = np.random.default_rng(0)
    for name in ("fir", "oak"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(20):
            pixels = random.integers(0, 256, (9, 10, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{number}.png")
    experiment = load(f"path={path},data={tmp_path / 'pictures'},size=20,color=grey")
    short = dataclasses.replace(experiment, name="tuned", duration=steps(2), evaluate_every=steps(2), batch_size=8)
    summary = run.train(dataclasses.replace(short, devices=1), workdir=str(tmp_path / "runs"))
    assert summary["reason"] == "finished"
    told = open_run(summary["folder"]).read_json("inspection.json")
    assert told["partition"]["fitted"].keys() == {"embedding/kernel", "positions"}
    assert export_run(summary["folder"], tmp_path / "result")["layout"] == "transformers-vit"
    assert read_pretrained(tmp_path / "result").spec == Spec((20, 20, 1), 2, ("fir", "oak"))
    again = load(f"path={tmp_path / 'result'},data={tmp_path / 'pictures'},color=grey")
    told = json.loads((tmp_path / "result" / "preprocessor_config.json").read_text())
    (mean, deviation), loaded = (told["image_mean"], told["image_std"]), again.data.load()
    np.testing.assert_allclose(loaded.normalisation.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(loaded.normalisation.deviation, deviation, rtol=1e-6)


def test_the_experiment_takes_a_set_of_tfds_at_the_networks_own_size(saved):
    path, _ = saved("timm-vit")
    experiment = load(f"path={path},data=tfds:cifar10")
    assert experiment.data == TFDS(name="cifar10", size=(12, 16))
    told = {"image_mean": [0.5, 0.25, 0.3], "image_std": [0.1, 0.2, 0.3]}
    (path / "preprocessor_config.json").write_text(json.dumps(told))
    experiment = load(f"path={path},data=tfds:cifar10")
    assert experiment.data == Normalised(TFDS(name="cifar10", size=(12, 16)), (0.5, 0.25, 0.3), (0.1, 0.2, 0.3))
    assert experiment.model == dataclasses.replace(LAYOUTS["timm-vit"], scan=True)


@pytest.mark.parametrize("argument", ["pth=x,data=y", "path=x"])
def test_arguments_of_the_experiment_that_cannot_be(argument):
    (line,) = problems(lambda: load(argument))
    assert ("pth: no such argument; did you mean 'path'?" if "pth" in argument else "both are needed") in line


@pytest.mark.parametrize("size", ["64x", "0", "-3"])
def test_a_size_that_is_none_is_told_with_what_one_looks_like(saved, size):
    path, _ = saved("transformers-vit")
    (line,) = problems(lambda: load(f"path={path},data=nowhere,size={size}"))
    assert f"size: '{size}' is no number of pixels a side; say size=224" in line


def test_a_language_model_is_no_network_of_pictures(tmp_path):
    model, spec = GPT(depth=1, width=16, heads=2, context=8), Spec((8,), 20, tuple(map(str, range(20))), 20)
    save_pretrained(tmp_path / "source", "transformers-gpt2", model, spec, *random_arrays(model, spec))
    (line,) = problems(lambda: load(f"path={tmp_path / 'source'},data=nowhere"))
    assert line.endswith("source: GPT reads text; a network of pictures is needed")
