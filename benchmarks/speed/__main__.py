"""Times our training against PyTorch's and Keras's, in turn and in one run, and writes a table.

Example:
  python -m benchmarks.speed --torch_python=torch_env/bin/python --keras_python=tf_env/bin/python \\
      --output=benchmarks/speed/speed.md

PyTorch and Keras on TensorFlow are peers, not dependencies: make each an environment of its own,
and name its interpreter; one that is not named is said not to be measured. All train the same
network from the same layer list on the same random images, held in memory, with shift and flip:
once with one batch over and over (the step), once with batches drawn and augmented as in training
(end to end). They take turns, each in a process of its own that waits while others take theirs, so
that neither another's threads nor a drift of the machine's speed favours one. Where JAX and PyTorch
see a GPU they use it: with `--at_once` the processes of all networks compile side by side there,
before any of them takes its first turn. Ours has a row for each `config.input`, and on a GPU one
without our options of the compiler, and of the smallest network one of eight members together;
PyTorch has on a GPU one for each way to train. Ratios are to ours in the first row.
"""

import contextlib
import datetime
import json
import os
import runpy
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from fer_jax import cli
from fer_jax.errors import UserError, write_atomically

NETWORKS = {
    "small_cnn": "configs/published/small_cnn.py",
    "medium_cnn": "configs/published/medium_cnn.py",
    "large_cnn": "configs/published/large_cnn.py",
    "resnet": "configs/resnet.py",
}
_MEMBERS = {"small_cnn": 8}
"""How many members, on a GPU or TPU, a row of ours trains together."""

COLUMNS = (
    *("network", "framework", "n", "step", "ratio", "end to end", "ratio", "of step"),
    *("first step, s", "peak MiB", "GFLOP/s", "of peak"),
)

Turn = Mapping[str, Any]
"""What a process printed: `version`; `rows`, from framework to figures; ours adds
`hardware`, `dtype`, `memory` and `peak` in words, `flops_per_image` and `peak_flops`."""

