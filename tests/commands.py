"""Runs commands in forks of one process that has imported what they need: each starts at once."""

import atexit
import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

_TESTS = Path(__file__).parent

# It imports the libraries and rooms, but not the commands. No device is in use when it forks.
_SERVER = """
import gc, json, os, runpy, sys, warnings
warnings.simplefilter("ignore")  # JAX warns about every fork.
import cv2, rich.table
import data_prep.prepare
import fer_jax.inference.predictor, fer_jax.reporting.comparison, fer_jax.training.run
warnings.resetwarnings()
gc.collect()
gc.freeze()  # Otherwise a fork searches, and so copies, all of this when it ends.
for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if not child:
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    sys.exit()
files = {0: (os.devnull, os.O_RDONLY), 1: (job["out"], os.O_WRONLY), 2: (job["err"], os.O_WRONLY)}
for number, (name, flags) in files.items():
    os.dup2(os.open(name, flags), number)
if not job["pictures"]:
    sys.path.append(job["tests"])
    import pictures
    pictures.leave_empty()
os.chdir(job["cwd"])
os.environ["XLA_FLAGS"] = job["xla_flags"]
sys.argv = [job["module"], *map(os.fsdecode, map(bytes.fromhex, job["arguments"]))]
runpy.run_module(job["module"], run_name="__main__", alter_sys=True)
"""


@functools.cache
def _server() -> subprocess.Popen:
    server = subprocess.Popen(
        [sys.executable, "-c", _SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # Otherwise training starts a new process for its huge pages.
        env=os.environ | {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"},
    )

    def stop() -> None:
        server.communicate()

    atexit.register(stop)
    return server


def run(
    module: str, *arguments: object, cwd: Path | str = ".", pictures: bool = True
) -> subprocess.CompletedProcess:
    """Runs `python -m module arguments` in a folder to its end; returns status and outputs.

    Without `pictures` the pages of runs and evaluations, and the pictures of records, are empty
    files, and other pictures are left out.
    """
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        out.touch(), err.touch()
        encoded = [os.fsencode(str(argument)).hex() for argument in arguments]
        job = {"module": module, "arguments": encoded, "out": str(out), "err": str(err)}
        job |= {"cwd": os.path.abspath(cwd), "pictures": pictures, "tests": str(_TESTS)}
        job["xla_flags"] = os.environ["XLA_FLAGS"]
        server = _server()
        assert server.stdin
        assert server.stdout
        print(json.dumps(job), file=server.stdin, flush=True)
        status = int(server.stdout.readline())
        texts = (file.read_text(errors="surrogateescape") for file in (out, err))
        return subprocess.CompletedProcess([module, *arguments], status, *texts)
