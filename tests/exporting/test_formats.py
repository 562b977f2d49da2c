"""Every network of configs/ in every format gives the predictor's probabilities."""

import json
import zipfile
from pathlib import Path

import jax
import numpy as np
import onnx
import pytest
from jax import export
from onnx import numpy_helper
from test_configs import CONFIGS, shrink
from trained_models import make_model, records_of

from data_prep.sample import render
from fer_jax.config import load_config
from fer_jax.errors import UserError
from fer_jax.exporting import check
from fer_jax.exporting.folder import export_folder, run_folder
from fer_jax.exporting.inference_form import describe
from fer_jax.exporting.onnx import export_onnx, run_onnx
from fer_jax.exporting.stablehlo import export_prediction, export_stablehlo, run_stablehlo
from fer_jax.inference.trained import load_trained

# Drawn faces, at levels that differ so much that no average over pixels hides it.
IMAGES = render([*range(7), 0, 1, 2], [np.random.default_rng(seed) for seed in range(10)])
IMAGES = (IMAGES * np.linspace(0.1, 1, 10)[:, None, None]).astype(np.uint8)[..., None]


def load(name: str, views: str = "one"):
    config = load_config(name)
    shrink(config.model)
    config.views = views
    config.eval_batch_size = 16
    return config


def networks() -> dict[str, str]:
    """Returns a config for each network that differs from the others when it is small."""
    configs: dict[str, str] = {}
    for path in map(str, CONFIGS):
        configs.setdefault(json.dumps(load(path).model.to_dict()), path)
    return {Path(path).stem: path for path in configs.values()}


def count_operators(content):
    """Returns how often each operator occurs in an ONNX file."""
    names = [node.op_type for node in onnx.load_from_string(content).graph.node]
    return {name: names.count(name) for name in sorted(set(names))}


def run(predict):
    return np.concatenate([predict(part) for part in np.split(IMAGES, [1, 3])])


