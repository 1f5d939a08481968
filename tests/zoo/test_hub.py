"""Trained agents on the hub: huggingface_hub itself, which talks to a hub in memory."""

from __future__ import annotations

import importlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from sb3_matrl.common.loading import load_model
from sb3_matrl.zoo import load_from_hub, push_to_hub
from sb3_matrl.zoo.hub import hub_client
from sb3_matrl.zoo.hub.hub_options import repository_id
from sb3_matrl.zoo.train import main as train

pytest.importorskip("huggingface_hub")
from tests.zoo.hub_server import LocalHub

SMALL = ["-params", "n_envs:4", "n_steps:25", "batch_size:100", "n_epochs:1", "br_n_epochs:1", "policy_kwargs.net_arch:[8]"]
QUICK = ["--eval-freq", "100", "--eval-episodes", "3", "--verbose", "0", "--device", "cpu", "--save-freq", "100"]
NAME = "somebody/matrl-checkers_v0"
SENT = {
    "README.md",
    "args.yml",
    "checkers_v0.zip",
    "command.txt",
    "config.yml",
    "evaluations.npz",
    "learning_curve.png",
    "references.json",
}


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    words = ["-f", str(folder), "--env", "checkers_v0", "-n", "200", "--env-kwargs", "max_cycles:6", "--seed", "1"]
    assert train([*QUICK, *SMALL, *words]) == 0
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    monkeypatch.setenv("HF_TOKEN", "made_up")
    with LocalHub().in_use() as hub:
        yield hub


@pytest.fixture
def sent(logs: Path, hub: LocalHub, capsys: pytest.CaptureFixture[str]) -> LocalHub:
    assert push_to_hub.main(["-f", str(logs), "--algo", "matrl", "--env", "checkers_v0", "-orga", "somebody"]) == 0
    capsys.readouterr()
    return hub


def error_of(capsys: pytest.CaptureFixture[str], main: object, *words: str) -> str:
    with pytest.raises(SystemExit) as exit_info:
        main(words)  # type: ignore[operator]
    assert exit_info.value.code == 2
    *_, message = capsys.readouterr().err.splitlines()  # after the progress bars of huggingface_hub
    assert message.startswith("error: ")
    return message


def card_and_metadata(text: str) -> tuple[str, dict[str, object]]:
    _, metadata, card = text.split("---\n", 2)
    return card, yaml.safe_load(metadata)


# ---------------------------------------------------------------- sending


def test_a_run_is_sent_with_its_files(logs: Path, sent: LocalHub) -> None:
    repository = sent.repositories[NAME]
    assert set(repository.files) == SENT | {"progress.csv"} and not repository.private
    run = logs / "matrl/checkers_v0_1"
    for name in SENT - {"README.md"}:
        assert repository.files[name] == (run / name).read_bytes()
    assert repository.messages == ["Add trained agents"]


def test_card_states_the_returns_of_the_last_evaluation(logs: Path, sent: LocalHub) -> None:
    card, metadata = card_and_metadata(sent.repositories[NAME].files["README.md"].decode())
    with np.load(logs / "matrl/checkers_v0_1/evaluations.npz") as evaluations:
        team, agents = evaluations["results"][-1], evaluations["agent_returns_greedy"][-1]
    shown = f"{team.mean():.2f} +/- {team.std():.2f}"
    assert re.search(rf"\| sampled +\| +team \| +{re.escape(shown)} \|", card)
    greedy = f"{agents[:, 1].mean():.2f} +/- {agents[:, 1].std():.2f}"
    assert re.search(rf"\| greedy +\| +agent_1 \| +{re.escape(greedy)} \|", card)
    entry = metadata["model-index"][0]["results"][0]  # type: ignore[index]
    assert entry["dataset"]["name"] == "checkers_v0" and entry["metrics"][0]["value"] == shown
    assert metadata["library_name"] == "sb3-matrl" and {"matrl", "checkers_v0"} <= set(metadata["tags"])  # type: ignore[arg-type]
    assert "200 steps" in card and "](learning_curve.png)" in card and "max_cycles: 6" in card and "| torch |" in card
    assert "sb3-matrl load-from-hub -orga somebody --repo-name matrl-checkers_v0" in card


