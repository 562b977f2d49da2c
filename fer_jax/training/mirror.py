"""A workdir at a URL: the run works in a copy on this machine, and what changes is sent there.

A file at the URL is only ever whole, but files come one after the other. So their order makes the
remote workdir good to resume from at any moment:

1. report.html is deleted first and sent last, since a run that has it is finished.
2. config.json comes before any checkpoint, which could not be resumed without it.
3. A checkpoint's digests.json is deleted before its files change, and sent after them. Without it
   a checkpoint does not count, and the next start deletes it.
4. Old checkpoints are deleted after the new ones are there, their digests.json first.
"""

import contextlib
import datetime
import functools
import itertools
import json
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from fer_jax import stopping
from fer_jax.data.contract import DIGESTS
from fer_jax.errors import UserError, warn, write_atomically
from fer_jax.paths import user_place
from fer_jax.remote import (
    LOCK,
    OWNER,
    Store,
    cache_dir,
    checkpoint_of,
    incomplete,
    is_digests,
    load_json,
    locked,
    make_copy_dir,
    scan,
)
from fer_jax.workdir import CONFIG, PAGE

BEAT = 5.0
"""Seconds between the signs of life of a run, and between looks for files to send."""

_STATE = ".sent.json"  # Which files are at the URL as they are here.
_PAUSES = (1.0, 4.0)  # Seconds before the last files are tried again.

Train = Callable[..., dict[str, Any]]


def mirrored(train: Train) -> Train:
    """Lets a function take a URL as its workdir.

    Process 0 keeps the URL equal to the folder that the function gets. The others get the name of
    a folder that nobody makes.
    """

    @functools.wraps(train)
    def train_anywhere(
        config: ConfigDict, workdir: str | os.PathLike, **options: Any
    ) -> dict[str, Any]:
        place = user_place(workdir)
        if isinstance(place, Path):
            return train(config, place, **options)
        if jax.process_index() != 0:
            return train(config, cache_dir("runs", place) / "on-process-0", **options)
        with _mirror(place) as folder:
            return train(config, folder, **options)

    return train_anywhere


@contextlib.contextmanager
def _mirror(url: str) -> Iterator[Path]:
    """Gives a folder that holds what is at a URL, and sends there what changes in it.

    However the block ends, what has changed is sent before the context ends.

    Raises:
      UserError: the URL cannot be reached, another run trains there, or in the end the last files
        cannot be sent. They are kept, and the message says where. When the block itself raises,
        that is a warning.
    """
    store, parent = Store(url), cache_dir("runs", url)
    folder = make_copy_dir(parent, url)
    with locked(parent / LOCK, wait=False) as free:
        if not free:
            raise UserError(
                f"another process on this machine is training in {url}; wait for it, stop it, or "
                "choose another --workdir"
            )
        sender = _Sender(store, folder, parent / _STATE)
        lock = RemoteLock(store, sender.owner)
        print(f"{url} is kept equal to {folder}, where the run works", flush=True)
        try:
            sender.begin()
        except BaseException:
            lock.release()
            raise
        background = threading.Thread(
            target=_send_now_and_then, args=(sender, lock), name="mirror", daemon=True
        )
        background.start()
        ended: BaseException | None = None
        try:
            yield folder
        except BaseException as error:
            ended = error
            raise
        finally:
            # The first signal no longer ends the process; the second one does.
            with stopping.deferred() as request:
                request.answered = True
                problem = _end(sender, lock, background)
            if problem and ended:
                warn(problem)
            elif problem:
                raise problem


def _send_now_and_then(sender: "_Sender", lock: "RemoteLock") -> None:
    told = set()
    while not lock.wait(BEAT):
        try:
            sender.send()
        except Exception as error:
            kind = type(error.__cause__ or error)
            if kind not in told:
                told.add(kind)
                warn(f"{error}; the run goes on and tries again")


def _end(sender: "_Sender", lock: "RemoteLock", background: threading.Thread) -> UserError | None:
    """Sends the last files and gives the lock back. Returns what went wrong."""
    lock.stop()
    background.join()
    where = f"everything is in {sender.folder}, and the same command on this machine sends it"
    for pause in (*_PAUSES, None):
        if lock.lost:
            return UserError(f"{lock.lost}; what this run has not sent is in {sender.folder}")
        try:
            sender.send()
            lock.release()
            return None
        except Exception as error:
            if pause is None:
                return UserError(f"{error}; {where}")
            time.sleep(pause)
    return None


