"""Reads splits of the array records that `python -m data_prep` wrote."""

import contextlib
import dataclasses
import json
import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from fer_jax.data.contract import (
    CLASS_NAMES,
    IMAGE,
    INFO_FILES,
    LABEL,
    ImageFormat,
    check_files,
    damaged,
    record_dir,
    title_of,
)
from fer_jax.data.remote_records import fetch_records
from fer_jax.data.shards import Features, Index, Shards, index_name
from fer_jax.data.splits import stratified_split
from fer_jax.errors import UserError
from fer_jax.paths import is_url, user_place

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

VALIDATION_FRACTION = 0.2
_PARTS, _TESTS = ("train_80", "validation_20"), ("public_test", "private_test")


@dataclasses.dataclass(frozen=True)
class Records:
    """One split, with labels and names in memory and images behind `read`.

    Attributes:
      labels: class index of each record, Int32[n].
      filenames: name of each record in the source, n of them.
      read: function from k record numbers to their images, UInt8[k, size, size, channels].
      in_memory: whether `read` copies from memory; otherwise it reads files and decodes them.
      votes: share of annotators that chose each class, Float32[n, classes]; None if unknown. A row
        sums to less than 1 if some chose none of the classes.
      groups: person or video of each record, "" if unknown; None if no record has one.
    """

    labels: Int[np.ndarray, " n"]
    filenames: Sequence[str]
    read: Callable[[Int[np.ndarray, " k"]], UInt8[np.ndarray, "k size size channels"]]
    in_memory: bool = True
    votes: Float[np.ndarray, "n classes"] | None = None
    groups: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Int[np.ndarray, " k"]) -> "Records":
        """Returns the records at `indices`, in that order."""
        return Records(
            labels=self.labels[indices],
            filenames=[self.filenames[i] for i in indices],
            read=lambda wanted: self.read(indices[wanted]),
            in_memory=self.in_memory,
            votes=None if self.votes is None else self.votes[indices],
            groups=None if self.groups is None else [self.groups[i] for i in indices],
        )

    def images(self) -> UInt8[np.ndarray, "n size size channels"]:
        """Returns every image of the split."""
        return self.read(np.arange(len(self)))

    def answers(self, indices: Int[np.ndarray, " k"]) -> dict[str, np.ndarray]:
        """Returns what a batch has besides its images: `label`, and `votes` if they are known."""
        found = {"label": self.labels[indices]}
        return found if self.votes is None else {**found, "votes": self.votes[indices]}


