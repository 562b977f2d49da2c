"""Set-up for every test: six CPU devices, a compilation cache, and small data sets."""

import gc
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Set before jax is imported anywhere, here and in the commands that tests start.
_CACHE = Path(tempfile.gettempdir()) / "fer_jax_test_compilation_cache"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "6")
# The programs and options are those that users get; LLVM only leaves them as they are. At its
# level 1 a training step takes 1.5 times as long to compile.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.pop("FER2013_DIR", None)
# A shell starts background jobs with Ctrl-C ignored, and `nohup` with SIGHUP ignored. The commands
# that tests stop would inherit this.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
# Otherwise each command that a test starts compiles its imports again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

import numpy as np
import pytest
from commands import run
from compiling import XLAS_OWN
from pictures import leave_out_pictures
from PIL import Image

from data_prep.sample import render

pytest_plugins = ["networks"]
from fer_jax.data.contract import CLASS_NAMES


@pytest.fixture(scope="module", autouse=True)
def freeze_objects() -> Iterator[None]:
    """Searches for garbage at the end of each file, and only among that file's objects.

    Otherwise Python searches all that imports and JAX's caches hold, again and again.
    """
    gc.set_threshold(50_000, 20, 1_000)
    gc.freeze()
    yield
    gc.collect()


@pytest.fixture(scope="session")
def fer2013_source() -> Path:
    """The folder of real images named by FER2013_SOURCE; without it the test is skipped."""
    source = os.environ.get("FER2013_SOURCE")
    if not source:
        pytest.skip("FER2013_SOURCE does not name the real images")
    return Path(source)


@pytest.fixture(scope="session")
def tiny_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn faces in folders: for each class 30 training, 5 public and 5 private test images."""
    source = tmp_path_factory.mktemp("faces")
    splits = {"train/{}/Training": 30, "test/{}/PublicTest": 5, "test/{}/PrivateTest": 5}
    for label, name in enumerate(CLASS_NAMES):
        for prefix, count in splits.items():
            generators = [np.random.default_rng((label, count, i)) for i in range(count)]
            for number, image in enumerate(render([label] * count, generators)):
                path = source / f"{prefix.format(name)}_{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(path)
    return source


@pytest.fixture(scope="session")
def tiny_data_dir(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The records of `tiny_source`."""
    data_dir = tmp_path_factory.mktemp("records")
    flags = ("--source", tiny_source, "--data_dir", data_dir)
    run("data_prep", *flags, pictures=False).check_returncode()
    return data_dir


@pytest.fixture(scope="session")
def trained_workdir(tiny_data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a small network on drawn faces, trained until it recognises some of them."""
    # Imported here, because most tests do not need it.
    from fer_jax.config import default_config
    from fer_jax.train import train

    config = default_config()
    config.data_dir = str(tiny_data_dir)
    config.model.layers = (("conv", 8), "max_pool", ("conv", 16), "max_pool", "max_pool", "flatten")
    config.batch_size, config.eval_batch_size = 16, 64
    config.epochs, config.steps_per_epoch = 6, 40
    config.learning_rate = 3e-3
    workdir = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        leave_out_pictures(patch)
        patch.setenv("XLA_FLAGS", XLAS_OWN)
        train(config, workdir)
    return workdir


@pytest.fixture(scope="module")
def cached_programs() -> Iterator[None]:
    """Training steps and evaluations have XLA's own options, so the compilation cache keeps them.

    For tests of what surrounds them; otherwise every run and evaluation compiles them again. It
    lasts from its first use to the end of the file.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", XLAS_OWN)
        yield


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs of a test skip pictures and pages."""
    leave_out_pictures(monkeypatch)
