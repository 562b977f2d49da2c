"""The whole conversion, in order."""

import fcntl
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_prep.builder import is_finished, read_metadata, remove_leftovers, write_records
from data_prep.candidates import Listing, Release
from data_prep.checking import Cut, Record, check, fingerprints
from data_prep.description import Description
from data_prep.figures import draw_class_distribution, draw_samples
from data_prep.finished import refuse_another, refuse_other_name, shown
from data_prep.inspection import differing_classes, refuse_small_classes, repeated
from data_prep.labellings import open_labelled
from data_prep.options import Options
from data_prep.report import Counts, count, print_counts, resize_hint, totals, write_quarantine
from data_prep.store import Store, open_store
from fer_jax.data.contract import IMAGE_SIZE, record_dir
from fer_jax.data.remote_records import fetch_records, has_records, send_records
from fer_jax.errors import UserError, warn
from fer_jax.remote import cache_dir

MAX_QUARANTINED = 0.01
"""Largest fraction of bad files or rows that is accepted without --allow_bad."""


def prepare(options: Options) -> None:
    """Converts the source to array records below `options.data_dir`.

    Pictures and quarantine are written first. The records appear last, in one step, so a killed run
    leaves no data set and the next run starts over. Records for a URL are prepared on this machine
    and then sent, what makes them count as finished last.

    Raises:
      UserError: the source or the folder cannot be used, or too many files or rows are bad.
    """
    url = options.data_dir
    if isinstance(url, Path):
        _prepare(options, url)
    elif has_records(url):
        _prepare(options, fetch_records(url))  # Which says that they are finished, or refuses.
    else:
        folder = cache_dir("prepared", url)
        _prepare(options, folder)
        try:
            number = send_records(folder, url)
        except UserError as error:
            raise UserError(
                f"{error}; the records are in {folder}, and the same command sends them."
            ) from error
        shutil.rmtree(folder)
        print(f"all {number} files are at {url} now")


def _prepare(options: Options, data_dir: Path) -> None:
    with _locked(data_dir):
        refuse_other_name(data_dir, options.name)
        if is_finished(data_dir):
            about = read_metadata(data_dir)
            refuse_another(options, data_dir, about)
            print(
                f"{shown(data_dir)} is already finished: {about['images']:,} images from "
                f"source {about['source']!r}, fingerprint {about['fingerprint'][:12]}. Nothing was "
                "done; delete it to convert again."
            )
            return
        if record_dir(data_dir).exists():
            raise UserError(f"{record_dir(data_dir)} is incomplete: delete it first.")
        remove_leftovers(data_dir)

        with open_store(data_dir) as store:
            _convert(options, data_dir, store)


def _convert(options: Options, data_dir: Path, store: Store) -> None:
    images = options.images
    with open_labelled(options) as release:
        listing = Listing(release.candidates)
        progress = tqdm(listing, "checking", release.total, unit=" images", disable=None)
        resize = options.resize or release.any_size or images.size != IMAGE_SIZE
        cut = _face_cutter() if options.detect_faces else None
        records, quarantined = check(progress, images, store, resize=resize, cut=cut)

    report = data_dir / "quarantine.csv"
    write_quarantine(report, quarantined)
    total = len(records) + len(quarantined)
    summary = f"{len(quarantined):,} of {total:,} files or rows are quarantined"
    summary += resize_hint(quarantined)
    if not records:
        raise UserError(
            f"no image is usable: {summary}; see the reasons in {report}, and mend the source."
        )
    if len(quarantined) > MAX_QUARANTINED * total and not options.allow_bad:
        raise UserError(
            f"{summary}, more than {MAX_QUARANTINED:.0%}; see the reasons in {report}: "
            "mend the files, or pass --allow_bad to go on without them."
        )

    description = Description(options.name, release.classes, options.images)
    counts = count(records, release.classes)
    if release.own:
        by_votes = any(record.votes for record in records)
        refuse_small_classes(counts, release.classes, by_votes=by_votes)
    _announce(release, records, counts)
    title = f"{description.title} ({release.kind})"
    draw_samples(data_dir / "samples.png", title, records, counts, release.classes)
    draw_class_distribution(data_dir / "class_distribution.png", title, counts, release.classes)
    metadata: dict[str, Any] = {
        "source": release.kind,
        "images": len(records),
        "quarantined": len(quarantined),
        "left_out": release.left_out.total(),
        "listing": listing.digest,
        "resized": resize,
        "fit": options.images.fit,
        "options": options.facts,
        **fingerprints(records),
    }
    write_records(data_dir, records, description, metadata, show_progress=sys.stderr.isatty())

    print_counts(counts, release.classes, beside_published=release.published)
    place = options.data_dir  # If it is a URL, everything is sent there now.
    folder = record_dir(data_dir).relative_to(data_dir)
    print(f"{summary}: {place}/{report.name}")
    print(f"pictures: {place}/samples.png {place}/class_distribution.png")
    print(f"records: {place}/{folder} (fingerprint {metadata['fingerprint'][:12]})")


def _face_cutter() -> Cut:
    from data_prep.faces import cut_face  # It imports what `predict` needs.

    return cut_face


def _announce(release: Release, records: Sequence[Record], counts: Counts) -> None:
    """Says, before the records are written, how the source was understood, and what is odd."""
    if release.own:
        numbers = totals(counts, release.classes).items()
        print("classes in order:", ", ".join(f"{name} ({number:,})" for name, number in numbers))
    for note in release.notes:
        print(f"note: {note}")
    for what, number in release.left_out.items():
        print(f"left out: {number:,} {what}")
    odd = differing_classes(counts, release.classes) if release.own else []
    for line in (*odd, *repeated(records)):
        warn(line)
    sys.stdout.flush()


@contextmanager
def _locked(data_dir: Path) -> Iterator[None]:
    """Creates `data_dir` and locks it against other runs; the lock ends with the process."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        folder = os.open(data_dir, os.O_RDONLY)
    except OSError as error:
        raise UserError(
            f"--data_dir {data_dir} cannot be made ({error.strerror}): choose another."
        ) from None
    try:
        if not os.access(data_dir, os.W_OK | os.X_OK):
            raise UserError(f"--data_dir {data_dir} cannot be written to: choose another.")
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another run is writing to {data_dir}: wait for it to end.") from None
        except OSError:
            pass  # The file system has no locks; assume that no other run writes here.
        yield
    finally:
        os.close(folder)
