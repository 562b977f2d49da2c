"""The commands as a user types them: what they print, and how they end when something is wrong."""

import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import commands
import pytest

pytestmark = pytest.mark.usefixtures("cached_programs")

SMALL = (
    *("--config=configs/cnn.py", "--config.batch_size=16", "--config.eval_batch_size=32"),
    "--config.model.layers=('max_pool','max_pool','flatten',('dense',8))",
)


def run(module, *flags):
    return commands.run(f"fer_jax.{module}", *flags)


def test_trains_stops_resumes_and_evaluates(tiny_data_dir, tmp_path):
    flags = (*SMALL, f"--config.data_dir={tiny_data_dir}", f"--workdir={tmp_path / 'run'}")
    command = [sys.executable, "-m", "fer_jax.main", *flags, "--config.epochs=400"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "run/metrics.jsonl").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "the same command goes on there" in errors
    assert "Traceback" not in errors

    # SIGKILL leaves no time to save, but the run still goes on from its last epoch.
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    before = (tmp_path / "run/metrics.jsonl").read_text()
    while (tmp_path / "run/metrics.jsonl").read_text() == before:
        assert process.poll() is None
        time.sleep(0.1)
    second = run("main", *flags, "--config.epochs=400")
    assert second.returncode == 2
    assert f"error: process {process.pid} on " in second.stderr
    process.kill()
    resumed, _ = process.communicate()
    assert "resuming" in resumed

    result = run("evaluate", f"--workdir={tmp_path / 'run'}", "--split=test", "--checkpoint=latest")
    assert result.returncode == 0, result.stderr
    assert "surprise" in result.stdout
    assert "n = 70" in result.stdout
    (folder,) = (tmp_path / "run/eval").glob("test*")  # The latest may not be the best.
    assert f"everything is in {folder}" in result.stdout
    assert (folder / "report.json").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["main"], "--config"),
        (["main", "--config=configs/nope.py"], "configs/nope.py"),
        (["main", "--config=quikstart"], 'Did you mean "quickstart"'),
        (["main", "--config=tests"], "is a folder"),
        (["main", "--config=/etc/passwd"], "/etc/passwd, line 1: SyntaxError"),
        (["summary", "--config=README.md"], "README.md, line "),
        (["main", "--confg=configs/cnn.py"], "Did you mean: config"),
        (["main", *SMALL, "--config.lerning_rate=1"], 'Did you mean "learning_rate"'),
        (["main", *SMALL, "--config.model.layer=1"], 'Did you mean "layers"'),
        (["main", *SMALL, "--config.plateau.x.y.z=1"], "plateau.x.y.z; choose one of f"),
        (["main", *SMALL, "--config.epochs.x=1"], "no --config.epochs.x"),
        (["main", *SMALL, "--noconfig.flop"], 'Did you mean "flip"'),
        (["main", *SMALL, "--config.epochs=many"], "epochs=many"),
        (["main", *SMALL, "--config.seed=-1"], "seed is -1; give 0 or more"),
        (["main", "--config=cnn", "--config.model={}"], "model.name is missing; give"),
        (["main", *SMALL, "--config.learning_rates=('a',)"], "learning_rates is ('a',); give"),
        (["main", *SMALL, "--config.classes=angry,angry"], "give two or more different names"),
        (["summary", *SMALL, "--config.plateau.factor=2"], "factor is 2.0; give a fraction"),
        (["main", *SMALL, "stray"], "unexpected 'stray'"),
        (["main", *SMALL, "--num_processes=0"], "flag --num_processes=0: 0 is not a positive"),
        (["main", *SMALL, "--coordinator_address=auto"], "auto needs a TPU pod, SLURM or MPI"),
        (["main", *SMALL, "--process_id=1"], "need --coordinator_address"),
        (["main", *SMALL, "--workdir="], "flag --workdir=: the path is empty"),
        (["main", *SMALL, "--workdir=README.md/run"], "README.md is a file; choose another"),
        (["evaluate", f"--workdir={256 * 'x'}", "--split=test"], "256 bytes; give 255 or fewer"),
        (["compare", "--output=~nouser/x"], "~nouser is no user's home folder"),
        (["main", *SMALL, "--config.data_dir=nowhere"], "python -m data_prep"),
        (["evaluate", "--workdir=nowhere", "--split=test"], "nowhere is no workdir of a run"),
        (["evaluate", "--split=test"], "--workdir"),
        (["summary", "--config=configs/cnn.py", "--format=yaml"], "<text|json>"),
        (["summary", "--config=configs/cnn.py", "--config.model.name=vgg"], "of cnn, convnext"),
    ],
    ids=lambda value: " ".join(value)[-40:] if isinstance(value, list) else "",
)
def test_a_mistake_ends_in_one_line_and_status_2(flags, message, tmp_path):
    if flags[0] == "main" and "--workdir" not in flags[-1]:
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
    """A source that fails ends the run with its own message, and leaves no files."""
    result = run(
        "main",
        *(*SMALL, "--config.data_source=nowhere", f"--config.data_dir={tmp_path / 'data'}"),
        f"--workdir={tmp_path / 'run'}",
    )
    assert result.returncode == 2
    assert "nowhere" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("classes", "count"), [("angry,happy,sad", 3), ("('angry', 'happy', 'sad')", 3), ("", 7)]
)
def test_classes_are_words_between_commas_or_a_tuple(classes, count):
    flags = ("--config=cnn", f"--config.classes={classes}", "--config.model.layers=('flatten',)")
    result = run("summary", *flags, "--format=json")
    assert json.loads(result.stdout)["total"] == (48 * 48 + 1) * count


