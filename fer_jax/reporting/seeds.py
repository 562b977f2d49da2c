"""How far runs that differ in nothing but their seed lie apart."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.contract import write_atomically
from fer_jax.reporting.predictions import evaluation_dir


def write_members(workdir: Path, split: str, reports: Sequence[Mapping[str, Any]]) -> str:
    """Writes `eval/<split>/members.json` into an ensemble's workdir, and says it in a line.

    It holds each member's `accuracy` on the split; and their number `n`, `mean` and standard
    deviation `sd`, of the population that the members are a sample of.

    Args:
      workdir: of the ensemble.
      split: that the reports are of.
      reports: of two members or more, as in report.json.
    """
    accuracies = [report["accuracy"] for report in reports]
    facts = {
        "n": len(accuracies),
        "mean": statistics.mean(accuracies),
        "sd": statistics.stdev(accuracies),
        "accuracy": accuracies,
    }
    path = evaluation_dir(workdir, split) / "members.json"
    write_atomically(path, json.dumps(facts, indent=2) + "\n")
    return (
        f"{facts['n']} members: accuracy {100 * facts['mean']:.2f} ± {100 * facts['sd']:.2f} % "
        f"(mean ± standard deviation), {100 * min(accuracies):.2f} to {100 * max(accuracies):.2f} %"
    )
