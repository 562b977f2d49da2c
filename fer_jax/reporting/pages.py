"""HTML pages, each a single file that opens anywhere: no script, no address, nothing to load.

Figures are matplotlib's, as SVG within the page: some kilobytes each, sharp at any width, in the
page's own colours, where a plotting library of JavaScript would add megabytes of script.
"""

import base64
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image

from fer_jax.errors import write_atomically
from fer_jax.reporting.figures import to_svg

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure


def write_page(path: str | os.PathLike, template: str, **values: Any) -> None:
    """Fills in a file of `templates/` and writes it atomically; values are escaped, bar `Markup`.

    Raises:
      jinja2.UndefinedError: the template needs a value that is not given.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda fraction: f"{100 * fraction:.1f}"
    write_atomically(path, environment.get_template(template).render(values))


def inline(figure: "Figure", description: str) -> "Markup":
    """Returns `to_svg`, which has escaped what it was given, for a template to take as it is."""
    from markupsafe import Markup

    return Markup(to_svg(figure, description))


def data_uri(image: UInt8[ndarray, "h w 1"]) -> str:
    """Returns a grey image as a PNG within an address, for `<img src=…>`."""
    png = io.BytesIO()
    Image.fromarray(image[:, :, 0]).save(png, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"
