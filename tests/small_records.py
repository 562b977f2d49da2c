"""Records of noise, written at once, without a source."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from data_prep.builder import write_records
from data_prep.checking import Record, fingerprints
from data_prep.description import Description
from fer_jax.data.contract import CLASS_NAMES


def make_records(data_dir: Path, labels: Mapping[str, Iterable[int]], *, name="{}.png") -> Path:
    """Writes an image for each label of each split; the names do not change the images."""
    random = np.random.default_rng(0)
    records = []
    for split, of_split in labels.items():
        for label in of_split:
            image = Image.fromarray(random.integers(0, 256, (48, 48), np.uint8))
            records.append(Record(name.format(len(records)), split, CLASS_NAMES[label], image))
    metadata = {
        "source": "folders",
        "images": len(records),
        "quarantined": 0,
        **fingerprints(records),
    }
    write_records(data_dir, records, Description(), metadata, show_progress=False)
    return data_dir
