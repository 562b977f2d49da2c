"""Reads records from array record files, and keeps an index of what they hold besides images."""

import dataclasses
import io
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from fer_jax.data.contract import FILENAME, GROUP, LABEL, VOTES

Features = Mapping[str, Any]
"""The features of a record, in TensorFlow's protocol buffers."""

_AT_ONCE = 4_096
_AHEAD = "readahead_buffer_size:1048576,max_parallelism:0"
# With threads of its own, a reader of single records spends most of the time waiting for them.
_SINGLY = "readahead_buffer_size:0,max_parallelism:0"


class Shards:
    """The records of several files, in order. Any number of threads may read them."""

    def __init__(self, paths: Sequence[Path], lengths: Sequence[int]):
        """Takes the files and the number of records in each; they are opened when needed."""
        self._paths, self._lengths = paths, lengths
        self._ends = np.cumsum(lengths)
        self._of_thread = threading.local()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __iter__(self) -> Iterator[Features]:
        for shard, length in enumerate(self._lengths):
            reader = self._open(shard, _AHEAD)
            for start in range(0, length, _AT_ONCE):
                stop = min(start + _AT_ONCE, length)
                yield from map(_features, reader.read(start, stop))
            reader.close()

    def read(self, numbers: Int[np.ndarray, " k"]) -> Iterator[Features]:
        """Yields the records of these numbers, in this order."""
        shards = np.searchsorted(self._ends, numbers, side="right")
        places = numbers - (self._ends - self._lengths)[shards]
        readers = vars(self._of_thread)  # A reader has a position, so each thread has its own.
        for shard, place in zip(shards.tolist(), places.tolist(), strict=True):
            if shard not in readers:
                readers[shard] = self._open(shard, _SINGLY)
            readers[shard].seek(place)
            yield _features(readers[shard].read())

    def _open(self, shard: int, options: str) -> Any:
        # Imported here: `data_prep` says what is wrong with its flags without waiting for it.
        from array_record.python.array_record_module import ArrayRecordReader

        reader = ArrayRecordReader(
            str(self._paths[shard]), options=options, file_reader_buffer_size=4_096
        )
        if (found := reader.num_records()) != self._lengths[shard]:
            raise ValueError(f"it has {found:,} records instead of {self._lengths[shard]:,}")
        return reader


def _features(record: bytes) -> Features:
    from tensorflow_datasets.proto import tf_example_pb2

    return tf_example_pb2.Example.FromString(record).features.feature


@dataclasses.dataclass(frozen=True)
class Index:
    """What the n records of a split hold besides images.

    Attributes:
      labels: class index of each record, Int32[n].
      filenames: name of each record in the source, n of them.
      votes: Float32[n, classes]; None if the data set has none.
      groups: n of them; None if the data set has none.
    """

    labels: Int[np.ndarray, " n"]
    filenames: Sequence[str]
    votes: Float[np.ndarray, "n classes"] | None = None
    groups: Sequence[str] | None = None

    @classmethod
    def scan(cls, shards: Shards) -> "Index":
        """Reads it from the records themselves."""
        labels, filenames, votes, groups = [], [], [], []
        for record in shards:
            labels.append(record[LABEL].int64_list.value[0])
            filenames.append(record[FILENAME].bytes_list.value[0].decode())
            if VOTES in record:
                votes.append(np.array(record[VOTES].float_list.value, np.float32))
            if GROUP in record:
                groups.append(record[GROUP].bytes_list.value[0].decode())
        return cls(
            np.array(labels, np.int32),
            filenames,
            np.stack(votes) if votes else None,
            groups or None,
        )

    def to_bytes(self) -> bytes:
        """Returns the content of the split's index file, see `from_bytes`."""
        arrays = {LABEL: self.labels, **_from_texts(FILENAME, self.filenames)}
        if self.votes is not None:
            arrays[VOTES] = self.votes
        if self.groups is not None:
            arrays |= _from_texts(GROUP, self.groups)
        file = io.BytesIO()
        np.savez(file, **arrays)  # type: ignore[arg-type]
        return file.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> "Index":
        """Reads it from an index file: NumPy arrays, texts as UTF-8 and their lengths.

        Raises:
          Exception: the file is damaged; NumPy raises several classes.
        """
        with np.load(io.BytesIO(content)) as arrays:
            return cls(
                arrays[LABEL],
                _to_texts(FILENAME, arrays),
                arrays.get(VOTES),
                _to_texts(GROUP, arrays) if GROUP in arrays else None,
            )

    @classmethod
    def join(cls, parts: Sequence["Index"]) -> "Index":
        """Returns the index of several splits, one after the other."""
        if len(parts) == 1:
            return parts[0]
        votes = [part.votes for part in parts if part.votes is not None]
        groups = [part.groups for part in parts if part.groups is not None]
        return cls(
            np.concatenate([part.labels for part in parts]),
            [name for part in parts for name in part.filenames],
            np.concatenate(votes) if votes else None,
            [name for names in groups for name in names] if groups else None,
        )


def index_name(dataset: str, split: str) -> str:
    """Returns the name of a split's index file, beside its records. Older records have none."""
    return f"{dataset}-{split}.index.npz"


def _from_texts(key: str, texts: Sequence[str]) -> dict[str, np.ndarray]:
    joined = np.frombuffer("".join(texts).encode(), np.uint8)
    return {key: joined, f"{key}_lengths": np.array([len(text) for text in texts], np.int32)}


def _to_texts(key: str, arrays: Mapping[str, np.ndarray]) -> list[str]:
    joined, end = arrays[key].tobytes().decode(), 0
    texts = []
    for length in arrays[f"{key}_lengths"].tolist():
        texts.append(joined[end : end + length])
        end += length
    return texts
