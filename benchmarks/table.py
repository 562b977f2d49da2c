"""Tables of figures: kept as numbers in a record, written as Markdown on a page.

A table is `{"columns": {heading: format}, "rows": [[cell, ...], ...]}`. The format is Python's,
such as ",.0f"; a column with an empty one has words. A cell is a number, a text, null, the `spread`
of several measurements, or a `value` with its `error`.
"""

import datetime
import math
import re
import shlex
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks import record

_PLACEHOLDERS = {"workdir": "DIR", "torch_python": "PYTHON", "keras_python": "PYTHON"}
"""Flags whose values hold only on this machine, and the values that a page shows instead."""

_LIBRARIES = ("python", "fer_jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
"""Packages whose versions are in a record, but not on a page."""

spread = record.spread


def ratio(numerators: Iterable[float], denominators: Iterable[float]) -> float:
    """Returns the median of the ratios, pair by pair, such as of two rates in the same turn."""
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


def make(columns: Mapping[str, str], rows: Iterable[Sequence[Any]]) -> dict[str, Any]:
    """Returns a table for a record: the format of each column by its heading, and the rows."""
    return {"columns": dict(columns), "rows": [list(row) for row in rows]}


def figures(title: str, about: str, *tables: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Returns the figures of a measurement that is a page of its own: what they are, and tables."""
    return {"title": title, "about": about, "tables": list(tables), **more}


def cells(record: Mapping[str, Any], table: int = 0) -> list[dict[str, Any]]:
    """Returns the rows of a measurement's table as mappings from headings to cells."""
    found = record["figures"]["tables"][table]
    return [dict(zip(found["columns"], row, strict=True)) for row in found["rows"]]


def text(cell: Any, form: str) -> str:
    """Returns a cell in words: "524 (475 to 572)" for a spread."""
    if cell is None or isinstance(cell, str):
        return cell or ""
    if isinstance(cell, Mapping) and "error" in cell:
        return f"{cell['value']:{form}} ± {cell['error']:{form}}"
    if isinstance(cell, Mapping):
        median, least, most = (format(cell[key], form) for key in ("median", "least", "most"))
        return median if cell["least"] == cell["most"] else f"{median} ({least} to {most})"
    return format(cell, form)


def lines(table: Mapping[str, Any]) -> list[str]:
    """Returns the lines of a table in Markdown."""
    forms = table["columns"].values()
    rule = "".join("---:|" if form else "---|" for form in forms)
    rows = (map(text, row, forms) for row in table["rows"])
    return [row(table["columns"]), f"|{rule}", *map(row, rows)]


def row(cells: Iterable[str]) -> str:
    """Returns one line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def page(record: Mapping[str, Any]) -> str:
    """Returns a measurement in Markdown: what it is, where and when, the command, its tables."""
    found = record["figures"]
    intro = f"{found['about']} {circumstances(record)}"
    blocks = [[intro], [f"    {record['command']}"], *map(lines, found["tables"])]
    return "\n\n".join("\n".join(block) for block in blocks)


def circumstances(record: Mapping[str, Any]) -> str:
    """Returns n, hardware, versions and date of a measurement, as the end of a paragraph.

    It says if the figures were copied from the page that the command wrote at that time.
    """
    versions = [f"{k} {v}" for k, v in record["versions"].items() if k not in _LIBRARIES]
    facts = [f"n = {record['n']}", hardware(record["hardware"]), ", ".join(versions)]
    facts += [record["date"], "copied from the page" if "transcribed" in record else ""]
    return f"{'; '.join(filter(None, facts))}."


def accuracy(fraction: float, n: int) -> dict[str, float]:
    """Returns the cell of an accuracy on n images in percent, ± one standard error."""
    return {"value": 100 * fraction, "error": 100 * math.sqrt(fraction * (1 - fraction) / n)}


def hardware(devices: Mapping[str, Any]) -> str:
    """Returns the devices in words, from a record or a config.json."""
    processes = f" in {devices['processes']} processes" if devices["processes"] > 1 else ""
    instructions = f" with {devices['instructions']}" if "instructions" in devices else ""
    return f"{devices['count']} x {devices['kind']}{instructions}{processes}"


def duration(seconds: float) -> str:
    """Returns seconds in words: "48 s", "3 min 35 s", "2 h 20 min"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    whole = datetime.timedelta(seconds=round(seconds))
    minutes, rest = divmod(whole.seconds + 86_400 * whole.days, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def command(module: str) -> str:
    """Returns the command line of this process, which runs `module`, without folders."""
    return f"python -m benchmarks.{module} {portable(sys.argv[1:])}".rstrip()


def portable(arguments: Sequence[str]) -> str:
    """Returns the arguments of a command as a page shows them, without this machine's folders."""
    line = shlex.join(each for each in arguments if not each.startswith("--results="))
    for flag, placeholder in _PLACEHOLDERS.items():
        line = re.sub(rf"--{flag}[= ]\S+", f"--{flag}={placeholder}", line)
    return hide_folders(line)


def hide_folders(text: str) -> str:
    """Shortens absolute paths to their last part."""
    return re.sub(r"(?<![\w.])/[^\s'\"`:;,]*/", "…/", text)
