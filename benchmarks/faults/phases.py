"""Reads the phase of a command from the stack of its main thread, just before a kill."""

import contextlib
import os
import re
import signal
import subprocess
import time
from pathlib import Path

PHASES = (
    *("start and imports", "compilation", "restoring", "within an epoch", "saving", "validation"),
    *("final evaluation and reports", "exit"),
)

_STACKS = "FAULTS_STACKS"

# Python runs it at every start: a signal makes the process write its stack into a file, at once,
# even within compiled code. The command line stays the user's.
_ON_START = f"""
import faulthandler, os, signal
_stack = open(f"{{os.environ['{_STACKS}']}}/{{os.getpid()}}", "a")
faulthandler.register(signal.SIGUSR1, _stack, all_threads=False)
"""

_LAST = ("_run_module_as_main", "  ...", "<no Python frame>")
"""Ends of a complete stack of the main thread."""

_WAIT = 0.5  # seconds for a stack to be written


def environment(folder: Path) -> dict[str, str]:
    """Returns variables with which a command's stack can be read; `folder` is for its files."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(_ON_START)
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    return {"PYTHONPATH": path, _STACKS: str(folder)}


def phase_of(
    process: subprocess.Popen, workdir: Path, stacks: Path, *, training: bool, trained: bool
) -> str:
    """Returns the phase of a running command, one of `PHASES`.

    Args:
      process: the command, started with `environment`.
      workdir: folder of its run.
      stacks: the folder given to `environment`.
      training: whether the loop over the epochs has begun.
      trained: whether the history has all epochs.
    """
    stack = _ask(process, stacks)
    if stack is None:  # Python itself is starting.
        return PHASES[0]
    saving = any(workdir.glob("**/checkpoints/*orbax-checkpoint-tmp*"))
    return classify(stack, saving=saving, training=training, trained=trained)


def classify(stack: str, *, saving: bool, training: bool, trained: bool) -> str:
    """Returns the phase that the main thread's stack, as `faulthandler` writes it, belongs to.

    A stack of more than 100 functions lacks the outer ones; what is known otherwise then decides.

    Args:
      stack: the stack.
      saving: whether a checkpoint is being written, maybe in the background.
      training: whether the loop over the epochs has begun.
      trained: whether the history has all epochs.
    """
    frames = re.findall(r'File "(.*)", line \d+ in (\S+)', stack)
    functions = {name for _, name in frames}
    ours = {name for path, name in frames if "/fer_jax/" in path}
    if not frames and training:
        return "exit"
    if ours & {"evaluate_best", "write_reports", "write_ensemble", "_print_result"}:
        return "final evaluation and reports"
    if saving or (training and ours & {"save", "_save", "add_epoch"}):
        return "saving"
    if ours & {"restore", "_restore"}:
        return "restoring"
    if "_compile" in ours or "compile_or_get_cached" in functions:
        return "compilation"
    if training and "predict_records" in ours:
        return "validation"
    if training:
        return "final evaluation and reports" if trained else "within an epoch"
    return "start and imports"


def _ask(process: subprocess.Popen, stacks: Path) -> str | None:
    """Returns the stack of a command; None if it cannot write one yet, or has ended.

    Of a supervisor's command the stack is that of its worker.
    """
    try:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        pid = int(children[0]) if children else process.pid
        stack = stacks / str(pid)
        status = Path(f"/proc/{pid}/status").read_text()
        caught = int(status.split("SigCgt:")[1].split()[0], 16)
    except (OSError, IndexError):
        return None
    if not caught >> (signal.SIGUSR1 - 1) & 1 or not stack.exists():
        return None
    os.truncate(stack, 0)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGUSR1)
    start = time.monotonic()
    while not (text := stack.read_text()).rstrip().endswith(_LAST):
        if process.poll() is not None or time.monotonic() - start > _WAIT:
            break
        time.sleep(0.001)
    return text
