"""Checks a set of images before its records are written: small classes, repeated images."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations

from data_prep.checking import Record
from data_prep.report import Counts, totals
from fer_jax.errors import UserError

_SHOWN = 3  # pairs of splits or classes in one line


def refuse_small_classes(counts: Counts, classes: Sequence[str], *, by_votes: bool) -> None:
    """Refuses a set of one class, and classes with fewer than two images.

    One image cannot be both learned from and checked. Where annotators voted, a class may be the
    most frequent answer to no image.

    Raises:
      UserError: there is such a class.
    """
    if len(classes) < 2:
        raise UserError(
            f"all images are of one class, {''.join(classes)!r}: a classifier needs two or more. "
            "If that is no class, say by --columns where the table has the labels."
        )
    small = [f"{name} has {n}" for name, n in totals(counts, classes).items() if n < 2]
    if small and not by_votes:
        raise UserError(
            f"a class needs at least two images: {', '.join(small)}. Add images, merge the class "
            "by --label_map=it=another, or leave it out by --label_map=it=-."
        )


def differing_classes(counts: Counts, classes: Sequence[str]) -> list[str]:
    """Returns a line for each split that lacks classes which others have."""
    lines = []
    for split, images in counts.items():
        if absent := [name for name, number in zip(classes, images, strict=True) if not number]:
            lines.append(
                f"{split} has images of {len(classes) - len(absent)} of {len(classes)} classes: "
                f"none of {', '.join(absent)}"
            )
    return lines


def repeated(records: Iterable[Record]) -> list[str]:
    """Returns lines about images with the same pixels, and about groups, in two splits or classes.

    A line counts the images, or groups, of each pair of splits or classes.
    """
    alike: defaultdict[bytes, list[Record]] = defaultdict(list)
    groups: defaultdict[str, list[Record]] = defaultdict(list)
    for record in records:
        alike[record.pixels].append(record)
        if record.group:
            groups[record.group].append(record)
    several = [same for same in alike.values() if len(same) > 1]
    lines = []
    if pairs := _pairs(several, lambda record: record.split):
        lines.append(f"images with the same pixels are in two splits: {pairs}")
    if pairs := _pairs(several, lambda record: record.label):
        lines.append(f"images with the same pixels are in two classes: {pairs}")
    within = sum(len(same) - len({(one.split, one.label) for one in same}) for same in several)
    if within:
        lines.append(f"{within:,} images repeat another one of their own split and class")
    if pairs := _pairs(groups.values(), lambda record: record.split):
        lines.append(f"groups of --group_by are in two splits: {pairs}")
    return lines


def _pairs(sets: Iterable[Sequence[Record]], side: Callable[[Record], str]) -> str:
    """Returns how many sets lie on two sides, as in "3 in train and test", most first."""
    pairs: Counter[tuple[str, str]] = Counter()
    for records in sets:
        pairs.update(combinations(sorted({side(record) for record in records}), 2))
    parts = [f"{number:,} in {one} and {other}" for (one, other), number in pairs.most_common()]
    more = len(parts) - _SHOWN
    return ", ".join(parts[:_SHOWN]) + (f", and {more} more pairs" if more > 0 else "")
