"""A small stand-in for FER-2013: drawn faces whose expressions are made of action units.

FER-2013 may not be redistributed, so tests and first runs need other faces. Each face is a set of
numbers from its own generator, rendered as layers of antialiased shapes. Skin, hair,
light and pose vary so much that no weighted sum of pixels tells the expressions apart. A small
convolutional network does, with mistakes where the expressions overlap.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

from fer_jax.data.contract import CLASS_NAMES, IMAGE_SIZE

# Classes are unequal as in FER-2013, but less so: 1.5 % of disgust would be too few to learn from.
TEST_COUNTS = (100, 50, 100, 160, 112, 84, 94)
"""Number of images per class of `PublicTest`, and of `PrivateTest`, in order of `CLASS_NAMES`."""

TRAIN_COUNTS = tuple(5 * count for count in TEST_COUNTS)
"""Number of images per class of `Training`, in order of `CLASS_NAMES`."""

# Strength of each action unit per expression: 0 is at rest, about 1 is full, -1 is the opposite.
# `tilt` lifts the inner ends of the brows, `squint` the lower lids, `sneer` the upper lip.
ACTION_UNITS = ("raise_brow", "tilt", "open_eye", "squint", "sneer", "smile", "jaw", "stretch")
EXPRESSIONS = {
    "angry": (-0.8, -1.0, 0.1, 0.6, 0.2, -0.5, 0.2, 0.1),
    "disgust": (-0.5, -0.4, -0.6, 0.8, 1.1, -0.6, 0.3, -0.1),
    "fear": (0.6, 0.8, 0.9, 0.0, 0.0, -0.5, 0.4, 0.9),
    "happy": (0.2, 0.2, -0.2, 0.8, 0.0, 1.2, 0.45, 0.5),
    "sad": (0.1, 0.9, -0.6, 0.0, 0.0, -0.8, -0.1, -0.2),
    "surprise": (1.0, 0.0, 1.0, -0.2, 0.0, 0.0, 1.0, -0.9),
    "neutral": (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
}
SPREAD = 0.22  # Standard deviation of every action unit; neighbouring expressions overlap.

# All other traits of a picture, each uniform between two bounds. Lengths are in half widths of the
# image, angles in radians, tones from 0 (black) to 1 (white).
TRAITS = {
    "intensity": (0.65, 1.15),
    "skew": (-0.2, 0.2),
    "roll": (-0.26, 0.26),
    "shift_x": (-0.1, 0.1),
    "shift_y": (-0.1, 0.1),
    "scale": (0.88, 1.15),
    "yaw": (-0.22, 0.22),
    "pitch": (-0.12, 0.12),
    "gaze": (-0.05, 0.05),
    "head_width": (0.66, 0.8),
    "jaw_width": (0.75, 1.05),
    "eye_distance": (0.3, 0.37),
    "lip": (0.03, 0.07),
    "brow_weight": (0.035, 0.07),
    "hairline": (-0.85, -0.55),
    "parting": (-0.35, 0.35),
    "hair_volume": (0.0, 0.14),
    "hair_length": (-0.15, 0.5),
    "background": (0.0, 1.0),
    "clothes": (0.0, 1.0),
    "skin": (0.35, 0.95),
    "hair": (0.02, 0.85),
    "light_x": (-0.45, 0.45),
    "light_y": (-0.4, 0.25),
    "contrast": (0.65, 1.1),
    "brightness": (-0.08, 0.08),
    "blur": (0.0, 0.5),
    "noise": (0.005, 0.03),
    "accessory": (0.0, 1.0),
    "hand_x": (-0.7, 0.7),
    "hand_y": (0.75, 1.0),
}
type Field = np.ndarray | float
PIXEL = 2 / IMAGE_SIZE
BATCH = 100  # Faces painted at once: enough to hide Python's cost, few enough for the cache.
_SEED = 0


def write_sample(directory: Path) -> None:
    """Writes 4,900 drawn faces below `directory`, in the layout of FER-2013's folder release.

    The files are 48x48 grey PNG: 3,500 of `train/<emotion>/Training_<number>.png`, and 700 each of
    `test/<emotion>/PublicTest_<number>.png` and `test/<emotion>/PrivateTest_<number>.png`. Their
    bytes are always the same.
    """
    shuffle = np.random.default_rng(_SEED)
    faces: list[tuple[int, Path]] = []
    for folder, usage, counts in (
        ("train", "Training", TRAIN_COUNTS),
        ("test", "PublicTest", TEST_COUNTS),
        ("test", "PrivateTest", TEST_COUNTS),
    ):
        for emotion in CLASS_NAMES:
            (directory / folder / emotion).mkdir(parents=True, exist_ok=True)
        labels = shuffle.permutation(np.repeat(np.arange(len(CLASS_NAMES)), counts)).tolist()
        faces += [
            (label, directory / folder / CLASS_NAMES[label] / f"{usage}_{number:08d}.png")
            for number, label in enumerate(labels)
        ]

    def write(start: int) -> None:
        labels, paths = zip(*faces[start : start + BATCH], strict=True)
        generators = [np.random.default_rng((_SEED, start + k)) for k in range(len(labels))]
        for image, path in zip(render(labels, generators), paths, strict=True):
            Image.fromarray(image).save(path)

    with ThreadPoolExecutor() as pool:
        list(pool.map(write, range(0, len(faces), BATCH)))  # list() raises a thread's error.


def render(labels: Sequence[int], generators: Sequence[np.random.Generator]) -> np.ndarray:
    """Draws one face per label, each from its own generator, as uint8[n, 48, 48]."""
    means = np.array([EXPRESSIONS[CLASS_NAMES[label]] for label in labels])
    low, high = np.array(list(TRAITS.values())).T
    traits = low + (high - low) * np.stack([rng.random(len(TRAITS)) for rng in generators])
    spread = SPREAD * np.stack([rng.standard_normal(len(ACTION_UNITS)) for rng in generators])
    units = means * traits[:, :1] + spread
    shape = IMAGE_SIZE, IMAGE_SIZE
    grain = np.stack([rng.standard_normal(shape, np.float32) for rng in generators])
    named = zip([*ACTION_UNITS, *TRAITS], np.hstack([units, traits]).T, strict=True)
    face = SimpleNamespace(**{name: column.astype("f4")[:, None, None] for name, column in named})
    canvas = paint(face)
    for axis in (1, 2):
        neighbours = np.roll(canvas, 1, axis) + np.roll(canvas, -1, axis)
        canvas = (canvas + face.blur * neighbours) / (1 + 2 * face.blur)
    canvas = 0.5 + face.contrast * (canvas - 0.5) + face.brightness + face.noise * grain
    return np.round(255 * canvas.clip(0, 1)).astype(np.uint8)


def paint(f: SimpleNamespace) -> np.ndarray:
    """Paints n faces, float[n, 48, 48]; each attribute of `f` is a trait, float[n, 1, 1]."""
    grid = (np.arange(IMAGE_SIZE, dtype="f4") + 0.5) * PIXEL - 1
    right, down = grid[None, None, :] - f.shift_x, grid[None, :, None] - f.shift_y
    x = (np.cos(f.roll) * right + np.sin(f.roll) * down) / f.scale
    y = (np.cos(f.roll) * down - np.sin(f.roll) * right) / f.scale
    # The middle of the face is nearest to the camera, so turning the head moves it most.
    near = np.clip(1 - (x / f.head_width) ** 2 - y**2, 0, 1)
    u, v = x - f.yaw * near, y - f.pitch * near
    side = np.sign(u)
    mirror = np.abs(u)

    canvas = f.background * (1 - 0.3 * down) * np.ones_like(x)

    def draw(coverage: np.ndarray, tone: Field) -> None:
        nonlocal canvas
        canvas += coverage * (tone - canvas)

    # Hair, shoulders, neck, ears and head; shading makes the head round.
    streaks = f.hair * (1 + 0.06 * np.sin(31 * x + 5 * y) + 0.06 * np.sin(47 * x - 7 * y))
    draw(ellipse(x, y + 0.1 - 0.5 * f.hair_length, f.head_width + f.hair_volume, 1.02), streaks)
    draw(ellipse(x, y - 1.45, 1, 0.5), f.clothes)
    draw(ellipse(x, y - 0.9, 0.36, 0.4), 0.7 * f.skin)
    draw(ellipse(np.abs(x) - f.head_width, y - 0.02, 0.09, 0.17), 0.8 * f.skin)
    jaw = f.head_width * (1 - (1 - f.jaw_width) * np.clip(y, 0, 1))
    head = ellipse(x, y, jaw, 0.93)
    draw(head, f.skin * (0.8 + 0.25 * near + f.light_x * x + f.light_y * y))
    draw(head * edge(f.hairline + f.parting * u + 0.3 * u**2 - v), streaks)
    shade = 0.45 * f.skin

    # Eyes: the area between the lids, with an iris, below a dark lash line.
    s = (mirror - f.eye_distance) / 0.18
    arch = 1 - s**2
    lids = -0.1 + 0.03 * f.tilt * s
    top = lids - (0.09 + 0.06 * f.open_eye) * arch
    bottom = lids + (0.06 - 0.05 * f.squint + 0.02 * f.open_eye) * arch
    eye = between(s, v, top, bottom)
    draw(eye, 0.3 + 0.7 * f.skin**0.5)
    draw(eye * ellipse(u - side * f.eye_distance - f.gaze, v + 0.11, 0.075, 0.085), 0.05)
    draw(between(s, v, top - 0.04, top + 0.015), 0.3 * f.skin)
    draw(0.5 * between(s, v, bottom, bottom + 0.03), shade)

    # Brows, thinner towards the temples, and the creases that they make in the forehead.
    s = (mirror - f.eye_distance + 0.01) / 0.23
    brow = -0.32 - 0.1 * f.raise_brow - 0.05 * (1 - s**2) + 0.1 * f.tilt * s + 0.15 * f.skew * side
    weight = f.brow_weight * (1 - 0.4 * s)
    draw(between(s, v, brow - weight, brow + weight), 0.8 * f.hair)
    frown = np.clip(-f.tilt, 0, 1)
    draw(frown * between((v + 0.3) / 0.12, mirror, 0.03, 0.07), shade)
    for height in (0.14, 0.24):
        crease = brow - height
        lines = between(u / 0.45, v, crease - 0.015, crease + 0.015)
        draw(0.5 * np.clip(f.raise_brow, 0, 1) * lines, shade)

    # Nose: a ridge in shadow on the side away from the light, nostrils, and wrinkles of disgust.
    dark_side = np.clip(-np.sign(f.light_x) * side, 0, 1)
    draw(0.5 * dark_side * between((v - 0.02) / 0.25, mirror, 0.02, 0.1), shade)
    nostril = 0.22 - 0.05 * f.sneer
    draw(ellipse(mirror - 0.07, v - nostril, 0.045, 0.03), 0.4 * shade)
    for height in (-0.12, -0.02):
        wrinkle = height + 0.5 * mirror
        draw(np.clip(f.sneer, 0, 1) * between(u / 0.15, v, wrinkle - 0.02, wrinkle + 0.02), shade)

    # Mouth: lips around an opening, with teeth under the upper lip unless it is round.
    s = u / (0.3 + 0.09 * f.stretch + 0.06 * f.smile)
    arch = np.sqrt(np.clip(1 - s**2, 0, 1))
    line = 0.5 - 0.16 * f.smile * (s**2 - 0.5) * (1 + f.skew * s)
    opening = np.clip(0.34 * f.jaw - 0.04, 0, 0.4) * arch
    upper = line - 0.12 * np.clip(f.sneer, 0, 1) * arch - 0.4 * opening * np.clip(1 - f.smile, 0, 1)
    lower = line + opening
    draw(between(s, v, upper - f.lip * arch, lower + f.lip * arch), 0.6 * f.skin)
    mouth = between(s / 0.95, v, upper - 0.015, lower + 0.015)
    draw(mouth, 0.05)
    teeth = np.clip(0.7 + f.stretch, 0, 1) * edge(upper + 0.1 - v) * edge(lower - upper - 0.06)
    draw(mouth * teeth, 0.9)
    fold = np.clip(np.maximum(f.smile, f.sneer), 0, 1)
    curve = 0.2 + 0.5 * (v - 0.15) + 0.05 * f.smile
    draw(0.7 * fold * between((v - 0.33) / 0.2, mirror, curve - 0.02, curve + 0.025), shade)

    # One face in six wears glasses, and one in eight holds a hand in front of the chin.
    lens = np.sqrt((mirror - f.eye_distance) ** 2 + (v + 0.1) ** 2)
    bridge = between(mirror / 0.16, v, -0.14, -0.1)
    draw((f.accessory < 1 / 6) * np.maximum(edge(0.02 - np.abs(lens - 0.25)), bridge), 0.1)
    finger = np.clip(np.round((x - f.hand_x) / 0.18), -1, 1)
    across, along = x - f.hand_x - 0.18 * finger, y - f.hand_y - 0.03 * finger
    hand = f.accessory > 7 / 8
    draw(hand * ellipse(across, along, 0.11, 0.42), 0.65 * f.skin)
    draw(hand * ellipse(across, along, 0.08, 0.38), 0.95 * f.skin)
    return canvas


def edge(inside: np.ndarray) -> np.ndarray:
    """Converts a signed depth inside a shape to the fraction of each pixel the shape covers."""
    return np.clip(inside / PIXEL + 0.5, 0, 1)


def ellipse(x: np.ndarray, y: np.ndarray, width: Field, height: float) -> np.ndarray:
    """Returns the coverage of an ellipse around the origin with these half axes."""
    return edge((1 - np.sqrt((x / width) ** 2 + (y / height) ** 2)) * np.minimum(width, height))


def between(s: np.ndarray, v: np.ndarray, top: Field, bottom: Field) -> np.ndarray:
    """Returns the coverage of the strip between `top` and `bottom` where `s` is from -1 to 1."""
    # Strips reach about 0.2 to either side of their middle, so 0.2 converts `s` to a length.
    return edge(np.minimum(v - top, bottom - v)) * edge(0.2 * (1 - np.abs(s)))
