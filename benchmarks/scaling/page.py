"""The tables and the picture of the measurements and of the model."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks import table
from benchmarks.scaling.chips import CHIPS, HOST_INPUT, KINDS, chip_network, rows_of_chips, run_on
from benchmarks.scaling.fitting import exchanges, fit, predictions
from benchmarks.scaling.measuring import BATCH, ROWS
from benchmarks.scaling.step_time import Network
from fer_jax.errors import write_atomically

_STEPS = (
    *("network", "batch", "on", "rows of each", "images/s", "of the ideal"),
    *("in collectives", "ms a step", "model, ms", "error"),
)
_PIECES = (
    *("network", "overhead, ms", "µs an image", "collectives", "MB summed"),
    *("input, images/s", "evaluation, images/s", "checkpoint, s"),
)
_CHIPS = (
    *("chips", "limit", "number", "batch", "steps a pass", "images/s"),
    *("of the ideal", "36 passes, s", "in all-reduce", "with evaluation, s"),
)


def make_parts(record: Mapping[str, Any]) -> dict[str, str]:
    """Returns the tables and single figures of the page of a measurement, by name."""
    found = record["figures"]
    networks, machines = fit(found)
    errors = [abs(predicted / min(p["seconds"]) - 1) for p, predicted in predictions(found)]
    collectives = resnet_collectives(found)
    h100 = next(iter(KINDS))
    chip = chip_network(KINDS[h100][0], collectives)
    alone = run_on(h100, 1, 128, collectives)[0]
    links = (
        [
            kind,
            f"{1e6 * link.latency:,.0f}",
            "no limit" if link.rate == math.inf else f"{link.rate / 1e6:,.0f}",
        ]
        for kind, machine in machines.items()
        for link in machine.links
    )
    tables = {
        "steps": (3, _STEPS, _measured(found)),
        "pieces": (1, _PIECES, _pieces(found, networks)),
        "links": (1, ("between", "latency, µs", "MB/s"), links),
        "chips": (2, _CHIPS, rows_of_chips(collectives)),
    }
    lines = {
        name: table.lines(
            table.make({h: "s" if k >= words else "" for k, h in enumerate(heads)}, rows)
        )
        for name, (words, heads, rows) in tables.items()
    }
    return {name: "\n".join(each) for name, each in lines.items()} | {
        "circumstances": f"{table.circumstances(record)}\n\n    {record['command']}",
        "collectives": str(collectives),
        "error": f"{max(errors):.0%}",
        "overhead": f"{1e3 * chip.overhead:.2f}",
        "image": f"{1e6 * chip.image:.0f}",
        "input": f"{HOST_INPUT:,}",
        "alone": f"{sum(alone.values()):.0f}",
    }


def resnet_collectives(found: Mapping[str, Any]) -> int:
    """Returns how many collectives a step of ResNet-18 has; without one, of the last network."""
    return [p["collectives"] for p in found["programs"] if exchanges(p)][-1]


def _pieces(found: Mapping[str, Any], networks: Mapping[str, Network]) -> Iterator[list[str]]:
    for name, network in networks.items():
        pieces = found["pieces"][name]
        yield [
            *(name, f"{1e3 * network.overhead:,.1f}", f"{1e6 * network.image:,.0f}"),
            *(str(network.collectives), f"{network.payload / 1e6:,.2f}"),
            *(f"{pieces[key]:,.0f}" for key in ("input", "evaluation")),
            f"{pieces['save']:.2f}",
        ]


def _measured(found: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yields the rows of the table of measurements."""
    cores = found["cores"]

    def seconds(name: str, devices: int, rows: int) -> float:
        """Returns the least seconds of a step without all-reduce."""
        return next(
            min(p["seconds"])
            for p in found["programs"]
            if (p["network"], p["devices"], p["rows"]) == (name, devices, rows) and not exchanges(p)
        )

    for name in dict.fromkeys(program["network"] for program in found["programs"]):
        for fixed, base in ((f"{ROWS} a device", ROWS), (f"{BATCH} in all", BATCH)):
            one = seconds(name, 1, base)
            start = [name, fixed, "1 device", str(base), f"{base / one:,.0f}", "100%"]
            yield [*start, "", f"{1e3 * one:,.1f}", "", ""]
            for p, predicted in predictions(found):
                batch = p["rows"] * p["devices"]
                if p["network"] != name or batch != (
                    ROWS * p["devices"] if base == ROWS else BATCH
                ):
                    continue
                step = min(p["seconds"])
                ideal = min(p["devices"], cores) * base / one
                collectives = step - seconds(name, p["devices"], p["rows"])
                yield [
                    *(name, fixed, f"{p['devices']} {p['kind']}", str(p["rows"])),
                    *(f"{batch / step:,.0f}", f"{batch / step / ideal:.0%}"),
                    *(f"{max(0.0, collectives) / step:.0%}", f"{1e3 * step:,.1f}"),
                    *(f"{1e3 * predicted:,.1f}", f"{predicted / step - 1:+.0%}"),
                ]


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Draws measured and predicted rates on this machine, and predicted rates of chips."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    from fer_jax.reporting.figures import to_png

    pairs = predictions(found)
    names = list(dict.fromkeys(p["network"] for p, _ in pairs))
    figure = Figure(figsize=(11, 4), layout="constrained")
    here, chips = figure.subplots(1, 2)
    for number, name in enumerate(names):
        for kind, marker in (("devices", "o"), ("processes", "s")):
            of_kind = [
                (p["rows"] * p["devices"] / min(p["seconds"]), p["rows"] * p["devices"] / predicted)
                for p, predicted in pairs
                if (p["network"], p["kind"]) == (name, kind)
            ]
            here.loglog(
                *zip(*of_kind, strict=True), marker, color=f"C{number}", label=f"{name}, {kind}"
            )
    ends = [end(line.get_xdata()) for line in here.lines for end in (min, max)]
    line = [min(ends) / 1.3, max(ends) * 1.3]
    here.loglog(line, line, color="grey", linewidth=1)
    here.fill_between(
        line, [0.8 * x for x in line], [1.2 * x for x in line], color="grey", alpha=0.2
    )
    here.set(xlabel="measured, images/s", ylabel="model, images/s")
    here.set_title(f"This machine: {found['cores']} cores (grey: within 20 %)")
    here.legend(fontsize=8)
    for axis in (here.xaxis, here.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:,.0f}")
        axis.set_minor_locator(NullLocator())
    count = resnet_collectives(found)
    for number, kind in enumerate(KINDS):
        for label, batch_of, style in (
            ("batch 128", lambda n: 128, "--"),
            ("64 a chip", lambda n: 64 * n, "-"),
        ):
            points = []
            for n in [1, 2, 4, *CHIPS[1:]]:
                if batch_of(n) >= n:
                    shares, work = run_on(kind, n, batch_of(n) / n, count)
                    training = sum(shares.values()) - shares["evaluation"]
                    points.append((n, work.passes * work.images / training))
            chips.loglog(
                *zip(*points, strict=True), style, color=f"C{number}", label=f"{kind}, {label}"
            )
    chips.set(xlabel="chips", ylabel="model, images/s")
    chips.set_xticks([1, 8, 64, 256], ["1", "8", "64", "256"], minor=False)
    chips.set_title("configs/resnet.py: one network on many chips")
    chips.set_ylim(top=5 * chips.get_ylim()[1])
    chips.yaxis.set_major_formatter("{x:,.0f}")
    chips.legend(fontsize=8, ncols=2, loc="upper left")
    for axes in (here, chips):
        axes.grid(visible=True, which="major", alpha=0.3)
    write_atomically(path, to_png(figure))
