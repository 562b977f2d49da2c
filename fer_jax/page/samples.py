"""Pictures that the page offers: a photograph in the public domain, and drawn faces."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from data_prep.sample import render
from fer_jax.data.contract import CLASS_NAMES

_DRAWN = ("happy", "surprise", "angry")


def make_samples() -> list[tuple[str, bytes]]:
    """Returns the description and the content, JPEG or PNG, of each sample. None is on disk."""
    from matplotlib import get_data_path

    samples = []
    photograph = Path(get_data_path(), "sample_data/grace_hopper.jpg")
    if photograph.exists():  # Some distributions leave matplotlib's samples out.
        title = "Grace Hopper (photograph: U.S. Navy, public domain)"
        samples.append((title, photograph.read_bytes()))
    labels = [CLASS_NAMES.index(name) for name in _DRAWN]
    faces = render(labels, [np.random.default_rng(label) for label in labels])
    for name, face in zip(_DRAWN, faces, strict=True):
        png = io.BytesIO()
        Image.fromarray(face).resize((192, 192), Image.Resampling.BICUBIC).save(png, "PNG")
        samples.append((f"a drawn face, {name}", png.getvalue()))
    return samples
