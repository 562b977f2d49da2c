"""Predicts a run of configs/resnet.py on many chips, by the model."""

from collections.abc import Iterator

from benchmarks.scaling.step_time import Link, Machine, Network, Work, fit_line
from fer_jax.data.contract import PUBLISHED_COUNTS

_LATEST_BATCH = 1_024
"""Above this a pass over FER-2013 has fewer than 28 steps."""

# ResNet-18 of configs/resnet.py on one H100 in bfloat16, from benchmarks/speed/speed_gpu.md:
# rows of a batch and images/s.
_H100_RATES = ((64, 28_326), (128, 33_872), (512, 40_489))
HOST_INPUT = 9_041  # images/s that one thread of its host augments, from the same page
_H100_FLOPS, _RESNET_BYTES = 989e12, 4 * 11_171_271

# Peak bfloat16 FLOP/s, links and chips of a host. Rates are those of the makers' pages, each way;
# of a TPU, the all-reduce bandwidth of a pod divided by its chips. Latencies are assumed.
KINDS = {
    "H100": (
        _H100_FLOPS,
        Machine((Link(4e-6, 450e9, 8), Link(8e-6, 50e9))),
        8,
    ),
    "TPU v4": (275e12, Machine((Link(4e-6, 268e9),)), 4),
    "TPU v5e": (197e12, Machine((Link(4e-6, 200e9),)), 8),
}
CHIPS = (1, 8, 16, 32, 64, 128, 256)


def chip_network(flops: float, collectives: int) -> Network:
    """Returns ResNet-18 on a chip: an H100's measured overhead, and its share of the peak."""
    overhead, image = fit_line([(rows, rows / rate) for rows, rate in _H100_RATES])
    return Network(overhead, image * _H100_FLOPS / flops, collectives, _RESNET_BYTES)


def run_on(kind: str, chips: int, rows: float, collectives: int) -> tuple[dict[str, float], Work]:
    """Returns the seconds of a run of configs/resnet.py by what they go into, and its work."""
    flops, machine, on_host = KINDS[kind]
    network = chip_network(flops, collectives)
    work = Work(
        images=sum(PUBLISHED_COUNTS["train"]),
        passes=36,
        evaluated=2 * sum(PUBLISHED_COUNTS["public_test"]),  # an image and its mirror image
        evaluation=network.image / 3,
        save=0.2,
        devices_per_host=on_host,
    )
    shares = dict(work.shares(machine, network, chips, rows))
    overhead = work.passes * work.images / (rows * chips) * network.overhead
    shares["compute"] -= overhead
    return {"overhead of steps": overhead, **shares}, work


def rows_of_chips(collectives: int) -> Iterator[list[str]]:
    """Yields the rows of the table of chips."""
    for kind in KINDS:
        alone = run_on(kind, 1, 128, collectives)[0]
        rate_of_one = 1 / (sum(alone.values()) - alone["evaluation"])
        for chips in CHIPS:
            for batch in sorted({128, 64 * chips} if chips > 1 else {128}):
                if batch < chips:
                    continue
                shares, work = run_on(kind, chips, batch / chips, collectives)
                training = sum(shares.values()) - shares["evaluation"]
                limit = max(shares, key=lambda name: shares[name])
                limit = limit.replace("evaluation", "evaluation and saving")
                if batch > _LATEST_BATCH:
                    limit = f"batch; then {limit}"
                yield [
                    *(kind, limit, str(chips), f"{batch:,}", f"{work.images / batch:,.0f}"),
                    f"{work.passes * work.images / training:,.0f}",
                    f"{1 / training / rate_of_one / chips:.0%}",
                    f"{training:,.1f}",
                    f"{shares['all-reduce'] / training:.0%}",
                    f"{sum(shares.values()):,.1f}",
                ]
