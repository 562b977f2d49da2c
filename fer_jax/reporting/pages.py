"""HTML pages, each a single file that opens anywhere: no script and nothing to load.

Figures are matplotlib SVGs inside the page. They take a few kilobytes each, stay sharp at any width
and use the page's colours. A JavaScript plotting library would add megabytes of script.
"""

import base64
import io
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image

from fer_jax.errors import write_atomically
from fer_jax.reporting.figures import to_svg
from fer_jax.workdir import origin

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure

_LARGEST = 96
"""Height and width, in pixels, to which larger images shrink on a page."""


def write_page(path: str | os.PathLike, template: str, **values: Any) -> None:
    """Renders a file of `templates/` and writes it atomically; values are escaped, except `Markup`.

    The page's head names the date, command and commit in `values["made"]`; default: those of this
    process. A percent sign stays on the line of its number.

    Raises:
      jinja2.UndefinedError: a value that the template needs is missing.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "breakable": breakable, "columns": columns}
    text = environment.get_template(template).render({"made": origin()} | values)
    write_atomically(path, re.sub(r"(?<=\d) %", "\N{NO-BREAK SPACE}%", text))


def percent(fraction: float | None) -> str:
    """Returns a fraction in percent without the sign; for None, which stands for 0 / 0, a dash."""
    return "\N{EN DASH}" if fraction is None else f"{100 * fraction:.1f}"


def breakable(name: str) -> "Markup":
    """Returns a name that may break after a slash, underscore or hyphen, not within a word."""
    from markupsafe import Markup

    return Markup("<wbr>").join(re.split(r"(?<=[/_-])", name))


def columns(tiles: int, most: int) -> int:
    """Returns a number of columns, up to `most`, that leaves the least of the last row empty."""
    if tiles <= most:
        return most
    return max(range(most, most // 2, -1), key=lambda count: ((tiles - 1) % count + 1) / count)


def inline(figure: "Figure", description: str) -> "Markup":
    """Returns `to_svg` as `Markup`, since it has escaped its text already."""
    from markupsafe import Markup

    return Markup(to_svg(figure, description))


def data_uri(image: UInt8[ndarray, "h w channels"]) -> str:
    """Returns an image as a PNG data URI, for `<img src=…>`; a large one shrinks to 96 pixels."""
    png = io.BytesIO()
    picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
    picture.thumbnail((_LARGEST, _LARGEST))
    picture.save(png, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"
