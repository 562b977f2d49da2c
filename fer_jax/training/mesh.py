"""One mesh of all devices: the same code for a CPU, a GPU or a pod.

Its axes are `data`, over which batches are split, and `member`, over which the members of an
ensemble are; that one is of length 1 where a single network is trained.
"""

import math
from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from data_prep.contract import UserError
from fer_jax.models.convolution import kernels
from fer_jax.training.cpu import has_bfloat16


def supported_dtype(dtype: str, *, training: bool = False) -> str:
    """Returns the type to compute in: of bfloat16 on a CPU most often float32.

    There only oneDNN's kernels, which a training step has, are fast at bfloat16, on a processor
    made for it. XLA's own are slow, and under jit gave NaN for some ResNets (jax 0.12.0). As
    parameters are float32 all the same, a network may be trained in one and used in the other.

    Args:
      dtype: of the config.
      training: whether it is for a training step.

    Raises:
      UserError: `dtype` is neither float32 nor bfloat16.
    """
    if dtype not in ("float32", "bfloat16"):
        raise UserError(f"dtype is {dtype!r}; choose float32 or bfloat16")
    supported = jax.default_backend() != "cpu" or (training and kernels() and has_bfloat16())
    return dtype if supported else "float32"


def create_mesh(*batch_sizes: int, members: int = 1) -> Mesh:
    """Returns the mesh of all devices of all processes, over which these batches must divide.

    As many devices as divide `members` are along its axis `member`, the others along `data`. On
    CPU, where a device is only a way to use a core, the cores left over by a batch are left out.

    Raises:
      UserError: a batch does not divide over the devices.
    """
    devices = jax.devices()
    common = int(np.gcd.reduce(batch_sizes))
    if jax.default_backend() == "cpu" and jax.process_count() == 1:
        count = max(n for n in range(1, len(devices) + 1) if common % n == 0)
        devices = devices[:count]
    if common % len(devices):
        raise UserError(
            f"batches of {' and '.join(map(str, batch_sizes))} do not divide over "
            f"{len(devices)} devices; choose multiples of {len(devices)}"
        )
    along = math.gcd(members, len(devices))
    return jax.make_mesh(
        (along, len(devices) // along),
        ("member", "data"),
        (AxisType.Auto, AxisType.Auto),
        devices=devices,
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def split_over_devices(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: rows split over all devices."""
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def to_devices(batch: Mapping[str, np.ndarray], sharding: NamedSharding) -> dict[str, jax.Array]:
    """Makes the global batch of every process's own rows, laid out as `sharding` says."""
    return {
        name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()
    }
