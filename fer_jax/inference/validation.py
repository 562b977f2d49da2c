"""Predictions of the validation split, by programs that are compiled while other work goes on."""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Float

from fer_jax.data.contract import ImageFormat
from fer_jax.data.records import Records
from fer_jax.inference.probabilities import compile_for_records, make_predict, predict_records
from fer_jax.models.functional import Graph


class Validation:
    """Predicts the validation split; a context manager, which ends when nothing compiles."""

    def __init__(
        self,
        graph: Graph,
        network: tuple[nnx.State, nnx.State],
        records: Records,
        images: ImageFormat,
        *,
        batch_size: int,
        mesh: Mesh,
    ):
        """Keeps what its programs need.

        Args:
          graph: structure of the network.
          network: its parameters and statistics, without values.
          records: the validation split.
          images: format of its images.
          batch_size: largest number of images in a batch.
          mesh: devices that share a batch.
        """
        self._graph, self._network, self._mesh = graph, network, mesh
        self._records, self._images, self._batch_size = records, images, batch_size
        self._background = ThreadPoolExecutor(1, thread_name_prefix="compilation")

    def __enter__(self) -> "Validation":
        return self

    def __exit__(self, *_: object) -> None:
        self._background.shutdown(cancel_futures=True)

    def through(self, views: str) -> "Predict":
        """Begins to compile the program for these views, a key of `VIEWS`, and returns it."""

        def compile() -> jax.stages.Compiled:
            return compile_for_records(
                make_predict(self._graph, self._mesh, views),
                *(self._network, len(self._records), self._images),
                batch_size=self._batch_size,
                mesh=self._mesh,
            )

        program = self._background.submit(compile)
        if jax.process_count() > 1:
            program.result()  # Processes compile their programs in the same order.
        return Predict(program, self._records, self._batch_size, self._mesh)


class Predict:
    """Function from a network to its probabilities for the records, on every process."""

    def __init__(
        self,
        program: "Future[jax.stages.Compiled]",
        records: Records,
        batch_size: int,
        mesh: Mesh,
    ):
        self._program, self._records = program, records
        self._batch_size, self._mesh = batch_size, mesh

    def wait(self) -> None:
        """Blocks until the program is compiled."""
        self._program.result()

    def __call__(self, params: nnx.State, statistics: nnx.State) -> Float[np.ndarray, "n classes"]:
        """Returns the probabilities that a network predicts."""
        predicted: Any = predict_records(
            self._program.result(),
            *(params, statistics, self._records),
            batch_size=self._batch_size,
            mesh=self._mesh,
        )
        return predicted
