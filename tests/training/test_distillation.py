"""What a network learns from teachers' predictions, and from pairs of mixed images."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from flax import nnx

from fer_jax.models import create_model
from fer_jax.models.functional import abstract_network
from fer_jax.training.distillation import Distillation

TEACHER = np.random.default_rng(3).normal(size=(48 * 48, 7)).astype(np.float32)


def predict(weights, images, temperature):
    """A linear teacher."""
    return jax.nn.softmax(images.reshape(len(images), -1) @ weights / temperature)


def kl(teachers_logits, logits, temperature):
    """Its value by SciPy, in float64."""
    theirs, ours = (
        scipy.special.softmax(np.asarray(x, np.float64) / temperature, axis=1)
        for x in (teachers_logits, logits)
    )
    return temperature**2 * scipy.stats.entropy(theirs, ours, axis=1)


@pytest.mark.parametrize(("weight", "temperature"), [(0.3, 1.0), (0.9, 4.0), (1.0, 2.0)])
def test_loss_is_a_share_of_the_divergence_and_one_of_the_labels_loss(weight, temperature):
    random = np.random.default_rng(0)
    logits, loss = 3 * random.normal(size=(5, 7)), random.uniform(size=5)
    images = random.uniform(size=(5, 48, 48, 1)).astype(np.float32)
    mixed = Distillation(predict, weight, temperature).mix_in(loss, logits, images, TEACHER)
    divergence = kl(images.reshape(5, -1) @ TEACHER, logits, temperature)
    np.testing.assert_allclose(mixed, (1 - weight) * loss + weight * divergence, rtol=1e-4)


def test_a_certain_teacher_has_a_finite_loss():
    certain = Distillation(lambda *_: jnp.eye(7)[:5], 1.0, 1.0)
    logits = np.random.default_rng(0).normal(size=(5, 7))
    loss = certain.mix_in(np.zeros(5), logits, np.zeros((5, 1)), None)
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, np.arange(5))
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_teachers_see_the_students_mixed_images(accumulate, make_mesh, start, batch, build):
    mesh = make_mesh(2)
    distillation = Distillation(predict, 1.0, 2.0)
    options = {"mixup": 0.4, "distillation": distillation, "accumulate": accumulate}
    state, step = start(mesh, optax.sgd(0.0), **options)
    graph, _, _ = abstract_network(build, mesh)
    model = nnx.merge(graph, *jax.device_get((state.params, state.statistics)))
    model.eval()
    key = jax.random.wrap_key_data(state.random_key)
    share = jax.random.beta(jax.random.fold_in(jax.random.fold_in(key, 0), 1), 0.4, 0.4)
    share = max(share, 1 - share)
    images = batch["image"] / np.float32(255)
    images = share * images + (1 - share) * images[::-1]

    def in_inference(self, **_):
        self.eval()

    with pytest.MonkeyPatch.context() as patch:  # The loss without dropout and batch statistics.
        patch.setattr("fer_jax.models.layers.Classifier.train", in_inference)
        _, loss = step(state, batch, TEACHER)
    expected = kl(images.reshape(16, -1) @ TEACHER, model(images), 2.0).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


def mixed_pairs(make_mesh, start, monkeypatch, steps, **options):
    """Mixes a white image with a black one, for a network whose logits do not depend on them.

    Returns the pixels of the first image after some steps, and that label's share in each loss.
    """
    logits = np.array([1.0, 0, 0, 2.0, 0, -1.0, 0], np.float32)
    monkeypatch.setattr(
        "fer_jax.models.layers.Classifier.__call__",
        lambda self, images, rngs=None: jnp.zeros((len(images), 7)) + logits,
    )
    white, black = -jax.nn.log_softmax(logits)[np.array([3, 5])]
    told = []

    class Watching:
        def mix_in(self, loss, logits, images, teachers):
            share = (loss[0] - black) / (white - black)
            jax.debug.callback(lambda *seen: told.append(seen), images[0, ..., 0], share)
            return loss

    images = np.zeros((2, 48, 48, 1), np.uint8)
    images[0] = 255
    batch = {"image": images, "label": np.array([3, 5], np.int32)}
    network = functools.partial(
        create_model, {"name": "cnn", "layers": ("flatten",)}, num_classes=7, dtype="float32"
    )
    state, step = start(
        make_mesh(1), optax.sgd(0.0), network=network, distillation=Watching(), **options
    )
    for _ in range(steps):
        state, _ = step(state, batch)
    jax.block_until_ready(state)
    jax.effects_barrier()
    pixels, shares = zip(*told, strict=True)
    return np.stack(pixels), np.array(shares)


def is_rectangle(mask):
    rows, columns = np.nonzero(mask)
    return mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()


def test_a_step_pastes_a_rectangle_with_its_probability_and_mixes_otherwise(
    make_mesh, start, monkeypatch
):
    pixels, shares = mixed_pairs(make_mesh, start, monkeypatch, 80, cutmix=0.5, mixup=0.4)
    # A label counts as much as there is of its image, and accuracy counts the greater part.
    np.testing.assert_allclose(shares, pixels.mean(axis=(1, 2)), atol=1e-5)
    assert (shares > 0.5 - 1e-5).all()
    cut = pixels[pixels.std(axis=(1, 2)) > 1e-6]
    assert 20 <= len(cut) <= 60
    for image in cut:
        assert set(np.unique(image)) == {0.0, 1.0}
        assert is_rectangle(image == 0) or is_rectangle(image == 1)
    assert len({image.mean() for image in cut}) > len(cut) / 2  # Of all sizes.


def test_without_mixup_the_other_steps_mix_nothing(make_mesh, start, monkeypatch):
    pixels, _ = mixed_pairs(make_mesh, start, monkeypatch, 20, cutmix=0.5)
    assert set(np.unique(pixels)) == {0.0, 1.0}
    assert 2 <= sum(image.all() for image in pixels) <= 18
