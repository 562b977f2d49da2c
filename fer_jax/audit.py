"""Looks for copies, leaks, blank images, texts and wrong labels in prepared records.

It prints a table, and leaves audit.html, with the pictures side by side, and audit.csv, which
`--config.exclude=audit.csv` of training and `--exclude=audit.csv` of evaluation read.

Example:
  python -m fer_jax.audit --data_dir=data/fer2013 --workdir=runs/resnet
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from fer_jax import cli
from fer_jax.errors import UserError, write_atomically
from fer_jax.paths import is_url
from fer_jax.remote import place_of

CSV, PAGE = "audit.csv", "audit.html"


def define_flags() -> None:
    """Defines --data_dir and the other flags."""
    cli.define_path("data_dir", "Folder of the records; default: as in training.", remote=True)
    cli.define_path(
        "output",
        "Folder to write to; default: that of the records or, if they are at a URL, this folder.",
    )
    cli.define_path(
        "workdir",
        "Run whose predictions test the labels of the images that it was not trained on.",
        remote=True,
    )
    flags.DEFINE_bool("detect_faces", False, "Look for images without a face; takes minutes.")


def main(arguments: Sequence[str]) -> None:
    """Audits the records, prints a table, and writes the page and the list."""
    options = flags.FLAGS
    cli.refuse_arguments(arguments)
    # Imported here so that a wrong flag is reported at once.
    from fer_jax.auditing.findings import audit
    from fer_jax.auditing.page import print_audit, write_audit_page
    from fer_jax.auditing.predictions import out_of_fold
    from fer_jax.data.records import find_data_dir, open_data_set

    data = open_data_set(find_data_dir(options.data_dir or ""))
    predictions = out_of_fold(options.workdir, data) if options.workdir else {}
    found = audit(data, predictions, detect_faces=options.detect_faces)
    folder = options.output or (Path() if is_url(place_of(data.data_dir)) else data.data_dir)
    try:
        write_atomically(folder / CSV, found.to_csv())
        write_audit_page(folder / PAGE, found)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error}; choose another --output") from error
    print_audit(found)
    if not options.workdir:
        print("No label was tested; give --workdir=RUN, a run with other training images.")
    print(f"{folder / PAGE} has the pictures, and {folder / CSV} the list")


if __name__ == "__main__":
    cli.run(main, define_flags)
