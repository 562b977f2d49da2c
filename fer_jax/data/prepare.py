"""Prepares a config's data set if its records do not exist yet."""

import subprocess
import sys
from pathlib import Path

import jax

from fer_jax.data.contract import record_dir
from fer_jax.errors import UserError


def prepare_if_missing(data_dir: Path, source: str) -> None:
    """Runs `python -m data_prep --source SOURCE --data_dir DATA_DIR` if there are no records yet.

    Args:
      data_dir: folder of the records.
      source: value for `--source`; empty: nothing is prepared.

    Raises:
      UserError: preparation failed (it prints why), or there are several processes, which would
        race.
    """
    if not source or record_dir(data_dir).exists():
        return
    command = [sys.executable, "-m", "data_prep", "--source", source, "--data_dir", str(data_dir)]
    if jax.process_count() > 1:
        raise UserError(
            f"there are no records in {data_dir}; first run "
            f"`{' '.join(['python', *command[1:]])}` on every host"
        )
    if subprocess.run(command, check=False).returncode:
        raise UserError(f"could not prepare the data {source!r} in {data_dir}; see above")
