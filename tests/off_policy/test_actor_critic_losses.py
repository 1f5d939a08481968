"""Losses of IDDPG, MADDPG and COMIX against loops over rows and agents, in envs with deaths, masks and both ends."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_matrl.common.arguments import constructor_arguments
from sb3_matrl.off_policy.comix import COMIX
from sb3_matrl.off_policy.gumbel import gumbel_noise
from sb3_matrl.off_policy.iddpg import IDDPG
from sb3_matrl.off_policy.maddpg import MADDPG
from tests.off_policy.continuous_trio import SETTINGS, ContinuousTrio, MixedTrio

CASES = [(IDDPG, ContinuousTrio), (MADDPG, ContinuousTrio), (MADDPG, MixedTrio), (COMIX, ContinuousTrio)]
MASKED = {"b": 4, "c": 3}  # agents of MixedTrio with discrete actions


def trained(algorithm: Any, env: Any, **settings: Any) -> Any:
    """A model whose networks, targets and replay buffer have seen some training."""
    known = constructor_arguments(algorithm)
    given = {**SETTINGS, "buffer_size": 600, "tau": 0.3, "learning_rate": 5e-3, **settings}
    return algorithm(env=env, **{name: value for name, value in given.items() if name in known or name == "device"}).learn(90)


def rows_of(observations: Any, row: int) -> Any:
    if isinstance(observations, dict):
        return {key: rows_of(value, row) for key, value in observations.items()}
    return observations[row : row + 1]


def facts(model: Any, batch: Any, row: int, i: int) -> tuple[bool, bool]:
    """Whether an agent acted in a row, and whether its next value counts."""
    cut = bool(batch.truncated[row, i]) and not bool(batch.terminated[row, i]) and model.handle_timeout_termination
    return bool(batch.alive[row, i]), bool(batch.next_alive[row, i]) or cut


def reward_of(model: Any, batch: Any, row: int, i: int) -> float:
    return float(batch.rewards[row].sum()) if model.arguments["share_reward"] else float(batch.rewards[row, i])


def is_discrete(model: Any, agent: str) -> bool:
    return agent in MASKED and hasattr(model.action_space[agent], "n")


def central_input(model: Any, states: th.Tensor, parts: dict[str, list[float]], row: int) -> th.Tensor:
    return th.cat([states[row], *(th.tensor(part) for part in parts.values())])[None]


def taken(model: Any, batch: Any, row: int) -> dict[str, list[float]]:
    """The actions of a row as a critic sees them: scaled or one-hot, zeros for the dead."""
    parts = {}
    for i, agent in enumerate(model.possible_agents):
        if is_discrete(model, agent):
            part = [float(a == int(batch.actions[agent][row])) for a in range(MASKED[agent])]
        else:
            part = batch.actions[agent][row].tolist()
        parts[agent] = part if bool(batch.alive[row, i]) else [0.0] * len(part)
    return parts


def target_action(model: Any, batch: Any, row: int, agent: str) -> list[float]:
    output = model.networks[agent].actor_target(rows_of(batch.next_observations[agent], row))[0].tolist()
    if not is_discrete(model, agent):
        return list(output)
    legal = batch.next_masks[agent][row].tolist()
    best = max((a for a in range(len(output)) if legal[a]), key=lambda a: output[a])
    return [float(a == best) for a in range(len(output))]


def next_value(model: Any, batch: Any, row: int, agent: str) -> float:
    networks = model.networks[agent]
    if isinstance(model, IDDPG):
        following = rows_of(batch.next_observations[agent], row)
        return float(networks.critic_target(following, networks.actor_target(following))[0])
    parts = {}
    for i, other in enumerate(model.possible_agents):
        part = target_action(model, batch, row, other)
        parts[other] = part if facts(model, batch, row, i)[1] else [0.0] * len(part)
    return float(networks.critic_target.qf0(central_input(model, batch.next_states, parts, row)))


def value(model: Any, batch: Any, row: int, agent: str, parts: dict[str, list[float]]) -> float:
    critic = model.networks[agent].critic
    if isinstance(model, IDDPG):
        return float(critic(rows_of(batch.observations[agent], row), th.tensor([parts[agent]]))[0])
    return float(critic.qf0(central_input(model, batch.states, parts, row)))


def critic_losses(model: Any, batch: Any) -> dict[str, float]:
    losses = {}
    for i, agent in enumerate(model.possible_agents):
        errors = []
        for row in range(len(batch.done)):
            alive, counts = facts(model, batch, row, i)
            if alive:
                following = model.gamma * next_value(model, batch, row, agent) if counts else 0.0
                target = reward_of(model, batch, row, i) + following
                errors.append(value(model, batch, row, agent, taken(model, batch, row)) - target)
        losses[agent] = float(np.mean(np.square(errors)))
    return losses


def actor_losses(model: Any, actors: dict[str, Any], batch: Any) -> dict[str, float]:
    """Losses of actors before their step, by critics after theirs."""
    losses = {}
    for i, agent in enumerate(model.possible_agents):
        draws = gumbel_noise(th.empty(len(batch.done), MASKED[agent])) if is_discrete(model, agent) else None
        values, outputs = [], []
        for row in range(len(batch.done)):
            if not bool(batch.alive[row, i]):
                continue
            output = actors[agent](rows_of(batch.observations[agent], row))[0]
            if draws is None:
                own, raw = output.tolist(), th.atanh(output.double()).tolist()
            else:
                legal, raw = batch.masks[agent][row].tolist(), output.tolist()
                score = (output + draws[row]).tolist()
                best = max((a for a in range(len(raw)) if legal[a]), key=lambda a: score[a])
                own = [float(a == best) for a in range(len(raw))]
            values.append(value(model, batch, row, agent, {**taken(model, batch, row), agent: own}))
            outputs += raw
        regularisation = model.argument("actor_reg", 0.0) * np.mean(np.square(outputs))
        losses[agent] = float(-np.mean(values) + regularisation)
    return losses


SETTINGS_OF_LOSSES = [
    {},
    {"replay_buffer_kwargs": {"handle_timeout_termination": False}, "share_reward": True, "gamma": 0.5},
    {"state": "observations", "actor_reg": 0.0},
]


@pytest.mark.cases(quick=["ends and shared rewards-MADDPG-MixedTrio"])
@pytest.mark.parametrize(("algorithm", "env"), CASES[:3])
@pytest.mark.parametrize("settings", SETTINGS_OF_LOSSES, ids=["default", "ends and shared rewards", "observations"])
def test_losses_of_critics_and_actors_against_loops(algorithm: Any, env: Any, settings: dict[str, Any]) -> None:
    model = trained(algorithm, env, actor_reg=0.1) if not settings else trained(algorithm, env, **settings)
    batch = model.sample(60)
    # Every case occurs.
    assert (~batch.alive).any() and (batch.truncated & batch.done[:, None]).any()
    assert (batch.terminated & ~batch.done[:, None]).any()
    actors = {agent: deepcopy(networks.actor) for agent, networks in model.networks.items()}
    with th.no_grad():
        expected = critic_losses(model, batch)
    th.manual_seed(7)
    logged = model.gradient_step(batch)
    assert {agent: float(logged[f"{agent}/train/critic_loss"]) for agent in expected} == pytest.approx(expected, rel=1e-4)
    th.manual_seed(7)
    with th.no_grad():
        expected = actor_losses(model, actors, batch)
    assert {agent: float(logged[f"{agent}/train/actor_loss"]) for agent in expected} == pytest.approx(expected, rel=1e-3)
    assert float(logged["train/actor_loss"]) == pytest.approx(np.mean(list(expected.values())), rel=1e-3)


def best_action(model: Any, critic: Any, observations: Any, draws: th.Tensor) -> th.Tensor:
    """The cross-entropy method for one row, with critics called sample by sample; draws (iterations, samples, size)."""
    mean, deviation = th.zeros(draws.shape[-1]), th.ones(draws.shape[-1])
    for step in draws:
        samples = mean + deviation * step
        values = [float(critic(observations, sample.tanh()[None])[0]) for sample in samples]
        order = np.argsort(values)[::-1].copy()
        elites = samples[order[: model.arguments["cem_elites"]]]
        mean, deviation = elites.mean(dim=0), elites.std(dim=0)
    return samples[order[0]].tanh()


@pytest.mark.cases(quick=["vdn"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"mixer": "vdn", "double_q": False, "loss": "huber"},
        {"team_reward": "mean", "state": "observations", "cem_iterations": 3},
    ],
    ids=["default", "vdn", "mean of rewards"],
)
def test_the_loss_of_comix_against_loops(settings: dict[str, Any]) -> None:
    model = trained(COMIX, ContinuousTrio, cem_samples=8, cem_elites=3, **settings)
    batch, agents = model.sample(30), model.possible_agents
    assert (~batch.alive).any() and (batch.truncated & batch.done[:, None]).any()
    th.manual_seed(7)
    iterations, sizes = model.arguments["cem_iterations"], [2, 1, 2]
    draws = {agent: th.randn(iterations, 30, 8, size) for agent, size in zip(agents, sizes, strict=True)}
    errors = []
    for row in range(30):
        now, following = th.zeros(1, 3), th.zeros(1, 3)
        for i, agent in enumerate(agents):
            networks, (alive, counts) = model.networks[agent], facts(model, batch, row, i)
            after = rows_of(batch.next_observations[agent], row)
            choosing = networks.critic if model.arguments["double_q"] else networks.critic_target
            with th.no_grad():
                best = best_action(model, choosing, after, draws[agent][:, row])
                following[0, i] = networks.critic_target(after, best[None])[0] if counts else 0.0
                here = networks.critic(rows_of(batch.observations[agent], row), batch.actions[agent][row][None])[0]
                now[0, i] = here if alive else 0.0
        states = [None if one is None else one[row : row + 1] for one in (batch.states, batch.next_states)]
        rewards = batch.rewards[row]
        target = float(rewards.mean() if model.arguments["team_reward"] == "mean" else rewards.sum())
        cut = bool((batch.truncated[row] & ~batch.terminated[row]).any())
        with th.no_grad():
            if not bool(batch.done[row]) or cut:
                target += model.gamma * float(model.mixer_target(following, states[1]))
            errors.append(float(model.mixer(now, states[0])) - target)
    losses = np.square(errors)
    if settings.get("loss") == "huber":
        losses = np.where(np.abs(errors) < 1, 0.5 * losses, np.abs(errors) - 0.5)
    th.manual_seed(7)
    assert float(model.gradient_step(batch)["train/loss"]) == pytest.approx(np.mean(losses), rel=1e-3)


@pytest.mark.cases(e2e=["COMIX-ContinuousTrio"], rest="expensive")
@pytest.mark.parametrize(("algorithm", "env"), CASES)
def test_what_the_dead_see_and_do_changes_nothing(algorithm: Any, env: Any) -> None:
    one, other = (trained(algorithm, env, state="env", cem_samples=8) for _ in range(2))
    batch = one.sample(100)
    observations, actions = dict(batch.observations), dict(batch.actions)
    for i, agent in enumerate(one.possible_agents):
        dead = ~batch.alive[:, i]
        assert agent != "a" or dead.any()
        shape = (-1, *[1] * (actions[agent].dim() - 1))
        actions[agent] = th.where(dead.view(shape), actions[agent] * 0 + 1, actions[agent])
        if not isinstance(observations[agent], dict):
            observations[agent] = th.where(dead.view(-1, *[1] * (observations[agent].dim() - 1)), 1e3, observations[agent])
    for model, given in ((one, batch), (other, replace(batch, observations=observations, actions=actions))):
        th.manual_seed(3)
        model.gradient_step(given)
    for (name, here), there in zip(one.policy.named_parameters(), other.policy.parameters(), strict=True):
        assert th.allclose(here, there, atol=1e-6), name


@pytest.mark.e2e
@pytest.mark.parametrize(("algorithm", "env"), CASES)
def test_a_batch_without_one_agent_trains_the_others(algorithm: Any, env: Any) -> None:
    model = trained(algorithm, env, state="env", cem_samples=8)
    batch = model.sample(50)
    batch.alive[:, 1] = False
    assert all(bool(value.isfinite()) for value in model.gradient_step(batch).values())


@pytest.mark.cases(e2e=["MADDPG-MixedTrio"], rest="expensive")
@pytest.mark.parametrize(("algorithm", "env"), CASES)
def test_scaled_rewards(algorithm: Any, env: Any) -> None:
    model, reference = (trained(algorithm, env, norm_reward=True, cem_samples=8) for _ in range(2))
    batch = model.sample(60)
    deviations = [float(np.sqrt(one.returns.var + 1e-8)) for one in model.rewards.normalizers.values()]
    assert len(deviations) == (1 if algorithm is COMIX else 3)
    reference.rewards.normalizers = {}
    losses = []
    for one, given in ((model, batch), (reference, replace(batch, rewards=batch.rewards / th.tensor(deviations)))):
        th.manual_seed(3)
        logged = one.gradient_step(given)
        losses.append(float(logged["train/loss" if algorithm is COMIX else "train/critic_loss"]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.cases(quick=["COMIX-ContinuousTrio"])
@pytest.mark.parametrize(("algorithm", "env"), CASES)
def test_targets_follow_all_networks_after_a_gradient_step(algorithm: Any, env: Any) -> None:
    model = trained(algorithm, env)
    pairs = [pair for group in model.target_pairs() for pair in group]
    assert len(pairs) == (4 if algorithm is COMIX else 6)
    before = [[target.clone() for target in follower.parameters()] for _, follower in pairs]
    model.gradient_step(model.sample(20))
    for (network, follower), old in zip(pairs, before, strict=True):
        for now, target, was in zip(network.parameters(), follower.parameters(), old, strict=True):
            assert not th.equal(now, was)
            assert th.allclose(target, 0.3 * now + 0.7 * was, atol=1e-6)


@pytest.mark.cases(quick=["MADDPG-MixedTrio"])
@pytest.mark.parametrize(("algorithm", "env"), CASES[1:])
def test_gradients_are_clipped_for_each_optimizer(algorithm: Any, env: Any) -> None:
    model = trained(algorithm, env, max_grad_norm=1e-5)
    model.gradient_step(model.sample(50))
    assert len(model.optimizers()) == (1 if algorithm is COMIX else 6)
    for optimizer in model.optimizers():
        gradients = [one.grad.flatten() for group in optimizer.param_groups for one in group["params"] if one.grad is not None]
        assert float(th.cat(gradients).norm()) == pytest.approx(1e-5, rel=0.15)
