"""metrics.jsonl, read back."""

import json
import math

import numpy as np
import pytest

from fer_jax.errors import UserError
from fer_jax.workdir import HISTORY_KEYS, read_history, write_history


def epoch(number: int, **changes) -> dict:
    values = dict.fromkeys(reversed(HISTORY_KEYS), 0.5) | {"epoch": number, "step": 10 * number}
    return values | changes


def test_one_object_per_line_in_the_contracts_order(tmp_path):
    write_history(tmp_path / "metrics.jsonl", [epoch(1), epoch(2, val_loss=np.float32(0.25))])
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [list(json.loads(line)) for line in lines] == [list(HISTORY_KEYS)] * 2
    assert json.loads(lines[1]) == epoch(2, val_loss=0.25)
    assert '"step": 10,' in lines[0]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan"), None])
def test_what_is_not_finite_becomes_null(tmp_path, value):
    write_history(tmp_path / "metrics.jsonl", [epoch(1, val_loss=value)])
    assert '"val_loss": null' in (tmp_path / "metrics.jsonl").read_text()


def test_a_history_read_back_is_written_again_unchanged(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_history(path, [epoch(1, train_loss=math.nan), epoch(2, train_loss=1 / 3)])
    before = path.read_text()
    write_history(path, read_history(path))
    assert path.read_text() == before
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize("wrong", [{"val_acc": 0.5}, {}])
def test_a_wrong_key_is_named_and_the_old_file_kept(tmp_path, wrong):
    path = tmp_path / "metrics.jsonl"
    write_history(path, [epoch(1)])
    before = path.read_text()
    bad = epoch(2) | wrong
    if not wrong:
        del bad["seconds"]
    with pytest.raises(ValueError, match=r"val_acc|seconds"):
        write_history(path, [epoch(1), bad])
    assert path.read_text() == before


@pytest.mark.parametrize("content", [None, "", "{", "[1]\n", '{"epoch": 1}\n', "7\n"])
def test_a_history_that_cannot_be_read_is_named(tmp_path, content):
    path = tmp_path / "metrics.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=r"cannot read the history of a run in .*metrics\.jsonl"):
        read_history(path)
