"""Shared by every test: a compilation cache, so that a second run of the suite compiles little."""

import os
import tempfile
from pathlib import Path

import pytest

# Set before jax is imported anywhere, here and in the commands that tests start.
_CACHE = Path(tempfile.gettempdir()) / "fer_jax_test_compilation_cache"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("MPLBACKEND", "agg")


@pytest.fixture(scope="session")
def fer2013_source() -> Path:
    """The folder of real images named by FER2013_SOURCE; without it the test is skipped."""
    source = os.environ.get("FER2013_SOURCE")
    if not source:
        pytest.skip("FER2013_SOURCE does not name the real images")
    return Path(source)
