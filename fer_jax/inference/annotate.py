"""Draws predictions on a copy of the picture: boxes, labels and heat maps."""

import dataclasses
import math
from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont

from fer_jax.inference.faces import Box

_LINE, _DARK, _LIGHT = "#E69F00", "#000000", "#FFFFFF"  # _LINE is Okabe and Ito's orange.
_LONGEST_SIDE = 288  # pixels; smaller pictures are enlarged to this, so that labels are legible.
_SMALLEST_TYPE = 14  # pixels
_OPACITY = 0.65  # opacity of a heat map where it is 1; it is transparent where it is 0


@dataclasses.dataclass(frozen=True)
class Mark:
    """The annotation of one face.

    Attributes:
      box: the box around the face; None for the whole picture, without an outline.
      text: the label.
      heat: heat map over the box, in [0, 1]; None for no heat map.
    """

    box: Box | None
    text: str
    heat: Float[np.ndarray, "rows columns"] | None = None


def annotate(picture: Image.Image, marks: Sequence[Mark], *, grow: bool = True) -> Image.Image:
    """Returns an RGB copy with every mark. A small picture is enlarged.

    Each label is placed next to its face, where it covers the least of other faces and labels.

    Args:
      picture: the picture.
      marks: its annotations.
      grow: whether the copy gets a margin for labels that extend beyond the picture; otherwise
        labels stay inside, and pictures of the same size have copies of the same size.
    """
    zoom = max(1, math.ceil(_LONGEST_SIDE / max(picture.size)))
    whole = Box(0, 0, zoom * picture.width, zoom * picture.height)
    copy = picture.convert("RGB").resize((whole.width, whole.height), Image.Resampling.BICUBIC)
    boxes = [Box(*(zoom * n for n in mark.box)) if mark.box else whole for mark in marks]
    for box, mark in zip(boxes, marks, strict=True):
        if mark.heat is not None:
            _blend(copy, box, mark.heat)
    for box, mark in zip(boxes, marks, strict=True):
        if mark.box:
            _outline(copy, box)

    fonts = [_font(box, whole) for box in boxes]
    labels: list[Box] = []
    for box, mark, font in zip(boxes, marks, fonts, strict=True):
        labels.append(_place(box, _extent(mark.text, font), [*boxes, *labels], whole))
    if not grow:
        labels = [_inside(label, whole) for label in labels]
    left, top, right, bottom = _bounds([whole, *labels])
    copy = copy.crop((left, top, right, bottom))  # The margin is black.
    for label, mark, font in zip(labels, marks, fonts, strict=True):
        _write(copy, label._replace(left=label.left - left, top=label.top - top), mark.text, font)
    return copy


def _blend(copy: Image.Image, box: Box, heat: Float[np.ndarray, "rows columns"]) -> None:
    """Blends a heat map into a box. Cold parts are transparent, so that the face stays visible."""
    smooth = cv2.resize(heat, (box.width, box.height), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    levels = np.round(255 * smooth).astype(np.uint8)
    # Viridis is legible for colour-blind readers and in greyscale.
    colours = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
    opacity = Image.fromarray(np.round(_OPACITY * levels).astype(np.uint8))
    copy.paste(Image.fromarray(colours), (box.left, box.top), opacity)


def _outline(copy: Image.Image, box: Box) -> None:
    """Draws a box, with a dark line on either side so that it shows on any background."""
    line = max(2, box.width // 60)
    left, top, right, bottom = _bounds([box])
    draw = ImageDraw.Draw(copy)
    for grow, colour, width in ((line, _DARK, 3 * line), (0, _LINE, line)):
        corners = (left - grow, top - grow, right - 1 + grow, bottom - 1 + grow)
        draw.rectangle(corners, outline=colour, width=width)


def _font(box: Box, whole: Box) -> ImageFont.FreeTypeFont:
    longest = max(whole)
    size = max(_SMALLEST_TYPE, longest // 80, min(longest // 20, box.width // 9))
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # always, if a size is given
    return font


def _extent(text: str, font: ImageFont.FreeTypeFont) -> tuple[int, int]:
    return round(font.getlength(text) + 0.8 * font.size), round(1.4 * font.size)


def _place(face: Box, extent: tuple[int, int], taken: Sequence[Box], whole: Box) -> Box:
    """Returns the place that covers least; if equal, above the face, then below, then beside."""
    width, height = extent
    left = max(0, min(face.left, whole.width - width))
    right = max(0, face.left + face.width - width)
    above, below = face.top - height, face.top + face.height
    places = [
        *(Box(left, above, width, height), Box(right, above, width, height)),
        *(Box(left, below, width, height), Box(right, below, width, height)),
        Box(face.left + face.width, face.top, width, height),
        Box(face.left - width, face.top, width, height),
    ]
    return min(places, key=lambda place: sum(_common_area(place, other) for other in taken))


def _inside(label: Box, whole: Box) -> Box:
    left = max(0, min(label.left, whole.width - label.width))
    top = max(0, min(label.top, whole.height - label.height))
    width, height = min(label.width, whole.width), min(label.height, whole.height)
    return Box(left, top, width, height)


def _common_area(one: Box, other: Box) -> int:
    width = min(one.left + one.width, other.left + other.width) - max(one.left, other.left)
    height = min(one.top + one.height, other.top + other.height) - max(one.top, other.top)
    return max(0, width) * max(0, height)


def _bounds(boxes: Iterable[Box]) -> tuple[int, int, int, int]:
    """Returns left, top, right and bottom of the smallest rectangle around all boxes."""
    lefts, tops, widths, heights = np.array(list(boxes)).T
    right, bottom = (lefts + widths).max(), (tops + heights).max()
    return int(lefts.min()), int(tops.min()), int(right), int(bottom)


def _write(copy: Image.Image, label: Box, text: str, font: ImageFont.FreeTypeFont) -> None:
    left, top, right, bottom = _bounds([label])
    draw = ImageDraw.Draw(copy)
    draw.rectangle((left, top, right - 1, bottom - 1), fill=_DARK)
    middle = (left + right) / 2, (top + bottom) / 2
    draw.text(middle, text, fill=_LIGHT, font=font, anchor="mm")
