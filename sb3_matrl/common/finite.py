"""Checks for NaN and infinite numbers in rollouts and parameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy

# What happens after an update with such numbers: the training ends, or continues with the next rollout.
ON_NAN = ("stop", "skip")
# Part of the message of torch.distributions for parameters that are NaN.
REFUSED_BY_TORCH = "found invalid values"
# A rollout buffer's arrays in the order in which a bad number spreads, so that the first bad one is the cause.
_ROLLOUT_ARRAYS = {
    "rewards": "reward",
    "values": "value",
    "log_probs": "log-probability",
    "advantages": "advantage",
    "returns": "return",
}


class NonFiniteError(ValueError):
    """A rollout or an update has numbers that are NaN or infinite; the message says whose, which and where."""


def check_rollout(agents: Sequence[str], learner: OnPolicyAlgorithm) -> None:
    """
    Check the arrays of a learner's rollout that losses read, in the rows in which an agent acted.

    :param agents: names of the agents of the learner
    :param learner: learner whose buffer a :class:`~sb3_matrl.on_policy.rollout.RolloutCollector` has filled
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
    Check an agent's parameters and its optimisers' moments, with one synchronisation of the device.

    :param agent: name of the agent
    :param policy: policy of the agent
    :param optimizers: optimisers of the policy's parameters
    :param when: moment, for the error, e.g. ``"after the best response"``
    :raises NonFiniteError: names the agent and the parameter
    """
    numbers = list(_numbers(policy, optimizers))
    if _all_finite([tensor for _, tensor in numbers]):
        return
    what, tensor = next((what, tensor) for what, tensor in numbers if not bool(th.isfinite(tensor).all()))
    bad = int((~th.isfinite(tensor)).sum())
    raise NonFiniteError(f"agent {agent!r}, {when}: {bad} of {tensor.numel()} numbers in {what} are NaN or infinite")


def _all_finite(tensors: Sequence[th.Tensor]) -> bool:
    """Whether all numbers are finite: the largest ones are, by one operation for all tensors."""
    largest = th._foreach_norm([tensor for tensor in tensors if tensor.numel() > 0], th.inf)
    return bool(th.isfinite(th.stack(largest)).all())


def _numbers(policy: ActorCriticPolicy, optimizers: Iterable[th.optim.Optimizer]) -> Iterator[tuple[str, th.Tensor]]:
    """Names and tensors, parameters first; without step counts, which are always finite and may be on another device."""
    named = list(policy.named_parameters())
    yield from ((f"parameter {name}", parameter.detach()) for name, parameter in named)
    for optimizer in optimizers:
        for name, parameter in named:
            for key, value in optimizer.state.get(parameter, {}).items():
                if key != "step" and isinstance(value, th.Tensor):
                    yield f"the optimiser's {key} of parameter {name}", value
