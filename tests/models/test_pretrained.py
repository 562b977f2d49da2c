"""Weights from files of Keras, timm and torchvision, against the networks they come from."""

import functools
import hashlib
import http.server
import os
import threading

import h5py
import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from keras.src.legacy.saving import legacy_h5_format

from fer_jax.errors import UserError
from fer_jax.models import create_model, pretrained
from fer_jax.models.pretrained import NAMES, load_pretrained

# NumPy warns when Keras saves its variables.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

VGG16 = {"name": "vgg16", "image_size": 64, "frozen_stages": 5}
RESNET50 = {"name": "resnet50_v1", "image_size": 64}
TINY = {"name": "resnet", "depth": 18, "stem": "imagenet", "width": 4, "channels": 3}


def initial(model, dtype=jnp.float32):
    """Returns a network's structure, parameters and statistics: zeros, which need no slow draw."""
    build = functools.partial(create_model, model, num_classes=9, dtype="float32")
    graph, *states = nnx.split(nnx.eval_shape(lambda: build(rngs=nnx.Rngs(0))), nnx.Param, ...)
    return graph, *jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, dtype), states)


def load(file, model, sha256=""):
    graph, params, statistics = initial(model)
    states = load_pretrained(
        str(file), sha256=sha256, model=model, params=params, statistics=statistics
    )
    return graph, *states


def random_values(name, shape, rng):
    """Returns weights that keep signals alive, and positive statistics and scales around one."""
    if len(shape) > 1:
        fan_in = np.prod(shape) / shape[0 if name.endswith("weight") else -1]
        return rng.normal(0, np.sqrt(2 / fan_in), shape).astype(np.float32)
    return rng.uniform(0.5, 1.5, shape).astype(np.float32)


def randomise(network):
    rng = np.random.default_rng(0)
    for layer in network.layers:
        layer.set_weights([random_values(w.path, w.shape, rng) for w in layer.weights])


@pytest.fixture(scope="module")
def keras_networks():
    """Keras's VGG16 and ResNet50 for 64x64 images and nine classes, with random weights."""
    with pytest.MonkeyPatch.context() as patch:
        # Keras's initial weights are never used and take a minute to compile.
        zeros = lambda self, shape, dtype=None: jnp.zeros(shape, dtype)  # noqa: E731
        patch.setattr(keras.initializers.VarianceScaling, "__call__", zeros)
        settings = {"weights": None, "input_shape": (64, 64, 3), "classes": 9}
        settings["classifier_activation"] = None
        networks = {
            "vgg16": keras.applications.VGG16(**settings),
            "resnet50_v1": keras.applications.ResNet50(**settings),
        }
    for network in networks.values():
        randomise(network)
    return networks


@pytest.fixture(scope="module")
def keras_files(keras_networks, tmp_path_factory):
    """A file of each, in the format of Keras's ImageNet weights; ResNet50's has no top."""
    directory = tmp_path_factory.mktemp("weights")
    for name, network in keras_networks.items():
        with h5py.File(directory / f"{name}.h5", "w") as file:
            legacy_h5_format.save_weights_to_hdf5_group(file, network)
            if name == "resnet50_v1":
                del file["predictions"]
    return directory


@pytest.fixture(scope="module")
def vgg16_states(keras_files):
    """Parameters and frozen weights from VGG16's file."""
    _, *states = load(keras_files / "vgg16.h5", VGG16)
    return states


@pytest.mark.parametrize("model", [VGG16, RESNET50], ids=lambda model: model["name"])
def test_outputs_equal_keras(model, keras_networks, keras_files):
    """The comparison includes the preparation of grey images, which Keras does itself."""
    network = keras_networks[model["name"]]
    loaded = nnx.merge(*load(keras_files / f"{model['name']}.h5", model))
    loaded.eval()
    for name, value in zip(("kernel", "bias"), network.layers[-1].get_weights(), strict=True):
        setattr(loaded.head, name, nnx.Param(jnp.asarray(value)))
    images = np.random.default_rng(1).random((2, 48, 48, 1), np.float32)
    colours = np.repeat(keras.ops.image.resize(images * 255, (64, 64)), 3, axis=-1)
    prepared = keras.applications.vgg16.preprocess_input(colours)
    weights = [[v.value for v in variables] for variables in _variables(network)]
    expected, _ = jax.jit(functools.partial(network.stateless_call, training=False))(
        *weights, prepared
    )
    scale = np.abs(expected).max()
    assert np.asarray(expected).std() > 0.01 * scale
    logits = nnx.jit(lambda model, images: model(images))(loaded, images)
    np.testing.assert_allclose(logits / scale, expected / scale, atol=1e-4)


