"""Name, classes and image format of a prepared data set."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from fer_jax.data.contract import CLASS_NAMES, DATASET_NAME, ImageFormat, title_of


@dataclass(frozen=True)
class Description:
    """The name, classes and images of a data set.

    Attributes:
      name: name of the data set, see `is_name`.
      classes: class names, in label order.
      images: size, channels and fit of the images.
    """

    name: str = DATASET_NAME
    classes: Sequence[str] = CLASS_NAMES
    images: ImageFormat = field(default_factory=ImageFormat)

    @property
    def title(self) -> str:
        """The name as people write it."""
        return title_of(self.name)

    @property
    def homepage(self) -> str:
        """Where the data set comes from, if that is known."""
        if self.name != DATASET_NAME:
            return ""
        return (
            "https://www.kaggle.com/c/challenges-in-representation-learning-facial-"
            "expression-recognition-challenge"
        )
