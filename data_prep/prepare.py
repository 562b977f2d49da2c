"""The whole conversion, in the order in which it happens."""

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_prep.builder import is_finished, read_metadata, remove_leftovers, write_records
from data_prep.checking import check, fingerprint
from data_prep.figures import draw_class_distribution, draw_samples
from data_prep.report import count, print_counts, write_quarantine
from data_prep.sources import open_source
from fer_jax.data.contract import record_dir
from fer_jax.errors import UserError

MAX_QUARANTINED = 0.01
"""The share of files or rows that may be bad before a release as a whole is doubted."""


def prepare(source: str, data_dir: Path, resize: bool = False, allow_bad: bool = False) -> None:
    """Converts the release that `source` names into array records below `data_dir`.

    Pictures and quarantine come first and the records appear last, in one step: a run that was
    killed leaves no data set, and the next one starts afresh.

    Raises:
      UserError: the source, the folder or the share of bad files does not allow it.
    """
    with _locked(data_dir):
        if is_finished(data_dir):
            about = read_metadata(data_dir)
            print(
                f"{record_dir(data_dir)} is already finished: {about['images']:,} images of source "
                f"{about['source']!r}, fingerprint {about['fingerprint'][:12]}. Nothing was done; "
                "delete it to convert again."
            )
            return
        if record_dir(data_dir).exists():
            raise UserError(f"{record_dir(data_dir)} holds no whole data set: delete it first.")
        remove_leftovers(data_dir)

        with open_source(source) as release:
            progress = tqdm(
                release.candidates, "checking", release.total, unit=" images", disable=None
            )
            records, quarantined = check(progress, resize)

        report = data_dir / "quarantine.csv"
        write_quarantine(report, quarantined)
        total = len(records) + len(quarantined)
        summary = f"{len(quarantined):,} of {total:,} files or rows are quarantined"
        if not records:
            raise UserError(f"no image is usable: {summary}, each with its reason in {report}.")
        if len(quarantined) > MAX_QUARANTINED * total and not allow_bad:
            raise UserError(
                f"{summary}, more than {MAX_QUARANTINED:.0%}, each with its reason in {report}: "
                "mend them, or pass --allow_bad to go on without them."
            )

        counts = count(records)
        title = f"FER-2013 ({release.kind})"
        draw_samples(data_dir / "samples.png", title, records, counts)
        draw_class_distribution(data_dir / "class_distribution.png", title, counts)
        metadata: dict[str, Any] = {
            "source": release.kind,
            "images": len(records),
            "quarantined": len(quarantined),
            "resized": resize,
            "fingerprint": fingerprint(records),
        }
        write_records(data_dir, records, metadata, show_progress=sys.stderr.isatty())

    print_counts(counts, beside_published=release.kind != "sample")
    print(f"{summary}: {report}")
    print(f"pictures: {data_dir / 'samples.png'} {data_dir / 'class_distribution.png'}")
    print(f"records: {record_dir(data_dir)} (fingerprint {metadata['fingerprint'][:12]})")


@contextmanager
def _locked(data_dir: Path) -> Iterator[None]:
    """Creates `data_dir` and keeps other runs out of it; the lock dies with the process."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        folder = os.open(data_dir, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"--data_dir {data_dir} cannot be made: {error.strerror}.") from None
    try:
        if not os.access(data_dir, os.W_OK | os.X_OK):
            raise UserError(f"--data_dir {data_dir} cannot be written to: choose another.")
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another run is writing to {data_dir}: wait for it to end.") from None
        except OSError:
            pass  # A file system without locks: go on as if alone.
        yield
    finally:
        os.close(folder)
