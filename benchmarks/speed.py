"""Times our training against PyTorch's, in turn and in one run, and writes a table.

Example:
  python -m benchmarks.speed --torch_python=torch_env/bin/python --output=benchmarks/speed.md

PyTorch is a peer, not a dependency: make it an environment of its own, and name its interpreter.
Each framework trains the same network from the same layer list on the same random images, held in
memory, with shift and flip: once with one batch over and over (the step), once with batches drawn
and augmented as in training (end to end). Ours and theirs take turns, each in a process of its own,
so that neither the other's threads nor a drift of the machine's speed favours one.
"""

import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from data_prep.contract import UserError, write_atomically
from fer_jax import cli

NETWORKS = {
    "small_cnn": "configs/published/small_cnn.py",
    "medium_cnn": "configs/published/medium_cnn.py",
    "large_cnn": "configs/published/large_cnn.py",
    "resnet": "configs/resnet.py",
}

_NETWORKS = flags.DEFINE_list("networks", list(NETWORKS), "Which to time.")
_TORCH = flags.DEFINE_string("torch_python", None, "Interpreter that has PyTorch.", required=True)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "How often each takes its turn.")
_SECONDS = flags.DEFINE_float("seconds", 10.0, "How long each of the two timings of a turn lasts.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images in a batch.")
_OUTPUT = flags.DEFINE_string("output", None, "Markdown file to write the table to.")


def main(arguments: Sequence[str]) -> None:
    """Lets the two take turns on each network, and prints and writes the table."""
    cli.refuse_arguments(arguments)
    if unknown := set(_NETWORKS.value) - set(NETWORKS):
        raise UserError(f"--networks has {', '.join(unknown)}; choose of {', '.join(NETWORKS)}")
    folder = Path(__file__).parent
    peers = {
        "fer_jax": [sys.executable, "-m", "benchmarks.time_fer_jax"],
        "PyTorch": [_TORCH.value, str(folder / "time_pytorch.py")],
    }
    rows, versions = [], {}
    for name in _NETWORKS.value:
        turns: dict[str, list[dict]] = {peer: [] for peer in peers}
        job = json.dumps(_job(NETWORKS[name]))
        for _ in range(_ROUNDS.value):
            for peer, command in peers.items():
                turns[peer].append(_take_turn(command, job))
                versions[peer] = turns[peer][-1]["version"]
                print(name, peer, turns[peer][-1], flush=True)
        rows.append(_row(name, turns["fer_jax"], turns["PyTorch"]))
    text = _page(rows, versions)
    print(text)
    if _OUTPUT.value:
        write_atomically(_OUTPUT.value, text)


def _job(config_file: str) -> dict:
    """Returns what both sides need to know, as plain data."""
    import runpy

    config = runpy.run_path(config_file)["get_config"]()
    return {
        "config": config_file,
        "model": config.model.to_dict(),
        "batch_size": _BATCH_SIZE.value,
        "seconds": _SECONDS.value,
        "shift": config.shift,
        "flip": config.flip,
    }


def _take_turn(command: Sequence[str], job: str) -> dict:
    result = subprocess.run([*command, job], capture_output=True, text=True, check=False)
    if result.returncode:
        raise UserError(f"{command[0]} failed: {result.stderr.strip().splitlines()[-1]}")
    return json.loads(result.stdout.splitlines()[-1])


def _row(name: str, ours: Sequence[dict], theirs: Sequence[dict]) -> str:
    cells = [name]
    for key in ("step", "end_to_end"):
        ratios = [a[key] / b[key] for a, b in zip(ours, theirs, strict=True)]
        cells += [_median([turn[key] for turn in side]) for side in (ours, theirs)]
        cells.append(f"{statistics.median(ratios):.2f}")
    cells.append(f"{statistics.median(turn['compile_seconds'] for turn in ours):.1f}")
    flops = statistics.median(turn["flops_per_image"] * turn["step"] for turn in ours)
    cells.append(f"{flops / 1e9:,.0f}")
    cells += [
        f"{statistics.median(turn['peak_mib'] for turn in side):,.0f}" for side in (ours, theirs)
    ]
    return f"| {' | '.join(cells)} |"


def _median(values: Sequence[float]) -> str:
    spread = f" ({min(values):,.0f} to {max(values):,.0f})" if len(values) > 1 else ""
    return f"{statistics.median(values):,.0f}{spread}"


def _page(rows: Sequence[str], versions: dict[str, str]) -> str:
    columns = [
        *("network", "step", "PyTorch", "ratio", "end to end", "PyTorch", "ratio"),
        *("compile, s", "GFLOP/s", "peak MiB", "PyTorch"),
    ]
    return "\n".join(
        [
            "# Speed of training, side by side",
            "",
            f"Images/s, median of n = {_ROUNDS.value} turns (least to most), batches of "
            f"{_BATCH_SIZE.value}, float32, Adam; ratios are of turns next to each other. GFLOP/s "
            "is that of our step, counted by XLA. "
            f"{'; '.join(versions.values())}; {len(os.sched_getaffinity(0))} cores of "
            f"{_processor()}; {datetime.date.today()}.",
            "",
            f"    python -m benchmarks.speed {_flags()}",
            "",
            f"| {' | '.join(columns)} |",
            f"|{'|'.join(['---', *['---:'] * (len(columns) - 1)])}|",
            *rows,
            "",
        ]
    )


def _flags() -> str:
    """Returns the flags of this run, without the path of the peer's interpreter."""
    return " ".join(
        "--torch_python=PYTHON" if argument.startswith("--torch_python") else argument
        for argument in sys.argv[1:]
    )


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


if __name__ == "__main__":
    cli.run(main)
