"""What the page "SB3: what works" says: every row of its tables is checked, callbacks by training with them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stable_baselines3.common.callbacks as sb3
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy as evaluate_one_agent
from stable_baselines3.common.logger import configure
from stable_baselines3.common.utils import LinearSchedule, set_random_seed
from stable_baselines3.common.vec_env import VecFrameStack, VecMonitor, VecNormalize

import sb3_matrl.evaluation
import sb3_matrl.vec_env
from sb3_matrl import MATRL, VDN
from sb3_matrl.common.model import MultiAgentModel
from sb3_matrl.evaluation import MultiAgentEvalCallback
from sb3_matrl.vec_env import make_joint_vec_env
from tests.documentation import table_rows
from tests.evaluation.worlds import RandomLength
from tests.zoo.test_tracking import items, read_records

ROLLOUT = 40


def make(**changes: Any) -> MATRL:
    arguments = {"n_envs": 4, "n_steps": 10, "batch_size": 40, "n_epochs": 1, "br_n_epochs": 1, "seed": 0, "device": "cpu"}
    return MATRL("MlpPolicy", RandomLength, **{"policy_kwargs": {"net_arch": [8]}, **arguments, **changes})


def make_off_policy() -> VDN:
    return VDN("MlpPolicy", RandomLength, n_envs=2, learning_starts=4, train_freq=2, batch_size=4, seed=0, device="cpu")


def evaluation(**changes: Any) -> MultiAgentEvalCallback:
    return MultiAgentEvalCallback(
        make_joint_vec_env(RandomLength, n_envs=2), **{"n_eval_episodes": 2, "eval_freq": ROLLOUT, "verbose": 0, **changes}
    )


# ---------------------------------------------------------------------- the page


def test_the_page_lists_every_callback_of_sb3_once() -> None:
    ours = {cls.__name__ for cls in vars(sb3).values() if isinstance(cls, type) and issubclass(cls, sb3.BaseCallback)}
    listed = [row[0] for row in table_rows("sb3.md", "Callbacks")]
    assert sorted(listed) == sorted({*ours, "WandbCallback"} - {"EventCallback"})


@pytest.mark.parametrize("section", ["Callbacks", "Functions", "Wrappers", "The model"])
def test_what_the_page_names_exists(section: str) -> None:
    """What is not said to work names something else, which exists."""
    for name, text in table_rows("sb3.md", section):
        if name.startswith("model."):
            assert hasattr(MultiAgentModel, name[6:]) or hasattr(make(), name[6:])
        if text.startswith("use `") and (module := re.match(r"use `(\w+)` of `(sb3_matrl\.\w+)`", text)):
            assert hasattr(getattr(sb3_matrl, module[2].split(".")[1]), module[1]), name


# ---------------------------------------------------------------------- callbacks


def test_evaluation_of_sb3_names_ours() -> None:
    model = make()
    assert model.env is not None
    with pytest.raises(TypeError, match=r"use sb3_matrl\.evaluation\.MultiAgentEvalCallback with a separate environment"):
        model.learn(ROLLOUT, sb3.EvalCallback(model.env, verbose=0))
    assert model.num_timesteps == 0
    for call in (lambda env: evaluate_one_agent(model, env), VecMonitor):  # type: ignore[list-item]
        with pytest.raises(TypeError, match=r"use evaluate_policy and MultiAgentEvalCallback of sb3_matrl\.evaluation"):
            call(make_joint_vec_env(RandomLength))


class Moments(sb3.BaseCallback):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def _on_training_start(self) -> None:
        self.seen.append("training start")

    def _on_rollout_start(self) -> None:
        self.seen.append("rollout start")

    def _on_step(self) -> bool:
        assert len(self.locals["infos"]) == len(self.locals["dones"]) == self.training_env.num_envs
        self.seen.append("step")
        return True

    def _on_rollout_end(self) -> None:
        self.seen.append("rollout end")

    def _on_training_end(self) -> None:
        self.seen.append("training end")


def test_own_callbacks_and_lists_of_them_are_called_at_the_same_moments_as_by_sb3() -> None:
    first, second = Moments(), Moments()
    make().learn(2 * ROLLOUT, sb3.CallbackList([first, second]))
    rollout = ["rollout start", *["step"] * 10, "rollout end"]
    assert first.seen == second.seen == ["training start", *rollout, *rollout, "training end"]


def test_a_function_is_a_callback_that_can_stop_the_training() -> None:
    steps: list[int] = []

    def after(local: dict[str, Any], _: dict[str, Any]) -> bool:
        steps.append(len(local["infos"]))
        return len(steps) < 3

    model = make()
    model.learn(10 * ROLLOUT, after)  # type: ignore[arg-type]  # SB3's types know callbacks only
    assert steps == [4, 4, 4] and model.num_timesteps == 12
    assert isinstance(make()._init_callback(after), sb3.ConvertCallback)  # type: ignore[arg-type]


def test_checkpoints_hold_the_state_before_the_rollout(tmp_path: Path) -> None:
    make().learn(2 * ROLLOUT, sb3.CheckpointCallback(12, str(tmp_path)))
    (path,) = tmp_path.iterdir()
    assert path.name == "rl_model_48_steps.zip" and MATRL.load(path, device="cpu").num_timesteps == ROLLOUT


def test_callbacks_are_called_every_n_steps() -> None:
    class Steps(sb3.BaseCallback):
        def _on_step(self) -> bool:
            steps.append(self.model.num_timesteps)
            return True

    steps: list[int] = []
    make().learn(100, sb3.EveryNTimesteps(30, Steps()))
    assert steps == [32, 64, 96]


def test_the_log_is_written_every_n_steps(tmp_path: Path) -> None:
    model = make()
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(3 * ROLLOUT, sb3.LogEveryNTimesteps(60), log_interval=None)
    lines = (tmp_path / "progress.csv").read_text().splitlines()
    column = lines[0].split(",").index("time/total_timesteps")
    assert [line.split(",")[column] for line in lines[1:]] == ["60", "120"]


def test_the_progress_bar_reaches_the_end() -> None:
    bar = sb3.ProgressBarCallback()
    make().learn(2 * ROLLOUT, bar)
    assert bar.pbar.n == bar.pbar.total == 2 * ROLLOUT


def test_training_ends_after_a_number_of_episodes() -> None:
    ends: list[int] = []

    def count(local: dict[str, Any], _: dict[str, Any]) -> bool:
        ends.append(int(np.sum(local["dones"])))
        return True

    model, rule = make(), sb3.StopTrainingOnMaxEpisodes(3)
    model.learn(100 * ROLLOUT, [rule, sb3.ConvertCallback(count)])
    assert sum(ends) == rule.n_episodes >= 3 * 4 > sum(ends[:-1]) and model.num_timesteps == 4 * len(ends)


@pytest.mark.parametrize("place", ["callback_on_new_best", "callback_after_eval"])
def test_training_ends_at_a_reward(place: str) -> None:
    model = make()
    callback = evaluation(**{place: sb3.StopTrainingOnRewardThreshold(-1.0)})
    model.learn(100 * ROLLOUT, callback)
    assert model.num_timesteps == ROLLOUT and callback.timesteps == [ROLLOUT]


def test_training_ends_without_improvement(monkeypatch: pytest.MonkeyPatch) -> None:
    returns = iter([2.0, 3.0, 3.0, 1.0, 2.0])
    monkeypatch.setattr(MultiAgentEvalCallback, "_play", lambda self, deterministic: results[deterministic])
    results: dict[bool, Any] = {}
    whole = evaluation(callback_after_eval=sb3.StopTrainingOnNoModelImprovement(1))
    played = sb3_matrl.evaluation.evaluate_policy(make(), RandomLength, 2, seed=0)

    def play(deterministic: bool) -> Any:
        if deterministic:
            return played
        mean = next(returns)
        rewards = np.array([[mean, 0.0], [mean, 0.0]])
        return type(played)(**{**vars(played), "returns": rewards.sum(axis=1), "agent_returns": rewards})

    monkeypatch.setattr(whole, "_play", play)
    make().learn(100 * ROLLOUT, whole)
    # The second evaluation without a better one is the fourth.
    assert [result.mean for result in whole.sampled] == [2.0, 3.0, 3.0, 1.0]


# ---------------------------------------------------------------------- Weights & Biases


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    wandb = pytest.importorskip("wandb")
    wandb.teardown()
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.chdir(tmp_path)
    yield wandb
    wandb.teardown()


@pytest.mark.cases(e2e=["make"], rest="expensive")
@pytest.mark.parametrize("build", [make, make_off_policy])
def test_gradients_and_parameters_are_watched(offline: Any, tmp_path: Path, build: Callable[[], Any]) -> None:
    from wandb.integration.sb3 import WandbCallback

    model = build()
    with offline.init(mode="offline", project="test", dir=tmp_path) as run:
        model.learn(3 * ROLLOUT, WandbCallback(gradient_save_freq=1, model_save_path=str(tmp_path / "models")))
        run.log({"end": 1})  # with what the hooks have collected
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    offline.teardown()
    keys = {item for record in read_records(file) for item in items(record.history.item)}
    # A histogram has several parts; W&B numbers the models that a process watches.
    logged = {re.sub(r"/graph_\d+", "/", key).rpartition("/")[0] for key in keys}
    assert (tmp_path / "models" / "model.zip").is_file()
    trained = {name for name, one in model.policy.named_parameters() if "target" not in name and one.requires_grad}
    assert {f"gradients/{name}" for name in trained} <= logged
    if build is make:  # DQN's policy has no forward pass, in SB3 neither
        assert {f"parameters/{name}" for name in trained} <= logged


def test_a_view_of_the_policies_is_the_same_until_they_change() -> None:
    model = make()
    view = model.policy
    assert view is model.policy and set(view.state_dict()) == {name for name, _ in view.named_parameters()}
    with pytest.raises(TypeError, match=r"call model\.predict"):
        view(th.zeros(1, 1))
    model._setup_model()
    assert model.policy is not view


@pytest.mark.parametrize("backend", ["sb3", "torch"])
def test_a_forward_hook_on_the_view_is_called_with_it_once_per_step(backend: str) -> None:
    model, seen = make(backend=backend), []
    handle = model.policy.register_forward_hook(lambda module, inputs, output: seen.append(module))
    model.learn(ROLLOUT)
    assert len(seen) == 10 and all(module is model.policy for module in seen)
    handle.remove()
    model.learn(ROLLOUT)
    assert len(seen) == 10


# ---------------------------------------------------------------------- functions, wrappers, models


@pytest.mark.parametrize("wrap", [lambda env: VecFrameStack(env, 2), lambda env: VecNormalize(env, norm_obs=False)])
def test_wrappers_of_sb3_are_refused(wrap: Callable[[Any], Any]) -> None:
    env = make_joint_vec_env(RandomLength, n_envs=2)
    with pytest.raises((ValueError, TypeError, NotImplementedError, AssertionError)) as error_info:
        MATRL("MlpPolicy", wrap(env))
    assert "wrap" in str(error_info.value) or "observation" in str(error_info.value)


def test_an_env_of_sb3_for_one_agent_is_refused() -> None:
    with pytest.raises((ValueError, TypeError), match="ParallelEnv"):
        MATRL("MlpPolicy", make_vec_env("CartPole-v1"))


def test_schedules_of_sb3_are_arguments() -> None:
    set_random_seed(0)
    model = make(learning_rate=LinearSchedule(0.01, 0.001, 1.0))
    model.learn(2 * ROLLOUT)
    rates = [learner.policy.optimizer.param_groups[0]["lr"] for learner in model.learners.values()]
    assert rates == pytest.approx([0.001, 0.001])
