"""What the user asks for."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fer_jax.data.contract import DATASET_NAME, ImageFormat


@dataclass(frozen=True, kw_only=True)
class Options:
    """One call of `python -m data_prep`; each attribute is the flag of its name.

    Attributes:
      source: path of a source, "kaggle" or "sample".
      data_dir: folder to write to.
      name: name of the data set, see `is_name`.
      labels: a key of `LABELLINGS`: where the labels come from.
      images: --image_size, --channels and --fit.
      resize: whether images of other sizes are scaled where all should have one size.
      ferplus_csv, ferplus_rows: FER+'s votes, and the rows of FER-2013's image files.
      allow_bad: whether a source with more bad files or rows than `MAX_QUARANTINED` is converted.
    """

    source: str
    data_dir: Path
    name: str = DATASET_NAME
    labels: str = DATASET_NAME
    images: ImageFormat = field(default_factory=ImageFormat)
    resize: bool = False
    allow_bad: bool = False
    ferplus_csv: str = ""
    ferplus_rows: str = ""

    @property
    def facts(self) -> dict[str, Any]:
        """What the records depend on besides the source, by flag."""
        return {
            "name": self.name,
            "labels": self.labels,
            **self.images.facts,
            "resize": self.resize,
        }
