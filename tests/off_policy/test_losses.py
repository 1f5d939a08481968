"""Losses and targets of IQL, VDN and QMIX against loops over rows and agents, in an env with deaths, masks and both ends."""

from dataclasses import replace

import numpy as np
import pytest
import torch as th

from sb3_matrl.common.arguments import constructor_arguments
from sb3_matrl.off_policy.iql import IQL
from sb3_matrl.off_policy.qmix import QMIX
from sb3_matrl.off_policy.vdn import VDN
from tests.off_policy.trio import SETTINGS

ALGORITHMS = [IQL, VDN, QMIX]


def trained(algorithm, **settings):
    """A model whose networks, targets and replay buffer have seen some training."""
    given = {**SETTINGS, "buffer_size": 600, "tau": 0.5, "target_update_interval": 3, **settings}
    return algorithm(**given).learn(90)


def rows_of(observations, row):
    if isinstance(observations, dict):
        return {key: rows_of(value, row) for key, value in observations.items()}
    return observations[row : row + 1]


def action_value(model, batch, row, agent, target=False, following=True):
    """Values of an agent's actions in one row, as a list with minus infinity for illegal ones."""
    policy = model.utilities.policies[agent]
    network = policy.q_net_target if target else policy.q_net
    observations = batch.next_observations if following else batch.observations
    masks = (batch.next_masks if following else batch.masks).get(agent)
    with th.no_grad():
        values = network(rows_of(observations[agent], row))[0].tolist()
    return values if masks is None else [q if legal else -np.inf for q, legal in zip(values, masks[row].tolist(), strict=True)]


def next_value(model, batch, row, agent):
    """Target value of the agent's next action."""
    by_target = action_value(model, batch, row, agent, target=True)
    choosing = action_value(model, batch, row, agent) if model.double_q else by_target
    return by_target[int(np.argmax(choosing))]


def taken_value(model, batch, row, agent):
    with th.no_grad():
        network = model.utilities.policies[agent].q_net
        return float(network(rows_of(batch.observations[agent], row))[0, int(batch.actions[agent][row])])


def loss_of(errors, model):
    if model.arguments["loss"] == "mse":
        return np.mean(np.square(errors))
    return np.mean([0.5 * e**2 if abs(e) < 1 else abs(e) - 0.5 for e in errors])


def facts(batch, row, i, model):
    """alive, terminated, cut off (and treated as such) of one agent in one row."""
    cut = bool(batch.truncated[row, i]) and not bool(batch.terminated[row, i]) and model.handle_timeout_termination
    return bool(batch.alive[row, i]), bool(batch.next_alive[row, i]), cut


def individual_losses(model, batch):
    losses = {}
    for i, agent in enumerate(model.possible_agents):
        errors = []
        for row in range(len(batch.done)):
            alive, goes_on, cut = facts(batch, row, i, model)
            if not alive:
                continue
            reward = float(batch.rewards[row].sum()) if model.arguments["share_reward"] else float(batch.rewards[row, i])
            target = reward + (model.gamma * next_value(model, batch, row, agent) if goes_on or cut else 0.0)
            errors.append(taken_value(model, batch, row, agent) - target)
        losses[agent] = loss_of(errors, model)
    return losses


def mixed(model, values, states, row, target=False):
    if isinstance(model, VDN):
        return sum(values)
    mixer = model.mixer_target if target else model.mixer
    with th.no_grad():
        return float(mixer(th.tensor([values]), states[row : row + 1]))


def team_loss(model, batch):
    errors = []
    for row in range(len(batch.done)):
        now, following, cut_off = [], [], False
        for i, agent in enumerate(model.possible_agents):
            alive, goes_on, cut = facts(batch, row, i, model)
            now.append(taken_value(model, batch, row, agent) if alive else 0.0)
            following.append(next_value(model, batch, row, agent) if goes_on or cut else 0.0)
            cut_off = cut_off or cut
        rewards = [float(r) for r in batch.rewards[row]]
        target = sum(rewards) / (3 if model.arguments["team_reward"] == "mean" else 1)
        if not bool(batch.done[row]) or cut_off:
            target += model.gamma * mixed(model, following, batch.next_states, row, target=True)
        errors.append(mixed(model, now, batch.states, row) - target)
    return loss_of(errors, model)