class RemoteLock:
    """Holds the file `.lock` of a remote workdir, and shows by writing it that its run lives.

    Google's storage and S3 write a file only if there is none, when they are asked to; other
    stores may let two runs that start in the same second both begin. Each then looks at every beat
    whether the lock is its own, and the one that has lost it sends nothing more.
    """

    def __init__(self, store: Store, owner: str):
        """Takes the lock.

        Args:
          store: the remote workdir.
          owner: name of this machine's copy, which only this process uses.

        Raises:
          UserError: a living run holds it; the message has its process and host.
        """
        self._store = store
        self.lost = ""
        self._holder = {
            "host": socket.gethostname(),
            "process": os.getpid(),
            "owner": owner,
            "run": uuid.uuid4().hex,
        }
        while not self._take():
            before = store.read(LOCK)
            holder = load_json(before)
            if holder.get("owner") != owner and before and self._moves(before):
                raise UserError(self._who(holder))
            store.delete(LOCK)  # Its run was killed.
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="remote lock", daemon=True)
        self._thread.start()

    def wait(self, seconds: float) -> bool:
        """Waits until the lock is stopped or lost, at most some seconds; returns whether it is."""
        return self._stopped.wait(seconds)

    def stop(self) -> None:
        """Gives no more signs of life."""
        self._stopped.set()
        self._thread.join()

    def release(self) -> None:
        """Gives the lock back."""
        self.stop()
        if not self.lost:
            self._store.delete(LOCK)

    def _take(self) -> bool:
        try:
            self._store.write(LOCK, self._content(), new=True)
        except FileExistsError:
            return False
        except UserError:  # Not all file systems have an error of its own for this.
            if self._store.read(LOCK) is None:
                raise
            return False
        return True

    def _content(self) -> bytes:
        now = datetime.datetime.now(datetime.UTC).isoformat()
        return json.dumps({**self._holder, "time": now}).encode()

    def _beat(self) -> None:
        while not self._stopped.wait(BEAT):
            with contextlib.suppress(UserError):  # The network may come back.
                holder = load_json(self._store.read(LOCK))
                if holder.get("run", self._holder["run"]) != self._holder["run"]:
                    self.lost = self._who(holder)
                    self._stopped.set()
                    warn(f"{self.lost}; this run sends nothing more")
                    return
                self._store.write(LOCK, self._content())

    def _moves(self, before: bytes) -> bool:
        """Whether the lock changes within the time of three signs of life."""
        end = time.monotonic() + 3 * BEAT
        while time.monotonic() < end:
            time.sleep(BEAT / 5)
            if (now := self._store.read(LOCK)) != before:
                return now is not None  # None: it has just ended.
        return False

    def _who(self, holder: dict[str, Any]) -> str:
        return (
            f"process {holder.get('process')} on {holder.get('host')} is training in "
            f"{self._store.url}; wait for it, stop it, or choose another --workdir"
        )


