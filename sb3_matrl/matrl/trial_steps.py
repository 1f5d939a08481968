"""The strategies of the meta-game: the current policies, and the trial steps from them that lead to the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch as th
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_matrl.common.logger import AgentLogger
from sb3_matrl.on_policy.batch import AgentBatch
from sb3_matrl.on_policy.joint_updates import JointUpdates
from sb3_matrl.utils.suggest import unknown

#: A step of the user's own: changes the parameters of a learner, given its rollout.
TrialStep: TypeAlias = Callable[[OnPolicyAlgorithm, AgentBatch], object]

CURRENT, PREDICTED, OPTIMISTIC = "current", "predicted", "optimistic"
#: Strategies by name; the first one is that of every meta-game.
KNOWN_STRATEGIES = (CURRENT, PREDICTED, OPTIMISTIC)
# Limit of exponents, as of log-ratios.
_MAX_EXPONENT = 20.0


@dataclass(frozen=True)
class Strategy:
    """
    One pure strategy of the meta-game.

    :param name: its name in reports and keys of the logger
    :param step: trial step of the user's own; ``None`` for those of this package
    """

    name: str
    step: TrialStep | None = None


def read_strategies(given: Any) -> tuple[Strategy, ...]:
    """
    The strategies of the argument ``strategies``.

    :param given: sequence of names, functions, and pairs of a name and a function
    :raises ValueError: if it is none, does not begin with ``"current"``, has fewer than two strategies, or one is unknown,
        nameless or there twice
    """
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise ValueError(f"strategies must be a list such as ('current', 'predicted'), got {given!r}")
    strategies = tuple(map(_read_strategy, given))
    names = [one.name for one in strategies]
    if names[:1] != [CURRENT] or len(names) < 2:
        raise ValueError(f"strategies must be {CURRENT!r} and at least one other one, in this order, got {names}")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"strategies: {twice!r} is there twice: name a function by a pair ('another_name', function)")
    return strategies


def _read_strategy(given: Any) -> Strategy:
    if isinstance(given, str):
        if given not in KNOWN_STRATEGIES:
            raise ValueError(f"strategies: {unknown('strategy', given, KNOWN_STRATEGIES)}, or ('name', function)")
        return Strategy(given)
    name, step = given if isinstance(given, (tuple, list)) and len(given) == 2 else (getattr(given, "__name__", ""), given)
    if not callable(step):
        raise ValueError(f"strategies: a trial step must be a name, a function or a pair ('name', function), got {given!r}")
    if not isinstance(name, str) or not name.isidentifier() or name in KNOWN_STRATEGIES:
        raise ValueError(
            f"strategies: {name!r} is no name for a trial step: pass a pair ('name', function) with a name of letters, digits "
            f"and _, other than {', '.join(KNOWN_STRATEGIES)}"
        )
    return Strategy(name, step)


def optimistic_advantages(advantages: th.Tensor, mask: th.Tensor, optimism: float) -> th.Tensor:
    """
    Advantages that follow what went well and ignore most of what went badly, as if the partners were going to cooperate:
    ``standardise(tau expm1(min(A_norm / tau, 20)))`` with the standardised advantages A_norm.

    :param advantages: (B,)
    :param mask: bool (B,), rows that count
    :param optimism: temperature tau > 0; the smaller, the more the best outcomes count
    :return: (B,), of the same type, 0 where masked
    """
    normalized = _standardised(advantages.double(), mask)
    bent = optimism * th.expm1((normalized / optimism).clamp(max=_MAX_EXPONENT))
    return _standardised(bent, mask).to(advantages.dtype)


def _standardised(values: th.Tensor, mask: th.Tensor) -> th.Tensor:
    """Mean 0 and standard deviation 1 over the rows that count, 0 elsewhere and where all are equal."""
    live = values[mask]
    if len(live) < 2:
        return th.zeros_like(values)
    deviation, mean = th.std_mean(live, correction=0)
    return th.where(mask, (values - mean) / (deviation + 1e-8), 0.0)


class TrialSteps:
    """
    Takes the trial steps of all learners.

    The predicted step is a learner's own update, with its own optimiser. Every other trial step has an optimiser of its own,
    of the learner's kind, and logs what the learner logs as ``<agent>/<strategy>/train/...``.

    :param strategies: strategies of the meta-game
    :param learners: name -> learner
    :param joint: updates of all learners
    :param optimism: temperature of the optimistic step
    :param optimistic_n_epochs: epochs of the optimistic step; ``None`` for those of the predicted one
    """

    def __init__(
        self,
        strategies: Sequence[Strategy],
        learners: Mapping[str, OnPolicyAlgorithm],
        joint: JointUpdates,
        optimism: float,
        optimistic_n_epochs: int | None,
    ) -> None:
        self.strategies, self.learners, self.joint = tuple(strategies), dict(learners), joint
        self.optimism, self.optimistic_n_epochs = optimism, optimistic_n_epochs
        #: strategy -> learner -> its optimiser
        self.optimizers = {
            strategy.name: {name: _new_optimizer(learner.policy) for name, learner in learners.items()}
            for strategy in strategies
            if strategy.name not in (CURRENT, PREDICTED)
        }

    def follow_replaced_parameters(self) -> None:
        """Make the optimisers of learners again whose parameters were replaced."""
        for optimizers in self.optimizers.values():
            for name, learner in self.learners.items():
                if not has_parameters_of(optimizers[name], learner.policy):
                    optimizers[name] = _new_optimizer(learner.policy)

    def take(self, strategy: Strategy, batches: Mapping[str, AgentBatch], fitted: npt.NDArray[np.bool_] | None = None) -> None:
        """
        One trial step of every learner; buffers, optimisers and settings of the learners are as before afterwards.

        :param strategy: strategy other than the current one
        :param batches: name -> the learner's rollout
        :param fitted: bool (n_envs,), copies of the environment to learn from; ``None`` for all
        """
        if strategy.name == PREDICTED and fitted is None:
            self.joint.train(batches)
            return
        with ExitStack() as stack:
            if strategy.name != PREDICTED:
                for name, learner in self.learners.items():
                    stack.enter_context(self._apart(strategy, name, learner))
            changed = ("advantages",) if strategy.step is None else tuple(_NUMBERS)  # a user's step may change any
            seen = {
                name: stack.enter_context(_view(self.learners[name], one, fitted, changed)) for name, one in batches.items()
            }
            if strategy.step is None:
                if strategy.name == OPTIMISTIC:
                    seen = {name: self._made_optimistic(self.learners[name], batch) for name, batch in seen.items()}
                self.joint.train(seen)
                return
            for name, learner in self.learners.items():
                if learner.rollout_buffer.can_train:  # type: ignore[attr-defined]
                    strategy.step(learner, seen[name])

    def _made_optimistic(self, learner: Any, batch: AgentBatch) -> AgentBatch:
        """The batch with other advantages, which the learner's buffer gets as well."""
        advantages = optimistic_advantages(batch.advantages, batch.mask, self.optimism)
        learner.rollout_buffer.advantages = advantages.cpu().numpy().reshape(learner.rollout_buffer.advantages.shape)
        return replace(batch, advantages=advantages)

    @contextmanager
    def _apart(self, strategy: Strategy, name: str, learner: Any) -> Iterator[None]:
        """A learner with the optimiser, logger and number of epochs of a trial step; all its settings are put back."""
        kept = dict(vars(learner))
        optimizer, learner.policy.optimizer = learner.policy.optimizer, self.optimizers[strategy.name][name]
        if "_logger" in kept:
            learner._logger = AgentLogger(kept["_logger"], strategy.name)
        if strategy.name == OPTIMISTIC and self.optimistic_n_epochs is not None and "n_epochs" in kept:
            learner.n_epochs = self.optimistic_n_epochs
        try:
            yield
        finally:
            vars(learner).clear()
            vars(learner).update(kept)
            learner.policy.optimizer = optimizer


