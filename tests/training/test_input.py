"""Both inputs and the programs they feed: batches, resumption, members beside single runs."""

import dataclasses
import functools
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import AxisType

from fer_jax.data.augment import Augmentation
from fer_jax.data.records import Records
from fer_jax.devices import create_mesh
from fer_jax.models import create_model
from fer_jax.models.functional import abstract_network
from fer_jax.training.ensemble import Members
from fer_jax.training.input import INPUTS, choose_input
from fer_jax.training.programs import (
    MOST_OPERATIONS,
    Programs,
    count_operations,
    steps_per_call,
)
from fer_jax.training.step import create_state, make_train_step

IMAGES, BATCH = 90, 16


@pytest.fixture
def records() -> Records:
    return make_records()


def make_records() -> Records:
    """Returns images whose grey level is their number, plus a ramp from left to right, up to 12."""
    numbers = np.arange(IMAGES, dtype=np.uint8)[:, None, None, None]
    images = np.broadcast_to(2 * numbers, (IMAGES, 48, 48, 1)) + np.arange(48)[:, None] // 4
    labels = np.arange(IMAGES, dtype=np.int32) % 7
    return Records(labels, [""] * IMAGES, images.astype(np.uint8).__getitem__)


def two_devices_for_each(members, *, vectorize=None):
    axes, types = ("member", "data"), 2 * (AxisType.Auto,)
    devices = jax.devices()[: 2 * members]
    mesh = jax.make_mesh((members, 2), axes, types, devices=devices)
    return Members(members, mesh, vectorize=vectorize)


def watched(source, records, *, steps, seed=0, **augmentation):
    """Returns all batches of an input, recorded by a step that does nothing else.

    Each image is represented by one row, UInt8[48], because all its rows are equal.
    """

    def step(state, batch):
        wanted = {"row": batch["image"][:, 24, :, 0], "label": batch["label"]}
        seen = {
            name: jax.lax.dynamic_update_index_in_dim(state[name], value, state["step"], 0)
            for name, value in wanted.items()
        }
        return _Attributes(step=state.step + 1, **seen), jnp.float32(1.0)

    members = two_devices_for_each(1)
    state = _Attributes(
        step=jnp.int32(0),
        row=jnp.zeros((steps, BATCH, 48), jnp.uint8),
        label=jnp.zeros((steps, BATCH), jnp.int32),
    )
    state = jax.device_put(state, members.state_sharding)
    batches = INPUTS[source](
        records,
        batch_size=BATCH,
        seeds=[seed],
        augmentation=Augmentation(**augmentation),
        members=members,
    )
    programs = Programs(step, state, batches, members)
    taken = 0
    while taken < steps:
        state, losses, count = programs.advance(state, steps - taken)
        assert losses.tolist() == [1.0] * count
        taken += count
    return np.asarray(state.row).reshape(-1, 48), np.asarray(state.label).reshape(-1)


@jax.tree_util.register_pytree_with_keys_class
class _Attributes(dict):
    """A state with any fields."""

    __getattr__ = dict.__getitem__

    def tree_flatten_with_keys(self):
        keys = sorted(self)
        return [(jax.tree_util.DictKey(key), self[key]) for key in keys], tuple(keys)

    @classmethod
    def tree_unflatten(cls, keys, leaves):
        return cls(zip(keys, leaves, strict=True))


@pytest.mark.parametrize("source", INPUTS)
def test_each_pass_has_every_record_once_in_its_own_order(source, records):
    rows, labels = watched(source, records, steps=45)
    numbers = rows[:, 0] // 2
    np.testing.assert_array_equal(labels, numbers % 7)
    passes = numbers.reshape(-1, IMAGES)
    assert len(passes) == 8
    for one_pass in passes:
        assert sorted(one_pass) == list(range(IMAGES))
    assert len({tuple(one_pass) for one_pass in passes}) == 8


