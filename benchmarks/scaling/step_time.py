"""A model of the time of a data-parallel training step, and of a run, from measured pieces.

A step computes on each device's rows, then sums gradients and batch statistics over all devices:

    step = max(1, devices / cores) * (overhead + image * rows) + all-reduce

Nothing overlaps. Devices are chips, each with cores of its own, or threads that share `cores`. An
all-reduce over n devices sends 2 (n - 1) / n of its bytes through each device's link, as a ring
does (Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations",
2009), and costs a latency for every collective that waits for the one before it. Between chips the
latency grows with each doubling of their number. On shared cores it is the wait for the slowest
one's turn on a core, which does not.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence


@dataclasses.dataclass(frozen=True)
class Network:
    """A network's step on one device.

    Attributes:
      overhead: seconds of a step that do not depend on its rows.
      image: seconds for each row more.
      collectives: number of collectives of a step, each of which waits for the one before it.
      payload: bytes that they sum over the devices.
    """

    overhead: float
    image: float
    collectives: int
    payload: float

    def compute(self, rows: float) -> float:
        """Returns the seconds of a step on a device that has a core of its own."""
        return self.overhead + self.image * rows


@dataclasses.dataclass(frozen=True)
class Link:
    """A connection between devices.

    Attributes:
      latency: seconds of a collective without bytes; if it `grows`, for each doubling of devices.
      rate: bytes/s that each device sends.
      devices: the largest number of devices that it connects.
      grows: whether the latency grows with the number of devices.
    """

    latency: float
    rate: float
    devices: float = math.inf
    grows: bool = True

    def all_reduce(self, network: Network, devices: int) -> float:
        """Returns the seconds that a step's collectives take over this many devices."""
        if devices == 1:
            return 0.0
        sent = 2 * (devices - 1) / devices * network.payload
        doublings = math.log2(devices) if self.grows else 1
        return network.collectives * self.latency * doublings + sent / self.rate


@dataclasses.dataclass(frozen=True)
class Machine:
    """Devices of one kind.

    Attributes:
      links: from the fastest, which connects few devices, to the one that connects all.
      cores: number of cores that all devices share; infinite if each has its own.
    """

    links: Sequence[Link]
    cores: float = math.inf

    def crowd(self, devices: int) -> float:
        """Returns how many devices share a core."""
        return max(1.0, devices / self.cores)

    def all_reduce(self, network: Network, devices: int) -> float:
        """Returns the seconds of the collectives: first inside groups, then between them.

        Each device of a group exchanges its share of the bytes with those of other groups.
        """
        seconds, inside = 0.0, 1
        for link in self.links:
            count = min(devices, int(min(link.devices, devices))) // inside
            share = dataclasses.replace(network, payload=network.payload / inside)
            seconds += link.all_reduce(share, max(1, count))
            inside *= max(1, count)
        return seconds

    def step(self, network: Network, devices: int, rows: float) -> float:
        """Returns the seconds of a step with this many rows on each device."""
        return self.crowd(devices) * network.compute(rows) + self.all_reduce(network, devices)


@dataclasses.dataclass(frozen=True)
class Work:
    """The work of a run besides its steps.

    Attributes:
      images: number of training images.
      passes: number of passes over them.
      evaluated: images evaluated after each pass, counted once for each view.
      evaluation: seconds to evaluate one of them on one device.
      save: seconds that the devices wait for a checkpoint after each pass.
      input: images/s that each host reads and augments; infinite if the devices do it.
      devices_per_host: number of devices that share a host's input.
    """

    images: int
    passes: int
    evaluated: int
    evaluation: float
    save: float
    input: float = math.inf
    devices_per_host: int = 8

    def shares(
        self, machine: Machine, network: Network, devices: int, rows: float
    ) -> Mapping[str, float]:
        """Returns the seconds of a run by what they go into: the largest is the limit.

        `input` is what the step waits for it; `evaluation` has the checkpoints as well.
        """
        steps = self.passes * self.images / (rows * devices)
        compute = steps * machine.crowd(devices) * network.compute(rows)
        collectives = steps * machine.all_reduce(network, devices)
        hosts = math.ceil(devices / self.devices_per_host)
        reading = self.passes * self.images / (hosts * self.input)
        batches = math.ceil(self.evaluated / devices)
        return {
            "compute": compute,
            "all-reduce": collectives,
            "input": max(0.0, reading - compute - collectives),
            "evaluation": self.passes * (batches * self.evaluation + self.save),
        }


def fit_line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Returns overhead and slope of seconds by rows, with the least sum of relative squares.

    Neither is negative.
    """
    weights = [1 / y**2 for _, y in points]
    total = sum(weights)
    x_mean = sum(w * x for w, (x, _) in zip(weights, points, strict=True)) / total
    y_mean = sum(w * y for w, (_, y) in zip(weights, points, strict=True)) / total
    above = sum(w * (x - x_mean) * (y - y_mean) for w, (x, y) in zip(weights, points, strict=True))
    slope = above / sum(w * (x - x_mean) ** 2 for w, (x, _) in zip(weights, points, strict=True))
    if y_mean < slope * x_mean:  # a line through zero
        slope = sum(x / y for x, y in points) / sum((x / y) ** 2 for x, y in points)
        return 0.0, slope
    return y_mean - slope * x_mean, slope


def fit_link(rows: Sequence[tuple[Network, int, float, float]]) -> Link:
    """Returns the link of collectives measured on shared cores, with the least sum of squares.

    Args:
      rows: network, devices, seconds of the collectives, and seconds of the step, which an error is
        relative to.
    """
    waits, sends, wanted = [], [], []
    for network, devices, seconds, step in rows:
        waits.append(Link(1.0, math.inf, grows=False).all_reduce(network, devices) / step)
        sends.append(Link(0.0, 1.0).all_reduce(network, devices) / step)
        wanted.append(seconds / step)

    def dot(a: Sequence[float], b: Sequence[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))

    ww, ws, ss = dot(waits, waits), dot(waits, sends), dot(sends, sends)
    wy, sy = dot(waits, wanted), dot(sends, wanted)
    both = ww * ss - ws**2
    # Neither can be negative: the best of both together, latency alone and rate alone.
    choices = [(wy / ww, 0.0), (0.0, sy / ss), (0.0, 0.0)]
    if both > 1e-12 * ww * ss:
        choices.append(((ss * wy - ws * sy) / both, (ww * sy - ws * wy) / both))

    def error(choice: tuple[float, float]) -> float:
        latency, inverse = choice
        terms = zip(waits, sends, wanted, strict=True)
        return sum((w * latency + s * inverse - y) ** 2 for w, s, y in terms)

    latency, inverse = min((pair for pair in choices if min(pair) >= 0), key=error)
    return Link(latency, 1 / inverse if inverse else math.inf, grows=False)
