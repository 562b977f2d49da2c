"""Trains on records that are larger than the memory that a run may use. Linux only.

Example:
  python -m benchmarks.large_records --data_dir=DIR

It makes records of a million 48x48 faces as `data_prep` would, unless the folder has them. Then it
trains `small_cnn` by `python -m fer_jax.main` with less `--config.memory_gib` than the images take,
and reads the peak memory of that process. At last it times the step on a fixed batch and on batches
that are read from the disk, in turn, in one process.
"""

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from absl import flags
from PIL import Image

from benchmarks import record, table
from benchmarks.children import failure
from fer_jax import cli
from fer_jax.data.contract import CLASS_NAMES, IMAGE_SIZE, ImageFormat, record_dir

if TYPE_CHECKING:
    from fer_jax.data.augment import Augmentation
    from fer_jax.data.records import Records

_CONFIG = "published/small_cnn"
_SPLITS = ("--config.train_split=train_80", "--config.validation_split=validation_20")
_FACES = 300
"""Faces drawn for each class; the images are mixtures of two of them."""


def make_records(data_dir: Path, images: int) -> None:
    """Writes records with one split, `train`, of this many images, as `data_prep` writes them."""
    # Imported here: the other stages start without it, so that it takes none of their memory.
    from data_prep.builder import write_records
    from data_prep.checking import check, fingerprints
    from data_prep.description import Description
    from data_prep.store import open_store

    data_dir.mkdir(parents=True, exist_ok=True)
    with open_store(data_dir) as store:
        records, _ = check(_candidates(images), ImageFormat(), store, resize=False)
        metadata = {"source": "mixed", "images": images, "quarantined": 0, **fingerprints(records)}
        write_records(data_dir, records, Description(), metadata, show_progress=False)


def _candidates(images: int) -> Iterator:
    from data_prep.candidates import Candidate

    for number, (label, pixels) in enumerate(itertools.islice(_mixtures(), images)):
        name = CLASS_NAMES[label]
        yield Candidate(
            f"train/{name}/{number:07d}.png", "train", name, partial(Image.fromarray, pixels)
        )


def _mixtures(at_once: int = 1_000) -> Iterator[tuple[int, np.ndarray]]:
    """Yields labels and images, UInt8[48, 48], each a mixture of two shifted faces of a class."""
    from data_prep.sample import render

    rng = np.random.default_rng(0)
    generators = [np.random.default_rng((0, k)) for k in range(_FACES)]
    faces = np.stack([render([k] * _FACES, generators) for k in range(len(CLASS_NAMES))])
    place = np.arange(IMAGE_SIZE)

    def shifted(labels: np.ndarray) -> np.ndarray:
        chosen = faces[labels, rng.integers(0, _FACES, len(labels))]
        down, right = ((place + rng.integers(-3, 4, (len(labels), 1))) % 48 for _ in range(2))
        return chosen[np.arange(len(labels))[:, None, None], down[:, :, None], right[:, None, :]]

    while True:
        labels = rng.integers(0, len(CLASS_NAMES), at_once)
        share = rng.integers(64, 193, (at_once, 1, 1), np.uint16)
        mixed = (share * shifted(labels) + (256 - share) * shifted(labels)) >> 8
        yield from zip(labels.tolist(), mixed.astype(np.uint8), strict=True)


class Measured(NamedTuple):
    """A child process: its seconds, its peak of resident MiB, and the last line that it printed."""

    seconds: float
    peak_mib: float
    last_line: str


def define_flags() -> None:
    """Defines --data_dir and the other flags."""
    cli.define_path("data_dir", "Folder of the records; they are made if missing.", required=True)
    flags.DEFINE_integer("images", 1_000_000, "Number of images to make.", lower_bound=100)
    flags.DEFINE_integer("batch_size", 64, "Images in a batch.", lower_bound=1)
    flags.DEFINE_integer("steps", 100, "Steps of the run.", lower_bound=1)
    flags.DEFINE_integer("rounds", 5, "Number of timings of each kind.", lower_bound=1)
    flags.DEFINE_float("seconds", 5.0, "Length of each timing.")
    flags.DEFINE_float("memory_gib", 1.0, "The run's --config.memory_gib.")
    record.define_flags()
    flags.DEFINE_enum("stage", "", ["", "make", "open", "rates"], "One stage alone, for a child.")


def main(arguments: Sequence[str]) -> None:
    """Runs all stages, and prints and records the tables; or runs one stage."""
    cli.refuse_arguments(arguments)
    options = flags.FLAGS
    if options.stage == "make":
        make_records(options.data_dir, options.images)
    elif options.stage == "open":
        _open()
    elif options.stage == "rates":
        _time_rates()
    else:
        print(table.page(_measure()))