def has_parameters_of(optimizer: th.optim.Optimizer, policy: Any) -> bool:
    """
    Whether an optimiser has the parameters that a policy has at present.

    :param optimizer: optimiser
    :param policy: policy, whose layers may have been replaced
    """
    present = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    return present == {id(parameter) for parameter in policy.parameters()}


def _new_optimizer(policy: Any) -> th.optim.Optimizer:
    """An optimiser like the policy's own, without a state."""
    (group, *_) = policy.optimizer.param_groups
    optimizer: th.optim.Optimizer = policy.optimizer_class(policy.parameters(), lr=group["lr"], **policy.optimizer_kwargs)
    return optimizer


@contextmanager
def _view(learner: Any, batch: AgentBatch, fitted: npt.NDArray[np.bool_] | None, names: Iterable[str]) -> Iterator[AgentBatch]:
    """The batch of some copies, in common with the learner's buffer, whose mask and named arrays are put back at the end."""
    buffer = learner.rollout_buffer
    kept = {name: getattr(buffer, name) for name in (*names, "mask")}
    for name in names:
        setattr(buffer, name, kept[name].copy())
    if fitted is not None:
        buffer.mask = buffer.mask & np.tile(fitted, buffer.mask.shape[1] // len(fitted))
    try:
        own: dict[str, Any] = {
            _NUMBERS[name]: th.as_tensor(getattr(buffer, name), device=learner.device).flatten() for name in names
        }
        yield replace(batch, **own, mask=th.as_tensor(buffer.flat_mask(), device=learner.device))
    finally:
        for name, value in kept.items():
            setattr(buffer, name, value)


# Arrays of a rollout buffer that a trial step may change -> field of the batch.
_NUMBERS = {"advantages": "advantages", "returns": "returns", "values": "old_values", "log_probs": "old_log_prob"}