def expected_loss(model, batch):
    return np.mean(list(individual_losses(model, batch).values())) if isinstance(model, IQL) else team_loss(model, batch)


@pytest.mark.cases(quick=["rewards-QMIX"], e2e=["ends-QMIX"], rest="expensive")
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"double_q": False, "loss": "mse"},
        {"replay_buffer_kwargs": {"handle_timeout_termination": False}},
        {"team_reward": "mean", "share_reward": True, "state": "observations", "gamma": 0.5},
    ],
    ids=["default", "mse", "ends", "rewards"],
)
def test_the_loss_against_loops(algorithm, settings):
    known = constructor_arguments(algorithm)
    model = trained(algorithm, **{name: value for name, value in settings.items() if name in known})
    batch = model.sample(80)
    # Every case occurs.
    assert (
        (~batch.alive).any()
        and (batch.truncated & batch.done[:, None]).any()
        and (batch.terminated & ~batch.done[:, None]).any()
    )
    assert set(batch.next_masks) == {"b", "c"}
    expected = expected_loss(model, batch)
    assert float(model.gradient_step(batch)["train/loss"]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.cases(e2e=["VDN"], expensive=["IQL"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_the_dead_see_and_do_changes_nothing(algorithm):
    state = {} if algorithm is not QMIX else {"state": "env"}
    one, other = trained(algorithm, **state), trained(algorithm, **state)
    batch = one.sample(100)
    observations, actions = dict(batch.observations), dict(batch.actions)
    for i, agent in enumerate(one.possible_agents):
        dead = ~batch.alive[:, i]
        assert agent != "a" or dead.any()
        actions[agent] = th.where(dead, 1 - actions[agent].clamp(max=1), actions[agent])
        if not isinstance(observations[agent], dict):
            rows = dead.view(-1, *[1] * (observations[agent].dim() - 1))
            observations[agent] = th.where(rows, 1e3, observations[agent])
    one.gradient_step(batch)
    other.gradient_step(replace(batch, observations=observations, actions=actions))
    for (name, value), theirs in zip(one.policy.named_parameters(), other.policy.parameters(), strict=True):
        assert th.allclose(value, theirs, atol=1e-6), name


@pytest.mark.cases(e2e=["QMIX"], rest="expensive")
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_scaled_rewards(algorithm):
    model = trained(algorithm, norm_reward=True)
    batch = model.sample(80)
    deviations = [float(np.sqrt(one.returns.var + 1e-8)) for one in model.rewards.normalizers.values()]
    assert len(deviations) == (3 if algorithm is IQL else 1)
    expected = expected_loss(model, replace(batch, rewards=batch.rewards / th.tensor(deviations)))
    assert float(model.gradient_step(batch)["train/loss"]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.cases(quick=["VDN"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_targets_follow_all_networks(algorithm):
    model = trained(algorithm)
    followers = [(policy.q_net, policy.q_net_target) for policy in model.utilities.policies.values()]
    followers += [(model.mixer, model.mixer_target)] if algorithm is QMIX else []
    before = [[target.clone() for target in target_net.parameters()] for _, target_net in followers]
    model.update_targets()
    for (network, target_net), old in zip(followers, before, strict=True):
        for now, target, was in zip(network.parameters(), target_net.parameters(), old, strict=True):
            assert not th.equal(now, was)
            assert th.allclose(target, 0.5 * now + 0.5 * was)


@pytest.mark.cases(quick=["QMIX"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_gradients_are_clipped_together_for_each_optimizer(algorithm):
    model = trained(algorithm, max_grad_norm=1e-3)
    model.gradient_step(model.sample(50))
    for optimizer in model.optimizers():
        parameters = [one for group in optimizer.param_groups for one in group["params"]]
        norm = th.cat([one.grad.flatten() for one in parameters if one.grad is not None]).norm()
        assert float(norm) == pytest.approx(1e-3, rel=1e-2)
