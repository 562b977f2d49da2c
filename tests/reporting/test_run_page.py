"""The page of a run or of an evaluation: its text, and its figures against scikit-learn's."""

import html
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve
from small_runs import SEVEN, make_evaluation, make_history, make_run

from fer_jax.data.augment import Augmentation, Shifts, shift_and_flip
from fer_jax.errors import UserError
from fer_jax.reporting import run_page as run_page_module
from fer_jax.reporting.figures import plot_precision_recall
from fer_jax.reporting.report import write_evaluation
from fer_jax.reporting.run_page import write_run_page

MADE = {
    "date": "2026-11-28T09:35:12+00:00",
    "command": "python -m fer_jax.main --config=resnet --workdir=runs/first",
    "commit": "0123456789ab" + "0" * 28 + "-dirty",
}
RESOURCES = {
    "starts": 2,
    "seconds": {"imports": 4.0, "compilation": 10.0, "training": 62.0},
    "total_seconds": 76.0,
    "peak_memory_mib": {"host": 2871.2, "device": 9120.6},
}
HOSTILE = '<script>alert(1)</script> & "$x^{$'


class Page(HTMLParser):
    """Tags with their attributes, and the text of a page; raises on tags that do not match."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.ids, self.text, self._open = [], [], "", []
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\d %", text)  # The sign would be alone on a line.
        self.feed(text.replace("\N{NO-BREAK SPACE}", " "))
        assert not self._open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.ids += [value for key, value in attributes if key == "id"]
        if tag not in ("meta", "img", "br", "wbr", "link"):
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self._open.pop()

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] != "style":
            self.text += data

    def attributes(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def run_page(tmp_path_factory):
    """The page of a run, its evaluation and its report."""
    evaluation = make_evaluation(make_run(tmp_path_factory.mktemp("runs") / "first"), 300)
    config = evaluation.workdir / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | MADE))
    (evaluation.workdir / "resources.json").write_text(json.dumps(RESOURCES))
    report = write_evaluation(evaluation)
    path = evaluation.workdir / "report.html"
    training = evaluation.records
    write_run_page(path, evaluation, report, history=make_history(12), training=training)
    return Page(path), evaluation, report


def test_is_one_file_that_loads_nothing(run_page):
    page, evaluation, _ = run_page
    for _, attributes in page.tags:
        for key in ("src", "href", "xlink:href"):
            assert attributes.get(key, "#").startswith(("data:image/png;base64,", "#"))
    text = (evaluation.workdir / "report.html").read_text()
    assert "http" not in re.sub("http-equiv", "", text)
    assert "url(" not in re.sub(r"url\(#", "", text)
    assert not page.attributes("script")
    assert len(text) < 1_500_000


def test_every_part_is_there(run_page):
    page, evaluation, report = run_page
    headings = ("Training", "Classes", "Calibration", "Precision and recall", "Augmentation")
    for part in (*headings, "most confident mistakes", "drawn at random", "Provenance", "Config"):
        assert part in page.text
    for fact in ("12ab" * 16, "ab12" * 16, "2 x cpu", "sample", "0.12.0", "0:12:00", "2,000"):
        assert fact in page.text
    for fact in ("2026-11-28 09:35 UTC, commit 0123456789ab-dirty", "--workdir=runs/first"):
        assert fact in page.text
    for fact in (
        "seconds, 76 in all",
        "2, the run was resumed",
        "host2,871 MiB",
        "device9,121 MiB",
    ):
        assert fact in re.sub(r"\s*\n\s*", "", page.text)
    for key in ("accuracy", "macro_f1", "macro_recall", "weighted_f1", "ece"):
        low, high = report["intervals"][key]
        assert f"{100 * report[key]:.1f} %" in page.text
        assert f"{100 * low:.1f} % to {100 * high:.1f} %" in page.text
    labels = [svg["aria-label"] for svg in page.attributes("svg")]
    assert len(labels) == 4 + 1 + 1 + 7 + 1  # curves, phases, reliability, classes, shares
    assert len(set(labels)) == len(labels)
    images = page.attributes("img")
    mistakes = (evaluation.predicted != evaluation.records.labels).sum()
    assert len(images) == min(16, mistakes) + 32 + 4 * (1 + 6)
    assert all(image["alt"] for image in images)


def test_names_within_the_page_are_its_own(run_page):
    page = run_page[0]
    assert len(page.ids) == len(set(page.ids))
    targets = {a["href"][1:] for a in page.attributes("a")}
    assert targets <= set(page.ids)
    used = re.findall(r"url\(#(\w+)\)", str(page.tags)) + [
        use["xlink:href"][1:] for use in page.attributes("use")
    ]
    assert set(used) <= set(page.ids)


def test_the_confusion_matrix_is_that_of_the_report(run_page):
    page, _, report = run_page
    shares = [float(td["style"].split(":")[1]) for td in page.attributes("td") if "style" in td]
    matrix = np.array(report["confusion_matrix"])
    expected = matrix / matrix.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shares, expected.ravel(), atol=6e-4)


def test_mistakes_are_the_most_confident_ones(run_page):
    page, evaluation, _ = run_page
    shown = [f["title"] for f in page.attributes("figure") if f.get("class") == "wrong"][:16]
    labels, confidences = evaluation.records.labels, evaluation.probabilities.max(axis=1)
    wrong = np.flatnonzero(evaluation.predicted != labels)
    expected = wrong[np.argsort(-confidences[wrong])][:16]
    assert shown == [evaluation.records.filenames[index] for index in expected]


def test_average_precision_is_that_of_scikit_learn(run_page):
    page, evaluation, _ = run_page
    for index, name in enumerate(SEVEN):
        truth, score = evaluation.records.labels == index, evaluation.probabilities[:, index]
        expected = 100 * average_precision_score(truth, score)
        assert re.search(rf"{name}\s+AP {expected:.1f} %", page.text)


def test_the_curve_passes_through_the_dot(run_page):
    """The most probable class is not a threshold, so the dot may lie below the curve, not above."""
    _, evaluation, report = run_page
    truth, score = evaluation.records.labels == 3, evaluation.probabilities[:, 3]
    precision, recall, _ = precision_recall_curve(truth, score)
    row = report["per_class"]["happy"]
    chosen = (row["recall"], row["precision"])
    (axes,) = plot_precision_recall(precision, recall, share=truth.mean(), chosen=chosen).axes
    guess, curve, dot = axes.lines
    np.testing.assert_array_equal(curve.get_xdata(), 100 * recall)
    np.testing.assert_array_equal(curve.get_ydata(), 100 * precision)
    assert (dot.get_xdata()[0], dot.get_ydata()[0]) == (100 * chosen[0], 100 * chosen[1])
    assert guess.get_ydata()[0] == pytest.approx(100 * truth.mean())


def test_augmentation_is_the_runs_own(run_page, monkeypatch):
    """Each version is one of the shifts that the config allows, mirrored or not."""
    _, evaluation, _ = run_page
    monkeypatch.setattr(run_page_module, "data_uri", lambda image: image)
    rows = run_page_module._augmented(evaluation.records, Augmentation(0.05, flip=True), 0, SEVEN)
    steps = np.arange(-2, 3)
    down, right, mirrored = (grid.ravel() for grid in np.meshgrid(steps, steps, [False, True]))
    for row in rows:
        allowed = shift_and_flip(
            np.stack([row["original"]] * len(down)), Shifts(down, right, mirrored)
        )
        for version in row["versions"]:
            assert (version == allowed).all(axis=(1, 2, 3)).any()
    still = run_page_module._augmented(evaluation.records, Augmentation(), 0, SEVEN)
    assert all((version == row["original"]).all() for row in still for version in row["versions"])


def test_hostile_names_are_text(tmp_path):
    run = make_run(tmp_path / "<i>run", model={"name": HOSTILE})
    evaluation = make_evaluation(run, 40, classes=("a", HOSTILE, "c"), name=HOSTILE + "{}.png")
    write_evaluation(evaluation)
    path = evaluation.directory / "report.html"
    page = Page(path)
    assert not page.attributes("script")
    assert not page.attributes("i")
    assert page.text.count(HOSTILE) > 20
    assert html.escape(HOSTILE, quote=False) in path.read_text()


def test_an_evaluation_has_no_training_and_says_that_its_data_are_other_ones(tmp_path):
    evaluation = make_evaluation(make_run(tmp_path / "run"), 30)
    (note,) = write_evaluation(evaluation)["notes"]
    assert "(fingerprint ab12ab12ab12) are not those that the run was trained on" in note
    page = Page(evaluation.directory / "report.html")
    assert "Throughput" not in page.text
    assert "Augmentation" not in page.text
    assert "Calibration" in page.text
    assert note in page.text


def test_an_ensembles_page_tells_the_mean_prediction_from_the_members(tmp_path):
    evaluation = make_evaluation(make_run(tmp_path / "run"), 30)
    report = write_evaluation(evaluation, [{"accuracy": share} for share in (0.5, 0.6, 0.55)])
    path = evaluation.workdir / "report.html"
    write_run_page(path, evaluation, report, history=make_history(3), training=evaluation.records)
    text = " ".join(Page(path).text.split())
    gain = 100 * (report["accuracy"] - 0.55)
    for part in (
        "Headline figures of the mean prediction",
        "mean accuracy55.0 % of 3 members, 50.0 % to 60.0 %",
        "standard deviation5.0 %",
        f"gain of the mean prediction {gain:+.1f} points",
        "Each curve is the mean over the members",
    ):
        assert part in text


def test_a_members_page_names_its_ensemble(tmp_path):
    (tmp_path / "ensemble").mkdir()
    evaluation = make_evaluation(make_run(tmp_path / "ensemble/member_1"), 30)
    write_evaluation(evaluation)
    assert "ensemble/member_1" in Page(evaluation.directory / "report.html").text


def test_a_model_without_mistakes_and_classes_without_images(tmp_path):
    evaluation = make_evaluation(make_run(tmp_path / "run"), 5, skill=100)
    report = write_evaluation(evaluation)
    page = Page(evaluation.directory / "report.html")
    assert report["accuracy"] == 1
    assert "There are none." in page.text
    absent = sum(not row["support"] for row in report["per_class"].values())
    assert page.text.count("has no images") == absent > 0
    # Without images and predictions, a class has neither figures nor percentages.
    assert page.text.count("\N{EN DASH}") >= absent * (4 + 7)


def test_a_run_without_config_is_told_in_one_line(tmp_path):
    evaluation = make_evaluation(tmp_path, 5)
    with pytest.raises(UserError, match="is no workdir of a run"):
        write_evaluation(evaluation)
    assert not (tmp_path / "eval/test/report.html").exists()
