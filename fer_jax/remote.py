"""Folders at URLs, such as gs://bucket/run, and their copies on this machine.

Every file system of fsspec works. Only what all object stores have is used: list, read, write and
delete whole files. Commands work on copies, `fer_jax/training/mirror.py` keeps that of a run equal.
"""

import contextlib
import errno
import fcntl
import fnmatch
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fer_jax.data.contract import DIGESTS
from fer_jax.errors import UserError
from fer_jax.paths import user_place

LOCK, OWNER = ".lock", ".owner"
"""Files that only a remote workdir has: the run that trains there; the copy that was sent last."""

_ORIGIN = ".fer_jax_url"  # Beside a copy: the URL of the folder.
_EXTRAS = {"gs": "gcs", "gcs": "gcs", "s3": "s3", "s3a": "s3"}
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # Errors of this machine's disk.
_AT_ONCE = 8  # Files that are copied at the same time.
_CHECKPOINT = re.compile(r"(?:.*/)?checkpoints/[^/]+(?=/)")


class Store:
    """The files below a URL. Whatever goes wrong is a `UserError`."""

    def __init__(self, url: str):
        """Opens the file system; whether the URL can be reached shows when it is used.

        Raises:
          UserError: there is no such file system, or its package is not installed.
        """
        import fsspec.core

        # gcsfs would ask by gRPC for the kind of the bucket, and warn at each call that it cannot.
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        self.url = url
        try:
            with self._told("open"):
                self._files, self._root = fsspec.core.url_to_fs(url)
        except UserError as error:
            if not isinstance(error.__cause__, ImportError):
                raise
            extra = _EXTRAS.get(url.partition(":")[0])
            how = f"pip install 'fer_jax[{extra}]'" if extra else error.__cause__
            raise UserError(f"{url} needs a package that is not installed: {how}") from error

    def sizes(self) -> dict[str, int]:
        """Returns the size of each file in bytes, by its path below the URL."""
        with self._told("list"):
            self._files.invalidate_cache()
            found = self._files.find(self._root, detail=True)
        prefix = f"{self._root.rstrip('/')}/"
        names = {name.removeprefix(prefix): info for name, info in found.items()}
        # A name that ends with a slash is a folder made on a web page.
        return {
            name: info["size"]
            for name, info in names.items()
            if name and not name.startswith("/") and not name.endswith("/")
            if ".." not in name.split("/")
        }

    def read(self, name: str) -> bytes | None:
        """Returns the content of a file; None if there is none."""
        with self._told(f"read {name} of"):
            try:
                content: bytes = self._files.cat_file(self._path(name))
            except FileNotFoundError:
                return None
        return content

    def write(self, name: str, content: bytes, *, new: bool = False) -> None:
        """Writes a small file.

        Raises:
          FileExistsError: with `new`, there is one.
        """
        with self._told(f"write {name} to"):
            self._files.pipe_file(self._path(name), content, mode="create" if new else "overwrite")

    def delete(self, name: str) -> None:
        """Deletes a file, if there is one."""
        with self._told(f"delete {name} in"), contextlib.suppress(FileNotFoundError):
            self._files.rm_file(self._path(name))

    def fetch(self, names: Collection[str], folder: Path) -> None:
        """Copies files into a folder, at the same paths."""

        def fetch_one(name: str) -> None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with self._told(f"read {name} of"):
                self._files.get_file(self._path(name), os.fspath(folder / name))

        _each(fetch_one, names)

    def send(self, names: Collection[str], folder: Path) -> list[str]:
        """Copies files of a folder to the same paths; returns the names of those that were there.

        A file that is deleted meanwhile is left out.
        """

        def send_one(name: str) -> bool:
            try:
                with self._told(f"write {name} to"):
                    self._files.put_file(os.fspath(folder / name), self._path(name))
            except UserError:
                if (folder / name).exists():
                    raise
                return False
            return True

        sent = _each(send_one, names)
        return [name for name, there in zip(names, sent, strict=True) if there]

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except (UserError, FileExistsError):
            raise
        except Exception as error:  # Each file system raises what its library raises.
            if getattr(error, "errno", None) in _FULL:
                raise
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            if isinstance(error, FileNotFoundError):  # Its text is often no more than a path.
                reason = f"not found: {reason}"
            raise UserError(
                f"cannot {what} {self.url}: {reason}; check the URL, the network and your access"
            ) from error


