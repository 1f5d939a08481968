"""The comparison of speed: work is checked, everything is recorded, tables and the figure show it."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.image import imread

from benchmarks import speed
from benchmarks.contestants import SharedPPO
from benchmarks.results_page import speed_peers as tables
from benchmarks.speed_columns import COLUMNS, IPPO, Entry, expected_work, products
from benchmarks.speed_peers import BENCHMARL_PYTHON, measure_benchmarl, spread, timed_iteration, usable_backends
from tests.benchmarks.test_contestants import tiny


def test_spread_is_median_and_quartiles():
    assert spread(np.array([4.0, 1.0, 3.0, 2.0, 5.0])) == {"median": 3.0, "low": 2.0, "high": 4.0}


def test_a_contestant_that_does_other_work_cannot_be_compared():
    column = tiny("n2")
    peer, expected = SharedPPO(column.settings(IPPO), column.env), expected_work(column, IPPO, 2, shared=True)
    entry = Entry(peer, IPPO, "", 2, expected)
    assert timed_iteration(entry) > 0.0
    for other in (replace(expected, gradient_steps=5), replace(expected, env_steps=11)):
        with pytest.raises(
            RuntimeError, match=r"one shared PPO: an iteration was Work\(env_steps=12, gradient_steps=4\), expected"
        ):
            timed_iteration(replace(entry, expected=other))
    peer.close()


def test_backends_that_cannot_be_used_are_left_out_with_a_reason(monkeypatch):
    usable, reasons = usable_backends()
    assert {"sb3", "torch"} <= set(usable) and len(usable) + len(reasons) == 3
    monkeypatch.setattr("benchmarks.speed_peers.BACKENDS", ("sb3", "abacus"))
    usable, (reason,) = usable_backends()
    assert usable == ["sb3"]
    assert reason.startswith("backend 'abacus' is left out: backend 'abacus' is unknown")


@pytest.mark.e2e
def test_products_are_those_of_every_agent():
    """Hopper's agents have 8, 9 and 8 inputs; Pong's two are alike."""
    for name, others in {"hopper": {8: 2, 9: 1}, "pong": {8: 2}}.items():
        work = products(COLUMNS[name], IPPO, sum(others.values()))
        batch_size = COLUMNS[name].settings(IPPO)["batch_size"]
        width = COLUMNS[name].settings(IPPO).model_arguments()["policy_kwargs"]
        hidden = (width or {}).get("net_arch", [64])[0]
        found = {p.inner: count for p, count in work.items() if (p.rows, p.columns) == (batch_size, hidden) and p.inner < 10}
        minibatches = COLUMNS[name].rows // batch_size * 10
        # Every minibatch passes through the first layers of policy and critic.
        assert {inner: found[inner] // minibatches // 2 for inner in others} == others


def fake_python(folder, output, status=0):
    """A program that prints ``output`` whatever it is asked."""
    (folder / "output").write_text(f"noise\n{output}\n")
    path = folder / "python"
    path.write_text(f"#!/bin/sh\ncat {folder / 'output'}\ncat {folder / 'output'} >&2\nexit {status}\n")
    path.chmod(0o755)
    return path


def recorded():
    row = {"median_seconds": 2.0}
    return {"agents": 2, "rows": [row], "floor_seconds": {IPPO: 0.5}}


def test_benchmarl_is_left_out_where_it_is_not_installed(tmp_path):
    column = tiny("n2")
    record = recorded()
    assert measure_benchmarl(column, record, 1, tmp_path / "python") == "BenchMARL is left out: `make benchmarl` installs it"
    assert len(record["rows"]) == 1


def test_row_of_benchmarl(tmp_path):
    column, versions = tiny("n2"), {"benchmarl": "1.5.2", "torchrl": "0.11.1"}
    result = {"seconds": [4.0, 10.0, 5.0], "env_steps": 12, "gradient_steps": 4, "versions": versions}
    record = recorded()
    assert measure_benchmarl(column, record, 3, fake_python(tmp_path, json.dumps(result))) is None
    row = record["rows"][1]
    assert (row["contestant"], row["median_seconds"], row["times_floor"]) == ("BenchMARL 1.5.2 IPPO", 5.0, 10.0)
    assert row["env_steps_per_second"] == pytest.approx(2.4)
    assert row["ratio"]["median"] == pytest.approx(0.4)
    other = fake_python(tmp_path, json.dumps({**result, "gradient_steps": 2}))
    with pytest.raises(RuntimeError, match="BenchMARL: an iteration was"):
        measure_benchmarl(column, record, 3, other)
    failing = fake_python(tmp_path, "ImportError: no torchrl", status=1)
    assert measure_benchmarl(column, record, 3, failing) == "BenchMARL failed in 2 agents: ImportError: no torchrl"
    assert len(record["rows"]) == 2


def test_options_of_the_comparison_need_it(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["speed", "--quick"])
    with pytest.raises(SystemExit):
        speed.main()
    assert "--columns and --quick need --peers" in capsys.readouterr().err


MEMORY = """
from benchmarks.peak_memory import peak_mib
before = peak_mib()
block = bytearray(300 * 2**20)
block[::4096] = b"x" * len(block[::4096])
del block
print(before, peak_mib())
"""


@pytest.mark.expensive
def test_peak_memory_is_that_of_the_process_alone():
    block = bytearray(700 * 2**20)  # which ru_maxrss would hand on to the child
    block[::4096] = b"x" * len(block[::4096])
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    before, after = map(float, done.stdout.split())
    assert before < 700 and 250 < after - before < 350


@pytest.mark.expensive
def test_whole_comparison(tmp_path):
    out = tmp_path / "speed_peers.json"
    command = [sys.executable, "-m", "benchmarks.speed", "--peers", "--quick", "--iterations", "2", "--out", str(out)]
    done = subprocess.run([*command, "--columns", "checkers_64", "n2", "n4"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record = json.loads(out.read_text())
    assert [(column["column"], column["agents"]) for column in record["columns"]] == [("checkers_64", 2), ("n2", 2), ("n4", 4)]
    backends = record["backends"]
    for column in record["columns"]:
        check_column(column, backends)
    benchmarl = [row["contestant"] for row in record["columns"][0]["rows"] if row["contestant"].startswith("BenchMARL")]
    assert len(benchmarl) == BENCHMARL_PYTHON.exists()
    assert [row["contestant"] for row in record["memory"]] == ["peer", *backends]
    assert all(50 < row["peak_mib"] < 5000 for row in record["memory"])
    assert [row["backend"] for row in record["train"]] == ["sb3", "default"]
    assert imread(out.with_suffix(".png")).std() > 0.01
    text = tables(record)
    for row in record["columns"][0]["rows"]:
        assert f"| {row['contestant']} " in text
    assert "Peak memory in Checkers" in text and "`make train`" in text


def check_column(column, backends):
    peer, lone, *ours = [row for row in column["rows"] if not row["contestant"].startswith("BenchMARL")]
    assert [(row["backend"], row["algorithm"]) for row in ours] == [
        (backend, name) for backend in backends for name in ("ippo", "ippo, epochs of matrl", "matrl")
    ]
    assert (peer["learned_agents"], lone["learned_agents"]) == (column["agents"], 1)
    assert peer["ratio"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    for row in (peer, lone, *ours):
        assert row["env_steps_per_second"] == pytest.approx(column["env_steps"] / np.median(row["seconds"]))
        ratios = np.array(peer["seconds"]) / row["seconds"]
        assert row["ratio"]["median"] == pytest.approx(np.median(ratios))
        if row is not lone:
            assert row["times_floor"] == pytest.approx(row["median_seconds"] / column["floor_seconds"][row["algorithm"]])
    for equal, matrl in zip(ours[1::3], ours[2::3], strict=True):
        assert equal["gradient_steps"] == matrl["gradient_steps"]
        ratios = np.array(matrl["seconds"]) / equal["seconds"]
        assert matrl["matrl_to_ippo"]["median"] == pytest.approx(np.median(ratios))
    assert column["floor_flops"]["ippo"] < column["floor_flops"]["ippo, epochs of matrl"] < column["floor_flops"]["matrl"]
