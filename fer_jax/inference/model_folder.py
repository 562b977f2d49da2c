"""A model folder: a trained model in the two files that model hubs keep.

config.json         the run's config.json, and besides: `checkpoint_steps`; `temperature`, which
                    divides the logits; `sha256` of the weights; and, for readers of model hubs,
                    `model_type`, `id2label` and `label2id`
model.safetensors   the arrays, named as in the network, such as "features.layers.0.conv.kernel";
                    in an ensemble after "member_0." and so on
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fer_jax.config import default_config
from fer_jax.errors import UserError, write_atomically
from fer_jax.models.functional import leaf_name
from fer_jax.workdir import CONFIG, IMMATERIAL, WEIGHTS

Network = tuple[nnx.State, nnx.State]
"""Parameters and statistics."""


def is_model_folder(folder: Path) -> bool:
    """Returns whether a folder holds weights without checkpoints."""
    return (folder / WEIGHTS).exists()


def write_model_folder(
    folder: Path,
    run: Mapping[str, Any],
    networks: Sequence[Network],
    *,
    steps: Sequence[int],
    temperature: float,
    dtype: str = "float32",
) -> None:
    """Writes a model folder.

    Args:
      folder: the folder; it is created.
      run: content of the run's config.json. Paths of this machine are left out of the copy.
      networks: the network, or the members of an ensemble.
      steps: step of each network's checkpoint.
      temperature: see `TrainedModel`.
      dtype: "float32"; or "float16", which halves the file: kernels are rounded, while vectors,
        such as those of batch normalisation, stay float32.

    Raises:
      UserError: a kernel does not fit float16.
    """
    tensors = {}
    for prefix, network in zip(_prefixes(len(networks)), networks, strict=True):
        for key, leaf in jax.tree.leaves_with_path(network):
            name, value = _name(prefix, key), np.asarray(leaf)
            if value.ndim > 1:
                with np.errstate(over="ignore"):
                    value = value.astype(dtype)
                if not np.isfinite(value).all():
                    raise UserError(f"{name} has values that {dtype} does not hold; use float32")
            tensors[name] = np.ascontiguousarray(value)
    weights = save(tensors, {"format": "fer_jax"})
    classes = run["data"]["classes"]
    config = {
        "model_type": "fer_jax",
        "id2label": dict(enumerate(classes)),
        "label2id": {name: index for index, name in enumerate(classes)},
        "checkpoint_steps": list(steps),
        "temperature": temperature,
        "sha256": hashlib.sha256(weights).hexdigest(),
    }
    # The run may be a model folder itself, with such entries of its own.
    config = {**config, **_without_paths(run), **config}
    write_atomically(folder / WEIGHTS, weights)
    write_atomically(folder / CONFIG, json.dumps(config, indent=2) + "\n")


def read_model_folder(
    folder: Path, run: Mapping[str, Any], params: nnx.State, statistics: nnx.State
) -> tuple[list[Network], list[int], float]:
    """Returns the networks, the steps of their checkpoints, and the temperature.

    Args:
      folder: the folder.
      run: content of its config.json, as `fer_jax.workdir.read_run` returns it.
      params: abstract parameters of one network; the loaded ones take their shapes, types and
        placement.
      statistics: the same for the statistics.

    Raises:
      UserError: a file is damaged, or does not belong to this network.
    """
    steps, temperature = _check(folder, run)
    path = folder / WEIGHTS
    try:
        content = path.read_bytes()
        tensors = load(content)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot read {path}: {error}; get the folder anew") from error
    if run.get("sha256") != hashlib.sha256(content).hexdigest():
        raise UserError(f"{path} is not the file that {CONFIG} beside it names; get both anew")

    def network(prefix: str) -> Network:
        def find(key: tuple, leaf: jax.ShapeDtypeStruct) -> jax.Array:
            name = _name(prefix, key)
            found = tensors[name].shape if name in tensors else None
            if found != leaf.shape:
                raise UserError(
                    f"{name} of {path} has shape {found}, but {CONFIG} beside it describes "
                    f"{leaf.shape}; get both anew"
                )
            return jax.device_put(tensors[name].astype(leaf.dtype), leaf.sharding)

        return jax.tree_util.tree_map_with_path(find, (params, statistics))

    return [network(prefix) for prefix in _prefixes(len(steps))], steps, temperature


def _check(folder: Path, run: Mapping[str, Any]) -> tuple[list[int], float]:
    """Returns the steps and the temperature of a config.json."""
    steps: Any = run.get("checkpoint_steps")
    temperature: Any = run.get("temperature")
    good = isinstance(steps, list) and len(steps) == run["config"]["ensemble"]
    good = good and all(type(step) is int for step in steps)
    if not (good and type(temperature) is float and 0 < temperature < math.inf):
        raise UserError(
            f"{folder / CONFIG} is damaged: `checkpoint_steps` has a whole number for each member, "
            "and `temperature` is above 0; get the folder anew"
        )
    return steps, temperature


def _prefixes(count: int) -> list[str]:
    return [""] if count == 1 else [f"member_{k}." for k in range(count)]


def _name(prefix: str, key: tuple) -> str:
    return prefix + leaf_name(key[1:])  # The first key tells parameters from statistics.


def _without_paths(run: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a run's facts without what names folders and files of its machine."""
    defaults = default_config()
    config = json.loads(json.dumps(run["config"]))
    for knob in IMMATERIAL:
        *sections, key = knob.split(".")
        node, default = config, defaults
        for section in sections:
            node, default = node[section], default[section]
        node[key] = default[key]
    data = {key: value for key, value in run["data"].items() if key != "directory"}
    facts = {key: value for key, value in run.items() if key != "command"}
    return {**facts, "config": config, "data": data}
