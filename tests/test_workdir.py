"""config.json: what `tests/test_train.py` does not meet on its way."""

import json

from fer_jax import workdir as run_config
from fer_jax.config import default_config
from fer_jax.data.records import open_data_set


def test_a_package_that_is_not_installed_is_said_to_be_so(tiny_data_dir, tmp_path, monkeypatch):
    """As fer_jax itself is, where it is run from a checkout on the path."""
    monkeypatch.setattr(run_config, "_PACKAGES", ("jax", "no_such_package"))
    run_config.claim_workdir(tmp_path, default_config(), open_data_set(tiny_data_dir))
    versions = json.loads((tmp_path / "config.json").read_text())["versions"]
    assert versions["no_such_package"] == "not installed"
    assert versions["jax"][0].isdigit()
