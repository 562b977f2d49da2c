"""Fits the model of a step's time to measured steps."""

from collections.abc import Mapping
from typing import Any

from benchmarks.scaling.step_time import Machine, Network, fit_line, fit_link


def fit(found: Mapping[str, Any]) -> tuple[dict[str, Network], dict[str, Machine]]:
    """Returns the networks by name and the machines by kind of group, fitted to the numbers.

    Overhead and time per image are fitted to the steps without all-reduce. Latency and rate of a
    link are fitted to what the steps with all-reduce take longer than that.
    """
    cores = found["cores"]
    networks, machines = {}, {}
    for name in dict.fromkeys(program["network"] for program in found["programs"]):
        alone = [
            (program["rows"], min(program["seconds"]) / max(1, program["devices"] / cores))
            for program in found["programs"]
            if program["network"] == name and not exchanges(program)
        ]
        summed = next(p for p in found["programs"] if p["network"] == name and exchanges(p))
        networks[name] = Network(*fit_line(alone), summed["collectives"], summed["payload"])
    for kind in ("devices", "processes"):
        rows = []
        for program in found["programs"]:
            if program["kind"] == kind and exchanges(program):
                crowd = max(1, program["devices"] / cores)
                step, network = min(program["seconds"]), networks[program["network"]]
                collectives = step - crowd * network.compute(program["rows"])
                rows.append((network, program["devices"], collectives, step))
        machines[kind] = Machine((fit_link(rows),), cores)
    return networks, machines


def exchanges(program: Mapping[str, Any]) -> bool:
    """Whether a program's devices exchange gradients."""
    return program["devices"] > 1 and program["members"] == 1


def predictions(found: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], float]]:
    """Returns each program whose devices exchange gradients, and the model's seconds of a step."""
    networks, machines = fit(found)
    return [
        (p, machines[p["kind"]].step(networks[p["network"]], p["devices"], p["rows"]))
        for p in found["programs"]
        if exchanges(p)
    ]
