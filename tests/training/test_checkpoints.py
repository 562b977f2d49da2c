"""Damage to checkpoints is noticed, named and set aside, and costs no more than a checkpoint."""

import os
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from pictures import leave_out_pictures

from fer_jax.config import default_config
from fer_jax.errors import UserError
from fer_jax.evaluate import evaluate
from fer_jax.inference.trained import load_trained
from fer_jax.train import train
from fer_jax.training.checkpoints import Checkpoints, CheckpointWriter
from fer_jax.workdir import read_history


@pytest.fixture(scope="module")
def whole(tiny_data_dir, tmp_path_factory):
    """A run of three epochs, and its config."""
    config = default_config()
    config.data_dir = str(tiny_data_dir)
    config.model.layers = (("conv", 4), "max_pool", "flatten")
    config.batch_size, config.eval_batch_size = 16, 64
    config.epochs, config.steps_per_epoch = 3, 4
    config.best_by = "val_loss"
    workdir = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        leave_out_pictures(patch)
        train(config, workdir)
    return workdir, config


@pytest.fixture
def run(whole, tmp_path):
    """A copy of the run, to be damaged."""
    shutil.copytree(whole[0], tmp_path / "run")
    return tmp_path / "run"


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def flip_a_bit(path: Path, rng: np.random.Generator) -> None:
    content = bytearray(path.read_bytes())
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    path.write_bytes(content)


def test_every_flipped_bit_is_noticed_or_harmless(run):
    """A bit in each file of a checkpoint in turn; Orbax's own notes are not read."""
    network = load_trained(run, "latest")
    before = [np.asarray(leaf) for leaf in jax.tree.leaves(network.networks)]
    checkpoints = Checkpoints(run / "checkpoints", best_by="val_loss")
    rng = np.random.default_rng(0)
    for path in files(run / "checkpoints/12"):
        if not path.stat().st_size:
            continue
        content = path.read_bytes()
        flip_a_bit(path, rng)
        if path.name in ("_CHECKPOINT_METADATA", "commit_success.txt") and path.parent.name == "12":
            after = jax.tree.leaves(load_trained(run, "latest").networks)
            for old, new in zip(before, after, strict=True):
                np.testing.assert_array_equal(old, new)
        else:
            assert checkpoints.damage(12), path
        path.write_bytes(content)
    assert not checkpoints.damage(12)


def test_every_flipped_bit_of_the_digests_is_noticed(run):
    checkpoints = Checkpoints(run / "checkpoints", best_by="val_loss")
    path = run / "checkpoints/12/digests.json"
    content = path.read_bytes()
    at = content.index(b'"model/') + 1  # Another item's name would leave the file unchecked.
    for byte in [*range(at, at + 6), *range(0, len(content), 23)]:
        for bit in range(8):
            flipped = bytearray(content)
            flipped[byte] ^= 1 << bit
            path.write_bytes(flipped)
            assert checkpoints.damage(12), (byte, bit)


def test_the_last_epoch_may_count_as_the_best(whole):
    checkpoints = Checkpoints(whole[0] / "checkpoints", best_by="last")
    assert checkpoints.choose_step("best") == 12


def truncate(step):
    os.truncate(max(files(step / "model"), key=lambda path: path.stat().st_size), 20)


def zero(step):
    largest = max(files(step / "training"), key=lambda path: path.stat().st_size)
    largest.write_bytes(bytes(largest.stat().st_size))


def empty(step):
    (step / "progress/metadata").write_text("")


def leave_a_file_out(step):
    (step / "model/manifest.ocdbt").unlink()


def leave_an_item_out(step):
    shutil.rmtree(step / "training")


def leave_all_out(step):
    shutil.rmtree(step)
    step.mkdir()


def change_the_metrics(step):
    (step / "metrics/metrics").write_text("[]")


def add_a_folder(step):
    (step.parent / "99").mkdir()


