"""Off-policy algorithms on the command lines: train, resume, continue, play, report, diagnose."""

from __future__ import annotations

import csv
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from stable_baselines3 import DDPG, DQN
from stable_baselines3.common.callbacks import BaseCallback

from benchmarks.kill_test import Case, differences, run_reference, trial
from sb3_matrl import MADDPG, QMIX, VDN, load_model
from sb3_matrl.common.callbacks import ResumableCheckpointCallback
from sb3_matrl.evaluation import evaluate_policy
from sb3_matrl.files.checkpoints import buffer_of, buffers, latest_checkpoint
from sb3_matrl.off_policy.off_policy_algorithm import OffPolicyMultiAgent
from sb3_matrl.zoo import doctor, enjoy, report
from sb3_matrl.zoo.common.run_folder import RunFolder
from sb3_matrl.zoo.train import main
from tests.algorithms import OFF_POLICY
from tests.zoo.worlds import SavedFaulty

GAME = "matrix_game_v0"
CONTINUOUS = "tests.worlds.continuous_games:ContinuousGame"
SMALL = {"buffer_size": 400, "learning_starts": 40, "batch_size": 8, "train_freq": 3, "n_envs": 4}
NETWORKS = {"policy_kwargs.net_arch": [8]}
QUICK = ["--eval-freq", "60", "--eval-episodes", "2", "--verbose", "0", "--device", "cpu", "--seed", "3", "--save-freq", "50"]


def train(folder: Path, algorithm: str = "qmix", env: str = GAME, *words: str, code: int = 0, **changes: Any) -> RunFolder:
    """Train with small networks; ``None`` leaves a hyper-parameter to the conf file, or to a model that is trained further."""
    values = {**SMALL, **NETWORKS, **changes}
    pairs = [f"{name}:{value}" for name, value in values.items() if value is not None]
    given = ["--algo", algorithm, "--env", env, "-n", "120", "--run-dir", str(folder), *QUICK, "-params", *pairs]
    assert main([*given, *words]) == code
    return RunFolder(folder, env)


def continue_training(folder: Path, source: Path, algorithm: str = "qmix", **changes: Any) -> RunFolder:
    """Train a model further, which has its networks."""
    unchanged: dict[str, Any] = dict.fromkeys(NETWORKS)
    return train(folder, algorithm, GAME, "-i", str(source), "--trust", **unchanged, **changes)


