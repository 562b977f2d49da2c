"""How the command ends: with bad flags, bad sources, a kill half-way, or in a second run."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
import types
import zipfile

import pytest
from small_releases import (
    Run,
    assert_one_line_error,
    csv_row,
    encode,
    noise,
    start,
    write_folders,
)

from data_prep.__main__ import main
from fer_jax.data.contract import record_dir


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["--source", "--data_dir"]),
        (["--source", "x"], ["missing --data_dir"]),
        (["--data_dir", "x"], ["missing --source"]),
        (["--source"], ["--source", "expected one argument"]),
        (["--sorce", "x", "--data_dir", "y"], ["'--sorce'", "did you mean --source"]),
        (["--source", "x", "--data-dir=y"], ["'--data-dir=y'", "did you mean --data_dir"]),
        (["--source", "x", "--data_dir", "y", "--allow"], ["'--allow'", "--allow_bad"]),
        (["--source", "x", "--data_dir", "y", "z"], ["unknown 'z'"]),
        (["--source", "", "--data_dir", "y"], ["--source: the path is empty"]),
        (["--source", "x", "--data_dir", ""], ["--data_dir: the path is empty"]),
        (["--source", "~nouser/x", "--data_dir", "y"], ["--source: ~nouser is no user's"]),
        (["--source", "x", "--data_dir", "y" * 256], ["--data_dir: ", "256 bytes"]),
        (["--source", "x" * 256, "--data_dir", "y"], ["--source: ", "256 bytes"]),
    ],
)
def test_bad_flags(arguments, words, capsys):
    status = main(arguments)
    out, err = capsys.readouterr()
    assert_one_line_error(Run(status=status, out=out, err=err), *words, "--help")


def test_help_gives_an_example_and_names_the_output(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    out = capsys.readouterr().out
    for word in ("--source", "--data_dir", "examples:", "fer2013/1.0.0", "samples.png", "kaggle"):
        assert word in out


def test_importing_the_contract_is_light():
    code = "import sys, fer_jax.data.contract; print(*sys.modules)"
    modules = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert not {"tensorflow_datasets", "PIL", "matplotlib", "jax", "cv2"} & set(modules)


def make_bad_source(kind, folder):
    path = folder / {"pipe": "p", "text": "fer.txt"}.get(kind, f"fer.{kind.split()[-1]}")
    if kind == "empty folder":
        path.mkdir()
    elif kind == "other folder":
        (path / "sad").mkdir(parents=True)
        (path / "sad" / "1.png").write_bytes(b"")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "truncated zip":
        write_folders(folder / "fer", 1)
        with zipfile.ZipFile(path, "w") as archive:
            for file in (folder / "fer").rglob("*.png"):
                archive.write(file, file.relative_to(folder / "fer"))
        path.write_bytes(path.read_bytes()[:-50])
    elif kind == "empty zip":
        zipfile.ZipFile(path, "w").close()
    elif kind == "headless csv":
        path.write_text(csv_row(0, noise(0)) + "\n")
    elif kind == "other csv":
        path.write_text("label,pixels\n0,1 2 3\n")
    elif kind == "binary csv":
        path.write_bytes(bytes(range(256)) * 4000)
    elif kind == "damaged csv.zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("fer2013.csv", "emotion,pixels,Usage\n" + csv_row(0, noise(0)))
        path.write_bytes(path.read_bytes().replace(b"Training", b"training"))
    elif kind != "absent":
        path.write_bytes(b"" if kind.startswith("void") else b"plainly neither")
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("absent", ["does not exist"]),
        ("empty folder", ["holds no release", "train/<emotion>"]),
        ("other folder", ["holds no release", "train/<emotion>"]),
        ("text", ["neither a folder nor a .zip nor a .csv"]),
        ("pipe", ["neither a folder nor a .zip nor a .csv"]),
        ("void zip", ["no complete zip", "fetch it again"]),
        ("text zip", ["no complete zip", "fetch it again"]),
        ("truncated zip", ["no complete zip", "fetch it again"]),
        ("empty zip", ["holds no release"]),
        ("void csv", ["no column emotion and no pixels and no Usage"]),
        ("headless csv", ["no column emotion"]),
        ("other csv", ["no column emotion and no Usage", "emotion,pixels,Usage"]),
        ("binary csv", ["fer.csv"]),
        ("damaged csv.zip", ["fer2013.csv cannot be read", "fetch it again"]),
    ],
)
def test_bad_sources(tmp_path, convert, kind, words):
    run = convert(make_bad_source(kind, tmp_path))
    assert_one_line_error(run, *words)
    assert not run.wrote_records


def test_a_data_dir_that_cannot_be_made(tmp_path, convert):
    write_folders(tmp_path / "fer", 1)
    (tmp_path / "file").write_text("")
    assert_one_line_error(convert(tmp_path / "fer", to="file"), "--data_dir")
    assert_one_line_error(convert(tmp_path / "fer", to="file/below"), "--data_dir")


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("data_prep.figures.write_atomically", OSError(errno.ENOSPC, "No space left on device")),
        (
            "data_prep.builder.LabelledFaces.download_and_prepare",
            RuntimeError("write() failed: No space left on device; at byte 7"),
        ),
    ],
)
def test_a_full_disk(tmp_path, convert, monkeypatch, where, error):
    def fail(*args, **kwargs):
        raise error

    write_folders(tmp_path / "fer", 1)
    monkeypatch.setattr(where, fail)
    run = convert(tmp_path / "fer", pictures=True)
    assert_one_line_error(run, "No space left on device", "make room")
    assert not run.wrote_records


def test_an_unexpected_error_keeps_its_traceback(tmp_path, convert, monkeypatch):
    write_folders(tmp_path / "fer", 1)
    monkeypatch.delattr("data_prep.prepare.count")
    with pytest.raises(NameError):
        convert(tmp_path / "fer")


def test_kaggle_without_its_package(convert, monkeypatch):
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    assert_one_line_error(convert("kaggle"), "needs the package kagglehub", "--extra kaggle")


def test_kaggle_without_network(convert, monkeypatch):
    def download(dataset):
        raise ConnectionError(f"no route\nto {dataset}")

    monkeypatch.setitem(sys.modules, "kagglehub", types.SimpleNamespace(dataset_download=download))
    run = convert("kaggle")
    assert_one_line_error(run, "no route to msambare/fer2013", "network", "credentials")


def test_kaggle_converts_the_download(tmp_path, convert, monkeypatch):
    expected = write_folders(tmp_path / "cache", 1)
    kagglehub = types.SimpleNamespace(dataset_download=lambda dataset: str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "kagglehub", kagglehub)
    run = convert("kaggle")
    assert run.records == expected
    assert run.metadata["source"] == "kaggle"


def test_a_finished_data_set_is_left_alone(tmp_path, convert):
    write_folders(tmp_path / "fer", 1)
    first = convert(tmp_path / "fer")
    before = {path: path.stat().st_mtime_ns for path in first.data_dir.rglob("*")}
    run = convert(tmp_path / "fer")
    assert run.status == 0
    assert "already finished" in run.out
    assert "'folders'" in run.out
    assert first.metadata["fingerprint"][:12] in run.out

    write_folders(tmp_path / "other", 2)
    (tmp_path / "fer2013.csv").write_text(f"emotion,pixels,Usage\n{csv_row(0, noise(0))}\n")
    for source, words in (
        ("sample", ["'folders'", "'sample'"]),
        ("kaggle", ["'folders'", "'kaggle'"]),
        (tmp_path / "fer2013.csv", ["'csv' with 1:"]),
        (tmp_path / "other", ["with 21 files or rows", "'folders' with 42:"]),
        (tmp_path / "nowhere", ["does not exist"]),
    ):
        assert_one_line_error(convert(source), *words)
    assert before == {path: path.stat().st_mtime_ns for path in first.data_dir.rglob("*")}


def test_images_of_another_size_name_the_flag_that_takes_them(tmp_path, convert):
    write_folders(tmp_path / "fer", 2)
    files = sorted((tmp_path / "fer").rglob("*.png"))
    for file in files[1:]:
        file.write_bytes(encode(noise(0, (96, 96))))
    hint = f"{len(files) - 1} of them for their size, which --resize mends"
    assert_one_line_error(convert(tmp_path / "fer"), hint)
    run = convert(tmp_path / "fer", "--allow_bad")
    assert run.status == 0
    assert hint in run.out
    assert "--resize" not in convert(tmp_path / "fer", "--resize", to="resized").out


def test_incomplete_records_are_not_taken_for_finished(tmp_path, convert):
    write_folders(tmp_path / "fer", 1)
    record_dir(tmp_path / "data").mkdir(parents=True)
    assert_one_line_error(convert(tmp_path / "fer"), "is incomplete", "delete it")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_run_stopped_while_writing_leaves_no_data_set_and_can_be_repeated(tmp_path, convert, how):
    lines = [csv_row(number % 7, noise(number)) for number in range(1500)]
    source = tmp_path / "fer2013.csv"
    source.write_text("\n".join(["emotion,pixels,Usage", *lines]))
    data_dir = tmp_path / "data"
    with start("--source", source, "--data_dir", data_dir) as process:
        while not (left := list(data_dir.glob("fer2013/incomplete.*"))):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.002)
        process.send_signal(signal.SIGSTOP)  # It must not end before the other signal.
        # While it writes, no other run may.
        assert_one_line_error(convert(source), "another run")
        process.send_signal(how)
        process.send_signal(signal.SIGCONT)
        out, err = process.communicate()
    if how == signal.SIGINT:
        assert process.returncode == 75
        assert (out, err.count("\n")) == ("", 1)
        assert "starts again" in err
    else:
        assert process.returncode == -signal.SIGKILL
        assert left[0].exists()
    assert not record_dir(data_dir).exists()
    run = convert(source)
    assert run.status == 0, run.err
    assert len(run.records) == len(lines)
    assert os.listdir(data_dir / "fer2013") == ["1.0.0"]


def test_the_real_command_prints_only_its_report(tmp_path):
    write_folders(tmp_path / "fer", 1)
    with start("--source", tmp_path / "fer", "--data_dir", tmp_path / "data") as process:
        out, err = process.communicate()
    assert process.returncode == 0
    assert err == ""  # Without a terminal there are no progress bars.
    assert "images written" in out
    metadata = json.loads((record_dir(tmp_path / "data") / "metadata.json").read_text())
    assert metadata["fingerprint"][:12] in out
