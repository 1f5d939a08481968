"""Joint collection against a slow advantage estimator, and masked buffers against SB3's own."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib.common.maskable.buffers import MaskableRolloutBuffer
from sb3_contrib.common.recurrent.buffers import RecurrentRolloutBuffer
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import DictRolloutBuffer, ReplayBuffer, RolloutBuffer

from sb3_matrl.learners import SpacesVecEnv, build_learner
from sb3_matrl.rollout import (
    Position,
    agent_batch,
    collect_rollout,
    install_masked_buffer,
    live_rows,
    masked_buffer_class,
    take_rows,
    to_env_actions,
)
from sb3_matrl.vec_env import make_joint_vec_env
from tests.vec_env import toys

GAMMA, LAMBDA = 0.9, 0.8


def late_entry(**options):
    """One agent enters later and leaves earlier than the other, a third one never ends before the others."""
    names = ["late", "early", "last"]
    observations = {name: spaces.Box(-1, 1, (2,), np.float32) for name in names}
    actions = {name: spaces.Discrete(3) for name in names}
    ends = {"late": (4, "truncated"), "early": (2, "terminated"), "last": (5, "truncated")}
    return toys.ToyEnv(observations, actions, ends, {"late": 2}, **options)


def pictures(**options):
    """Unequal spaces: images, a Dict with an image in it, and every kind of action."""
    image = spaces.Box(0, 255, (36, 36, 3), np.uint8)
    observations = {
        "image": image,
        "dict": spaces.Dict({"picture": image, "number": spaces.Discrete(3), "x": spaces.Box(-1, 1, (2,), np.float64)}),
        "bits": spaces.MultiBinary(3),
    }
    actions = {"image": spaces.MultiBinary(4), "dict": spaces.MultiDiscrete([2, 3]), "bits": spaces.Box(-1, 1, (2, 2))}
    ends = {"image": (2, "truncated"), "dict": (3, "truncated"), "bits": (1, "terminated")}
    return toys.ToyEnv(observations, actions, ends, **options)


WORLDS = {
    "plain": toys.plain,
    "truncated": toys.truncated,
    "mixed_end": toys.mixed_end,
    "early_death": toys.early_death,
    "late_entry": late_entry,
    "pictures": pictures,
}


def policy_for(space):
    if isinstance(space, spaces.Dict):
        return "MultiInputPolicy"
    return "CnnPolicy" if len(space.shape) == 3 else "MlpPolicy"


def small_network(space):
    extractor = {"image": {"features_dim": 8}, "dict": {"cnn_output_dim": 8}}
    kind = "dict" if isinstance(space, spaces.Dict) else "image" if len(space.shape) == 3 else ""
    return {"net_arch": [8], "features_extractor_kwargs": extractor.get(kind)}


def build(env, n_steps, **arguments):
    """One PPO per agent; the same networks at every call."""
    th.manual_seed(0)
    learners = {}
    for agent in env.agents:
        space = env.observation_spaces[agent]
        own = {"n_steps": n_steps, "batch_size": n_steps * env.num_envs, "gamma": GAMMA, "gae_lambda": LAMBDA, "device": "cpu"}
        network = small_network(space) | arguments.get("policy_kwargs", {})
        own |= arguments | {"policy_kwargs": network}
        spaces_of_agent = SpacesVecEnv(env.num_envs, space, env.action_spaces[agent])
        learners[agent] = build_learner(PPO, policy_for(space), spaces_of_agent, own, None)
        install_masked_buffer(learners[agent])
        with th.no_grad():  # fresh networks have biases of 0, and so a value of 0 where there is nothing to see
            for parameter in learners[agent].policy.parameters():
                parameter.add_(0.1 * th.randn_like(parameter))
    return learners


def beginning(env):
    observations = env.reset()
    return Position(observations, np.ones_like(env.alive), env.alive.copy())


def go_on(seen):
    return True


class Recorder:
    """What happened at every step, as the environment told it."""

    def __init__(self, env):
        self.env = env
        self.steps = []
        self.actions = []

    def __call__(self, seen):
        self.steps.append(self.env.last_step)
        self.actions.append({agent: action.copy() for agent, action in seen["actions"].items()})
        return True


def value_of(learner, observation, copy):
    """The critic's value of one copy's observation as the environment gave it, through SB3's own preprocessing."""
    row = {k: v[copy] for k, v in observation.items()} if isinstance(observation, dict) else observation[copy]
    with th.no_grad():
        return learner.policy.predict_values(learner.policy.obs_to_tensor(row)[0]).item()