class _Sender:
    """Knows which files of a folder are at the URL as they are here, and sends the others.

    Attributes:
      folder: the copy on this machine.
      owner: name of the copy.
    """

    def __init__(self, store: Store, folder: Path, state: Path):
        self.folder = folder
        self._store, self._state = store, state
        known = load_json(state.read_bytes() if state.exists() else None)
        self.owner: str = known.get("owner") or uuid.uuid4().hex
        self._sent: dict[str, list[int]] = known.get("sent") or {}
        self._known = bool(known)  # Otherwise a folder that is there was not fetched whole.

    def begin(self) -> None:
        """Makes the folder equal to the URL, or keeps it if it was the last to be sent there.

        The lock must be held. A folder with files that were never sent is set aside if another
        machine has gone on meanwhile.

        Raises:
          UserError: the URL cannot be reached.
        """
        there = self._store.sizes()
        if LOCK not in there:  # Some file systems list nothing when the list cannot be had.
            raise UserError(f"cannot list {self._store.url}; check your access")
        here = scan(self.folder)
        if not self._is_latest(here, there):
            if self._known and any(here[name] != self._sent.get(name) for name in here):
                self._set_aside()
            here, self._sent = {}, {}
            self._state.unlink(missing_ok=True)
            shutil.rmtree(self.folder, ignore_errors=True)
        broken = incomplete(there)
        new = there.keys() - broken - here.keys() - self._sent.keys() - {LOCK, OWNER}
        self.folder.mkdir(exist_ok=True)
        self._store.fetch(sorted(new), self.folder)
        here = scan(self.folder)
        self._sent.update((name, here[name]) for name in new if name in here)
        self._save()
        self._store.write(OWNER, json.dumps({"owner": self.owner}).encode())
        gone = {name for name in broken if checkpoint_of(name) not in map(checkpoint_of, here)}
        if gone:
            names = ", ".join(sorted({checkpoint_of(name) for name in gone}))
            warn(f"{names} in {self._store.url} was not sent whole, and is deleted")
        for name in sorted(gone):
            self._store.delete(name)

    def send(self) -> None:
        """Sends what has changed, in the order that the head of this file gives.

        Raises:
          UserError: something cannot be sent; the next call goes on there. Or somebody has deleted
            the copy, which is no reason to delete what is at the URL.
        """
        here = self._settled(scan(self.folder))
        if self._is_lost(here):
            raise UserError(
                f"{self.folder} has lost its {CONFIG}; {self._store.url} stays as it is"
            )
        changed = sorted((n for n in here if here[n] != self._sent.get(n)), key=_order)
        gone = self._sent.keys() - here.keys()
        if not changed and not gone:
            return
        try:
            self._delete(sorted(name for name in gone if name.rpartition("/")[2] == PAGE))
            touched = {checkpoint_of(name) for name in changed} - {""}
            self._delete(f"{checkpoint}/{DIGESTS}" for checkpoint in sorted(touched))
            for _, group in itertools.groupby(changed, key=_order):
                names = [
                    name for name in group if not is_digests(name) or self._is_whole(name, here)
                ]
                stamps = {name: here[name] for name in names}
                there = self._store.send(names, self.folder)
                self._sent.update((name, stamps[name]) for name in there)
            self._delete(sorted(gone, key=lambda name: (not is_digests(name), name)))
        finally:
            self._save()

    def _settled(self, here: dict[str, list[int]]) -> dict[str, list[int]]:
        """Takes checkpoints without digests, which are being deleted, as they were when sent."""
        whole = {checkpoint_of(name) for name in here if is_digests(name)}
        return {
            name: now if checkpoint_of(name) in ("", *whole) else self._sent[name]
            for name, now in here.items()
            if checkpoint_of(name) in ("", *whole) or name in self._sent
        }

    def _is_whole(self, digests: str, here: dict[str, list[int]]) -> bool:
        """Whether all files of a checkpoint are at the URL as they are here."""
        names = [name for name in here if checkpoint_of(name) == checkpoint_of(digests)]
        return all(self._sent.get(name) == here[name] for name in names if name != digests)

    def _delete(self, names: Any) -> None:
        for name in names:
            if name in self._sent:
                self._store.delete(name)
                del self._sent[name]

    def _is_latest(self, here: dict[str, list[int]], there: dict[str, int]) -> bool:
        """Whether nobody but this copy has changed what is at the URL."""
        owner = load_json(self._store.read(OWNER) if OWNER in there else None).get("owner")
        known = owner == self.owner and not self._is_lost(here)
        return known and all(
            there.get(name) == here[name][0]
            for name, sent in self._sent.items()
            if here.get(name) == sent
        )

    def _is_lost(self, here: dict[str, list[int]]) -> bool:
        return CONFIG in self._sent and CONFIG not in here

    def _set_aside(self) -> None:
        names = (
            self.folder.with_name(f"{self.folder.name}.unsent-{k}") for k in itertools.count(1)
        )
        aside = next(path for path in names if not path.exists())
        self.folder.rename(aside)
        warn(
            f"{self._store.url} has changed since this machine wrote to it, and the run goes on "
            f"from there; what was never sent is in {aside}"
        )

    def _save(self) -> None:
        state = {"owner": self.owner, "sent": self._sent}
        write_atomically(self._state, json.dumps(state))


def _order(name: str) -> tuple:
    """Returns where a file stands in the order of sending; files of equal rank go together."""
    folder, _, file = name.rpartition("/")
    if checkpoint := checkpoint_of(name):
        step = checkpoint.rpartition("/")[2].partition(".")[0]
        return (1, int(step) if step.isdecimal() else 0, checkpoint, is_digests(name))
    if file == CONFIG:
        return (0,)
    if file == PAGE and "eval" not in folder.split("/"):
        return (3, -name.count("/"))  # The page of an ensemble comes after those of its members.
    return (2,)
