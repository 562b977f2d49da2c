"""Makes every table of README.md, docs/, benchmarks/ and the configs' docstrings from the record.

Example:
  python -m benchmarks.tables
  python -m benchmarks.tables --check

A page marks what is made with comments, which stay invisible: <!-- table: NAME --> before and
<!-- end --> after it. `contents.py` has the names. The lines "Accuracy: ..." and "Time: ..." in the
docstrings of `SYSTEMS` are made, too. With --check nothing is written, and the exit status is 1 if
a page differs.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from benchmarks import record
from benchmarks.accuracy.systems import SYSTEMS
from benchmarks.tables.blocks import fill
from benchmarks.tables.contents import make, measured
from fer_jax import cli
from fer_jax.config import find_config
from fer_jax.errors import write_atomically

REPOSITORY = Path(__file__).parents[2]


def define_flags() -> None:
    """Defines the flags."""
    flags.DEFINE_bool("check", False, "Write nothing; name the pages that differ.")
    flags.DEFINE_string("results", str(record.RESULTS), "Folder of the JSON files.")


def main(arguments: Sequence[str]) -> None:
    """Rewrites or checks all pages."""
    cli.refuse_arguments(arguments)
    options = flags.FLAGS
    changed = rewritten(Path(options.results))
    for path, content in changed.items():
        print(f"{path.relative_to(REPOSITORY)} {'differs' if options.check else 'is rewritten'}")
        if not options.check:
            write_atomically(path, content)
    if changed and options.check:
        print("make them again: python -m benchmarks.tables", file=sys.stderr)
        sys.exit(1)


def pages() -> list[Path]:
    """Returns the pages that may have marked parts."""
    found = [REPOSITORY / "README.md", *REPOSITORY.glob("docs/*.md")]
    return sorted([*found, *REPOSITORY.glob("benchmarks/**/*.md")])


def rewritten(results: Path) -> dict[Path, str]:
    """Returns the new text of each page and config that differs from the record.

    Raises:
      UserError: a page names a table that there is not, or a file of the record is damaged.
    """
    texts = {}
    for path in pages():
        texts[path] = fill(path.read_text(), lambda name: make(name, results), where=str(path))
    for name in SYSTEMS:
        path = find_config(name)
        texts[path] = measured(path.read_text(), name, results)
    return {path: text for path, text in texts.items() if text != path.read_text()}


if __name__ == "__main__":
    cli.run(main, define_flags)
