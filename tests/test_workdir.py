"""config.json: its content, and which runs may resume in a workdir."""

import json
import shutil
import subprocess
from datetime import datetime

import pytest

from fer_jax import workdir as workdirs
from fer_jax.config import default_config
from fer_jax.errors import UserError
from fer_jax.workdir import claim_workdir, read_run


def claim(workdir, config=None, model_defaults=(), **data):
    config = config or default_config()
    config.model.update(image_size=48, channels=1)  # They follow the data before a claim.
    claim_workdir(
        workdir,
        config=config.to_dict(),
        model_defaults=dict(model_defaults),
        data={"fingerprint": "12ab", "classes": ["angry", "happy"]} | data,
        devices={"kind": "abacus"},
        write=True,
    )
    (workdir / "checkpoints" / "1").mkdir(parents=True, exist_ok=True)


def edit(workdir, change):
    """Rewrites config.json after a change of its content."""
    facts = json.loads((workdir / "config.json").read_text())
    change(facts)
    (workdir / "config.json").write_text(json.dumps(facts))


def test_a_package_that_is_not_installed_is_said_to_be_so(tmp_path, monkeypatch):
    """fer_jax itself may run from a checkout on the path."""
    monkeypatch.setattr(workdirs, "_PACKAGES", ("jax", "no_such_package"))
    claim(tmp_path)
    versions = json.loads((tmp_path / "config.json").read_text())["versions"]
    assert versions["no_such_package"] == "not installed"
    assert versions["jax"][0].isdigit()


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (
            ["/a b/python", "-m", "fer_jax.main", "--config=x y"],
            "python -m fer_jax.main '--config=x y'",
        ),
        (["/p/python", "-X", "dev", "-m", "benchmarks.gpu"], "python -m benchmarks.gpu"),
        (["/p/python", "/p/fer_jax", "train", "--config=x"], "fer_jax train --config=x"),
        (["/p/python", "-m", "ipykernel_launcher", "-f", "/home/me/kernel.json"], None),
        (["/p/python", "-c", "import fer_jax"], None),
        (["/p/python"], None),
    ],
)
def test_the_command_is_recorded_as_it_was_typed(tmp_path, monkeypatch, words, command):
    monkeypatch.setattr("sys.orig_argv", words)
    claim(tmp_path)
    facts = read_run(tmp_path)
    assert facts.get("command") == command
    assert datetime.fromisoformat(facts["date"]).tzinfo
    # A run that resumes keeps what began it.
    monkeypatch.setattr("sys.orig_argv", ["python", "-m", "fer_jax.main", "--config=later"])
    claim(tmp_path)
    assert read_run(tmp_path) == facts


def test_the_commit_is_that_of_the_checkout(tmp_path, monkeypatch):
    if not shutil.which("git"):
        pytest.skip("no git here")

    def git(*words):
        settings = ["-c", "user.name=x", "-c", "user.email=x@x", "-C", str(tmp_path)]
        return subprocess.run(
            ["git", *settings, *words], check=True, capture_output=True, text=True
        )

    def commit():
        workdirs._commit.cache_clear()
        return workdirs._commit()

    code = tmp_path / "fer_jax" / "workdir.py"
    code.parent.mkdir()
    code.touch()
    monkeypatch.setattr(workdirs, "__file__", str(code))
    assert commit() == ""
    git("init")
    git("add", ".")
    git("commit", "--message=x")
    head = git("rev-parse", "HEAD").stdout.strip()
    assert commit() == head
    code.write_text("changed")
    assert commit() == f"{head}-dirty"
    monkeypatch.setenv("PATH", "")
    assert commit() == ""
    workdirs._commit.cache_clear()


