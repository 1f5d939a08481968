"""The algorithm as its users see it: learn, predict, set_env, errors."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from sb3_contrib import TRPO, RecurrentPPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, StopTrainingOnMaxEpisodes
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnvWrapper

from sb3_matrl import MATRL
from sb3_matrl.envs import checkers_v0, matrix_game_v0, switch_v0
from sb3_matrl.vec_env import make_joint_vec_env
from tests.cartpole import CartPoleParallelEnv
from tests.matrl.small_models import ITERATION, SMALL, assert_equal, make, parameters
from tests.vec_env import toys

# ---------------------------------------------------------------------- learning


def test_agents_are_real_sb3_learners_that_learn() -> None:
    model = make()
    before = parameters(model)
    assert model.learn(2 * ITERATION) is model
    assert list(model.agents) == ["agent_0", "agent_1"]
    assert all(type(learner) is PPO for learner in model.agents.values())
    assert model.num_timesteps == 2 * ITERATION
    assert model.report is not None and model.report.agents == ("agent_0", "agent_1")
    assert all(not th.equal(a, b) for a, b in zip(before, parameters(model), strict=True))


def test_one_seed_one_result() -> None:
    first, second, other = (parameters(make(seed=seed).learn(2 * ITERATION)) for seed in (5, 5, 6))
    assert_equal(first, second)
    assert not th.equal(first[0], other[0])


@pytest.mark.e2e
def test_a_coordination_game_is_learned() -> None:
    payoffs = [[[1.0, 0.0], [0.0, 0.5]]] * 2
    model = make(
        partial(matrix_game_v0.parallel_env, payoffs=payoffs), n_envs=16, batch_size=256, n_epochs=10, learning_rate=0.02
    )
    model.learn(15 * 256)
    for learner in model.agents.values():
        probabilities = learner.policy.get_distribution(th.ones(1, 1)).distribution.probs[0]  # type: ignore[union-attr]
        assert probabilities.max() > 0.9
    assert np.mean([info["r"] for info in list(model.ep_info_buffer)[-50:]]) > 0.8


@pytest.mark.parametrize("learner_class", [PPO, A2C, TRPO])
def test_sb3_on_policy_learners_work(learner_class: type) -> None:
    model = make(learner_class=learner_class, n_epochs=10)
    before = parameters(model)
    model.learn(ITERATION)
    assert all(type(learner) is learner_class for learner in model.agents.values())
    assert not th.equal(before[0], parameters(model)[0])


def test_learners_and_settings_may_differ_per_agent() -> None:
    model = make(
        learner_class={"agent_0": PPO, "agent_1": A2C},
        learning_rate={"agent_0": 0.01, "agent_1": 0.0},
        policy_kwargs={"agent_0": {"net_arch": [4]}, "agent_1": {"net_arch": [6]}},
        learner_kwargs={"agent_0": None, "agent_1": {"use_rms_prop": False}},
        br_n_epochs={"agent_0": 1, "agent_1": 0},
    )
    before = parameters(model)
    model.learn(ITERATION)
    assert [type(learner) for learner in model.agents.values()] == [PPO, A2C]
    sizes = [learner.policy.net_arch for learner in model.agents.values()]
    assert sizes == [[4], [6]]
    assert not th.equal(before[0], parameters(model)[0])
    assert_equal(before[len(before) // 2 :], parameters(model)[len(before) // 2 :])


def late_entry() -> Any:
    space = gym.spaces.Discrete(5)
    ends = {"early": (3, "terminated"), "late": (5, "truncated")}
    return toys.ToyEnv(dict.fromkeys(ends, space), dict.fromkeys(ends, gym.spaces.Discrete(3)), ends, {"late": 2})


def unequal() -> Any:
    observations = {
        "image": gym.spaces.Box(0, 255, (4, 4, 1), np.uint8),
        "wide": gym.spaces.Box(-2, 2, (3,), np.float64),
        "index": gym.spaces.Discrete(7),
        "bits": gym.spaces.MultiBinary(4),
        "dict": gym.spaces.Dict({"x": gym.spaces.Box(-1, 1, (2, 2), np.float32), "n": gym.spaces.Discrete(3)}),
    }
    actions = {
        "image": gym.spaces.Discrete(3),
        "wide": gym.spaces.Box(-1, 1, (2,), np.float32),
        "index": gym.spaces.MultiDiscrete([2, 3]),
        "bits": gym.spaces.MultiBinary(4),
        "dict": gym.spaces.Discrete(5),
    }
    ends = {name: (2 + column % 3, ("terminated", "truncated")[column % 2]) for column, name in enumerate(observations)}
    return toys.ToyEnv(observations, actions, ends)


@pytest.mark.parametrize("factory", [toys.early_death, late_entry, unequal])
def test_death_late_entry_and_unequal_spaces_train_and_predict(factory: Any) -> None:
    env = factory()
    policy = {
        agent: "MultiInputPolicy" if isinstance(env.observation_space(agent), gym.spaces.Dict) else "MlpPolicy"
        for agent in env.possible_agents
    }
    model = make(factory, policy=policy).learn(2 * ITERATION)
    assert model.report is not None and all(np.isfinite(v) for v in model.report.scalars().values() if isinstance(v, float))
    observations, _ = env.reset(seed=0)
    actions, _ = model.predict(observations)
    assert set(actions) == set(env.agents)
    for agent, action in actions.items():
        assert env.action_space(agent).contains(np.asarray(action, dtype=env.action_space(agent).dtype))


def test_an_agent_that_is_dead_for_a_whole_rollout_stays_as_it_is() -> None:
    space = gym.spaces.Discrete(5)
    ends = {"early": (2, "terminated"), "late": (40, "truncated")}

    def factory() -> Any:
        return toys.ToyEnv(dict.fromkeys(ends, space), dict.fromkeys(ends, gym.spaces.Discrete(3)), ends)

    model = make(factory).learn(ITERATION)
    before = parameters(model)
    model.learn(ITERATION, reset_num_timesteps=False)  # steps 16 to 31 of the episode
    half = len(before) // 2
    assert_equal(before[:half], parameters(model)[:half])
    assert not th.equal(before[half], parameters(model)[half])


@pytest.mark.e2e
def test_subproc_and_dummy_vectorisation_give_the_same_training() -> None:
    results = []
    for vec_env in ("batched", "dummy", "subproc"):
        model = make(switch_v0.parallel_env, env_kwargs={"n_agents": 2}, vec_env=vec_env)
        results.append(parameters(model.learn(2 * ITERATION)))
        model.env.close()
    assert_equal(results[0], results[1])
    assert_equal(results[0], results[2])


def test_images_are_transposed_for_the_network() -> None:
    space = gym.spaces.Box(0, 255, (40, 36, 3), np.uint8)

    def factory() -> Any:
        return toys.ToyEnv({"a": space}, {"a": gym.spaces.Discrete(2)}, {"a": (3, "terminated")})

    model = make(factory, policy="CnnPolicy", policy_kwargs=None).learn(ITERATION)
    assert model.agents["a"].observation_space.shape == (3, 40, 36)
    actions, _ = model.predict({"a": space.sample()})
    assert actions["a"] in (0, 1)


def test_sde_and_box_actions() -> None:
    boxes = {"a": gym.spaces.Box(-1, 1, (2,), np.float32)}

    def factory() -> Any:
        return toys.ToyEnv(boxes, {"a": gym.spaces.Box(-0.5, 2.0, (1,), np.float32)}, {"a": (3, "truncated")})

    model = make(factory, use_sde=True, sde_sample_freq=4).learn(2 * ITERATION)
    actions, _ = model.predict({"a": np.zeros((5, 2), dtype=np.float32)})
    assert actions["a"].shape == (5, 1)
    assert (actions["a"] >= -0.5).all() and (actions["a"] <= 2.0).all()


# ---------------------------------------------------------------------- callbacks and logging


def test_callbacks_see_every_step_and_can_stop_and_continue() -> None:
    class Counter(BaseCallback):
        steps = rollouts = 0

        def _on_step(self) -> bool:
            self.steps += 1
            assert self.locals["rewards"].shape == (2, 2)
            return True

        def _on_rollout_end(self) -> None:
            self.rollouts += 1

    counter = Counter()
    model = make(env_kwargs={"max_cycles": 10})
    model.learn(2 * ITERATION, callback=counter)
    assert (counter.steps, counter.rollouts) == (32, 2)
    model.learn(1000, callback=StopTrainingOnMaxEpisodes(max_episodes=2), reset_num_timesteps=False)
    assert 2 * ITERATION < model.num_timesteps < 1000
    stopped_at = model.num_timesteps
    model.learn(ITERATION, reset_num_timesteps=False)
    assert model.num_timesteps == stopped_at + ITERATION


def test_checkpoint_callback_of_sb3_saves_loadable_models(tmp_path: Path) -> None:
    make().learn(2 * ITERATION, callback=CheckpointCallback(16, str(tmp_path), name_prefix="m"))
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["m_32_steps.zip", "m_64_steps.zip"]
    # Both were saved with the last step of a rollout, so they hold the training as it was before that rollout.
    assert [MATRL.load(tmp_path / name).num_timesteps for name in files] == [0, 32]


def test_policy_shows_the_parameters_of_every_learner(monkeypatch: pytest.MonkeyPatch) -> None:
    model = MATRL("MlpPolicy", matrix_game_v0.parallel_env, **SMALL)
    seen = {id(parameter) for parameter in model.policy.parameters()}
    assert seen == {id(one) for learner in model.learners.values() for one in learner.policy.parameters()}
    assert list(dict(model.policy.named_children())) == list(model.learners)
    for names, shown in ((["a.b", "a_b"], ["a_b", "a_b_"]), (["train", "alice"], ["train_", "alice"])):
        monkeypatch.setattr(model, "learners", dict(zip(names, model.learners.values(), strict=True)))
        assert list(dict(model.policy.named_children())) == shown
    with pytest.raises(AttributeError):
        model.policy = None


def test_gradients_of_every_learner_pass_hooks_on_the_policy() -> None:
    model = MATRL("MlpPolicy", matrix_game_v0.parallel_env, **SMALL)
    seen: set[str] = set()
    for name, parameter in model.policy.named_parameters():
        parameter.register_hook(lambda _, name=name: seen.add(name))
    model.learn(32)
    assert {name.split(".")[0] for name in seen} == set(model.learners)


def test_logger_has_the_diagnostics_of_game_and_agents(tmp_path: Path) -> None:
    from stable_baselines3.common.logger import configure

    model = make(env_kwargs={"max_cycles": 8})
    model.set_logger(configure(str(tmp_path), ["csv", "json"]))
    model.learn(2 * ITERATION)
    last = json.loads((tmp_path / "progress.json").read_text().splitlines()[-1])
    assert last["time/total_timesteps"] == 2 * ITERATION
    assert model.report is not None
    for i, agent in enumerate(model.agents):
        assert last[f"{agent}/metagame/rho"] == model.report.rho[i]
        assert f"{agent}/train/policy_gradient_loss" in last and f"{agent}/br/policy_loss" in last
    team = np.mean([info["r"] for info in model.ep_info_buffer])
    assert last["rollout/ep_rew_mean"] == pytest.approx(team)
    assert last["agent_0/rollout/ep_rew_mean"] + last["agent_1/rollout/ep_rew_mean"] == pytest.approx(team)
    assert last["metagame/fixed_point"] in {"stable", "saddle", "rotational", "unstable", "none"}
    assert {"time/collect_seconds", "time/predict_seconds", "time/metagame_seconds", "time/best_response_seconds"} <= set(last)


def test_progress_bar_and_tensorboard(tmp_path: Path) -> None:
    make(tensorboard_log=str(tmp_path)).learn(ITERATION, progress_bar=True, tb_log_name="run")
    assert list((tmp_path / "run_1").glob("events.out.tfevents*"))


def test_learning_rate_schedules_reach_learner_and_best_response() -> None:
    model = make(learning_rate=LinearSchedule(0.01, 0.0, 1.0)).learn(2 * ITERATION)
    # The second and last iteration has nothing of the training left.
    assert model.agents["agent_0"].policy.optimizer.param_groups[0]["lr"] == 0.0
    assert model.coordinator.optimizers["agent_0"].param_groups[0]["lr"] == 0.0


@pytest.mark.parametrize("backend", ["sb3", "torch", "native"])
def test_a_schedule_that_returns_no_usable_number_is_an_error_that_changes_nothing(backend: str) -> None:
    clip_ranges = {"agent_0": 0.2, "agent_1": lambda left: float("nan") if 0 < left < 0.9 else 0.2}
    model = make(clip_range=clip_ranges, backend=backend)
    before = parameters(model)
    expected = "^clip_range of 'agent_1' must be greater than 0, got nan from its schedule where 50% of the training is left"
    with pytest.raises(ValueError, match=expected):
        model.learn(2 * ITERATION)
    assert_equal(parameters(model), before)


def test_a_log_interval_of_0_never_writes_the_logger(capsys: pytest.CaptureFixture[str]) -> None:
    make(verbose=2).learn(ITERATION, log_interval=0)
    assert "total_timesteps" not in capsys.readouterr().out


def test_schedules_see_no_negative_rest_of_a_training_whose_last_rollout_goes_beyond_its_end() -> None:
    seen: list[float] = []
    make(learning_rate=lambda left: seen.append(left) or 1e-3 * left).learn(ITERATION + 1)
    assert min(seen) == 0.0


# ---------------------------------------------------------------------- acting


def test_predict_takes_one_env_or_a_batch_and_only_the_living() -> None:
    model = make()
    env = checkers_v0.parallel_env()
    observations, _ = env.reset()
    single, state = model.predict(observations, deterministic=True)
    assert state is None and set(single) == {"agent_0", "agent_1"}
    env.step(single)
    batch = {agent: np.stack([value] * 3) for agent, value in observations.items()}
    batched, _ = model.predict(batch, deterministic=True)
    for agent, action in batched.items():
        assert action.shape == (3,) and (action == single[agent]).all()
        expected, _ = model.agents[agent].predict(observations[agent], deterministic=True)
        assert expected == single[agent]
    alone, _ = model.predict({"agent_1": observations["agent_1"]}, deterministic=True)
    assert alone == {"agent_1": single["agent_1"]}


def test_deterministic_actions_are_modes_and_sampled_ones_vary() -> None:
    model = make()
    observation = {"agent_0": np.zeros((500, 47), dtype=np.float32)}
    greedy, _ = model.predict(observation, deterministic=True)
    sampled, _ = model.predict(observation)
    assert len(set(greedy["agent_0"])) == 1 and len(set(sampled["agent_0"])) > 1


def test_errors_of_predict_name_the_agent_and_those_of_a_function_pass() -> None:
    recurrent = make(policy="MlpLstmPolicy", learner_class=RecurrentPPO, policy_kwargs={"lstm_hidden_size": 4})
    batch = {"agent_0": np.zeros((3, *recurrent.observation_space["agent_0"].shape), np.float32)}
    _, state = recurrent.predict(batch)
    with pytest.raises(ValueError, match=r"^agent 'agent_0': observation, masks or state do not fit \(RuntimeError: shape"):
        recurrent.predict({"agent_0": batch["agent_0"][0]}, state)
    with pytest.raises(ValueError, match="predict wants a dict agent -> state, got int"):
        recurrent.predict(batch, 3)  # type: ignore[arg-type]
    scripted = make(frozen={"agent_0": lambda observations: {}["missing"]})
    with pytest.raises(KeyError, match="missing"):
        scripted.predict(batch)


def test_predict_refuses_what_it_does_not_know() -> None:
    model = make()
    with pytest.raises(ValueError, match="'agent_2' is unknown; did you mean"):
        model.predict({"agent_2": np.zeros(47)})
    with pytest.raises(ValueError, match="dict agent -> observation"):
        model.predict(np.zeros(47))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="shape"):
        model.predict({"agent_0": np.zeros(46, dtype=np.float32)})


# ---------------------------------------------------------------------- environments and arguments


def test_set_env_keeps_agents_and_wants_the_same_spaces_and_copies() -> None:
    model = make().learn(ITERATION)
    model.set_env(partial(checkers_v0.parallel_env, max_cycles=7))
    model.learn(ITERATION, reset_num_timesteps=False)
    assert model.ep_info_buffer[-1]["l"] == 7
    with pytest.raises(ValueError, match="another environment"):
        model.set_env(CartPoleParallelEnv)
    with pytest.raises(ValueError, match="5 copies"):
        model.set_env(make_joint_vec_env(checkers_v0.parallel_env, n_envs=5))


def test_env_may_be_an_id_an_instance_or_a_joint_vec_env() -> None:
    assert list(make("switch_v0", env_kwargs={"n_agents": 3}).agents) == ["agent_0", "agent_1", "agent_2"]
    assert make(checkers_v0.parallel_env()).n_envs == 2
    env = make_joint_vec_env(checkers_v0.parallel_env, n_envs=3)
    model = MATRL("MlpPolicy", env, **{**SMALL, "n_envs": 1})
    assert model.env is env and model.n_envs == 3


def test_sb3_wrappers_are_refused() -> None:
    class Wrapper(VecEnvWrapper):
        def reset(self) -> Any:
            return self.venv.reset()

        def step_wait(self) -> Any:
            return self.venv.step_wait()

    with pytest.raises(ValueError, match="wrap the ParallelEnv instead"):
        make(Wrapper(make_joint_vec_env(checkers_v0.parallel_env, n_envs=2)))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"env": "checkers_v1"}, "did you mean 'checkers_v0'"),
        ({"env": None}, "MATRL needs an env"),
        ({"policy": "MlpPolici"}, "policy 'MlpPolici' is unknown; did you mean 'MlpPolicy'"),
        ({"policy": {"agent_0": "MlpPolicy"}}, "missing agent_1"),
        ({"policy": {"agent_0": "MlpPolicy", "agent_1": "MlpPolicy", "agent_9": "MlpPolicy"}}, "unknown agent_9"),
        ({"learning_rate": {"agent_0": 1e-3, "agent1": 1e-3}}, "missing agent_1; unknown agent1; did you mean 'agent_1'"),
        ({"solver": "nash"}, "solver 'nash' is unknown"),
        ({"solver": "closed-form", "env": "switch_v0"}, "applies to at most 2 agents, this game has 4"),
        ({"n_steps": 0}, "n_steps must be at least 1"),
        ({"learner_class": A2C, "n_epochs": 7}, "n_epochs is no argument of A2C"),
        ({"learner_kwargs": {"use_rmsprop": False}, "learner_class": A2C}, "did you mean 'use_rms_prop'"),
        ({"br_n_epochs": -1}, "br_n_epochs must be at least 0"),
    ],
)
def test_unusable_arguments_are_named(kwargs: dict[str, Any], message: str) -> None:
    defaults: dict[str, Any] = {"n_epochs": 10} if "learner_class" in kwargs else {}
    with pytest.raises(ValueError, match=message):
        make(**{**defaults, **kwargs})


def test_a_batch_size_that_does_not_fit_warns_as_in_sb3() -> None:
    with pytest.warns(UserWarning, match="truncated mini-batch of size 12"):
        make(batch_size=20)


@pytest.mark.parametrize(
    ("observation", "action", "message"),
    [
        (gym.spaces.Discrete(3, start=1), gym.spaces.Discrete(2), "start at 0, not the observation space"),
        (gym.spaces.Discrete(3), gym.spaces.MultiDiscrete([2, 2], start=[0, 1]), "start at 0, not the action space"),
        (gym.spaces.Discrete(3), gym.spaces.Box(-np.inf, np.inf, (1,)), "finite lower and upper bound"),
        (gym.spaces.Box(-1, 1, (0,)), gym.spaces.Discrete(2), "which has no elements"),
        (gym.spaces.Text(3), gym.spaces.Discrete(2), "Text"),
    ],
)
def test_spaces_that_sb3_cannot_handle_are_refused(observation: Any, action: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        make(lambda: toys.ToyEnv({"a": observation}, {"a": action}, {"a": (3, "terminated")}))


def test_agents_cannot_step_alone() -> None:
    with pytest.raises(RuntimeError, match=r"call learn\(\)"):
        make().agents["agent_0"].learn(10)
