"""Opens the release that `--source` names: a path, "kaggle" or "sample"."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from data_prep.candidates import Candidate, Release
from data_prep.files import file_entry, is_zip, list_folder, open_zip
from data_prep.releases import LAYOUT, read_csv, read_tree
from data_prep.sample import write_sample
from fer_jax.errors import UserError

KAGGLE_DATASET = "msambare/fer2013"


@contextmanager
def open_source(source: str) -> Iterator[Release]:
    """Opens the release that `--source` names for as long as the context lasts.

    Raises:
      UserError: there is no release of FER-2013 there.
    """
    with ExitStack() as stack:
        if source == "sample":
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="fer2013_sample_"))
            write_sample(Path(folder))
            yield Release("sample", *_open_path(Path(folder), stack)[1:])
        elif source == "kaggle":
            yield Release("kaggle", *_open_path(_download(), stack)[1:], published=True)
        else:
            yield Release(*_open_path(Path(source).expanduser(), stack), published=True)


def _open_path(path: Path, stack: ExitStack) -> tuple[str, Iterator[Candidate], int | None]:
    if not path.exists():
        raise UserError(f"--source {path} does not exist: give a folder, .zip, .csv, or 'sample'.")
    if path.is_dir():
        return read_tree(list_folder(path), str(path))
    if is_zip(path):
        return read_tree(stack.enter_context(open_zip(path)), str(path))
    if path.is_file() and path.suffix.casefold() == ".csv":
        return "csv", read_csv(file_entry(path, path.name)), None
    raise UserError(f"--source {path} is neither a folder nor a .zip nor a .csv: give {LAYOUT}.")


def _download() -> Path:
    try:
        import kagglehub
    except ImportError:
        raise UserError(
            "--source kaggle needs the package kagglehub: run `uv sync --extra kaggle`, or "
            f"download https://www.kaggle.com/datasets/{KAGGLE_DATASET} yourself and give its path."
        ) from None
    try:
        return Path(kagglehub.dataset_download(KAGGLE_DATASET))
    except Exception as error:  # kagglehub, requests and urllib3 have errors of their own.
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise UserError(
            f"cannot download {KAGGLE_DATASET} from Kaggle ({reason}): check the network and the "
            "credentials (KAGGLE_USERNAME and KAGGLE_KEY), or download it yourself and give its "
            "path."
        ) from None
