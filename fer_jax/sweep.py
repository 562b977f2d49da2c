"""The settings of a sweep, from texts such as "learning_rate=0.1,0.03; weight_decay=0,1e-4"."""

import itertools
from typing import Any

from fer_jax.errors import UserError

KNOBS = (
    *("learning_rate", "weight_decay", "clip_norm", "label_smoothing"),
    *("mixup", "cutmix", "ema_decay"),
    *("shift", "flip", "rotation", "shear", "zoom", "crop", "erasing"),
)
"""The knobs that can be swept: all that a program compiled once can take as values."""

_SWITCHES = {"true": True, "1": True, "false": False, "0": False}


def parse_sweep(text: str) -> list[dict[str, Any]]:
    """Returns the settings of a sweep, each with the knobs that it changes.

    Args:
      text: `knob=value,value;knob=value,…` for every combination of these values. Several such
        grids, or single settings, are separated by `|`. Empty: no settings.

    Raises:
      UserError: a knob cannot be swept or is given twice, a value is no number, or the settings are
        fewer than two or not all different.
    """
    if not text.strip():
        return []
    settings = [setting for grid in text.split("|") for setting in _combinations(grid)]
    if len(settings) == 1:
        raise UserError(f"sweep is {text!r}, a single setting; give two or more, or none")
    for number, setting in enumerate(settings):
        if setting in settings[:number]:
            raise UserError(f"sweep has the setting {describe(setting)} twice; leave one out")
    return settings


def describe(setting: dict[str, Any]) -> str:
    """Returns a setting as it is written in a sweep."""
    return "; ".join(
        f"{knob}={value if isinstance(value, bool) else f'{value:g}'}"
        for knob, value in setting.items()
    )


def _combinations(grid: str) -> list[dict[str, Any]]:
    axes: dict[str, list[Any]] = {}
    for part in grid.split(";"):
        knob, equals, values = (piece.strip() for piece in part.partition("="))
        if not equals or not knob:
            raise UserError(
                f"sweep has {part.strip()!r}; give knob=value,value, with ; between knobs and | "
                "between grids"
            )
        if knob not in KNOBS:
            raise UserError(f"sweep cannot vary {knob}; it can vary {', '.join(KNOBS)}")
        if knob in axes:
            raise UserError(f"sweep has {knob} twice in {grid.strip()!r}; give its values once")
        axes[knob] = [_value(knob, value.strip()) for value in values.split(",")]
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def _value(knob: str, text: str) -> Any:
    if knob == "flip":
        if text.lower() not in _SWITCHES:
            raise UserError(f"sweep has flip={text}; give True or False")
        return _SWITCHES[text.lower()]
    try:
        return float(text)
    except ValueError:
        raise UserError(f"sweep has {knob}={text}, which is no number; give one") from None
