"""Estimates of memory against XLA's plans, and what a run that cannot fit is told."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.config import default_config
from fer_jax.data.contract import ImageFormat
from fer_jax.devices import (
    compile_outside_cache,
    compiler_options,
    create_mesh,
    free_memory,
    memory_errors,
)
from fer_jax.errors import UserError
from fer_jax.models import create_model
from fer_jax.models.functional import abstract_network
from fer_jax.training import memory
from fer_jax.training.ensemble import Members
from fer_jax.training.memory import check_memory, check_program
from fer_jax.training.optimizer import create_optimizer
from fer_jax.training.step import create_state, make_train_step


def check(**knobs):
    """Checks the memory of a run of the defaults, with other knobs."""
    config = default_config()
    model = knobs.pop("model", {})
    config.update(knobs)
    config.model.update({"image_size": 48, "channels": 1, **model})
    sizes = (config.batch_size, config.eval_batch_size)
    mesh = create_mesh(*sizes, members=config.ensemble, accumulate=config.accumulate)
    build = functools.partial(create_model, config.model, num_classes=7, dtype="float32")
    optimizer = create_optimizer(config, lambda step: 1e-3)
    members, network = Members(config.ensemble, mesh), abstract_network(build, mesh)
    check_memory(config, optimizer, members, *network, ImageFormat())


def test_runs_that_fit_are_not_traced(monkeypatch):
    monkeypatch.setattr(memory, "_logits", None)
    check()
    check(batch_size=128)


WIDE = {"layers": (("conv", 3000), ("conv", 3000), "flatten")}


def test_a_batch_that_cannot_fit_is_told_what_would():
    with pytest.raises(UserError) as caught:
        check(batch_size=4096, model=WIDE)
    told = re.fullmatch(
        r"batch_size is 4,096, which needs about [\d,.]+ GiB of memory, by estimate, but "
        r"[\d,.]+ GiB are free; give ([\d,]+) or less, or a larger accumulate",
        str(caught.value),
    )
    assert told
    few = {"eval_batch_size": 64, "model": WIDE}
    check(batch_size=int(0.9 * int(told[1].replace(",", ""))), **few)
    check(batch_size=4096, accumulate=256, **few)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"eval_batch_size": 2**20}, r"eval_batch_size is 1,048,576, which needs .* or less"),
        (
            {"model": {"layers": (("conv", 10**6), ("max_pool", 48), "flatten")}},
            "batch_size is 64, .*; choose a smaller network",
        ),
        (
            {"model": {"layers": ("flatten", ("dense", 2**20), ("dense", 2**20))}},
            "model needs about .* the optimiser's state, but .* choose a smaller network",
        ),
    ],
)
def test_what_cannot_fit_is_named(knobs, message):
    with pytest.raises(UserError, match=message):
        check(**knobs)


def test_the_estimate_is_below_xlas_plan():
    config = default_config()
    config.model.layers = (("conv", 16), "batch_norm", "max_pool", ("conv", 32), "flatten")
    mesh, rows = create_mesh(1), 32
    build = functools.partial(create_model, config.model, num_classes=7, dtype="float32")
    network = abstract_network(build, mesh)
    optimizer = create_optimizer(config, lambda step: 1e-3)
    state = create_state(build, optimizer, None, members=Members(1, mesh), seeds=[0])
    step = make_train_step(network[0], optimizer, class_weights=np.ones(7, np.float32))
    batch = {
        "image": jax.ShapeDtypeStruct((rows, 48, 48, 1), np.uint8),
        "label": jax.ShapeDtypeStruct((rows,), np.int32),
    }
    compiled = compile_outside_cache(jax.jit(step).lower(state, batch), compiler_options())
    plan = compiled.memory_analysis().temp_size_in_bytes
    assert 0.4 * plan < memory._kept(*network, memory._images(rows, ImageFormat())) < plan


def test_a_program_that_cannot_fit_is_refused():
    mesh = create_mesh(1)

    def compiled(n):
        x = jax.ShapeDtypeStruct((n, 8), jnp.float32)
        return jax.jit(lambda x: jnp.sort(x @ x.T).sum()).lower(x).compile()

    check_program(compiled(8), mesh)
    with pytest.raises(UserError, match=r"a training step needs [\d,]{4,}.* GiB of memory, but"):
        check_program(compiled(2**21), mesh)


def test_memory_that_ran_out_is_told():
    assert free_memory() > 2**20
    with (
        pytest.raises(UserError, match=r"memory ran out: .*; give less"),
        memory_errors("give less"),
    ):
        jnp.zeros(2**44).block_until_ready()
    with (
        pytest.raises(UserError, match=r"memory ran out: .*; give less"),
        memory_errors("give less"),
    ):
        np.ones(2**48)
    with pytest.raises(ZeroDivisionError), memory_errors("give less"):
        _ = 1 / 0
