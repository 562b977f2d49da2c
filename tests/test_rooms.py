"""Imports go one way, from commands down to errors, and never in a circle."""

import ast
from pathlib import Path

import pytest

ROOMS = (
    "fer_jax.stopping",
    "fer_jax.errors",
    "fer_jax.paths",
    "fer_jax.processes",
    "fer_jax.downloads",
    "fer_jax.sweep",
    "fer_jax.config",
    "fer_jax.data.contract",
    "fer_jax.remote",
    "fer_jax.devices",
    "fer_jax.kernels",
    "fer_jax.models",
    "fer_jax.data",
    "fer_jax.workdir",
    "fer_jax.reporting",
    "fer_jax.training",
    "fer_jax.inference",
    "fer_jax.exporting",
    "fer_jax.auditing",
    "fer_jax.cli",
    "data_prep",
    "fer_jax.page",
    "fer_jax.train",
)
"""The lowest first. A file imports from its own room and lower ones. Commands are the highest."""

FILES = [path for root in ("fer_jax", "data_prep") for path in sorted(Path(root).rglob("*.py"))]


def module(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def room(name: str) -> int:
    rooms = [k for k, prefix in enumerate(ROOMS) if f"{name}.".startswith(f"{prefix}.")]
    return max(rooms, key=lambda k: len(ROOMS[k])) if rooms else len(ROOMS)


def imports(path: Path) -> set[str]:
    """Returns the modules of this project that a file imports anywhere."""
    modules = {module(file) for file in FILES}
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            children = {f"{node.module}.{name.name}" for name in node.names} & modules
            found |= children or {node.module}
    return (found & modules) - {module(path)}


# The package's own __init__ offers train, evaluate and Predictor on first use.
@pytest.mark.parametrize("path", [p for p in FILES if str(p) != "fer_jax/__init__.py"], ids=str)
def test_a_file_imports_from_lower_rooms_only(path):
    above = [other for other in imports(path) if room(other) > room(module(path))]
    assert not above


def test_data_prep_needs_little_of_the_package():
    allowed = {"stopping", "errors", "paths", "data.contract", "data.pixels", "data.splits"}
    allowed |= {"data.shards", "remote", "data.remote_records"}
    for path in Path("data_prep").rglob("*.py"):
        ours = {name for name in imports(path) if name.startswith("fer_jax")}
        # --detect_faces finds them as predict does.
        detector = {"inference.detectors", "inference.faces"} if path.stem == "faces" else set()
        assert ours <= {f"fer_jax.{name}" for name in allowed | detector}, path


def test_only_detecting_faces_imports_the_detector():
    for path in Path("data_prep").rglob("*.py"):
        at_once = ast.parse(path.read_text()).body
        names = [node.module for node in at_once if isinstance(node, ast.ImportFrom)]
        assert "data_prep.faces" not in names, path


def test_no_file_imports_its_importer():
    graph = {module(path): imports(path) for path in FILES if path.name != "__init__.py"}
    seen: dict[str, bool] = {}  # Whether a file is done; False while its imports are followed.

    def follow(name: str, way: tuple[str, ...]) -> None:
        assert seen.get(name, True), f"a circle: {' -> '.join((*way, name))}"
        if name in seen:
            return
        seen[name] = False
        for other in graph.get(name, ()):
            follow(other, (*way, name))
        seen[name] = True

    for name in graph:
        follow(name, ())
