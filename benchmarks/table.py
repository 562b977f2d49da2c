"""The parts of a page of measurements: medians with ranges, tables, command and hardware."""

import datetime
import math
import re
import shlex
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fer_jax.errors import write_atomically

_PLACEHOLDERS = {"workdir": "DIR", "torch_python": "PYTHON", "keras_python": "PYTHON"}
"""Flags whose values hold only on this machine, and the values that a page shows instead."""


def median(values: Sequence[float]) -> str:
    """Returns the median as a whole number; for several values, also the least and the greatest."""
    spread = f" ({min(values):,.0f} to {max(values):,.0f})" if len(values) > 1 else ""
    return f"{statistics.median(values):,.0f}{spread}"


def median_ratio(numerators: Iterable[float], denominators: Iterable[float]) -> str:
    """Returns the median of the ratios, pair by pair, such as of two rates in the same turn."""
    pairs = zip(numerators, denominators, strict=True)
    return f"{statistics.median(a / b for a, b in pairs):.2f}"


def accuracy(fraction: float, n: int) -> str:
    """Returns an accuracy on n images in percent, ± one standard error."""
    return f"{100 * fraction:.2f} ± {100 * math.sqrt(fraction * (1 - fraction) / n):.2f}"


def hardware(devices: Mapping[str, Any]) -> str:
    """Returns the devices in words, from `fer_jax.devices.describe_devices` or a config.json."""
    processes = f" in {devices['processes']} processes" if devices["processes"] > 1 else ""
    return f"{devices['count']} x {devices['kind']}{processes}"


def circumstances(*facts: str) -> str:
    """Returns the end of a page's text: the facts, each once, and today's date."""
    return f"{'; '.join(dict.fromkeys(facts))}; {datetime.date.today()}."


def command(module: str) -> str:
    """Returns the command line of this process, which runs `module`, without folders."""
    text = shlex.join(sys.argv[1:])
    for flag, placeholder in _PLACEHOLDERS.items():
        text = re.sub(rf"--{flag}[= ]\S+", f"--{flag}={placeholder}", text)
    return f"python -m benchmarks.{module} {hide_folders(text)}".rstrip()


def hide_folders(text: str) -> str:
    """Shortens absolute paths to their last part."""
    return re.sub(r"(?<![\w.])/[^\s'\"`:;,]*/", "…/", text)


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, words: int) -> list[str]:
    """Returns the lines of a Markdown table. All columns after the first `words` align right."""
    rule = words * "---|" + (len(headings) - words) * "---:|"
    return [row(headings), f"|{rule}", *map(row, rows)]


def row(cells: Iterable[str]) -> str:
    """Returns one line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def page(title: str, text: str, command: str, *blocks: Sequence[str]) -> str:
    """Returns Markdown: a heading, a paragraph, the command, and blocks of lines."""
    parts = [[f"# {title}"], [text], [f"    {command}"], *blocks]
    return "\n".join(line for part in parts for line in (*part, ""))


def publish(text: str, path: str | None) -> None:
    """Prints a page, and writes it if there is a path."""
    print(text)
    if path:
        write_atomically(path, text)
