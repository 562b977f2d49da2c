"""Records of noise, written at once, without a source."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from data_prep.builder import write_records
from data_prep.checking import Record, fingerprints
from data_prep.description import Description


def make_records(
    data_dir: Path,
    labels: Mapping[str, Iterable[int]],
    *,
    name="{}.png",
    description: Description | None = None,
    votes: bool = False,
) -> Path:
    """Writes an image for each label of each split; the names do not change the images.

    With `votes`, 80 % of the annotators choose the label and 10 % the first class.
    """
    description = description or Description()
    classes = description.classes
    random = np.random.default_rng(0)
    records = []
    for split, of_split in labels.items():
        for label in of_split:
            image = Image.fromarray(random.integers(0, 256, (48, 48), np.uint8))
            shares = tuple(0.8 * (k == label) + 0.1 * (k == 0) for k in range(len(classes)))
            records.append(
                Record(
                    name.format(len(records)),
                    split,
                    classes[label],
                    image,
                    votes=shares if votes else None,
                )
            )
    metadata = {
        "source": "folders",
        "images": len(records),
        "quarantined": 0,
        **fingerprints(records),
    }
    write_records(data_dir, records, description, metadata, show_progress=False)
    return data_dir
