"""Runs without the pictures and pages that take most of their time."""

import pytest


def leave_out_pictures(patch: pytest.MonkeyPatch) -> None:
    """Makes runs skip pictures and pages, which take most of the time of a short run."""
    for name in (
        "training.run._write_figures",
        "training.run.write_run_page",
        "reporting.report.write_run_page",
    ):
        patch.setattr(f"fer_jax.{name}", lambda *_, **__: None)
    for name in ("plot_confusion_matrix", "plot_samples"):
        patch.setattr(f"fer_jax.reporting.report.{name}", lambda *_: None)
    patch.setattr("fer_jax.reporting.report.to_png", lambda _: b"")


def leave_empty() -> None:
    """Does so for good in this process, with empty pages: a run with a page is finished."""
    patch = pytest.MonkeyPatch()
    leave_out_pictures(patch)
    for module in ("training.run", "reporting.report"):
        patch.setattr(f"fer_jax.{module}.write_run_page", lambda path, *_, **__: path.touch())
