"""Records at a URL: fetched once for all processes of a machine, sent when they are prepared."""

import hashlib
import os
import re
import shutil
import sys
from pathlib import Path

from fer_jax.data.contract import DATASET_VERSION, DIGESTS, check_files
from fer_jax.errors import UserError
from fer_jax.remote import LOCK, Store, cache_dir, locked, make_copy_dir, scan

_RECORDS = re.compile(rf"[a-z][a-z0-9_]*/{re.escape(DATASET_VERSION)}/[^/]+")


def has_records(url: str) -> bool:
    """Returns whether there is a finished data set at a URL.

    Raises:
      UserError: the URL cannot be reached.
    """
    return any(_is_finished(name) for name in Store(url).sizes())


def fetch_records(url: str) -> Path:
    """Returns a copy of the records at a URL, in `~/.cache/fer_jax/records`.

    Processes of one machine share it. It is checked by its digests, and fetched again when the
    records at the URL have changed.

    Raises:
      UserError: the URL cannot be reached, has no finished data set, or a damaged one.
    """
    store = Store(url)
    there = store.sizes()
    finished = {os.path.dirname(name) for name in there if _is_finished(name)}
    sizes = {name: size for name, size in there.items() if os.path.dirname(name) in finished}
    if not sizes:
        raise UserError(
            f"no records at {url}; make them with `python -m data_prep --source PATH "
            f"--data_dir {url}`"
        )
    digests = [store.read(name) for name in sorted(sizes) if name.endswith(f"/{DIGESTS}")]
    version = hashlib.sha256(repr((sorted(sizes.items()), digests)).encode()).hexdigest()[:16]
    parent = cache_dir("records", url)
    make_copy_dir(parent, url)
    folder, partial = parent / version, parent / f"{version}.partial"
    with locked(parent / LOCK, wait=True):
        if not _is_intact(folder):
            for old in (folder, partial):
                shutil.rmtree(old, ignore_errors=True)
            size = f"{sum(sizes.values()) / 1e6:,.1f} MB"
            print(f"fetching the records at {url}, {size}", file=sys.stderr, flush=True)
            store.fetch(sizes, partial)
            try:
                check_files(partial)
            except UserError as error:
                raise UserError(str(error).replace(str(partial), url)) from error
            partial.rename(folder)
    return folder


def send_records(folder: Path, url: str) -> int:
    """Sends a prepared data set: pictures, then shards, and last what makes it count as finished.

    Returns:
      The number of files.

    Raises:
      UserError: the URL cannot be reached.
    """
    store, names = Store(url), sorted(scan(folder))
    last = [name for name in names if _is_finished(name)]
    digests = [name for name in names if _RECORDS.fullmatch(name) and name.endswith(DIGESTS)]
    store.send([name for name in names if name not in (*last, *digests)], folder)
    store.send(digests, folder)
    store.send(last, folder)
    return len(names)


def _is_finished(name: str) -> bool:
    return bool(_RECORDS.fullmatch(name)) and name.endswith("/dataset_info.json")


def _is_intact(folder: Path) -> bool:
    try:
        check_files(folder)
    except UserError:
        return False
    return folder.exists()