def _measure() -> dict[str, Any]:
    options = flags.FLAGS
    rows: list[list[Any]] = []
    if not record_dir(options.data_dir).exists():
        made = _stage("make")
        rows.append(["make the records", made.seconds, made.peak_mib])
    opened = _stage("open")
    facts = json.loads(opened.last_line)
    rows.append(["open them", facts["seconds"], opened.peak_mib])
    with tempfile.TemporaryDirectory() as folder:
        trained = _run(
            *("-m", "fer_jax.main", f"--config={_CONFIG}", f"--workdir={folder}/run", *_SPLITS),
            *(f"--config.data_dir={options.data_dir}", f"--config.memory_gib={options.memory_gib}"),
            *("--config.epochs=1", f"--config.steps_per_epoch={options.steps}"),
            f"--config.batch_size={options.batch_size}",
        )
    what = f"train {options.steps} steps, validate on {facts['validation']:,} images, report"
    rows.append([what, trained.seconds, trained.peak_mib])
    timed = _stage("rates")
    rates = json.loads(timed.last_line)
    fixed, drawn = rates["fixed"], rates["drawn"]
    share = statistics.median(a / b for a, b in zip(drawn, fixed, strict=True))
    speeds = [
        ["step on a fixed batch", table.spread(fixed), None],
        ["step on batches that are read", table.spread(drawn), share],
        ["input alone", table.spread(rates["warm"]), None],
        ["input alone, from a cold disk", table.spread(rates["cold"]), None],
    ]
    images = facts["training"] + facts["validation"]
    decoded, stored = (facts[key] / 1e9 for key in ("decoded", "stored"))
    about = (
        f"{images:,} images, {decoded:.1f} GB decoded, {stored:.1f} GB on the disk; "
        f"`{_CONFIG}` in batches of {options.batch_size}, "
        f"`--config.memory_gib={options.memory_gib:g}`. Memory is the peak of resident memory of a "
        f"process of its own. Rates: median of n (least to most), {options.seconds:g} s each; "
        f" the share is the median of neighbouring turns. Unless it "
        "says cold, Linux has the files in its page cache, which is not the process's memory."
    )
    tables = [
        table.make({"what": "", "seconds": ",.1f", "peak MiB": ",.0f"}, rows),
        table.make({"rate": "", "images/s": ",.0f", "of the fixed batch": ".1%"}, speeds),
    ]
    return record.keep(
        "large_records",
        table.figures("Records larger than memory", about, *tables),
        command=table.command("large_records"),
        n=options.rounds,
        hardware=rates["hardware"],
    )


def _stage(name: str) -> Measured:
    """Runs a stage in a process of its own, with this process's flags."""
    return _run("-m", "benchmarks.large_records", *sys.argv[1:], f"--stage={name}")


def _run(*arguments: str) -> Measured:
    """Runs Python in a process of its own.

    Raises:
      UserError: it failed; the message is its last line.
    """
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as errors, tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen([sys.executable, *arguments], stdout=output, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - started
        for file in (errors, output):
            file.seek(0)
        if process.returncode:
            raise failure(" ".join(arguments[:2]), errors.read(), process.returncode)
        last = (output.read().strip().splitlines() or [""])[-1]
    return Measured(seconds, usage.ru_maxrss / 1024, last)


def _open() -> None:
    """Prints, as JSON, how long a data set takes to open, and its sizes."""
    from fer_jax.data.records import open_data_set

    options = flags.FLAGS
    started = time.perf_counter()
    data = open_data_set(options.data_dir)
    parts = [data.load(part, memory_gib=options.memory_gib) for part in data.splits[-2:]]
    seconds = time.perf_counter() - started
    images = sum(data.split_sizes.values())
    stored = sum(path.stat().st_size for path in record_dir(options.data_dir).iterdir())
    training, validation = map(len, parts)
    facts = {"training": training, "validation": validation, "seconds": seconds, "stored": stored}
    print(json.dumps({**facts, "decoded": images * np.prod(data.images.shape).item()}))


def _time_rates() -> None:
    """Prints, as JSON, images/s on a fixed batch and on batches from the disk, in turn."""
    cli.use_huge_pages()
    cli.set_up_jax()
    from benchmarks.speed.training import Training, Way
    from fer_jax.config import load_config
    from fer_jax.data.augment import Augmentation
    from fer_jax.data.records import open_data_set

    options = flags.FLAGS
    records = open_data_set(options.data_dir).load("train_80", memory_gib=options.memory_gib)
    config = load_config(_CONFIG)
    _cache_files(keep=True)
    way = Way(Training(config, images=records, batch_size=options.batch_size), "host")
    rates: dict[str, list[float]] = {"fixed": [], "drawn": [], "warm": [], "cold": []}
    for _ in range(options.rounds):
        rates["fixed"].append(way.rate(options.seconds, repeat=True))
        rates["drawn"].append(way.rate(options.seconds))
    for name in ("warm", "cold"):
        for seed in range(options.rounds):
            _cache_files(keep=name == "warm")
            rates[name].append(_read(records, Augmentation.from_config(config), seed))
    print(json.dumps({**rates, "hardware": record.machine()}))


def _cache_files(*, keep: bool) -> None:
    """Reads the files of the records once, so that Linux keeps them in memory; or drops them."""
    for path in record_dir(flags.FLAGS.data_dir).glob("*.array_record*"):
        with open(path, "rb") as file:
            if keep:
                while file.read(1 << 24):
                    pass
            else:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _read(records: "Records", augmentation: "Augmentation", seed: int) -> float:
    """Returns images/s of the input alone, with nothing to wait for it."""
    from fer_jax.data.host_batches import training_batches

    options = flags.FLAGS
    batches = training_batches(
        records, batch_size=options.batch_size, seed=seed, augmentation=augmentation
    )
    next(batches)
    count, started = 0, time.perf_counter()
    while not count or time.perf_counter() - started < options.seconds:
        next(batches)
        count += 1
    return count * options.batch_size / (time.perf_counter() - started)


if __name__ == "__main__":
    cli.run(main, define_flags)