def _variables(network):
    return network.trainable_variables, network.non_trainable_variables


def with_names_of_2016(network, path):
    """Writes VGG16's old file, where only the order identifies the weights."""
    with h5py.File(path, "w") as file:
        for layer in network.layers:
            group = file.create_group(layer.name)
            names = [f"{layer.name}_{w}_1:0" for w in "Wb"[: len(layer.weights)]]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, value in zip(names, layer.get_weights(), strict=True):
                group[name] = value


def in_keras_3(network, path):
    network.save_weights(path)


def of_timm(network, path):
    """Writes timm's VGG16, whose dense layers are convolutions over the whole feature map."""
    tensors, index = {}, 0
    for layer in network.layers[1:]:
        if not layer.weights:
            index += "pool" in layer.name
            continue
        kernel, bias = layer.get_weights()
        if kernel.ndim == 4:
            name = f"features.{index}"
            index += 2
        else:
            name = {"fc1": "pre_logits.fc1", "fc2": "pre_logits.fc2"}.get(layer.name, "head.fc")
            if name != "head.fc":
                side = 2 if layer.name == "fc1" else 1
                kernel = kernel.reshape(side, side, -1, kernel.shape[-1])
        tensors[f"{name}.bias"] = bias
        axes = (3, 2, 0, 1) if kernel.ndim == 4 else (1, 0)
        tensors[f"{name}.weight"] = np.ascontiguousarray(kernel.transpose(axes))
    safetensors.numpy.save_file(tensors, path)


def of_torchvision(network, path):
    """Writes torchvision's VGG16, whose first dense layer has channels before rows and columns."""
    of_timm(network, path)
    tensors = safetensors.numpy.load_file(path)
    names = {"pre_logits.fc1": "classifier.0", "pre_logits.fc2": "classifier.3"}
    for timm, torchvision in {**names, "head.fc": "classifier.6"}.items():
        kernel, bias = (tensors.pop(f"{timm}.{kind}") for kind in ("weight", "bias"))
        tensors[f"{torchvision}.weight"] = kernel.reshape(len(kernel), -1)
        tensors[f"{torchvision}.bias"] = bias
    safetensors.numpy.save_file(tensors, path)


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (with_names_of_2016, "of_2016.h5"),
        (in_keras_3, "of_keras_3.weights.h5"),
        (of_timm, "of_timm.safetensors"),
        (of_torchvision, "of_torchvision.safetensors"),
    ],
)
def test_every_format_gives_the_same_weights(write, name, keras_networks, vgg16_states, tmp_path):
    file = tmp_path / name
    write(keras_networks["vgg16"], file)
    _, *found = load(file, VGG16)
    file.unlink()
    jax.tree.map(np.testing.assert_array_equal, found, vgg16_states)


def test_without_a_top_the_dense_layers_stay_initial(keras_files, vgg16_states, tmp_path):
    full, notop = keras_files / "vgg16.h5", tmp_path / "notop.h5"
    with h5py.File(full) as source, h5py.File(notop, "w") as target:
        for layer in source.keys() - {"fc1", "fc2", "predictions"}:
            source.copy(layer, target)
    _, params, frozen = load(notop, VGG16)
    notop.unlink()
    jax.tree.map(np.testing.assert_array_equal, frozen, vgg16_states[1])
    assert not any(leaf.any() for leaf in jax.tree.leaves(params))


