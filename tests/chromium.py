"""Headless Chromium, for the tests of pages; without it they are skipped."""

import contextlib
import shutil

import numpy as np
import pytest

_CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
_FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-sync", "--no-first-run")


@contextlib.contextmanager
def start_chromium(*flags: str):
    """Yields playwright's browser."""
    if _CHROMIUM is None:
        pytest.skip("no chromium here: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_CHROMIUM, args=[*_FLAGS, *flags])
        yield browser
        browser.close()


def contrast(one: str, other: str) -> float:
    """The contrast ratio of WCAG 2 of two colours as `rgb(r, g, b)`."""

    def luminance(colour: str) -> float:
        channels = np.array(colour[4:-1].split(","), float) / 255
        linear = np.where(
            channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4
        )
        return float(linear @ (0.2126, 0.7152, 0.0722))

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)
