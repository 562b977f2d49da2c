"""Tables of pages: they agree with the record, and a page that does not is seen."""

import json
import shutil
from pathlib import Path

import commands
import pytest

from benchmarks import record
from benchmarks.accuracy.systems import SYSTEMS
from benchmarks.tables import __main__ as tables
from benchmarks.tables import accuracy
from benchmarks.tables.blocks import fill
from benchmarks.tables.contents import make, measured
from fer_jax.config import shipped_configs
from fer_jax.data.contract import CLASS_NAMES
from fer_jax.errors import UserError


def test_every_page_agrees_with_the_record():
    assert not tables.rewritten(record.RESULTS), "make them again: python -m benchmarks.tables"


def test_a_figure_that_was_changed_is_seen(tmp_path):
    results = tmp_path / "results"
    shutil.copytree(record.RESULTS, results)
    path = results / "speed/2_amd_epyc_avx512.json"
    found = json.loads(path.read_text())
    row = found["figures"]["tables"][0]["rows"][0]
    assert row[:2] == ["small_cnn", "fer_jax"]
    row[5]["median"] += 1
    path.write_text(json.dumps(found))
    result = commands.run("benchmarks.tables", "--check", f"--results={results}")
    assert result.returncode == 1
    differ = ("README.md", "benchmarks/speed/speed.md", "docs/speed.md")
    assert sorted(result.stdout.splitlines()) == [f"{name} differs" for name in differ]


def score(value: float) -> dict:
    scores = dict.fromkeys(record.SCORES, value)
    return scores | {"without": {"n": 3_259, **dict.fromkeys(record.SCORES, value - 0.1)}}


def write_accuracy(folder: Path, name: str, seeds=(0.5, 0.6), changes=(), **more) -> None:
    classes = dict.fromkeys(("precision", "recall", "f1"), 0.25) | {"support": 51}
    evaluation = {
        **{"split": "public_test", "views": "one", "n": 3_589, "seeds": [*map(score, seeds)]},
        **{"per_class": dict.fromkeys(CLASS_NAMES, classes), "confusion_matrix": []},
        **({"ensemble": score(0.65)} if len(seeds) > 1 else {}),
        "intervals": {"accuracy": [0.685, 0.715]},
    }
    figures = {
        **{"epochs": 25, "planned_epochs": 25, "parameters": 319_527, "images_per_second": 2e3},
        "evaluations": {"public_test": evaluation},
    }
    record.write(
        "accuracy",
        name.rpartition("/")[2],
        figures | more,
        command="python -m fer_jax.main",
        config={
            **{"file": name, "changes": dict(changes)},
            "knobs": {"early_stopping_patience": 0},
        },
        seeds=range(len(seeds)),
        seconds={"steps": 95.0},
        hardware={"kind": "abacus", "count": 2, "processes": 1},
        versions={"jax": "0.12.0"},
        folder=folder,
    )


def row_of(text: str, name: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| `{name}` |")]
    return [cell.strip() for cell in line.split("|")[2:-1]]


def test_a_row_has_the_mean_of_its_seeds(tmp_path):
    write_accuracy(tmp_path, "published/small_cnn")
    write_accuracy(tmp_path, "ready", seeds=(0.7,))
    text = make("accuracy/published", tmp_path)
    assert row_of(text, "published/small_cnn") == [
        *("about 60 % validation", "2", "", "55.00 ± 7.07", "55.0 ± 7.1", "55.0 ± 7.1"),
        *("45.00 ± 7.07", "1 min 35 s of steps", "2 x abacus"),
    ]
    assert row_of(text, "published/medium_cnn")[1:3] == ["not measured", ""]
    ours = make("accuracy/ours", tmp_path)
    assert row_of(ours, "ready")[:2] == ["1", "70.00 (68.5 to 71.5)"]
    assert make("accuracy/ready", tmp_path) == "70.00 %"


@pytest.mark.parametrize(
    ("changes", "figures", "trained"),
    [
        ({"ensemble": 3, "seed": 1}, {}, "in full"),
        ({"epochs": 20}, {"epochs": 20, "planned_epochs": 20}, "in part"),
        ({}, {"epochs": 20}, "in part"),
        ({"shift": 0.0, "epochs": 20}, {}, "altered"),
    ],
)
def test_only_a_run_in_full_stands_among_the_results(changes, figures, trained, tmp_path):
    write_accuracy(tmp_path, "published/medium_cnn", changes=changes, **figures)
    text = make("accuracy/systems", tmp_path)
    assert row_of(text, "published/medium_cnn")[2].startswith(f"**{trained}**: ")
    assert "| angry | 25.0 | 51 | 25.0 | 59 | 25.0 | 54 | 51 |" in text  # beside the published
    stands = "55.00 ± 7.07" in make("accuracy/published", tmp_path)
    assert stands == (trained == "in full")


def test_a_configs_docstring_has_its_figures(tmp_path):
    write_accuracy(tmp_path, "resnet_ensemble")
    text = '"""A network.\n\nTime: long.\nAccuracy: good.\n"""\n'
    assert measured(text, "resnet", tmp_path).splitlines()[2:4] == [
        "Time: 1 min 35 s of steps for all seeds on 2 x abacus.",
        "Accuracy: 55.00 ± 7.07 % of public_test (2 seeds).",
    ]
    assert "Accuracy: not measured." in measured(text, "cnn", tmp_path)


def test_parts_are_filled_within_a_line_and_on_lines_of_their_own():
    page = (
        "# Title\n\n<!-- table: a -->\n{}\n<!-- end -->\n\nIt is <!-- table: b -->{}<!-- end -->."
    )
    assert fill(page.format("old", 1), str.upper, where="page.md") == page.format("A", "B")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("<!-- table: growth -->", "needs one <!-- end --> after it"),
        ("<!-- table: growht --><!-- end -->", "there is no table 'growht'"),
        ("<!-- table: growth/abacus --><!-- end -->", "there is no table 'growth/abacus'"),
    ],
)
def test_a_mistake_on_a_page_is_one_line(text, problem):
    with pytest.raises(UserError, match=problem):
        fill(text, lambda name: make(name, record.RESULTS), where="page.md")


def test_every_system_has_a_config():
    assert SYSTEMS.keys() <= shipped_configs().keys()
    assert accuracy.SPLIT == "public_test"
