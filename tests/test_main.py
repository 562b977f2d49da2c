"""The flags that describe several processes."""

import socket
import threading

import pytest

from fer_jax.errors import UserError
from fer_jax.main import check_processes, reach


@pytest.mark.parametrize(
    "flags",
    [
        *((None, None, None), ("auto", None, None), ("auto", 2, 1), ("host-1.local:1234", 2, 1)),
        *(("10.0.0.1:65535", 1, 0), ("[fe80::1%eth0]:1", 2, 0)),
    ],
)
def test_takes_what_describes_processes(flags):
    check_processes(*flags)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((None, 2, None), "need --coordinator_address; give it as HOST:PORT"),
        ((None, None, 0), "need --coordinator_address; give it as HOST:PORT"),
        (("h:1", 2, 2), "--process_id=2 is not one of --num_processes=2; give 0 to 1"),
        (("auto", 2, 5), "--process_id=5 is not one of --num_processes=2; give 0 to 1"),
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
        check_processes(*flags)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_waits_for_process_0():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(UserError, match=rf"=127.0.0.1:{port}: Connection refused; give the addr"):
        reach(f"127.0.0.1:{port}", number=1, seconds=0)
    with pytest.raises(UserError, match=r"=no.such.host.invalid:1: .*; give the address"):
        reach("no.such.host.invalid:1", number=1, seconds=0)
    waiting = threading.Thread(target=reach, args=[f"127.0.0.1:{port}"], kwargs={"number": 1})
    waiting.start()
    with socket.create_server(("127.0.0.1", port)):
        waiting.join(timeout=30)
    assert not waiting.is_alive()


def test_process_0_needs_a_free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(UserError, match=r"Address already in use.*; .* with a free port"):
            reach(f"localhost:{port}", number=0)
    reach(f"localhost:{port}", number=0)
