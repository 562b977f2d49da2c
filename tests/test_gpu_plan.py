"""The plan for a GPU, rehearsed on a CPU at toy size: real runs, and stand-ins for timings."""

from pathlib import Path

import commands
import numpy as np
import pytest

from benchmarks import record, table
from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import jobs, pieces, plan
from benchmarks.gpu.budget import Budget
from benchmarks.gpu.jobs import Place
from fer_jax.config import shipped_configs
from fer_jax.data.records import open_data_set
from fer_jax.errors import UserError
from fer_jax.inference.trained import load_trained

pytestmark = pytest.mark.usefixtures("cached_programs")

ONLY = ("time_70", "resnet_ensemble", "student", "speed")
TEACHERS, STUDENT = "published/small_cnn", "published/medium_cnn"


@pytest.fixture(scope="module")
def rehearsal(tiny_data_dir, tmp_path_factory):
    """The place of a rehearsal, and the commands that it ran in the first and the second call."""
    output = tmp_path_factory.mktemp("gpu")
    data_dir = str(tiny_data_dir)
    (tiny_data_dir / "audit.csv").write_text("kind,file,split\n")
    hardware = record.slug(record.machine() | {"count": 6})
    place = Place(output, output / "runs", (output / "results",), data_dir, "", hardware)
    calls: list[list[str]] = [[], []]

    def launch(command, seconds):
        assert seconds > 0
        module, *flags = command
        calls[-1].append(module)
        kind = module.rpartition(".")[2]
        if kind in record.KINDS:  # Timings have tests of their own.
            facts = {"command": module, "hardware": record.machine() | {"count": 6}}
            (job,) = [job for job in wanted if job.kind == kind]
            name = Path(jobs.file_name(job, hardware)).stem
            figures = table.figures("", "")
            record.write(kind, name, figures, **facts, versions={}, folder=place.results)
        else:
            done = commands.run(module, *flags, pictures=False)
            assert done.returncode == 0, done.stderr

    # Tiny CNNs compile fastest.
    configs = {"resnet_ensemble": TEACHERS, "student": STUDENT}
    wanted = [
        plan.toy(job._replace(config=configs.get(job.name, job.config)))
        for job in plan.JOBS
        if job.name in ONLY
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "launch", launch)
        gpu.do(wanted, place, Budget(3_600))
        calls = [calls[0] + calls[1], []]
        gpu.do(wanted, place, Budget(3_600))
    return place, calls


def test_all_jobs_are_done_and_then_left_out(rehearsal):
    place, (first, second) = rehearsal
    train = ["fer_jax.main", "benchmarks.accuracy.run"]
    keep = ["benchmarks.gpu.pieces"]
    assert first == [
        *("benchmarks.time_to_accuracy", *train, *keep, *train, *keep),
        "benchmarks.speed",
    ]
    assert second == []
    found = {each["config"]["file"]: each for each in record.read("accuracy", place.results)}
    assert found.keys() == {TEACHERS, STUDENT}
    teachers = found[STUDENT]["config"]["knobs"]["teachers"]
    assert teachers == ["…/resnet_ensemble"]


def test_pieces_join_to_the_same_predictions(rehearsal, tiny_data_dir, tmp_path):
    place, _ = rehearsal
    run = place.runs / "resnet_ensemble"
    parts = pieces.split(run, tmp_path / "pieces", most=2_000)
    assert len(parts) > 2
    assert all(path.stat().st_size <= 2_000 for path in parts)
    pieces.join(tmp_path / "pieces", tmp_path / "model")
    records = open_data_set(tiny_data_dir).load("public_test")
    ours, theirs = (
        load_trained(folder).probabilities(records) for folder in (run, tmp_path / "model")
    )
    np.testing.assert_allclose(ours, theirs, atol=2e-3)  # Kernels are rounded to float16.
    parts[1].unlink()
    with pytest.raises(UserError, match="holds no weights in pieces"):
        pieces.join(tmp_path / "pieces", tmp_path / "other")


def test_runs_that_came_back_in_pieces_serve_again(rehearsal, tmp_path):
    """On another machine, where the teachers are only there as weights."""
    place, _ = rehearsal
    elsewhere = place._replace(runs=tmp_path, known=())
    gpu.do([], elsewhere, Budget(60))
    assert jobs.is_finished(tmp_path / "resnet_ensemble")


@pytest.fixture
def counted(monkeypatch, tmp_path):
    """A place, and a clock that each command moves by what it takes."""
    place = Place(tmp_path, tmp_path / "runs", (tmp_path / "results",), "", "", "abacus")
    now, started = [0.0], []

    def do(job_list, seconds, takes):
        def launch(command, left):
            started.append(command)
            if takes > left:
                now[0] += left
                raise UserError("stopped, for the time is over")
            now[0] += takes

        monkeypatch.setattr(gpu, "launch", launch)
        gpu.do(job_list, place, Budget(seconds, lambda: now[0]))
        return now[0], [command[1] for command in started]

    return do


def test_what_does_not_fit_makes_way_for_what_does(counted):
    timings = [
        plan.Job(name, "speed", seconds, name)
        for name, seconds in (("a", 50), ("long", 500), ("b", 40))
    ]
    end, started = counted(timings, 100, takes=45)
    assert started == ["--configs=a", "--configs=b"]
    assert end <= 100


def test_a_training_gets_the_rest_of_the_time_and_the_limit_is_kept(counted):
    wanted = [plan.Job("a", "speed", 20, "a"), plan.Job("long", "accuracy", 500, "resnet")]
    end, started = counted(wanted, 100, takes=30)
    assert started == ["--configs=a", "--config=resnet", "--config=resnet"]
    end, _ = counted(wanted, 100, takes=1_000)
    assert end == 90 + 100


def test_an_estimate_is_corrected_by_what_jobs_took():
    budget = Budget(100, lambda: 0.0)
    job = plan.Job("a", "speed", 60)
    assert budget.fits(job)
    budget.finished(plan.Job("b", "speed", 10), 20)
    assert budget.estimate(job) == 120
    assert not budget.fits(job)


def test_a_job_is_stopped_in_time():
    sleep = ("timeit", "-n1", "-r1", "import time; time.sleep(60)")
    with pytest.raises(UserError, match="the time is over"):
        gpu.launch(sleep, 0.1)


def test_a_students_teachers_are_wanted_though_they_are_recorded(tmp_path):
    place = Place(tmp_path, tmp_path / "runs", (tmp_path,), "", "", "abacus")
    teachers, student = (
        plan.Job("teachers", "speed", 9, flags=("--name=teachers",)),
        plan.Job("student", "speed", 9, flags=("--name=student",), needs="teachers"),
    )
    facts = {"command": "c", "hardware": {"kind": "abacus", "count": 1, "processes": 1}}
    figures = table.figures("", "", batch_size=64)

    def write(name, **more):
        record.write("speed", name, figures, **facts, **more, versions={}, folder=tmp_path)
        return gpu._is_done(teachers, [teachers, student], place)

    assert not write("teachers-abacus")
    assert not write("student-abacus", transcribed="a page")
    assert write("student-abacus")


def test_every_job_has_a_config_and_a_file_of_its_own():
    known = {"", "resnet_record", *shipped_configs()}
    assert {job.config for job in plan.JOBS} <= known
    files = [jobs.file_name(job, "nvidia_h100") for job in plan.JOBS]
    assert len(set(files)) == len(files)
    assert (record.RESULTS / Path(files[-3])).exists()  # The names are those of the record.
