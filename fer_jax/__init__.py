"""Trains, evaluates and explains facial-expression classifiers on FER-2013.

`train`, `evaluate` and `Predictor` are imported on first use, since JAX takes seconds to import.
"""

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

from fer_jax import stopping

if sys.argv[:1] == ["-m"]:  # Python is about to run a module of this package as a command.
    stopping.watch()

if TYPE_CHECKING:
    from fer_jax.evaluate import evaluate
    from fer_jax.inference.predictor import Predictor
    from fer_jax.train import train

__all__ = ["Predictor", "evaluate", "train"]

_MODULES = {
    "Predictor": "fer_jax.inference.predictor",
    "evaluate": "fer_jax.evaluate",
    "train": "fer_jax.train",
}


class _Package(types.ModuleType):
    """Makes `train` and `evaluate` functions of the package, though modules have these names."""

    def __setattr__(self, name: str, value: Any) -> None:
        # Python binds a submodule here once it is imported.
        if name in _MODULES and isinstance(value, types.ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


sys.modules[__name__].__class__ = _Package
