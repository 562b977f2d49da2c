"""Sweeps: several settings trained at once, each member equal to the run of its own config."""

import json

import pytest
from pictures import leave_out_pictures
from test_train import files_below, stop_at, without_time

from fer_jax.config import check, default_config
from fer_jax.errors import UserError
from fer_jax.inference.trained import load_trained
from fer_jax.reporting.sweep import print_sweep, summarize_sweep, write_sweep
from fer_jax.sweep import parse_sweep
from fer_jax.train import train
from fer_jax.workdir import member_workdirs, read_run

pytestmark = pytest.mark.usefixtures("cached_programs")

SECOND = {
    **{"learning_rate": 0.03, "weight_decay": 0.01, "clip_norm": 0.5, "label_smoothing": 0.1},
    **{"mixup": 0.4, "ema_decay": 0.9, "shift": 0.05, "flip": False, "rotation": 20.0},
    **{"shear": 5.0, "zoom": 0.1, "crop": 0.8, "erasing": 0.5},
}
"""A setting of every knob that can be swept. The first setting has the defaults."""


@pytest.fixture(scope="module")
def base_config(tiny_data_dir):
    config = default_config()
    config.data_dir = str(tiny_data_dir)
    config.model.layers = ("max_pool", ("max_pool", 4), "flatten", ("dense", 8))
    config.optimizer = "sgd"
    config.learning_rate = 0.01
    config.batch_size = 16
    config.eval_batch_size = 32
    config.epochs = 1
    config.steps_per_epoch = 6
    config.input = "device"
    second = ";".join(f"{knob}={value}" for knob, value in SECOND.items())
    config.sweep = f"learning_rate=0.01 | {second}"
    return config


@pytest.fixture
def config(base_config):
    return base_config.copy_and_resolve_references()


@pytest.fixture(scope="module")
def sweep(base_config, tmp_path_factory):
    """The workdir of a sweep, and the result of `train`."""
    workdir = tmp_path_factory.mktemp("sweep") / "run"
    with pytest.MonkeyPatch.context() as patch:
        leave_out_pictures(patch)
        return workdir, train(base_config, workdir)


@pytest.mark.usefixtures("no_pictures")
def test_a_member_is_the_run_of_its_own_config(config, sweep, tmp_path):
    """Also where a knob is 0 or off: that run is compiled without it."""
    workdir, result = sweep
    for member, changes in enumerate(({}, SECOND)):
        config.update(sweep="", **changes)
        alone = train(config, tmp_path / f"alone_{member}")
        written = [
            read_run(folder)["config"]
            for folder in (workdir / f"member_{member}", tmp_path / f"alone_{member}")
        ]
        assert written[0] == written[1]
        histories = result["members"][member]["history"], alone["history"]
        for ours, expected in zip(*histories, strict=True):
            for key in ("train_loss", "val_loss", "learning_rate"):
                assert ours[key] == pytest.approx(expected[key], abs=1e-5), key
    first, second = (member["history"][0]["train_loss"] for member in result["members"])
    assert abs(first - second) > 1e-3


@pytest.mark.usefixtures("no_pictures")
def test_resumes_as_if_never_stopped(config, sweep, tmp_path, capsys):
    stop_at(config, tmp_path / "run", step=3)
    resumed = train(config, tmp_path / "run")
    for one, other in zip(sweep[1]["members"], resumed["members"], strict=True):
        assert without_time(one["history"]) == without_time(other["history"])
    assert resumed["sweep"] == sweep[1]["sweep"]
    capsys.readouterr()
    for folder in member_workdirs(tmp_path / "run", config):
        (folder / "report.html").touch()  # It is a picture.
    again = train(config, tmp_path / "run")
    assert "is finished" in capsys.readouterr().out
    assert again["sweep"] == resumed["sweep"]
    config.sweep = "mixup=0,0.1"
    with pytest.raises(UserError, match="run of another config: sweep was"):
        train(config, tmp_path / "run")