@pytest.mark.parametrize(
    ("older", "value"),
    [
        (lambda config: config.pop("mixup"), {}),
        (lambda config: config.pop("exclude"), {"exclude": ""}),
        (lambda config: config["plateau"].pop("min_delta"), {}),
        (lambda config: config.pop("input"), {"input": "host"}),
        (lambda config: config["model"].pop("channels"), {}),
    ],
    ids=["knob", "list of images", "nested", "with another default", "network's argument"],
)
def test_a_run_older_than_a_knob_goes_on(tmp_path, older, value):
    config = default_config()
    config.input = "host"  # "auto" is settled before a workdir is claimed.
    claim(tmp_path, config)
    edit(tmp_path, lambda facts: older(facts["config"]))
    claim(tmp_path, config, {"channels": 1})
    assert value.items() <= read_run(tmp_path)["config"].items()
    config.mixup = 0.25
    with pytest.raises(UserError, match=r"mixup was 0.0, is 0.25; choose another"):
        claim(tmp_path, config, {"channels": 1})


def test_an_older_runs_network_had_the_default(tmp_path):
    claim(tmp_path)
    edit(tmp_path, lambda facts: facts["config"]["model"].pop("channels"))
    with pytest.raises(UserError, match=r"model.channels was 3, is 1; choose another"):
        claim(tmp_path, model_defaults={"channels": 3})


def test_a_knob_that_is_gone_is_named(tmp_path):
    claim(tmp_path)
    edit(tmp_path, lambda facts: facts["config"].update(cutout=0.5))
    with pytest.raises(UserError, match=r"cutout = 0.5, a knob that this version does not have"):
        claim(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "1", "\0"])
def test_what_is_no_run_is_said(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match="is no workdir of a run"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda facts: facts.pop("data"), "'data' is missing"),
        (lambda facts: facts.pop("config"), "'config' is missing"),
        (lambda facts: facts.update(config=[]), "`config` is no object"),
        (lambda facts: facts.update(data="x"), "`data` is no object"),
        (lambda facts: facts["data"].pop("classes"), "'classes' is missing"),
        (lambda facts: facts["data"].update(classes=["sad", "sad"]), "two or more different"),
        (lambda facts: facts["data"].update(classes=3), "."),
        (lambda facts: facts["data"].update(fingerprint=3), "fingerprint"),
        (lambda facts: facts["config"].update(ensemble="three"), "ensemble is 'three'"),
        (lambda facts: facts["config"].update(batch_size=None), "batch_size is None"),
        (lambda facts: facts["config"].update(plateau=3), "."),
        (lambda facts: facts["config"].update(plateau={"factor": "x"}), "plateau.factor is 'x'"),
        (lambda facts: facts["config"].update(model={}), "model.name is missing"),
        (lambda facts: facts["config"].update(model="cnn"), "."),
    ],
)
def test_a_damaged_config_is_named(tmp_path, change, words):
    claim(tmp_path)
    edit(tmp_path, change)
    with pytest.raises(UserError, match=rf"config.json is damaged: .*{words}.*; put it back"):
        read_run(tmp_path)


def test_a_workdir_without_a_checkpoint_counts_as_new(tmp_path):
    claim(tmp_path)
    (tmp_path / "checkpoints/1").rmdir()
    config = default_config()
    config.batch_size = 32
    claim(tmp_path, config)
    assert read_run(tmp_path)["config"]["batch_size"] == 32
    # An ensemble's checkpoints are its members'.
    (tmp_path / "checkpoints/1").rename(tmp_path / "1")
    (tmp_path / "member_0/checkpoints/1").mkdir(parents=True)
    with pytest.raises(UserError, match=r"batch_size was 32, is 64"):
        claim(tmp_path)


def test_epochs_may_grow_where_the_schedule_does_not_depend_on_them(tmp_path):
    config = default_config()
    config.epochs = 2
    claim(tmp_path, config)
    config.epochs = 3
    claim(tmp_path, config)
    assert read_run(tmp_path)["config"]["epochs"] == 3
    config.epochs = 2
    with pytest.raises(UserError, match=r"epochs was 3, is 2; choose another"):
        claim(tmp_path, config)

    config.schedule = "cosine"
    claim(tmp_path / "cosine", config)
    config.epochs = 3
    with pytest.raises(UserError, match=r"epochs was 2, is 3; the cosine schedule has ended"):
        claim(tmp_path / "cosine", config)
