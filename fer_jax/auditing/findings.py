"""The audit of a data set: it finds images to leave out, and writes audit.csv."""

import csv
import dataclasses
import functools
import hashlib
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8
from tqdm import tqdm

from fer_jax.auditing.content import BLANK_VARIANCE, TEXT_SCORE, text_scores, variances
from fer_jax.auditing.copies import Position, find_copies
from fer_jax.auditing.labels import contradicted
from fer_jax.data.contract import PUBLISHED_COUNTS
from fer_jax.data.exclusions import COLUMNS, KINDS
from fer_jax.data.records import DataSet, Records

LARGEST_SIDE = 48
"""Height and width in pixels at which images are compared. Larger ones are reduced by averaging."""

_CHUNK = 1024  # Images read at a time; at 512x512 in colour they take 800 MB.


class Finding(NamedTuple):
    """An image that one would leave out.

    Attributes:
      kind: a key of `fer_jax.data.exclusions.KINDS`.
      image: number of the image in the `Audit`.
      other: number of the image that it copies; -1 for other kinds.
      distance: of a copy, the mean squared difference, and of a blank image, the variance, in grey
        levels²; of a contradicted label, its probability; NaN for other kinds.
      position: how the two copies lie on each other.
      guess: class that predictions give in place of a contradicted label; -1 for other kinds.
    """

    kind: str
    image: int
    other: int = -1
    distance: float = float("nan")
    position: Position = Position()
    guess: int = -1


