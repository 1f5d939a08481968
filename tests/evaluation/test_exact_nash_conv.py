"""Exact NashConv of policies that networks are."""

from typing import Any

import numpy as np
import pytest
import torch as th
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import PPO

from sb3_matrl import MATRL
from sb3_matrl.envs import make
from sb3_matrl.evaluation import MultiAgentEvalCallback, Player, RandomPolicy, exact_nash_conv
from sb3_matrl.evaluation.exact_nash_conv import exact_game
from sb3_matrl.evaluation.policy_tables import UnreadablePolicy
from sb3_matrl.games.one_shot_games import random_general_sum
from sb3_matrl.vec_env import make_joint_vec_env

KUHN, LEDUC, LIARS = "openspiel:kuhn_poker", "openspiel:leduc_poker", "openspiel:liars_dice(dice_sides=2)"
SMALL: dict[str, Any] = {"n_envs": 4, "n_steps": 16, "batch_size": 32, "seed": 0, "device": "cpu"}
SMALL |= {"policy_kwargs": {"net_arch": [8]}}


def model(env: str = KUHN, learner_class: Any = MaskablePPO, policy: str = "MlpPolicy", **arguments: Any) -> MATRL:
    return MATRL(policy, env, **{**SMALL, "learner_class": learner_class, **arguments})


def test_uniform_play_in_kuhn_poker() -> None:
    found = exact_nash_conv(RandomPolicy, KUHN)
    assert found.nash_conv == pytest.approx(11 / 12)
    assert found.agents == ("player_0", "player_1")
    np.testing.assert_allclose(found.values, [0.125, -0.125])
    np.testing.assert_allclose(found.gains, found.best_responses - found.values)


@pytest.mark.parametrize("norm_obs", [False, True])
def test_networks_are_read_as_predict_plays_them(norm_obs: bool) -> None:
    """Tables of the log-densities of all actions in a game in which most actions are illegal have the same values."""
    trained = model(LIARS, norm_obs=norm_obs).learn(64)
    game, tables, greedy = make(LIARS).exact_game(1000), {}, {}
    for agent in game.agents:
        observations, masks = game.observations[agent], game.masks[agent]
        n_rows, n_actions = masks.shape
        seen = trained.player(agent).normalizer.normalize(observations) if norm_obs else observations
        with th.no_grad():
            distribution = trained.agents[agent].policy.get_distribution(th.as_tensor(seen), action_masks=masks)
            densities = [distribution.log_prob(th.full((n_rows,), action)).double().exp() for action in range(n_actions)]
        table = np.stack(densities, axis=1) * masks
        tables[agent] = table / table.sum(axis=1, keepdims=True)
        actions, _ = trained.predict({agent: observations}, deterministic=True, action_masks={agent: masks})
        greedy[agent] = np.eye(n_actions)[actions[agent]]
    for policies, found in ((tables, exact_nash_conv(trained, LIARS)), (greedy, exact_nash_conv(trained, LIARS, None, True))):
        values, best = game.values(policies)
        np.testing.assert_allclose(found.values, values, atol=1e-6)
        np.testing.assert_allclose(found.best_responses, best, atol=1e-6)


def test_sources_of_policies_can_be_mixed() -> None:
    trained = model().learn(64)
    whole = exact_nash_conv(trained, KUHN)
    parts = {"player_0": trained.agents["player_0"], "player_1": Player(trained, "player_1")}
    assert exact_nash_conv(parts, KUHN).nash_conv == whole.nash_conv
    uniform = {"player_0": lambda _, masks: masks / masks.sum(axis=1, keepdims=True), "player_1": np.full((6, 2), 0.5)}
    assert exact_nash_conv(uniform, KUHN).nash_conv == pytest.approx(11 / 12)


def test_environments_are_given_in_any_form() -> None:
    envs = [make(KUHN), make_joint_vec_env(KUHN, 2), lambda: make(KUHN)]
    assert [exact_nash_conv(RandomPolicy, env).nash_conv for env in envs] == pytest.approx([11 / 12] * 3)
    three = exact_nash_conv(RandomPolicy, KUHN, env_kwargs={"players": 3})
    assert three.nash_conv == pytest.approx(exact_nash_conv(RandomPolicy, "openspiel:kuhn_poker(players=3)").nash_conv)
    assert len(three.values) == 3


def test_policies_that_cannot_be_read_are_explained() -> None:
    with pytest.raises(UnreadablePolicy, match="player_0: its policy has a memory"):
        exact_nash_conv(model(learner_class=RecurrentPPO, policy="MlpLstmPolicy", policy_kwargs={"lstm_hidden_size": 8}), KUHN)
    with pytest.raises(
        UnreadablePolicy, match=r"player_0: its policy gives illegal actions a probability of up to 0\..*MaskablePPO"
    ):
        exact_nash_conv(model(LEDUC, learner_class=PPO), LEDUC)
    with pytest.raises(ValueError, match="no policy for agent 'player_1'; there are policies for"):
        exact_nash_conv({"player_0": RandomPolicy}, KUHN)
    with pytest.raises(ValueError, match=r"player_0: expected probabilities of shape \(6, 2\) that sum to 1"):
        exact_nash_conv({"player_0": np.ones((6, 2)), "player_1": RandomPolicy}, KUHN)


