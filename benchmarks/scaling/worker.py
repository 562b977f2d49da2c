"""One process of `benchmarks.scaling`: takes the steps that it is told to, and says how long.

It prints facts about its programs, then one line of JSON for each line that it reads.
"""

import functools
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax._src import distributed
from ml_collections import ConfigDict

from benchmarks import record
from benchmarks.speed.training import Training, Way, random_records
from fer_jax import cli
from fer_jax.config import load_config
from fer_jax.data.augment import Augmentation
from fer_jax.data.host_batches import training_batches
from fer_jax.training.checkpoints import CheckpointWriter

_IMAGES = 2_000
_COLLECTIVE = re.compile(r"= (.*?) all-reduce(?:-start)?\(")
_SHAPE = re.compile(r"([a-z]+)(\d+)\[([\d,]*)\]")


def load(name: str) -> ConfigDict:
    """Returns the config of a network that is timed: a config's name, perhaps with a width."""
    name, _, width = name.partition("/width ")
    config = load_config(f"published/{name}" if name.endswith("_cnn") else name)
    if width:
        config.model.width = int(width)
    config.dtype = "float32"
    return config


def main(job: Mapping[str, Any]) -> None:
    """Compiles the programs of a job, and takes turns."""
    cli.set_up_jax()
    if job["processes"] > 1:
        jax.distributed.initialize(job["address"], job["processes"], job["process"])
    ways, facts = [], []
    for program in job["programs"]:
        training = Training(
            load(program["network"]),
            images=_IMAGES,
            batch_size=program["batch_size"],
            members=program["members"],
        )
        ways.append(Way(training, "host", meet=functools.partial(_meet, job, len(ways))))
        facts.append(_collectives(ways[-1].text()))
    print(json.dumps({"programs": facts, "hardware": record.machine()}), flush=True)
    for line in sys.stdin:
        turn = json.loads(line)
        if "pieces" in turn:
            print(json.dumps(_pieces(turn["pieces"])), flush=True)
        else:
            seconds = ways[turn["program"]].seconds(turn["steps"], repeat=True)
            print(json.dumps(seconds), flush=True)


def _meet(job: Mapping[str, Any], number: int) -> None:
    """Waits until all processes have compiled a program; Gloo waits for only 30 seconds."""
    if job["processes"] > 1:
        client = distributed.global_state.client
        client.wait_at_barrier(f"compiled {number}", 600_000)  # milliseconds


def _collectives(text: str) -> dict[str, int]:
    """Returns the number of all-reduces in a program, and the bytes that they sum."""
    found = [shapes for line in text.splitlines() for shapes in _COLLECTIVE.findall(line)]
    total = 0
    for _, bits, sizes in _SHAPE.findall(" ".join(found)):
        total += int(bits) // 8 * int(np.prod([int(size) for size in sizes.split(",") if size]))
    return {"collectives": len(found), "payload": total}


def _pieces(name: str) -> dict[str, float]:
    """Times what a run does besides steps: input, evaluation and checkpoints."""
    config = load(name)
    records = random_records(_IMAGES)
    stream = training_batches(
        records, batch_size=64, seed=0, augmentation=Augmentation.from_config(config)
    )
    next(stream)
    started = time.perf_counter()
    for _ in range(30):
        next(stream)
    read = 30 * 64 / (time.perf_counter() - started)
    training = Training(config, images=_IMAGES, batch_size=64)
    evaluated = training.evaluation_rate(records.read(np.arange(512)), config.views)
    with tempfile.TemporaryDirectory() as folder:
        writer = CheckpointWriter(Path(folder) / "checkpoints", best_by="val_accuracy", latest=2)
        times = []
        for step in range(4):
            state = training.state.replace(step=jax.numpy.int32(step + 1))
            started = time.perf_counter()
            writer.save(state, {}, {}, {})
            writer.wait()
            times.append(time.perf_counter() - started)
        writer.close()
    return {"input": read, "evaluation": evaluated, "save": min(times)}


if __name__ == "__main__":
    job = json.loads(sys.argv[1])
    if job["cores"] and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, job["cores"])
    main(job)
