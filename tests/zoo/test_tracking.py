import importlib.util
import json
import math
import os
import struct

import pytest
import yaml

from sb3_matrl.zoo.train import main
from sb3_matrl.zoo.training.tracking import require_wandb, tracking_mode
from tests.evaluation.worlds import InterruptsItself

# LevelDB's log format: blocks of 32 KiB, records with a header of CRC (4 bytes), length (2) and kind (1).
BLOCK, HEADER, FULL, LAST = 32768, 7, 1, 4


def read_records(path):
    """Read the records of an offline run back."""
    from wandb.proto import wandb_internal_pb2

    data, position, parts = path.read_bytes(), HEADER, b""
    while position + HEADER <= len(data):
        left = BLOCK - position % BLOCK
        if left < HEADER:
            position += left
            continue
        length, kind = struct.unpack_from("<HB", data, position + 4)
        parts += data[position + HEADER : position + HEADER + length]
        position += HEADER + length
        if kind in (FULL, LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def items(updates):
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in updates}


@pytest.mark.parametrize(
    ("environ", "mode"),
    [
        ({}, "offline"),
        ({"WANDB_API_KEY": "k"}, "online"),
        ({"WANDB_IDENTITY_TOKEN_FILE": "f"}, "online"),
        ({"WANDB_API_KEY": "k", "WANDB_MODE": "offline"}, "offline"),
        ({"WANDB_MODE": "disabled"}, "disabled"),
        ({"WANDB_MODE": "online"}, "online"),
    ],
)
def test_mode_depends_on_what_is_configured(tmp_path, environ, mode):
    assert tracking_mode({"HOME": str(tmp_path), **environ}) == mode


def test_mode_that_wandb_does_not_have_is_an_error():
    with pytest.raises(ValueError, match=r"WANDB_MODE 'ofline' is unknown; did you mean 'offline'\?"):
        tracking_mode({"WANDB_MODE": "ofline"})


def test_key_in_netrc_counts_for_its_host_only(tmp_path):
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password made-up\n")
    home = {"HOME": str(tmp_path)}
    assert tracking_mode(home) == "online"
    assert tracking_mode({**home, "WANDB_BASE_URL": "https://wandb.example.org:8080"}) == "offline"
    assert tracking_mode({"HOME": "/nonexistent", "NETRC": str(tmp_path / ".netrc")}) == "online"
    (tmp_path / ".netrc").write_text("machine api.wandb.ai garbage")
    assert tracking_mode(home) == "offline"