DAMAGES = (
    truncate,
    zero,
    empty,
    leave_a_file_out,
    leave_an_item_out,
    leave_all_out,
    change_the_metrics,
    add_a_folder,
)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_set_aside_and_said(run, damage, capsys):
    folder = run / "checkpoints"
    kept = {path: path.read_bytes() for path in files(folder / "8")}
    damage(folder / "12")
    step = "99" if damage is add_a_folder else "12"
    damaged = {path.relative_to(folder / step): path.read_bytes() for path in files(folder / step)}

    writer = CheckpointWriter(folder, best_by="val_loss")
    writer.close()
    assert writer.steps() == ([8, 12] if step == "99" else [8])
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"checkpoints/{step} is damaged" in err
    assert f"it is called {step}.damaged now" in err
    aside = folder / f"{step}.damaged"
    assert damaged == {path.relative_to(aside): path.read_bytes() for path in files(aside)}
    assert kept == {path: path.read_bytes() for path in files(folder / "8")}


@pytest.mark.parametrize(
    "damage", [d for d in DAMAGES if d not in (zero, empty, leave_an_item_out)]
)
def test_evaluation_names_damage_and_intact_checkpoints(run, damage):
    damage(run / "checkpoints/12")
    step = "99" if damage is add_a_folder else "12"
    for which in ("latest", step):
        with pytest.raises(UserError, match=rf"checkpoint {step} .* is damaged: .*; .*it holds 8"):
            load_trained(run, which)
    load_trained(run, "8")


@pytest.mark.usefixtures("no_pictures")
def test_a_run_goes_on_from_the_newest_intact_checkpoint(run, whole, capsys):
    """Bit for bit as from there. Nothing set aside is deleted, and its name is not used again."""
    workdir, config = whole
    (run / "checkpoints/12.damaged").mkdir()
    truncate(run / "checkpoints/12")
    train(config, run)
    out, err = capsys.readouterr()
    assert "called 12.damaged.1 now" in err
    assert "after epoch 2, step 8" in out
    timing = ("seconds", "images_per_second")
    for old, new in zip(
        read_history(workdir / "metrics.jsonl"), read_history(run / "metrics.jsonl"), strict=True
    ):
        assert {k: v for k, v in old.items() if k not in timing} == {
            k: v for k, v in new.items() if k not in timing
        }
    for old, new in zip(
        *(jax.tree.leaves(load_trained(folder, "latest").networks) for folder in (workdir, run)),
        strict=True,
    ):
        np.testing.assert_array_equal(old, new)


@pytest.mark.usefixtures("no_pictures")
def test_a_run_without_an_intact_checkpoint_starts_over(run, whole, capsys):
    _, config = whole
    for step in (8, 12):
        empty(run / f"checkpoints/{step}")
    config = config.copy_and_resolve_references()
    train(config, run)
    out, err = capsys.readouterr()
    assert err.count("is damaged") == 2
    assert "resuming" not in out


def test_what_a_killed_save_left_is_deleted(run):
    left = run / "checkpoints/16.orbax-checkpoint-tmp"
    shutil.copytree(run / "checkpoints/12", left)
    CheckpointWriter(run / "checkpoints", best_by="val_loss").close()
    assert not left.exists()
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"8", "12"}


def test_another_network_than_the_checkpoint_holds_is_said(run):
    text = (run / "config.json").read_text()
    assert '"conv",\n          4' in text
    (run / "config.json").write_text(text.replace('"conv",\n          4', '"conv",\n          5'))
    with pytest.raises(UserError, match=r"another network than .*config.json: params.*shape"):
        evaluate(run, "validation_20")


def test_a_run_without_its_config_is_refused(run, whole):
    (run / "config.json").unlink()
    with pytest.raises(UserError, match=r"has checkpoints but no config.json"):
        train(whole[1], run)
    with pytest.raises(UserError, match=r"no workdir of a run"):
        evaluate(run, "validation_20")


def test_there_is_no_best_checkpoint_within_the_first_epoch(run):
    shutil.rmtree(run / "checkpoints/8")
    (run / "checkpoints/12/digests.json").unlink()
    (run / "checkpoints/12/metrics/metrics").write_text("{}")
    with pytest.raises(UserError, match=r"no best checkpoint before .*first epoch ends.*holds 12"):
        evaluate(run, "validation_20")
