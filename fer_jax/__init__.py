"""Trains, evaluates and explains facial-expression classifiers on FER-2013.

`fer_jax.Predictor` predicts with a trained model.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fer_jax.inference.predictor import Predictor

__all__ = ["Predictor"]


def __getattr__(name: str) -> Any:
    # On first use only: it imports JAX, which takes seconds.
    if name != "Predictor":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from fer_jax.inference.predictor import Predictor

    return Predictor