def test_missing_package_is_named(monkeypatch, capsys, tmp_path):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "wandb" else find_spec(name, *rest))
    with pytest.raises(ImportError, match=r"--track needs Weights & Biases: pip install 'sb3-matrl\[track\]'"):
        require_wandb()
    with pytest.raises(SystemExit) as exit_info:
        main(["--track", "-f", str(tmp_path / "logs")])
    assert exit_info.value.code == 2
    assert "sb3-matrl[track]" in capsys.readouterr().err
    assert not (tmp_path / "logs").exists()


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """A machine where W&B is not configured; W&B itself ends with the test."""
    wandb = pytest.importorskip("wandb")
    wandb.teardown()
    for name in [name for name in os.environ if name.startswith("WANDB_") or name == "NETRC"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield wandb
    wandb.teardown()


def read_run(wandb, run_folder):
    """Kind -> records of the only offline run in a folder."""
    (file,) = run_folder.glob("wandb/offline-run-*/*.wandb")
    wandb.teardown()  # as at the end of the process: only then is the file sure to be whole
    records = {}
    for record in read_records(file):
        kind = record.WhichOneof("record_type")
        records.setdefault(kind, []).append(getattr(record, kind))
    return file, records


QUICK = [
    "--eval-freq",
    "400",
    "--eval-episodes",
    "2",
    "--verbose",
    "0",
    "-params",
    "n_envs:4",
    "n_steps:100",
    "batch_size:400",
]


@pytest.mark.e2e
def test_offline_run_holds_config_history_summary_and_model(tmp_path, offline, capsys):
    words = ["--env", "matrix_game_v0", "-n", "800", "--seed", "3", *QUICK, "--track", "--wandb-project-name", "mine"]
    assert main([*words, "--wandb-group", "night", "-tags", "a", "b", "-f", str(tmp_path / "logs")]) == 0
    run_folder = tmp_path / "logs" / "matrl" / "matrix_game_v0_1"
    file, records = read_run(offline, run_folder)
    assert f"send it with: wandb sync {file.parent}" in capsys.readouterr().out

    (run,) = records["run"]
    assert (run.project, run.display_name, run.run_group) == ("mine", "matrix_game_v0__matrl__3", "night")
    assert list(run.tags) == ["a", "b"]
    assert (run_folder / "wandb_id.txt").read_text() == f"{run.run_id}\n"
    config = items(run.config.update)
    assert (config["algo"], config["seed"], config["n_steps"], config["br_n_epochs"]) == ("matrl", 3, 100, 5)
    assert config["n_timesteps"] == 800 and config["machine"]["versions"]["torch"]

    assert [(metric.glob_name, metric.step_metric) for metric in records["metric"]] == [("*", "global_step")]
    history = [items(record.item) for record in records["history"]]
    assert [row["global_step"] for row in history] == [400, 800]
    for row in history:
        agents = {f"agent_{i}/metagame/rho" for i in (0, 1)}
        assert {"eval/mean_reward", "rollout/ep_rew_mean", "metagame/nash_conv", "metagame/fixed_point", *agents} <= set(row)
        assert isinstance(row["metagame/fixed_point"], str)
        table = json.loads((file.parent / "files" / row["metagame/payoffs/path"]).read_text())
        assert table["columns"] == ["agent_0", "agent_1", "probability", "payoff of agent_0", "payoff of agent_1"]
        # Rows begin with both agents' current policies, whose payoffs against each other are the reference, 0.
        assert table["data"][0][:2] == ["current", "current"] and table["data"][0][3:] == [0.0, 0.0]
        assert table["data"][0][2] == pytest.approx(row["agent_0/metagame/rho"] * row["agent_1/metagame/rho"])
        assert (file.parent / "files" / row["metagame/payoffs_heatmap/path"]).read_bytes().startswith(b"\x89PNG")
    assert (file.parent / "files" / history[-1]["eval/learning_curve/path"]).is_file()

    summary = {key: value for record in records["summary"] for key, value in items(record.update).items()}
    assert {"final/sampled_reward", "final/greedy_reward", "final/random_reward"} <= set(summary)
    # Rock-paper-scissors: what one agent gets, the other pays.
    assert summary["final/sampled_reward"] == 0.0
    assert summary["final/agent_0/random_reward"] == -summary["final/agent_1/random_reward"]
    assert summary["eval/best_mean_reward"] == max(row["eval/mean_reward"] for row in history)
    assert isinstance(summary["eval/mean_reward"], (int, float))  # what a sweep reads: a number, not a mapping of extremes

    (model,) = (artifact for artifact in records["artifact"] if artifact.type == "model")
    files = {entry.path: entry.local_path for entry in model.manifest.contents}
    names = ("matrix_game_v0.zip", "best_model.zip", "config.yml")
    assert files == {name: str(run_folder / name) for name in names}
    assert [record.exit_code for record in records["exit"]] == [0]


@pytest.mark.expensive
def test_off_policy_run_is_tracked_and_filmed(tmp_path, offline):
    small = ["n_envs:4", "buffer_size:400", "learning_starts:100", "batch_size:8", "policy_kwargs.net_arch:[8]"]
    words = ["--algo", "qmix", "--env", "checkers_v0", "-n", "800", "--eval-freq", "400", "--eval-episodes", "2"]
    words += ["--seed", "3", "--verbose", "0", "--track", "--record", "--progress", "-params", *small]
    assert main([*words, "-f", str(tmp_path / "logs")]) == 0
    run_folder = tmp_path / "logs" / "qmix" / "checkers_v0_1"
    file, records = read_run(offline, run_folder)
    (run,) = records["run"]
    config = items(run.config.update)
    assert (config["algo"], config["buffer_size"], config["exploration_fraction"]) == ("qmix", 400, 1.0)
    history = [items(record.item) for record in records["history"]]
    seen = {key for row in history for key in row}
    assert {"eval/mean_reward", "train/td_error_abs", "train/q_tot", "rollout/exploration_rate", "train/n_updates"} <= seen
    assert not any("metagame" in key for key in seen)
    assert (file.parent / "files" / history[-1]["video/path"]).is_file()
    (model,) = (artifact for artifact in records["artifact"] if artifact.type == "model")
    assert {entry.path for entry in model.manifest.contents} == {"checkers_v0.zip", "best_model.zip", "config.yml"}


@pytest.mark.e2e
@pytest.mark.parametrize("own", [False, True])
def test_files_are_where_the_user_wants_them(tmp_path, offline, monkeypatch, capsys, own):
    if own:
        (tmp_path / "mine").mkdir()
        monkeypatch.setenv("WANDB_DIR", str(tmp_path / "mine"))
    assert main(["--env", "matrix_game_v0", "-n", "400", *QUICK, "--track", "-f", str(tmp_path / "logs")]) == 0
    run_folder = tmp_path / "logs" / "matrl" / "matrix_game_v0_1"
    home, other = (tmp_path / "mine", run_folder) if own else (run_folder, tmp_path / "mine")
    file, records = read_run(offline, home)
    assert not (other / "wandb").exists() and f"wandb sync {file.parent}" in capsys.readouterr().out
    assert len(records["history"]) == 1


@pytest.mark.expensive
def test_video_is_sent(tmp_path, offline):
    pytest.importorskip("imageio_ffmpeg")
    words = ["--env", "checkers_v0", "-n", "400", *QUICK, "--track", "--record", "-f", str(tmp_path / "logs")]
    assert main(words) == 0
    run_folder = tmp_path / "logs" / "matrl" / "checkers_v0_1"
    file, records = read_run(offline, run_folder)
    row = items(records["history"][-1].item)
    assert (file.parent / "files" / row["video/path"]).read_bytes() == (run_folder / "video.mp4").read_bytes()


@pytest.mark.e2e
def test_run_that_wandb_agent_starts_is_part_of_its_sweep(tmp_path, offline, monkeypatch):
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    parameters = {
        "learning_rate": 0.5,
        "n_epochs": 2,
        "policy_kwargs.net_arch": [8, 8],
        "target_kl": None,
        "env": "matrix_game_v0",
    }
    values = {name: {"value": value} for name, value in parameters.items()}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"wandb_version": 1, **values}))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep7")
    monkeypatch.setenv("WANDB_RUN_ID", "run7")
    monkeypatch.setenv("WANDB_PROJECT", "of-the-sweep")
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", str(tmp_path / "config.yaml"))
    words = create_sweep_command_args({"args": values})["args"]
    assert main([*words, "-n", "400", *QUICK, "-f", str(tmp_path / "logs")]) == 0
    _, records = read_run(offline, tmp_path / "logs" / "matrl" / "matrix_game_v0_1")
    (run,) = records["run"]
    assert (run.run_id, run.sweep_id, run.project) == ("run7", "sweep7", "of-the-sweep")
    config = items(run.config.update)
    assert config["policy_kwargs"]["net_arch"] == config["policy_kwargs.net_arch"] == [8, 8]
    assert (config["learning_rate"], config["n_epochs"], config["target_kl"]) == (0.5, 2, None)
    (row,) = [items(record.item) for record in records["history"]]
    assert row["global_step"] == 400 and math.isfinite(row["eval/mean_reward"])


