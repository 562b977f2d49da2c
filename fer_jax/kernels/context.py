"""The context that kernels read while they are traced: the mesh, and the forms in use."""

import contextlib
import contextvars
import math
from collections.abc import Iterator

from jax.sharding import AxisType, get_abstract_mesh

CONVOLUTIONS = frozenset({"gradients", "winograd"})
"""Our forms of a convolution: gradients in the form oneDNN is fast at, and Winograd's algorithm."""

_MAX_POOL = frozenset({"max_pool"})

_forms = contextvars.ContextVar("forms", default=CONVOLUTIONS | _MAX_POOL)


def batch_shards() -> int:
    """Returns how many devices the batch is split over; 1 without a mesh.

    Axes that `jax.shard_map` maps by hand, such as an ensemble's members, are not counted.
    """
    mesh = get_abstract_mesh()
    axes = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return math.prod(mesh.shape[name] for name, kind in axes if kind == AxisType.Auto)


def in_use(form: str) -> bool:
    """Whether kernels may take this form: one of `CONVOLUTIONS`, or "max_pool"."""
    return form in _forms.get()


def convolutions(*forms: str) -> contextlib.AbstractContextManager[None]:
    """Limits convolutions to these of our forms, to compare them with XLA's own.

    This holds for functions whose first trace is inside this context.
    """
    return _limited_to(_MAX_POOL.union(forms))


def standard_operations() -> contextlib.AbstractContextManager[None]:
    """Makes kernels XLA's own operations, for a program that leaves this machine.

    This holds for functions whose first trace is inside this context.
    """
    return _limited_to(frozenset())


@contextlib.contextmanager
def _limited_to(forms: frozenset[str]) -> Iterator[None]:
    token = _forms.set(forms)
    try:
        yield
    finally:
        _forms.reset(token)
