"""Loads pretrained weights from files of Keras, timm and torchvision.

Pickles are refused, because reading one can run code.
"""

import contextlib
import functools
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from flax import nnx
from jaxtyping import Shaped

from fer_jax.downloads import fetch
from fer_jax.errors import UserError
from fer_jax.models import convnext, densenet, efficientnet, resnet, vgg
from fer_jax.models.functional import leaf_name
from fer_jax.models.layers import Frozen

Array = Shaped[np.ndarray, "..."]


class Tensor(NamedTuple):
    """A tensor of a file: its shape, as the file declares it, and a function that reads it."""

    shape: tuple[int, ...]
    read: Callable[[], Array]


Tensors = Mapping[str, Tensor]
"""The tensors of a file, by name."""


class Names(NamedTuple):
    """Functions from a path, such as "features.layers.0.kernel", to each library's name for it.

    Keras's names are "<layer>/<kind>", with a kind of `_KERAS_KINDS`. None stands for a library
    without such a network. `timm_layers` has timm's name of each layer, by its name in another
    PyTorch package.
    """

    keras: Callable[[str], str] | None
    timm: Callable[[str], str] | None
    timm_layers: Mapping[str, str] = MappingProxyType({})


def _resnet_names(model: Mapping[str, Any]) -> Names:
    if model["stem"] != "imagenet":
        raise UserError("pretrained weights of 'resnet' need model.stem = 'imagenet'; set it")
    return Names(None, functools.partial(resnet.timm_name, depth=model["depth"]))


def _efficientnet_names(model: Mapping[str, Any]) -> Names:
    variant = model.get("variant", "original")
    layers = efficientnet.timm_layers(efficientnet.stage_repeats(model["depth"], variant))
    keras_name = efficientnet.keras_name if variant == "original" else None
    return Names(keras_name, efficientnet.timm_name, layers)


NAMES: dict[str, Callable[[Mapping[str, Any]], Names]] = {
    "convnext": lambda _: Names(convnext.keras_name, convnext.timm_name),
    "densenet": lambda _: Names(densenet.keras_name, densenet.timm_name),
    "efficientnet": _efficientnet_names,
    "resnet": _resnet_names,
    "resnet50_v1": lambda _: Names(resnet.keras_name, None),
    "vgg16": lambda _: Names(vgg.keras_name, vgg.timm_name, vgg.TIMM_LAYERS),
}
"""Functions from a config's `model` to `Names`, by `model.name`: the networks with weights."""


def load_pretrained(
    file: str,
    *,
    sha256: str,
    model: Mapping[str, Any],
    params: nnx.State,
    statistics: nnx.State,
) -> tuple[nnx.State, nnx.State]:
    """Returns parameters and statistics with the weights of `file` in place of the initial ones.

    All features come from the file. The last layer, `head`, never does, because the file's head has
    other classes. Dense layers before it, for example VGG16's, stay initial if the file lacks them,
    as a `*_notop.h5` does. Only the file's top may remain unused.

    Args:
      file: path or URL of a Keras `.h5`, or of a `.safetensors` with timm's names; a ResNet or
        VGG16 may also have torchvision's, and an EfficientNet those of efficientnet_pytorch. A
        downloaded file is kept in `~/.cache/fer_jax/pretrained`. Empty: nothing is loaded, and a
        network with a frozen part is refused.
      sha256: hexadecimal digest of the file. A URL needs it; a path without one is not checked.
      model: the config's `model`.
      params: initial parameters; the loaded ones take their shapes, types and placement.
      statistics: initial statistics; the loaded ones take theirs.

    Raises:
      UserError: the file cannot be fetched or read, or it does not fit the network (the message
        names the tensor); or a frozen part has no file.
    """
    if not file:
        if jax.tree.leaves(nnx.filter_state(statistics, Frozen)):
            raise UserError(
                "the frozen part of the network has no weights: give --config.pretrained.file, or "
                "train that part too with --config.model.frozen_stages=0"
            )
        return params, statistics

    suffix = Path(urlsplit(file).path).suffix
    if suffix not in _FORMATS:
        why = " may be a pickle, which can run code when read;" if suffix in _PICKLES else ":"
        raise UserError(f"pretrained.file {file}{why} give a .h5 or a .safetensors file")
    name_of, timm_layers = _names(model, suffix)
    expected = {
        path: name_of(path)
        for path in (*_paths(params), *_paths(statistics))
        if not path.startswith("head.")
    }
    open_tensors, to_our_layout = _FORMATS[suffix]
    local, names = fetch(file, sha256), set(expected.values())
    try:
        with open_tensors(local, names, checked=bool(sha256)) as tensors:
            tensors = {_timm_name(name, timm_layers): tensors[name] for name in tensors}
            _check_names(file, names, tensors)

            def load(key: tuple, leaf: jax.Array) -> jax.Array:
                name = expected.get(leaf_name(key), "")
                if name not in tensors:
                    return leaf

                def to_ours(value: Array) -> Array:
                    value = to_our_layout(name, value)
                    if value.ndim == 4 and leaf.ndim == 2:  # A convolution over the whole image.
                        value = value.reshape(-1, value.shape[-1])
                    return value

                # A damaged file can declare any shape, so none is read that does not fit.
                shape = to_ours(np.broadcast_to(np.float32(0), tensors[name].shape)).shape
                if shape != leaf.shape:
                    raise UserError(
                        f"{name} of {file} has shape {shape} in the network's layout, but "
                        f"the network has {leaf.shape}; change model to fit, or give another file"
                    )
                value = tensors[name].read()
                _check_values(f"{name} of {file}", value)
                return jax.device_put(to_ours(value).astype(leaf.dtype), leaf.sharding)

            return tuple(
                jax.tree_util.tree_map_with_path(load, state) for state in (params, statistics)
            )
    except UserError:
        raise
    except Exception as error:  # h5py raises almost any class on damaged files.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"cannot read pretrained.file {file}: {reason}; check that it is complete"
        ) from error