def torchvision_resnet(weights, repeats, x):
    """Computes the forward pass with torchvision's names, layouts and paddings."""

    def conv_norm(x, conv, norm, stride=1):
        kernel = weights[f"{conv}.weight"]
        pad = kernel.shape[-1] // 2
        x = jax.lax.conv_general_dilated(x, kernel, (stride, stride), ((pad, pad), (pad, pad)))
        scale, bias, mean, variance = (
            weights[f"{norm}.{kind}"][:, None, None]
            for kind in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / jnp.sqrt(variance + 1e-5) * scale + bias

    x = jax.nn.relu(conv_norm(x, "conv1", "bn1", 2))
    window = {"window_dimensions": (1, 1, 3, 3), "window_strides": (1, 1, 2, 2)}
    padding = ((0, 0), (0, 0), (1, 1), (1, 1))
    x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, **window, padding=padding)
    for stage, count in enumerate(repeats, start=1):
        for block in range(count):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            convolutions = 3 if f"{name}.conv3.weight" in weights else 2
            # The second convolution of a bottleneck strides, or the first of a basic block.
            strides = {3: (1, stride, 1), 2: (stride, 1)}[convolutions]
            y = x
            for i in range(convolutions):
                y = conv_norm(y, f"{name}.conv{i + 1}", f"{name}.bn{i + 1}", strides[i])
                y = jax.nn.relu(y) if i + 1 < convolutions else y
            if f"{name}.downsample.0.weight" in weights:
                x = conv_norm(x, f"{name}.downsample.0", f"{name}.downsample.1", stride)
            x = jax.nn.relu(x + y)
    return x.mean(axis=(2, 3)) @ weights["fc.weight"].T + weights["fc.bias"]


def torchvision_weights(repeats, *, bottleneck, width):
    """Returns random weights with the names and shapes of torchvision's ResNets."""
    shapes = {}

    def conv_norm(conv, norm, outputs, inputs, kernel):
        shapes[f"{conv}.weight"] = (outputs, inputs, kernel, kernel)
        for kind in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{norm}.{kind}"] = (outputs,)
        shapes[f"{norm}.num_batches_tracked"] = ()

    conv_norm("conv1", "bn1", width, 3, 7)
    inputs = width
    for stage, count in enumerate(repeats, start=1):
        inner = width * 2 ** (stage - 1)
        sizes = ((inner, 1), (inner, 3), (4 * inner, 1)) if bottleneck else 2 * ((inner, 3),)
        for block in range(count):
            name, start = f"layer{stage}.{block}", inputs
            for i, (outputs, kernel) in enumerate(sizes, start=1):
                conv_norm(f"{name}.conv{i}", f"{name}.bn{i}", outputs, inputs, kernel)
                inputs = outputs
            if block == 0 and (stage > 1 or bottleneck):
                conv_norm(f"{name}.downsample.0", f"{name}.downsample.1", inputs, start, 1)
    shapes |= {"fc.weight": (9, inputs), "fc.bias": (9,)}
    rng = np.random.default_rng(0)
    return {name: random_values(name, shape, rng) for name, shape in shapes.items()}


@pytest.mark.parametrize(("depth", "repeats"), [(18, (2, 2, 2, 2)), (50, (3, 4, 6, 3))])
def test_resnets_take_torchvisions_names(depth, repeats, tmp_path):
    weights = torchvision_weights(repeats, bottleneck=depth == 50, width=4)
    safetensors.numpy.save_file(weights, tmp_path / "model.safetensors")
    model = {**TINY, "depth": depth, "normalization": "imagenet"}
    loaded = nnx.merge(*load(tmp_path / "model.safetensors", model))
    loaded.eval()
    loaded.head.kernel[...] = jnp.asarray(weights["fc.weight"].T)
    loaded.head.bias[...] = jnp.asarray(weights["fc.bias"])
    images = np.random.default_rng(1).random((3, 48, 48, 1), np.float32)
    mean, deviation = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]
    prepared = ((images.transpose(0, 3, 1, 2) - mean) / deviation).astype(np.float32)
    reference = jax.jit(functools.partial(torchvision_resnet, repeats=repeats))
    expected = reference(weights, x=prepared)
    scale = np.abs(expected).max()
    logits = nnx.jit(lambda model, images: model(images))(loaded, images)
    np.testing.assert_allclose(logits / scale, expected / scale, atol=1e-4)


