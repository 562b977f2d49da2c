"""The flags and exit statuses of `python -m data_prep`."""

import argparse
import difflib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from fer_jax import stopping
from fer_jax.errors import DISK_ERRORS, UserError
from fer_jax.paths import user_path

_USAGE = "python -m data_prep --source PATH --data_dir DIR [--resize] [--allow_bad]"
_EPILOG = """\
example:
  python -m data_prep --source ~/Downloads/archive.zip --data_dir data/fer2013

output in DIR:
  fer2013/1.0.0/          the array records; they appear once they are complete
  samples.png             twelve images of each class
  class_distribution.png  number of images per split and class
  quarantine.csv          every file or row that was left out, with the reason
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}: see `python -m data_prep --help`.")


def _path(text: str) -> Path:
    try:
        return user_path(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(
        usage=_USAGE,
        description="Converts a release of FER-2013 to array records for fer_jax.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--source",
        metavar="PATH",
        type=_path,
        help="the release: a folder with train/ and test/ (or images/train and images/validation), "
        "a .zip of it, fer2013.csv or icml_face_data.csv; 'kaggle' downloads it; 'sample' draws "
        "4,900 artificial faces to try things out",
    )
    parser.add_argument("--data_dir", metavar="DIR", type=_path, help="the folder to write to")
    parser.add_argument(
        "--resize", action="store_true", help="scale images of other sizes to 48x48"
    )
    parser.add_argument(
        "--allow_bad",
        action="store_true",
        help="go on even if more than 1 %% of the files or rows are unusable",
    )
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        flags = ["--source", "--data_dir", "--resize", "--allow_bad"]
        nearest = difflib.get_close_matches(unknown[0].split("=")[0], flags, n=1)
        hint = f", did you mean {nearest[0]}" if nearest else ""
        parser.error(f"unknown {unknown[0]!r}{hint}")
    if missing := [flag for flag in ("source", "data_dir") if getattr(options, flag) is None]:
        parser.error(f"missing {' and '.join('--' + flag for flag in missing)}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command. Returns 0 if it is done, 2 if the user can fix it."""
    try:
        options = _parse(arguments)
        from data_prep.prepare import prepare  # Takes seconds to import; --help does not wait.

        prepare(str(options.source), options.data_dir, options.resize, options.allow_bad)
    except UserError as error:
        print("data_prep:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        print(f"data_prep: {error}: make room or grant access, then run it again.", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    stopping.watch()
    sys.exit(main())