def _names(model: Mapping[str, Any], suffix: str) -> tuple[Callable[[str], str], Mapping[str, str]]:
    name = model["name"]
    if name not in NAMES:
        raise UserError(
            f"pretrained.file does not work with model.name = {name!r}; "
            f"choose one of {', '.join(NAMES)}"
        )
    names = NAMES[name](model)
    found = names.keras if suffix == ".h5" else names.timm
    if found is None:
        other = ".safetensors" if suffix == ".h5" else ".h5"
        raise UserError(f"weights of {name!r} come in a {other} file; give one as pretrained.file")
    return found, names.timm_layers


def _timm_name(name: str, timm_layers: Mapping[str, str]) -> str:
    layer, _, kind = name.rpartition(".")
    return f"{timm_layers[layer]}.{kind}" if layer in timm_layers else name


def _paths(state: nnx.State) -> list[str]:
    return [leaf_name(key) for key, _ in jax.tree_util.tree_leaves_with_path(state)]


_TOP = re.compile(r"(fc\d*|predictions|probs|pre_logits|classifier|head\.fc|head_dense)[./].*")
"""Names of tensors of dense layers after the features, in all libraries."""

_UNUSED = re.compile(
    r".*\.num_batches_tracked"  # A counter of PyTorch's batch normalisation in training.
    r"|normalization(_\d+)?/.*"  # Keras's normalisation of images; `Classifier.prepare` does it.
    r"|seed_generator.*"  # State of Keras's dropout.
)


def _check_names(file: str, expected: set[str], tensors: Tensors) -> None:
    has_top = any(map(_TOP.fullmatch, tensors))
    for name in sorted(expected - tensors.keys()):
        if has_top or not _TOP.fullmatch(name):
            raise UserError(f"{file} lacks {name}, which the network needs; give another file")
    for name in sorted(tensors.keys() - expected):
        if not _TOP.fullmatch(name) and not _UNUSED.fullmatch(name):
            raise UserError(f"{file} has {name}, which the network lacks; give another file")


def _check_values(what: str, value: Array) -> None:
    """Refuses what is no float, and values with which a network computes NaN."""
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise UserError(f"{what} has values of type {value.dtype}, not floats; give another file")
    with np.errstate(over="ignore"):
        finite = np.isfinite(value.astype(np.float32)).all()
    if not finite:
        raise UserError(f"{what} has values that are NaN or infinite; give another file")
    is_variance = what.split(" ")[0].endswith(("running_var", "moving_variance"))
    if is_variance and (value < 0).any():
        raise UserError(f"{what} has variances below 0; give another file")


# Each file format has a function that opens its tensors and one that converts them to our layout.

_KERAS_KINDS = (
    "kernel",
    "depthwise_kernel",
    "gamma",
    "bias",
    "beta",
    "moving_mean",
    "moving_variance",
)
"""Kinds of a layer's weights, in Keras's order."""


