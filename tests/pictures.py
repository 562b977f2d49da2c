"""Runs without the pictures and pages that take most of their time."""

import pytest


def leave_out_pictures(patch: pytest.MonkeyPatch, *, pages: bool = False) -> None:
    """Makes runs skip pictures and, without `pages`, pages: most of the time of a short run.

    The pictures of records are empty files.
    """
    patch.setattr("fer_jax.training.run._write_figures", lambda *_: None)
    for module in () if pages else ("training.run", "reporting.report"):
        patch.setattr(f"fer_jax.{module}.write_run_page", lambda *_, **__: None)
    for name in ("plot_confusion_matrix", "plot_samples"):
        patch.setattr(f"fer_jax.reporting.report.{name}", lambda *_: None)
    patch.setattr("fer_jax.reporting.report.to_png", lambda _: b"")
    for name in ("draw_samples", "draw_class_distribution"):
        patch.setattr(f"data_prep.prepare.{name}", lambda path, *_: path.touch())


def leave_empty() -> None:
    """Does so for good in this process, with empty pages: a run with a page is finished."""
    patch = pytest.MonkeyPatch()
    leave_out_pictures(patch)
    for module in ("training.run", "reporting.report"):
        patch.setattr(f"fer_jax.{module}.write_run_page", lambda path, *_, **__: path.touch())
