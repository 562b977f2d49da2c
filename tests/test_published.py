"""The published systems by one command: its training, and whether its page agrees with the runs.

Tests of the page alone use made-up runs.
"""

import itertools
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import commands
import jax
import pytest
from ml_collections import ConfigDict
from PIL import Image
from small_runs import make_evaluation, make_run

from benchmarks.accuracy.published import reproduce
from benchmarks.accuracy.published_page import SYSTEMS, Reproduction, System, make_page
from fer_jax.config import flatten, load_config
from fer_jax.devices import device_kind
from fer_jax.reporting.metrics import classification_metrics
from fer_jax.train import train
from fer_jax.workdir import read_run

TINY = ConfigDict({"name": "cnn", "channels": 1, "layers": ("max_pool", "max_pool", "flatten")})
PARAMETERS = 12 * 12 * 7 + 7


def published(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.accuracy.published", *map(str, arguments)],
        capture_output=True,
        text=True,
    )


def read_table(page: str) -> dict[str, dict[str, str]]:
    """Returns the cells of the page's first table, by system and heading."""
    lines = [line for line in page.split("\n## ")[0].splitlines() if line.startswith("|")]
    headings, _, *rows = (
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines
    )
    assert all(len(row) == len(headings) for row in rows)
    return {row[0].strip("`"): dict(zip(headings, row, strict=True)) for row in rows}


def read_per_class(page: str, name: str) -> dict[str, list[str]]:
    section = re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)[1]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    return {cells[0]: cells[1:] for cells in (row.strip("| ").split(" | ") for row in rows)}


def accuracy(report) -> str:
    p, n = report["accuracy"], report["n"]
    return f"{100 * p:.2f} ± {100 * math.sqrt(p * (1 - p) / n):.2f} % (n = {n:,})"


def stop_after_first_epoch(config, workdir):
    points = itertools.count(1)

    class Stopped:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def asked(self):
            return next(points) == 3  # The last step of an epoch of 168 images in batches of 64.

        def answer(self):
            pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["fer_jax.train"], "Interruption", Stopped)
        with pytest.raises(SystemExit, match="stopped after epoch 1"):
            train(config, workdir)


@pytest.fixture
def tiny(tmp_path) -> System:
    """A system with a tiny network and a config file of 25 epochs."""
    path = tmp_path / "tiny.py"
    lines = ["from ml_collections import ConfigDict", "from fer_jax.config import default_config"]
    lines += ["def get_config():", "    config = default_config()", "    config.epochs = 25"]
    lines += [f"    config.model = ConfigDict({TINY.to_dict()})", "    return config"]
    path.write_text("\n".join(lines))
    return System(str(path), PARAMETERS, "about 60 % validation")