@dataclasses.dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes:
      data: the data set.
      splits: the records of each split on disk, in the order in which their images are numbered.
      findings: sorted by kind, and the worst of each kind first.
    """

    data: DataSet
    splits: Mapping[str, Records]
    findings: Sequence[Finding]

    def place(self, image: int) -> tuple[str, int]:
        """Returns the split of an image, and its number there."""
        for split, records in self.splits.items():
            if image < len(records):
                return split, image
            image -= len(records)
        raise IndexError(image)

    def describe(self, image: int) -> tuple[str, str, str]:
        """Returns file, split and class of an image."""
        split, number = self.place(image)
        records = self.splits[split]
        return records.filenames[number], split, self.data.classes[records.labels[number]]

    def relabelled(self, finding: Finding) -> bool:
        """Whether a copy has another label than the image that it copies."""
        return (
            finding.other >= 0
            and self.describe(finding.image)[2] != self.describe(finding.other)[2]
        )

    def counts(self) -> dict[str, Counter[str]]:
        """Returns the number of images of each split, for each kind that was found."""
        found: dict[str, Counter[str]] = defaultdict(Counter)
        for finding in self.findings:
            found[finding.kind][self.place(finding.image)[0]] += 1
        return dict(found)

    def across_parts(self) -> int:
        """Returns how many duplicates of `train` have their other image on the other side of
        `train_80` and `validation_20`."""
        if "train" not in self.splits:
            return 0
        aside = set(self.data.load("validation_20", memory_gib=0, ambiguous=True).filenames)
        of_train = [
            (self.describe(finding.image), self.describe(finding.other)[0])
            for finding in self.findings
            if finding.kind == "duplicate"
        ]
        return sum(
            (file in aside) != (other in aside)
            for (file, split, _), other in of_train
            if split == "train"
        )

    def to_csv(self) -> str:
        """Returns the table with the columns of `fer_jax.data.exclusions.COLUMNS`.

        `file` is the image that one would leave out: for a leak, the image to evaluate on; for a
        duplicate, all but one of its copies. `other_file` is the image that stays.
        """
        table = io.StringIO()
        rows = csv.writer(table, lineterminator="\n")
        rows.writerow(COLUMNS)
        for finding in self.findings:
            if finding.other >= 0:
                other = self.describe(finding.other)
            else:
                other = ("", "", self.data.classes[finding.guess] if finding.guess >= 0 else "")
            distance = "" if np.isnan(finding.distance) else f"{finding.distance:.4g}"
            place = (*self.describe(finding.image), *other, distance, finding.position)
            rows.writerow([finding.kind, *place, self.data.fingerprint[:12]])
        return table.getvalue()


def audit(
    data: DataSet,
    predictions: Mapping[str, Float[np.ndarray, "n classes"]],
    *,
    detect_faces: bool = False,
) -> Audit:
    """Audits every split of a data set.

    Args:
      data: the data set, with all its classes.
      predictions: out-of-fold probabilities for the images of some splits, by the split's name; a
        row of NaN where there is none.
      detect_faces: whether to look for images without a face.
    """
    order = [*PUBLISHED_COUNTS, *data.split_sizes]
    names = sorted((name for name, size in data.split_sizes.items() if size), key=order.index)
    # Nothing is kept in memory but the small grey images.
    splits = {name: data.load(name, memory_gib=0, ambiguous=True) for name in names}
    images = _small(splits)
    labels = np.concatenate([records.labels for records in splits.values()])
    starts = dict(zip(splits, np.cumsum([0, *map(len, splits.values())]).tolist(), strict=False))

    spread = variances(images)
    blank = spread < BLANK_VARIANCE
    scores = np.where(blank, 0, text_scores(images))
    uniform = np.flatnonzero(blank).tolist()
    findings = [Finding("blank", k, distance=float(spread[k])) for k in uniform]
    findings += [Finding("text", k) for k in np.flatnonzero(scores >= TEXT_SCORE).tolist()]

    of_split = np.repeat(np.arange(len(splits)), [len(records) for records in splits.values()])
    findings += _copies(images, np.flatnonzero(~blank), of_split, labels)
    for name, probabilities in predictions.items():
        known = np.flatnonzero(np.isfinite(probabilities).all(axis=1))
        wrong, guesses = contradicted(probabilities[known], splits[name].labels[known])
        for k, guess in zip(known[wrong].tolist(), guesses.tolist(), strict=True):
            own = float(probabilities[k, splits[name].labels[k]])
            findings.append(Finding("label", starts[name] + k, distance=own, guess=guess))
    if detect_faces:
        # Imported here, since most audits do without it.
        from fer_jax.auditing.faces import without_face

        for name, records in splits.items():
            missing = without_face(records, functools.partial(_bar, what=f"faces, {name}"))
            missing &= ~blank[starts[name] :][: len(records)]
            faceless = starts[name] + np.flatnonzero(missing)
            findings += [Finding("no_face", k) for k in faceless.tolist()]

    kinds = list(KINDS)

    def badness(finding: Finding) -> tuple:
        copied = finding.other >= 0
        same = copied and labels[finding.image] == labels[finding.other]
        distance = finding.distance if copied or finding.kind == "blank" else 0
        if finding.kind in ("text", "no_face"):  # What looks printed is the least like a face.
            distance = -scores[finding.image]
        return kinds.index(finding.kind), same, distance

    return Audit(data, splits, sorted(findings, key=badness))  # The sort is stable.


def _small(splits: Mapping[str, Records]) -> UInt8[np.ndarray, "n h w"]:
    """Returns every image in grey, and reduced to `LARGEST_SIDE` if it is larger."""
    small = []
    for name, records in splits.items():
        for start in _bar(range(0, len(records), _CHUNK), f"reading {name}"):
            images = records.read(np.arange(start, min(start + _CHUNK, len(records))))
            small.append(reduce(images))
    return np.concatenate(small)


def reduce(images: UInt8[np.ndarray, "n h w c"]) -> UInt8[np.ndarray, "n h w"]:
    """Converts images to grey and reduces sides above `LARGEST_SIDE` by averaging pixels."""
    height, width = (min(LARGEST_SIDE, side) for side in images.shape[1:3])
    if images.shape[3] == 3:
        grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images]
    else:
        grey = list(images[..., 0])
    if images.shape[1:3] != (height, width):
        grey = [cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA) for image in grey]
    return np.stack(grey)


def _copies(
    images: UInt8[np.ndarray, "n h w"],
    compared: Int[np.ndarray, " k"],
    of_split: Int[np.ndarray, " n"],
    labels: Int[np.ndarray, " n"],
) -> Iterator[Finding]:
    """Yields the copies that one would leave out, each with the nearest image that stays.

    An image with a copy in an earlier split is a leak. Within a split, the image that stays is the
    one whose label most of its copies have, or else the first.
    """
    keys: dict[bytes, int] = {}
    digests = (hashlib.sha256(images[image].tobytes()).digest() for image in compared)
    different = [keys.setdefault(digest, len(keys)) for digest in digests]
    firsts = compared[np.unique(different, return_index=True)[1]]
    near: dict[int, list[tuple[float, int, Position]]] = defaultdict(list)
    for copy in find_copies(images[firsts], lambda positions: _bar(positions, "comparing")):
        near[copy.first].append((copy.distance, copy.second, copy.position))
        near[copy.second].append((copy.distance, copy.first, copy.position.inverse))

    # The images that are the same, by their number among different ones, split and label.
    members: dict[tuple[int, int], list[int]] = defaultdict(list)
    alike: Counter[tuple[int, int, int]] = Counter()
    for k, image in zip(different, compared.tolist(), strict=True):
        members[k, of_split[image]].append(image)
        alike[k, of_split[image], labels[image]] += 1

    def around(k: int) -> Iterable[tuple[float, int, Position]]:
        return sorted([(0.0, k, Position()), *near[k]], key=lambda found: found[:2])

    def nearest(k: int, split: int, among: Mapping) -> tuple[float, int, Position] | None:
        for distance, other, position in around(k):
            if found := among.get((other, split)):
                return distance, found[0], position
        return None

    def support(k: int, image: int) -> int:
        split, label = of_split[image], labels[image]
        return sum(alike[other, split, label] for _, other, _ in around(k))

    copied = [
        (k, image)
        for k, image in zip(different, compared.tolist(), strict=True)
        if near[k] or sum(len(members.get((k, s), ())) for s in range(of_split.max() + 1)) > 1
    ]
    kept: dict[tuple[int, int], list[int]] = {}
    for k, image in sorted(copied, key=lambda pair: (-support(*pair), pair[1])):
        split = of_split[image]
        for earlier in range(split):
            if found := nearest(k, earlier, members):
                distance, other, position = found
                yield Finding("leak", image, other, distance, position)
                break
        if found := nearest(k, split, kept):
            distance, other, position = found
            yield Finding("duplicate", image, other, distance, position)
        else:
            kept[k, split] = [image]


def _bar[T](items: Sequence[T], what: str) -> Iterator[T]:
    """Shows a progress bar, in a terminal only."""
    return iter(tqdm(items, what, disable=None, leave=False, dynamic_ncols=True))