@pytest.fixture
def tiny_weights():
    return torchvision_weights((2, 2, 2, 2), bottleneck=False, width=4)


def test_loaded_weights_take_types_and_placement_of_the_initial(tiny_weights, tmp_path):
    file = tmp_path / "half.safetensors"
    halves = {name: value.astype(np.float16) for name, value in tiny_weights.items()}
    safetensors.numpy.save_file(halves, file)
    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    sharding = NamedSharding(mesh, PartitionSpec())
    _, *states = initial(TINY)
    params, statistics = jax.device_put(states, sharding)
    loaded = load_pretrained(str(file), sha256="", model=TINY, params=params, statistics=statistics)
    for leaf in jax.tree.leaves(loaded):
        assert (leaf.dtype, leaf.sharding) == (jnp.float32, sharding)
    kernel = loaded[0]["features"]["layers"][0]["conv"]["kernel"][...]
    np.testing.assert_array_equal(kernel, halves["conv1.weight"].transpose(2, 3, 1, 0))


def remove(name):
    return lambda weights: weights.pop(name)


def replace(name, shape):
    return lambda weights: weights.update({name: np.zeros(shape, np.float32)})


@pytest.mark.parametrize(
    ("damage", "model", "message"),
    [
        (remove("layer3.1.bn2.running_var"), TINY, "lacks layer3.1.bn2.running_var"),
        (
            replace("layer2.0.conv1.weight", (8, 5, 3, 3)),
            TINY,
            r"layer2.0.conv1.weight of .* has shape \(3, 3, 5, 8\) .* has \(3, 3, 4, 8\)",
        ),
        (replace("layer5.0.conv1.weight", (8, 4, 3, 3)), TINY, "has layer5.0.conv1.weight, which"),
        (remove("fc.bias"), TINY | {"stem": "small"}, "model.stem = 'imagenet'"),
        (remove("fc.bias"), TINY | {"width": 8}, r"\(7, 7, 3, 4\).*\(7, 7, 3, 8\)"),
        (remove("fc.bias"), {"name": "cnn", "layers": ["flatten"]}, "model.name = 'cnn'"),
        (remove("fc.bias"), RESNET50, "'resnet50_v1' come in a .h5 file"),
    ],
)
def test_a_mismatch_of_file_and_network_is_named(damage, model, message, tiny_weights, tmp_path):
    damage(tiny_weights)
    safetensors.numpy.save_file(tiny_weights, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=message):
        load(tmp_path / "model.safetensors", model)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.pth", b"", "may be a pickle, which can run code when read; give a .h5"),
        ("model.npz", b"", "model.npz: give a .h5 or a .safetensors"),
        ("model.safetensors", b"not one", "cannot read pretrained.file .*model.safetensors"),
        ("model.h5", b"not one", "'resnet' come in a .safetensors"),
        ("none.safetensors", None, "cannot read pretrained.file .*none.safetensors"),
    ],
)
def test_an_unreadable_file_is_named(name, content, message, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        load(tmp_path / name, TINY)


def test_a_broken_h5_is_named(tmp_path):
    (tmp_path / "broken.h5").write_bytes(b"not one")
    with pytest.raises(UserError, match=r"cannot read pretrained.file .*broken.h5"):
        load(tmp_path / "broken.h5", RESNET50)


CONVNEXT = {"name": "convnext", "depths": (1, 1), "widths": (4, 8), "patch": 4, "channels": 3}


@pytest.fixture(scope="module")
def sound_files(tmp_path_factory):
    """Files of random weights of a small ConvNeXt, in Keras's and in timm's format."""
    _, *states = initial(CONVNEXT)
    names, rng = NAMES["convnext"](CONVNEXT), np.random.default_rng(0)
    leaves = [pair for state in states for pair in jax.tree_util.tree_leaves_with_path(state)]
    weights = {
        jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value"): rng.random(
            leaf.shape, np.float32
        )
        for path, leaf in leaves
    }
    weights = {path: value for path, value in weights.items() if not path.startswith("head.")}
    folder, of_timm = tmp_path_factory.mktemp("sound"), {}
    with h5py.File(folder / "sound.h5", "w") as file:
        for path, value in weights.items():
            layer, kind = names.keras(path).split("/")
            group = file.require_group(layer)
            group.attrs["weight_names"] = [*group.attrs.get("weight_names", []), kind]
            group[kind] = np.swapaxes(value, 2, 3) if kind == "depthwise_kernel" else value
            in_timm = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
            of_timm[names.timm(path)] = np.ascontiguousarray(in_timm)
    safetensors.numpy.save_file(of_timm, folder / "sound.safetensors")
    for path in folder.iterdir():
        load(path, CONVNEXT)
    return folder