def test_environments_that_do_not_know_their_game_are_explained() -> None:
    with pytest.raises(ValueError, match="switch_v0 does not know its whole game: exact NashConv needs"):
        exact_nash_conv(RandomPolicy, "switch_v0")
    with pytest.raises(ValueError, match="does not know its whole game"):
        exact_nash_conv(RandomPolicy, make_joint_vec_env(KUHN, 2, "dummy"))
    with pytest.raises(ValueError, match="has more than 100 histories"):
        exact_nash_conv(RandomPolicy, LEDUC, max_histories=100)
    assert exact_game(make("checkers_v0")) is None


def test_training_in_kuhn_poker_resumes_bit_for_bit(tmp_path: Any) -> None:
    whole = model().learn(64)
    whole.save(tmp_path / "model")
    whole.learn(64, reset_num_timesteps=False)
    resumed = MATRL.load(tmp_path / "model", env=KUHN)
    resumed.learn(64, reset_num_timesteps=False)
    for agent in whole.agents:
        own, other = (list(one.agents[agent].policy.parameters()) for one in (whole, resumed))
        assert all(th.equal(a, b) for a, b in zip(own, other, strict=True))
    assert exact_nash_conv(whole, KUHN).nash_conv == exact_nash_conv(resumed, KUHN).nash_conv


def test_matrix_games_know_their_payoffs() -> None:
    options = {"game": "random_general_sum", "game_kwargs": {"n_agents": 3, "n_actions": 4, "seed": 7}}
    payoffs = random_general_sum(3, 4, 7).table
    against = [payoffs[i].mean(axis=tuple(j for j in range(3) if j != i)) for i in range(3)]  # of each action, uniform play
    gains = [values.max() - values.mean() for values in against]
    assert exact_nash_conv(RandomPolicy, "matrix_game_v0", options).gains == pytest.approx(gains)
    copies = make_joint_vec_env("matrix_game_v0", 2, env_kwargs=options)
    assert exact_nash_conv(RandomPolicy, copies).gains == pytest.approx(gains)
    with pytest.raises(ValueError, match="64 joint actions, more than max_histories=63"):
        exact_nash_conv(RandomPolicy, "matrix_game_v0", options, max_histories=63)
    many = {"game": "congestion", "game_kwargs": {"n_agents": 16, "n_resources": 16}}  # needs no table
    assert exact_nash_conv(RandomPolicy, "matrix_game_v0", many).nash_conv == pytest.approx(0.0)


def evaluation(env: str, folder: Any, **arguments: Any) -> MultiAgentEvalCallback:
    vec_env = make_joint_vec_env(env, 2, seed=1)
    return MultiAgentEvalCallback(vec_env, n_eval_episodes=2, eval_freq=64, log_path=folder, **{"verbose": 0, **arguments})


def test_evaluations_in_training_log_nash_conv_and_continue_after_a_stop(tmp_path: Any, capsys: Any) -> None:
    trained, callback = model(), evaluation(KUHN, tmp_path, verbose=1)
    trained.learn(192, callback)
    last = exact_nash_conv(trained, KUHN).nash_conv
    with np.load(tmp_path / "evaluations.npz") as saved:
        assert saved["nash_conv"].shape == saved["timesteps"].shape == (3,)
        assert saved["nash_conv"][-1] == last
    assert f"; NashConv {last:.3f}\n" in capsys.readouterr().out
    resumed = evaluation(KUHN, None)
    resumed.set_state(callback.state())
    assert resumed.nash_conv.values == callback.nash_conv.values
    resumed.set_state({name: value for name, value in callback.state().items() if name != "nash_conv"})
    assert np.isnan(resumed.nash_conv.values).tolist() == [True] * 3


def test_evaluations_of_matrix_games_log_nash_conv(tmp_path: Any) -> None:
    trained = MATRL("MlpPolicy", "matrix_game_v0", **SMALL)
    callback = evaluation("matrix_game_v0", tmp_path)
    trained.learn(64, callback)
    assert callback.nash_conv.values == [exact_nash_conv(trained, "matrix_game_v0").nash_conv]


@pytest.mark.e2e
def test_evaluations_of_other_worlds_and_unreadable_policies_have_none(tmp_path: Any) -> None:
    trained = MATRL("MlpPolicy", "switch_v0", **SMALL)
    trained.learn(64, evaluation("switch_v0", tmp_path))
    with np.load(tmp_path / "evaluations.npz") as saved:
        assert "nash_conv" not in saved
    lstm = model(learner_class=RecurrentPPO, policy="MlpLstmPolicy", policy_kwargs={"lstm_hidden_size": 8})
    callback = evaluation(KUHN, tmp_path)
    lstm.learn(64, callback)
    assert np.isnan(callback.nash_conv.values).all() and not callback.nash_conv.is_known
