"""Our side of `benchmarks.speed`: times one network, and prints one line of JSON."""

import functools
import json
import resource
import runpy
import sys
import time
from collections.abc import Callable

import jax
import numpy as np

from fer_jax.cli import set_up_jax
from fer_jax.data.augment import Augmentation
from fer_jax.data.pipeline import training_batches
from fer_jax.data.records import Records
from fer_jax.models import create_model
from fer_jax.training.mesh import create_mesh, supported_dtype, to_devices
from fer_jax.training.optimizer import create_optimizer, create_schedule
from fer_jax.training.prediction import abstract_network
from fer_jax.training.step import FiniteLosses, create_state, make_train_step

IMAGES = 20_000


def main(job: dict) -> None:
    """Times what `job`, of `benchmarks.speed`, asks for."""
    set_up_jax()
    config = runpy.run_path(job["config"])["get_config"]()
    config.optimizer = "adam"  # As the peer.
    size = job["batch_size"]
    mesh = create_mesh(size)
    optimizer = create_optimizer(
        config, create_schedule(config, steps_per_epoch=1_000, total_steps=100_000)
    )
    build = functools.partial(
        create_model, config.model, num_classes=7, dtype=supported_dtype(config.dtype)
    )
    graph, _, _ = abstract_network(build, mesh)
    state = create_state(build, optimizer, None, seed=0, mesh=mesh)
    step = make_train_step(
        graph, optimizer, label_smoothing=0.0, class_weights=np.ones(7, np.float32), mesh=mesh
    )

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (IMAGES, 48, 48, 1), dtype=np.uint8)
    labels = rng.integers(0, 7, IMAGES).astype(np.int32)
    records = Records(labels, [""] * IMAGES, images.__getitem__)
    batches = training_batches(
        records, batch_size=size, seed=0, augmentation=Augmentation.from_config(config)
    )
    batch = to_devices(next(batches), mesh)

    started = time.perf_counter()
    compiled = step.lower(state, batch).compile()
    compile_seconds = time.perf_counter() - started

    def rate(draw: Callable[[], dict]) -> float:
        """Returns images/s over about as long as asked for, after two steps to warm up."""
        nonlocal state
        losses = FiniteLosses()  # Read late, as in training, which bounds how far ahead we get.
        steps, started = -2, 0.0
        while steps < 1 or time.perf_counter() - started < job["seconds"]:
            if steps == 0:
                jax.block_until_ready(state)
                started = time.perf_counter()
            state, loss = compiled(state, draw())
            losses.add(steps, loss)
            steps += 1
        jax.block_until_ready(state)
        return steps * size / (time.perf_counter() - started)

    result = {
        "step": rate(lambda: batch),
        "end_to_end": rate(lambda: to_devices(next(batches), mesh)),
        "compile_seconds": compile_seconds,
        # The analysis is of one device's share.
        "flops_per_image": compiled.cost_analysis()["flops"] * mesh.size / size,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "version": f"fer_jax on jax {jax.__version__}",
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