def test_a_chosen_model_is_sent_as_the_last_one(logs: Path, hub: LocalHub, capsys: pytest.CaptureFixture[str]) -> None:
    run = logs / "matrl/checkers_v0_1"
    words = ["--run-dir", str(run), "--load-checkpoint", "100", "-orga", "somebody", "-name", "My agents!", "-m", "First"]
    assert push_to_hub.main([*words, "--private"]) == 0
    repository = hub.repositories["somebody/My-agents"]
    assert repository.private and repository.messages == ["First"]
    (checkpoint,) = (path for path in (run / "checkpoints").iterdir() if "100" in path.name)
    assert repository.files["checkers_v0.zip"] == checkpoint.read_bytes()
    card, _ = card_and_metadata(repository.files["README.md"].decode())
    assert "after 100 steps" in card
    assert "https://huggingface.co/somebody/My-agents/commit/" in capsys.readouterr().out


def test_files_can_be_looked_at_first(logs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(logs / "matrl/checkers_v0_1", tmp_path / "run")
    (tmp_path / "run/video.mp4").write_bytes(b"frames")
    (tmp_path / "run/evaluations.npz").unlink()
    words = ["--run-dir", str(tmp_path / "run"), "-orga", "somebody", "--out", str(tmp_path / "card")]
    with LocalHub(reachable=False).in_use():
        assert push_to_hub.main(words) == 0
    assert "nothing was sent" in capsys.readouterr().out
    names = {path.name for path in (tmp_path / "card").iterdir()}
    assert names == (SENT | {"progress.csv", "replay.mp4"}) - {"evaluations.npz"}
    card, metadata = card_and_metadata((tmp_path / "card/README.md").read_text())
    assert "The run has no evaluation." in card and "replay.mp4" in card and "model-index" not in metadata
    assert "is not empty" in error_of(capsys, push_to_hub.main, *words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--algo", "ippo"], "has no run of ippo on checkers_v0"),
        (["--load-checkpoint", "7"], "has no checkpoints"),
        (["--run-dir", "nowhere", "--env", "checkers_v0"], "leave --algo and --env out"),
        (["--run-dir", "nowhere"], "there is no run folder nowhere"),
    ],
)
def test_mistakes_in_sending(
    logs: Path, hub: LocalHub, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert message in error_of(capsys, push_to_hub.main, "-f", str(logs), "-orga", "somebody", *words)
    assert hub.repositories == {}


def test_card_of_competing_agents_has_their_returns_and_no_team(logs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(logs / "matrl/checkers_v0_1", run)
    with np.load(run / "evaluations.npz") as file:
        arrays = dict(file)
    for ending in ("", "_greedy"):
        returns = np.random.default_rng(0).normal(size=arrays[f"results{ending}"].shape)
        arrays[f"agent_returns{ending}"] = np.stack([returns, -returns], axis=2)
        arrays[f"results{ending}"] = np.zeros_like(returns)
    arrays["agents"] = np.array(["a|b", "_c_ <d>"])
    np.savez(run / "evaluations.npz", **arrays)
    assert push_to_hub.main(["--run-dir", str(run), "-orga", "somebody", "--out", str(tmp_path / "card")]) == 0
    card, metadata = card_and_metadata((tmp_path / "card/README.md").read_text())
    mean, std = arrays["agent_returns"][-1, :, 0].mean(), arrays["agent_returns"][-1, :, 0].std()
    assert re.search(rf"\| sampled +\| +a\\\|b \| +{re.escape(f'{mean:.2f} +/- {std:.2f}')} \|", card)
    assert r" \_c\_ \<d> |" in card and "team" not in card and "the agents compete" in card
    metrics = metadata["model-index"][0]["results"][0]["metrics"]  # type: ignore[index]
    assert [metric["name"] for metric in metrics] == [
        f"mean_reward of {agent}, {policy} actions" for policy in ("sampled", "greedy") for agent in ("a|b", "_c_ <d>")
    ]
    assert metrics[0]["value"] == f"{mean:.2f} +/- {std:.2f}"


# ---------------------------------------------------------------- fetching


@pytest.mark.e2e
def test_a_fetched_run_is_the_one_that_was_sent(
    logs: Path, sent: LocalHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--algo", "matrl", "--env", "checkers_v0", "-orga", "somebody", "-f", str(tmp_path)]
    assert load_from_hub.main(words) == load_from_hub.main(words) == 0
    assert sorted(path.name for path in (tmp_path / "matrl").iterdir()) == ["checkers_v0_1", "checkers_v0_2"]
    assert list(tmp_path.glob(".hub-*")) == []
    run, home = logs / "matrl/checkers_v0_1", tmp_path / "matrl/checkers_v0_2"
    assert {path.name for path in home.iterdir()} == SENT | {"progress.csv"}
    first, second = load_model(run / "checkers_v0.zip"), load_model(home / "checkers_v0.zip")
    for mine, other in zip(first.policy.parameters(), second.policy.parameters(), strict=True):
        assert mine.equal(other)
    assert f"play: sb3-matrl enjoy --run-dir {home}" in capsys.readouterr().out


def test_a_video_comes_back_under_its_own_name(sent: LocalHub, tmp_path: Path) -> None:
    sent.repositories[NAME].files["replay.mp4"] = b"frames"
    assert load_from_hub.main(["-orga", "somebody", "-f", str(tmp_path)]) == 0
    assert (tmp_path / "matrl/checkers_v0_1/video.mp4").read_bytes() == b"frames"


def test_other_files_of_a_repository_are_not_fetched(sent: LocalHub, tmp_path: Path) -> None:
    files = sent.repositories[NAME].files
    files |= {"setup.py": b"raise SystemExit", "checkpoints/checkpoint_9.zip": b"", "other.zip": b""}
    assert load_from_hub.main(["-orga", "somebody", "-f", str(tmp_path)]) == 0
    assert {path.name for path in (tmp_path / "matrl/checkers_v0_1").rglob("*")} == SENT | {"progress.csv"}


ARGUMENTS = b"algo: ../../outside\nenv: checkers_v0\n"


@pytest.mark.parametrize(
    ("name", "content", "words", "message"),
    [
        ("args.yml", None, [], f"{NAME} has no args.yml: it was not made by push-to-hub"),
        ("args.yml", ARGUMENTS, [], "algorithm '../../outside' is unknown"),
        ("args.yml", b"!!python/name:os.system", [], "is not read"),
        ("checkers_v0.zip", None, [], "has no checkers_v0.zip"),
        ("checkers_v0.zip", b"PK", [], f"{NAME}/checkers_v0.zip"),
        (
            "command.txt",
            None,
            ["--algo", "ippo", "-name", "matrl-checkers_v0"],
            "not with --algo ippo",
        ),
    ],
)
def test_repositories_that_are_no_runs_leave_nothing(
    sent: LocalHub,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: bytes | None,
    words: list[str],
    message: str,
) -> None:
    files = sent.repositories[NAME].files
    del files[name]
    files |= {} if content is None else {name: content}
    assert message in error_of(capsys, load_from_hub.main, "-orga", "somebody", "-f", str(tmp_path), *words)
    assert list(tmp_path.iterdir()) == []


def test_errors_of_the_hub_are_one_line(hub: LocalHub, logs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["-orga", "nobody", "-f", str(tmp_path)]
    assert "nobody/matrl-checkers_v0 was not fetched: " in error_of(capsys, load_from_hub.main, *words)
    hub.reachable = False
    assert "nobody/matrl-checkers_v0 was not fetched: " in error_of(capsys, load_from_hub.main, *words)
    message = error_of(capsys, push_to_hub.main, "-orga", "nobody", "-f", str(logs))
    assert "nobody/matrl-checkers_v0 was not sent: the hub cannot be reached" in message


def test_the_package_is_named_if_it_is_missing(
    logs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImportError, match=r"pip install 'sb3-matrl\[hub\]'"):
        hub_client.import_hub()


@pytest.mark.parametrize(
    ("name", "env_id", "expected"),
    [
        (None, "checkers_v0", "me/matrl-checkers_v0"),
        (None, "pettingzoo:sisl/multiwalker-v9", "me/matrl-pettingzoo-sisl-multiwalker-v9"),
        (None, "humanoid_9|8", "me/matrl-humanoid_9-8"),
        ("..a--b..", "checkers_v0", "me/a-b"),
    ],
)
def test_names_of_repositories_are_allowed_by_the_hub(name: str | None, env_id: str, expected: str) -> None:
    from huggingface_hub.utils import validate_repo_id

    made = repository_id("me", name, "matrl", env_id)
    validate_repo_id(made)
    assert made == expected
