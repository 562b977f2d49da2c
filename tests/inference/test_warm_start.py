"""Training starts from a run, a model folder or the shipped model."""

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from fer_jax import train
from fer_jax.errors import UserError
from fer_jax.inference.trained import load_trained
from fer_jax.inference.warm_start import choose_initial_weights
from fer_jax.workdir import read_history, read_run


@pytest.fixture
def config(trained_workdir, tiny_data_dir):
    config = ConfigDict(read_run(trained_workdir)["config"])
    config.data_dir = str(tiny_data_dir)
    config.pretrained.file = str(trained_workdir)
    return config


def leaves(network):
    return {jax.tree_util.keystr(k): np.asarray(v) for k, v in jax.tree.leaves_with_path(network)}


def initialized(config, classes, workdir):
    """Returns the initial weights of a network of zeros, by name, and the line about them."""
    initialize, line = choose_initial_weights(config, classes)
    zeros = jax.tree.map(np.zeros_like, load_trained(workdir).networks[0])
    placed = jax.tree.map(jax.numpy.asarray, zeros)
    return leaves(initialize(*placed)), line


def test_a_run_of_the_same_classes_gives_all_of_it(config, trained_workdir):
    model = load_trained(trained_workdir)
    found, line = initialized(config, model.classes, trained_workdir)
    for name, value in leaves(model.networks[0]).items():
        np.testing.assert_array_equal(found[name], value)
    assert "all of it" in line


def test_the_last_layer_is_new_where_classes_differ(config, trained_workdir):
    model = load_trained(trained_workdir)
    # The same seven in another order are other classes.
    found, line = initialized(config, model.classes[::-1], trained_workdir)
    for name, value in leaves(model.networks[0]).items():
        expected = np.zeros_like(value) if "head" in name else value
        np.testing.assert_array_equal(found[name], expected)
    assert "a new last layer" in line


@pytest.mark.usefixtures("no_pictures")
def test_a_run_starts_from_the_weights(config, trained_workdir, tmp_path, capsys):
    config.epochs, config.steps_per_epoch, config.learning_rate = 1, 1, 1e-7
    warm = train(config, tmp_path / "warm")["history"][0]
    assert f"starting from {trained_workdir}, all of it" in capsys.readouterr().out
    losses = [epoch["val_loss"] for epoch in read_history(trained_workdir / "metrics.jsonl")]
    assert min(abs(warm["val_loss"] - loss) for loss in losses) < 1e-3


def test_what_does_not_fit_is_refused(config, tmp_path):
    def refusal(match, classes=("a", "b")):
        with pytest.raises(UserError, match=match):
            choose_initial_weights(config, classes)

    config.pretrained.sha256 = "0" * 64
    refusal("sha256 is for files")
    config.pretrained.sha256 = ""
    config.pretrained.file = str(tmp_path)
    refusal("no workdir of a run")


def test_another_network_is_refused(config):
    with pytest.raises(UserError, match=r"another network: its features.* has shape"):
        initialized(config, ("a", "b"), Path(__file__).parents[1] / "fixtures/run_0_1_0/run")


def test_an_ensemble_is_refused(config, trained_workdir, tmp_path):
    run = tmp_path / "ensemble"
    for member in ("member_0", "member_1"):
        shutil.copytree(trained_workdir, run / member)
    text = (trained_workdir / "config.json").read_text()
    (run / "config.json").write_text(text.replace('"ensemble": 1', '"ensemble": 2'))
    config.pretrained.file = str(run)
    with pytest.raises(UserError, match="is an ensemble; give the workdir of one member"):
        choose_initial_weights(config, ("a", "b"))
