"""A small stand-in for FER-2013: drawn faces whose expressions move by action units.

FER-2013 may not be redistributed, so tests and first runs need faces of their own. Each one is a
set of numbers, drawn from a generator of its own, and rendered as a pile of antialiased shapes.
Skin, hair, light and pose vary so much that no weighted sum of pixels tells the expressions apart,
while a small convolutional network does, with honest mistakes where the expressions overlap.
"""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

from data_prep.contract import CLASS_NAMES, IMAGE_SIZE

# Unequal as in FER-2013, but milder: its 1.5 % of disgust would be too few to learn from here.
TEST_COUNTS = (100, 50, 100, 160, 112, 84, 94)
"""Images per class of `PublicTest` and of `PrivateTest`, in the order of `CLASS_NAMES`."""

TRAIN_COUNTS = tuple(5 * count for count in TEST_COUNTS)
"""Images per class of `Training`, in the order of `CLASS_NAMES`."""

# What each expression does to the face, from 0 (at rest) to about 1 (in full) or -1 (the opposite).
# `tilt` lifts the inner ends of the brows, `squint` the lower lids, `sneer` the upper lip.
ACTION_UNITS = ("raise_brow", "tilt", "open_eye", "squint", "sneer", "smile", "jaw", "stretch")
EXPRESSIONS = {
    "angry": (-0.8, -1.0, 0.1, 0.6, 0.2, -0.5, 0.15, 0.1),
    "disgust": (-0.5, -0.4, -0.6, 0.8, 1.1, -0.6, 0.2, -0.1),
    "fear": (0.7, 0.8, 0.9, 0.0, 0.0, -0.4, 0.4, 0.6),
    "happy": (0.1, 0.0, -0.3, 0.8, 0.0, 1.1, 0.4, 0.5),
    "sad": (0.1, 0.9, -0.6, 0.0, 0.0, -0.8, 0.0, -0.2),
    "surprise": (1.1, 0.0, 1.0, -0.2, 0.0, 0.0, 1.0, -0.6),
    "neutral": (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
}
SPREAD = 0.22

# Everything else that tells one picture from another, uniform between two bounds. Lengths are in
# half widths of the image, angles in radians, tones from 0 (black) to 1 (white).
TRAITS = {
    "intensity": (0.6, 1.1),
    "skew": (-0.2, 0.2),
    "roll": (-0.3, 0.3),
    "shift_x": (-0.14, 0.14),
    "shift_y": (-0.14, 0.14),
    "scale": (0.85, 1.12),
    "yaw": (-0.22, 0.22),
    "pitch": (-0.12, 0.12),
    "gaze": (-0.05, 0.05),
    "head_width": (0.66, 0.8),
    "jaw_width": (0.75, 1.05),
    "eye_distance": (0.3, 0.37),
    "lip": (0.03, 0.07),
    "brow_weight": (0.03, 0.06),
    "hairline": (-0.78, -0.55),
    "background": (0.0, 1.0),
    "skin": (0.3, 0.9),
    "hair": (0.02, 0.9),
    "light_x": (-0.45, 0.45),
    "light_y": (-0.4, 0.25),
    "contrast": (0.55, 1.05),
    "brightness": (-0.12, 0.12),
    "blur": (0.0, 0.6),
    "noise": (0.005, 0.05),
    "accessory": (0.0, 1.0),
    "cover": (-0.9, 0.9),
}
type Field = np.ndarray | float
PIXEL = 2 / IMAGE_SIZE
BATCH = 100


def write_sample(directory: Path, seed: int = 0) -> None:
    """Writes 4,900 drawn faces below `directory`, in the layout of FER-2013's folder release.

    They are 48x48 grey PNG: `train/<emotion>/Training_<number>.png`, 3,500 of them, and
    `test/<emotion>/PublicTest_<number>.png` and `PrivateTest_<number>.png`, 700 each. The same
    seed gives the same bytes.
    """
    usages = {"Training": TRAIN_COUNTS, "PublicTest": TEST_COUNTS, "PrivateTest": TEST_COUNTS}
    shuffle = np.random.default_rng(seed)
    labels = [shuffle.permutation(np.repeat(np.arange(7), counts)) for counts in usages.values()]
    names = [f"{usage}_{k:08d}" for usage, counts in usages.items() for k in range(sum(counts))]
    faces = list(zip(names, np.concatenate(labels).tolist(), strict=True))
    for emotion in CLASS_NAMES:
        (directory / "train" / emotion).mkdir(parents=True, exist_ok=True)
        (directory / "test" / emotion).mkdir(parents=True, exist_ok=True)
    for start in range(0, len(faces), BATCH):
        batch = faces[start : start + BATCH]
        generators = [np.random.default_rng((seed, start + k)) for k in range(len(batch))]
        images = render([label for _, label in batch], generators)
        for (name, label), image in zip(batch, images, strict=True):
            part = "train" if name.startswith("Training") else "test"
            Image.fromarray(image).save(directory / part / CLASS_NAMES[label] / f"{name}.png")


def render(labels: list[int], generators: list[np.random.Generator]) -> np.ndarray:
    """Draws one face per label, each from its own generator, as uint8[n, 48, 48]."""
    means = np.array([EXPRESSIONS[name] for name in CLASS_NAMES])[labels]
    low, high = np.array(list(TRAITS.values())).T
    traits = low + (high - low) * np.stack([rng.random(len(TRAITS)) for rng in generators])
    spread = SPREAD * np.stack([rng.standard_normal(len(ACTION_UNITS)) for rng in generators])
    units = means * traits[:, :1] + spread
    grain = np.stack([rng.standard_normal((IMAGE_SIZE, IMAGE_SIZE)) for rng in generators])
    named = zip([*ACTION_UNITS, *TRAITS], np.hstack([units, traits]).T, strict=True)
    face = SimpleNamespace(**{name: column.astype("f4")[:, None, None] for name, column in named})
    canvas = paint(face)
    for axis in (1, 2):
        neighbours = np.roll(canvas, 1, axis) + np.roll(canvas, -1, axis)
        canvas = (canvas + face.blur * neighbours) / (1 + 2 * face.blur)
    canvas = 0.5 + face.contrast * (canvas - 0.5) + face.brightness + face.noise * grain
    return np.round(255 * canvas.clip(0, 1)).astype(np.uint8)


def paint(f: SimpleNamespace) -> np.ndarray:
    """Paints one face per row of `f`, of float[n, 1, 1] each, as float[n, 48, 48]."""
    grid = (np.arange(IMAGE_SIZE, dtype="f4") + 0.5) * PIXEL - 1
    right, down = grid[None, None, :] - f.shift_x, grid[None, :, None] - f.shift_y
    x = (np.cos(f.roll) * right + np.sin(f.roll) * down) / f.scale
    y = (np.cos(f.roll) * down - np.sin(f.roll) * right) / f.scale
    # The middle of the face is nearest to the camera, so a turn of the head moves it the most.
    near = np.clip(1 - (x / f.head_width) ** 2 - y**2, 0, 1)
    u, v = x - f.yaw * near, y - f.pitch * near
    side = np.sign(u)
    mirror = np.abs(u)

    canvas = f.background * (1 - 0.3 * down) + 0 * x

    def draw(coverage: np.ndarray, tone: Field) -> None:
        canvas[:] += coverage * (tone - canvas)

    # Head, ears, neck and hair.
    jaw = f.head_width * (1 - (1 - f.jaw_width) * np.clip(y, 0, 1))
    draw(ellipse(x, y + 0.15, f.head_width + 0.12, 0.98), f.hair)
    draw(ellipse(x, y - 1.1, 0.4, 0.6), 0.75 * f.skin)
    draw(ellipse(np.abs(x) - f.head_width, y - 0.02, 0.09, 0.17), 0.85 * f.skin)
    head = ellipse(x, y, jaw, 0.93)
    draw(head, f.skin)
    canvas *= 1 + head * (f.light_x * x + f.light_y * y)
    draw(head * edge(f.hairline + 0.3 * x**2 - y), f.hair)
    shade = 0.45 * f.skin

    # Eyes: what lies between the lids, with an iris, under a dark lash line.
    s = (mirror - f.eye_distance) / 0.18
    arch = 1 - s**2
    lids = -0.1 + 0.03 * f.tilt * s
    top = lids - (0.09 + 0.06 * f.open_eye) * arch
    bottom = lids + (0.06 - 0.05 * f.squint + 0.02 * f.open_eye) * arch
    eye = between(s, v, top, bottom)
    draw(eye, 0.25 + 0.75 * f.skin**0.5)
    draw(eye * ellipse(u - side * f.eye_distance - f.gaze, v + 0.11, 0.075, 0.085), 0.08)
    draw(between(s, v, top - 0.04, top + 0.015), 0.3 * f.skin)
    draw(0.5 * between(s, v, bottom, bottom + 0.03), shade)

    # Brows, and the creases that they fold into the forehead.
    s = (mirror - f.eye_distance + 0.01) / 0.22
    brow = -0.32 - 0.1 * f.raise_brow - 0.05 * (1 - s**2) + 0.1 * f.tilt * s + 0.15 * f.skew * side
    draw(between(s, v, brow - f.brow_weight, brow + f.brow_weight), 0.8 * f.hair)
    frown = np.clip(-f.tilt, 0, 1)
    draw(frown * between((v + 0.3) / 0.12, mirror, 0.03, 0.07), shade)
    for height in (0.14, 0.24):
        crease = brow - height
        lines = between(u / 0.45, v, crease - 0.015, crease + 0.015)
        draw(0.6 * np.clip(f.raise_brow, 0, 1) * lines, shade)

    # Nose: a ridge in shadow on the side away from the light, nostrils, and wrinkles of disgust.
    dark_side = np.clip(-np.sign(f.light_x) * side, 0, 1)
    draw(0.5 * dark_side * between((v - 0.02) / 0.25, mirror, 0.02, 0.1), shade)
    nostril = 0.22 - 0.05 * f.sneer
    draw(ellipse(mirror - 0.07, v - nostril, 0.045, 0.03), 0.4 * shade)
    for height in (-0.12, -0.02):
        wrinkle = height + 0.5 * mirror
        draw(np.clip(f.sneer, 0, 1) * between(u / 0.15, v, wrinkle - 0.02, wrinkle + 0.02), shade)

    # Mouth: lips around an opening, with teeth under the upper lip.
    s = u / (0.3 + 0.07 * f.stretch + 0.06 * f.smile)
    arch = 1 - s**2
    line = 0.5 - 0.16 * f.smile * (s**2 - 0.5) * (1 + f.skew * s)
    upper = line - 0.12 * np.clip(f.sneer, 0, 1) * arch
    opening = np.clip(0.34 * f.jaw, 0, 0.5)
    lower = line + opening * arch
    draw(between(s, v, upper - f.lip * arch, lower + f.lip * arch), 0.6 * f.skin)
    mouth = between(s / 0.92, v, upper - 0.015, lower + 0.015)
    draw(mouth, 0.05)
    draw(mouth * edge(upper + 0.1 - v) * edge(lower - upper - 0.06), 0.9)
    fold = np.clip(np.maximum(f.smile, f.sneer), 0, 1)
    curve = 0.2 + 0.5 * (v - 0.15) + 0.05 * f.smile
    draw(0.7 * fold * between((v - 0.33) / 0.2, mirror, curve - 0.02, curve + 0.025), shade)
    return canvas


def edge(inside: np.ndarray) -> np.ndarray:
    """Turns a signed depth inside a shape into the share of each pixel that the shape covers."""
    return np.clip(inside / PIXEL + 0.5, 0, 1)


def ellipse(x: np.ndarray, y: np.ndarray, width: Field, height: float) -> np.ndarray:
    """Returns the coverage of the ellipse around the origin with these half axes."""
    return edge((1 - np.hypot(x / width, y / height)) * np.minimum(width, height))


def between(s: np.ndarray, v: np.ndarray, top: Field, bottom: Field) -> np.ndarray:
    """Returns the coverage of the strip from `top` to `bottom`, as far as `s` goes from -1 to 1."""
    return edge(np.minimum(v - top, bottom - v)) * edge(0.2 * (1 - np.abs(s)))