PROGRAM = """
from absl import app, flags
flags.DEFINE_string("workdir", "mine", "A flag of this program.")
flags.DEFINE_string("config", "mine too", "Another one.")
from fer_jax.evaluate import evaluate
import fer_jax.compare, fer_jax.main, fer_jax.predict, fer_jax.summary, fer_jax.train
def main(_):
    print(flags.FLAGS.workdir, flags.FLAGS.config, callable(evaluate))
app.run(main)
"""


def test_another_program_keeps_its_flags(tmp_path):
    """Imports define no flags, so no flag clashes with its own and none is required."""
    file = tmp_path / "program.py"
    file.write_text(PROGRAM)
    result = subprocess.run([sys.executable, file], capture_output=True, text=True)
    assert result.stdout == "mine mine too True\n", result.stderr


@pytest.mark.parametrize(
    "before",
    [
        "",
        "import fer_jax.train, fer_jax.evaluate; from fer_jax.train import train",
    ],
)
def test_the_package_has_the_functions_whatever_was_imported_before(before):
    code = f"""
import sys
{before}
from fer_jax import Predictor, evaluate, train
import fer_jax.train
from fer_jax.evaluate import evaluate as same
assert fer_jax.train is train is sys.modules["fer_jax.train"].train
assert fer_jax.evaluate is evaluate is same
assert Predictor.__name__ == "Predictor"
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


SCRIPT = [str(Path(sys.executable).parent / "fer_jax")]
MODULE = [sys.executable, "-m", "fer_jax"]


def output(*command):
    result = subprocess.run(command, capture_output=True, text=True)
    return result.returncode, result.stdout, result.stderr


@pytest.mark.parametrize("command", [SCRIPT, MODULE], ids=["script", "module"])
def test_the_console_lists_its_commands_with_an_example_each(command):
    status, printed, _ = output(*command)
    assert status == 0
    assert output(*command, "--help") == (0, printed, "")
    for name in ("train", "evaluate", "predict", "compare", "summary", "prepare"):
        (line,) = [line for line in printed.splitlines() if line.startswith(f"  {name} ")]
        assert f" fer_jax {name} " in line
    error = "error: there is no command 'tarin'. Did you mean \"train\"?\n"
    assert output(*command, "tarin", "--config=cnn") == (2, "", error)


@pytest.mark.parametrize(
    ("name", "module"),
    [
        *(("train", "fer_jax.main"), ("evaluate", "fer_jax.evaluate")),
        *(("predict", "fer_jax.predict"), ("compare", "fer_jax.compare")),
        *(("summary", "fer_jax.summary"), ("prepare", "data_prep")),
    ],
)
def test_a_console_command_is_its_module(name, module):
    """`tests/test_wheel.py` tests their work; this test covers help and a mistake."""
    for argument in ("--help", "--nonsense"):
        by_module = commands.run(module, argument)
        by_console = commands.run("fer_jax", name, argument)
        assert by_console.returncode == by_module.returncode
        assert (by_console.stdout, by_console.stderr) == (by_module.stdout, by_module.stderr)


def test_the_script_runs_a_command():
    by_module = commands.run("fer_jax.summary", "--nonsense")
    expected = (by_module.returncode, by_module.stdout, by_module.stderr)
    assert output(*SCRIPT, "summary", "--nonsense") == expected


def test_the_console_imports_nothing_heavy():
    code = (
        "import sys; from fer_jax import cli; sys.argv[1:] = ['--help']; cli.main();"
        "sys.exit(' '.join({'jax', 'numpy', 'flax', 'tensorflow_datasets'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stderr.strip() == ""


def test_tensorflow_is_neither_installed_nor_imported():
    code = (
        "import fer_jax.train, fer_jax.evaluate, fer_jax.summary, data_prep.__main__, sys;"
        "sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], env=os.environ).returncode == 0
