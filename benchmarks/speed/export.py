"""Times onnxruntime on exported networks beside the jitted networks, in turn, on a CPU.

Example:
  python -m benchmarks.speed.export

Each config's network has random weights, which take as long as trained ones. Both sides get the
same images, compute in float32 and use all cores.
"""

import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks import record, table
from fer_jax import cli

_COLUMNS = {
    **{"network": "", "batch": ",", "jax, ms": ",.1f", "onnxruntime, ms": ",.1f", "ratio": ".2f"},
    **{"jax, CPU ms": ",.1f", "onnxruntime, CPU ms": ",.1f", "ratio of CPU ms": ".2f"},
}


def main(arguments: Sequence[str]) -> None:
    """Times each network at each batch size; prints and records the table."""
    cli.refuse_arguments(arguments)
    cli.set_up_jax()
    import jax
    import onnxruntime

    options = flags.FLAGS
    rows: list[list[Any]] = []
    for config in options.configs:
        for batch, jitted, exported in _time_network(
            config, [int(batch) for batch in options.batches], options.turns
        ):
            row = [Path(config).stem, batch]
            for theirs, ours in zip(jitted, exported, strict=True):
                row += [table.spread(theirs), table.spread(ours), min(theirs) / min(ours)]
            rows.append(row)
    about = (
        "Milliseconds a batch, by the clock and of all cores: median of n turns (least to most). A "
        "ratio above 1 means that onnxruntime takes less than the jitted network, by the least "
        "times. onnxruntime's threads do not spin while they wait."
    )
    found = record.keep(
        "export",
        table.figures("Exported networks on a CPU", about, table.make(_COLUMNS, rows)),
        command=table.command("speed.export"),
        n=options.turns,
        versions={"jax": jax.__version__, "onnxruntime": onnxruntime.__version__},
    )
    print(table.page(found))


Times = tuple[list[float], list[float]]
"""Milliseconds of each turn, by the clock and of all cores."""


def _time_network(name: str, batches: Sequence[int], turns: int) -> list[tuple[int, Times, Times]]:
    """Returns for each batch size the times of JAX and of onnxruntime."""
    import jax
    import numpy as np
    import onnxruntime
    from flax import nnx

    from fer_jax.config import load_config
    from fer_jax.data.contract import CLASS_NAMES, ImageFormat
    from fer_jax.devices import create_mesh, replicated
    from fer_jax.exporting.onnx import export_onnx
    from fer_jax.inference.probabilities import make_predict
    from fer_jax.inference.trained import TrainedModel
    from fer_jax.models import create_model
    from fer_jax.models.functional import split

    config = load_config(name)
    classes = tuple(config.classes or CLASS_NAMES)
    build = functools.partial(create_model, config.model, num_classes=len(classes), dtype="float32")
    graph, params, statistics = split(jax.jit(build)(rngs=nnx.Rngs(0)))
    model = TrainedModel(
        config=config,
        classes=classes,
        images=ImageFormat(),
        steps=[0],
        views="one",
        temperature=1.0,
        graph=graph,
        mesh=create_mesh(1),
        networks=[(params, statistics)],
    )
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(export_onnx(model), options, providers=providers)
    results = []
    for batch in batches:
        images = np.random.default_rng(0).integers(0, 256, (batch, 48, 48, 1), np.uint8)
        # As many devices as the batch divides over, as the predictor has them.
        mesh = create_mesh(batch)
        predict = make_predict(graph, mesh)
        states = jax.device_put((params, statistics), replicated(mesh))

        def jitted(predict=predict, states=states, images=images):
            return np.asarray(predict(*states, images))

        def exported(images=images):
            return session.run(None, {"images": images})

        results.append((batch, *_take_turns([jitted, exported], turns)))
    return results


def _take_turns(functions: Sequence[Callable[[], object]], turns: int) -> list[Times]:
    """Returns the times of each function in each turn, after one that does not count."""
    times: list[Times] = [([], []) for _ in functions]
    for turn in range(turns + 1):
        for function, (clock, cores) in zip(functions, times, strict=True):
            start, used = time.perf_counter(), time.process_time()
            function()
            if turn:
                clock.append(1e3 * (time.perf_counter() - start))
                cores.append(1e3 * (time.process_time() - used))
    return times


def define_flags() -> None:
    """Defines --configs and the other flags."""
    configs = ["published/small_cnn", "cnn", "resnet_cpu", "resnet", "densenet", "efficientnet"]
    flags.DEFINE_list("configs", [*configs, "convnext"], "Configs of the networks.")
    flags.DEFINE_list("batches", ["1", "64"], "Images in a batch.")
    flags.DEFINE_integer("turns", 10, "Turns of each side.", lower_bound=1)
    record.define_flags()


if __name__ == "__main__":
    cli.run(main, define_flags)