@contextlib.contextmanager
def _open_keras(path: Path, expected: set[str], *, checked: bool) -> Iterator[Tensors]:
    """Opens a file of `save_weights` of any Keras, or a whole model saved before Keras 3.

    A weight is identified by its own name. If the name is not a known kind, such as
    "block1_conv1_W_1:0" in old files and "0" in Keras 3's, its place among the weights of its layer
    decides. A group may also hold several layers; its weights then carry the layers' names.
    """
    if not checked:
        _try_hdf5(path)
    with h5py.File(path) as file:
        tensors = {}
        for layer, weights in _keras_layers(file):
            kinds = [kind for kind in _KERAS_KINDS if f"{layer}/{kind}" in expected]
            for place, (weight, dataset) in enumerate(weights):
                owner, kind = f"{layer}/{weight.removesuffix(':0')}".split("/")[-2:]
                if kinds:
                    owner = layer
                    if kind not in kinds and place < len(kinds):
                        kind = kinds[place]
                name = f"{_keras_layer(owner)}/{kind}"
                if name in tensors:
                    raise UserError(f"{path} has {name} twice; give another file")
                if not isinstance(dataset, h5py.Dataset):
                    raise UserError(f"{name} of {path} is not an array; give another file")
                tensors[name] = Tensor(dataset.shape, functools.partial(np.asarray, dataset))
        yield tensors


_READ_ALL = """
import contextlib, sys, h5py

def read(_, node):
    with contextlib.suppress(Exception):
        dict(node.attrs)
        if isinstance(node, h5py.Dataset) and node.nbytes < 2**31:
            node[()]

with h5py.File(sys.argv[1]) as file:
    file.visititems(read)
"""

_START = 30.0
"""Seconds that a process has to start and to read a small file."""


def _try_hdf5(path: Path) -> None:
    """Reads a file in a process of its own, because HDF5 can loop or crash on a damaged one.

    Python errors are left to the real reading. A file with a known digest needs no trial.

    Raises:
      ValueError: HDF5 loops or crashes.
    """
    seconds = _START + path.stat().st_size / 2**21
    try:
        status = subprocess.run(
            [sys.executable, "-c", _READ_ALL, path], timeout=seconds, capture_output=True
        ).returncode
    except subprocess.TimeoutExpired:
        raise ValueError(f"HDF5 has not read it after {seconds:.0f} s") from None
    if status < 0:
        raise ValueError(f"HDF5 crashes on it, with signal {-status}")


def _keras_layers(file: h5py.File) -> Iterator[tuple[str, list[tuple[str, h5py.Dataset]]]]:
    """Yields the name of each layer, and the names and data of its weights, in order."""
    nodes: list[tuple[str, Any]] = []
    file.get("model_weights", file).visititems(lambda *node: nodes.append(node))
    for layer, group in nodes:
        if "weight_names" in group.attrs:  # The group is a layer; its name may be nested: conv1/bn.
            weights = [os.fsdecode(name) for name in group.attrs["weight_names"]]
            yield _keras_layer(layer), [(name, group[name]) for name in weights]
        elif "name" in group.attrs:  # Keras 3.
            places = sorted(group, key=int)
            yield _keras_layer(group.attrs["name"]), [(place, group[place]) for place in places]


def _keras_layer(name: str) -> str:
    """Returns the name, in our code and in today's Keras, of a layer in a file.

    The size of a ConvNeXt is dropped. Without a top, a ConvNeXt's last normalisation has an
    automatic name in the file; it gets the name that it has with a top.
    """
    name = name.replace("/", "_")
    name = re.sub(r"^convnext_(tiny|small|base|large|xlarge)_", "", name)
    return re.sub(r"^layer_normalization(_\d+)?$", "head_layernorm", name)


def _from_keras(name: str, value: Array) -> Array:
    return np.swapaxes(value, 2, 3) if name.endswith("/depthwise_kernel") else value


@contextlib.contextmanager
def _open_safetensors(path: Path, expected: set[str], *, checked: bool) -> Iterator[Tensors]:
    del expected, checked  # Names say all, and the library itself checks the whole header.
    with safetensors.safe_open(path, framework="numpy") as file:
        names = file.keys()
        yield {
            name: Tensor(
                tuple(file.get_slice(name).get_shape()), functools.partial(file.get_tensor, name)
            )
            for name in names
        }


def _from_torch(name: str, value: Array) -> Array:
    """Converts a convolution's OIHW to HWIO, and a dense layer's OI to IO."""
    if name == "pre_logits.fc1.weight" and value.ndim == 2:  # torchvision's, where I is CHW.
        value = value.reshape(len(value), vgg.FEATURES, -1, 1)
    return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T


_FORMATS: dict[str, tuple[Callable, Callable[[str, Array], Array]]] = {
    ".h5": (_open_keras, _from_keras),
    ".safetensors": (_open_safetensors, _from_torch),
}
_PICKLES = (".pth", ".pt", ".bin", ".pkl", ".ckpt")
