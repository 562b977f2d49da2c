"""Protects finished records: another source or other options are refused."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_prep.candidates import Listing
from data_prep.labellings import open_labelled
from data_prep.options import Options
from fer_jax.data.contract import DATASET_NAME, DATASET_VERSION, is_name, record_dir
from fer_jax.errors import UserError
from fer_jax.remote import place_of


def refuse_other_name(data_dir: Path, name: str) -> None:
    """Raises `UserError` if `data_dir` holds records of a data set with another name."""
    for folder in sorted(data_dir.glob(f"*/{DATASET_VERSION}")):
        if is_name(folder.parent.name) and folder.parent.name != name:
            raise UserError(
                f"{data_dir} holds records of {folder.parent.name}, and these would be {name}'s: "
                "give another --data_dir."
            )


def shown(data_dir: Path) -> str:
    """Returns the place of the records in a folder, or at the URL that it is a copy of."""
    return f"{place_of(data_dir)}/{record_dir(data_dir).relative_to(data_dir)}"


def refuse_another(options: Options, data_dir: Path, metadata: Mapping[str, Any]) -> None:
    """Raises `UserError` if finished records were made from another source or by other options.

    It compares the kinds, the numbers of files or rows, and their names, splits and classes.
    Nothing is downloaded, drawn or decoded for it.
    """
    records = shown(data_dir)
    advice = "give another --data_dir, or delete the records first."
    # Older records lack some or all of the options; they were made with the defaults.
    default = Options(source="", data_dir=Path(), resize=metadata.get("resized", False))
    made = default.facts | metadata.get("options", {})
    for key, asked in options.facts.items():
        if made[key] != asked:
            raise UserError(
                f"{records} is finished, with --{key}={_written(made[key])} and not "
                f"--{key}={_written(asked)}: {advice}"
            )
    before = metadata["images"] + metadata["quarantined"] + metadata.get("left_out", 0)
    kind, number = metadata["source"], before
    if options.source in ("kaggle", "sample"):
        kind = options.source if options.labels == DATASET_NAME else kind
    else:
        with open_labelled(options) as release:
            kind = release.kind
            listing = Listing(release.candidates)
            number = sum(1 for _ in listing) + release.left_out.total()
            if number == before and metadata.get("listing", listing.digest) != listing.digest:
                raise UserError(
                    f"{records} is finished, and since then files of --source {options.source} "
                    f"have other names, splits or classes: {advice}"
                )
    if (kind, number) != (metadata["source"], before):
        raise UserError(
            f"{records} is finished, with {before:,} files or rows of source "
            f"{metadata['source']!r}, and --source {options.source} is another one, of kind "
            f"{kind!r}{f' with {number:,}' if number != before else ''}: {advice}"
        )


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
