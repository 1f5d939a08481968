"""Steps of RecurrentPPO with whole sequences, beside sb3-contrib's own update; see :mod:`tests.host_syncs` for the device."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.buffers import RecurrentRolloutBuffer
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger

from sb3_matrl.common.agents import SpacesVecEnv
from sb3_matrl.matrl.best_response import _gradient_step
from sb3_matrl.on_policy import joint_updates
from sb3_matrl.on_policy.batch import agent_batch, evaluate, minibatches
from sb3_matrl.on_policy.buffers import install_masked_buffer
from sb3_matrl.on_policy.central_policies import with_central_critic
from sb3_matrl.on_policy.learners import build_learner
from sb3_matrl.on_policy.ppo_steps import can_read_once, ppo_steps
from sb3_matrl.on_policy.sequences import _Blocks, _Packed, takes_whole_sequences
from tests.host_syncs import META, on_meta
from tests.matrl.small_models import best_response_config

BOX, IMAGE = spaces.Box(-1, 1, (3,), np.float32), spaces.Box(0, 255, (1, 36, 36), np.uint8)
DICT = spaces.Dict({"far": BOX, "near": BOX})
DISCRETE, CONTINUOUS = spaces.Discrete(4), spaces.Box(-1, 1, (2,), np.float32)
N_STEPS, N_ENVS, SIZE = 7, 3, 8
SMALL = {"net_arch": [8], "lstm_hidden_size": SIZE}
CASES = {
    "two LSTMs": ("MlpLstmPolicy", BOX, DISCRETE, {}, {}),
    "all rows at once": ("MlpLstmPolicy", BOX, DISCRETE, {}, {"batch_size": 99, "normalize_advantage": False}),
    "the actor's alone": ("MlpLstmPolicy", BOX, CONTINUOUS, {"enable_critic_lstm": False}, {"clip_range_vf": 0.1}),
    "one for both": ("MlpLstmPolicy", BOX, DISCRETE, {"enable_critic_lstm": False, "shared_lstm": True}, {}),
    "two layers": ("MlpLstmPolicy", BOX, DISCRETE, {"n_lstm_layers": 2}, {"max_grad_norm": 0.01}),
    "no entropy in closed form": ("MlpLstmPolicy", BOX, CONTINUOUS, {}, {"use_sde": True}),
    "Dict observations": ("MultiInputLstmPolicy", DICT, DISCRETE, {}, {}),
    "images": ("CnnLstmPolicy", IMAGE, DISCRETE, {}, {}),
}


def observations_of(space, rng):
    if isinstance(space, spaces.Dict):
        return {key: observations_of(one, rng) for key, one in space.items()}
    shape = (N_ENVS, *space.shape)
    return rng.integers(256, size=shape) if space is IMAGE else rng.normal(size=shape)


def learner(case, n_alive=N_STEPS * N_ENVS, policy_class=None, **settings):
    """A learner with a full buffer: some sequences go on with states of the rollout before, others begin in the middle."""
    policy, observations, actions, policy_kwargs, arguments = CASES[case]
    env = SpacesVecEnv(N_ENVS, observations, actions)
    common = {"n_steps": N_STEPS, "batch_size": 8, "n_epochs": 2, "learning_rate": 1e-2, "ent_coef": 0.03, "seed": 3}
    common |= {"device": "cpu", "gamma": 0.9, "policy_kwargs": SMALL | policy_kwargs}
    built = build_learner(RecurrentPPO, policy_class or policy, env, common | arguments | settings, None)
    install_masked_buffer(built)
    rng = np.random.default_rng(0)

    def states():
        return tuple(th.tensor(rng.normal(size=(built.policy.lstm_actor.num_layers, N_ENVS, SIZE))) for _ in range(2))

    for _ in range(N_STEPS):
        built.rollout_buffer.add(
            observations_of(observations, rng),
            rng.integers(4, size=(N_ENVS, 1)) if actions is DISCRETE else rng.normal(size=(N_ENVS, 2)),
            rng.normal(size=N_ENVS),
            rng.random(N_ENVS) < 0.3,
            th.tensor(rng.normal(size=N_ENVS)),
            th.tensor(rng.normal(size=N_ENVS) - 1.5),
            lstm_states=RNNStates(states(), states()),
        )
    built.rollout_buffer.compute_returns_and_advantage(th.tensor(rng.normal(size=N_ENVS)), np.zeros(N_ENVS))
    built.rollout_buffer.mask = (rng.permutation(N_STEPS * N_ENVS) < n_alive).reshape(N_STEPS, N_ENVS)
    built.set_logger(Logger(folder=None, output_formats=[]))
    return built


@pytest.mark.parametrize("n_alive", [N_STEPS * N_ENVS, 13])
@pytest.mark.parametrize("case", CASES)
def test_parameters_and_logged_numbers_are_those_of_sb3_contrib(case, n_alive):
    theirs, ours = learner(case, n_alive), learner(case, n_alive)
    before = th.cat([value.flatten() for value in theirs.policy.parameters()])
    np.random.seed(5)
    theirs.train()
    drawn = np.random.get_state()[2]
    np.random.seed(5)
    joint_updates._log_training(ours, ppo_steps(ours))
    assert np.random.get_state()[2] == drawn and ours._n_updates == theirs._n_updates == 2
    for name, value in ours.policy.state_dict().items():
        th.testing.assert_close(value, theirs.policy.state_dict()[name], rtol=2e-4, atol=1e-5)
    after = th.cat([value.flatten() for value in theirs.policy.parameters()])
    assert (after - before).abs().max() > 1e-2
    logged, expected = ours.logger.name_to_value, theirs.logger.name_to_value
    assert set(logged) == set(expected)
    for name, value in expected.items():
        assert logged[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name


@pytest.mark.parametrize(
    ("n_alive", "settings", "n_steps"),
    [
        (2, {"batch_size": 1}, 2),  # decisions far apart are one minibatch
        (21, {"batch_size": 20, "normalize_advantage": False}, 4),
        # sb3-contrib would divide by the standard deviation of one number: such minibatches are left out.
        (21, {"batch_size": 4}, 10),
        (21, {"batch_size": 1}, 2),
    ],
)
def test_minibatches_of_one_row(n_alive, settings, n_steps):
    theirs, ours = (learner("two LSTMs", n_alive, **settings) for _ in range(2))
    np.random.seed(5)
    theirs.train()
    np.random.seed(5)
    assert len(ppo_steps(ours).epochs) == n_steps
    for name, value in ours.policy.state_dict().items():
        th.testing.assert_close(value, theirs.policy.state_dict()[name], rtol=2e-4, atol=1e-5)


def test_minibatches_are_those_of_sb3_contrib():
    buffer = learner("two LSTMs").rollout_buffer
    for seed in range(100):
        np.random.seed(seed)
        theirs = [samples.returns[samples.mask > 0] for samples in buffer.get(8)]
        np.random.seed(seed)
        ours = [samples.rows.returns for samples in buffer.sequences(8)]
        assert all(map(th.equal, ours, theirs)) and len(ours) == len(theirs) == 3


def test_a_policy_keeps_no_trace():
    built = learner("two LSTMs")
    names = set(vars(built.policy))
    ppo_steps(built)
    assert set(vars(built.policy)) == names
    with pytest.raises(RuntimeError), agent_batch(built).columns.through(built.policy):
        raise RuntimeError
    assert set(vars(built.policy)) == names


# ---------------------------------------------------------------- the order in which LSTMs read sequences

LENGTHS = [np.array(one) for one in ([1], [4, 4, 4], [3, 7, 1, 7, 2, 15], [1] * 9 + [30], [30, 2, 1])]


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("order", [_Blocks, _Packed])
def test_sequences_pass_through_an_lstm_as_one_by_one(order, lengths):
    th.manual_seed(0)
    device = [th.device("cpu")] if order is _Packed else []
    lstm = th.nn.LSTM(3, SIZE, num_layers=2)
    inputs = [th.randn(lengths.sum(), 3), th.randn(2, len(lengths), SIZE), th.randn(2, len(lengths), SIZE)]
    features, *states = (one.requires_grad_() for one in inputs)
    output = order.of(lengths, *device).through(lstm, features, tuple(states))
    one_by_one = [
        lstm(rows, tuple(state[:, index] for state in states))[0]
        for index, rows in enumerate(th.split(features, lengths.tolist()))
    ]
    expected, weights = th.cat(one_by_one), th.randn(lengths.sum(), SIZE)
    th.testing.assert_close(output, expected)
    variables = [features, *states, *lstm.parameters()]
    found, wanted = (th.autograd.grad((one * weights).sum(), variables) for one in (output, expected))
    for mine, reference in zip(found, wanted, strict=True):
        th.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_sequences_of_a_block_have_similar_lengths(lengths):
    blocks = _Blocks.of(lengths)
    for sequences, n_steps in zip(blocks.sequences, blocks.steps, strict=True):
        assert lengths[sequences].max() == n_steps and 2 * lengths[sequences].min() > n_steps
    assert len(blocks.steps) <= 1 + np.log2(lengths.max())


# ---------------------------------------------------------------- a GPU


def to_meta(built):
    built.policy = on_meta(built.policy)
    built.device = built.rollout_buffer.device = META
    return built


@pytest.mark.parametrize("n_alive", [N_STEPS * N_ENVS, 13])
@pytest.mark.parametrize("case", ["two LSTMs", "the actor's alone", "Dict observations", "images"])
def test_steps_wait_for_nothing(case, n_alive, monkeypatch):
    built = to_meta(learner(case, n_alive))
    steps = []
    step = built.policy.optimizer.step
    monkeypatch.setattr(built.policy.optimizer, "step", lambda: steps.append(step()))
    with pytest.raises(NotImplementedError, match="meta"):  # the losses are read at the end
        ppo_steps(built)
    assert len(steps) >= 4
    taken = len(steps)
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        built.train()
    assert len(steps) == taken, "sb3-contrib's own update waits before its first step"


@pytest.mark.parametrize("n_alive", [N_STEPS * N_ENVS, 13])
def test_a_step_of_the_best_response_waits_for_nothing(n_alive):
    built = learner("two LSTMs", n_alive)
    rows = next(iter(minibatches(agent_batch(built), N_STEPS, np.random.default_rng(0))))
    batch = agent_batch(to_meta(built))
    config = best_response_config(ent_coef=0.1, br_kl_coef=0.1)
    weights = th.ones(N_STEPS * N_ENVS, device=META)
    assert _gradient_step(built.policy, built.policy.optimizer, batch, weights, config, rows) is not None


# ---------------------------------------------------------------- learners that are left to sb3-contrib


class Own(RecurrentActorCriticPolicy):
    """A policy of the user's own, which passes the steps through the LSTM in its own way."""

    @staticmethod
    def _process_sequence(features, lstm_states, episode_starts, lstm):
        assert episode_starts is not None
        output, states = RecurrentActorCriticPolicy._process_sequence(features, lstm_states, episode_starts, lstm)
        return 2 * output, states


