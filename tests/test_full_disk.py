"""Real disks that are full or read-only: one line, status 2, and what was saved stays intact."""

import hashlib
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import commands
import pytest
from PIL import Image

from fer_jax.config import load_config
from fer_jax.errors import write_atomically
from fer_jax.train import train as fer_jax_train

pytestmark = pytest.mark.usefixtures("cached_programs")


@pytest.fixture
def mount(tmp_path) -> Iterator[Callable[..., Path]]:
    """Function that mounts a disk in memory, `mount(size="4m")`, or mounts it again, changed.

    Only root can; for others the test is skipped.
    """
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = False

    def mount(**options: str) -> Path:
        nonlocal mounted
        flags = ",".join(f"{key}={value}" if value else key for key, value in options.items())
        if mounted:
            subprocess.run(["mount", "-o", f"remount,{flags}", disk], check=True)
            return disk
        command = ["mount", "-t", "tmpfs", "-o", flags, "tmpfs", disk]
        if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("a disk cannot be mounted here")
        mounted = True
        return disk

    yield mount
    if mounted:
        subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.fixture
def limit_files() -> Iterator[Callable[[int], None]]:
    """Function that limits the size of each file that commands write, as on a disk with a quota."""
    server = commands._server().pid
    before = resource.prlimit(server, resource.RLIMIT_FSIZE)
    yield lambda size: resource.prlimit(server, resource.RLIMIT_FSIZE, (size, before[1])) and None
    resource.prlimit(server, resource.RLIMIT_FSIZE, before)


KNOBS = {
    **{"batch_size": 12, "eval_batch_size": 42, "epochs": 2, "steps_per_epoch": 2},
    "model.layers": ("flatten", ("dense", 100)),  # Each checkpoint takes about 3 MB.
}


@pytest.fixture
def train(tiny_data_dir) -> Callable[..., subprocess.CompletedProcess]:
    """Function that trains a network in a workdir, by the command."""

    def run(workdir: Path) -> subprocess.CompletedProcess:
        knobs = {"data_dir": tiny_data_dir, **KNOBS}
        flags = [f"--config.{name}={value}" for name, value in knobs.items()]
        return commands.run("fer_jax.main", "--config=cnn", f"--workdir={workdir}", *flags)

    return run


@pytest.fixture
def train_here(tiny_data_dir, no_pictures, monkeypatch) -> Callable[[Path], dict]:
    """Function that does so in this process, and writes a single figure, which it does not draw."""
    write = lambda folder, *_: write_atomically(folder / "curves.png", b"")  # noqa: E731
    monkeypatch.setattr("fer_jax.training.run._write_figures", write)

    def run(workdir: Path) -> dict:
        config = load_config("cnn")
        config.data_dir = str(tiny_data_dir)
        config.update_from_flattened_dict(KNOBS)
        return fer_jax_train(config, workdir)

    return run


def assert_one_line(result: subprocess.CompletedProcess, *words: str) -> None:
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr, result.stderr
    *_, last = result.stderr.strip().splitlines()
    assert last.startswith(("error: ", "data_prep: ")), result.stderr
    for word in words:
        assert word in last


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_run_goes_on_from_what_it_saved_before_the_disk_was_full(
    mount, train, train_here, capsys
):
    workdir = mount(size="4m") / "run"
    assert_one_line(train(workdir), str(workdir), "space")
    saved = digests(workdir / "checkpoints/2")
    assert saved
    first = (workdir / "metrics.jsonl").read_text().splitlines()[0]

    mount(ro="")
    assert_one_line(train(workdir), str(workdir), "ead-only")
    assert digests(workdir / "checkpoints/2") == saved

    mount(rw="", size="64m")
    (workdir / "figures").touch()  # A file where a folder should be.
    capsys.readouterr()
    history = train_here(workdir)["history"]
    out, err = capsys.readouterr()
    assert "after epoch 1, step 2" in out
    assert "warning: figures/ could not be written" in err  # But the run is finished.
    assert [epoch["step"] for epoch in history] == [2, 4]
    assert (workdir / "metrics.jsonl").read_text().splitlines()[0] == first


@pytest.mark.skipif(not os.geteuid(), reason="root can fill a disk")
def test_a_file_that_may_not_grow_ends_in_one_line(limit_files, train, tmp_path):
    limit_files(300_000)
    assert_one_line(train(tmp_path / "run"), str(tmp_path / "run"))


@pytest.mark.parametrize("name", ["metrics.jsonl", "eval"])
def test_a_folder_for_a_file_or_a_file_for_a_folder_is_named(train, tmp_path, name):
    place = tmp_path / "run" / name
    if place.suffix:
        place.mkdir(parents=True)
    else:
        place.parent.mkdir()
        place.touch()
    assert_one_line(train(tmp_path / "run"), name)


def test_other_commands_say_that_the_disk_is_full(mount, trained_workdir, tiny_source, tmp_path):
    picture = tmp_path / "face.png"
    Image.effect_noise((600, 600), 90).save(picture)
    disk = mount(size="64k")
    assert_one_line(
        commands.run("data_prep", "--source", tiny_source, "--data_dir", disk / "data"), "space"
    )
    predict = commands.run(
        "fer_jax.predict", f"--workdir={trained_workdir}", picture, f"--output={disk / 'copies'}"
    )
    assert_one_line(predict, "--output", "space")


def test_evaluation_of_a_read_only_workdir_says_so(mount, trained_workdir):
    disk = mount(size="64m")
    subprocess.run(["cp", "-r", trained_workdir, disk / "run"], check=True)
    mount(ro="")
    evaluate = commands.run("fer_jax.evaluate", f"--workdir={disk / 'run'}", "--split=public_test")
    assert_one_line(evaluate, str(disk / "run"), "ead-only")
