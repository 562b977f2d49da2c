"""The pages in a browser: on a phone and a desktop, in light and in dark mode."""

import io

import numpy as np
import pytest
from chromium import contrast, start_chromium
from PIL import Image
from small_runs import make_evaluation, make_history, make_run

from fer_jax.reporting import comparison
from fer_jax.reporting.pages import breakable, columns, data_uri
from fer_jax.reporting.report import write_evaluation
from fer_jax.reporting.run_page import write_run_page


@pytest.fixture(scope="module")
def browser():
    with start_chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The pages of a run, of an evaluation and of three compared runs, by name."""
    folder = tmp_path_factory.mktemp("runs")
    workdirs = []
    for name, skill in (("first", 2.0), ("a_run_of_a_rather_long_name" * 3, 1.5), ("third", 1.0)):
        workdirs.append(make_run(folder / name, learning_rate=skill / 1e3))
        evaluation = make_evaluation(workdirs[-1], 250, split="validation_20", skill=skill)
        report = write_evaluation(evaluation)
    page = workdirs[-1] / "report.html"
    records = evaluation.records
    write_run_page(page, evaluation, report, history=make_history(12), training=records)
    split, runs = comparison.read_runs(workdirs)
    comparison.write_comparison(
        folder / "compare.html", split, runs, comparison.compare_pairs(runs)
    )
    return {
        "run": page,
        "evaluation": workdirs[1] / "eval/validation_20/report.html",
        "comparison": folder / "compare.html",
    }


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", ["run", "evaluation", "comparison"])
def test_fits_and_is_legible(browser, pages, name, width, scheme):
    complaints, requests = [], []
    with browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme
    ) as context:
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(pages[name].as_uri())
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.evaluate("[...document.images].every(image => image.naturalWidth === 48)")
        # Text that is smaller than 8 px, or that has too little contrast with its background.
        small = page.evaluate(
            """[...document.querySelectorAll('svg text')].filter(
              text => text.getBoundingClientRect().height < 8).map(text => text.textContent)"""
        )
        shades = page.evaluate(
            """[...document.querySelectorAll('svg text, td, th, p, figcaption, dd, h2')].map(
              one => getComputedStyle(one)[one.closest('svg') ? 'fill' : 'color'])"""
        )
        ground = page.evaluate(
            "getComputedStyle(document.querySelector('section')).backgroundColor"
        )
        picture = Image.open(io.BytesIO(page.screenshot(full_page=True)))
    assert not small
    assert min(contrast(shade, ground) for shade in set(shades)) >= 4.5
    assert picture.width == width
    darkness = np.median(np.asarray(picture.convert("L")))
    assert darkness < 60 if scheme == "dark" else darkness > 200
    assert not complaints
    assert all(url.startswith(("file:", "data:")) for url in requests)


@pytest.mark.parametrize(
    ("tiles", "most", "count"),
    [(32, 8, 8), (16, 4, 4), (3, 8, 8), (9, 8, 5), (13, 8, 7), (7, 4, 4)],
)
def test_the_last_row_of_pictures_is_not_left_to_one(tiles, most, count):
    assert columns(tiles, most) == count


def test_names_break_between_words_only():
    broken = breakable("test/<b>/PublicTest_63450216.jpg")
    assert broken == "test/<wbr>&lt;b&gt;/<wbr>PublicTest_<wbr>63450216.jpg"


def test_an_image_comes_back_from_its_address():
    from base64 import b64decode

    image = np.random.default_rng(0).integers(0, 256, (48, 48, 1), dtype=np.uint8)
    kind, encoded = data_uri(image).split(",")
    assert kind == "data:image/png;base64"
    with Image.open(io.BytesIO(b64decode(encoded))) as read:
        np.testing.assert_array_equal(np.asarray(read), image[:, :, 0])
