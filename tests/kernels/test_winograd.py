"""Winograd's convolution against `lax`'s: output, both gradients, ensembles, several devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fer_jax.devices import compiler_options, on_mesh
from fer_jax.kernels import winograd
from fer_jax.kernels.convolution import Conv

SAME, VALID = ((1, 1), (1, 1)), ((0, 0), (0, 0))


def plain(x, kernel, pads):
    return lax.conv_general_dilated(
        x, kernel, (1, 1), pads, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def pull_back(convolve, pads, x, kernel):
    """Returns the output, and the gradients of a generic function of it."""
    y, back = jax.vjp(functools.partial(convolve, pads=pads), x, kernel)
    return y, back(jax.random.normal(jax.random.key(0), y.shape))


def draw(images, height, width, channels=8, features=6, seed=0):
    rng = np.random.default_rng(seed)
    x = np.maximum(rng.standard_normal((images, height, width, channels), np.float32), 0)
    kernel = rng.standard_normal((3, 3, channels, features), np.float32)
    return jnp.asarray(x), jnp.asarray(kernel)


def assert_close(ours, expected):
    """Within 1e-5 of each tensor's largest entry."""
    for mine, theirs in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        assert mine.shape == theirs.shape
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize(
    ("images", "height", "width", "pads", "tile"),
    [
        (16, 48, 48, SAME, 4),
        (3, 48, 48, SAME, 4),
        (16, 24, 24, VALID, 4),
        (1, 11, 11, SAME, 4),
        (16, 6, 6, SAME, 3),
        (16, 4, 4, VALID, 2),
        (3, 3, 14, ((0, 2), (3, 0)), 3),
    ],
)
def test_output_and_gradients_equal_the_plain_convolutions(images, height, width, pads, tile):
    """With every tile size, whole and cut-off tiles; 48 x 48 pixels take one image per block.

    This includes batches that cannot be split over the devices.
    """
    x, kernel = draw(images, height, width)
    assert winograd._tiling(x, pads)[0] == tile
    ours = jax.jit(functools.partial(pull_back, winograd.convolve, pads))(x, kernel)
    assert_close(ours, pull_back(plain, pads, x, kernel))


def test_it_multiplies_less_than_half_as_often():
    x, kernel = draw(8, 12, 12, 64, 64)
    ours, theirs = (
        jax.jit(functools.partial(pull_back, convolve, SAME)).lower(x, kernel).cost_analysis()
        for convolve in (winograd.convolve, plain)
    )
    assert ours["flops"] < theirs["flops"] / 2


@pytest.mark.parametrize("size", [24, 6])
def test_it_keeps_only_its_arguments_for_the_backward_pass(size):
    """With several blocks of images, and with one."""

    def backward(*arguments):
        return jax.vjp(functools.partial(winograd.convolve, pads=SAME), *arguments)[1]

    arguments = draw(16, size, size, channels=64)
    kept = jax.tree.leaves(jax.eval_shape(backward, *arguments))
    assert sum(x.size for x in kept) < 1.1 * sum(x.size for x in arguments)


def test_an_ensemble_of_kernels_equals_its_members():
    members = [draw(8, 12, 12, seed=seed) for seed in range(2)]
    stacked = (jnp.stack(of_members) for of_members in zip(*members, strict=True))
    together = jax.jit(jax.vmap(functools.partial(pull_back, winograd.convolve, SAME)))(*stacked)
    for k, (x, kernel) in enumerate(members):
        member = jax.tree.map(lambda leaf, k=k: leaf[k], together)
        assert_close(member, pull_back(plain, SAME, x, kernel))


@pytest.mark.parametrize(("devices", "images"), [(4, 16), (6, 30)])
def test_devices_keep_their_images_and_add_up_gradients_of_the_kernels_size(devices, images):
    """The number of devices need not be a power of two."""
    x, kernel = draw(images, 24, 24)
    mesh = Mesh(np.array(jax.devices()[:devices]), "data")
    split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (["data"], []))
    step = jax.jit(
        on_mesh(mesh, lambda x, kernel: pull_back(winograd.convolve, SAME, x, kernel)),
        in_shardings=(split, whole),
        out_shardings=(split, (split, whole)),
    )
    compiled = step.lower(x, kernel).compile()
    text = compiled.as_text()
    assert not any(name in text for name in ("all-gather", "all-to-all", "collective-permute"))
    sums = [line for line in text.splitlines() if " all-reduce(" in line]
    assert len(sums) == 1
    assert "3,3,8,6]" in sums[0]
    placed = jax.device_put(x, split), jax.device_put(kernel, whole)
    assert_close(compiled(*placed), pull_back(plain, SAME, x, kernel))


@pytest.mark.parametrize(
    ("changed", "taken"),
    [
        ({}, True),
        ({"padding": "VALID"}, True),
        ({"strides": 2}, False),
        ({"kernel_size": (5, 5)}, False),
        ({"kernel_size": (1, 1)}, False),
        ({"dtype": jnp.bfloat16}, False),
        ({"in_features": 32}, False),
        ({"out_features": 32}, False),
        ({"images": 1}, False),
    ],
)
def test_layers_take_it_where_it_is_faster(changed, taken, monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    if not compiler_options():
        pytest.skip("it was measured on other machines")
    how = {"in_features": 64, "out_features": 64, "kernel_size": (3, 3), "images": 20} | changed
    x = jnp.zeros((how.pop("images"), 12, 12, how["in_features"]))
    layer = Conv(**how, rngs=nnx.Rngs(0))
    jaxpr = str(jax.make_jaxpr(layer)(x))
    assert ("dot_general" in jaxpr) == taken
    assert ("conv_general_dilated" in jaxpr) != taken


def primitives(jaxpr):
    """Yields the names of all operations of a program, those inside loops and calls too."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda value: hasattr(value, "eqns")
        ):
            if hasattr(inner, "eqns"):
                yield from primitives(inner)


def test_the_program_is_the_same_on_any_number_of_devices():
    """Only its shapes differ, so a program traced on one device can be exported."""
    x, kernel = draw(32, 24, 24)
    programs = []
    for devices in (1, 2):
        mesh = Mesh(np.array(jax.devices()[:devices]), "data")
        step = on_mesh(mesh, lambda x, kernel: pull_back(winograd.convolve, SAME, x, kernel))
        programs.append(list(primitives(jax.make_jaxpr(step)(x, kernel).jaxpr)))
    assert "dot_general" in programs[0]
    assert programs[0] == programs[1]
