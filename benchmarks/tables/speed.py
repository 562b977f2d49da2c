"""Short tables of speed beside PyTorch and Keras."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import record, table
from fer_jax.errors import UserError

_NETWORKS = ("small_cnn", "medium_cnn", "large_cnn", "resnet")
_TITLES = {"resnet": "ResNet-18"}

_OURS_ON_GPU = 'fer_jax, input = "device"'
_COMPILED = "PyTorch, AMP bfloat16, torch.compile"


def find(name: str, results: Path, kind: str = "speed") -> Mapping[str, Any]:
    """Returns the measurement of this name.

    Raises:
      UserError: there is none.
    """
    found = {each["name"]: each for each in record.read(kind, results)}
    if name not in found:
        raise UserError(f"{results}/{kind} has no {name}.json")
    return found[name]


def rates(found: Mapping[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """Returns the rows of a measurement, by network and framework."""
    return {(each["network"], each["framework"]): each for each in table.cells(found)}


def cpu(name: str, results: Path) -> str:
    """Returns end-to-end images/s of all sides, with our rate divided by theirs in brackets."""
    cells = rates(find(name, results))

    def theirs(network: str, framework: str) -> str:
        found = cells[network, framework]
        return f"{found['end to end']['median']:,.0f} ({found['end-to-end ratio']:.2f})"

    rows = []
    for network in _NETWORKS:
        ours = cells[network, "fer_jax"]["end to end"]["median"]
        peers = [theirs(network, name) for name in ("PyTorch", "Keras, TensorFlow")]
        rows.append([_TITLES.get(network, network), ours, *peers])
    columns = {"": "", "fer_jax": ",.0f", "PyTorch": "s", "Keras, TensorFlow": "s"}
    return "\n".join(table.lines(table.make(columns, rows)))


def to_accuracy(name: str, results: Path) -> str:
    """Returns the seconds of all sides to an accuracy, without those of the phases."""
    return "\n".join(table.lines(find(name, results, "time_to_accuracy")["figures"]["tables"][0]))


def gpu(name: str, results: Path) -> str:
    """Returns end-to-end images/s of ResNet-18 on a GPU beside `torch.compile`, by batch size."""
    rows = []
    for each in (name, f"batch_512-{name}"):
        found = find(each, results)
        cells = rates(found)
        frameworks = (_OURS_ON_GPU, _COMPILED, f"{_COMPILED}, CUDA graphs")
        medians = [cells["resnet", one]["end to end"]["median"] for one in frameworks]
        rows.append([f"batches of {found['figures']['batch_size']}", *medians])
    columns = {"": "", "fer_jax": ",.0f", "`torch.compile`": ",.0f"}
    columns["`torch.compile` with CUDA graphs"] = ",.0f"
    return "\n".join(table.lines(table.make(columns, rows)))


def gpu_rate(name: str, results: Path, *, ours: bool) -> str:
    """Returns end-to-end images/s of ResNet-18 on a GPU: ours, or PyTorch's with CUDA graphs."""
    framework = _OURS_ON_GPU if ours else f"{_COMPILED}, CUDA graphs"
    median = rates(find(name, results))["resnet", framework]["end to end"]["median"]
    return f"{median:,.0f}"
