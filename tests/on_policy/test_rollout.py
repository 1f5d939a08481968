"""Joint collection against a slow advantage estimator, and masked buffers against SB3's own."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO

from sb3_matrl.common.agents import Position, SpacesVecEnv, Team
from sb3_matrl.on_policy.actors import to_env_actions
from sb3_matrl.on_policy.batch import agent_batch, take_rows
from sb3_matrl.on_policy.buffers import install_masked_buffer
from sb3_matrl.on_policy.learners import build_learner
from sb3_matrl.on_policy.rollout import RolloutCollector
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


def solo(learners):
    """Every agent with a learner of its own."""
    return Team(list(learners), learners, {agent: (agent,) for agent in learners})


def beginning(env):
    return Position(env.reset(), np.ones_like(env.alive))


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


def slow_gae(learner, agent, column, copy, start, alive_at_start, steps):
    """
    Advantages of one agent in one copy, episode by episode, as sums of discounted TD errors.

    Returns step -> (advantage, value) for the steps at which the agent acted.
    """
    observations = [start.observations, *(step.observations for step in steps)]
    alive = [alive_at_start, *(step.alive for step in steps)]
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
        recorder, start, alive = Recorder(env), position, env.alive
        position, complete = RolloutCollector(env, solo(learners)).collect(position, n_steps, recorder)
        assert complete
        for column, (agent, learner) in enumerate(learners.items()):
            buffer, shape = learner.rollout_buffer, (n_steps, 3)
            advantages, returns, mask = np.zeros(shape), np.zeros(shape), np.zeros(shape, bool)
            for copy in range(3):
                for t, (advantage, value) in slow_gae(learner, agent, column, copy, start, alive, recorder.steps).items():
                    advantages[t, copy], returns[t, copy], mask[t, copy] = advantage, advantage + value, True
            np.testing.assert_array_equal(buffer.mask, mask)
            np.testing.assert_allclose(buffer.advantages, advantages, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(buffer.returns, returns, rtol=1e-4, atol=1e-5)


def test_masks_follow_the_script_of_lives():
    # Episodes of five steps: "early" acts in steps 1-2, "late" enters after step 2 and is cut off at 4.
    env = make_joint_vec_env(lambda: late_entry(jitter=0), 2, seed=0)
    learners = build(env, n_steps=7)
    RolloutCollector(env, solo(learners)).collect(beginning(env), 7, go_on)
    lives = {"late": "..##...", "early": "##...##", "last": "#######"}
    for agent, life in lives.items():
        expected = np.array([[letter == "#"] * 2 for letter in life])
        np.testing.assert_array_equal(learners[agent].rollout_buffer.mask, expected)


def test_rows_of_absent_agents_are_empty():
    env = make_joint_vec_env(late_entry, 2, seed=0)
    learners = build(env, n_steps=9)
    RolloutCollector(env, solo(learners)).collect(beginning(env), 9, go_on)
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
            position, _ = RolloutCollector(env, solo(learners)).collect(position, length, go_on)
            names = ("observations", "actions", "rewards", "episode_starts", "values", "log_probs", "mask")
            pieces.append({a: [getattr(x.rollout_buffer, n).copy() for n in names] for a, x in learners.items()})
        return position, pieces, env.alive

    end, (whole,), alive = collect([10])
    other_end, pieces, other_alive = collect([5, 5])
    for agent, arrays in whole.items():
        for k, array in enumerate(arrays):
            np.testing.assert_array_equal(np.concatenate([piece[agent][k] for piece in pieces]), array)
        np.testing.assert_array_equal(end.observations[agent], other_end.observations[agent])
    np.testing.assert_array_equal(alive, other_alive)
    np.testing.assert_array_equal(end.episode_starts, other_end.episode_starts)


def test_the_callback_stops_the_rollout_and_the_position_is_the_one_reached():
    env = make_joint_vec_env(toys.plain, 2, seed=0)
    learners = build(env, n_steps=5)
    seen = []
    position, complete = RolloutCollector(env, solo(learners)).collect(
        beginning(env), 5, lambda step: seen.append(step) or len(seen) < 3
    )
    assert not complete
    assert [step["n_steps"] for step in seen] == [0, 1, 2]
    assert set(seen[0]) == {"n_steps", "actions", "new_obs", "rewards", "dones", "infos"}
    for learner in learners.values():
        assert not learner.rollout_buffer.full
    for agent, observation in position.observations.items():
        np.testing.assert_array_equal(observation, seen[-1]["new_obs"][agent])


# ---------------------------------------------------------------- actions


def test_box_actions_are_clipped_for_the_environment_and_stored_as_sampled():
    env = make_joint_vec_env(toys.early_death, 2, seed=0)
    learners = build(env, n_steps=6, policy_kwargs={"log_std_init": 1.0})
    recorder = Recorder(env)
    RolloutCollector(env, solo(learners)).collect(beginning(env), 6, recorder)
    for agent, learner in learners.items():
        stored = learner.rollout_buffer.actions
        assert np.abs(stored).max() > 1
        np.testing.assert_array_equal(np.clip(stored, -1, 1), np.stack([action[agent] for action in recorder.actions]))


@pytest.mark.parametrize("world", ["plain", "early_death", "pictures"])
def test_stored_log_probabilities_belong_to_the_stored_actions(world):
    env = make_joint_vec_env(WORLDS[world], 2, seed=3)
    learners = build(env, n_steps=4)
    RolloutCollector(env, solo(learners)).collect(beginning(env), 4, go_on)
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
    RolloutCollector(env, solo(learners)).collect(beginning(env), 5, go_on)
    # Once before the first step, then before steps 0, 2 and 4.
    assert draws == [(True, 2), (True, 2), (False, 2), (False, 2)]


# ---------------------------------------------------------------- observations


def test_images_are_stored_channels_first_and_dicts_entry_by_entry():
    env = make_joint_vec_env(pictures, 2, seed=0)
    learners = build(env, n_steps=3)
    start, recorder = beginning(env), Recorder(env)
    RolloutCollector(env, solo(learners)).collect(start, 3, recorder)
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
    RolloutCollector(env, solo(learners)).collect(start, 4, recorder)
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
    RolloutCollector(env, solo(learners)).collect(beginning(env), 5, go_on)
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
    RolloutCollector(env, solo(learners)).collect(beginning(env), 2, go_on)
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
    RolloutCollector(env, solo(learners)).collect(beginning(env), 3, go_on)
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
