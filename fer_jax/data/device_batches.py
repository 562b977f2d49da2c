"""Training batches drawn on the devices, from images that are kept there.

Order and augmentation follow from the seed and the step number, so there is no input position to
save.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Int, UInt8

from fer_jax.data.augment import Augmentation, Kind, augment
from fer_jax.data.records import Records

Batch = dict[str, Array]
"""`image`: UInt8[batch, size, size, channels]; `label`: Int32[batch]; of data with votes `votes`:
Float32[batch, classes]."""


def place(
    records: Records, sharding: NamedSharding
) -> tuple[UInt8[Array, "n size size channels"], dict[str, Array]]:
    """Returns all images and answers, see `Records.answers`, on the devices, with this sharding.

    The last record is repeated until the rows divide over the devices.
    """
    devices = sharding.mesh.size
    rows = np.arange(-(-len(records) // devices) * devices).clip(max=len(records) - 1)
    return jax.tree.map(
        lambda array: jax.make_array_from_callback(array.shape, sharding, array.__getitem__),
        (records.read(rows), records.answers(rows)),
    )


def draw_batches(
    seed: Int[Array, ""],
    step: Int[Array, ""],
    images: UInt8[Array, "n size size channels"],
    answers: dict[str, Array],
    *,
    length: int,
    steps: int,
    batch_size: int,
    augmentation: Augmentation,
    kinds: Sequence[Kind] = (),
    kind: Int[Array, ""] | int = 0,
    sharding: NamedSharding | PartitionSpec,
) -> Callable[[Int[Array, ""], Int[Array, ""] | int], Batch]:
    """Returns the function that draws the batches of `steps` steps from `step` on.

    Each pass over the data has every record once, in its own order. A batch may span two passes,
    so that no record is dropped.

    Args:
      seed: seed of order and augmentation.
      step: number of the first step.
      images: all images, see `place`.
      answers: all answers.
      length: number of records, without those repeated at the end.
      steps: number of steps.
      batch_size: rows of a batch.
      augmentation: ranges of the augmentation, which may be arrays if there are `kinds`.
      kinds: kinds of the augmentations of a sweep; empty: that of the ranges.
      kind: number of this augmentation's kind among them.
      sharding: layout of a batch.

    Returns:
      A function from a step's number and its place among the `steps` to its batch.
    """
    order_key, augmentation_key = jax.random.split(jax.random.key(seed))
    first_pass, offset = jnp.divmod(step * batch_size, length)
    passes = 1 + -(-steps * batch_size // length)
    order = jnp.concatenate(
        [
            jax.random.permutation(jax.random.fold_in(order_key, first_pass + k), length)
            for k in range(passes)
        ]
    )

    def way(kind: Kind) -> Callable:
        def apply(wanted: Array, key: Array) -> Array:
            uniforms = jax.random.uniform(key, (batch_size, kind.draws))
            return augment(images[wanted], uniforms, augmentation, kind)

        return apply

    ways = [way(kind) for kind in kinds or [augmentation.kind]]

    def augmented(wanted: Array, key: Array) -> Array:
        return ways[0](wanted, key) if len(ways) == 1 else jax.lax.switch(kind, ways, wanted, key)

    def draw(step: Int[Array, ""], place: Int[Array, ""] | int) -> Batch:
        wanted = jax.lax.dynamic_slice_in_dim(order, offset + place * batch_size, batch_size)
        key = jax.random.fold_in(augmentation_key, step)
        batch = {
            "image": augmented(wanted, key),
            **jax.tree.map(lambda array: array[wanted], answers),
        }
        return jax.lax.with_sharding_constraint(batch, sharding)

    return draw
