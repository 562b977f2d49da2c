"""The flags and exit statuses of `python -m data_prep`."""

import argparse
import difflib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from data_prep.options import Options
from fer_jax import stopping
from fer_jax.data.contract import DATASET_NAME, FITS, ImageFormat, is_name
from fer_jax.errors import DISK_ERRORS, UserError
from fer_jax.paths import user_path

_USAGE = """python -m data_prep --source PATH --data_dir DIR [--resize] [--allow_bad]
       python -m data_prep --labels folders --source PATH --name NAME [flags of own data]"""
_EPILOG = """\
examples:
  python -m data_prep --source ~/Downloads/archive.zip --data_dir data/fer2013
  python -m data_prep --labels folders --source ~/faces --name moods --validation_fraction 0.2
  python -m data_prep --labels folders --source ~/basic --name raf --channels 3 --image_size 96 \\
      --label_map 1=surprise,2=fear,3=disgust,4=happy,5=sad,6=angry,7=neutral

output in DIR:
  <name>/1.0.0/           the array records, fer2013/1.0.0/ for FER-2013; they appear once they
                          are complete
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


def _parse(arguments: Sequence[str] | None) -> Options:
    parser = _Parser(
        usage=_USAGE,
        description="Converts FER-2013, or any other labelled faces, to array records for fer_jax.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    default = ImageFormat()
    add = parser.add_argument
    add(
        "--source",
        metavar="PATH",
        type=_path,
        help="FER-2013: a folder with train/ and test/ (or images/train and images/validation), "
        "a .zip of it, fer2013.csv or icml_face_data.csv; 'kaggle' downloads it; 'sample' draws "
        "4,900 artificial faces to try things out",
    )
    add("--data_dir", metavar="DIR", type=_path, help="the folder to write to; default: data/NAME")
    add("--name", help=f"name of the data set; default: {DATASET_NAME}")
    add("--labels", default=DATASET_NAME, help="fer2013 (the default), or ferplus: FER+'s votes")
    add("--ferplus_csv", metavar="FILE", type=_path, help="FER+'s fer2013new.csv")
    add(
        "--ferplus_rows",
        metavar="FILE",
        type=_path,
        help="a csv `filename,row`, which says which row of fer2013.csv each image file was; not "
        "needed if --source is fer2013.csv",
    )
    add(
        "--image_size",
        metavar="N",
        type=int,
        default=default.size,
        help=f"height and width of the images, 32 to 512; default: {default.size}",
    )
    add(
        "--channels",
        type=int,
        default=default.channels,
        choices=(1, 3),
        help="1 for grey (the default), 3 for colour",
    )
    add(
        "--fit",
        default=default.fit,
        choices=FITS,
        help="what happens to an image that is not square: stretch it (the default), crop its "
        "centre, or pad it with black",
    )
    add("--resize", action="store_true", help="scale images of other sizes to 48x48")
    add(
        "--allow_bad",
        action="store_true",
        help="go on even if more than 1 %% of the files or rows are unusable",
    )
    given, unknown = parser.parse_known_args(arguments)
    if unknown:
        flags = [flag for flag in parser._option_string_actions if flag.startswith("--")]
        nearest = difflib.get_close_matches(unknown[0].split("=")[0], flags, n=1)
        hint = f", did you mean {nearest[0]}" if nearest else ""
        parser.error(f"unknown {unknown[0]!r}{hint}")
    if given.name is not None and not is_name(given.name):
        parser.error(
            f"--name={given.name} is no name: lower-case letters, digits and _ after a letter, at "
            "most 64, as in --name=raf"
        )
    if given.name is None and given.labels == "ferplus":
        given.name = "ferplus"
    if given.data_dir is None and given.name:
        given.data_dir = Path("data") / given.name
    if missing := [flag for flag in ("source", "data_dir") if getattr(given, flag) is None]:
        parser.error(f"missing {' and '.join('--' + flag for flag in missing)}")
    if not 32 <= given.image_size <= 512:
        parser.error(f"--image_size={given.image_size} is not from 32 to 512")
    return Options(
        source=str(given.source),
        data_dir=given.data_dir,
        name=given.name or DATASET_NAME,
        labels=given.labels,
        images=ImageFormat(given.image_size, given.channels, given.fit),
        resize=given.resize,
        allow_bad=given.allow_bad,
        ferplus_csv=str(given.ferplus_csv or ""),
        ferplus_rows=str(given.ferplus_rows or ""),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command. Returns 0 if it is done, 2 if the user can fix it."""
    try:
        options = _parse(arguments)
        from data_prep.prepare import prepare  # Takes seconds to import; --help does not wait.

        prepare(options)
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
