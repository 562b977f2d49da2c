"""The record of measurements: written, read back, checked; and made from a finished run."""

import json
import math

import commands
import pytest

from benchmarks import record, table
from fer_jax.errors import UserError

pytestmark = pytest.mark.usefixtures("cached_programs")

COLUMNS = {"images": ",", "µs": ",.0f"}
FACTS = {
    "command": "python -m benchmarks.speed.growth",
    "hardware": {"kind": "abacus", "count": 2, "processes": 1},
    "versions": {"jax": "0.12.0"},
}


def write(folder, figures=None, **more):
    figures = figures or table.figures(
        "Growth", "Microseconds.", table.make(COLUMNS, [[64, record.spread([2, 3, 10])]])
    )
    return record.write("growth", "2_abacus", figures, **{**FACTS, **more}, folder=folder)


def test_what_is_written_is_read_back(tmp_path):
    path = write(tmp_path, n=3)
    (found,) = record.read("growth", tmp_path)
    assert path == tmp_path / "growth/2_abacus.json"
    assert table.cells(found)[0]["µs"] == {"median": 3, "least": 2, "most": 10}
    assert (found["kind"], found["name"], found["n"]) == ("growth", "2_abacus", 3)
    assert found["hardware"] == FACTS["hardware"]
    assert record.read("members", tmp_path) == []


def damaged(text: str, **changes) -> str:
    return json.dumps(json.loads(text) | changes)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda text: text[:-20], "Expecting"),
        (lambda text: "[]", "it holds no object"),
        (lambda text: text.replace('"date"', '"day"'), "date is missing"),
        (lambda text: damaged(text, date="yesterday"), "date is 'yesterday'"),
        (lambda text: damaged(text, n=0), "n is 0"),
        (lambda text: damaged(text, seeds=3), "seeds is 3"),
        (lambda text: damaged(text, note=""), "unknown key 'note'"),
        (lambda text: damaged(text, hardware={"kind": "abacus"}), "hardware.count is missing"),
        (lambda text: damaged(text, seconds={"training": "long"}), "seconds.training is 'long'"),
        (lambda text: damaged(text, figures={"rows": []}), "figures.title is missing"),
        (lambda text: text.replace('"least": 2', '"least": NaN'), "rows.0.1.least is nan"),
    ],
)
def test_a_damaged_file_is_named_with_its_problem(damage, problem, tmp_path):
    path = write(tmp_path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(UserError) as error:
        record.read("growth", tmp_path)
    assert str(error.value).startswith(f"{path} is damaged: ")
    assert problem in str(error.value)
    assert "\n" not in str(error.value)


def test_nothing_damaged_is_written(tmp_path):
    with pytest.raises(UserError, match="there is no kind 'growht'; choose from accuracy, "):
        record.write("growht", "2_abacus", {}, **FACTS, folder=tmp_path)
    with pytest.raises(UserError, match=r"'\.\./mine' cannot name a measurement"):
        record.write("growth", "../mine", {}, **FACTS, folder=tmp_path)
    with pytest.raises(UserError, match="rate is nan"):
        write(tmp_path, table.figures("", "", rate=math.nan))
    assert not list(tmp_path.rglob("*.json"))


def test_names_of_hardware():
    for kind, count, slug in (
        ("NVIDIA H100 80GB HBM3", 1, "nvidia_h100"),
        ("AMD EPYC", 2, "2_amd_epyc"),
        ("Intel(R) Xeon(R) Processor", 1, "intel_xeon"),
    ):
        assert record.slug({"kind": kind, "count": count, "processes": 1}) == slug
    assert record.slug(FACTS["hardware"] | {"instructions": "AVX-512"}) == "2_abacus_avx512"


def test_every_measurement_in_the_repository_is_whole():
    for path in record.RESULTS.rglob("*.json"):
        found = record.read_file(path)
        assert found["name"].endswith(record.slug(found["hardware"])), path


def test_a_run_is_recorded_with_all_of_its_evaluations(trained_workdir, tiny_data_dir, tmp_path):
    listed = tmp_path / "leaks.csv"
    listed.write_text("kind,file,split\nleak,test/happy/PublicTest_0.png,public_test\n")
    for flags in (["--views=flip"], [f"--exclude={listed}"]):
        split = ("--split=public_test", f"--workdir={trained_workdir}")
        done = commands.run("fer_jax.evaluate", *split, *flags, pictures=False)
        assert done.returncode == 0, done.stderr
    facts = record.of_run(trained_workdir)
    path = record.write("accuracy", "tiny", **facts, command="fer_jax train", folder=tmp_path)
    found = record.read_file(path)
    report = json.loads((trained_workdir / "eval/public_test+flip/report.json").read_text())
    evaluations = found["figures"]["evaluations"]
    assert evaluations["public_test+flip"]["seeds"][0]["macro_f1"] == report["macro_f1"]
    assert evaluations["public_test"]["seeds"][0]["without"]["n"] == 34
    assert found["config"]["file"] == "cnn"
    assert found["config"]["changes"]["batch_size"] == 16
    assert (found["figures"]["epochs"], found["seeds"]) == (6, [0])
    assert found["config"]["knobs"]["data_dir"] == f"…/{tiny_data_dir.name}"