COMMON = {"Transpose": 1, "Cast": 1, "Softmax": 1}
CNN = COMMON | {"Reshape": 1}
AVERAGED = COMMON | {"GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1}
# All operators of each network. A batch normalisation stands where ReLU or padding is between it
# and the next layer, so that it is no part of a convolution.
OPERATORS = {
    "cnn": CNN | {"Conv": 6, "BatchNormalization": 2, "Relu": 7, "MaxPool": 3, "Gemm": 2},
    "convnext": AVERAGED
    | {"Conv": 16, "Gelu": 4, "Add": 14, "Mul": 36, "Sub": 18, "Relu": 9, "Sqrt": 9}
    | {"ReduceMean": 18, "Reciprocal": 9, "Unsqueeze": 18},
    "densenet": AVERAGED
    | {"Conv": 9, "BatchNormalization": 6, "Relu": 10, "Concat": 3, "AveragePool": 2},
    "efficientnet": AVERAGED
    | {"Conv": 36, "GlobalAveragePool": 8, "Sigmoid": 29, "Mul": 29, "Add": 1},
    # ReLU6 is Relu, then Min; the rest resizes images to 112x112 and normalises them.
    "efficientnet_lite": AVERAGED
    | {"Conv": 22, "Relu": 15, "Min": 15, "MatMul": 2, "Mul": 1, "Sub": 1},
    "large_cnn": CNN | {"Conv": 6, "BatchNormalization": 2, "Relu": 7, "MaxPool": 3, "Gemm": 2},
    "medium_cnn": CNN | {"Conv": 5, "BatchNormalization": 3, "Relu": 7, "MaxPool": 4, "Gemm": 3},
    # Bilinear resizing to 40x40 is two products.
    "ferplus": AVERAGED | {"Conv": 20, "Relu": 17, "Add": 8, "MatMul": 2},
    # The rows of the 64x64 pixels are also a product.
    "ferplus_vgg13": CNN | {"Conv": 10, "Relu": 12, "MaxPool": 4, "Gemm": 3, "MatMul": 2},
    "resnet": AVERAGED | {"Conv": 20, "Relu": 17, "Add": 8},
    "resnet50_transfer": AVERAGED
    | {"Conv": 53, "Relu": 49, "Add": 16, "MaxPool": 1, "MatMul": 2, "Sub": 1},
    "small_cnn": CNN | {"Conv": 3, "Relu": 4, "MaxPool": 3, "Gemm": 2},
    "three_emotions": CNN | {"Conv": 3, "Relu": 15, "MaxPool": 3, "Gemm": 13},
    "vgg16_transfer": COMMON
    | {"Conv": 13, "Relu": 15, "MaxPool": 5, "Gemm": 3, "MatMul": 2, "Sub": 1, "Squeeze": 1},
}
GAINS = {"efficientnet": 1.25, "resnet50_transfer": 0.8}
GAINS |= dict.fromkeys(("ferplus_vgg13", "large_cnn", "medium_cnn", "three_emotions"), 1.25)
# XLA takes half a minute to compile these with tens of megabytes of constants.
LARGE = ("resnet50_transfer", "vgg16_transfer")


@pytest.mark.parametrize("name", networks())
def test_every_network(name, tmp_path):
    model = make_model(load(networks()[name]), temperature=1.4, gain=GAINS.get(name, 1.0))
    expected = model.probabilities(records_of(IMAGES))
    assert expected.std(axis=0).max() > 1e-3, "the images must matter"
    file = tmp_path / "model"

    file.write_bytes(content := export_onnx(model))
    np.testing.assert_allclose(run(run_onnx(file)), expected, atol=2e-5)
    assert count_operators(content) == OPERATORS[name]

    exported = export_prediction(model)
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert not exported.disabled_safety_checks
    assert len(exported.in_avals) == 1, "weights are no arguments"
    if name not in LARGE:
        found = jax.jit(exported.call)(IMAGES)
        np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("views", ["flip", "ten_crop"])
def test_views_temperature_and_members_are_inside(views, tmp_path):
    model = make_model(load("published/small_cnn", views), members=3, temperature=0.6)
    expected = model.probabilities(records_of(IMAGES))
    other = make_model(load("published/small_cnn", views), members=1, temperature=1.0)
    assert abs(other.probabilities(records_of(IMAGES)) - expected).max() > 1e-2
    file = tmp_path / "model"
    file.write_bytes(content := export_onnx(model))
    np.testing.assert_allclose(run(run_onnx(file)), expected, atol=1e-6)
    operators = count_operators(content)
    assert operators["Conv"] == 9, "all views are one batch"
    assert not {"Gather", "GatherND", "Loop", "Where"} & set(operators)

    file.write_bytes(export_stablehlo(model))
    np.testing.assert_allclose(run(run_stablehlo(file)), expected, atol=1e-6)

    facts = {"fingerprint": "0", "classes": model.classes, "source": "sample"}
    export_folder(tmp_path / "folder", {"config": model.config.to_dict(), "data": facts}, model)
    np.testing.assert_allclose(run(run_folder(tmp_path / "folder")), expected, atol=1e-6)
    again = load_trained(tmp_path / "folder")
    assert (again.views, again.temperature, again.classes) == (views, 0.6, model.classes)
    assert list(again.steps) == model.steps


def test_the_files_describe_themselves(tmp_path):
    model = make_model(load("published/three_emotions", "flip"), temperature=1.5)
    proto = onnx.load_from_string(export_onnx(model))
    facts = {entry.key: entry.value for entry in proto.metadata_props}
    assert json.loads(facts["classes"]) == ["angry", "happy", "neutral"]
    assert json.loads(facts["image_size"]) == [48, 48]
    assert json.loads(facts["temperature"]) == 1.5
    assert facts["views"] == "flip"
    assert facts["input"].startswith("images: uint8[batch, 48, 48, 1]")
    assert facts == describe(model)
    (images,), (probabilities,) = proto.graph.input, proto.graph.output
    assert images.type.tensor_type.shape.dim[0].dim_param == "batch"
    assert probabilities.type.tensor_type.shape.dim[0].dim_param == "batch"

    (tmp_path / "model").write_bytes(export_stablehlo(model))
    with zipfile.ZipFile(tmp_path / "model") as file:
        assert json.loads(file.read("metadata.json")) == facts
        assert export.deserialize(bytearray(file.read("program"))).nr_devices == 1


@pytest.mark.parametrize("size", [1, 2, 7])
def test_any_batch_size(size, tmp_path):
    model = make_model(load("cnn", "flip"))
    expected = model.probabilities(records_of(IMAGES))[:size]
    for name, content in (("onnx", export_onnx(model)), ("stablehlo", export_stablehlo(model))):
        (tmp_path / name).write_bytes(content)
        predict = {"onnx": run_onnx, "stablehlo": run_stablehlo}[name](tmp_path / name)
        np.testing.assert_allclose(predict(IMAGES[:size]), expected, atol=1e-5)


def test_a_difference_is_told(tmp_path):
    model = make_model(load("published/small_cnn"))
    file = tmp_path / "model"
    file.write_bytes(content := export_onnx(model))
    assert check.largest_difference(run_onnx(file), model, IMAGES) < 1e-6
    proto = onnx.load_from_string(content)
    weight = max(proto.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    values = numpy_helper.to_array(weight) * 1.1
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(proto, file)
    with pytest.raises(UserError, match="differ from the predictor's by"):
        check.largest_difference(run_onnx(file), model, IMAGES)
    with pytest.raises(UserError, match="NaN"):
        check.largest_difference(lambda part: np.full((len(part), 7), np.nan), model, IMAGES)


def test_a_network_in_bfloat16_is_compared_in_float32(tmp_path):
    config = load("resnet")
    assert config.dtype == "bfloat16"
    model = make_model(config)
    (tmp_path / "model").write_bytes(export_onnx(model))
    assert check.largest_difference(run_onnx(tmp_path / "model"), model, IMAGES) < 1e-5
