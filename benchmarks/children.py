"""Runs commands in processes of their own."""

import signal
import subprocess
import sys

from fer_jax.errors import UserError


def run(module: str, *arguments: str) -> None:
    """Runs a command in a process of its own, with its output on standard error.

    Args:
      module: its module, such as "fer_jax.main".
      arguments: its flags.

    Raises:
      UserError: it failed; the message is its last line.
    """
    command = [sys.executable, "-u", "-m", module, *arguments]
    with subprocess.Popen(command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True) as process:
        try:
            _, errors = process.communicate()
        except KeyboardInterrupt:
            process.terminate()  # Training saves before it ends.
            process.communicate()
            raise
    if process.returncode:
        sys.stderr.write(errors)
        raise failure(module, errors, process.returncode)


def stop_on_sigterm() -> None:
    """SIGTERM ends this command like Ctrl-C: a training that it started saves and ends too."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def failure(name: str, errors: str, status: int) -> UserError:
    """Returns the error of a command that failed, with the last line of its standard error."""
    lines = errors.strip().splitlines() or [f"exit status {status}"]
    return UserError(f"{name} failed: {lines[-1].removeprefix('error: ')}")
