"""The flags that describe several processes, and the schedulers that do."""

import pytest

from fer_jax.errors import UserError
from fer_jax.processes.cluster import Cluster, find_cluster


@pytest.mark.parametrize(
    ("flags", "cluster"),
    [
        ((None, None, None), None),
        (("host-1.local:1234", 2, 1), Cluster("host-1.local", 1234, 2, 1)),
        (("10.0.0.1:65535", 1, 0), Cluster("10.0.0.1", 65535, 1, 0)),
        (("[fe80::1%eth0]:1", 2, 0), Cluster("fe80::1%eth0", 1, 2, 0)),
    ],
)
def test_takes_what_describes_processes(flags, cluster):
    assert find_cluster(*flags) == cluster


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((None, 2, None), "need --coordinator_address; give it as HOST:PORT"),
        ((None, None, 0), "need --coordinator_address; give it as HOST:PORT"),
        (("h:1", 2, 2), "--process_id=2 is not one of --num_processes=2; give 0 to 1"),
        (("auto", 2, 5), "--process_id=5 is not one of --num_processes=2; give 0 to 1"),
        (("auto", None, None), "auto needs a TPU pod, SLURM or MPI, which are not here"),
        (("h:1", None, None), "--coordinator_address=h:1 needs --num_processes and --process_id;"),
        (("h:1", 2, None), "--coordinator_address=h:1 needs --num_processes and --process_id;"),
        *(
            ((address, 2, 0), f"--coordinator_address is {address!r}; give HOST:PORT")
            for address in (
                *("", "nonsense", "h:", ":1", "h:0", "h:65536", "h:x", "h:1:2", "http://h:1"),
                *("h :1", "fe80::1:1234", "[]:1", "h:1\n", "h:-1", "h:99999999999999999999"),
            )
        ),
    ],
)
def test_what_describes_no_processes_is_told_before_they_start(flags, message):
    with pytest.raises(UserError) as caught:
        find_cluster(*flags)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_slurm_tells_where_the_processes_are(monkeypatch):
    for name, value in {
        "JOB_ID": "4321",
        "STEP_NODELIST": "node[07-08]",
        "NTASKS": "8",
        "PROCID": "5",
        "LOCALID": "1",
        "STEP_NUM_NODES": "2",
    }.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    cluster = find_cluster("auto", None, None)
    assert cluster == Cluster("node07", 61440 + 4321 % 4096, 8, 5, (1,))
