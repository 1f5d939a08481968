import json
import math
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from sb3_matrl.zoo.common.records import machine, write_json, write_record


def test_machine_names_versions_threads_and_command(monkeypatch):
    monkeypatch.setattr("sys.orig_argv", ["/usr/bin/python3", "zoo/benchmark.py", "--out", "two words"])
    found = machine()
    assert found["command"] == "python zoo/benchmark.py --out 'two words'"
    assert found["versions"]["torch"] == version("torch") and found["versions"]["SuperSuit"] == version("SuperSuit")
    assert found["threads"] >= 1 and found["cpu_count"] >= 1 and found["processor"]


def test_packages_that_are_missing_are_left_out(monkeypatch):
    monkeypatch.setattr("sb3_matrl.zoo.common.records.PACKAGES", ("numpy", "no-such-package"))
    assert machine()["versions"] == {"numpy": np.__version__}


def test_record_is_strict_json_with_the_machine(tmp_path):
    path = tmp_path / "new" / "record.json"
    values = {"array": np.array([[1.5, math.nan], [-math.inf, 2.0]]), "count": np.int64(3), "pair": (1, True)}
    write_record(path, {**values, "path": Path("a") / "b", "seeds": {0: np.float32(0.5)}})

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    record = json.loads(path.read_text(), parse_constant=refuse)
    assert record.pop("machine")["versions"]["numpy"] == np.__version__
    assert record == {"array": [[1.5, None], [None, 2.0]], "count": 3, "pair": [1, True], "path": "a/b", "seeds": {"0": 0.5}}


def test_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "record.json"
    write_json(path, {"old": 1})
    with pytest.raises(TypeError):
        write_json(path, {"new": object()})
    assert json.loads(path.read_text()) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]
