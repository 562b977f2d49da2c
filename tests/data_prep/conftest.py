"""A fixture that runs the command in a test."""

from collections.abc import Callable

import pytest
from small_releases import Run

from data_prep.__main__ import main


@pytest.fixture
def convert(tmp_path, capsys) -> Callable[..., Run]:
    """Function that runs the command in this process: convert(source, *flags, to=folder).

    Its pictures are empty, because they take most of the time, unless a test asks for `pictures`.
    """

    def run(source: object, *flags: str, to: str = "data", pictures: bool = False) -> Run:
        data_dir = tmp_path / to
        capsys.readouterr()
        with pytest.MonkeyPatch.context() as patch:
            for name in () if pictures else ("draw_samples", "draw_class_distribution"):
                patch.setattr(f"data_prep.prepare.{name}", lambda path, *_: path.touch())
            status = main(["--source", str(source), "--data_dir", str(data_dir), *flags])
        out, err = capsys.readouterr()
        return Run(status=status, out=out, err=err, data_dir=data_dir)

    return run


@pytest.fixture
def convert_own(convert) -> Callable[..., Run]:
    """Function that prepares own data: convert_own(source, *flags, to=folder)."""

    def run(source: object, *flags: str, to: str = "records", pictures: bool = False) -> Run:
        return convert(source, "--labels=folders", *flags, to=to, pictures=pictures)

    return run
