"""Initial weights of training: of a run, a model folder, the shipped model, other libraries."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
from flax import nnx
from ml_collections import ConfigDict

from fer_jax.errors import UserError
from fer_jax.inference.trained import load_trained
from fer_jax.models.functional import leaf_name
from fer_jax.models.pretrained import load_pretrained
from fer_jax.paths import user_place
from fer_jax.workdir import SHIPPED

SHIPPED_NAME = "shipped"
"""Value of `config.pretrained.file` for the model that comes with fer_jax."""

Initialize = Callable[[nnx.State, nnx.State], tuple[nnx.State, nnx.State]]
"""A function from initial parameters and statistics to those that training starts from."""


def choose_initial_weights(config: ConfigDict, classes: Sequence[str]) -> tuple[Initialize, str]:
    """Returns the function that puts the weights of `config.pretrained` into a network.

    A run or model folder gives all its features. It also gives its last layer if its classes equal
    `classes`; otherwise that layer keeps its initial values. For a file of another library, see
    `load_pretrained`.

    Args:
      config: every knob.
      classes: names, in the order of the network's logits.

    Returns:
      The function; and a line that says where the weights come from, or "".

    Raises:
      UserError: the folder holds no single trained network, or another network; or
        `load_pretrained` refuses the file.
    """
    file = config.pretrained.file
    folder = find_run(file) if file else None
    if folder is None or not _is_run(folder):
        load = functools.partial(load_pretrained, **config.pretrained, model=config.model)
        return lambda params, statistics: load(params=params, statistics=statistics), ""
    if config.pretrained.sha256:
        raise UserError(f"pretrained.sha256 is for files, and {file} is a folder; leave it out")
    model = load_trained(folder)
    if len(model.networks) > 1:
        raise UserError(f"pretrained.file {file} is an ensemble; give the workdir of one member")
    same = tuple(classes) == model.classes
    head = "all of it" if same else "a new last layer"
    line = f"starting from {file}, {head}; it was trained on {', '.join(model.classes)}"
    leaves = jax.tree.leaves_with_path(model.networks[0])
    found = {leaf_name(key[1:]): leaf for key, leaf in leaves}
    return functools.partial(_replace, found, folder, head=same), line


def find_run(name: str) -> Path | str:
    """Returns the place of a run or model folder; of "shipped", that of the shipped model.

    Raises:
      UserError: see `user_place`.
    """
    return SHIPPED if name == SHIPPED_NAME else user_place(name)


def _is_run(place: Path | str) -> bool:
    """Whether a place is a folder; of URLs, http is for files of other libraries."""
    return place.is_dir() if isinstance(place, Path) else not place.startswith("http")


def _replace(
    found: Mapping[str, jax.Array],
    folder: Path | str,
    params: nnx.State,
    statistics: nnx.State,
    *,
    head: bool,
) -> tuple[nnx.State, nnx.State]:
    initial = (params, statistics)
    shapes = {leaf_name(key[1:]): leaf.shape for key, leaf in jax.tree.leaves_with_path(initial)}
    for name in sorted(shapes.keys() | found.keys()):
        theirs = found[name].shape if name in found else None
        if theirs != shapes.get(name) and (head or not name.startswith("head.")):
            raise UserError(
                f"pretrained.file {folder} holds another network: its {name} has shape {theirs}, "
                f"this one's {shapes.get(name)}; give the config the model of that run"
            )

    def replace(key: tuple, leaf: jax.Array) -> jax.Array:
        name = leaf_name(key[1:])
        if name.startswith("head.") and not head:
            return leaf
        return jax.device_put(found[name].astype(leaf.dtype), leaf.sharding)

    return jax.tree_util.tree_map_with_path(replace, initial)