def rows(run: RunFolder) -> list[dict[str, str]]:
    with run.progress.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of QMIX that was never stopped, which is only read."""
    return train(tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture
def stopped(tmp_path: Path, whole: RunFolder) -> RunFolder:
    """A copy of the run as if it had been killed after 120 steps, when its last checkpoint was that of 108."""
    shutil.copytree(whole.path, tmp_path / "run")
    run = RunFolder(tmp_path / "run", GAME)
    for path in (run.learning_curve, run.last_model, run.checkpoint(120), buffer_of(run.checkpoint(120))):
        assert path is not None
        path.unlink()
    return run


# ---------------------------------------------------------------- training


@pytest.mark.cases(quick=["comix"], e2e=["qtran", "maddpg"], rest="expensive")
@pytest.mark.parametrize("algorithm", OFF_POLICY)
def test_a_run_leaves_everything_behind(tmp_path: Path, algorithm: str) -> None:
    env = CONTINUOUS if algorithm in ("iddpg", "comix") else GAME
    run = train(tmp_path / "run", algorithm, env)
    # Blocks of 12 steps end at 12, 24, ...; multiples of 50 are passed at 60 and 108, those of 60 reached at 60 and 120.
    assert run.checkpoint_steps() == [60, 108, 120]
    assert sorted(buffers(run.checkpoints).values()) == [108, 120]
    assert run.is_finished and run.best_model.is_file() and run.last_model.is_file()
    model = load_model(run.last_model)
    assert isinstance(model, OffPolicyMultiAgent) and type(model).__name__.lower() == algorithm
    assert (model.num_timesteps, model._n_updates) == (120, 7 * model.gradient_steps)
    with np.load(run.evaluations) as evaluations:
        assert evaluations["timesteps"].tolist() == [60, 120]
    logged = {key: value for row in rows(run) for key, value in row.items() if value}
    assert {"train/td_error_abs", "train/grad_norm", "time/fps", "eval/mean_reward", "rollout/ep_rew_mean"} <= logged.keys()
    assert int(float(logged["train/n_updates"])) == model._n_updates
    config = yaml.safe_load(run.config.read_text())[env]
    assert config["buffer_size"] == 400 and "exploration_steps" not in config
    assert ("exploration_fraction" in config) == ("rollout/exploration_rate" in logged)


@pytest.mark.parametrize(
    ("algorithm", "env", "message"),
    [
        ("qmix", CONTINUOUS, "takes Discrete actions, not Box"),
        ("iql", CONTINUOUS, "takes Discrete actions, not Box"),
        ("iddpg", GAME, "takes Box actions, not Discrete"),
        ("comix", GAME, "takes Box actions, not Discrete"),
        ("qmix", "pettingzoo:classic/connect_four-v3", "take turns"),
    ],
)
def test_unsuitable_worlds_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], algorithm: str, env: str, message: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        train(tmp_path / "run", algorithm, env)
    errors = capsys.readouterr().err
    assert stop.value.code == 2 and message in errors and errors.startswith("error: ") and errors.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_replay_buffer_that_does_not_fit_is_refused_before_the_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        train(tmp_path / "run", buffer_size="1e13")
    errors = capsys.readouterr().err
    assert stop.value.code == 2 and re.search(r"\d[\d,.]* (GB|TB|GiB|bytes)", errors) and errors.count("\n") == 1
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- resuming


@pytest.mark.e2e
def test_a_killed_run_is_resumed_exactly(stopped: RunFolder, whole: RunFolder) -> None:
    assert main(["--resume", str(stopped.path)]) == 0
    assert differences(stopped, whole) == []
    assert len(buffers(stopped.checkpoints)) == 2, "the latest two; none is left over"


@pytest.mark.cases(e2e=["21"], rest="expensive")
@pytest.mark.parametrize("step", range(20, 24))
def test_a_signal_at_any_step_of_a_block_costs_nothing(
    tmp_path: Path, whole: RunFolder, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    class Interrupt(BaseCallback):
        """Sends SIGTERM at a step, before or after the callback that looks for signals."""

        def _on_step(self) -> bool:
            if self.n_calls == step:
                signal.raise_signal(signal.SIGTERM)
            return True

    original = OffPolicyMultiAgent._init_callback

    def with_interrupt(model: OffPolicyMultiAgent, callback: list[BaseCallback], *rest: Any) -> BaseCallback:
        return original(model, [*callback, Interrupt()], *rest)

    with monkeypatch.context() as patch:
        patch.setattr(OffPolicyMultiAgent, "_init_callback", with_interrupt)
        run = train(tmp_path / "run", code=143)
    assert not run.is_finished and run.checkpoint_steps()[-1] == 4 * step + 4
    assert main(["--resume", str(run.path)]) == 0
    assert differences(run, whole) == []


@pytest.mark.cases(e2e=["2"], rest="expensive")
@pytest.mark.parametrize("at_evaluation", [1, 2, 3, 4])  # sampled and greedy at 60 steps, and at the end
def test_an_evaluation_that_was_interrupted_is_repeated(
    tmp_path: Path, whole: RunFolder, monkeypatch: pytest.MonkeyPatch, at_evaluation: int
) -> None:
    seen: list[int] = []

    def interrupted(model: Any, *arguments: Any) -> Any:
        seen.append(model.num_timesteps)
        if len(seen) == at_evaluation:
            signal.raise_signal(signal.SIGINT)
        return evaluate_policy(model, *arguments)

    monkeypatch.setattr("sb3_matrl.evaluation.eval_callback.evaluate_policy", interrupted)
    run = train(tmp_path / "run", code=130)
    assert run.checkpoint_steps()[-1] == seen[-1] == (60 if at_evaluation < 3 else 120)
    assert main(["--resume", str(run.path)]) == 0
    assert differences(run, whole) == []


@pytest.mark.cases(e2e=["cut"], rest="expensive")
@pytest.mark.parametrize("damage", ["missing", "cut", "changed"])
def test_a_damaged_replay_buffer_is_told_and_the_checkpoint_before_is_taken(
    stopped: RunFolder, whole: RunFolder, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    shutil.copy(whole.checkpoint(120), stopped.checkpoint(120))
    original = buffer_of(whole.checkpoint(120))
    assert original is not None
    content = original.read_bytes()
    copy = stopped.checkpoints / original.name
    if damage != "missing":
        half = len(content) // 2
        copy.write_bytes(content[:half] if damage == "cut" else content[:half] + b"?" + content[half + 1 :])
    assert main(["--resume", str(stopped.path)]) == 0
    errors = capsys.readouterr().err
    assert errors.startswith("warning: ") and copy.name in errors and "; using rl_model_108_steps.zip instead" in errors
    assert differences(stopped, whole) == []


@pytest.mark.e2e
def test_a_checkpoint_without_any_usable_buffer_is_not_resumed_silently(
    stopped: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in buffers(stopped.checkpoints):
        path.unlink()
    with pytest.raises(SystemExit):
        main(["--resume", str(stopped.path)])
    errors = capsys.readouterr().err
    assert "no checkpoint in" in errors and "is missing" in errors and errors.count("\n") == 1


@pytest.mark.e2e
def test_a_kill_between_both_files_leaves_the_older_pair(tmp_path: Path) -> None:
    """The buffer of the next checkpoint has been written, its model has not."""

    class Killed(BaseException):
        pass

    class Writes(QMIX):
        dies = False

        def save(self, *arguments: Any) -> None:  # type: ignore[override]
            if self.dies:
                raise Killed
            super().save(*arguments)

    small = {"n_envs": 2, "buffer_size": 100, "learning_starts": 10, "policy_kwargs": {"net_arch": [4]}, "seed": 0}
    model = Writes("MlpPolicy", GAME, device="cpu", **small)
    checkpoints = ResumableCheckpointCallback(tmp_path, save_freq=-1, keep=3)
    model.learn(40, checkpoints)
    first = buffer_of(latest_checkpoint(tmp_path))
    model.dies = True
    with pytest.raises(Killed):
        model.learn(40, checkpoints, reset_num_timesteps=False)
    assert sorted(buffers(tmp_path).values()) == [40, 80]
    assert latest_checkpoint(tmp_path).name == "rl_model_40_steps.zip"
    assert buffer_of(latest_checkpoint(tmp_path)) == first
    # Saved again at the same step: the model refers to the new buffer, and the one without a model is removed.
    model.dies = False
    checkpoints.save()
    latest = buffer_of(latest_checkpoint(tmp_path))
    assert set(buffers(tmp_path)) == {first, latest} and latest is not None and "_80_" in latest.name


def test_a_full_disk_leaves_no_buffer_without_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = VDN("MlpPolicy", GAME, buffer_size=100, seed=0, device="cpu").learn(8)
    checkpoints = ResumableCheckpointCallback(tmp_path, save_freq=-1)
    checkpoints.init_callback(model)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model, "save", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.expensive
@pytest.mark.parametrize("algorithm", ["qmix", "maddpg"])
def test_a_killed_process_is_resumed_bit_for_bit(tmp_path: Path, algorithm: str) -> None:
    case = Case("checkers_v0", "batched", 1000, algo=algorithm)
    seconds = run_reference(case, RunFolder(tmp_path / "whole", case.env))
    task = {**vars(case), "signal": "kill", "delay": 0.3 * seconds, "reference": str(tmp_path / "whole")}
    result = trial(task)
    assert (result["exit_code"], result["differences"]) == (-signal.SIGKILL, [])


# ---------------------------------------------------------------- failures


@pytest.mark.cases(quick=["Faulty"])
@pytest.mark.parametrize("world", ["Faulty", "SavedFaulty"])
def test_a_fault_of_the_environment_ends_the_run_with_a_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, world: str
) -> None:
    monkeypatch.setattr(SavedFaulty, "faults", 1)
    env = f"tests.zoo.worlds:{world}"
    words = ["--env-kwargs", "fault:exception", "-n", "400", "--vec-env", "dummy", "--eval-freq", "-1"]
    run = train(tmp_path / "run", "vdn", env, *words, code=1)
    errors = capsys.readouterr().err
    assert "ZeroDivisionError: a bug in the world" in errors and "resume with: " in errors and errors.count("\n") == 1
    # The 60th step of a copy is the last one that it does not take.
    assert run.checkpoint_steps()[-1] == 236
    model = load_model(latest_checkpoint(run.checkpoints))
    assert model.num_timesteps == 236
    if world == "SavedFaulty":
        assert main(["--resume", str(run.path), "--env", env]) == 0, "with new episodes"
        assert load_model(run.last_model).num_timesteps == 408


@pytest.mark.e2e
def test_numbers_that_are_not_finite_end_the_run_or_are_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wild: dict[str, Any] = {"learning_rate": 1e30, "max_grad_norm": 1e30}
    run = train(tmp_path / "stop", "vdn", code=1, **wild)
    errors = capsys.readouterr().err
    assert errors.startswith("error: gradient step ") and "resume with" in errors and run.checkpoint_steps()
    run = train(tmp_path / "skip", "vdn", on_nan="skip", **wild)
    assert max(float(row["train/skipped_updates"] or 0) for row in rows(run)) > 0


# ---------------------------------------------------------------- models that are trained further


@pytest.mark.e2e
def test_a_model_is_trained_further_with_its_replay_buffer(
    tmp_path: Path, whole: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    run = continue_training(tmp_path / "more", whole.last_model)
    model = load_model(run.last_model)
    model.load_replay_buffer(buffer_of(run.last_model))  # type: ignore[attr-defined]
    assert model.num_timesteps == 240 and model.replay_buffer.added == 60, "30 steps of 4 copies each"  # type: ignore[attr-defined]
    assert capsys.readouterr().err == ""


@pytest.mark.e2e
def test_a_model_without_its_replay_buffer_begins_with_an_empty_one(
    tmp_path: Path, whole: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(whole.last_model, tmp_path / "alone.zip")
    for source, buffer_size, reason in (
        (tmp_path / "alone.zip", 400, "is missing"),
        (whole.best_model, 400, "was saved without one"),
        (whole.last_model, 200, "rows per copy"),
    ):
        run = continue_training(tmp_path / reason, source, buffer_size=buffer_size)
        errors = capsys.readouterr().err
        assert errors.startswith("warning: the training begins with an empty replay buffer: ") and reason in errors
        model = load_model(run.last_model)
        model.load_replay_buffer(buffer_of(run.last_model))  # type: ignore[attr-defined]
        assert model.replay_buffer.added == 30  # type: ignore[attr-defined]


def test_networks_of_the_file_cannot_be_changed(tmp_path: Path, whole: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--algo", "qmix", "--env", GAME, "-i", str(whole.last_model), "--run-dir", str(tmp_path / "run")]
    with pytest.raises(SystemExit):
        main([*given, "--mixing_embed_dim=8"])
    assert "mixing_embed_dim cannot be changed" in capsys.readouterr().err


@pytest.mark.e2e
@pytest.mark.parametrize("algorithm", ["iql", "vdn"])
def test_all_agents_can_begin_as_an_agent_of_plain_sb3(tmp_path: Path, whole: RunFolder, algorithm: str) -> None:
    agent = QMIX.load(whole.last_model, device="cpu").agents["agent_0"]
    agent.save(tmp_path / "dqn.zip")
    run = continue_training(tmp_path / "run", tmp_path / "dqn.zip", algorithm, learning_rate=0)
    model = load_model(run.last_model, device="cpu")
    learned = agent.policy.q_net.state_dict()
    for name in model.possible_agents:
        own = model.agents[name]
        assert isinstance(own, DQN) and all(bool((own.policy.q_net.state_dict()[k] == learned[k]).all()) for k in learned)


def test_an_agent_of_another_kind_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = MADDPG("MlpPolicy", CONTINUOUS, policy_kwargs={"net_arch": [8]}, buffer_size=100, device="cpu")
    model.agents["agent_0"].save(tmp_path / "ddpg.zip")
    for algorithm in ("iql", "matrl"):
        given = ["--algo", algorithm, "--env", GAME, "-i", str(tmp_path / "ddpg.zip"), "--trust"]
        with pytest.raises(SystemExit):
            main([*given, "--run-dir", str(tmp_path / "run")])
        errors = capsys.readouterr().err
        assert "its policy is a TD3Policy, expected one of " in errors and errors.count("\n") == 1


# ---------------------------------------------------------------- playing, reports, diagnoses


def test_play_with_guests(tmp_path: Path, whole: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert enjoy.main(["--run-dir", str(whole.path), "--n-episodes", "4"]) == 0
    load_model(whole.last_model, device="cpu").agents["agent_1"].save(tmp_path / "dqn.zip")
    guest = ["--agent", f"agent_0={tmp_path / 'dqn.zip'}", "--trust"]
    assert enjoy.main(["--run-dir", str(whole.path), "--n-episodes", "4", "--load-last-checkpoint", *guest]) == 0
    assert "dqn.zip" in capsys.readouterr().out


@pytest.mark.e2e
def test_the_report_shows_values_and_exploration(whole: RunFolder, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    assert report.main([str(whole.path), "--no-frames", "--out", str(path)]) == 0
    page = path.read_text(encoding="utf-8")
    titles = re.findall("<figcaption>([^<]*)", page)
    assert {"TD error", "Losses", "Value of the team", "Exploration rate", "Norm of the gradients"} <= set(titles)
    assert "Meta-game" not in page and "Greedy agreement" not in page


@pytest.mark.expensive
def test_reports_compare_off_and_on_policy_runs(whole: RunFolder, tmp_path: Path) -> None:
    other = tmp_path / "ippo"
    small = ["-params", "n_envs:4", "n_steps:25", "batch_size:100", "n_epochs:1", "policy_kwargs.net_arch:[8]"]
    assert main(["--algo", "ippo", "--env", GAME, "-n", "100", "--run-dir", str(other), *QUICK, *small]) == 0
    path = tmp_path / "report.html"
    assert report.main([str(whole.path), str(other), "--no-frames", "--out", str(path)]) == 0
    page = path.read_text(encoding="utf-8")
    assert page.count("<figcaption>TD error") == 1 and page.count("<figcaption>Return per agent") >= 2


@pytest.mark.parametrize("part", ["last_model", "best_model"])
def test_the_doctor_reads_models(whole: RunFolder, part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main([str(getattr(whole, part))]) == 0
    printed = capsys.readouterr().out
    assert "a model of QMIX" in printed and "learner agent_0" in printed and "learner team" in printed
    assert "continues exactly" in printed
    buffer = "rl_model_replay_buffer_120_steps_" if part == "last_model" else "none is beside the model"
    assert re.search(rf"(ok|-) +replay buffer +.*{buffer}", printed)


def test_the_doctor_tells_a_missing_buffer_from_a_damaged_one(
    whole: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(whole.last_model, tmp_path / "model.zip")
    assert doctor.main([str(tmp_path / "model.zip")]) == 0
    assert re.search(r"- +replay buffer +the replay buffer .* is missing: without it", capsys.readouterr().out)
    buffer = buffer_of(whole.last_model)
    assert buffer is not None
    (tmp_path / buffer.name).write_bytes(buffer.read_bytes()[:1000])
    assert doctor.main([str(tmp_path / "model.zip")]) == 1
    assert re.search(r"WRONG +replay buffer .*damaged", capsys.readouterr().out)


@pytest.mark.e2e
def test_a_single_agent_of_a_continuous_team_is_plain_ddpg(tmp_path: Path) -> None:
    run = train(tmp_path / "run", "maddpg", CONTINUOUS)
    model = load_model(run.last_model, device="cpu")
    model.agents["agent_0"].save(tmp_path / "agent.zip")
    loaded = DDPG.load(tmp_path / "agent.zip", device="cpu")
    observation = np.ones((3, *loaded.observation_space.shape), np.float32)
    ours, _ = model.predict({"agent_0": observation}, deterministic=True)
    np.testing.assert_allclose(loaded.predict(observation, deterministic=True)[0], ours["agent_0"], rtol=1e-6)
