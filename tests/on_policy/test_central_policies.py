"""Policies with central critics: SB3's networks with another input of the critic, and no way from there to the actor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import TRPO, MaskablePPO, RecurrentPPO
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from sb3_matrl.common.agents import SpacesVecEnv
from sb3_matrl.files.foreign import load_sb3_agent
from sb3_matrl.on_policy.central_policies import CentralCriticPolicy, ObservationAndState, with_central_critic
from sb3_matrl.utils.random_state import random_generators

VECTOR: spaces.Space[Any] = spaces.Box(-1, 1, (5,), np.float32)
PICTURE: spaces.Space[Any] = spaces.Box(0, 255, (3, 36, 36), np.uint8)
SEVERAL: spaces.Space[Any] = spaces.Dict({"x": spaces.Box(-1, 1, (3,), np.float32), "n": spaces.Discrete(2)})
ACTIONS = spaces.Discrete(3)
STATE_SIZE = 9
LEARNERS: dict[str, tuple[type, str]] = {
    "PPO": (PPO, "MlpPolicy"),
    "A2C": (A2C, "MlpPolicy"),
    "TRPO": (TRPO, "MlpPolicy"),
    "MaskablePPO": (MaskablePPO, "MlpPolicy"),
    "RecurrentPPO": (RecurrentPPO, "MlpLstmPolicy"),
}
KINDS: dict[str, tuple[type, str, spaces.Space[Any]]] = {
    **{name: (*learner, VECTOR) for name, learner in LEARNERS.items()},
    "pictures": (PPO, "CnnPolicy", PICTURE),
    "dicts": (PPO, "MultiInputPolicy", SEVERAL),
    "masked pictures": (MaskablePPO, "CnnPolicy", PICTURE),
    "masked dicts": (MaskablePPO, "MultiInputPolicy", SEVERAL),
    "recurrent pictures": (RecurrentPPO, "CnnLstmPolicy", PICTURE),
    "recurrent dicts": (RecurrentPPO, "MultiInputLstmPolicy", SEVERAL),
}


def build(kind: str, state_size: int = STATE_SIZE, **policy_kwargs: Any) -> Any:
    cls, policy, space = KINDS[kind]
    if "dicts" not in kind and "pictures" not in kind:
        policy_kwargs.setdefault("net_arch", [8])
    if cls is RecurrentPPO:
        policy_kwargs.setdefault("lstm_hidden_size", 8)
    env, kwargs = SpacesVecEnv(2, space, ACTIONS), {"state_size": state_size, **policy_kwargs}
    return cls(with_central_critic(cls, policy), env, seed=0, device="cpu", policy_kwargs=kwargs)


def observations(kind: str, n_rows: int) -> Any:
    rng, space = np.random.default_rng(1), KINDS[kind][2]
    if space is PICTURE:
        return th.as_tensor(rng.integers(0, 256, (n_rows, 3, 36, 36)))
    if space is SEVERAL:
        return {"x": th.as_tensor(rng.random((n_rows, 3))).float(), "n": th.as_tensor(rng.integers(0, 2, n_rows))}
    return th.as_tensor(rng.random((n_rows, 5))).float()


def states(n_rows: int) -> th.Tensor:
    return th.as_tensor(np.random.default_rng(2).normal(size=(n_rows, STATE_SIZE))).float()


def recurrent(policy: Any, n_rows: int) -> dict[str, Any]:
    """Further arguments of ``evaluate_actions`` of recurrent policies."""
    if not hasattr(policy, "lstm_actor"):
        return {}
    zeros = th.zeros(policy.lstm_actor.num_layers, n_rows, policy.lstm_actor.hidden_size)
    return {"lstm_states": RNNStates((zeros, zeros), (zeros, zeros)), "episode_starts": th.zeros(n_rows)}


def is_critic(name: str) -> bool:
    return "value_net" in name or name.startswith(("lstm_critic", "critic"))


@pytest.mark.parametrize("kind", LEARNERS)
def test_networks_are_sb3s_where_the_state_has_the_size_of_the_observation(kind: str) -> None:
    cls, policy = LEARNERS[kind]
    extra = {"lstm_hidden_size": 8} if cls is RecurrentPPO else {}
    theirs = cls(policy, SpacesVecEnv(2, VECTOR, ACTIONS), seed=0, device="cpu", policy_kwargs={"net_arch": [8], **extra})
    drawn = random_generators()["torch"]
    ours = build(kind, state_size=5)
    assert str(random_generators()["torch"]) == str(drawn)
    expected = theirs.policy.state_dict()
    assert list(ours.policy.state_dict()) == list(expected)
    assert all(th.equal(value, expected[name]) for name, value in ours.policy.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_no_gradient_of_the_critic_reaches_the_actor(kind: str) -> None:
    policy = build(kind).policy
    policy.set_training_mode(True)
    inputs, extra = ObservationAndState(observations(kind, 6), states(6)), recurrent(policy, 6)
    values, log_prob, _ = policy.evaluate_actions(inputs, th.arange(6) % 3, **extra)
    named = [(name, value) for name, value in policy.named_parameters() if value.requires_grad]
    for output, own in ((values, True), (log_prob, False)):
        gradients = th.autograd.grad(
            output.square().sum(), [value for _, value in named], allow_unused=True, retain_graph=True
        )
        reached = {name for (name, _), gradient in zip(named, gradients, strict=True) if gradient is not None}
        assert reached and all(is_critic(name) is own for name in reached)
    assert not th.equal(
        values, policy.evaluate_actions(ObservationAndState(inputs.observation, -inputs.state), th.arange(6) % 3, **extra)[0]
    )


@pytest.mark.parametrize("kind", ["PPO", "MaskablePPO", "dicts"])
def test_values_and_densities_are_those_of_two_separate_networks(kind: str) -> None:
    policy, own, state = build(kind).policy, observations(kind, 4), states(4)
    features = policy.extract_features(own, policy.features_extractor)
    actor = nn.Sequential(*policy.mlp_extractor.policy_net, policy.action_net)
    critic = nn.Sequential(*policy.mlp_extractor.value_net, policy.value_net)
    actions = th.tensor([0, 1, 2, 1])
    log_probs = th.log_softmax(actor(features), dim=1)
    values, log_prob, entropy = policy.evaluate_actions(ObservationAndState(own, state), actions)
    th.testing.assert_close(values, critic(state))
    th.testing.assert_close(log_prob, log_probs.gather(1, actions[:, None])[:, 0])
    th.testing.assert_close(entropy, -(log_probs.exp() * log_probs).sum(dim=1))
    th.testing.assert_close(policy.predict_values(ObservationAndState(own, state)), critic(state))
    th.manual_seed(0)
    chosen, values, log_prob = policy(ObservationAndState(own, state))
    th.testing.assert_close(values, critic(state))
    th.testing.assert_close(log_prob, log_probs.gather(1, chosen[:, None])[:, 0])


@pytest.mark.parametrize("critic_lstm", [True, False])
def test_a_recurrent_critic_reads_the_states_one_after_the_other(critic_lstm: bool) -> None:
    policy, own, state = (
        build("RecurrentPPO", enable_critic_lstm=critic_lstm).policy,
        observations("RecurrentPPO", 6),
        states(6),
    )
    starts = th.tensor([0.0, 0.0, 1.0, 0.0, 0.0, 0.0])
    zeros = th.zeros(1, 1, 8)
    extra = {"lstm_states": RNNStates((zeros, zeros), (zeros, zeros)), "episode_starts": starts}
    values = policy.evaluate_actions(ObservationAndState(own, state), th.zeros(6), **extra)[0]
    head, memory, expected = nn.Sequential(*policy.mlp_extractor.value_net, policy.value_net), (zeros, zeros), []
    for row, start in zip(state, starts, strict=True):
        if not critic_lstm:
            expected.append(head(policy.critic(row)))
            continue
        memory = (zeros, zeros) if start else memory
        latent, memory = policy.lstm_critic(row[None, None], memory)
        expected.append(head(latent[0, 0]))
    th.testing.assert_close(values, th.stack(expected))
    assert any(
        value is next(iter((policy.lstm_critic or policy.critic).parameters()))
        for value in policy.optimizer.param_groups[0]["params"]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_agent_plays_from_its_observation_alone(kind: str, tmp_path: Path) -> None:
    learner, own = build(kind), observations(kind, 3)
    arrays = {key: value.numpy() for key, value in own.items()} if isinstance(own, dict) else own.numpy()
    learner.save(tmp_path / "agent")
    loaded = type(learner).load(tmp_path / "agent", device="cpu")
    assert type(loaded.policy) is type(learner.policy) and loaded.policy.state_size == STATE_SIZE
    assert all(th.equal(a, b) for a, b in zip(loaded.policy.parameters(), learner.policy.parameters(), strict=True))
    np.testing.assert_array_equal(
        loaded.predict(arrays, deterministic=True)[0], learner.predict(arrays, deterministic=True)[0]
    )
    rebuilt = type(learner.policy)(
        **learner.policy._get_constructor_parameters() | ({"lstm_hidden_size": 8} if "ecurrent" in kind else {})
    )
    assert [value.shape for value in rebuilt.parameters()] == [value.shape for value in learner.policy.parameters()]


@pytest.mark.parametrize("kind", ["PPO", "MaskablePPO", "masked pictures", "RecurrentPPO", "recurrent dicts"])
def test_files_tell_which_learner_reads_them(kind: str, tmp_path: Path) -> None:
    learner = build(kind)
    learner.save(tmp_path / "agent")
    loaded = load_sb3_agent(tmp_path / "agent.zip", trust=True, device="cpu")
    assert type(loaded) is type(learner) and type(loaded.policy) is type(learner.policy)
    assert all(th.equal(a, b) for a, b in zip(loaded.policy.parameters(), learner.policy.parameters(), strict=True))


class Vectors(gym.Env[Any, Any]):
    """Random vectors."""

    observation_space, action_space = VECTOR, ACTIONS

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        return self.observation_space.sample(), 0.0, False, False, {}


def test_learning_alone_says_what_is_missing(tmp_path: Path) -> None:
    build("PPO").save(tmp_path / "agent")
    with pytest.raises(ValueError, match=r"the critic of this policy sees the state.*call learn\(\) of the model"):
        PPO.load(tmp_path / "agent", env=Vectors()).learn(10)


def test_pictures_leave_the_critic_hidden_layers() -> None:
    policy = build("pictures").policy
    sizes = [layer.in_features for layer in policy.mlp_extractor.value_net if isinstance(layer, nn.Linear)]
    assert sizes == [STATE_SIZE, 64] and len(policy.mlp_extractor.policy_net) == 0


def test_rows_of_observations_and_states() -> None:
    whole = ObservationAndState({"x": th.arange(6)}, th.arange(12).view(6, 2))
    part = whole[::2]
    assert part.observation["x"].tolist() == [0, 2, 4] and part.state.tolist() == [[0, 1], [4, 5], [8, 9]]  # type: ignore[index]
    assert ObservationAndState(th.arange(3), th.arange(3))[1:].observation.tolist() == [1, 2]  # type: ignore[union-attr]


class OwnPolicy(ActorCriticPolicy):
    """A user's policy."""


class OwnCentralPolicy(CentralCriticPolicy):
    """A user's policy with a central critic."""


def test_policies_of_the_user() -> None:
    with pytest.raises(ValueError, match=r"that of OwnPolicy does not.*'MlpPolicy'.*CentralCriticPolicy"):
        with_central_critic(PPO, OwnPolicy)
    assert with_central_critic(PPO, OwnCentralPolicy) is OwnCentralPolicy
    assert with_central_critic(PPO, "NoPolicy") == "NoPolicy"  # SB3 lists the names that it knows


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("PPO", {"share_features_extractor": True}, "share_features_extractor: .*cannot share the actor's features"),
        ("RecurrentPPO", {"shared_lstm": True, "enable_critic_lstm": False}, "shared_lstm: .*cannot share the actor's LSTM"),
        ("PPO", {"state_size": 0}, "state_size must be at least 1, got 0"),
    ],
)
def test_options_that_cannot_be(kind: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(kind, **options)