def load_checked(path):
    """Loads a file with its own digest, without the trial in another process, which takes time."""
    return load(path, CONVNEXT, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def cut(content, rng):
    return content[: rng.integers(len(content))]


def zero(content, rng):
    start, stop = np.sort(rng.integers(len(content), size=2))
    return content[:start] + bytes(stop - start) + content[stop:]


def flip(content, rng):
    flipped = bytearray(content)
    for place in rng.integers(len(content), size=rng.integers(1, 20)):
        flipped[place] ^= 1 << rng.integers(8)
    return bytes(flipped)


def scribble(content, rng):
    """Changes bytes at the start, where the formats have most of their structure."""
    written = bytearray(content)
    for place in rng.integers(4096, size=rng.integers(1, 20)):
        written[place] = rng.integers(256)
    return bytes(written)


@pytest.mark.parametrize("suffix", [".h5", ".safetensors"])
@pytest.mark.parametrize("damage", [cut, zero, flip, scribble])
def test_a_damaged_file_is_told_in_one_line(suffix, damage, sound_files, tmp_path):
    sound = sound_files / f"sound{suffix}"
    told = []
    for seed in range(10):
        path = tmp_path / f"damaged{suffix}"
        path.write_bytes(damage(sound.read_bytes(), np.random.default_rng(seed)))
        try:
            load_checked(path)  # A flipped bit of a weight may go unnoticed.
        except UserError as error:
            told.append(str(error))
    assert told
    assert all(str(path) in line and "\n" not in line for line in told)


def as_group(file, name):
    del file[name]
    file.create_group(name)


def rewrite(**arguments):
    def change(file, name):
        del file[name]
        file.create_dataset(name, **arguments)

    return change


def set_names(value):
    return lambda file, name: file[name.split("/")[0]].attrs.__setitem__("weight_names", value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (as_group, "is not an array"),
        (rewrite(shape=(10**6, 10**6), dtype="f4"), r"has shape \(1000000, 1000000\) in the"),
        (rewrite(shape=(10**9,) * 2, dtype="f4", chunks=(64, 64)), "has shape"),
        (rewrite(data="text"), "has shape|cannot read"),
        (rewrite(data=h5py.Empty("f4")), "has shape|cannot read"),
        (rewrite(data=np.full((4, 4, 3, 4), b"x")), "values of type .*, not floats"),
        (rewrite(data=np.ones((4, 4, 3, 4), np.int64)), "values of type int64, not floats"),
        (rewrite(data=np.ones((4, 4, 3, 4), np.complex64)), "values of type complex64"),
        (rewrite(data=np.full((4, 4, 3, 4), np.nan, np.float32)), "are NaN or infinite"),
        (rewrite(data=np.full((4, 4, 3, 4), -np.inf, np.float16)), "are NaN or infinite"),
        (rewrite(data=np.full((4, 4, 3, 4), 1e300)), "are NaN or infinite"),
        (set_names(3), "cannot read pretrained.file"),
        (set_names(np.zeros((2, 2))), "cannot read pretrained.file"),
        (set_names("kernel"), "cannot read pretrained.file"),
        (set_names([b"\xff\xfe"]), "cannot read pretrained.file"),
        (set_names(["../.."]), "cannot read pretrained.file"),
    ],
)
def test_wrong_objects_in_an_h5_are_named(change, message, sound_files, tmp_path):
    path = tmp_path / "wrong.h5"
    path.write_bytes((sound_files / "sound.h5").read_bytes())
    with h5py.File(path, "r+") as file:
        change(file, "stem_conv/kernel")
    with pytest.raises(UserError, match=message) as caught:
        load_checked(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_on_which_hdf5_loops_is_told(sound_files, tmp_path, monkeypatch):
    content = (sound_files / "sound.h5").read_bytes()
    heap = content.index(b"GCOL") + 16  # The heap of texts; without it HDF5 looks on for ever.
    path = tmp_path / "looping.h5"
    path.write_bytes(content[:heap] + bytes(4080) + content[heap + 4080 :])
    monkeypatch.setattr(pretrained, "_START", 2.0)
    with pytest.raises(
        UserError, match=r"cannot read .*looping.h5: HDF5 has not read it after 2 s"
    ):
        load(path, CONVNEXT)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("stem.0.weight", np.full((4, 3, 4, 4), np.inf, np.float32), "stem.0.weight .* infinite"),
        ("stem.0.bias", np.array([1, 2, np.nan, 4], np.float16), "stem.0.bias of .* are NaN or"),
        ("stem.0.bias", np.ones(4, np.int8), "stem.0.bias of .* type int8, not floats"),
        ("stem.0.bias", np.ones(4, bool), "stem.0.bias of .* type bool, not floats"),
        ("stem.0.bias", np.ones((), np.float32), r"stem.0.bias of .* has shape \(\)"),
    ],
)
def test_wrong_values_in_a_safetensors_are_named(name, value, message, sound_files, tmp_path):
    weights = safetensors.numpy.load_file(sound_files / "sound.safetensors")
    safetensors.numpy.save_file(weights | {name: value}, tmp_path / "wrong.safetensors")
    with pytest.raises(UserError, match=message):
        load(tmp_path / "wrong.safetensors", CONVNEXT)


