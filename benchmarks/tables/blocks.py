"""The marked parts of a page of Markdown."""

import re
from collections.abc import Callable

from fer_jax.errors import UserError

_START, _END = "<!-- table: ", "<!-- end -->"
_MARKED = re.compile(rf"{_START}(?P<name>[^\n]*?) -->(?P<old>.*?){_END}", re.DOTALL)


def fill(text: str, make: Callable[[str], str], *, where: str) -> str:
    """Returns a page whose marked parts are made anew.

    A part that starts a line has its text on lines of its own, and any other within its line.

    Args:
      text: page in Markdown.
      make: returns the text of a part by its name.
      where: the page, for errors.

    Raises:
      UserError: a part has no end, or `make` raises it.
    """
    if text.count(_START) != text.count(_END) or text.count(_START) != len(_MARKED.findall(text)):
        raise UserError(f"{where}: each {_START}NAME --> needs one {_END} after it")

    def replace(match: re.Match) -> str:
        name = match["name"]
        try:
            new = make(name)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
        start = match.start()
        alone = start == 0 or text[start - 1] == "\n"
        return f"{_START}{name} -->{f'\n{new}\n' if alone else new}{_END}"

    return _MARKED.sub(replace, text)
