"""A file system `bucket://` that stands in for an object store, kept in a folder.

It can list, read, write and delete whole files, and has no rename, append or lock. Files in the
folder `.control` tell it to fail: `down` fails everything; `full` fails every write; `die` ends the
process at the first write of a name that matches a line of it.
"""

import contextlib
import fnmatch
import os
import shutil
import signal
from pathlib import Path

import fsspec

FOLDER = "FER_JAX_TEST_BUCKETS"
"""Environment variable with the folder that keeps the buckets."""


class ObjectStore(fsspec.AbstractFileSystem):
    """The file system."""

    protocol = "bucket"
    cachable = False

    @property
    def _folder(self) -> Path:
        return Path(os.environ[FOLDER])

    def _file(self, path: str, *, write: bool = False) -> Path:
        path = self._strip_protocol(path)
        control = self._folder / ".control"
        if (control / "down").exists() or (write and (control / "full").exists()):
            raise ConnectionError("no answer from bucket")
        deadly = (control / "die").read_text().split() if (control / "die").exists() else []
        if write and any(fnmatch.fnmatch(path, pattern) for pattern in deadly):
            os.kill(os.getpid(), signal.SIGKILL)
        return self._folder / path

    def find(self, path, maxdepth=None, withdirs=False, detail=False, **kwargs):
        top = self._file(path)
        files = [file for file in top.rglob("*") if file.is_file()]
        names = {f"{file.relative_to(self._folder)}": file.stat().st_size for file in files}
        found = {n: {"name": n, "size": size, "type": "file"} for n, size in sorted(names.items())}
        return found if detail else list(found)

    def cat_file(self, path, start=None, end=None, **kwargs):
        return self._file(path).read_bytes()

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        file = self._file(path, write=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("xb" if mode == "create" else "wb") as output:
            output.write(value)

    def get_file(self, rpath, lpath, **kwargs):
        shutil.copyfile(self._file(rpath), lpath)

    def put_file(self, lpath, rpath, **kwargs):
        content = Path(lpath).read_bytes()
        self.pipe_file(rpath, content)

    def rm_file(self, path):
        file = self._file(path, write=True)
        file.unlink()
        with contextlib.suppress(OSError):
            os.removedirs(file.parent)  # Empty folders are nothing in an object store.


fsspec.register_implementation("bucket", ObjectStore, clobber=True)
