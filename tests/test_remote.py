"""Runs and records at URLs: resumed anywhere, whole at any moment, refused in one line."""

import contextlib
import importlib.util
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import commands
import fsspec
import numpy as np
import object_store
import pytest
from pictures import leave_out_pictures
from small_records import make_records

from data_prep.__main__ import main as prepare
from fer_jax import Predictor, evaluate, remote, train
from fer_jax.data import remote_records
from fer_jax.data.records import find_data_dir, find_run_data, open_data_set
from fer_jax.data.remote_records import fetch_records, send_records
from fer_jax.errors import UserError
from fer_jax.paths import user_place
from fer_jax.remote import Store, copied, place_of
from fer_jax.reporting.comparison import read_runs
from fer_jax.stopping import Stopped
from fer_jax.training import mirror
from fer_jax.training.mirror import RemoteLock
from fer_jax.workdir import read_history, read_run

pytestmark = pytest.mark.usefixtures("cached_programs")

DATA = "memory://data/faces"
_CONFIG = """
from fer_jax.config import default_config

def get_config():
    config = default_config()
    config.data_dir = "bucket://data/faces"
    config.model.layers = (("conv", 4), "max_pool", "max_pool", "max_pool", "flatten")
    config.batch_size, config.eval_batch_size = 16, 64
    config.epochs, config.steps_per_epoch = 2, 2
    return config
"""


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> Path:
    labels = {"train": 10 * list(range(7)), "public_test": 2 * list(range(7))}
    return make_records(tmp_path_factory.mktemp("records"), labels)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Goes over to a machine with an empty home folder, or back to one."""

    def move_to(name: str) -> Path:
        (tmp_path / name).mkdir(exist_ok=True)
        monkeypatch.setenv("HOME", str(tmp_path / name))
        return tmp_path / name

    monkeypatch.setattr(mirror, "BEAT", 0.02)
    monkeypatch.setattr(mirror, "_PAUSES", (0.0,))
    leave_out_pictures(monkeypatch)
    move_to("one")
    yield move_to
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def buckets(tmp_path, monkeypatch, records) -> Path:
    """The folder behind `bucket://`, with records."""
    monkeypatch.setenv(object_store.FOLDER, str(tmp_path / "buckets"))
    send_records(records, "bucket://data/faces")
    (tmp_path / "buckets/.control").mkdir()
    return tmp_path / "buckets"


def _config(epochs=1, data_dir=DATA):
    names: dict = {}
    exec(_CONFIG, names)
    config = names["get_config"]()
    config.epochs, config.data_dir = epochs, data_dir
    return config


def _files(url: str) -> set[str]:
    return {*Store(url).sizes()}


def test_an_ensemble_at_a_url_is_resumed_evaluated_and_used_on_other_machines(
    machine, records, capsys, monkeypatch
):
    url = "memory://runs/first"
    send_records(records, DATA)
    config = _config()
    config.ensemble = 2
    first = train(config, url)["members"][0]
    assert not {".lock", "checkpoints/.lock"} & _files(url)

    machine("two")
    config.epochs = 2
    history = train(config, url)["members"][0]["history"]
    assert history[:1] == first["history"]
    assert [epoch["epoch"] for epoch in history] == [1, 2]
    assert f"resuming {url} after epoch 1, step 2" in capsys.readouterr().out
    [local] = machine("two").glob(".cache/fer_jax/runs/*/first")
    assert read_history(local / "member_0/metrics.jsonl") == history
    assert {*remote.scan(local)} == _files(url) - {".owner"}

    machine("three")
    assert f"in {DATA}" not in evaluate(url, "public_test")["notes"]
    for run in ("", "member_0/", "member_1/"):
        results = {f"{run}eval/public_test/{name}" for name in ("report.json", "predictions.csv")}
        assert results <= _files(url)
    fetched: list[str] = []
    fetch = Store.fetch
    monkeypatch.setattr(Store, "fetch", lambda s, n, f: (fetched.extend(n), fetch(s, n, f)))
    predictor = Predictor.from_workdir(url)
    models = {name.partition("/model/")[0] for name in fetched if "/model/" in name}
    assert len(models) == 2  # The best of each member.
    assert not [name for name in fetched if "/training/" in name]
    image = np.zeros((48, 48), np.uint8)
    expected = Predictor.from_workdir(local)(image).probabilities
    np.testing.assert_array_equal(predictor(image).probabilities, expected)

    with copied(url) as copy:
        copy.fetch("config.json")
        run = read_run(copy.folder)
    assert run["data"]["directory"] == DATA
    assert place_of(find_run_data(run)) == DATA
    _, (one, _) = read_runs([url, url], "public_test")
    assert (one.workdir, one.metrics["n"]) == (url, 14)
    with pytest.raises(UserError, match=f"no checkpoint '9' in {url}/member_0/checkpoints: "):
        Predictor.from_workdir(url, "9")
    assert not [*Path(copy.folder).parent.parent.glob(f"{copy.folder.parent.name}*")]


def test_a_checkpoint_that_a_killed_machine_sent_in_part_does_not_count(
    machine, buckets, tmp_path, capsys
):
    # The command runs in a process that was started before; its config tells it of the store.
    environment = {name: os.environ[name] for name in ("HOME", object_store.FOLDER)}
    tests = str(Path(object_store.__file__).parent)
    start = f"import os, sys\nos.environ |= {environment}\nsys.path.append({tests!r})\n"
    (tmp_path / "config.py").write_text(f"{start}import object_store\n{_CONFIG}")
    (buckets / ".control/die").write_text("*/checkpoints/4/digests.json")
    url = "bucket://runs/first"
    arguments = [f"--config={tmp_path}/config.py", f"--workdir={url}"]
    died = commands.run("fer_jax.main", *arguments)
    assert died.returncode == -signal.SIGKILL, died.stderr
    (buckets / ".control/die").unlink()
    there = _files(url)
    assert {".lock", "config.json", "checkpoints/2/digests.json"} <= there
    assert {"checkpoints/4/metrics/metrics"} <= there
    assert not {"checkpoints/4/digests.json", "report.html"} & there

    shutil.copytree(buckets / "runs/first", buckets / "runs/second")
    machine("two")  # Another machine waits for a sign of life, and then goes on from step 2.
    train(_config(epochs=2, data_dir="bucket://data/faces"), url)
    output, warnings = capsys.readouterr()
    assert f"resuming {url} after epoch 1, step 2" in output
    assert f"checkpoints/4 in {url} was not sent whole, and is deleted" in warnings

    home = machine("one")  # The same one has all of it, and sends what is missing.
    shutil.rmtree(buckets / "runs/first")
    shutil.move(buckets / "runs/second", buckets / "runs/first")
    train(_config(epochs=2, data_dir="bucket://data/faces"), url)
    output, warnings = capsys.readouterr()
    assert "after epoch 1" not in output
    assert not warnings
    [local] = home.glob(".cache/fer_jax/runs/*/first")
    assert _contents(local) == _contents(buckets / "runs/first")


def _contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in remote.scan(folder)}


def test_a_store_that_fails_does_not_stop_a_run_and_loses_nothing(machine, buckets, capsys):
    url = "bucket://runs/first"
    full = buckets / ".control/full"
    history = []

    def fail(figures, *_, **__):
        history.append(1)
        full.touch()
        (figures / "late.png").parent.mkdir(exist_ok=True)
        (figures / "late.png").touch()
        time.sleep(0.2)  # Several looks fail.

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fer_jax.training.run._write_figures", fail)
        with pytest.raises(UserError) as caught:
            train(_config(data_dir="bucket://data/faces"), url)
    assert history
    assert "cannot write" in str(caught.value)
    [local] = machine("one").glob(".cache/fer_jax/runs/*/first")
    assert f"everything is in {local}, and the same command" in str(caught.value)
    assert capsys.readouterr().err.count("the run goes on and tries again") == 1

    full.unlink()
    with pytest.raises(Stopped), mirror._mirror(url) as folder:
        full.touch()
        (folder / "new").touch()
        raise Stopped("stopped")  # The status 75 stays: the same command can go on elsewhere.
    assert f"everything is in {local}, and the same command" in capsys.readouterr().err

    full.unlink()
    assert train(_config(data_dir="bucket://data/faces"), url)["report"]["n"] == 14
    assert _contents(local) == _contents(buckets / "runs/first")


def test_what_cannot_be_reached_is_refused_in_one_line(machine, buckets, capfd):
    config = _config(data_dir="bucket://data/faces")
    (buckets / ".control/down").touch()
    for refused in (
        lambda: train(config, "bucket://runs/first"),
        lambda: evaluate("bucket://runs/first", "public_test"),
        lambda: find_data_dir("bucket://data/faces"),
    ):
        with pytest.raises(UserError, match="no answer from bucket; check the URL, the network"):
            refused()
    (buckets / ".control/down").unlink()
    with pytest.raises(UserError, match="there is nothing at bucket://runs/none; check the URL"):
        Predictor.from_workdir("bucket://runs/none")
    with pytest.raises(UserError, match="no records at bucket://runs/none; make them with"):
        find_data_dir("bucket://runs/none")
    with pytest.raises(UserError, match="cannot open nix://a: Protocol not known: nix"):
        evaluate("nix://a", "public_test")


@pytest.mark.skipif(importlib.util.find_spec("gcsfs") is not None, reason="gcsfs is installed")
@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("fer_jax.evaluate", ["--workdir=gs://bucket/run", "--split=test"]),
        ("fer_jax.compare", ["gs://bucket/run", "gs://bucket/other"]),
    ],
)
def test_a_missing_package_ends_a_command_in_one_line(module, arguments):
    done = commands.run(module, *arguments)
    line = "gs://bucket/run needs a package that is not installed: pip install 'fer_jax[gcs]'\n"
    assert (done.returncode, done.stderr) == (2, f"error: {line}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gs://", "gs:// names no folder; give a URL such as gs://bucket/folder"),
        ("gs://a/../b", "gs://a/../b names no folder; give a URL such as gs://bucket/folder"),
        (Path("gs://a/b"), "gs:/a/b lacks a slash: give gs://a/b, as text, since a Path drops one"),
    ],
)
def test_a_url_that_names_no_folder_is_refused(text, message):
    with pytest.raises(UserError) as caught:
        user_place(text)
    assert str(caught.value) == message


def test_a_url_keeps_its_slashes_and_a_path_is_a_path():
    assert user_place("gs://a/b/") == "gs://a/b"
    assert user_place("a/b:/c") == Path("a/b:/c")


@pytest.fixture
def lock(machine):
    """Takes the lock of a run as a machine would, and gives it back in the end."""
    taken = []

    def take(owner: str) -> RemoteLock:
        taken.append(RemoteLock(Store("memory://runs/first"), owner))
        return taken[-1]

    yield take
    for each in taken:
        each.stop()


def test_one_run_at_a_time_trains_at_a_url(lock, capsys):
    first = lock("one")
    with pytest.raises(UserError, match=f"process {os.getpid()} on .* is training in memory://run"):
        lock("two")
    first.stop()  # Its process is killed, and the lock stays.
    assert _files("memory://runs/first") == {".lock"}
    second = lock("two")
    third = lock("two")  # The same machine knows that its process is gone, and need not wait.
    assert second.wait(10)  # Were it alive, it would see that another one took over.
    assert "is training in memory://runs/first" in second.lost
    second.release()
    assert _files("memory://runs/first") == {".lock"}
    third.release()
    assert not _files("memory://runs/first")
    assert "this run sends nothing more" in capsys.readouterr().err


def _write(folder: Path, **steps: str) -> None:
    """Writes what a run leaves: for each step a checkpoint with some content, and two files."""
    for step, content in steps.items():
        checkpoint = folder / "checkpoints" / step.removeprefix("step_")
        for name in ("model/a", "digests.json"):
            (checkpoint / name).parent.mkdir(parents=True, exist_ok=True)
            (checkpoint / name).write_text(content)
    (folder / "config.json").write_text("{}")
    (folder / "report.html").write_text("".join(steps.values()))
    (folder / "checkpoints/9.orbax-checkpoint-tmp-1").mkdir(exist_ok=True)
    (folder / "checkpoints/9.orbax-checkpoint-tmp-1/a").write_text("unfinished")
    (folder / ".report.html.1.partial").write_text("partial")


@contextlib.contextmanager
def _recorded(monkeypatch):
    """Lists what is written and deleted, in order."""
    changes: list[str] = []
    filesystem = type(fsspec.filesystem("memory"))
    with monkeypatch.context() as patch:
        put, rm = filesystem.put_file, filesystem.rm_file
        patch.setattr(remote, "_AT_ONCE", 1)
        patch.setattr(
            filesystem,
            "put_file",
            lambda self, a, b, **k: (changes.append(b[12:]), put(self, a, b, **k)),
        )
        patch.setattr(
            filesystem, "rm_file", lambda self, a: (changes.append(f"-{a[12:]}"), rm(self, a))
        )
        yield changes


def test_files_are_sent_in_an_order_that_is_whole_at_any_moment(machine, monkeypatch):
    url = "memory://runs/first"
    monkeypatch.setattr(mirror, "BEAT", 60)  # All is sent in the end.
    with _recorded(monkeypatch) as changes, mirror._mirror(url) as folder:
        _write(folder, step_4="4", step_12="12")
        (folder / "metrics.jsonl").write_text("")
    assert changes[:-1] == [
        "config.json",
        *("checkpoints/4/model/a", "checkpoints/4/digests.json"),
        *("checkpoints/12/model/a", "checkpoints/12/digests.json"),
        *("metrics.jsonl", "report.html"),
    ]
    with _recorded(monkeypatch) as changes, mirror._mirror(url) as folder:
        (folder / "report.html").unlink()
        shutil.rmtree(folder / "checkpoints/4")
        (folder / "checkpoints/12").rename(folder / "checkpoints/12.damaged")
        _write(folder, step_8="8", step_16="16")
        (folder / "report.html").unlink()
    assert changes[:-1] == [
        *("-report.html", "config.json"),
        *("checkpoints/8/model/a", "checkpoints/8/digests.json"),
        *("checkpoints/12.damaged/model/a", "checkpoints/12.damaged/digests.json"),
        *("checkpoints/16/model/a", "checkpoints/16/digests.json"),
        *sorted(["-checkpoints/4/digests.json", "-checkpoints/12/digests.json"]),
        *sorted(["-checkpoints/4/model/a", "-checkpoints/12/model/a"]),
    ]
    with _recorded(monkeypatch) as changes, mirror._mirror(url) as folder:
        _write(folder, step_16="sixteen")
    overwritten = ["-checkpoints/16/digests.json", "config.json", "checkpoints/16/model/a"]
    assert changes[:3] == overwritten


def test_a_machine_that_comes_back_takes_what_others_did_and_keeps_what_it_had(machine, capsys):
    url = "memory://runs/first"
    with mirror._mirror(url) as folder:
        _write(folder, step_4="4")
    (folder / "unsent").write_text("by one")
    machine("two")
    with mirror._mirror(url) as other:
        assert (other / "checkpoints/4/model/a").read_text() == "4"
        assert {*remote.scan(other)} == {*remote.scan(folder)} - {"unsent"}
        _write(other, step_8="8")
    machine("one")
    with mirror._mirror(url) as folder:
        assert (folder / "checkpoints/8/model/a").read_text() == "8"
        assert not (folder / "unsent").exists()
    assert folder.with_name("first.unsent-1").joinpath("unsent").read_text() == "by one"
    assert "what was never sent is in" in capsys.readouterr().err

    # Whoever deletes the run at the URL starts anew; whoever evaluates it elsewhere adds to it.
    Store(url).write("eval/test/report.json", b"{}")
    with mirror._mirror(url) as folder:
        assert (folder / "eval/test/report.json").exists()
    for name in _files(url):
        Store(url).delete(name)
    with mirror._mirror(url) as folder:
        assert not remote.scan(folder)


def test_a_copy_that_is_deleted_takes_nothing_at_the_url_with_it(machine, capsys):
    url = "memory://runs/first"
    with mirror._mirror(url) as folder:
        _write(folder, step_4="4")
    there = _files(url)
    shutil.rmtree(folder)
    with mirror._mirror(url) as folder:
        assert (folder / "checkpoints/4/model/a").read_text() == "4"
    with (
        pytest.raises(UserError, match=r"has lost its config.json; .*first stays as it is"),
        mirror._mirror(url) as folder,
    ):
        shutil.rmtree(folder)
    assert _files(url) - {".lock"} == there


def test_processes_of_a_machine_fetch_records_once_and_mend_their_copy(
    machine, records, monkeypatch
):
    fetches = []
    fetch = Store.fetch

    def slow(self, names, folder):
        fetches.append(len(names))
        time.sleep(0.1)
        fetch(self, names, folder)

    send_records(records, DATA)
    monkeypatch.setattr(remote_records.Store, "fetch", slow)
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(fetch_records(DATA))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({*found}) == 1
    assert len(fetches) == 1
    assert open_data_set(found[0]).fingerprint == open_data_set(records).fingerprint
    shard = next(found[0].glob("*/*/*public_test*"))
    shard.write_bytes(b"damaged")
    assert len(open_data_set(find_data_dir(DATA)).load("public_test")) == 14
    monkeypatch.setenv("FER2013_DIR", DATA)
    assert find_data_dir() == found[0]
    assert len(fetches) == 2

    Store(DATA).write(str(shard.relative_to(found[0])), b"damaged too")
    with pytest.raises(UserError, match=f"{DATA}/fer2013/1.0.0/.*public_test.* is damaged"):
        find_data_dir(DATA)


def test_records_are_prepared_for_a_url(machine, buckets, tiny_source, capsys):
    arguments = ["--source", str(tiny_source), "--data_dir", "bucket://data/new"]
    (buckets / ".control/full").touch()
    assert prepare(arguments) == 2
    kept = machine("one") / ".cache/fer_jax/prepared"
    assert f"the records are in {kept}" in capsys.readouterr().err
    (buckets / ".control/full").unlink()
    assert prepare(arguments) == 0  # Sends what is prepared already.
    assert "files are at bucket://data/new now" in capsys.readouterr().out
    assert not [*kept.iterdir()]
    assert (buckets / "data/new/quarantine.csv").exists()
    assert len(open_data_set(find_data_dir("bucket://data/new")).load("train")) == 210
    assert prepare(arguments) == 0
    assert "bucket://data/new/fer2013/1.0.0 is already finished" in capsys.readouterr().out
    assert prepare([*arguments, "--resize"]) == 2
    assert "bucket://data/new/fer2013/1.0.0 is finished, with" in capsys.readouterr().err