def test_the_table_is_of_settings_and_not_of_one_model(sweep):
    workdir, result = sweep
    written = json.loads((workdir / "sweep.json").read_text())
    assert written == json.loads(json.dumps(result["sweep"]))
    for k, setting in enumerate(written["settings"]):
        accuracy = result["members"][k]["report"]["accuracy"]
        assert setting["val_accuracy"] == {"mean": accuracy, "sd": None, "values": [accuracy]}
    left = files_below(workdir)
    assert {"report.html", "sweep.json"} <= left
    assert not {"metrics.jsonl", "eval/validation_20/report.json"} & left
    with pytest.raises(UserError, match=r"is a sweep of different settings; give .*member_0"):
        load_trained(workdir)


@pytest.mark.parametrize("best_by", ["val_accuracy", "val_loss"])
def test_the_best_setting_is_marked(tmp_path, capsys, best_by):
    config = {
        **{"sweep": "mixup=0,0.2,1", "ensemble": 2, "validation_split": "validation_20"},
        "best_by": best_by,
    }
    accuracies, losses = (0.5, 0.6, 0.7, 0.8, 0.6, 0.6), (1.1, 0.9, 1.2, 1.3, 1.1, 1.2)
    reports = [
        {"accuracy": accuracy, "nll": loss, "macro_f1": accuracy / 2}
        for accuracy, loss in zip(accuracies, losses, strict=True)
    ]
    sweep = summarize_sweep(config, reports)
    print_sweep(sweep)
    lines = capsys.readouterr().out.splitlines()
    best = "mixup=0.2  75.00 ± 7.07 %" if best_by == "val_accuracy" else "mixup=0    55.00 ± 7.07 %"
    assert [line for line in lines if "best by" in line] == [
        line for line in lines if line.startswith(best)
    ]
    write_sweep(tmp_path, sweep)
    page = " ".join((tmp_path / "report.html").read_text().split())
    assert "1.0000 ± 0.1414</td>" in page
    assert "member_2, member_3" in page
    assert page.count("best by") == 1


def test_grids_and_single_settings():
    assert parse_sweep("") == []
    assert parse_sweep("mixup=0, 0.2; flip=true,False | learning_rate=1e-3") == [
        {"mixup": 0.0, "flip": True},
        {"mixup": 0.0, "flip": False},
        {"mixup": 0.2, "flip": True},
        {"mixup": 0.2, "flip": False},
        {"learning_rate": 0.001},
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mixup", "sweep has 'mixup'; give knob=value,value"),
        ("mixup=0.1", "a single setting; give two or more"),
        ("mixup=0,", "mixup=, which is no number; give one"),
        ("batch_size=16,32", "cannot vary batch_size; it can vary learning_rate, weight_decay"),
        ("mixup=0.1,0.1", "has the setting mixup=0.1 twice"),
        ("mixup=0;mixup=1", "has mixup twice in 'mixup=0;mixup=1'"),
        ("flip=2,1", "flip=2; give True or False"),
        ("crop=0.5,1.5", r"sweep has crop=1.5; give a fraction in \(0, 1\]"),
        ("mixup=nan,1", "sweep has mixup=nan; give 0 or more"),
        (f"mixup={','.join(map(str, range(501)))}", "501 settings for ensemble = 2 seeds; give f"),
    ],
)
def test_what_cannot_be_swept_is_told_in_a_line(text, message):
    config = default_config()
    config.update(sweep=text, ensemble=2)
    with pytest.raises(UserError, match=message):
        check(config)


def test_knobs_that_do_not_go_with_a_sweep():
    config = default_config()
    config.update(sweep="mixup=0,1", ensemble=2, learning_rates=(0.1, 0.2))
    with pytest.raises(UserError, match="sweep and learning_rates do not go together"):
        check(config)
    config.update(sweep="learning_rate=0,1", learning_rates=(), learning_rate=0.0)
    with pytest.raises(UserError, match="divided by learning_rate, which is 0; set it"):
        check(config)
