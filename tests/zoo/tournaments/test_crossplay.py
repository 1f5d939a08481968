import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from sb3_matrl import MATRL
from sb3_matrl.evaluation import cross_play
from sb3_matrl.files.checkpoints import checkpoint_path, checkpoint_steps
from sb3_matrl.zoo.crossplay import main
from sb3_matrl.zoo.tournaments.entrants import Entrant, EntrantFinder, evenly_spaced
from sb3_matrl.zoo.tournaments.heat_maps import draw_heat_maps, tick_labels
from sb3_matrl.zoo.tournaments.line_file import LineFile
from sb3_matrl.zoo.train import main as train

SMALL = [
    "-params",
    "n_envs:4",
    "n_steps:25",
    "batch_size:100",
    "n_epochs:1",
    "policy_kwargs.net_arch:[8]",
    "learning_rate:0.05",
]
QUICK = ["--eval-freq", "-1", "--eval-episodes", "2", "--verbose", "0", "--device", "cpu", "--seed", "0"]


def always_rock(observations):
    """Rock in every role."""
    return np.zeros(len(observations), int)


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs")
    common = ["-f", str(folder), *QUICK, *SMALL]
    for algo in ("ippo", "matrl"):
        game = ["--env", "matrix_game_v0", "--env-kwargs", "game:rps"]
        assert train([*common, "--algo", algo, *game, "-n", "1000", "--snapshots", "3"]) == 0
    for other in (
        ["matrix_game_v0", "--env-kwargs", "game:chicken"],
        ["switch_v0", "--env-kwargs", "n_agents:2", "clock:false"],
    ):
        assert train([*common, "--algo", "ippo", "-n", "100", "--env", *other]) == 0
    return folder


@pytest.fixture
def no_pictures(monkeypatch):
    """Leave out the heat maps, which take most of the time of a small cross-play."""
    monkeypatch.setattr("sb3_matrl.zoo.tournaments.heat_maps.draw_heat_maps", lambda *_: [])


def crossplay(logs, *words):
    return main([*words, "-f", str(logs), "--jobs", "1"])


def error_of(logs, capsys, *words):
    with pytest.raises(SystemExit) as exit_info:
        crossplay(logs, *words)
    assert exit_info.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1
    return message


# ---------------------------------------------------------------- snapshots


def test_training_keeps_evenly_spaced_snapshots(logs):
    run = logs / "ippo" / "matrix_game_v0_1"
    assert checkpoint_steps(run / "snapshots") == [400, 700, 1000]
    model = MATRL.load(checkpoint_path(run / "snapshots", 700))
    assert model.num_timesteps == 700


@pytest.mark.e2e
def test_a_resumed_training_saves_the_snapshots_that_are_missing(logs, tmp_path):
    words = ["--algo", "ippo", "--env", "matrix_game_v0", "-n", "400", "--snapshots", "2", "--run-dir", str(tmp_path / "run")]
    assert train([*QUICK, *SMALL, *words, "--save-freq", "100"]) == 0
    kept = checkpoint_path(tmp_path / "run" / "snapshots", 200).read_bytes()
    assert checkpoint_steps(tmp_path / "run" / "snapshots") == [200, 400]
    checkpoint_path(tmp_path / "run" / "snapshots", 400).unlink()
    resumed = ["--resume", str(tmp_path / "run"), "-n", "600", "--snapshots", "3", "--override"]
    assert train([*resumed, "--verbose", "0"]) == 0
    assert checkpoint_steps(tmp_path / "run" / "snapshots") == [200, 400, 600]
    assert checkpoint_path(tmp_path / "run" / "snapshots", 200).read_bytes() == kept


# ---------------------------------------------------------------- the whole command