def test_resumes_what_was_stopped(tiny, tiny_data_dir, tmp_path, monkeypatch, capfd):
    run = tmp_path / "run"
    config = load_config(tiny.config)
    config.data_dir, config.epochs = str(tiny_data_dir), 2
    config.eval_batch_size, config.memory_gib = 50, 2.0  # The page does not mention these.
    stop_after_first_epoch(config, run)
    # A report on another checkpoint, as left by an earlier evaluation.
    stale = run / "eval/public_test/report.json"
    stale.parent.mkdir(parents=True, exist_ok=True)
    stale.write_text(json.dumps({"checkpoint_step": 0}))

    def run_child(module, *arguments):
        """As `children.run`, without imports; `test_ablation.py` tests that one."""
        result = commands.run(f"fer_jax.{module}", *arguments)
        assert result.returncode == 0, result.stderr
        print(result.stdout, file=sys.stderr)

    monkeypatch.setattr("benchmarks.children.run", run_child)
    overrides = ["--config.eval_batch_size=50", f"--config.data_dir={tiny_data_dir}"]
    reproduction = reproduce("tiny", tiny, run, epochs_scale=0.04, overrides=overrides)
    assert "resuming" in capfd.readouterr().err
    assert not reproduction.error
    page = make_page([reproduction], tmp_path / "pictures", command="")
    row = read_table(page)["tiny"]
    assert row["trained"] == "**in part**: 2 of 25 epochs, of a run planned for 2"
    reports = {
        split: json.loads((run / "eval" / split / "report.json").read_text())
        for split in ("validation_20", "public_test")
    }
    history = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(history) == 2
    best = max(history, key=lambda epoch: (epoch["val_accuracy"], epoch["epoch"]))
    assert [report["checkpoint_step"] for report in reports.values()] == 2 * [best["step"]]
    assert reports["public_test"]["n"] == 35
    assert row["parameters"] == f"{PARAMETERS:,}, as published"
    assert row["validation"] == accuracy(reports["validation_20"])
    assert row["public_test"] == accuracy(reports["public_test"])
    assert row["macro F1"] == f"{100 * reports['public_test']['macro_f1']:.1f} %"
    assert row["chosen by"] == "val_accuracy on validation_20"
    assert row["seed"] == "0"
    assert row["hardware"] == f"{jax.device_count()} x {device_kind()}"
    links = re.findall(r"!\[.* of tiny\]\((.*)\)", page)
    assert len(links) == 2
    for link in links:
        picture = tmp_path / link
        assert picture.stat().st_size < 60_000
        with Image.open(picture) as image:
            assert min(image.size) > 400
    assert not (run / "eval/private_test").exists()
    assert not (run / "eval/test").exists()


def test_leaves_what_is_finished_and_goes_on_after_a_failure(tmp_path):
    runs, output = tmp_path / "runs", tmp_path / "page.md"
    finished = runs / "medium_cnn"
    runs.mkdir()
    report = make_evaluated(finished)
    (finished / "report.html").touch()
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    (runs / "small_cnn").mkdir()
    (runs / "small_cnn/config.json").write_text("no JSON")
    result = published(f"--workdir={runs}", "--only=medium_cnn,small_cnn", f"--output={output}")
    assert result.returncode == 1, result.stderr  # An error of small_cnn alone.
    assert "Traceback" not in result.stderr
    page = output.read_text()
    assert result.stdout.strip() == page.strip()
    table = read_table(page)
    assert tuple(table) == ("small_cnn", "medium_cnn")
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before
    assert table["medium_cnn"]["public_test"] == accuracy(report)
    assert table["small_cnn"]["parameters"] == "319,527, as published"
    assert "is no workdir of a run" in table["small_cnn"]["trained"]
    for link in re.findall(r"!\[.* of medium_cnn\]\((.*)\)", page):
        assert (tmp_path / link).exists()


def make_evaluated(workdir: Path, **config) -> dict:
    """Makes up a run with its best epoch last, the twelfth; returns the public_test report."""
    make_run(workdir, best_by="val_accuracy", views="one", **config)
    for split in ("validation_20", "public_test"):
        evaluation = make_evaluation(workdir, 350, split=split)
        report = classification_metrics(
            evaluation.probabilities, evaluation.records.labels, evaluation.data.classes
        )
        evaluation.directory.mkdir(parents=True)
        report |= {"checkpoint_step": 1200, "views": "one"}
        (evaluation.directory / "report.json").write_text(json.dumps(report))
    return report


def tabulate(name: str, workdir: Path, **known) -> tuple[dict[str, str], str]:
    """Returns the row and the page of a run, read as it is."""
    run = Reproduction(name, SYSTEMS[name], workdir, **known)
    run.read()
    for path in sorted(workdir.glob("eval/*/report.json")):
        run.reports[path.parent.name] = json.loads(path.read_text())
    page = make_page([run], None, command="")
    return read_table(page)[name], page


def test_published_figures_of_classes_stand_beside_ours(tmp_path):
    report = make_evaluated(tmp_path / "run", epochs=65)
    _, page = tabulate("medium_cnn", tmp_path / "run", config={"epochs": 65})
    per_class = read_per_class(page, "medium_cnn")
    for name, published in (("angry", "51 59 54"), ("sad", "57 61 59"), ("neutral", "73 78 76")):
        of_class = report["per_class"][name]
        ours = [f"{100 * of_class[key]:.1f}" for key in ("precision", "recall", "f1")]
        precision, recall, f1 = zip(ours, published.split(), strict=True)
        assert per_class[name] == [*precision, *recall, *f1, str(of_class["support"])]


