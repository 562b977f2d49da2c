"""The model of a step's time: by hand, on steps of known pieces, and on the measured ones."""

import math

import numpy as np
import pytest

from benchmarks import record
from benchmarks.scaling.chips import CHIPS, KINDS, run_on
from benchmarks.scaling.fitting import fit, predictions
from benchmarks.scaling.page import make_parts
from benchmarks.scaling.step_time import Link, Machine, Network, Work

NETWORK = Network(overhead=2e-3, image=1e-4, collectives=3, payload=1e6)


def test_a_step_is_compute_plus_what_a_ring_sends():
    machine = Machine((Link(latency=1e-4, rate=1e8),))
    assert machine.step(NETWORK, 1, 50) == pytest.approx(2e-3 + 50 * 1e-4)
    # Four devices: two doublings of three collectives, and 1.5 MB over each link.
    assert machine.step(NETWORK, 4, 50) == pytest.approx(7e-3 + 3 * 2 * 1e-4 + 1.5e6 / 1e8)
    # On two cores computing takes twice as long, and collectives wait for one turn.
    shared = Machine((Link(latency=1e-4, rate=1e8, grows=False),), cores=2)
    assert shared.step(NETWORK, 4, 50) == pytest.approx(14e-3 + 3 * 1e-4 + 1.5e6 / 1e8)


def test_links_beyond_a_group_carry_each_devices_share():
    inside, between = Link(1e-6, 4e8, devices=8), Link(1e-5, 1e7)
    machine = Machine((inside, between))
    assert machine.all_reduce(NETWORK, 8) == pytest.approx(inside.all_reduce(NETWORK, 8))
    share = Network(2e-3, 1e-4, 3, 1e6 / 8)
    expected = inside.all_reduce(NETWORK, 8) + between.all_reduce(share, 4)
    assert machine.all_reduce(NETWORK, 32) == pytest.approx(expected)


def test_a_run_waits_for_the_input_that_its_hosts_cannot_read():
    machine = Machine((Link(0.0, math.inf),))
    work = Work(images=1_000, passes=2, evaluated=100, evaluation=1e-3, save=0.5, input=1_000)
    shares = work.shares(machine, NETWORK, 16, 10)
    steps = 2 * 1_000 / 160
    assert shares["compute"] == pytest.approx(steps * 3e-3)
    assert shares["input"] == pytest.approx(2 * 1_000 / 2_000 - steps * 3e-3)  # two hosts
    assert shares["evaluation"] == pytest.approx(2 * (7 * 1e-3 + 0.5))


@pytest.fixture
def made():
    """Numbers as they would be measured on a machine that the model describes."""
    links = {
        "devices": Link(5e-5, 2e9, grows=False),
        "processes": Link(2e-4, 3e8, grows=False),
    }
    networks = {
        "small_cnn": Network(2e-3, 4e-4, 4, 1.3e6),
        "resnet/width 16": Network(0.02, 4e-3, 35, 2.8e6),
    }
    rng = np.random.default_rng(0)
    programs = []

    def add(kind, name, devices, rows, members):
        network, machine = networks[name], Machine((links[kind],), cores=2)
        seconds = machine.step(network, devices, rows)
        if members > 1:
            seconds -= machine.all_reduce(network, devices)
        about = {"collectives": network.collectives, "payload": network.payload}
        around = (seconds * rng.uniform(1, 1.03, 3)).tolist()
        names = {"kind": kind, "network": name, "devices": devices, "rows": rows}
        programs.append({**names, "members": members, **about, "seconds": around})

    for name in networks:
        for rows in (8, 16, 32, 64):
            add("devices", name, 1, rows, 1)
        for devices in (2, 4, 8):
            for rows in {32, 64 // devices}:
                for members in (1, devices):
                    add("devices", name, devices, rows, members)
                if devices < 8:
                    add("processes", name, devices, rows, 1)
    pieces = {name: {"input": 5_000.0, "evaluation": 9_000.0, "save": 0.3} for name in networks}
    return {"cores": 2, "programs": programs, "pieces": pieces}


def test_pieces_are_found_again_from_steps(made):
    networks, machines = fit(made)
    assert networks["small_cnn"].image == pytest.approx(4e-4, rel=0.05)
    assert networks["resnet/width 16"].overhead == pytest.approx(0.02, rel=0.2)
    for program, seconds in predictions(made):
        assert seconds == pytest.approx(min(program["seconds"]), rel=0.06)
    assert machines["processes"].links[0].latency > machines["devices"].links[0].latency
    facts = {"n": 3, "date": "today", "command": "python", "versions": {}}
    hardware = {"kind": "abacus", "count": 2, "processes": 1}
    parts = make_parts({"figures": made, "hardware": hardware, **facts})
    assert "| resnet/width 16 | 64 in all | 4 processes | 16 |" in parts["steps"]
    assert parts["steps"].count("| small_cnn |") == 2 * 6
    assert parts["circumstances"].startswith("n = 3; 2 x abacus; today.")


def test_the_model_reproduces_the_measured_steps_within_a_fifth():
    for found in record.read("scaling"):
        for program, seconds in predictions(found["figures"]):
            about = {key: program[key] for key in ("network", "kind", "devices", "rows")}
            assert seconds == pytest.approx(min(program["seconds"]), rel=0.2), about


def test_chips_gain_ever_less_and_a_fixed_batch_does_not_scale():
    """In each kind of chips."""
    for kind in KINDS:
        seconds = [sum(run_on(kind, n, 128 / n, 35)[0].values()) for n in CHIPS if n <= 128]
        assert seconds[0] / seconds[-1] < 8  # 128 chips
        seconds = [sum(run_on(kind, n, 64, 35)[0].values()) for n in CHIPS]
        shares = [seconds[0] / taken / n for taken, n in zip(seconds, CHIPS, strict=True)]
        assert shares == sorted(shares, reverse=True)
        assert shares[-1] < 0.5
