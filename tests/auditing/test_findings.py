"""Planted faults are found, all of them, and nothing else; in grey and in larger colour images."""

import csv
import re

import commands
import numpy as np
import pytest
from chromium import start_chromium
from planted import BLANK, OTHER_LABEL, PAIRS, TEXT, THREE, WRONG, make_planted

from fer_jax.auditing import faces
from fer_jax.auditing.findings import audit
from fer_jax.auditing.page import write_audit_page
from fer_jax.data.exclusions import COLUMNS
from fer_jax.data.records import open_data_set


def predict(data, split):
    """Returns predictions that agree with all labels of a split but the planted ones."""
    records = data.load(split)
    classes = len(data.classes)
    wrong = np.array([name in WRONG for name in records.filenames])
    likely = (records.labels + wrong) % classes
    return 0.1 / classes + 0.9 * np.eye(classes)[likely]


@pytest.mark.parametrize(("size", "channels"), [(48, 1), (96, 3)])
def test_planted_faults_are_found_and_nothing_else(size, channels, planted_data_dir, tmp_path):
    folder = (
        planted_data_dir if size == 48 else make_planted(tmp_path, size=size, channels=channels)
    )
    data = open_data_set(folder)
    found = audit(data, {"public_test": predict(data, "public_test")})
    rows = list(csv.DictReader(found.to_csv().splitlines()))
    assert tuple(rows[0]) == COLUMNS
    of = {kind: [row for row in rows if row["kind"] == kind] for kind in (*PAIRS, "blank", "text")}

    three = {row["file"] for row in of["duplicate"]} & THREE
    assert "three-other-label" in three  # Two of the three have the label that stays.
    assert len(three) == 2
    for kind, pairs in PAIRS.items():
        rest = [row for row in of[kind] if row["file"] not in three]
        places = {frozenset((r["file"], r["other_file"])): r["position"] for r in rest}
        unsigned = {pair: re.sub("[+-]", "", where) for pair, where in places.items()}
        planted = {frozenset(pair): where.replace(" and", "") for pair, where in pairs.items()}
        assert unsigned == planted
        assert len(rest) == len(pairs)
    for row in of["leak"]:
        assert (row["split"], row["other_split"]) == ("public_test", "train")
    differing = [row for row in of["leak"] + of["duplicate"] if row["label"] != row["other_label"]]
    for row in differing:
        assert {row["file"], row["other_file"]} & OTHER_LABEL
    assert len(differing) == len(OTHER_LABEL)
    assert {row["file"] for row in of["blank"]} == BLANK
    assert {row["file"] for row in of["text"]} == TEXT
    labels = [row for row in rows if row["kind"] == "label"]
    assert {row["file"] for row in labels} == WRONG
    for row in labels:
        after = (data.classes.index(row["label"]) + 1) % len(data.classes)
        assert row["other_label"] == data.classes[after]
        assert 0 <= float(row["distance"]) < 0.2
    assert len(rows) == sum(map(len, of.values())) + len(labels)
    for row in rows:
        assert data.fingerprint.startswith(row["data"])
        if row["kind"] in PAIRS:
            assert (float(row["distance"]) > 0) == (
                row["file"] == "noisy" or row["other_file"] == "noisy"
            )


def test_the_same_images_under_two_tests_leak(tiny_data_dir):
    """The two tests of `tiny_source` are drawn from the same numbers."""
    data = open_data_set(tiny_data_dir)
    found = audit(data, {})
    assert len(found.findings) == len(data.load("private_test")) == 35
    for finding in found.findings:
        assert (finding.kind, finding.distance) == ("leak", 0)
        (_, split, label), (_, of, other) = map(found.describe, (finding.image, finding.other))
        assert (split, of, label) == ("private_test", "public_test", other)


def test_the_command_leaves_list_and_page(planted_data_dir, tmp_path):
    result = commands.run(
        "fer_jax.audit", f"--data_dir={planted_data_dir}", f"--output={tmp_path / 'out'}"
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert re.search(r"duplicate +8 +1 +2", result.stdout)
    assert re.search(r"leak +- +3 +1", result.stdout)
    assert "duplicates of train have their copy on the other side" in result.stdout
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"audit.csv", "audit.html"}
    page = (tmp_path / "out/audit.html").read_text()
    rows = list(csv.DictReader((tmp_path / "out/audit.csv").read_text().splitlines()))
    assert len(rows) == 16
    assert page.count("<img") == 16 + 12  # Two pictures for each copy.
    assert all(row["file"] in page for row in rows)

    (tmp_path / "file").touch()
    result = commands.run(
        "fer_jax.audit", f"--data_dir={planted_data_dir}", f"--output={tmp_path / 'file'}"
    )
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "choose another --output" in result.stderr


def test_images_without_a_face_are_a_hint(planted_data_dir):
    data = open_data_set(planted_data_dir)
    missing = faces.without_face(data.load("train"))
    of = dict(zip(data.load("train").filenames, missing.tolist(), strict=True))
    assert of["notice"]
    assert of["black"]
    assert not all(missing)


@pytest.fixture(scope="module")
def browser():
    with start_chromium() as browser:
        yield browser


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits(browser, planted_data_dir, tmp_path, width, scheme):
    data = open_data_set(planted_data_dir)
    write_audit_page(tmp_path / "audit.html", audit(data, {}))
    requests = []
    with browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme
    ) as context:
        page = context.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.goto((tmp_path / "audit.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.evaluate("[...document.images].every(image => image.naturalWidth === 48)")
        assert len([url for url in requests if not url.startswith("data:")]) == 1