def _each[T](function: Callable[[str], T], names: Collection[str]) -> list[T]:
    """Applies a function to all names, several at a time; raises the first error."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        tasks = [pool.submit(function, name) for name in names]
        try:
            return [task.result() for task in tasks]
        finally:
            for task in tasks:
                task.cancel()


def checkpoint_of(name: str) -> str:
    """Returns the path of the checkpoint that a file belongs to; "" if to none."""
    match = _CHECKPOINT.match(name)
    return match[0] if match else ""


def is_digests(name: str) -> bool:
    """Returns whether a file is the last one of a checkpoint, with the digests of the others."""
    return f"{checkpoint_of(name)}/{DIGESTS}" == name


def incomplete(names: Collection[str]) -> set[str]:
    """Returns the files of checkpoints that were not sent whole: those without digests.

    Folders that were copied by other programs than this one may hold checkpoints that are older
    than digests. They count as whole.
    """
    if OWNER not in names:
        return set()
    whole = {checkpoint_of(name) for name in names if is_digests(name)}
    return {name for name in names if checkpoint_of(name) and checkpoint_of(name) not in whole}


class Copy:
    """A copy of some files of a remote folder; or a local folder, as it is.

    Attributes:
      folder: the folder on this machine.
      remote: whether it is a copy.
    """

    def __init__(self, folder: Path, store: Store | None):
        self.folder, self.remote = folder, store is not None
        self.kept = False
        self._store = store
        self._fetched: dict[str, Any] = {}
        self._there: dict[str, int] | None = None

    def fetch(self, *patterns: str) -> None:
        """Fetches the files whose paths match a pattern; a star matches slashes, too.

        Raises:
          UserError: the URL cannot be reached, or has no files.
        """
        if self._store is None:
            return
        if self._there is None:
            self._there = self._store.sizes()
            if not self._there:
                raise UserError(f"there is nothing at {self._store.url}; check the URL")
        names = self._there.keys() - incomplete(self._there) - self._fetched.keys()
        wanted = [
            name
            for name in sorted(names)
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
        ]
        self._store.fetch(wanted, self.folder)
        self._fetched.update((name, stamp(self.folder / name)) for name in wanted)

    def send(self) -> None:
        """Sends the files that have been written since.

        Raises:
          UserError: they cannot be sent. They are kept, and the message says where.
        """
        if self._store is None:
            return
        here = scan(self.folder)
        try:
            self._store.send([n for n in here if here[n] != self._fetched.get(n)], self.folder)
        except UserError as error:
            self.kept = True
            raise UserError(f"{error}; the results are in {self.folder}") from error


@contextlib.contextmanager
def copied(place: str | os.PathLike) -> Iterator[Copy]:
    """Gives a local folder as it is; of a folder at a URL, a copy that is filled by `Copy.fetch`.

    The copy is deleted in the end. Errors about files in it name the URL.
    """
    place = user_place(place)
    if isinstance(place, Path):
        yield Copy(place, None)
        return
    store = Store(place)
    parent = Path(tempfile.mkdtemp(prefix="fer_jax_"))
    copy = Copy(_beside_origin(parent, place), store)
    try:
        yield copy
    except UserError as error:
        if copy.kept:
            raise
        raise UserError(str(error).replace(str(copy.folder), place)) from error
    finally:
        if not copy.kept:
            shutil.rmtree(parent)


def cache_dir(kind: str, url: str) -> Path:
    """Returns the folder for the lasting copies of a URL, which may not exist yet."""
    words = re.sub(r"[^A-Za-z0-9._]+", "-", url).strip("-")[-100:]
    digest = hashlib.sha256(url.encode()).hexdigest()[:8]
    return Path.home() / ".cache" / "fer_jax" / kind / f"{words}-{digest}"


def make_copy_dir(parent: Path, url: str) -> Path:
    """Makes a folder for copies of a URL; returns the place of a copy in it, which is not made.

    Raises:
      UserError: the folder cannot be made.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        return _beside_origin(parent, url)
    except OSError as error:
        raise UserError(
            f"cannot keep a copy of {url} in {parent}: {error.strerror}; set HOME to a folder that "
            "can be written to"
        ) from error


def _beside_origin(parent: Path, url: str) -> Path:
    (parent / _ORIGIN).write_text(url)
    return parent / url.rpartition("/")[2]


def place_of(folder: str | os.PathLike) -> str:
    """Returns the URL that a folder is a copy of; of any other folder, its path."""
    try:
        return (Path(folder).parent / _ORIGIN).read_text()
    except OSError:
        return str(folder)


def stamp(path: Path) -> list[int]:
    """Returns what changes when a file is written: its size and time."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def scan(folder: Path) -> dict[str, list[int]]:
    """Returns the stamp of each file below a folder, hidden and unfinished ones left out."""
    found = {}
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not _is_unfinished(name)]
        for name in names:
            path = Path(parent, name)
            if not _is_unfinished(name):
                with contextlib.suppress(FileNotFoundError):
                    found[path.relative_to(folder).as_posix()] = stamp(path)
    return found


def _is_unfinished(name: str) -> bool:
    return name.startswith(".") or ".orbax-checkpoint-tmp" in name


@contextlib.contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[bool]:
    """Locks a file among the processes of this machine; gives whether it could.

    A file system without locks counts as one on which nobody else works.
    """
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        except OSError:
            pass
        yield True


def load_json(content: bytes | None) -> dict[str, Any]:
    """Returns the object in a file; empty if there is no file, or it is damaged."""
    try:
        value = json.loads(content or b"{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
