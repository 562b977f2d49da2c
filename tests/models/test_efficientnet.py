"""EfficientNets against Keras's and the Lite one against PyTorch's, with weights from files."""

import re
import zlib

import jax
import numpy as np
import pytest
import safetensors.numpy
from carried_over import (
    abstract,
    assert_equal_weights,
    compare_features,
    load,
    randomize,
    save_keras,
    save_timm,
    trained_layers,
    zeros,
)
from flax import nnx
from keras.src.applications.efficientnet import EfficientNet

from fer_jax.errors import UserError
from fer_jax.models import create_model
from fer_jax.models.efficientnet import stage_repeats, timm_layers, timm_name
from fer_jax.summary import count_parameters

B0 = {"name": "efficientnet", "width": 1.0, "depth": 1.0, "stem": "imagenet", "channels": 3}
SMALL = {**B0, "width": 0.25, "depth": 0.3}  # The sixth stage has two blocks, all others one.
LITE = {"variant": "lite"}

# NumPy warns when Keras saves its variables.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def test_parameter_counts_are_those_of_keras_and_timm():
    model = abstract(B0, num_classes=1000)
    # Keras also counts the seven numbers of its Normalization.
    assert count_parameters(model.features)["total"] == 4_049_571 - 7
    assert count_parameters(model)["trainable"] == 5_288_548
    b1 = abstract({**B0, "depth": 1.1}, num_classes=1000)
    assert count_parameters(b1)["trainable"] == 7_794_184
    b2 = abstract({**B0, "width": 1.1, "depth": 1.2}, num_classes=1000)
    assert count_parameters(b2)["trainable"] == 9_109_994
    for width, depth, parameters in (  # Lite0, Lite2 and Lite4 of efficientnet-lite-pytorch.
        (1.0, 1.0, 4_652_008),
        (1.1, 1.2, 6_092_072),
        (1.4, 1.8, 13_006_568),
    ):
        lite = abstract({**B0, **LITE, "width": width, "depth": depth}, num_classes=1000)
        assert count_parameters(lite)["trainable"] == parameters


def timm_layer(name):
    ends = {"stem_conv": "conv_stem", "stem_bn": "bn1", "top_conv": "conv_head", "top_bn": "bn2"}
    if name in ends:
        return ends[name]
    stage, block, part = re.fullmatch(r"block(\d)([a-z])_(\w+)", name).groups()
    norms = ("bn", "project_bn") if stage == "1" else ("expand_bn", "bn", "project_bn")
    layers = {norm: f"bn{number}" for number, norm in enumerate(norms, start=1)}
    layers |= {"se_reduce": "se.conv_reduce", "se_expand": "se.conv_expand", "dwconv": "conv_dw"}
    layers |= {"expand_conv": "conv_pw", "project_conv": "conv_pw" if stage == "1" else "conv_pwl"}
    return f"blocks.{int(stage) - 1}.{'abcd'.index(block)}.{layers[part]}"


def test_features_equal_keras_from_files(tmp_path):
    with zeros():
        theirs = EfficientNet(
            SMALL["width"],
            SMALL["depth"],
            48,
            weights=None,
            include_top=False,
            pooling="avg",
            input_shape=(48, 48, 3),
        )
    weights = randomize(theirs)
    save_keras(theirs, tmp_path / "notop.h5")
    ours = load(tmp_path / "notop.h5", {**SMALL, "frozen_stages": 4})
    compare_features(ours, theirs, scale=255.0)
    save_timm(weights, timm_layer, tmp_path / "timm.safetensors")
    assert_equal_weights(load(tmp_path / "timm.safetensors", SMALL), ours)


