"""The context that kernels read while they are traced: the mesh, and the forms in use."""

import contextlib
import contextvars
import math
from collections.abc import Iterator

from jax.sharding import AxisType, get_abstract_mesh

CONVOLUTIONS = frozenset({"gradients", "winograd"})
"""Our forms of a convolution: gradients in the form oneDNN is fast at, and Winograd's algorithm."""

_convolutions = contextvars.ContextVar("convolutions", default=CONVOLUTIONS)


def batch_shards() -> int:
    """Returns how many devices the batch is split over; 1 without a mesh.

    Axes that `jax.shard_map` maps by hand, such as an ensemble's members, are not counted.
    """
    mesh = get_abstract_mesh()
    axes = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return math.prod(mesh.shape[name] for name, kind in axes if kind == AxisType.Auto)


def in_use(form: str) -> bool:
    """Whether convolutions may take this form, one of `CONVOLUTIONS`."""
    return form in _convolutions.get()


@contextlib.contextmanager
def convolutions(*forms: str) -> Iterator[None]:
    """Limits convolutions to these of our forms, to compare them with XLA's own.

    This holds for functions whose first trace is inside this context.
    """
    token = _convolutions.set(frozenset(forms))
    try:
        yield
    finally:
        _convolutions.reset(token)
