"""Runs side by side: printed and written results against counts by hand, and refusals."""

import csv
import json
import re

import commands
import numpy as np
import pytest
from scipy.stats import binomtest
from small_runs import SEVEN, make_evaluation, make_run

from fer_jax.errors import UserError
from fer_jax.reporting.comparison import (
    compare_pairs,
    describe_data,
    print_comparison,
    read_runs,
    write_comparison,
)


def evaluate(workdir, *, split="validation_20", **options):
    evaluation = make_evaluation(workdir, 400, split=split, **options)
    evaluation.directory.mkdir(parents=True)
    (evaluation.directory / "predictions.csv").write_text(evaluation.to_csv())


@pytest.fixture
def runs(tmp_path):
    workdirs = []
    for name, skill, rate in (("weak", 1.0, 1e-3), ("strong", 3.0, 1e-2), ("other", 1.2, 1e-3)):
        workdirs.append(make_run(tmp_path / name, learning_rate=rate))
        evaluate(workdirs[-1], skill=skill)
    return workdirs


def shuffle_rows(workdir):
    path = workdir / "eval/validation_20/predictions.csv"
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([header, *np.random.default_rng(0).permutation(rows)]) + "\n")


def test_pairs_images_by_their_file_names(runs):
    """Compares with counts made in another way; the order of the rows does not matter."""
    right = []
    for workdir in runs[:2]:
        with open(workdir / "eval/validation_20/predictions.csv", newline="") as file:
            right.append(
                {r["filename"] for r in csv.DictReader(file) if r["label"] == r["predicted"]}
            )
    shuffle_rows(runs[1])
    split, read = read_runs(runs[:2])
    (pair,) = compare_pairs(read)
    assert split == "validation_20"
    assert (pair.only_first, pair.only_second) == (
        len(right[0] - right[1]),
        len(right[1] - right[0]),
    )
    assert pair.p == pytest.approx(
        binomtest(pair.only_first, pair.only_first + pair.only_second).pvalue
    )
    assert pair.p_holm == pair.p
    assert pair.difference[0] == pytest.approx((len(right[0]) - len(right[1])) / 400)
    assert [run.metrics["accuracy"] for run in read] == [len(names) / 400 for names in right]


def test_data_of_different_fingerprints_are_said(runs, tmp_path, capsys):
    for workdir, fingerprint in zip(runs, ("ab12" * 16, "cd34" * 16, ""), strict=True):
        report = workdir / "eval/validation_20/report.json"
        report.write_text(json.dumps({"data_fingerprint": fingerprint} if fingerprint else {}))
    split, read = read_runs(runs)
    pairs = compare_pairs(read)
    print_comparison(split, read, pairs)
    write_comparison(tmp_path / "page.html", split, read, pairs)
    said = "data of different fingerprints: ab12ab12ab12 for A, cd34cd34cd34 for B."
    assert said in " ".join(capsys.readouterr().out.split())
    assert said in (tmp_path / "page.html").read_text()
    assert not describe_data([read[0], read[2]])


def test_other_views_are_compared_by_their_folder(runs):
    for workdir in runs:
        evaluation = workdir / "eval/validation_20"
        evaluation.rename(evaluation.with_name("validation_20+ten_crop"))
    assert read_runs(runs, "validation_20+ten_crop")[0] == "validation_20+ten_crop"


def test_three_runs_make_three_pairs_and_holm(runs):
    pairs = compare_pairs(read_runs(runs)[1])
    assert [(pair.first, pair.second) for pair in pairs] == [("A", "B"), ("A", "C"), ("B", "C")]
    smallest = min(pairs, key=lambda pair: pair.p)
    assert smallest.p_holm == pytest.approx(3 * smallest.p)
    assert all(pair.p_holm >= pair.p for pair in pairs)


def test_a_run_does_not_differ_from_itself(runs):
    (pair,) = compare_pairs(read_runs([runs[0], runs[0]])[1])
    assert (pair.p, pair.difference) == (1, (0, 0, 0))


def test_prints_and_writes(runs, tmp_path):
    hostile = tmp_path / "<b>&run"
    runs[2].rename(hostile)
    result = commands.run("fer_jax.compare", *runs[:2], hostile, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    printed = result.stdout
    assert max(map(len, printed.splitlines())) <= max(80, len(f"C {hostile}"))
    for part in ("validation_20, 400 images", "A - B", "Holm's p", str(runs[0]), "compare.html"):
        assert part in printed
    page = (tmp_path / "compare.html").read_text()
    assert "&lt;b&gt;&amp;run" in page
    assert "<b>&" not in page
    rates = re.search(r"config\.learning_rate</th>(.*?)</tr>", page)[1]
    assert re.findall(r"<td>(.*?)</td>", rates) == ["0.001", "0.01", "0.001"]
    assert "config.epochs" not in page
    assert "http:" not in page
    assert "https:" not in page


def drop_an_image(workdir):
    path = workdir / "eval/validation_20/predictions.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def relabel_an_image(workdir):
    path = workdir / "eval/validation_20/predictions.csv"
    *rows, last = path.read_text().splitlines()
    name, label, *rest = last.split(",")
    other = SEVEN[SEVEN.index(label) - 1]
    path.write_text("\n".join([*rows, ",".join([name, other, *rest])]) + "\n")


def repeat_an_image(workdir):
    path = workdir / "eval/validation_20/predictions.csv"
    path.write_text(path.read_text() + path.read_text().splitlines()[-1] + "\n")


def rename_a_class(workdir):
    path = workdir / "eval/validation_20/predictions.csv"
    path.write_text(path.read_text().replace("disgust", "contempt"))


def remove(name):
    return lambda workdir: (workdir / name).unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (drop_an_image, r"the same images \(1 are"),
        (relabel_an_image, r"the same images \(1 are"),
        (rename_a_class, "have different classes"),
        (repeat_an_image, "file names occur more than once"),
        (remove("config.json"), "is no workdir of a run"),
        (remove("metrics.jsonl"), "cannot read the history"),
        (
            remove("eval/validation_20/predictions.csv"),
            "python -m fer_jax.evaluate --workdir=.*strong --split=validation_20",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(runs, spoil, message):
    spoil(runs[1])
    with pytest.raises(UserError, match=message) as caught:
        read_runs(runs)
    assert "\n" not in str(caught.value)


def test_the_split_is_the_one_that_all_validated_on(runs, tmp_path):
    runs.append(make_run(tmp_path / "elsewhere", validation_split="public_test"))
    with pytest.raises(UserError, match=r"validated on public_test, validation_20; give --split"):
        read_runs(runs)
    evaluate(runs[-1], skill=1.0)
    assert read_runs(runs, "validation_20")[0] == "validation_20"


@pytest.mark.parametrize("count", [0, 1, 27])
def test_two_runs_or_more_are_needed(runs, count):
    with pytest.raises(UserError, match=f"give 2 to 26 runs, not {count}"):
        read_runs(runs[:1] * count)


def test_a_mistake_ends_in_one_line_and_status_2(runs, tmp_path):
    (tmp_path / "file").touch()
    for arguments, message in (
        ((*runs, f"--output={tmp_path / 'file' / 'page.html'}"), "choose another --output"),
        ((*runs, "--splt=test"), "Did you mean: split"),
    ):
        result = commands.run("fer_jax.compare", *arguments)
        assert result.returncode == 2, result.stderr
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1
        assert message in result.stderr
