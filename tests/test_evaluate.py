"""Evaluations do not mislead: folders of their own, other data said, no split without images."""

import json
import shutil

import commands
import pytest
from small_records import make_records

from fer_jax.config import default_config
from fer_jax.data.contract import record_dir
from fer_jax.data.records import open_data_set
from fer_jax.errors import UserError
from fer_jax.evaluate import evaluate
from fer_jax.reporting.report import print_report
from fer_jax.train import train
from fer_jax.workdir import read_run

pytestmark = pytest.mark.usefixtures("cached_programs")


@pytest.fixture
def workdir(trained_workdir, tmp_path):
    """The run with a second checkpoint, of step 239; the best one is that of step 240."""
    run = shutil.copytree(trained_workdir, tmp_path / "run")
    shutil.copytree(run / "checkpoints/240", run / "checkpoints/239")
    return run


@pytest.mark.usefixtures("no_pictures")
def test_other_views_checkpoints_and_data_have_folders_of_their_own(workdir, tmp_path):
    own = evaluate(workdir, "public_test")
    trained_on = read_run(workdir)["data"]["directory"]
    before = (workdir / "eval/public_test/report.json").read_bytes()
    other = make_records(tmp_path / "other", {"public_test": range(7)})
    data = f"data_{open_data_set(other).fingerprint[:12]}"
    for options, name in (
        ({"views": "flip"}, "+flip"),
        ({"checkpoint": "239"}, "+step_239"),
        ({"data_dir": other}, f"+{data}"),
        ({"views": "flip", "checkpoint": "239", "data_dir": other}, f"+flip+step_239+{data}"),
        ({"views": "one", "checkpoint": "240", "data_dir": trained_on}, ""),
        ({"checkpoint": "latest"}, ""),
    ):
        report = evaluate(workdir, "public_test", **options)
        folder = workdir / f"eval/public_test{name}"
        assert json.loads((folder / "report.json").read_text()) == json.loads(json.dumps(report))
        if not name:
            assert report == own
        assert (workdir / "eval/public_test/report.json").read_bytes() == before
    assert len(list((workdir / "eval").glob("public_test*"))) == 5


@pytest.mark.usefixtures("no_pictures")
def test_other_data_and_absent_classes_are_said(workdir, tmp_path, capsys):
    other = make_records(tmp_path / "other", {"public_test": [0, 3, 0]})
    report = evaluate(workdir, "public_test", data_dir=other)
    fingerprint, own = open_data_set(other).fingerprint, read_run(workdir)["data"]["fingerprint"]
    assert (report["data_fingerprint"], report["run_data_fingerprint"]) == (fingerprint, own)
    assert report["notes"] == [
        f"The data (fingerprint {fingerprint[:12]}) are not those that the run was trained on "
        f"(fingerprint {own[:12]}).",
        "The network has 7 outputs, but public_test has images of 2 classes: none of disgust, "
        "fear, sad, surprise, neutral.",
    ]
    print_report(report, "title")
    printed = " ".join(capsys.readouterr().out.split())
    assert all(note in printed for note in report["notes"])
    file = workdir / f"eval/public_test+data_{fingerprint[:12]}/report.json"
    assert json.loads(file.read_text())["per_class"]["fear"]["recall"] is None


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([*range(7), 0, 3], "split 'validation_20' has no image of angry, .*; choose another"),
        ([0] * 5 + [3] * 5 + [4], "'validation_20' has no image of sad, which the run"),
    ],
)
def test_a_validation_split_that_lacks_images_is_refused(labels, message, tmp_path):
    config = default_config()
    config.data_dir = str(make_records(tmp_path, {"train": labels}))
    config.batch_size = 4
    with pytest.raises(UserError, match=message) as caught:
        train(config, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("no_pictures")
def test_a_network_with_more_outputs_than_classes_is_said(tmp_path, capsys):
    config = default_config()
    config.data_dir = str(make_records(tmp_path, {"train": [0] * 10 + [3] * 10}))
    config.update(epochs=1, batch_size=6, eval_batch_size=6)
    config.model.layers = ("max_pool", "max_pool", "flatten")
    report = train(config, tmp_path / "run")["report"]
    for split in ("train_80", "validation_20"):
        note = f"The network has 7 outputs, but {split} has images of 2 classes: none of disgust,"
        assert note in (capsys.readouterr().out if split == "train_80" else report["notes"][0])


@pytest.mark.usefixtures("no_pictures")
def test_a_run_finds_its_data_from_any_folder(tiny_data_dir, tmp_path, monkeypatch):
    data_dir = shutil.copytree(tiny_data_dir, tmp_path / "home/data")
    monkeypatch.chdir(tmp_path / "home")
    config = default_config()
    config.data_dir = "data"
    config.update(epochs=1, batch_size=6, eval_batch_size=6)
    config.model.layers = ("max_pool", "max_pool", "flatten")
    workdir = tmp_path / "run"
    first = train(config, workdir)["report"]
    facts = json.loads((workdir / "config.json").read_text())
    assert (facts["config"]["data_dir"], facts["data"]["directory"]) == ("data", str(data_dir))

    (tmp_path / "away").mkdir()
    monkeypatch.chdir(tmp_path / "away")
    assert evaluate(workdir, "validation_20") == first
    assert json.dumps(train(config, workdir)["report"]) == json.dumps(first)

    data_dir.rename(tmp_path / "moved")
    with pytest.raises(UserError, match=rf"not in {data_dir} or data; give .* by --data_dir"):
        evaluate(workdir, "validation_20")
    with pytest.raises(UserError, match=f"no records in {data_dir}; make them"):
        evaluate(workdir, "validation_20", data_dir=data_dir)
    assert evaluate(workdir, "validation_20", data_dir=tmp_path / "moved") == first


def test_damaged_records_end_each_command_in_one_line(workdir, tiny_data_dir, tmp_path):
    data_dir = shutil.copytree(tiny_data_dir, tmp_path / "records")
    (shard,) = record_dir(data_dir).glob("fer2013-train.array_record*")
    shard.write_bytes(shard.read_bytes()[:-1])
    new = tmp_path / "new"
    for module, *flags in (
        ("fer_jax.main", "--config=cnn", f"--config.data_dir={data_dir}", f"--workdir={new}"),
        ("fer_jax.evaluate", f"--workdir={workdir}", "--split=train", f"--data_dir={data_dir}"),
    ):
        result = commands.run(module, *flags)
        assert (result.returncode, result.stderr.count("\n")) == (2, 1), result.stderr
        assert f"{shard} is damaged" in result.stderr
    assert not new.exists()


@pytest.mark.usefixtures("no_pictures")
def test_data_replaced_between_stop_and_resume_are_refused(tmp_path):
    labels = {"train": list(range(7)) * 5}
    config = default_config()
    config.data_dir = str(make_records(tmp_path / "data", labels))
    config.update(epochs=1, batch_size=6, eval_batch_size=6)
    config.model.layers = ("max_pool", "max_pool", "flatten")
    train(config, tmp_path / "run")

    shutil.rmtree(tmp_path / "data")
    make_records(tmp_path / "data", {"train": labels["train"][::-1]})
    with pytest.raises(UserError, match=r"data fingerprint was '.*', is '.*'; choose another"):
        train(config, tmp_path / "run")
    # The same images by other names are the same data.
    shutil.rmtree(tmp_path / "data")
    make_records(tmp_path / "data", labels, name="image {}.jpg")
    assert len(train(config, tmp_path / "run")["history"]) == 1
