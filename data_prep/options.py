"""The options of one call of the command."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_prep.label_map import write_map
from fer_jax.data.contract import DATASET_NAME, ImageFormat
from fer_jax.errors import UserError

LABELS = (DATASET_NAME, "folders", "ferplus")
"""The values of --labels."""

ROLES = ("file", "label", "split", "votes")
"""The meanings that a column can have. A table needs a file, and a label or votes."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """One call of `python -m data_prep`; an attribute without more words is the flag of its name.

    Attributes:
      source: path of a source, "kaggle" or "sample".
      data_dir: folder to write to, a path or a URL.
      name: name of the data set, see `is_name`.
      labels: one of `LABELS`: where the labels come from.
      images: --image_size, --channels and --fit.
      resize: whether images of other sizes are scaled where all should have one size.
      allow_bad: whether a source with more bad files or rows than `MAX_QUARANTINED` is converted.
      label_map: new name of a class by its name in the source, see `read_map`.
      table: path of the table of labels, in the source or elsewhere; "" if it is to be found.
      columns: column of the table by what it says, see `read_columns`.
      group_by: regular expression that finds a person or video in a file name.
      validation_fraction: fraction of the training images that are set aside to choose by.
      test_fraction: fraction of the training images that are set aside to report.
      seed: seed of that choice.
      detect_faces: whether faces are cut out of photographs.
      ferplus_csv: path of FER+'s votes; "" if none is given.
      ferplus_rows: path of a table of FER+'s rows by image file; "" if none is given.
    """

    source: str
    data_dir: Path | str
    name: str = DATASET_NAME
    labels: str = DATASET_NAME
    images: ImageFormat = field(default_factory=ImageFormat)
    resize: bool = False
    allow_bad: bool = False
    label_map: Mapping[str, str] = field(default_factory=dict)
    table: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    group_by: str = ""
    validation_fraction: float = 0
    test_fraction: float = 0
    seed: int = 0
    detect_faces: bool = False
    ferplus_csv: str = ""
    ferplus_rows: str = ""

    @property
    def fractions(self) -> dict[str, float]:
        """Fraction of the training images by the split that they go to."""
        return {"test": self.test_fraction, "validation": self.validation_fraction}

    @property
    def facts(self) -> dict[str, Any]:
        """The value of each flag on which the records depend."""
        return {
            "labels": self.labels,
            **self.images.facts,
            "resize": self.resize,
            "label_map": write_map(self.label_map),
            "table": self.table,
            "columns": ",".join(f"{role}={column}" for role, column in self.columns.items()),
            "group_by": self.group_by,
            "validation_fraction": self.validation_fraction,
            "test_fraction": self.test_fraction,
            "seed": self.seed,
            "detect_faces": self.detect_faces,
        }


def read_columns(value: str) -> dict[str, str]:
    """Reads --columns: "file=image,label=expression", or "votes=anger+happy" for several.

    Raises:
      UserError: it names something that a table does not say.
    """
    columns = {}
    for pair in value.split(","):
        role, equals, column = (part.strip() for part in pair.partition("="))
        if role not in ROLES or not equals or not column:
            raise UserError(
                f"--columns: {pair.strip()!r} is no pair such as label=expression; the left side "
                f"is one of {', '.join(ROLES)}."
            )
        columns[role] = column
    return columns
