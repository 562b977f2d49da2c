"""Writes array records with TensorFlow Datasets, without TensorFlow."""

import contextlib
import errno
import functools
import io
import json
import os
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import shuffle

from data_prep.checking import Record
from data_prep.description import Description
from data_prep.store import Store, open_store
from fer_jax.data.contract import (
    DATASET_NAME,
    DATASET_VERSION,
    DIGESTS,
    FILENAME,
    GROUP,
    IMAGE,
    LABEL,
    ORIGINAL,
    VOTES,
    check_files,
    damaged,
    digest_files,
    record_dir,
)
from fer_jax.data.shards import Index, Shards, index_name


class _Info(tfds.core.DatasetInfo):
    """Adds the splits' indices and the files' digests while the folder is still incomplete."""

    def write_to_directory(self, dataset_info_dir: Any, all_metadata: bool = True) -> None:
        super().write_to_directory(dataset_info_dir, all_metadata)
        folder = Path(dataset_info_dir)
        for name, split in self.splits.items():
            paths = [folder / filename for filename in sorted(split.filenames)]
            index = Index.scan(Shards(paths, split.shard_lengths))
            (folder / index_name(self.name, name)).write_bytes(index.to_bytes())
        digests = json.dumps(digest_files(folder), indent=2)
        (folder / DIGESTS).write_text(digests + "\n")


class LabelledFaces(tfds.core.GeneratorBasedBuilder):
    """FER-2013, or any other set of labelled faces."""

    name = DATASET_NAME  # A description may give another one.
    VERSION = tfds.core.Version(DATASET_VERSION)
    code_path = None  # Searching for it needs a package that TFDS does not declare.

    def __init__(
        self,
        records: Sequence[Record],
        description: Description,
        metadata: dict[str, Any],
        **kwargs: Any,
    ):
        """Takes the records to write, what they are, and the metadata to store with them."""
        self._records: dict[str, list[Record]] = defaultdict(list)
        for record in records:
            self._records[record.split].append(record)
        self._description = description
        self._metadata = metadata
        self.name = description.name
        super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        images, classes = self._description.images, self._description.classes
        features = {
            FILENAME: tfds.features.Text(),
            IMAGE: tfds.features.Image(shape=images.shape, encoding_format="png"),
            LABEL: tfds.features.ClassLabel(names=list(classes)),
        }
        records = [record for of_split in self._records.values() for record in of_split]
        if any(record.votes is not None for record in records):
            features[VOTES] = tfds.features.Tensor(shape=(len(classes),), dtype=np.float32)
        features |= {
            key: tfds.features.Text()
            for key in (GROUP, ORIGINAL)
            if any(getattr(record, key) for record in records)
        }
        self._optional = features.keys() - {FILENAME, IMAGE, LABEL}
        return _Info(
            builder=self,
            description=f"{self._description.title}: {images} faces, {len(classes)} classes.",
            homepage=self._description.homepage,
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(self._metadata),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        return {split: self._generate_examples(split) for split in sorted(self._records)}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        copies: Counter[str] = Counter()
        for record in sorted(self._records[split], key=lambda record: record.name):
            copies[record.content] += 1
            key = f"{record.content}-{copies[record.content]}"
            example = {FILENAME: record.name, IMAGE: record.png(), LABEL: record.label}
            yield key, example | {name: getattr(record, name) for name in self._optional}


class _Shuffler(shuffle.Shuffler):
    """Keeps records in a store while they are sorted by key.

    TFDS keeps 1 GB in memory, and needs TensorFlow for more.
    """

    def __init__(self, store: Store, **kwargs: Any):
        super().__init__(**kwargs)
        self._store = store

    def _add_to_mem_buffer(self, hkey: int, data: bytes) -> None:
        self._mem_buffer.append((hkey, self._store.put(data)))

    def _iter_mem(self) -> Iterator[tuple[int, bytes]]:
        for hkey, stored in sorted(self._mem_buffer, key=lambda pair: pair[0]):
            yield hkey, stored.read()


@contextlib.contextmanager
def _shuffle_in(store: Store) -> Iterator[None]:
    original = shuffle.Shuffler
    shuffle.Shuffler = functools.partial(_Shuffler, store)
    try:
        yield
    finally:
        shuffle.Shuffler = original


def is_finished(data_dir: Path) -> bool:
    """Whether `data_dir` holds a complete data set; TFDS gives the folder its name at the end."""
    return (record_dir(data_dir) / "dataset_info.json").exists()


def read_metadata(data_dir: Path) -> dict[str, Any]:
    """Returns the metadata of the finished data set in `data_dir`.

    Raises:
      UserError: a file of the data set is missing or damaged.
    """
    check_files(data_dir)
    try:
        metadata = json.loads((record_dir(data_dir) / "metadata.json").read_bytes())
        missing = {"source", "images", "quarantined", "fingerprint"} - set(metadata)
        if missing or not isinstance(metadata, dict):
            raise ValueError(f"it has no {' and '.join(sorted(missing))}")
    except (OSError, ValueError, TypeError) as error:  # Older records have no digests.
        raise damaged(data_dir, "metadata.json", error) from error
    return metadata


def remove_leftovers(data_dir: Path) -> None:
    """Removes the incomplete folders of killed runs; a finished data set stays."""
    for folder in data_dir.glob(f"*/incomplete.*_{DATASET_VERSION}"):
        shutil.rmtree(folder)


def write_records(
    data_dir: Path,
    records: Sequence[Record],
    description: Description,
    metadata: dict[str, Any],
    show_progress: bool,
) -> None:
    """Writes `record_dir(data_dir)`, which appears once it is complete.

    The order of the records depends on their contents alone, so the same images are split, drawn
    and trained on alike, whatever their names.
    """
    tfds.display_progress_bar(show_progress)
    builder = LabelledFaces(records, description, metadata, data_dir=data_dir)
    try:
        # TFDS announces a download, but there is none.
        with (
            tempfile.TemporaryDirectory() as unused,
            contextlib.redirect_stdout(io.StringIO()),
            open_store(data_dir) as store,
            _shuffle_in(store),
        ):
            builder.download_and_prepare(
                download_dir=unused,
                download_config=tfds.download.DownloadConfig(try_download_gcs=False),
            )
    except RuntimeError as error:
        if os.strerror(errno.ENOSPC) in str(error):  # array_record hides the OSError.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(data_dir)) from None
        raise
