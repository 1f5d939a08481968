"""Agents that share one learner: one buffer, one policy, one player of the meta-game."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.logger import Logger

from sb3_matrl import MATRL
from sb3_matrl.common.agents import SpacesVecEnv, Team, learner_groups
from sb3_matrl.matrl import coordinator
from sb3_matrl.on_policy.rollout import RolloutCollector
from sb3_matrl.vec_env import make_joint_vec_env
from tests.on_policy.test_rollout import Recorder, build
from tests.vec_env import toys
from tests.vec_env.turn_toys import Waiting

N_STEPS, N_ENVS = 8, 2
SMALL: dict[str, Any] = {"n_envs": N_ENVS, "n_steps": N_STEPS, "batch_size": 32, "n_epochs": 2, "br_n_epochs": 2, "seed": 0}
SMALL |= {"device": "cpu", "policy_kwargs": {"net_arch": [8]}, "learning_rate": 0.01}
TEAM = {"team": ["c", "b"]}  # of early_death's agents b, a, c, which end one after the other


def make(env: Any = toys.early_death, share: Any = TEAM, **kwargs: Any) -> MATRL:
    return MATRL("MlpPolicy", env, share=share, **{**SMALL, **kwargs})


def after_rollout(**kwargs: Any) -> MATRL:
    model = make(**kwargs)
    model.learn(0)
    assert model.collect_rollouts(model._init_callback(None))
    return model


# ---------------------------------------------------------------- collection


def test_the_buffer_holds_the_agents_one_after_the_other() -> None:
    env = make_joint_vec_env(toys.early_death, 2, seed=1)
    model = make()
    team = Team(env.agents, model.learners, model.team.members)
    assert team.members == {"team": ("b", "c"), "a": ("a",)}, "in the env's order"
    start, recorder = team.begin(env.reset(), env.alive), Recorder(env)
    alive = [env.alive]
    RolloutCollector(env, team).collect(start, N_STEPS, lambda seen: alive.append(env.alive) or recorder(seen))
    buffer: Any = model.learners["team"].rollout_buffer
    assert buffer.observations.shape == (N_STEPS, 4, 2)
    for block, agent in enumerate(("b", "c")):
        columns, i = slice(2 * block, 2 * block + 2), env.agents.index(agent)
        given = [step.observations[agent] for step in recorder.steps[:-1]]
        np.testing.assert_allclose(buffer.observations[1:, columns], given, rtol=1e-6)
        np.testing.assert_array_equal(buffer.mask[:, columns], np.array(alive[:-1])[:, :, i])
        played = np.array([actions[agent] for actions in recorder.actions])
        np.testing.assert_array_equal(np.clip(buffer.actions[:, columns], -1, 1), played)
        for t, step in enumerate(recorder.steps):
            paid = np.where(alive[t][:, i] & ~step.truncated[:, i], step.rewards[:, i], np.nan)
            stored = np.where(np.isnan(paid), np.nan, buffer.rewards[t, columns])
            np.testing.assert_allclose(stored, paid, rtol=1e-6)


def test_every_agent_s_advantages_are_its_own() -> None:
    # Two learners with equal parameters collect what one learner for both collects.
    def advantages(shared: bool) -> list[np.ndarray]:
        env = make_joint_vec_env(toys.truncated, 2, seed=1)
        learners = build(env, N_STEPS)
        learners["ant"].policy.load_state_dict(learners["zebra"].policy.state_dict())
        team = Team(env.agents, learners, {"zebra": ("zebra",), "ant": ("ant",)})
        if shared:
            model = make(toys.truncated, {"all": ["zebra", "ant"]}, gamma=0.9, gae_lambda=0.8)
            model.learners["all"].policy.load_state_dict(learners["zebra"].policy.state_dict())
            team = Team(env.agents, model.learners, {"all": ("zebra", "ant")})
        for learner in team.learners.values():  # the most likely actions: no draws that would differ
            forward = learner.policy.forward
            learner.policy.forward = lambda obs, forward=forward: forward(obs, deterministic=True)  # type: ignore[method-assign]
        RolloutCollector(env, team).collect(team.begin(env.reset(), env.alive), N_STEPS, lambda seen: True)
        return [learner.rollout_buffer.advantages for learner in team.learners.values()]

    np.testing.assert_allclose(advantages(True)[0], np.hstack(advantages(False)), rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------- the meta-game


def test_the_ratio_is_the_product_and_the_advantage_the_sum_over_those_that_acted() -> None:
    model = after_rollout()
    buffer: Any = model.learners["team"].rollout_buffer
    acted = buffer.mask.reshape(N_STEPS, 2, N_ENVS)  # step, agent, copy
    advantages = buffer.advantages.reshape(N_STEPS, 2, N_ENVS).copy()
    observations, actions = (getattr(buffer, n).reshape(N_STEPS, 2, N_ENVS, -1).copy() for n in ("observations", "actions"))
    old = buffer.log_probs.reshape(N_STEPS, 2, N_ENVS).copy()
    prediction = model.coordinator._predict()
    policy = model.learners["team"].policy  # the predicted one
    ratios, sums, anyone = [], [], []
    for copy in range(N_ENVS):
        for t in range(N_STEPS):
            ratio, advantage = 1.0, 0.0
            for member in range(2):
                if acted[t, member, copy]:
                    row = th.tensor(observations[t, member, copy])[None], th.tensor(actions[t, member, copy])[None]
                    ratio *= float(policy.evaluate_actions(*row)[1].detach().exp()) / np.exp(old[t, member, copy])
                    advantage += advantages[t, member, copy]
            ratios.append(ratio)
            sums.append(advantage)
            anyone.append(acted[t, :, copy].any())
    assert not acted.all() and any(a != b for a, b in acted.transpose(0, 2, 1).reshape(-1, 2))
    np.testing.assert_allclose(prediction.ratios[:, 0], ratios, rtol=1e-4)
    np.testing.assert_allclose(prediction.advantages[:, 0], sums, rtol=1e-6)
    np.testing.assert_array_equal(prediction.mask[:, 0], anyone)
    # The payoff of "the team predicted, the other as it is", from the definition.
    game = model.coordinator._metagame(prediction)
    clipped = np.where(anyone, np.clip(ratios, 0.8, 1.2), 1.0)
    centred = np.where(anyone, np.array(sums) - np.mean(np.array(sums)[anyone]), 0.0)
    payoff = (centred * clipped).sum() / np.sum(anyone)
    assert game.payoffs()[0, 1, 0] == pytest.approx(payoff, rel=1e-4)


def test_the_others_weights_serve_every_member() -> None:
    model = after_rollout(metagame=False, br_clip_range=None)
    seen: dict[str, th.Tensor] = {}
    original = coordinator.best_respond

    def watched(task: coordinator.BestResponse, rng: Any) -> Any:
        name = next(name for name, learner in model.learners.items() if learner.policy is task.policy)
        seen[name] = task.weights
        return original(task, rng)

    predict, predictions = model.coordinator._predict, []
    model.coordinator._predict = lambda: predictions.append(predict()) or predictions[0]  # type: ignore[func-returns-value, method-assign, return-value]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coordinator, "best_respond", watched)
        model.coordinator.update(model._best_response_configs())
    np.testing.assert_allclose(seen["team"], np.tile(predictions[0].ratios[:, 1], 2), rtol=1e-6)
    np.testing.assert_allclose(seen["a"], predictions[0].ratios[:, 0], rtol=1e-6)


def test_the_report_and_the_log_name_the_learners() -> None:
    model = make().learn(N_STEPS * N_ENVS)
    assert model.report is not None
    assert model.report.agents == ("team", "a") and model.report.rho.shape == (2,)
    assert set(model.report.best_response) == {"team", "a"}
    assert "team/metagame/rho" in model.report.scalars()
    assert model.agents["b"] is model.agents["c"] is model.learners["team"]
    assert [model.learner_of(agent) for agent in "bac"] == ["team", "a", "team"]


# ---------------------------------------------------------------- training


def test_with_both_switches_off_it_is_ppo_on_the_agents_data_together() -> None:
    both_off = {"metagame": False, "best_response": False, "n_epochs": 3, "batch_size": 8}
    model = after_rollout(env=toys.plain, share={"team": ["ant", "zebra"]}, **both_off)
    ours: Any = model.learners["team"]
    space = model.env.observation_spaces["ant"], model.env.action_spaces["ant"]  # type: ignore[union-attr]
    arguments = {"n_steps": N_STEPS, "batch_size": 8, "n_epochs": 3, "learning_rate": 0.01, "policy_kwargs": {"net_arch": [8]}}
    theirs = PPO("MlpPolicy", SpacesVecEnv(2 * N_ENVS, *space), device="cpu", **arguments)  # type: ignore[arg-type]
    theirs.policy.load_state_dict(ours.policy.state_dict())
    theirs.set_logger(Logger(None, []))
    last = th.tensor(model.team.rows("team", model.position.observations))
    mine = ours.rollout_buffer
    for t in range(N_STEPS):
        values, log_probs = th.tensor(mine.values[t]), th.tensor(mine.log_probs[t])
        theirs.rollout_buffer.add(
            mine.observations[t], mine.actions[t], mine.rewards[t], mine.episode_starts[t], values, log_probs
        )
    dones = model.team.columns("team", model.position.episode_starts)
    theirs.rollout_buffer.compute_returns_and_advantage(theirs.policy.predict_values(last).detach(), dones)
    np.testing.assert_array_equal(theirs.rollout_buffer.advantages, mine.advantages)
    for run in (lambda: model.coordinator.update(model._best_response_configs()), theirs.train):
        np.random.seed(4)
        run()
    for name, value in theirs.policy.state_dict().items():
        assert th.equal(ours.policy.state_dict()[name], value), name


def test_settings_are_keyed_by_the_learner() -> None:
    model = make(
        learning_rate={"team": 0.01, "a": 0.0},
        learner_class={"team": PPO, "a": A2C},
        policy_kwargs={"team": {"net_arch": [4]}, "a": {"net_arch": [6]}},
        br_n_epochs={"team": 1, "a": 0},
    )
    assert [type(learner) for learner in model.learners.values()] == [PPO, A2C]
    assert [learner.policy.net_arch for learner in model.learners.values()] == [[4], [6]]
    with pytest.raises(
        ValueError, match=r"learning_rate as a dict needs exactly the keys team, a: missing team; unknown b, c"
    ):
        make(learning_rate={"a": 0.1, "b": 0.1, "c": 0.1})


def test_a_shared_learner_survives_saving(tmp_path: Path) -> None:
    model = make(norm_obs=True).learn(N_STEPS * N_ENVS)
    model.save(tmp_path / "model")
    loaded = MATRL.load(tmp_path / "model", device="cpu")
    assert list(loaded.learners) == ["team", "a"] and loaded.agents["b"] is loaded.agents["c"]
    observation = {agent: np.full((3, 2), 0.5) for agent in "abc"}
    ours, theirs = (one.predict(observation, deterministic=True)[0] for one in (model, loaded))
    for agent in "abc":
        np.testing.assert_array_equal(ours[agent], theirs[agent])
    np.testing.assert_array_equal(ours["b"], ours["c"])
    assert not np.array_equal(ours["a"], ours["b"])


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("share", "frozen", "message"),
    [
        ({"team": ["a", "x"]}, None, r"share: group 'team': agent 'x' is unknown.*Known: b, a, c"),
        ({"one": ["a", "b"], "two": ["b", "c"]}, None, r"'b' is in group 'one' and again in 'two': name it once"),
        ({"team": ["a", "a"]}, None, r"'a' is in group 'team' and again in 'team'"),
        ({"a": ["b", "c"]}, None, r"group 'a' has the name of an agent that is not in it"),
        ({"team": []}, None, r"group 'team' must be a list of agents, got \[\]"),
        ({"team": "abc"}, None, r"group 'team' must be a list of agents, got 'abc'"),
        (["a", "b"], None, r"share must be a dict or None, got \['a', 'b'\]"),
        ({"team": ["a", "b"]}, {"a": abs}, r"frozen: 'a' learns in the shared group 'team'"),
        (None, {"d": abs}, r"frozen: agent 'd' is unknown"),
        (None, {"a": abs, "b": abs, "c": abs}, r"all agents \(b, a, c\) are frozen: at least one must learn"),
    ],
)
def test_unusable_groups_are_named(share: Any, frozen: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(share=share, frozen=frozen)


def test_unequal_spaces_are_named() -> None:
    with pytest.raises(ValueError, match=r"share: 'seen' and 'told' of group 'team' have different observation spaces"):
        make(Waiting, {"team": ["seen", "told"]})
    with pytest.raises(
        ValueError, match=r"share: 'seen' and 'late' of group 'team' have different action spaces \(MultiBinary"
    ):
        make(Waiting, {"team": ["seen", "late"]})


def test_a_group_may_have_the_name_of_one_of_its_agents() -> None:
    assert learner_groups(["x", "y", "z"], {"z": ["z", "x"]}, {"y": None}) == {"z": ("x", "z")}