_NETWORKS = flags.DEFINE_list("networks", list(NETWORKS), "Which to time.")
_TORCH = flags.DEFINE_string("torch_python", None, "Interpreter that has PyTorch.")
_KERAS = flags.DEFINE_string("keras_python", None, "Interpreter that has Keras and TensorFlow.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "How often each takes its turn.")
_SECONDS = flags.DEFINE_float("seconds", 10.0, "How long each of the two timings of a turn lasts.")
_AT_ONCE = flags.DEFINE_bool("at_once", False, "Start all networks' processes at once.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images in a batch.")
_OUTPUT = flags.DEFINE_string("output", None, "Markdown file to write the table to.")


def main(arguments: Sequence[str]) -> None:
    """Lets all take turns on each network, and prints and writes the table."""
    cli.refuse_arguments(arguments)
    if unknown := set(_NETWORKS.value) - set(NETWORKS):
        raise UserError(f"--networks has {', '.join(unknown)}; choose of {', '.join(NETWORKS)}")
    folder = Path(__file__).parent
    processes = {
        "fer_jax": [sys.executable, "-m", "benchmarks.speed.time_fer_jax"],
        "PyTorch": _TORCH.value and [_TORCH.value, str(folder / "time_pytorch.py")],
        "Keras": _KERAS.value and [_KERAS.value, str(folder / "time_keras.py")],
    }
    turns: dict[str, dict[str, list[Turn]]] = {
        name: {process: [] for process in processes} for name in _NETWORKS.value
    }
    groups = [_NETWORKS.value] if _AT_ONCE.value else [[name] for name in _NETWORKS.value]
    for group in groups:
        with contextlib.ExitStack() as stack:
            # Ours last: a peer that cannot run is told before minutes have gone by.
            started = {
                (name, process): stack.enter_context(_Process(command, _job(name)))
                for name in group
                for process, command in reversed(processes.items())
                if command
            }
            for process in started.values():
                process.wait_until_ready()
            for (name, process), timed in _ROUNDS.value * list(started.items()):
                turns[name][process].append(timed.take_turn())
                print(name, json.dumps(turns[name][process][-1]), flush=True)
    text = page(turns)
    print(text)
    if _OUTPUT.value:
        write_atomically(_OUTPUT.value, text)


def page(turns: Mapping[str, Mapping[str, Sequence[Turn]]]) -> str:
    """Returns the Markdown of the turns of each process on each network; "fer_jax" is ours."""
    per_process: dict[str, Sequence[Turn]] = {}
    for of_network in turns.values():
        per_process |= {process: taken for process, taken in of_network.items() if taken}
    ours = per_process["fer_jax"][0]
    versions = "; ".join(taken[0]["version"] for taken in per_process.values())
    beside = ", beside the other networks'" if _AT_ONCE.value else ""
    lines = [
        "# Speed of training, side by side",
        "",
        "Images/s, median of n turns (least to most), batches of "
        f"{_BATCH_SIZE.value}, Adam, {ours['dtype']} here. A ratio is fer_jax's rate by that of "
        "the row, of turns next to each other; `of step` is the end-to-end rate by the step's. "
        f"The first step includes compilation, without a cache{beside}. GFLOP/s are the network's: "
        "three times those of its forward pass, as XLA counts them, by the step's rate; the peak "
        f"is {ours['peak']}. Peak memory is {ours['memory']}. "
        f"{versions}; {ours['hardware']}; {datetime.date.today()}.",
        "",
        f"    python -m benchmarks.speed {_flags()}",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|---|---|{'---:|' * (len(COLUMNS) - 2)}",
    ]
    for network, of_network in turns.items():
        for process, taken in of_network.items():
            if not taken:
                empty = " |" * (len(COLUMNS) - 4)
                lines.append(f"| {network} | {process} | 0 | not measured |{empty}")
                continue
            for row in taken[0]["rows"]:
                lines.append(_row(network, row, of_network["fer_jax"], taken))
    return "\n".join([*lines, ""])


def _job(name: str) -> dict:
    """Returns what all sides need to know, as plain data."""
    config = runpy.run_path(NETWORKS[name])["get_config"]()
    return {
        "config": NETWORKS[name],
        "members": _MEMBERS.get(name, 1),
        "model": config.model.to_dict(),
        "batch_size": _BATCH_SIZE.value,
        "seconds": _SECONDS.value,
        "shift": config.shift,
        "flip": config.flip,
    }


class _Process:
    """A program that says when it is ready, and times itself, in a line of JSON, when it is asked.

    A context manager, at whose end it ends.
    """

    def __init__(self, command: Sequence[str], job: Mapping[str, Any]):
        self._program = command[0]
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  Closed at the end.
        try:
            self._process = subprocess.Popen(
                [*command, json.dumps(job)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                # Or the first on a GPU would take most of its memory.
                env={**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
            )
        except OSError as error:
            raise UserError(
                f"cannot run {self._program}: {error.strerror}; name an interpreter"
            ) from None

    def __enter__(self) -> "_Process":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def wait_until_ready(self) -> None:
        """Returns once it has compiled.

        Raises:
          UserError: it ended instead.
        """
        self._read("ready")

    def take_turn(self) -> Turn:
        """Returns what it says.

        Raises:
          UserError: it ended instead.
        """
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):
            print(file=self._process.stdin, flush=True)
        return json.loads(self._read("{"))

    def _read(self, start: str) -> str:
        """Returns its next line that starts so; others are a library's."""
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith(start):
                return line
        status = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().strip() or f"exit status {status}"
        raise UserError(f"{self._program} failed: {said.splitlines()[-1]}")


def _row(network: str, row: str, ours: Sequence[Turn], theirs: Sequence[Turn]) -> str:
    figures = [turn["rows"][row] for turn in theirs]
    baseline = [next(iter(turn["rows"].values())) for turn in ours]
    cells = [network, row, str(len(theirs))]
    for key in ("step", "end_to_end"):
        rates = [figure[key] for figure in figures]
        spread = f" ({min(rates):,.0f} to {max(rates):,.0f})" if len(rates) > 1 else ""
        cells.append(f"{statistics.median(rates):,.0f}{spread}")
        ratios = [a[key] / b[key] for a, b in zip(baseline, figures, strict=True)]
        cells.append(f"{statistics.median(ratios):.2f}")
    cells.append(f"{statistics.median(f['end_to_end'] / f['step'] for f in figures):.0%}")
    cells.append(f"{statistics.median(figure['first_step'] for figure in figures):.1f}")
    peaks_mib = [figure["peak_mib"] for figure in figures]
    cells.append(f"{statistics.median(peaks_mib):,.0f}" if all(peaks_mib) else "not known")
    flops = ours[0]["flops_per_image"] * statistics.median(figure["step"] for figure in figures)
    cells.append(f"{flops / 1e9:,.0f}")
    peaks = [turn["peak_flops"] for turn in ours]
    cells.append(f"{flops / statistics.median(peaks):.1%}" if all(peaks) else "not known")
    return f"| {' | '.join(cells)} |"


def _flags() -> str:
    """Returns the flags of this run, without the paths of the peers' interpreters."""
    hidden = ("--torch_python", "--keras_python")
    return " ".join(
        f"{argument.split('=')[0]}=PYTHON" if argument.startswith(hidden) else argument
        for argument in sys.argv[1:]
    )


if __name__ == "__main__":
    cli.run(main)
