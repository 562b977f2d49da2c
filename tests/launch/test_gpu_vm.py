"""launch/gpu_vm.sh with a machine that is a folder: what is started there goes on alone."""

import subprocess

import pytest


def test_each_command_on_its_own(launch, stub, wheel, records, tmp_path):
    env, host = stub(0), tmp_path / "cloud/me@gpu"
    host.mkdir()

    def run(command, *flags):
        result = launch("gpu_vm.sh", command, "me@gpu", *flags, env=env)
        assert result.returncode == 0, result
        return result.stdout

    assert "me@gpu: not installed" in run("status")
    assert "me@gpu: installed" in run("install")
    assert (host / "fer_jax/fer_jax/main.py").is_file()
    assert "start with --data_dir=data/noise" in run("data", f"--source={records}")
    assert (host / "fer_jax/data/noise/splits.json").is_file() or any(
        (host / "fer_jax/data/noise").iterdir()
    )
    out = run("start", "--config=cnn", "--data_dir=data/noise")
    assert "me@gpu goes on and costs money until you end it where you rented it." in out
    assert "me@gpu: ended with status 0" in run("stop")
    assert (tmp_path / "runs").read_text() == (
        "-m fer_jax.main --config=cnn --config.data_dir=data/noise\n"
    )
    assert "output of 0" in run("tail")
    (host / "fer_jax/runs/x").mkdir(parents=True)
    (host / "fer_jax/runs/x/report.html").write_text("page")
    run("fetch", "--workdir=runs/x", f"--to={tmp_path}/here")
    assert (tmp_path / "here/x/report.html").read_text() == "page"
    assert (tmp_path / "here/logs/output_me@gpu.log").is_file()

    with subprocess.Popen(["fer_jax", "60"], executable="sleep") as training:
        (host / "fer_jax/run/status").unlink()
        (host / "fer_jax/run/pid").write_text(str(training.pid))
        for command, *flags in (["install"], ["start", "--config=cnn"]):
            refused = launch("gpu_vm.sh", command, "me@gpu", *flags, env=env)
            assert refused.returncode == 2
            assert refused.stderr == "worker.sh: a run is on; stop it first\n"
        assert "me@gpu: running" in run("status")
        training.kill()


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["fly", "h"], "there is no command fly; see gpu_vm.sh help"),
        (["start"], "after start comes the host, as ssh takes it"),
        (["start", "--config=cnn"], "after start comes the host, as ssh takes it"),
        (["start", "h", "--zone=z"], "there is no --zone here; there are --config --workdir"),
        (["fetch", "h", "--to=x", "--workdir=gs://b/r"], "--workdir=gs://b/r is not on h"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_a_mistake_ends_in_one_line(launch, flags, line):
    run = launch("gpu_vm.sh", *flags)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith(f"gpu_vm.sh: {line}")
    assert run.stderr.count("\n") == 1