class OwnBuffer(RecurrentRolloutBuffer):
    pass


def test_which_learners_take_whole_sequences():
    assert can_read_once(learner("two LSTMs"))
    assert takes_whole_sequences(learner("one for both").policy)
    env = SpacesVecEnv(N_ENVS, BOX, DISCRETE)
    central = with_central_critic(RecurrentPPO, "MlpLstmPolicy")
    kwargs = {"device": "cpu", "policy_kwargs": SMALL | {"state_size": 5}}
    assert takes_whole_sequences(build_learner(RecurrentPPO, central, env, kwargs, None).policy)

    own_way = learner("two LSTMs", policy_class=Own)
    replaced, other_layer, watched, watched_backward, other_pass = (learner("two LSTMs") for _ in range(5))
    replaced.policy._process_sequence = RecurrentActorCriticPolicy._process_sequence
    other_layer.policy.lstm_critic = th.nn.GRU(3, SIZE)
    watched.policy.lstm_actor.register_forward_hook(lambda *_: None)
    watched_backward.policy.lstm_critic.register_full_backward_hook(lambda *_: None)
    other_pass.policy.lstm_actor.forward = other_pass.policy.lstm_actor.forward
    for one in (own_way, replaced, other_layer, watched, watched_backward, other_pass):
        assert not takes_whole_sequences(one.policy) and not can_read_once(one)

    buffer = learner("two LSTMs")
    buffer.rollout_buffer = OwnBuffer(N_STEPS, BOX, DISCRETE, (N_STEPS, 1, N_ENVS, SIZE), device="cpu", n_envs=N_ENVS)
    install_masked_buffer(buffer)
    assert not can_read_once(buffer)
    assert not can_read_once(learner("two LSTMs", target_kl=0.1))


