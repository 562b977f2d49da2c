"""The published systems by one command: it trains what is missing, and records every run."""

import itertools
import json
import sys
from pathlib import Path

import commands
import pytest
from ml_collections import ConfigDict
from PIL import Image
from small_runs import make_evaluation, make_run

from benchmarks import record
from benchmarks.accuracy.published import reproduce
from fer_jax.config import load_config
from fer_jax.reporting.metrics import classification_metrics
from fer_jax.train import train

pytestmark = pytest.mark.usefixtures("cached_programs")

TINY = ConfigDict({"name": "cnn", "channels": 1, "layers": ("max_pool", "max_pool", "flatten")})
PARAMETERS = 12 * 12 * 7 + 7


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
def tiny(tmp_path) -> str:
    """The file of a config with a tiny network and 25 epochs."""
    path = tmp_path / "tiny.py"
    lines = ["from ml_collections import ConfigDict", "from fer_jax.config import default_config"]
    lines += ["def get_config():", "    config = default_config()", "    config.epochs = 25"]
    lines += [f"    config.model = ConfigDict({TINY.to_dict()})", "    return config"]
    path.write_text("\n".join(lines))
    return str(path)


def test_resumes_what_was_stopped_and_records_it(tiny, tiny_data_dir, tmp_path, monkeypatch, capfd):
    run, results = tmp_path / "run", tmp_path / "results"
    config = load_config(tiny)
    config.data_dir, config.epochs = str(tiny_data_dir), 2
    config.eval_batch_size, config.memory_gib = 50, 2.0  # These are no changes of the recipe.
    stop_after_first_epoch(config, run)

    def run_child(module, *arguments):
        """As `children.run`, without imports; `test_ablation.py` tests that one."""
        result = commands.run(module, *arguments)
        assert result.returncode == 0, result.stderr
        print(result.stdout, file=sys.stderr)

    monkeypatch.setattr("benchmarks.children.run", run_child)
    leaks = tmp_path / "audit.csv"
    leaks.write_text("kind,file,split\nleak,test/happy/PublicTest_0.png,public_test\n")
    overrides = ["--config.eval_batch_size=50", f"--config.data_dir={tiny_data_dir}"]
    flags = [f"--results={results}", f"--audit={leaks}"]
    reproduce(tiny, run, epochs_scale=0.04, overrides=overrides, flags=flags)
    assert "resuming" in capfd.readouterr().err

    (found,) = record.read("accuracy", results)
    name = Path(tiny).name  # A record keeps no folder of the machine.
    assert found["command"] == f"python -m fer_jax.main --config=…/{name} --config.epochs=2"
    assert found["config"]["changes"] == {"epochs": 2}
    figures = found["figures"]
    assert (figures["epochs"], figures["parameters"]) == (2, PARAMETERS)
    assert list(figures["evaluations"]) == ["public_test", "validation_20"]
    report = json.loads((run / "eval/public_test/report.json").read_text())
    (seed,) = figures["evaluations"]["public_test"]["seeds"]
    assert (seed["accuracy"], seed["without"]["n"]) == (report["accuracy"], 34)
    for what in ("curves", "confusion_matrix"):
        picture = results / f"accuracy/{found['name']}-{what}.png"
        assert picture.stat().st_size < 60_000
        with Image.open(picture) as image:
            assert min(image.size) > 400
    assert not (run / "eval/private_test").exists()
    assert not (run / "eval/test").exists()


def make_evaluated(workdir: Path) -> dict:
    """Makes up a finished ensemble of three; returns the report on its mean prediction."""
    make_run(workdir, ensemble=3, views="one", model=TINY.to_dict())
    (workdir / "report.html").touch()
    for member in (*(workdir / f"member_{k}" for k in range(3)), workdir):
        if member != workdir:
            make_run(member, model=TINY.to_dict())
        for split in ("validation_20", "public_test"):
            evaluation = make_evaluation(member, 350, split=split)
            report = classification_metrics(
                evaluation.probabilities, evaluation.records.labels, evaluation.data.classes
            )
            without = {"n": 300, **dict.fromkeys(record.SCORES, 0.25)}
            report |= {"views": "one", "excluded": {"without": without}, "checkpoint_step": 1200}
            evaluation.directory.mkdir(parents=True)
            (evaluation.directory / "report.json").write_text(json.dumps(report))
    return report


def test_leaves_what_is_finished_and_goes_on_after_a_failure(tmp_path):
    runs, results = tmp_path / "runs", tmp_path / "results"
    runs.mkdir()
    report = make_evaluated(runs / "medium_cnn")
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*")}
    (runs / "small_cnn").mkdir()
    (runs / "small_cnn/config.json").write_text("no JSON")
    flags = (f"--workdir={runs}", "--only=small_cnn,medium_cnn", f"--results={results}")
    result = commands.run("benchmarks.accuracy.published", *flags)
    assert result.returncode == 1, result.stderr  # An error of small_cnn alone.
    assert "Traceback" not in result.stderr
    assert "small_cnn: " in result.stderr
    assert "is no workdir of a run" in result.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before
    (found,) = record.read("accuracy", results)
    assert found["config"]["file"] == "published/medium_cnn"
    evaluation = found["figures"]["evaluations"]["public_test"]
    assert [seed["without"]["n"] for seed in evaluation["seeds"]] == [300] * 3
    assert evaluation["ensemble"]["accuracy"] == report["accuracy"]
    assert found["seeds"] == [0, 1, 2]


def test_a_mistake_ends_in_one_line_and_status_2(tmp_path):
    for flags, message in (
        (["--only=small_cnn,tiny_cnn"], "--only has tiny_cnn; choose from published/small_cnn, "),
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
