"""Where the labels come from: one function for each value of --labels."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from data_prep.candidates import Release
from data_prep.ferplus import open_ferplus
from data_prep.options import Options
from data_prep.own import open_own
from data_prep.sources import open_source

Labelling = Callable[[Options], AbstractContextManager[Release]]
"""Function that opens the source for as long as its context lasts, with its images labelled."""


@contextmanager
def _fer2013(options: Options) -> Iterator[Release]:
    with open_source(options.source) as release:
        yield release


LABELLINGS: dict[str, Labelling] = {
    "fer2013": _fer2013,
    "folders": open_own,
    "ferplus": open_ferplus,
}
"""The labellings by name, those of `LABELS`. Each is a function in a file of its own."""


def open_labelled(options: Options) -> AbstractContextManager[Release]:
    """Opens the source as --labels says.

    Raises:
      UserError: the source does not suit it.
    """
    return LABELLINGS[options.labels](options)
