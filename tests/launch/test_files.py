"""What can be checked without a cloud: syntax, schemas, and what the README shows."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

SCRIPTS = sorted(map(str, [*Path("launch").glob("*.sh"), Path("launch/slurm.sbatch")]))
TOOLS = Path(sys.executable).parent
README = Path("launch/README.md").read_text()
DRY = re.findall(
    r"```bash\n(launch/(?:[^\n]|\\\n)* --dry_run)\n```\n\n```text\n(.*?)```", README, re.DOTALL
)


def test_shellcheck_finds_nothing():
    fakes = [
        str(path)
        for path in sorted(Path("tests/launch/fakes").iterdir())
        if path.is_file() and "bash" in path.read_text().partition("\n")[0]
    ]
    command = [TOOLS / "shellcheck", "--external-sources", *SCRIPTS, *fakes]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout


def test_hadolint_finds_nothing_in_the_dockerfile():
    run = subprocess.run([TOOLS / "hadolint", "Dockerfile"], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout


def stages() -> dict[str, list[list[str]]]:
    """Returns the instructions of each stage, by name."""
    found: dict[str, list[list[str]]] = {}
    text = re.sub(r"\\\n", "", Path("Dockerfile").read_text())
    for line in text.splitlines():
        if line.startswith("FROM "):
            words = line.split()
            current = found.setdefault(words[3], [["FROM", words[1]]])
        elif line and not line.startswith("#"):
            current.append(line.split(maxsplit=1))
    return found


def test_the_image_trains_the_quickstart_as_a_user_who_is_not_root():
    last = list(stages())[-1]
    assert last == "cpu"
    runtime = dict(stages()["runtime"])
    assert runtime["USER"] == "1000"
    entry = json.loads(runtime["ENTRYPOINT"]) + json.loads(runtime["CMD"])
    assert entry == ["fer_jax", "train", "--config=quickstart"]
    for name in ("cuda", "tpu", "cpu"):
        assert stages()[name][0] == ["FROM", "runtime"]
    # The environment that is copied between them links to Python.
    assert stages()["build"][0] == stages()["runtime"][0]


def test_what_the_image_copies_is_not_ignored_and_builds_the_wheel():
    ignored = Path(".dockerignore").read_text().splitlines()
    copied = [
        word
        for instruction in stages()["build"]
        if instruction[0] == "COPY" and not instruction[1].startswith("--from")
        for word in instruction[1].split()[:-1]
    ]
    for name in copied:
        assert f"!{name}" in ignored
        assert Path(name).exists()
    assert {"fer_jax", "data_prep", "configs", "pyproject.toml", "README.md"} <= set(copied)
    for stage, extra in (("build-cuda", "--extra cuda"), ("build-tpu", "--extra tpu")):
        assert stages()[stage][-1][1].endswith(extra)
    # Workdirs may be URLs.
    syncs = re.findall(r"uv sync (.*)", Path("Dockerfile").read_text())
    assert all(flags.startswith("--extra gcs --extra s3") for flags in syncs)


def variants() -> dict[str, list[dict]]:
    """Returns the resources for GPUs, and those for a TPU, made as the file says."""
    file = Path("launch/kubernetes.yaml")
    (sed,) = re.findall(r"^#   sed (-e '.*') launch/kubernetes.yaml", file.read_text(), re.M)
    command = f"sed {sed} {file}"
    tpu = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    texts = {"gpu": file.read_text(), "tpu": tpu.stdout}
    return {name: list(yaml.safe_load_all(text)) for name, text in texts.items()}


@pytest.mark.parametrize("variant", ["gpu", "tpu"])
def test_kubernetes_accepts_the_resources(variant):
    for resource in variants()[variant]:
        kubernetes_validate.validate(resource, "1.31", strict=True)


@pytest.mark.parametrize("variant", ["gpu", "tpu"])
def test_the_pods_find_one_another_and_statuses_mean_what_they_mean(variant):
    service, job = variants()[variant]
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    flags = dict(word[2:].split("=", 1) for word in container["args"] if word.startswith("--"))
    count = spec["completions"]
    assert spec["parallelism"] == count == int(flags["num_processes"])
    host, port = flags["coordinator_address"].split(":")
    # The name of an indexed Job's first pod, in the domain of the headless service.
    assert host == f"{job['metadata']['name']}-0.{pod['subdomain']}"
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert int(port) in [entry["containerPort"] for entry in container["ports"]]
    assert flags["process_id"] == f"$({container['env'][0]['name']})"
    actions = {}
    for rule in spec["podFailurePolicy"]["rules"]:
        for status in rule.get("onExitCodes", {}).get("values", ["evicted"]):
            actions[status] = rule["action"]
    assert actions == {"evicted": "Ignore", 75: "Ignore", 1: "FailJob", 2: "FailJob"}
    assert pod["restartPolicy"] == "Never"  # A policy needs it.
    assert pod["securityContext"]["runAsUser"] == 1000  # The image's.
    limits = set(container["resources"]["limits"]) - {"memory"}
    assert limits == {{"gpu": "nvidia.com/gpu", "tpu": "google.com/tpu"}[variant]}
    assert container["image"].endswith({"gpu": ":cuda", "tpu": ":tpu"}[variant])


@pytest.mark.parametrize(("command", "output"), DRY, ids=[line.split()[1] for line, _ in DRY])
def test_the_readme_shows_what_a_dry_run_prints(launch, command, output):
    words = command.replace("\\\n", " ").split()
    run = launch(words[0].removeprefix("launch/"), *words[1:])
    assert run.stdout == output


def test_the_readme_shows_every_command_of_the_tpu():
    assert len(DRY) == README.count("--dry_run\n```")
    shown = {line.split()[1] for line, _ in DRY}
    usage = subprocess.run(["launch/tpu_vm.sh", "help"], capture_output=True, text=True).stdout
    assert shown == set(re.findall(r"^  ([a-z]+)  ", usage, re.M))


def test_gcloud_itself_knows_the_commands_and_flags(tmp_path):
    """With the real gcloud, where it is installed: it parses commands without a cloud."""
    gcloud = shutil.which("gcloud")
    if not gcloud:
        pytest.skip("gcloud is not installed")
    lines = [line for _, output in DRY for line in output.splitlines() if line[:6] == "gcloud"]
    file = tmp_path / "commands.json"
    file.write_text(json.dumps([{"command_string": line} for line in dict.fromkeys(lines)]))
    run = subprocess.run(
        [gcloud, "meta", "lint-gcloud-commands", f"--commands-file={file}"],
        env=os.environ | {"CLOUDSDK_CONFIG": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    results = json.loads(run.stdout)
    assert len(results) == len(set(lines))
    assert not [result["error_message"] for result in results if not result["success"]]