def slow_gae(learner, agent, column, copy, start, steps):
    """
    Advantages of one agent in one copy, episode by episode, as sums of discounted TD errors.

    Returns step -> (advantage, value) for the steps at which the agent acted.
    """
    observations = [start.observations, *(step.observations for step in steps)]
    alive = [start.alive, *(step.alive for step in steps)]
    episodes, current = [], []
    for t, step in enumerate(steps):
        if not alive[t][copy, column]:
            assert not current, "an episode ends only where the environment says so"
            continue
        value = value_of(learner, observations[t][agent], copy)
        if step.terminated[copy, column]:
            following = 0.0
        elif step.truncated[copy, column]:
            following = value_of(learner, step.final_observations[agent], copy)
        else:
            following = value_of(learner, observations[t + 1][agent], copy)
        current.append((t, step.rewards[copy, column] + GAMMA * following - value, value))
        if step.terminated[copy, column] or step.truncated[copy, column] or t == len(steps) - 1:
            episodes.append(current)
            current = []
    result = {}
    for episode in episodes:
        for k, (t, _, value) in enumerate(episode):
            result[t] = (sum((GAMMA * LAMBDA) ** later * error for later, (_, error, _) in enumerate(episode[k:])), value)
    return result


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(("n_steps", "n_rollouts"), [(7, 2), (1, 7)])
def test_advantages_and_returns_equal_the_slow_estimate(world, n_steps, n_rollouts):
    # Rollouts of 7 steps cut episodes of 1 to 7 in the middle, and the next one begins there; rollouts of 1 step end
    # wherever an agent can.
    env = make_joint_vec_env(WORLDS[world], 3, seed=1)
    learners = build(env, n_steps)
    position = beginning(env)
    for _ in range(n_rollouts):
        recorder, start = Recorder(env), position
        position, complete = collect_rollout(env, learners, position, n_steps, recorder)
        assert complete
        for column, (agent, learner) in enumerate(learners.items()):
            buffer, shape = learner.rollout_buffer, (n_steps, 3)
            advantages, returns, mask = np.zeros(shape), np.zeros(shape), np.zeros(shape, bool)
            for copy in range(3):
                for t, (advantage, value) in slow_gae(learner, agent, column, copy, start, recorder.steps).items():
                    advantages[t, copy], returns[t, copy], mask[t, copy] = advantage, advantage + value, True
            np.testing.assert_array_equal(buffer.mask, mask)
            np.testing.assert_allclose(buffer.advantages, advantages, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(buffer.returns, returns, rtol=1e-4, atol=1e-5)


def test_masks_follow_the_script_of_lives():
    # Episodes of five steps: "early" acts in steps 1-2, "late" enters after step 2 and is cut off at 4.
    env = make_joint_vec_env(lambda: late_entry(jitter=0), 2, seed=0)
    learners = build(env, n_steps=7)
    collect_rollout(env, learners, beginning(env), 7, go_on)
    lives = {"late": "..##...", "early": "##...##", "last": "#######"}
    for agent, life in lives.items():
        expected = np.array([[letter == "#"] * 2 for letter in life])
        np.testing.assert_array_equal(learners[agent].rollout_buffer.mask, expected)


def test_rows_of_absent_agents_are_empty():
    env = make_joint_vec_env(late_entry, 2, seed=0)
    learners = build(env, n_steps=9)
    collect_rollout(env, learners, beginning(env), 9, go_on)
    for learner in learners.values():
        buffer = learner.rollout_buffer
        assert buffer.mask.any()
        for name in ("rewards", "values", "advantages", "returns"):
            assert not getattr(buffer, name)[~buffer.mask].any(), name
    assert not learners["early"].rollout_buffer.mask.all()


def test_two_rollouts_are_one_longer_one():
    def collect(lengths):
        env = make_joint_vec_env(toys.early_death, 2, seed=5)
        learners = build(env, n_steps=lengths[0])
        position, pieces = beginning(env), []
        th.manual_seed(9)
        for length in lengths:
            position, _ = collect_rollout(env, learners, position, length, go_on)
            names = ("observations", "actions", "rewards", "episode_starts", "values", "log_probs", "mask")
            pieces.append({a: [getattr(x.rollout_buffer, n).copy() for n in names] for a, x in learners.items()})
        return position, pieces

    end, (whole,) = collect([10])
    other_end, pieces = collect([5, 5])
    for agent, arrays in whole.items():
        for k, array in enumerate(arrays):
            np.testing.assert_array_equal(np.concatenate([piece[agent][k] for piece in pieces]), array)
        np.testing.assert_array_equal(end.observations[agent], other_end.observations[agent])
    np.testing.assert_array_equal(end.alive, other_end.alive)
    np.testing.assert_array_equal(end.episode_starts, other_end.episode_starts)


def test_the_callback_stops_the_rollout_and_the_position_is_the_one_reached():
    env = make_joint_vec_env(toys.plain, 2, seed=0)
    learners = build(env, n_steps=5)
    seen = []
    position, complete = collect_rollout(env, learners, beginning(env), 5, lambda step: seen.append(step) or len(seen) < 3)
    assert not complete
    assert [step["n_steps"] for step in seen] == [0, 1, 2]
    assert set(seen[0]) == {"n_steps", "actions", "new_obs", "rewards", "dones", "infos"}
    for learner in learners.values():
        assert not learner.rollout_buffer.full
    for agent, observation in position.observations.items():
        np.testing.assert_array_equal(observation, seen[-1]["new_obs"][agent])
    np.testing.assert_array_equal(position.alive, env.alive)


# ---------------------------------------------------------------- actions


def test_box_actions_are_clipped_for_the_environment_and_stored_as_sampled():
    env = make_joint_vec_env(toys.early_death, 2, seed=0)
    learners = build(env, n_steps=6, policy_kwargs={"log_std_init": 1.0})
    recorder = Recorder(env)
    collect_rollout(env, learners, beginning(env), 6, recorder)
    for agent, learner in learners.items():
        stored = learner.rollout_buffer.actions
        assert np.abs(stored).max() > 1
        np.testing.assert_array_equal(np.clip(stored, -1, 1), np.stack([action[agent] for action in recorder.actions]))


@pytest.mark.parametrize("world", ["plain", "early_death", "pictures"])
def test_stored_log_probabilities_belong_to_the_stored_actions(world):
    env = make_joint_vec_env(WORLDS[world], 2, seed=3)
    learners = build(env, n_steps=4)
    collect_rollout(env, learners, beginning(env), 4, go_on)
    for learner in learners.values():
        batch = agent_batch(learner)
        with th.no_grad():
            values, log_prob, _ = learner.policy.evaluate_actions(batch.observations, batch.actions)
        th.testing.assert_close(log_prob, batch.old_log_prob, rtol=1e-4, atol=1e-5)
        live = batch.mask
        th.testing.assert_close(values.flatten()[live], batch.old_values[live], rtol=1e-4, atol=1e-5)


def test_squashed_actions_are_unscaled_to_the_bounds():
    space = spaces.Box(np.array([-3.0, 0.0], np.float32), np.array([5.0, 1.0], np.float32))
    spaces_of_agent = SpacesVecEnv(1, spaces.Box(-1, 1, (2,)), space)
    arguments = {"n_steps": 2, "batch_size": 2, "use_sde": True, "device": "cpu", "policy_kwargs": {"squash_output": True}}
    policy = build_learner(PPO, "MlpPolicy", spaces_of_agent, arguments, None).policy
    actions = np.array([[-1.0, 0.0], [0.5, 1.0]], np.float32)
    np.testing.assert_allclose(to_env_actions(policy, space, actions), [[-3.0, 0.5], [3.0, 1.0]])


def test_exploration_noise_is_drawn_as_often_as_in_sb3(monkeypatch):
    env = make_joint_vec_env(toys.early_death, 2, seed=0)
    learners = build(env, n_steps=5, use_sde=True, sde_sample_freq=2)
    draws = []
    monkeypatch.setattr(learners["a"].policy, "reset_noise", lambda n_envs: draws.append((env.last_step is None, n_envs)))
    collect_rollout(env, learners, beginning(env), 5, go_on)
    # Once before the first step, then before steps 0, 2 and 4.
    assert draws == [(True, 2), (True, 2), (False, 2), (False, 2)]


# ---------------------------------------------------------------- observations


def test_images_are_stored_channels_first_and_dicts_entry_by_entry():
    env = make_joint_vec_env(pictures, 2, seed=0)
    learners = build(env, n_steps=3)
    start, recorder = beginning(env), Recorder(env)
    collect_rollout(env, learners, start, 3, recorder)
    given = [start.observations, *(step.observations for step in recorder.steps[:-1])]
    stored, in_dict = learners["image"].rollout_buffer.observations, learners["dict"].rollout_buffer.observations
    for t in range(3):
        np.testing.assert_array_equal(stored[t], given[t]["image"].transpose(0, 3, 1, 2))
        np.testing.assert_array_equal(in_dict["picture"][t], given[t]["dict"]["picture"].transpose(0, 3, 1, 2))
        np.testing.assert_array_equal(in_dict["x"][t], given[t]["dict"]["x"])
        np.testing.assert_array_equal(in_dict["number"][t].flatten(), given[t]["dict"]["number"].flatten())


class Clock(toys.ToyEnv):
    """All agents observe the same number, which no two steps of any two copies share."""

    made = 0

    def __init__(self):
        names = ["b", "a"]
        box = dict.fromkeys(names, spaces.Box(-np.inf, np.inf, (1,), np.float64))
        super().__init__(box, dict.fromkeys(names, spaces.Discrete(2)), dict.fromkeys(names, (3, "truncated")))
        Clock.made += 1
        self.now = 1000 * Clock.made

    def _observe(self, agents):
        self.now += 1
        return {agent: np.array([float(self.now)]) for agent in agents}


def test_rows_of_all_agents_are_the_same_joint_steps_in_copy_major_order():
    env = make_joint_vec_env(Clock, 3, seed=0)
    learners = build(env, n_steps=4)
    start, recorder = beginning(env), Recorder(env)
    collect_rollout(env, learners, start, 4, recorder)
    given = [start.observations, *(step.observations for step in recorder.steps[:-1])]
    expected = [given[t]["a"][copy, 0] for copy in range(3) for t in range(4)]
    rewards = np.stack([step.rewards for step in recorder.steps])  # (n_steps, num_envs, n_agents)
    for column, agent in enumerate(("b", "a")):
        stored_rewards = learners[agent].rollout_buffer.rewards
        uncut = ~np.stack([step.truncated[:, column] for step in recorder.steps])
        np.testing.assert_array_equal(stored_rewards[uncut], rewards[:, :, column][uncut])
        assert agent_batch(learners[agent]).observations.flatten().tolist() == expected


def test_a_batch_has_every_column_in_the_same_order():
    env = make_joint_vec_env(late_entry, 2, seed=0)
    learners = build(env, n_steps=5)
    collect_rollout(env, learners, beginning(env), 5, go_on)
    for learner in learners.values():
        buffer = learner.rollout_buffer
        before = {name: getattr(buffer, name).copy() for name in ("actions", "log_probs", "values", "advantages", "returns")}
        mask = buffer.mask.copy()
        batch = agent_batch(learner)
        for row in range(10):
            copy, t = divmod(row, 5)
            assert batch.actions[row] == before["actions"][t, copy, 0]
            assert batch.old_log_prob[row] == before["log_probs"][t, copy]
            assert batch.old_values[row] == before["values"][t, copy]
            assert batch.advantages[row] == before["advantages"][t, copy]
            assert batch.returns[row] == before["returns"][t, copy]
            assert batch.mask[row] == mask[t, copy]
        assert batch.actions.dtype == th.int64
        again = agent_batch(learner)
        assert th.equal(again.observations, batch.observations), "flattening twice changes nothing"


@pytest.mark.parametrize("agent", ["image", "dict", "bits"])
def test_batches_have_the_types_that_sb3_trains_on(agent):
    env = make_joint_vec_env(pictures, 2, seed=0)
    learners = build(env, n_steps=2)
    collect_rollout(env, learners, beginning(env), 2, go_on)
    buffer = learners[agent].rollout_buffer
    buffer.mask = np.ones_like(buffer.mask)
    batch, theirs = agent_batch(learners[agent]), next(buffer.get())
    assert batch.actions.dtype == theirs.actions.dtype and batch.actions.shape == theirs.actions.shape
    if agent == "dict":
        kinds = {key: (value.dtype, value.shape) for key, value in theirs.observations.items()}
        assert {key: (value.dtype, value.shape) for key, value in batch.observations.items()} == kinds
    else:
        assert (batch.observations.dtype, batch.observations.shape) == (theirs.observations.dtype, theirs.observations.shape)


def entries(observations):
    """Observations entry by entry."""
    return observations if isinstance(observations, dict) else {"observations": observations}


def test_rows_are_taken_from_all_fields_alike():
    env = make_joint_vec_env(pictures, 2, seed=0)
    learners = build(env, n_steps=3)
    collect_rollout(env, learners, beginning(env), 3, go_on)
    batches = [agent_batch(learner) for learner in learners.values()]
    rows = np.array([4, 0])
    for batch in batches:
        assert take_rows(batch, slice(None)) is batch
        taken = take_rows(batch, rows)
        for name in ("actions", "old_log_prob", "old_values", "advantages", "returns", "mask"):
            assert th.equal(getattr(taken, name), th.stack([getattr(batch, name)[4], getattr(batch, name)[0]])), name
        all_observations = entries(batch.observations)
        assert entries(taken.observations).keys() == all_observations.keys()
        for key, value in entries(taken.observations).items():
            assert th.equal(value, all_observations[key][[4, 0]]), key
    assert th.equal(live_rows(batches), th.stack([batch.mask for batch in batches]).T)


# ---------------------------------------------------------------- the masked buffer

FIELDS = ("actions", "old_values", "old_log_prob", "advantages", "returns")
BOX, DICT = spaces.Box(-1, 1, (3,), np.float32), spaces.Dict({"x": spaces.Box(-1, 1, (2,)), "k": spaces.Discrete(4)})
BASES = [(RolloutBuffer, BOX), (DictRolloutBuffer, DICT)]


def filled(buffer_class, observation_space, n_steps=5, n_envs=3):
    rng = np.random.default_rng(0)
    buffer = buffer_class(n_steps, observation_space, spaces.Discrete(4), device="cpu", n_envs=n_envs, gamma=GAMMA)
    for _ in range(n_steps):
        observation = {"x": rng.normal(size=(n_envs, 2)), "k": rng.integers(4, size=n_envs)}
        buffer.add(
            observation if buffer_class.__name__.endswith("DictRolloutBuffer") else rng.normal(size=(n_envs, 3)),
            rng.integers(4, size=(n_envs, 1)),
            rng.normal(size=n_envs),
            rng.random(n_envs) < 0.3,
            th.tensor(rng.normal(size=n_envs)),
            th.tensor(rng.normal(size=n_envs)),
        )
    buffer.compute_returns_and_advantage(th.tensor(rng.normal(size=n_envs)), np.zeros(n_envs))
    return buffer


def fields_of(samples):
    """Field -> array, Dict observations entry by entry."""
    return {name: getattr(samples, name) for name in FIELDS} | entries(samples.observations)


@pytest.mark.parametrize(("base", "space"), BASES)
@pytest.mark.parametrize("batch_size", [None, 4, 15, 100])
def test_with_everyone_alive_minibatches_are_sb3_s_own_bit_for_bit(base, space, batch_size):
    theirs, ours = filled(base, space), filled(masked_buffer_class(base), space)
    ours.mask = np.ones((5, 3), bool)
    results, states = [], []
    for buffer in (theirs, ours):
        np.random.seed(11)
        results.append([samples for _ in range(2) for samples in buffer.get(batch_size)])
        states.append(np.random.get_state()[1:3])
    for mine, reference in zip(results[1], results[0], strict=True):
        ours_fields, their_fields = fields_of(mine), fields_of(reference)
        assert ours_fields.keys() == their_fields.keys()
        for name, value in their_fields.items():
            assert th.equal(ours_fields[name], value) and ours_fields[name].dtype == value.dtype, name
    np.testing.assert_array_equal(states[0][0], states[1][0])
    assert states[0][1] == states[1][1], "and the random stream has gone equally far"


@pytest.mark.parametrize(("base", "space"), BASES)
@pytest.mark.parametrize("batch_size", [None, 1, 4, 100])
def test_minibatches_hold_every_live_row_once_and_no_dead_one(base, space, batch_size):
    theirs, ours = filled(base, space), filled(masked_buffer_class(base), space)
    ours.mask = np.random.default_rng(1).random((5, 3)) < 0.6
    live = [copy * 5 + t for copy in range(3) for t in range(5) if ours.mask[t, copy]]
    next(theirs.get())  # flattens
    key_of = {theirs._get_samples(np.array([row])).returns.item(): row for row in range(15)}
    assert len(key_of) == 15, "returns tell the rows apart"
    rows = []
    for samples in ours.get(batch_size):
        assert 1 <= len(samples.returns) <= (batch_size or len(live))
        found = [key_of[value.item()] for value in samples.returns]
        for name, value in fields_of(theirs._get_samples(np.array(found))).items():
            assert th.equal(fields_of(samples)[name], value), name
        rows += found
    assert sorted(rows) == sorted(live)


def test_minibatches_come_in_another_order_every_time():
    buffer = filled(masked_buffer_class(RolloutBuffer), BOX)
    buffer.mask = np.ones((5, 3), bool)
    buffer.mask[0, 0] = False
    np.random.seed(0)
    first, second = next(buffer.get()).returns, next(buffer.get()).returns
    assert not th.equal(first, second)
    assert th.equal(first.sort().values, second.sort().values)


def test_an_agent_that_never_acted_has_no_minibatch():
    buffer = filled(masked_buffer_class(RolloutBuffer), BOX)
    buffer.mask = np.zeros((5, 3), bool)
    assert list(buffer.get(4)) == []


def test_a_buffer_that_is_not_full_has_no_minibatches():
    buffer = masked_buffer_class(RolloutBuffer)(5, BOX, spaces.Discrete(4), device="cpu")
    buffer.mask = np.zeros((5, 1), bool)
    with pytest.raises(AssertionError, match="not full"):
        next(buffer.get())


def test_only_rollout_buffers_can_be_masked():
    with pytest.raises(TypeError, match="ReplayBuffer is not a subclass of SB3's RolloutBuffer"):
        masked_buffer_class(ReplayBuffer)


@pytest.mark.parametrize(("base", "name"), [(RecurrentRolloutBuffer, "lstm_states"), (MaskableRolloutBuffer, "action_masks")])
def test_buffers_that_store_more_are_refused(base, name):
    with pytest.raises(TypeError, match=f"{base.__name__} wants {name} at every step"):
        masked_buffer_class(base)


def test_a_learner_keeps_its_buffer_s_class_and_settings():
    class Own(RolloutBuffer):
        def __init__(self, *args, flavour="", **kwargs):
            super().__init__(*args, **kwargs)
            self.flavour = flavour

    arguments = {"n_steps": 4, "batch_size": 8, "gamma": 0.5, "gae_lambda": 0.25, "device": "cpu"}
    own = {"rollout_buffer_class": Own, "rollout_buffer_kwargs": {"flavour": "mint"}}
    learner = build_learner(PPO, "MlpPolicy", SpacesVecEnv(2, BOX, spaces.Discrete(2)), arguments, own)
    install_masked_buffer(learner)
    buffer = learner.rollout_buffer
    assert isinstance(buffer, Own) and buffer.flavour == "mint"
    assert learner.rollout_buffer_class is Own, "a saved learner refers to the original"
    assert (buffer.buffer_size, buffer.n_envs, buffer.gamma, buffer.gae_lambda) == (4, 2, 0.5, 0.25)
    assert buffer.mask.shape == (4, 2) and buffer.mask.all()