def drawn(name, shape):
    """Returns a tensor that depends on its name and shape only, in PyTorch's layout."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if len(shape) > 1:
        return rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape).astype(np.float32)
    if name.endswith(("weight", "running_var")):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    return rng.normal(0, 0.1, shape).astype(np.float32)


def save_lite(file):
    """Saves the small Lite network with the names of efficientnet-lite-pytorch."""
    layers = timm_layers(stage_repeats(SMALL["depth"], "lite"))
    names = {timm: name for name, timm in layers.items()}
    tensors = {"_fc.weight": (1000, 1280), "_fc.bias": (1000,), "_bn0.num_batches_tracked": ()}
    state = nnx.to_flat_state(nnx.state(abstract(SMALL | LITE).features))
    for path, variable in state:
        layer, _, kind = timm_name(".".join(map(str, ("features", *path)))).rpartition(".")
        axes = (3, 2, 0, 1) if len(variable.shape) == 4 else (0,)
        tensors[f"{names[layer]}.{kind}"] = tuple(variable.shape[axis] for axis in axes)
    drawn_tensors = {name: drawn(name, shape) for name, shape in tensors.items() if shape}
    safetensors.numpy.save_file(drawn_tensors, file)


def test_lite_features_equal_pytorchs_from_its_file(tmp_path):
    """The expected numbers are those of efficientnet-lite-pytorch 0.1.0.

    They are of `EfficientNet.from_name("efficientnet-lite0", width_coefficient=0.25,
    depth_coefficient=0.3, image_size=48)` with the tensors that `drawn` returns.
    """
    save_lite(tmp_path / "lite.safetensors")
    ours = load(tmp_path / "lite.safetensors", SMALL | LITE | {"frozen_stages": 9})
    ours.eval()
    images = np.random.default_rng(0).normal(size=(2, 48, 48, 3)).astype(np.float32)
    features = jax.jit(lambda images: ours.features(images))(images)
    np.testing.assert_allclose(features.mean(axis=1), [0.99282515, 0.99459743], atol=1e-4)
    np.testing.assert_allclose(
        features[:, :5],
        [[0, 2.4198418, 0, 0, 1.1759808], [0, 2.4557703, 0.12557375, 0.23657182, 0.5105291]],
        atol=1e-4,
    )


def test_a_lite_network_refuses_the_original_and_a_file_of_keras(tmp_path):
    save_lite(tmp_path / "lite.safetensors")
    with pytest.raises(UserError, match=r"lacks blocks.0.0.se.conv_expand.bias, which the network"):
        load(tmp_path / "lite.safetensors", SMALL)
    with pytest.raises(UserError, match=r"come in a .safetensors file; give one as pretrained"):
        load(tmp_path / "lite.h5", SMALL | LITE)


@pytest.mark.parametrize("stages", [0, 1, 8, 9])
def test_frozen_stages_from_the_stem_on_do_not_train(stages):
    trained = trained_layers(abstract({**SMALL, "frozen_stages": stages}))
    assert trained == list(range(stages, 9))


@pytest.mark.parametrize("stages", [-1, 10])
def test_an_impossible_number_of_frozen_stages_is_refused(stages):
    with pytest.raises(UserError, match=f"model.frozen_stages is {stages}; give 0 to 9"):
        abstract({**SMALL, "frozen_stages": stages})


def test_each_convention_has_its_padding_and_epsilon():
    tensorflow, pytorch = (
        abstract({**SMALL, "convention": name}).features.layers[0]
        for name in ("tensorflow", "pytorch")
    )
    assert (tensorflow.norm.epsilon, pytorch.norm.epsilon) == (1e-3, 1e-5)
    assert (tensorflow.conv.padding, pytorch.conv.padding) == ("SAME", 1)


def test_the_small_stem_keeps_the_full_resolution():
    def last_map(stem):
        config = {**SMALL, "stem": stem}
        *layers, _, _, _ = create_model(
            config, num_classes=7, dtype="float32", rngs=nnx.Rngs(0)
        ).layers()
        x = jax.numpy.zeros((1, 48, 48, 3))
        for layer in layers:
            x = layer(x, rngs=nnx.Rngs(0)) if isinstance(layer, nnx.Sequential) else layer(x)
        return x

    assert nnx.eval_shape(lambda: last_map("small")).shape == (1, 3, 3, 320)
    assert nnx.eval_shape(lambda: last_map("imagenet")).shape == (1, 2, 2, 320)


def test_drop_rates_rise_and_blocks_that_keep_the_shape_are_residual():
    stages = abstract(B0).features.layers[1:8]
    blocks = [block for stage in stages for block in stage.layers]
    np.testing.assert_allclose([block.drop.rate for block in blocks], np.arange(16) * 0.2 / 16)
    residual = [stage.layers[k].residual for stage in stages for k in range(len(stage.layers))]
    assert sum(residual) == 9


@pytest.mark.parametrize("key", ["stem", "variant", "convention"])
def test_an_unknown_choice_is_named_with_the_known_ones(key):
    with pytest.raises(UserError, match=f"model.{key} is 'tiny'; choose one of"):
        abstract({**SMALL, key: "tiny"})