@pytest.mark.e2e
def test_run_ended_by_a_signal_keeps_its_model_and_says_so(tmp_path, offline, monkeypatch):
    words = ["--env", "tests.evaluation.worlds:InterruptsItself", "-n", "1e9", *QUICK, "--track", "-f", str(tmp_path / "logs")]
    monkeypatch.setattr(InterruptsItself, "steps", 0)
    assert main(words) == 130
    _, records = read_run(offline, tmp_path / "logs" / "matrl" / "tests.evaluation.worlds-InterruptsItself_1")
    (model,) = records["artifact"]
    assert "tests.evaluation.worlds-InterruptsItself.zip" in [entry.path for entry in model.manifest.contents]
    assert [record.exit_code for record in records["exit"]] == [130]


class StandIn:
    """W&B's run, as far as the zoo uses it; keeps what it is told."""

    def __init__(self, folder, **options):
        self.options, self.told = options, []
        self.id, self.dir, self.summary = options["id"] or "abc123", str(folder / "files"), {}

    def __getattr__(self, name):
        return lambda *arguments, **options: self.told.append((name, options))


@pytest.mark.e2e
def test_resumed_run_is_the_same_one_for_wandb(tmp_path, offline, monkeypatch):
    runs = []

    def init(**options):
        runs.append(StandIn(tmp_path, **options))
        return runs[-1]

    monkeypatch.setattr(offline, "init", init)
    monkeypatch.setattr(InterruptsItself, "steps", 0)
    words = ["--env", "tests.evaluation.worlds:InterruptsItself", "-n", "400", *QUICK, "--track"]
    assert main([*words, "--run-dir", str(tmp_path / "run")]) == 130
    assert main(["--resume", str(tmp_path / "run"), "--trust"]) == 0
    assert (tmp_path / "run" / "wandb_id.txt").read_text() == "abc123\n"
    assert [(run.options["id"], run.options["resume"]) for run in runs] == [(None, None), ("abc123", "allow")]
    stopped, resumed = ([name for name, _ in run.told] for run in runs)
    assert stopped.count("mark_preempting") == 1 and "mark_preempting" not in resumed
    # Said before the run ends, or it would count as failed.
    assert stopped.index("mark_preempting") < stopped.index("finish")
    assert [options for run in runs for name, options in run.told if name == "finish"] == [
        {"exit_code": 130},
        {"exit_code": 0},
    ]


def test_failure_to_start_leaves_no_folder(tmp_path, monkeypatch, capsys):
    wandb = pytest.importorskip("wandb")

    def refuse(**kwargs):
        raise wandb.errors.CommError("no such server")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(SystemExit):
        main(["--env", "matrix_game_v0", "-n", "100", "--track", "-f", str(tmp_path)])
    assert "Weights & Biases could not start: no such server; WANDB_MODE=offline works" in capsys.readouterr().err
    assert list((tmp_path / "matrl").iterdir()) == []