def test_variances_below_zero_are_refused(tiny_weights, tmp_path):
    tiny_weights["bn1.running_var"][1] = -1e-3
    safetensors.numpy.save_file(tiny_weights, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"bn1.running_var of .* has variances below 0"):
        load(tmp_path / "model.safetensors", TINY)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_is_not_opened(make, tmp_path):
    make(tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="is not a file; give"):
        load(tmp_path / "model.safetensors", TINY)


def test_a_frozen_part_needs_a_file():
    _, params, statistics = initial(TINY)
    same = load_pretrained("", sha256="", model=TINY, params=params, statistics=statistics)
    assert same == (params, statistics)
    with pytest.raises(UserError, match="frozen part of the network has no weights: give"):
        load("", TINY | {"frozen_stages": 1})


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_a_url_is_downloaded_once_and_checked(tiny_weights, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    served = tmp_path / "served"
    served.mkdir()
    safetensors.numpy.save_file(tiny_weights, served / "model.safetensors")
    digest = hashlib.sha256((served / "model.safetensors").read_bytes()).hexdigest()
    handler = functools.partial(QuietHandler, directory=served)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        url = f"http://127.0.0.1:{server.server_port}/model.safetensors"
        with pytest.raises(UserError, match="is a URL: give its SHA-256"):
            load(url, TINY)
        with pytest.raises(UserError, match=f"has SHA-256 {digest}, not {'0' * 64}"):
            load(url, TINY, sha256="0" * 64)
        with pytest.raises(UserError, match=r"cannot download .*/none.safetensors: HTTP Error 404"):
            load(url.replace("model", "none"), TINY, sha256=digest)
        assert not [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
        _, *downloaded = load(url, TINY, sha256=digest)
        server.shutdown()
    _, *again = load(url, TINY, sha256=digest.upper())
    _, *expected = load(served / "model.safetensors", TINY, sha256=digest)
    jax.tree.map(np.testing.assert_array_equal, downloaded, expected)
    jax.tree.map(np.testing.assert_array_equal, again, expected)
    with pytest.raises(UserError, match=f"has SHA-256 {digest}, not {'0' * 64}"):
        load(served / "model.safetensors", TINY, sha256="0" * 64)
