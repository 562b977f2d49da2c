"""The contents of each marked part of a page, by its name."""

import functools
import re
from collections.abc import Callable
from pathlib import Path

from benchmarks import record, table
from benchmarks.scaling.page import make_parts
from benchmarks.tables import accuracy, speed
from fer_jax.config import suggest
from fer_jax.errors import UserError

CONTENTS: dict[str, Callable[[Path], str]] = {
    "accuracy/readme": accuracy.readme,
    "accuracy/ours": accuracy.ours,
    "accuracy/published": accuracy.published,
    "accuracy/teachers": accuracy.teachers,
    "accuracy/views": accuracy.views,
    "accuracy/systems": accuracy.systems,
    "accuracy/ready": functools.partial(accuracy.one, "ready"),
    "accuracy/classes": functools.partial(accuracy.classes, "ready"),
    "speed/cpu": functools.partial(speed.cpu, "2_amd_epyc_avx512"),
    "speed/to_accuracy": functools.partial(speed.to_accuracy, "small_cnn_55-2_amd_epyc_avx512"),
    "speed/gpu": functools.partial(speed.gpu, "nvidia_h100"),
    "speed/gpu_ours": functools.partial(speed.gpu_rate, "nvidia_h100", ours=True),
    "speed/gpu_peer": functools.partial(speed.gpu_rate, "nvidia_h100", ours=False),
}
"""Parts of several measurements, or of some of their figures."""


def make(name: str, results: Path) -> str:
    """Returns the text of a part: of `CONTENTS`, of all measurements of a kind, or of one of them.

    Args:
      name: a key of `CONTENTS`, a kind such as "growth", or a kind and a name.
      results: folder of the record.

    Raises:
      UserError: there is no such part.
    """
    if name in CONTENTS:
        return CONTENTS[name](results)
    kind, _, one = name.partition("/")
    if kind == "scaling" and (found := record.read(kind, results)):
        parts = make_parts(found[0])
        if one in parts:
            return parts[one]
    found = record.read(kind, results) if record.KINDS.get(kind) == record.PAGE else []
    if found := [each for each in found if not one or each["name"] == one]:
        return "\n\n".join(map(table.page, found))
    if not one and record.KINDS.get(kind) == record.PAGE:
        return "Not measured."
    raise UserError(f"there is no table {name!r}{suggest(name, dict.fromkeys(CONTENTS))}")


def measured(text: str, config: str, results: Path) -> str:
    """Returns a config's file with its lines "Accuracy: ..." and "Time: ..." made anew."""
    accuracy_, time = "not measured", "not measured"
    for best in accuracy.of_config(config, results)[:1]:
        accuracies = accuracy.scores(best, accuracy.SPLIT, "accuracy")
        seeds = f"{len(accuracies)} seed{'s' if len(accuracies) > 1 else ''}"
        accuracy_ = f"{accuracy.mean(accuracies)} % of {accuracy.SPLIT} ({seeds})"
        if took := accuracy.seconds(best):
            together = " for all seeds" if len(accuracies) > 1 else ""
            time = f"{took}{together} on {table.hardware(best['hardware'])}"
    for heading, words in (("Accuracy", accuracy_), ("Time", time)):
        text = re.sub(rf"^{heading}: .*\.$", f"{heading}: {words}.", text, flags=re.MULTILINE)
    return text
