"""Evaluation of agents that must not do everything, and of agents that remember."""

import numpy as np
import pytest
from gymnasium import spaces
from pettingzoo.classic import connect_four_v3
from sb3_contrib import RecurrentPPO

from sb3_matrl import MATRL
from sb3_matrl.evaluation import MixedPolicy, Player, RandomPolicy, evaluate_policy
from sb3_matrl.evaluation.play import play_episodes
from sb3_matrl.vec_env import as_parallel, make_joint_vec_env
from sb3_matrl.vec_env.masks import options_of
from tests.evaluation.worlds import Comes, CountsSteps
from tests.vec_env.turn_toys import random_mask

SPACES = [spaces.Discrete(5), spaces.MultiDiscrete([2, 3, 2]), spaces.MultiBinary(3)]


def choices(space, action):
    """The action in the form of a mask: True where an option was chosen."""
    if isinstance(space, spaces.MultiBinary):
        return np.stack([1 - action, action], axis=-1).astype(bool).ravel()
    starts = np.cumsum(options_of(space)) - options_of(space)
    chosen = np.zeros(options_of(space).sum(), dtype=bool)
    chosen[starts + np.ravel(action)] = True
    return chosen


@pytest.mark.parametrize("space", SPACES, ids=str)
@pytest.mark.parametrize("batch", [None, 2])
def test_chance_draws_every_legal_action_and_no_other(space, batch):
    rng = np.random.default_rng(0)
    policy = RandomPolicy({"a": spaces.Discrete(2)}, {"a": space}, seed=0)
    for _ in range(5):
        drawn = random_mask(space, rng)
        parts = drawn if isinstance(drawn, tuple) else (drawn,)
        mask = np.concatenate([np.ravel(part) for part in parts]).astype(bool)
        masks = mask if batch is None else np.stack([mask, np.ones_like(mask)])
        observation = 0 if batch is None else np.zeros(batch, int)
        seen = np.zeros((batch or 1, len(mask)), dtype=bool)
        for _ in range(80):
            action = policy.predict({"a": observation}, action_masks={"a": masks})[0]["a"]
            seen |= np.stack([choices(space, one) for one in ([action] if batch is None else action)])
        np.testing.assert_array_equal(seen, np.atleast_2d(masks))


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_chance_takes_a_mask_without_a_legal_action_for_one_that_allows_all(space):
    policy = RandomPolicy({"a": spaces.Box(0, 1, (3,))}, {"a": space}, seed=0)
    masks = np.zeros((60, options_of(space).sum()), bool)
    actions = policy.predict({"a": np.zeros((60, 3))}, action_masks={"a": masks})[0]["a"]
    assert all(len(set(part)) > 1 for part in np.reshape(actions, (60, -1)).T)


def test_chance_plays_connect_four_by_the_rules():
    """Who makes an illegal move loses a point, and nobody wins one."""
    with_masks = [
        evaluate_policy(chance(), make_joint_vec_env(connect_four_v3.env, n_envs=3), 12, seed=0),
        play_episodes(chance(), as_parallel(connect_four_v3.env()), 8, None, deterministic=False, seed=0),
        play_episodes(mixed(), as_parallel(connect_four_v3.env()), 8, None, deterministic=False, seed=0),
    ]
    for result in with_masks:
        assert set(result.returns) == {0.0} and set(result.agent_returns.ravel()) >= {-1.0, 1.0}


def chance():
    env = as_parallel(connect_four_v3.env())
    return RandomPolicy(
        *({agent: of(agent) for agent in env.possible_agents} for of in (env.observation_space, env.action_space)), seed=5
    )


def mixed():
    return MixedPolicy({"player_0": Player(chance(), "player_1"), "player_1": Player(chance(), "player_0")})


def test_a_model_keeps_the_memory_of_agents_that_do_not_act():
    lstm = {"net_arch": [8], "lstm_hidden_size": 8}
    model = MATRL(
        "MlpLstmPolicy", Comes, learner_class=RecurrentPPO, n_steps=8, batch_size=8, policy_kwargs=lstm, device="cpu"
    )
    names = model.possible_agents
    observation = {agent: model.env.observation_spaces[agent].sample() for agent in names}
    _, states = model.predict(observation, None, np.ones(1, bool))
    _, after = model.predict({names[0]: observation[names[0]]}, states, np.zeros(1, bool))
    assert set(after) == set(names)
    for agent in names[1:]:
        np.testing.assert_equal(after[agent], states[agent])
    assert not np.array_equal(after[names[0]][0], states[names[0]][0])


@pytest.mark.parametrize("play", ["one copy", "three copies"])
@pytest.mark.parametrize("mix", [False, True])
def test_memory_begins_with_the_agents_own_episode(play, mix):
    """Each agent earns 1 per step in which its memory has counted its own steps rightly."""
    model = CountsSteps()
    if mix:
        model = MixedPolicy({"late": Player(model, "early"), "early": Player(model, "late"), "turns": Player(model, "turns")})
    if play == "one copy":
        result = play_episodes(model, Comes(), 6, None, deterministic=True, seed=2)
    else:
        result = evaluate_policy(model, make_joint_vec_env(Comes, n_envs=3), 9, deterministic=True, seed=2)
    assert len(set(result.lengths)) > 1
    early, late, turns = result.agent_returns.T
    np.testing.assert_array_equal(early, result.lengths)
    np.testing.assert_array_equal(late, np.maximum(result.lengths - Comes.delay, 0))
    np.testing.assert_array_equal(turns, result.lengths // 2)  # it acts in every second step, and looks on in the others