@pytest.mark.parametrize("source", INPUTS)
def test_the_seed_decides(source, records):
    one, same, other = (
        watched(source, records, steps=3, seed=seed, shift=0.1, flip=True)[0] for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_both_inputs_augment_alike(records):
    """Compares means and spreads of the shifts, and the shares of mirrored images."""
    facts = []
    for source in INPUTS:
        rows, _ = watched(source, records, steps=180, shift=0.25, flip=True)
        mirrored = rows[:, 47] < rows[:, 0]
        # A shifted ramp repeats its edge: count the columns that equal the first or the last.
        edge = (rows == rows[:, :1]).sum(axis=1)
        facts.append((mirrored.mean(), edge.mean(), edge.std()))
    # With 2,880 images the standard error is 0.01 for the share and 0.1 columns for the mean.
    np.testing.assert_allclose(facts[0][0], 0.5, atol=0.04)
    np.testing.assert_allclose(facts[1][0], 0.5, atol=0.04)
    np.testing.assert_allclose(facts[0][1:], facts[1][1:], atol=0.5)


SHIFT_AND_FLIP = Augmentation(shift=0.1, flip=True)
ROTATION = Augmentation(shift=0.05, rotation=20.0, erasing=0.5)


def trained(
    build,
    records,
    *,
    source,
    steps,
    seeds,
    rates=(),
    augmentation=SHIFT_AND_FLIP,
    members=None,
    vectorize=None,
    **options,
):
    """Returns each member's state, and its losses."""
    members = members or two_devices_for_each(len(seeds), vectorize=vectorize)
    graph, _, _ = abstract_network(build, members.mesh)
    # Not Adam, which would amplify the rounding errors of gradients that are nearly zero.
    optimizer = optax.sgd(0.01, momentum=0.9)
    state = create_state(build, optimizer, None, members=members, seeds=seeds, rate_scales=rates)
    step = make_train_step(graph, optimizer, class_weights=np.ones(7, np.float32))
    batches = INPUTS[source](
        records,
        batch_size=BATCH,
        seeds=seeds,
        augmentation=augmentation,
        members=members,
    )
    programs = Programs(step, state, batches, members, **options)
    losses, taken = [], 0
    while taken < steps:
        state, latest, count = programs.advance(state, steps - taken)
        losses.append(np.asarray(latest).reshape(len(seeds), count))
        taken += count
    return [members.pick(state, k) for k in range(len(seeds))], np.concatenate(losses, axis=1)


def test_operations_of_a_loop_count_at_each_turn():
    def step(x, y):
        return jnp.sin(jnp.cos(x)) + y, None

    def loop(x):
        x, _ = jax.lax.scan(jax.jit(step), x, jnp.arange(5.0))
        return jnp.exp(x)

    assert (
        count_operations(jax.make_jaxpr(loop)(jnp.float32(1)).jaxpr) == 5 * 3 + 1 + 1
    )  # And arange's.


def test_large_steps_share_a_call_with_fewer_others(build, records, monkeypatch):
    """On a GPU, whose graph of all steps in a call must not grow too large."""
    assert steps_per_call(10**9) == 1  # On a CPU.
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert [steps_per_call(MOST_OPERATIONS // n) for n in (1000, 32, 31, 16, 3, 1)] == [
        *(32, 32, 16, 16, 2, 1),
    ]
    assert steps_per_call(10 * MOST_OPERATIONS) == 1
    taken = []
    monkeypatch.setattr(Programs, "_compile", lambda self, count: taken.append(count))
    for most in (MOST_OPERATIONS, 5_000):
        monkeypatch.setattr("fer_jax.training.programs.MOST_OPERATIONS", most)
        monkeypatch.setattr(
            Programs, "advance", lambda self, state, most: (state, np.zeros(most), most)
        )
        trained(build, records, source="device", steps=64, seeds=[0], ahead=64)
    assert taken[0] == 32
    assert taken[1] in (4, 8)  # A step of this network and its batch have some 700 operations.


@pytest.mark.parametrize("source", INPUTS)
def test_many_steps_of_a_call_are_those_steps_one_by_one(source, build, records):
    """Left-over steps, as after a stop within an epoch, are compiled when they come."""
    (one,), by_ones = trained(build, records, source=source, steps=9, seeds=[3], most=1)
    (many,), at_once = trained(build, records, source=source, steps=9, seeds=[3], most=7, ahead=7)
    np.testing.assert_allclose(at_once, by_ones, atol=1e-5)
    assert int(one.step) == int(many.step) == 9


@pytest.mark.parametrize("source", INPUTS)
def test_a_member_is_the_single_run_of_its_seed_rate_and_augmentation(source, build, records):
    """Device input maps members as on a GPU, host input as on a CPU."""
    rates, vectorize = (1.0, 0.1), source == "device"
    augmentations = (SHIFT_AND_FLIP, ROTATION)
    members, losses = trained(
        *(build, records),
        source=source,
        steps=6,
        seeds=[5, 6],
        rates=rates,
        augmentation=augmentations,
        vectorize=vectorize,
    )
    for k, (rate, augmentation) in enumerate(zip(rates, augmentations, strict=True)):
        (alone,), of_alone = trained(
            *(build, records),
            source=source,
            steps=6,
            seeds=[5 + k],
            rates=(rate,),
            augmentation=augmentation,
        )
        np.testing.assert_allclose(losses[k], of_alone[0], atol=2e-5)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
            jax.device_get(members[k].params),
            jax.device_get(alone.params),
        )
    assert np.ptp(losses[:, 0]) > 1e-3


def ensembles():
    """Returns the losses of an ensemble of two from the host, and of three from the devices.

    Two members have two of four devices each, and three share all four.
    """
    network = {"name": "cnn", "layers": (("max_pool", 8), "flatten", ("dense", 8))}
    build = functools.partial(create_model, network, num_classes=7, dtype="float32")
    found = []
    for count, source in ((2, "host"), (3, "device")):
        members = Members(count, create_mesh(BATCH, members=count))
        how = {"source": source, "steps": 3, "seeds": range(count), "members": members}
        _, losses = trained(build, make_records(), **how)
        found.append(losses.tolist())
    return found


def test_two_processes_train_ensembles_as_one():
    """Each process has two devices: those of one of two members, or two of three members' four."""
    address = f"localhost:{20_000 + (os.getpid() + 7_000) % 20_000}"
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, address, str(process)],
            env={**os.environ, "JAX_NUM_CPU_DEVICES": "2"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for process in range(2)
    ]
    expected = ensembles()
    for process in processes:
        output, _ = process.communicate(timeout=240)  # Gloo prints there, too.
        assert process.returncode == 0
        for ours, theirs in zip(expected, json.loads(output.splitlines()[-1]), strict=True):
            np.testing.assert_allclose(theirs, ours, atol=1e-5)


def test_an_accelerator_keeps_what_fits_into_memory(records, monkeypatch):
    assert choose_input("auto", records) == "host"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert choose_input("auto", records) == "device"
    streamed = dataclasses.replace(records, in_memory=False)
    assert choose_input("auto", streamed) == choose_input("host", records) == "host"


def test_steps_of_our_options_are_not_kept_in_the_compilation_cache(build, records, tmp_path):
    """A GPU cannot capture a graph of cached programs; all other programs are kept."""
    options = {"xla_cpu_enable_fast_min_max": False}
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}

    def use_cache(settings):
        for name, value in settings.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()

    use_cache(dict(zip(names, (str(tmp_path), 0.0), strict=True)))
    try:
        trained(build, records, source="device", steps=2, seeds=[3], options=options)
        jax.jit(lambda x: x * len(str(tmp_path)))(jnp.ones(3))
    finally:
        use_cache(before)
    kept = [path.name for path in tmp_path.iterdir()]
    assert any("lambda" in name for name in kept)
    assert not any("take_steps" in name for name in kept)


if __name__ == "__main__":  # One of the processes above.
    jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
    print(json.dumps(ensembles()))
