import importlib.util
import struct

import pytest

from zoo.tracking import require_wandb, tracking_mode
from zoo.train import main

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
    import json

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


def test_offline_run_holds_config_history_and_summary(tmp_path, monkeypatch, capsys):
    wandb = pytest.importorskip("wandb")
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    words = [
        "--env",
        "matrix_game_v0",
        "-n",
        "800",
        "--seed",
        "3",
        "--eval-freq",
        "400",
        "--eval-episodes",
        "2",
        "--verbose",
        "0",
    ]
    words += ["-params", "n_envs:4", "n_steps:100", "batch_size:400", "--track", "--wandb-project-name", "mine"]
    assert main([*words, "-f", str(tmp_path / "logs")]) == 0
    run_folder = tmp_path / "logs" / "matrl" / "matrix_game_v0_1"
    (file,) = run_folder.glob("wandb/offline-run-*/*.wandb")
    assert f"send it with: wandb sync {file.parent}" in capsys.readouterr().out
    wandb.teardown()  # as at the end of the process: only then is the file sure to be whole
    records = list(read_records(file))
    (run,) = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    assert (run.project, run.display_name) == ("mine", "matrix_game_v0__matrl__3")
    config = items(run.config.update)
    assert (config["algo"], config["seed"], config["n_steps"], config["br_n_epochs"]) == ("matrl", 3, 100, 5)
    history = [items(record.history.item) for record in records if record.WhichOneof("record_type") == "history"]
    assert [row["global_step"] for row in history] == [400, 800]
    for row in history:
        assert {"eval/mean_reward", "rollout/ep_rew_mean", "metagame/nash_conv"} <= set(row)
    summary = {}
    for record in records:
        if record.WhichOneof("record_type") == "summary":
            summary |= items(record.summary.update)
    assert {"final/sampled_reward", "final/greedy_reward", "final/random_reward"} <= set(summary)
    (end,) = [record.exit for record in records if record.WhichOneof("record_type") == "exit"]
    assert end.exit_code == 0


def test_failure_to_start_leaves_no_folder(tmp_path, monkeypatch, capsys):
    wandb = pytest.importorskip("wandb")

    def refuse(**kwargs):
        raise wandb.errors.CommError("no such server")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(SystemExit):
        main(["--env", "matrix_game_v0", "-n", "100", "--track", "-f", str(tmp_path)])
    assert "Weights & Biases could not start: no such server; WANDB_MODE=offline works" in capsys.readouterr().err
    assert list((tmp_path / "matrl").iterdir()) == []