@pytest.fixture(scope="module")
def played(logs, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    words = ["ippo/matrix_game_v0_1", "mine=matrl/matrix_game_v0_1", "random", "--games", "40", "--seed", "3"]
    assert crossplay(logs, *words, "--out", str(out)) == 0
    return out


def test_record_holds_the_payoffs_that_python_gives(logs, played):
    record = json.loads((played / "crossplay.json").read_text())
    files = {f"ippo/matrix_game_v0@{steps}": logs / "ippo/matrix_game_v0_1/snapshots" for steps in (400, 700, 1000)}
    files |= {f"mine@{steps}": logs / "matrl/matrix_game_v0_1/snapshots" for steps in (400, 700, 1000)}
    players = {name: checkpoint_path(folder, int(name.rpartition("@")[2])) for name, folder in files.items()}
    expected = cross_play({**players, "random": "random"}, "matrix_game_v0", n_games=40, seed=3)
    np.testing.assert_array_equal(record["payoffs"], expected.payoffs)
    np.testing.assert_allclose(record["standard_errors"], expected.standard_errors)
    assert list(record["players"]) == [f"ippo/matrix_game_v0_1@{s}" for s in (400, 700, 1000)] + list(players)[3:] + ["random"]
    assert record["design"] == "full" and record["games"] == 40 and record["roles"] == ["agent_0", "agent_1"]
    assert "machine" in record and len(record["summary"]["ratings"]["elo"]["values"]) == 7
    assert set(record["summary"]["cycles"]) == {"ippo/matrix_game_v0_1", "mine", "all"}
    group = record["summary"]["groups"]["agent_0"]["mine / random"]
    assert group["mean"] == pytest.approx(expected.payoffs[0, 3:6, 6].mean())


def test_table_has_a_line_for_every_profile(played):
    record = json.loads((played / "crossplay.json").read_text())
    rows = list(csv.DictReader((played / "crossplay.csv").open()))
    assert len(rows) == 49 and float(rows[8]["agent_1_mean"]) == record["payoffs"][1][1][1]
    assert rows[8]["agent_0"] == rows[8]["agent_1"] == "ippo/matrix_game_v0_1@700"


def test_heat_maps_are_drawn(played):
    for role in ("agent_0", "agent_1"):
        assert (played / f"heat_map_{role}.png").read_bytes().startswith(b"\x89PNG")
        text = (played / f"heat_map_{role}.svg").read_text()
        assert "<svg" in text


def test_roles_with_like_names_have_pictures_of_their_own(tmp_path):
    roles = (r"$\no$ a|b", r"$\no$ a b")
    result = SimpleNamespace(roles=roles, pair_payoffs=lambda place: np.zeros((2, 2)))
    players = [Entrant(name, name, "random") for name in ("one", r"$\two$")]
    paths = draw_heat_maps(tmp_path, result, players, "t")
    assert len(set(paths)) == 4 == len(list(tmp_path.iterdir()))


@pytest.mark.e2e
def test_printed_table_has_means_with_intervals(logs, played, capsys, no_pictures):
    words = ["ippo/matrix_game_v0_1", "mine=matrl/matrix_game_v0_1", "random", "--games", "40", "--seed", "3"]
    before = (played / "cells.jsonl").read_bytes()
    assert crossplay(logs, *words, "--out", str(played)) == 0
    printed = capsys.readouterr().out
    assert (played / "cells.jsonl").read_bytes() == before  # nothing is played twice
    assert "| mine@1000" in printed and "Elo" in printed and "triples are cyclic" in printed
    assert "Mean return of agent_0, by the run that plays it" in printed
    mean = json.loads((played / "crossplay.json").read_text())["summary"]["players"]["random"]["agent_0"]
    assert f"{mean['mean']:.3g} [{mean['low']:.3g}, {mean['high']:.3g}]" in printed


def test_a_common_payoff_has_no_ratings(logs, tmp_path, no_pictures):
    team = ["--env-kwargs", "max_cycles:5", "team_reward:true", "--out", str(tmp_path)]
    assert crossplay(logs, "ippo/switch_v0_1", "random", "--games", "4", *team) == 0
    record = json.loads((tmp_path / "crossplay.json").read_text())
    assert record["env_kwargs"] == {"clock": False, "n_agents": 2, "max_cycles": 5, "team_reward": True}
    assert list(record["players"]) == ["ippo/switch_v0_1@100", "random"]
    assert set(record["summary"]) == {"players", "groups"}


def test_functions_files_and_sampled_designs_play(logs, tmp_path, no_pictures):
    model = logs / "ippo" / "matrix_game_v0_1" / "matrix_game_v0.zip"
    words = [str(model), "rock=tests.zoo.tournaments.test_crossplay:always_rock", "random", "--design", "sampled"]
    assert crossplay(logs, *words, "--games", "16", "--out", str(tmp_path)) == 0
    record = json.loads((tmp_path / "crossplay.json").read_text())
    assert list(record["players"]) == ["matrix_game_v0", "rock", "random"] and record["design"] == "sampled"
    assert record["games"] == 16 and {"rock", "random"} <= {row["agent_0"] for row in record["profiles"]}
    assert "--design full" in record["summary"]["cycles"]
    draws = [row for row in record["profiles"] if (row["agent_0"], row["agent_1"]) == ("rock", "rock")]
    assert all(row["agent_0_mean"] == 0.0 for row in draws)


# ---------------------------------------------------------------- resuming


@pytest.mark.e2e
def test_cells_of_a_killed_process_are_kept(logs, played, tmp_path, no_pictures):
    words = ["ippo/matrix_game_v0_1", "mine=matrl/matrix_game_v0_1", "random", "--games", "40", "--seed", "3"]
    lines = (played / "cells.jsonl").read_bytes().splitlines(keepends=True)
    changed = json.loads(lines[1])
    changed["returns"] = [[9.0, 9.0]] * 40
    # One finished cell, changed so that it is recognised, and a second one that was being written.
    (tmp_path / "cells.jsonl").write_bytes(lines[0] + json.dumps(changed).encode() + b"\n" + lines[2][:20])
    assert crossplay(logs, *words, "--out", str(tmp_path)) == 0
    record, whole = (json.loads((folder / "crossplay.json").read_text()) for folder in (tmp_path, played))
    assert record["payoffs"][0][0][0] == 9.0
    assert record["payoffs"][0][0][1:] == whole["payoffs"][0][0][1:] and record["payoffs"][1][2] == whole["payoffs"][1][2]


def test_games_of_other_players_are_not_mixed_in(logs, played, capsys):
    words = ["ippo/matrix_game_v0_1", "random", "--games", "40", "--seed", "3", "--out", str(played)]
    assert "holds results with another players: choose another --out" in error_of(logs, capsys, *words)


def test_a_damaged_line_is_told(tmp_path):
    path = tmp_path / "lines"
    LineFile(path, {"a": 1}, "").add({"b": 2})
    assert LineFile(path, {"a": 1}, "").parts == [{"b": 2}]
    path.write_bytes(path.read_bytes() + b"{}}\n")
    with pytest.raises(ValueError, match="line 3 is damaged"):
        LineFile(path, {"a": 1}, "")
    path.write_bytes(b'{"a"')
    assert LineFile(path, {"a": 1}, "").parts == [] and path.read_bytes() == b'{"a": 1}\n'


@pytest.mark.expensive
def test_processes_give_the_same_result_and_survive_a_kill(logs, played, tmp_path):
    words = ["ippo/matrix_game_v0_1", "mine=matrl/matrix_game_v0_1", "random", "--games", "40", "--seed", "3"]
    command = [
        sys.executable,
        "-m",
        "sb3_matrl.zoo",
        "crossplay",
        *words,
        "-f",
        str(logs),
        "--out",
        str(tmp_path),
        "--jobs",
        "2",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    cells = tmp_path / "cells.jsonl"
    while not cells.is_file() or cells.read_bytes().count(b"\n") < 3:
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    kept = cells.read_bytes().count(b"\n")
    assert kept < 50
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    record, whole = (json.loads((folder / "crossplay.json").read_text()) for folder in (tmp_path, played))
    assert record["payoffs"] == whole["payoffs"] and record["summary"] == whole["summary"]


@pytest.mark.expensive
def test_ctrl_c_ends_processes_and_says_how_to_continue(logs, tmp_path):
    words = ["ippo/matrix_game_v0_1", "random", "--games", "100000", "--max-games", "100000", "--out", str(tmp_path)]
    command = [sys.executable, "-m", "sb3_matrl.zoo", "crossplay", *words, "-f", str(logs), "--jobs", "2"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
    cells = tmp_path / "cells.jsonl"
    while not cells.is_file() or cells.read_bytes().count(b"\n") < 3:
        assert process.poll() is None
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "give the same command again to continue" in errors
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert children and not any(Path(f"/proc/{child}").exists() for child in children)


# ---------------------------------------------------------------- mistakes


def test_runs_of_different_environments_are_rejected(logs, capsys):
    message = error_of(logs, capsys, "ippo/matrix_game_v0_1", "ippo/switch_v0_1")
    assert "cross-play needs one environment" in message and "switch_v0 with clock: False, n_agents: 2" in message
    message = error_of(logs, capsys, "ippo/matrix_game_v0_1", "ippo/matrix_game_v0_2")
    assert "game: rps" in message and "game: chicken" in message and "--env-kwargs" in message


@pytest.mark.e2e
def test_a_player_with_other_spaces_is_rejected(logs, capsys):
    message = error_of(logs, capsys, "ippo/matrix_game_v0_1", "ippo/matrix_game_v0_2", "--env-kwargs", "game:rps")
    assert "player ippo/matrix_game_v0_2@100 cannot play agent_0: its actions are Discrete(2)" in message


def test_a_run_without_checkpoints_is_rejected(logs, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    for name in ("args.yml", "config.yml"):
        (run / name).write_bytes((logs / "ippo" / "matrix_game_v0_1" / name).read_bytes())
    message = error_of(logs, capsys, str(run), "random")
    assert "has no snapshots and no checkpoints: train with" in message and "--snapshots 10" in message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ippo/matrix_game_v0_3", "random"], "there is no run or model ippo/matrix_game_v0_3, neither as a path nor in"),
        (["randon", "random"], "did you mean 'random'"),
        (["random", "random"], "two players are named random: give one another name, as NAME=random"),
        (["a=random", "a=random"], "two players are named a: give one another name, as NAME=random"),
        (["random"], "cross-play needs at least two players, found random"),
        (["random", "x=random"], "no player says which environment is played: give it with --env"),
        (["random", "ippo/matrix_game_v0_1", "--env", "switch_v0"], "not in --env switch_v0: leave --env out"),
        (["random", "tests.nowhere:player", "--env", "switch_v0"], "module 'tests.nowhere' cannot be imported"),
        (["random", "x=random", "--env", "swich_v0"], "did you mean 'switch_v0'"),
        (["random", "x=random", "--width", "0"], "expected a positive number, got '0'"),
        (["random", "x=random", "--env", "switch_v0", "--games", "1"], "n_games must be at least 2"),
    ],
)
def test_mistakes_take_one_line(logs, capsys, words, message):
    assert message in error_of(logs, capsys, *words)


def test_files_do_not_choose_which_code_runs(logs, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    for name in ("args.yml", "config.yml"):
        text = (logs / "ippo" / "matrix_game_v0_1" / name).read_text()
        (run / name).write_text(text.replace("matrix_game_v0", "tests.evaluation.worlds:RandomLength"))
    assert "if you trust it" in error_of(logs, capsys, str(run), "random")


def test_some_snapshots_of_a_run_can_be_chosen(logs):
    assert evenly_spaced([1, 2, 3, 4, 5], 2) == [2, 5] and evenly_spaced([1, 2], None) == evenly_spaced([1, 2], 9) == [1, 2]
    entrants, world = EntrantFinder(logs, per_run=2).find(["ippo/matrix_game_v0_1", "random"])
    assert [entrant.steps for entrant in entrants] == [400, 1000, None] and world.env_kwargs == {"game": "rps"}
    assert tick_labels(entrants) == ["400", "1k", "random"]