class DataSet:
    """A prepared data set, or some of its classes.

    Attributes:
      data_dir: folder of the records, absolute.
      name: name of the data set, such as "fer2013".
      images: size, channels and fit of its images.
      classes: class names, in label order.
      source: kind of source that the data set was prepared from, such as "folders" or "sample".
      fingerprint: digest of all splits, classes and pixels; in older records, also of all names.
      split_sizes: number of records of each split on disk, all classes included.
      excluded: what a run leaves out of its training images, for its config.json; empty if nothing.
    """

    def __init__(
        self, data_dir: Path, builder: "tfds.core.DatasetBuilder", classes: Collection[str] = ()
    ):
        self.data_dir = data_dir.absolute()
        self.excluded: dict[str, Any] = {}
        self._builder = builder
        self._read_before: dict[tuple[str, bool], Records] = {}
        on_disk = builder.info.features[LABEL].names
        if unknown := [name for name in classes if name not in on_disk]:
            raise UserError(
                f"the data set has no class {unknown[0]!r}; choose among {', '.join(on_disk)}"
            )
        self._kept = [label for label, name in enumerate(on_disk) if not classes or name in classes]
        self.classes: tuple[str, ...] = tuple(on_disk[label] for label in self._kept)
        self.name = str(builder.info.name)
        size, _, channels = builder.info.features[IMAGE].shape
        fit = builder.info.metadata.get("fit", ImageFormat.fit)
        self.images = ImageFormat(size, channels, fit)
        self.source = str(builder.info.metadata["source"])
        self.fingerprint = str(builder.info.metadata["fingerprint"])
        self.split_sizes = {name: info.num_examples for name, info in builder.info.splits.items()}

    @property
    def splits(self) -> list[str]:
        """Names of all splits that can be loaded: those on disk, and parts or unions of them."""
        on_disk = [name for name, size in self.split_sizes.items() if size]
        parts = _PARTS if "train" in on_disk else ()
        union = ("test",) if {*_TESTS} <= {*on_disk} and "test" not in on_disk else ()
        return [*on_disk, *parts, *union]

    @property
    def title(self) -> str:
        """The data set's name as people write it."""
        return title_of(self.name)

    def load(self, split: str, *, memory_gib: float = math.inf, ambiguous: bool = False) -> Records:
        """Loads the records of a split that belong to this data set's classes.

        Args:
          split: name of a split on disk; or `train_80` or `validation_20`, the stratified floor
            split of `train`; or `test`, the union of `public_test` and `private_test`.
          memory_gib: memory limit in GiB. If the split's images fit into it, all are decoded now;
            otherwise each `read` decodes its images again.
          ambiguous: whether to load also the images for which no class has more than half of the
            votes. Without votes no image is ambiguous.

        Raises:
          UserError: there is no such split, it has no image, or its records are damaged.
        """
        # The split precedes the choice of classes, so an image is on the same side in every run.
        records = self._load(split, memory_gib * 2**30)
        wanted = np.isin(records.labels, self._kept)
        if records.votes is not None and not ambiguous:
            wanted &= records.votes.max(axis=1) > 0.5
        subset = records.take(np.flatnonzero(wanted))
        if not len(subset):
            raise UserError(
                f"split {split!r} has no image of {', '.join(self.classes)}; choose another, "
                "or prepare more images"
            )
        labels = np.searchsorted(self._kept, subset.labels).astype(np.int32)
        votes = None if subset.votes is None else subset.votes[:, self._kept]
        return dataclasses.replace(subset, labels=labels, votes=votes)

    def on_disk(self, split: str) -> tuple[str, ...]:
        """Returns the splits on disk that hold the images of a split that can be loaded."""
        if split in self.split_sizes:
            return (split,)
        return ("train",) if split in _PARTS else _TESTS

    def filenames(self, split: str) -> Sequence[str]:
        """Returns the names of all images of a split on disk, whatever their class."""
        read = [records for (name, _), records in self._read_before.items() if name == split]
        return (read or [self._load(split, 0)])[0].filenames

    def _load(self, split: str, memory: float) -> Records:
        if split in _PARTS and self.split_sizes.get("train"):
            whole = self._load("train", memory)
            train, validation = stratified_split(whole.labels, VALIDATION_FRACTION, whole.groups)
            return whole.take(train if split == _PARTS[0] else validation)
        if split not in (known := self.splits):
            raise UserError(
                f"the data set has no split {split!r}; choose one of {', '.join(known)}"
            )
        parts = self.on_disk(split)
        size = sum(self.split_sizes[part] for part in parts) * math.prod(self.images.shape)
        key = ("+".join(parts), size <= memory)
        if key not in self._read_before:
            self._read_before[key] = self._open(parts, in_memory=key[1])
        return self._read_before[key]

    def _open(self, parts: Sequence[str], *, in_memory: bool) -> Records:
        """Opens splits on disk, one after the other.

        What stays on the disk is not compared with its digests, which would read all of it.
        Instead, array_record compares each record with a digest of its own when it is read.
        """
        found = [self._builder.info.splits[part] for part in parts]
        paths = [Path(path) for split in found for path in split.filepaths]
        shards = Shards(paths, [length for split in found for length in split.shard_lengths])
        intact = in_memory and check_files(self.data_dir, [path.name for path in paths])
        suspect = _any_of([path.name for path in paths])
        index = Index.join([self._index(part) for part in parts])
        with _damage_told(self.data_dir, suspect, intact):
            if len(index.labels) != len(shards):
                raise ValueError(f"{len(shards):,} records have {len(index.labels):,} labels")
            if in_memory:
                images = np.empty((len(shards), *self.images.shape), np.uint8)
                for image, record in zip(images, shards, strict=True):
                    image[:] = _decode(record)

        def read(numbers: Int[np.ndarray, " k"]) -> UInt8[np.ndarray, "k size size channels"]:
            with _damage_told(self.data_dir, suspect, False):
                found = np.empty((len(numbers), *self.images.shape), np.uint8)
                for image, record in zip(found, shards.read(numbers), strict=True):
                    image[:] = _decode(record)
                return found

        return Records(
            labels=index.labels,
            filenames=index.filenames,
            read=images.__getitem__ if in_memory else read,
            in_memory=in_memory,
            votes=index.votes,
            groups=index.groups,
        )

    def _index(self, part: str) -> Index:
        """Reads the index of a split on disk; older records have none, so they are read instead."""
        name = index_name(self.name, part)
        split = self._builder.info.splits[part]
        if (file := record_dir(self.data_dir) / name).exists():
            with _damage_told(self.data_dir, name, check_files(self.data_dir, [name])):
                return Index.from_bytes(file.read_bytes())
        with _damage_told(self.data_dir, _any_of(sorted(split.filenames)), False):
            return Index.scan(Shards([Path(path) for path in split.filepaths], split.shard_lengths))


def absent_classes(classes: Sequence[str], labels: Int[np.ndarray, " n"]) -> list[str]:
    """Returns the names of the classes that none of the labels has."""
    return [classes[label] for label in np.setdiff1d(np.arange(len(classes)), labels)]


def describe_absent(classes: Sequence[str], labels: Int[np.ndarray, " n"], split: str) -> str:
    """Returns a sentence about the classes that a split lacks; empty if it has them all."""
    if not (absent := absent_classes(classes, labels)):
        return ""
    return (
        f"The network has {len(classes)} outputs, but {split} has images of "
        f"{len(classes) - len(absent)} classes: none of {', '.join(absent)}."
    )


