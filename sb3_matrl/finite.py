"""Numbers that are NaN or infinite: found once per rollout and update, and named."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_matrl.best_response import BestResponseStats

# What is done with an update that has such numbers: end the training, or go on with the next rollout.
ON_NAN = ("stop", "skip")
# What torch.distributions say of parameters that are NaN.
REFUSED_BY_TORCH = "found invalid values"
# A rollout buffer's arrays in the order in which a bad number spreads, so that the first bad one is the cause.
_ROLLOUT_ARRAYS = {
    "rewards": "reward",
    "values": "value",
    "log_probs": "log-probability",
    "advantages": "advantage",
    "returns": "return",
}
# Losses as SB3's and sb3-contrib's learners log them. (train/explained_variance may well be NaN.)
_LEARNER_LOSSES = ("loss", "policy_gradient_loss", "policy_loss", "policy_objective", "value_loss", "entropy_loss")


class NonFiniteError(ValueError):
    """A rollout or an update has numbers that are NaN or infinite; the message says whose, which and where."""


def check_rollout(agents: Sequence[str], learner: OnPolicyAlgorithm) -> None:
    """
    Check what the losses will read of a learner's rollout; rows in which an agent did not act are left out.

    :param agents: names of the learner's agents
    :param learner: its buffer was filled by :func:`sb3_matrl.rollout.collect_rollout`
    :raises NonFiniteError: names the agent, the env copy and the step
    """
    buffer: Any = learner.rollout_buffer
    if buffer.generator_ready:
        return  # flattened by an update, before which it was checked
    for attribute, what in _ROLLOUT_ARRAYS.items():
        array = getattr(buffer, attribute)
        bad = ~np.isfinite(array) & buffer.mask
        if bad.any():
            step, column = np.argwhere(bad)[0].tolist()
            member, copy = divmod(column, learner.n_envs // len(agents))
            raise NonFiniteError(
                f"agent {agents[member]!r}, env copy {copy}, step {step} of the rollout: the {what} is {array[step, column]} "
                f"({int(bad.sum())} of {int(buffer.mask.sum())} are not finite)"
            )


def check_parameters(agent: str, policy: ActorCriticPolicy, optimizers: Iterable[th.optim.Optimizer], when: str) -> None:
    """
    Check an agent's parameters and its optimisers' moments, waiting once for the device.

    :param agent: name of the agent
    :param policy: the agent's
    :param optimizers: that step the policy's parameters
    :param when: said in the error, e.g. ``"after the best response"``
    :raises NonFiniteError: names the agent and the parameter
    """
    numbers = list(_numbers(policy, optimizers))
    # One operation on all of them is many times faster than one on each.
    if bool(th.isfinite(th.cat([tensor.reshape(-1) for _, tensor in numbers])).all()):
        return
    what, tensor = next((what, tensor) for what, tensor in numbers if not bool(th.isfinite(tensor).all()))
    bad = int((~th.isfinite(tensor)).sum())
    raise NonFiniteError(f"agent {agent!r}, {when}: {bad} of {tensor.numel()} numbers in {what} are NaN or infinite")


def _numbers(policy: ActorCriticPolicy, optimizers: Iterable[th.optim.Optimizer]) -> Iterator[tuple[str, th.Tensor]]:
    """Parameters first. Step counts are left out: they are always finite, and may be on another device."""
    named = list(policy.named_parameters())
    yield from ((f"parameter {name}", parameter.detach()) for name, parameter in named)
    for optimizer in optimizers:
        for name, parameter in named:
            for key, value in optimizer.state.get(parameter, {}).items():
                if key != "step" and isinstance(value, th.Tensor):
                    yield f"the optimiser's {key} of parameter {name}", value


def check_ratios(agents: Iterable[str], ratios: th.Tensor) -> None:
    """
    Check the density ratios of the predicted to the current policies.

    :param agents: names, in the order of the columns
    :param ratios: (B, n)
    :raises NonFiniteError: names the agent
    """
    bad = (~th.isfinite(ratios)).sum(dim=0).tolist()
    for agent, count in zip(agents, bad, strict=True):
        if count > 0:
            raise NonFiniteError(
                f"agent {agent!r}, after the predicted step: {count} of {len(ratios)} log-probabilities of the rollout's "
                "actions are NaN"
            )


def check_learner_losses(agents: Iterable[str], logged: Mapping[str, Any]) -> None:
    """
    Check the losses of the predicted step.

    :param agents: names
    :param logged: what the learners logged, as ``<agent>/train/<loss>``
    :raises NonFiniteError: names the agent and the loss
    """
    for agent in agents:
        for loss in _LEARNER_LOSSES:
            _check_number(f"agent {agent!r}, predicted step", loss, logged.get(f"{agent}/train/{loss}"))


def check_response_losses(stats: Mapping[str, BestResponseStats]) -> None:
    """
    Check the losses of the best response.

    :param stats: agent -> its best response's
    :raises NonFiniteError: names the agent and the loss
    """
    for agent, one in stats.items():
        for loss in ("policy_loss", "value_loss", "entropy"):
            _check_number(f"agent {agent!r}, best response", loss, getattr(one, loss))


def _check_number(where: str, name: str, value: Any) -> None:
    if value is not None and not np.isfinite(value):
        raise NonFiniteError(f"{where}: {name} is {value}")
