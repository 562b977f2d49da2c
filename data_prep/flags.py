"""The flags of `python -m data_prep`."""

import argparse
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from data_prep.label_map import read_map
from data_prep.options import LABELS, Options, read_columns
from fer_jax.data.contract import DATASET_NAME, FITS, ImageFormat, is_name
from fer_jax.errors import UserError
from fer_jax.paths import user_place

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

_OWN = (
    *("label_map", "table", "columns", "group_by", "validation_fraction", "test_fraction", "seed"),
    "detect_faces",
)
"""Flags of own data."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}: see `python -m data_prep --help`.")


def _path(text: str) -> Path:
    place = _place(text)
    if isinstance(place, str):
        raise argparse.ArgumentTypeError(f"{text} is a URL; give a path on this machine")
    return place


def _place(text: str) -> Path | str:
    try:
        return user_place(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _parser() -> _Parser:
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
        "4,900 artificial faces to try things out. Own data: a folder or .zip",
    )
    add(
        "--data_dir",
        metavar="DIR",
        type=_place,
        help="the folder to write to, a path or a URL such as gs://bucket/fer2013; default: "
        "data/NAME",
    )
    add(
        "--name",
        help="name of the data set; default: fer2013 or, of own data, the last part of DIR",
    )
    add(
        "--labels",
        metavar="|".join(LABELS),
        default=DATASET_NAME,
        choices=LABELS,
        help="where the labels come from: fer2013 (the default); folders, for own data; ferplus, "
        "from FER+'s votes",
    )
    add(
        "--allow_bad",
        action="store_true",
        help="go on even if more than 1 %% of the files or rows are unusable",
    )

    add = parser.add_argument_group("images").add_argument
    add("--resize", action="store_true", help="scale images of other sizes to 48x48")
    add(
        "--image_size",
        metavar="N",
        type=int,
        default=default.size,
        help=f"height and width of the records' images, 32 to 512; default: {default.size}. "
        "Images of all sizes are scaled to it",
    )
    add(
        "--channels",
        metavar="1|3",
        type=int,
        default=default.channels,
        choices=(1, 3),
        help="1 for grey (the default), 3 for colour",
    )
    add(
        "--fit",
        metavar="|".join(FITS),
        default=default.fit,
        choices=FITS,
        help="what happens to an image that is not square: stretch it (the default), crop its "
        "centre, or pad it with black",
    )

    add = parser.add_argument_group(
        "own data (--labels folders)", "The source has a folder for each class, or a table."
    ).add_argument
    add(
        "--label_map",
        metavar="MAP",
        default="",
        help="new names, as in 1=surprise,2=fear, or a file with one such pair a line; the same "
        "new name twice merges classes, and 8=- leaves one out. The order is that of the classes",
    )
    add(
        "--table",
        metavar="FILE",
        default="",
        help="the table of labels, if there is more than one in the source, or none",
    )
    add(
        "--columns",
        metavar="MAP",
        default="",
        help="its columns, as in file=path,label=expression,split=Usage; of votes one column, or "
        "one for each class: votes=angry+happy",
    )
    add(
        "--validation_fraction",
        metavar="X",
        type=float,
        default=0.0,
        help="fraction of the training images to set aside, by class",
    )
    add("--test_fraction", metavar="X", type=float, default=0.0, help="the same for a test split")
    add("--seed", metavar="N", type=int, default=0, help="seed of that choice; default: 0")
    add(
        "--group_by",
        metavar="REGEX",
        default="",
        help="finds the person or video in a file's name, as in '^(s[0-9]+)_', so that nobody is "
        "in two splits",
    )
    add("--detect_faces", action="store_true", help="cut the face out of each photograph")

    add = parser.add_argument_group("FER+ (--labels=ferplus)").add_argument
    add("--ferplus_csv", metavar="FILE", type=_path, help="FER+'s votes, fer2013new.csv")
    add(
        "--ferplus_rows",
        metavar="FILE",
        type=_path,
        help="csv with the columns filename and row, the row of fer2013.csv that each image file "
        "was; not needed if --source is fer2013.csv",
    )
    return parser


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Reads the flags.

    Raises:
      UserError: one is unknown, missing or wrong.
    """
    parser = _parser()
    given, unknown = parser.parse_known_args(arguments)
    if unknown:
        flags = [flag for flag in parser._option_string_actions if flag.startswith("--")]
        nearest = difflib.get_close_matches(unknown[0].split("=")[0], flags, n=1)
        hint = f", did you mean {nearest[0]}" if nearest else ""
        parser.error(f"unknown {unknown[0]!r}{hint}")
    if given.data_dir is None and (given.name or given.labels == "ferplus"):
        given.data_dir = Path("data") / (given.name or given.labels)
    if missing := [flag for flag in ("source", "data_dir") if getattr(given, flag) is None]:
        names = {"data_dir": "--data_dir (or --name, for data/NAME)", "source": "--source"}
        parser.error(f"missing {' and '.join(names[flag] for flag in missing)}")
    if not 32 <= given.image_size <= 512:
        parser.error(f"--image_size={given.image_size} is not from 32 to 512")
    for flag in _OWN if given.labels != "folders" else ():
        if getattr(given, flag) != parser.get_default(flag):
            parser.error(f"--{flag} is for own data, with --labels=folders")
    if given.labels != "ferplus" and (given.ferplus_csv or given.ferplus_rows):
        parser.error("--ferplus_csv and --ferplus_rows go with --labels=ferplus")
    for flag in ("validation_fraction", "test_fraction"):
        if not 0 <= getattr(given, flag) < 1:
            parser.error(f"--{flag}={getattr(given, flag)} is not from 0 up to less than 1")
    if given.validation_fraction + given.test_fraction >= 1:
        parser.error("--validation_fraction and --test_fraction leave nothing to train on")
    if given.seed < 0:
        parser.error(f"--seed={given.seed} is negative")
    return Options(
        source=str(given.source),
        data_dir=given.data_dir,
        name=_name(parser, given),
        labels=given.labels,
        images=ImageFormat(given.image_size, given.channels, given.fit),
        resize=given.resize,
        allow_bad=given.allow_bad,
        label_map=read_map(given.label_map) if given.label_map else {},
        table=given.table,
        columns=read_columns(given.columns) if given.columns else {},
        group_by=given.group_by,
        validation_fraction=given.validation_fraction,
        test_fraction=given.test_fraction,
        seed=given.seed,
        detect_faces=given.detect_faces,
        ferplus_csv=str(given.ferplus_csv or ""),
        ferplus_rows=str(given.ferplus_rows or ""),
    )


def _name(parser: _Parser, given: argparse.Namespace) -> str:
    """Returns the name of the data set; own data may not pass for FER-2013."""
    if given.labels != "folders":
        name = given.name or given.labels
    elif (name := given.name or _last_part(given.data_dir)) == DATASET_NAME:
        parser.error(f"own data cannot have the name {name}: give another, as in --name=faces")
    if not is_name(name):
        parser.error(
            f"{name!r} is no name of a data set: give one by --name, of lower-case letters, digits "
            "and _ after a letter, at most 64 in all"
        )
    return name


def _last_part(place: Path | str) -> str:
    return place.absolute().name if isinstance(place, Path) else place.rpartition("/")[2]