def check_validation(
    classes: Sequence[str], training: Records, validation: Records, split: str
) -> None:
    """Refuses a validation split that lacks a class of the training images.

    Raises:
      UserError: such a class.
    """
    untrained = absent_classes(classes, training.labels)
    absent = absent_classes(classes, validation.labels)
    if missing := [name for name in absent if name not in untrained]:
        raise UserError(
            f"the validation split {split!r} has no image of {', '.join(missing)}, which the "
            "run trains on; prepare more images, choose another --config.validation_split, or "
            "leave them out of --config.classes"
        )


def find_data_dir(configured: str | os.PathLike = "", recorded: str | os.PathLike = "") -> Path:
    """Returns the configured folder, else `$FER2013_DIR`, else `data/fer2013`.

    If only the folder that a run has `recorded` holds records, that one. Of a URL, the folder is
    the copy of its records on this machine, which is made if there is none.

    Raises:
      UserError: there are no records at a URL, or it cannot be reached.
    """
    place = user_place(configured or os.environ.get("FER2013_DIR") or "data/fer2013")
    if isinstance(place, str):
        return fetch_records(place)
    if not recorded or record_dir(place).exists():
        return place
    if is_url(recorded):
        return fetch_records(str(recorded))
    return Path(recorded) if record_dir(recorded).exists() else place


def find_run_data(run: Mapping[str, Any]) -> Path:
    """Returns the folder of the records that a run was trained on, from its config.json.

    Of a URL, a copy; see `find_data_dir`.

    Raises:
      UserError: it is not where it was.
    """
    recorded = run["data"].get("directory", "")  # Absolute, or a URL; older runs lack it.
    if is_url(recorded):
        return fetch_records(recorded)
    if recorded and record_dir(recorded).exists():
        return Path(recorded)
    folder = find_data_dir(run["config"]["data_dir"])
    if not record_dir(folder).exists():
        places = " or ".join(dict.fromkeys(filter(None, (str(recorded), str(folder)))))
        raise UserError(f"the run's records are not in {places}; give their folder by --data_dir")
    return folder


def open_data_set(data_dir: str | os.PathLike, classes: Collection[str] = ()) -> DataSet:
    """Opens the data set in `data_dir`.

    Args:
      data_dir: folder of the records.
      classes: names of the classes to keep, in any order; empty: all. Labels follow the order on
        disk.

    Raises:
      UserError: `data_dir` holds no finished data set, or the data set lacks one of the classes.
    """
    # The import takes most of a second, so it happens only if a data set is opened.
    import tensorflow_datasets as tfds

    data_dir = Path(data_dir)
    folder = record_dir(data_dir)
    if not folder.exists():
        raise UserError(
            f"no records in {data_dir}{_did_you_mean(data_dir)}; make them with "
            f"`python -m data_prep --source PATH --data_dir {data_dir}` (own data: with "
            "--labels=folders), or give their folder with --config.data_dir"
        )
    intact = check_files(data_dir, INFO_FILES)
    for name in INFO_FILES:
        with _damage_told(data_dir, name, intact):
            _check_content(name, (folder / name).read_text("utf-8"), intact)
    with _damage_told(data_dir, "dataset_info.json or features.json", intact):
        builder = tfds.builder_from_directory(folder)
        return DataSet(data_dir, builder, classes)


def _did_you_mean(data_dir: Path) -> str:
    """Returns the end of an error about a folder that holds the folders of several data sets."""
    inside = [path for path in sorted(data_dir.glob("*/")) if record_dir(path).exists()]
    return f". Did you mean {' or '.join(map(str, inside[:3]))}?" if inside else ""


def _check_content(name: str, text: str, intact: bool) -> None:
    """Raises `ValueError` if one of `INFO_FILES` cannot be as `data_prep` wrote it."""
    if name == "label.labels.txt":
        # Records without digests are older than other data sets than FER-2013.
        if not intact and tuple(text.splitlines()) != CLASS_NAMES:
            raise ValueError(f"it does not list {', '.join(CLASS_NAMES)}")
        return
    content = json.loads(text)
    needed = ("source", "fingerprint") if name == "metadata.json" else ()
    if not isinstance(content, dict) or not content.keys() >= set(needed):
        raise ValueError(f"it holds no object{' with ' if needed else ''}{' and '.join(needed)}")


@contextlib.contextmanager
def _damage_told(data_dir: Path, name: str, intact: bool) -> Iterator[None]:
    """Tells any error as damage of a file, unless its digest has shown that it is intact."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:  # TFDS and array_record raise almost any class.
        if intact:
            raise
        raise damaged(data_dir, name, error or type(error).__name__) from error


def _any_of(names: Sequence[str]) -> str:
    """Returns the first name, and how many others there are."""
    others = len(names) - 1
    return names[0] if not others else f"{names[0]} or one of {others} other shards"


def _decode(record: Features) -> UInt8[np.ndarray, "size size channels"]:
    import cv2

    encoded = np.frombuffer(record[IMAGE].bytes_list.value[0], np.uint8)
    pixels = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED))
    # OpenCV's order is blue, green, red.
    return pixels[..., None] if pixels.ndim == 2 else pixels[..., ::-1]
