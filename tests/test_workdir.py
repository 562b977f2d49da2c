"""config.json: its content, and which runs may resume in a workdir."""

import json

import pytest

from fer_jax import workdir as workdirs
from fer_jax.config import default_config
from fer_jax.errors import UserError
from fer_jax.workdir import claim_workdir, read_run


def claim(workdir, config=None, model_defaults=(), **data):
    claim_workdir(
        workdir,
        config=(config or default_config()).to_dict(),
        model_defaults=dict(model_defaults),
        data={"fingerprint": "12ab", "classes": ["angry", "happy"]} | data,
        devices={"kind": "abacus"},
        write=True,
    )


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
    ("older", "value"),
    [
        (lambda config: config.pop("mixup"), {}),
        (lambda config: config["plateau"].pop("min_delta"), {}),
        (lambda config: config.pop("input"), {"input": "host"}),
        (lambda config: config["model"].pop("channels"), {}),
    ],
    ids=["knob", "nested", "with another default", "network's argument"],
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


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"config": {}}', "\0"])
def test_what_is_no_run_is_said(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match="is no workdir of a run"):
        read_run(tmp_path)