def test_the_best_response_of_an_own_policy_follows_its_own_way():
    own_way, plain = (learner("two LSTMs", 13, policy_class=one) for one in (Own, None))
    plain.policy.load_state_dict(own_way.policy.state_dict())
    with th.no_grad():  # twice the LSTM's outputs are the same network as twice the weights that read them
        for layers in (plain.policy.mlp_extractor.policy_net, plain.policy.mlp_extractor.value_net):
            layers[0].weight *= 2.0
        found = [evaluate(one.policy, agent_batch(one)) for one in (own_way, plain)]
    for mine, reference in zip(*found, strict=True):
        th.testing.assert_close(mine, reference, rtol=1e-5, atol=1e-6)


def test_one_learner_is_left_to_sb3_and_two_take_whole_sequences(monkeypatch):
    used = []
    taken = joint_updates.ppo_steps
    monkeypatch.setattr(joint_updates, "ppo_steps", lambda one: used.append(one) or taken(one))
    for backend, names, expected in (("auto", "a", 0), ("auto", "ab", 2), ("sb3", "ab", 0), ("torch", "a", 1)):
        used.clear()
        joint = joint_updates.JointUpdates({name: learner("two LSTMs") for name in names}, backend)
        joint.train({})
        assert len(used) == expected
        assert ("LSTMs read whole sequences" in joint.describe()) == bool(expected)
        assert ("by SB3" in joint.describe()) != bool(expected)
        assert ("backend 'torch' is faster" in joint.describe()) == ((backend, names) == ("auto", "a"))


def test_a_ppo_beside_two_recurrent_learners_is_left_to_sb3():
    learners = {name: learner("two LSTMs") for name in "ab"}
    learners["c"] = build_learner(PPO, "MlpPolicy", SpacesVecEnv(N_ENVS, BOX, DISCRETE), {"device": "cpu"}, None)
    install_masked_buffer(learners["c"])
    joint = joint_updates.JointUpdates(learners, "auto")
    for device in ("cpu", META):
        learners["c"].device = th.device(device)
        assert [joint._steps_itself(one) for one in learners.values()] == [True, True, device == META]
        assert "a, b one by one, LSTMs read whole sequences; c one by one by SB3" in joint.describe()
