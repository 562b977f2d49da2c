"""The commands as a user types them: what they print, and how they end when something is wrong."""

import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SMALL = (
    *("--config=configs/cnn.py", "--config.batch_size=16", "--config.eval_batch_size=32"),
    "--config.model.layers=('max_pool','max_pool','flatten',('dense',8))",
)


def run(module, *flags, **options):
    return subprocess.run(
        [sys.executable, "-m", f"fer_jax.{module}", *map(str, flags)],
        capture_output=True,
        text=True,
        **options,
    )


def test_trains_stops_resumes_and_evaluates(tiny_data_dir, tmp_path):
    flags = (*SMALL, f"--config.data_dir={tiny_data_dir}", f"--workdir={tmp_path / 'run'}")
    command = [sys.executable, "-m", "fer_jax.main", *flags, "--config.epochs=400"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "run/metrics.jsonl").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "the same command goes on from there" in errors
    assert "Traceback" not in errors

    # SIGKILL leaves no time to save: the run goes on from its last epoch all the same.
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    before = (tmp_path / "run/metrics.jsonl").read_text()
    while (tmp_path / "run/metrics.jsonl").read_text() == before:
        assert process.poll() is None
        time.sleep(0.1)
    process.kill()
    resumed, _ = process.communicate()
    assert "resuming" in resumed

    result = run("evaluate", f"--workdir={tmp_path / 'run'}", "--split=test", "--checkpoint=latest")
    assert result.returncode == 0, result.stderr
    assert "surprise" in result.stdout
    assert "n = 70" in result.stdout
    assert (tmp_path / "run/eval/test/report.json").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["main"], "--config"),
        (["main", "--config=configs/nope.py"], "configs/nope.py"),
        (["main", "--confg=configs/cnn.py"], "Did you mean: config"),
        (["main", *SMALL, "--config.lerning_rate=1"], 'Did you mean "learning_rate"'),
        (["main", *SMALL, "--config.model.layer=1"], 'Did you mean "layers"'),
        (["main", *SMALL, "--config.epochs=many"], "epochs=many"),
        (["main", *SMALL, "stray"], "unexpected 'stray'"),
        (["main", *SMALL, "--config.data_dir=nowhere"], "python -m data_prep"),
        (["evaluate", "--workdir=nowhere", "--split=test"], "nowhere is no workdir of a run"),
        (["evaluate", "--split=test"], "--workdir"),
        (["summary", "--config=configs/cnn.py", "--format=yaml"], "<text|json>"),
        (["summary", "--config=configs/cnn.py", "--config.model.name=vgg"], "of cnn, convnext"),
    ],
    ids=lambda value: " ".join(value)[-40:] if isinstance(value, list) else "",
)
def test_a_mistake_ends_in_one_line_and_status_2(flags, message, tmp_path):
    if "--workdir=nowhere" not in flags and flags[0] == "main":
        flags = [*flags, f"--workdir={tmp_path / 'run'}"]
    result = run(*flags)
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("module", ["main", "evaluate", "predict", "compare", "summary"])
def test_help_gives_an_example(module):
    result = run(module, "--help")
    assert result.returncode == 0
    assert f"Example:\n  python -m fer_jax.{module} " in result.stdout
    assert "--" in result.stdout.split("flags:")[1]


MEMORY = """
import os, re, sys
from fer_jax import cli
cli.use_huge_pages()
ones = b"1" * (64 << 20)
large = re.search(r"AnonHugePages: *([0-9]+) kB", open("/proc/self/smaps_rollup").read())[1]
print(os.environ["GLIBC_TUNABLES"], sys.argv[1:], int(large) > 32 << 10)
"""


_LARGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc"
    or not _LARGE_PAGES.is_file()
    or "[madvise]" not in _LARGE_PAGES.read_text(),
    reason="the kernel gives large pages to all or none",
)
@pytest.mark.parametrize(
    ("before", "after", "large"),
    [
        ("", "glibc.malloc.hugetlb=1", True),
        ("glibc.malloc.perturb=0", "glibc.malloc.perturb=0:glibc.malloc.hugetlb=1", True),
        ("glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=0", False),
    ],
)
def test_a_command_starts_anew_once_for_large_pages(before, after, large):
    result = subprocess.run(
        [sys.executable, "-c", MEMORY, "--flag", "a b"],
        env={**os.environ, "GLIBC_TUNABLES": before},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == f"{after} ['--flag', 'a b'] {large}"


def test_prepares_the_source_that_a_config_names(tmp_path):
    """A source that fails ends the run in its own words, and leaves nothing."""
    result = run(
        "main",
        *(*SMALL, "--config.data_source=nowhere", f"--config.data_dir={tmp_path / 'data'}"),
        f"--workdir={tmp_path / 'run'}",
    )
    assert result.returncode == 2
    assert "nowhere" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()


def test_tensorflow_is_neither_installed_nor_imported():
    code = (
        "import fer_jax.train, fer_jax.evaluate, fer_jax.summary, data_prep.__main__, sys;"
        "sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], env=os.environ).returncode == 0