def test_a_split_stands_in_one_column_though_it_chose_the_epoch(tmp_path):
    report = make_evaluated(tmp_path / "run", validation_split="public_test")
    row, _ = tabulate("resnet", tmp_path / "run", config={"epochs": 12})
    assert row["public_test"] == accuracy(report)
    assert row["validation"] == "-"
    assert row["chosen by"] == "val_accuracy on public_test"


def test_an_ensembles_row_has_its_members_and_their_seeds(tmp_path):
    report = make_evaluated(tmp_path / "run", ensemble=3)
    report["members"] = {"mean": 0.5, "sd": 0.0123}
    path = tmp_path / "run" / "eval" / "public_test" / "report.json"
    path.write_text(json.dumps(report))
    row, _ = tabulate("resnet_ensemble", tmp_path / "run", config={"epochs": 12})
    assert row["seed"] == "0 to 2"
    assert row["public_test"] == f"{accuracy(report)}; each by itself 50.00 ± 1.23 %"


@pytest.mark.parametrize(
    ("planned", "told", "ended", "trained"),
    [
        (12, 12, True, "**in full**: 12 of 12 epochs"),
        (12, 12, False, "**in part**: 12 of 12 epochs, not ended"),
        (65, 65, False, "**in part**: 12 of 65 epochs, not ended"),
        (65, 65, True, "**in full**: 12 of 65 epochs, then stopped early by the validation loss"),
        (65, 12, True, "**in part**: 12 of 65 epochs, of a run planned for 12"),
        (65, 20, False, "**in part**: 12 of 65 epochs, of a run planned for 20, not ended"),
    ],
)
def test_a_row_says_how_much_was_trained(planned, told, ended, trained, tmp_path):
    run = make_run(tmp_path / "run", epochs=told, best_by="val_loss")
    config = flatten(read_run(run)["config"]) | {"epochs": planned, "seed": 3, "of_later_code": 1}
    if ended:
        (run / "report.html").touch()
    row, _ = tabulate("small_cnn", run, config=config)
    assert row["trained"] == trained
    assert (row["seed"], row["hardware"], row["images/s"]) == ("0", "2 x cpu", "1,065")
    assert row["training time"] == "0:12:00"
    assert row["public_test"] == row["macro F1"] == "-"

    row, _ = tabulate("small_cnn", run, config=config | {"input": "device"})
    assert row["trained"] == trained
    row, _ = tabulate("small_cnn", run, config=config | {"shift": 0.0})
    assert row["trained"].startswith(f"**altered**: 12 of {planned} epochs, with shift=0.1")


def test_a_reason_names_no_folder_and_breaks_no_table(tmp_path):
    error = f"fer_jax.main: no <weights> | in {tmp_path}/vgg16.h5; give one"
    row, _ = tabulate("vgg16_transfer", tmp_path, error=error)
    assert row["trained"].endswith(r"no &lt;weights&gt; \| in …/vgg16.h5; give one")
    run = Reproduction("densenet", SYSTEMS["densenet"], tmp_path, error=error)
    assert str(tmp_path) not in make_page([run], None, command="")
    assert tabulate("resnet", tmp_path)[0]["trained"] == "**not trained**"


def test_a_mistake_ends_in_one_line_and_status_2(tmp_path):
    for flags, message in (
        (["--only=small_cnn,tiny_cnn"], "--only has tiny_cnn; choose from small_cnn, medium_cnn"),
        (["--epochs_scale=1.5"], "epochs_scale"),
        (["stray"], "unexpected 'stray'"),
    ):
        flags = (f"--workdir={tmp_path / 'runs'}", *flags)
        result = commands.run("benchmarks.accuracy.published", *flags)
        assert result.returncode == 2, result.stderr
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1
        assert message in result.stderr
        assert not (tmp_path / "runs").exists()
