"""Runs commands of fer_jax in processes of their own."""

import subprocess
import sys

from fer_jax.errors import UserError


def run(module: str, *arguments: str) -> None:
    """Runs a command of fer_jax in a process of its own, with its output on standard error.

    Raises:
      UserError: it failed; the message is its last line.
    """
    command = [sys.executable, "-u", "-m", f"fer_jax.{module}", *arguments]
    with subprocess.Popen(command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True) as process:
        try:
            _, errors = process.communicate()
        except KeyboardInterrupt:
            process.terminate()  # Training saves before it ends.
            process.communicate()
            raise
    if process.returncode:
        sys.stderr.write(errors)
        raise failure(f"fer_jax.{module}", errors, process.returncode)


def failure(name: str, errors: str, status: int) -> UserError:
    """Returns the error of a command that failed, with the last line of its standard error."""
    lines = errors.strip().splitlines() or [f"exit status {status}"]
    return UserError(f"{name} failed: {lines[-1].removeprefix('error: ')}")
