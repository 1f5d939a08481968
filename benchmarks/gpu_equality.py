"""Equality of two devices: one update of every learner on the same data, with the same random numbers."""

from __future__ import annotations

import copy
import importlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from pettingzoo import ParallelEnv
from sb3_contrib import RecurrentPPO
from torch.overrides import TorchFunctionMode

#: Largest difference of a parameter after one update.
TOLERANCE = 1e-4
#: An update that changes parameters by less shows nothing.
LEAST_CHANGE = 1e-3
AGENTS = ("agent_0", "agent_1", "agent_2")
N_ENVS = 4


class RandomWorld(ParallelEnv[str, np.ndarray, Any]):  # type: ignore[misc]  # PettingZoo ships no types
    """
    Three agents with random observations, and rewards that depend on observations and actions.

    :param continuous: Box actions instead of Discrete ones
    :param masked: whether one of the four discrete actions is illegal in every step
    """

    metadata: dict[str, Any] = {"name": "random_world", "render_modes": []}  # noqa: RUF012 - PettingZoo's convention
    render_mode = None

    def __init__(self, continuous: bool = False, masked: bool = False) -> None:
        self.possible_agents, self.agents, self.masked = list(AGENTS), list[str](), masked
        action = spaces.Box(-1.0, 1.0, (2,), np.float32) if continuous else spaces.Discrete(4)
        self.observation_spaces = {agent: spaces.Box(-1.0, 1.0, (8,), np.float32) for agent in AGENTS}
        self.action_spaces = {agent: copy.deepcopy(action) for agent in AGENTS}
        self.state_space = spaces.Box(-1.0, 1.0, (24,), np.float32)
        self._rng, self._time = np.random.default_rng(0), 0

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        """Eight numbers."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Space[Any]:
        """Four actions, or two numbers."""
        return self.action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        """Begin an episode of ten steps."""
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self.agents, self._time = list(AGENTS), 0
        return self._observe(), self._infos()

    def step(self, actions: dict[str, Any]) -> tuple[Any, ...]:
        """Pay each agent for actions that fit its observation."""
        rewards = {agent: float(np.sum(actions[agent]) * self._seen[agent][0]) for agent in AGENTS}
        self._time += 1
        over = self._time >= 10
        result = (self._observe(), rewards, dict.fromkeys(AGENTS, False), dict.fromkeys(AGENTS, over), self._infos())
        self.agents = [] if over else self.agents
        return result

    def state(self) -> np.ndarray:
        """The observations of all agents."""
        return np.concatenate(list(self._seen.values()))

    def _observe(self) -> dict[str, np.ndarray]:
        self._seen = {agent: self._rng.uniform(-1.0, 1.0, 8).astype(np.float32) for agent in AGENTS}
        return dict(self._seen)

    def _infos(self) -> dict[str, dict[str, Any]]:
        if not self.masked:
            return {agent: {} for agent in AGENTS}
        masks = {agent: np.ones(4, np.int8) for agent in AGENTS}
        for mask in masks.values():
            mask[self._rng.integers(4)] = 0
        return {agent: {"action_mask": mask} for agent, mask in masks.items()}


class RandomNumbersOfTheCPU(TorchFunctionMode):
    """Draws random numbers on the CPU for all devices, so that they are the same; a context manager."""

    _drawing = frozenset(
        {
            *(
                th.rand,
                th.randn,
                th.rand_like,
                th.randn_like,
                th.normal,
                th.multinomial,
                th.bernoulli,
                th.randint,
                th.randperm,
            ),
            *(th.Tensor.normal_, th.Tensor.uniform_, th.Tensor.exponential_, th.Tensor.bernoulli_, th.Tensor.random_),
            *(th.Tensor.multinomial, th.Tensor.bernoulli),
        }
    )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func not in self._drawing:
            return func(*args, **kwargs)
        tensors = [one for one in args if isinstance(one, th.Tensor)]
        device = th.device(kwargs.pop("device", None) or (tensors[0].device if tensors else "cpu"))
        drawn = func(*(one.cpu() if isinstance(one, th.Tensor) else one for one in args), **kwargs)
        if func.__name__.endswith("_"):
            return args[0].copy_(drawn)
        return drawn.to(device)


@dataclass(frozen=True)
class Case:
    """
    A learner to be compared.

    :param name: name in the record
    :param algorithm: module and name of the class
    :param arguments: arguments of its constructor
    :param world: options of :class:`RandomWorld`
    """

    name: str
    algorithm: str
    arguments: dict[str, Any] = field(default_factory=dict)
    world: dict[str, bool] = field(default_factory=dict)

    @property
    def on_policy(self) -> bool:
        """Whether the learner learns from rollouts."""
        return self.algorithm.endswith("MATRL")

    def build(self, device: str) -> Any:
        """
        The model.

        :param device: device of the networks
        """
        module, name = self.algorithm.split(":")
        arguments = {"policy": "MlpPolicy", "n_envs": N_ENVS, "seed": 0, "device": device, "learning_rate": 1e-3}
        arguments |= {**(_ROLLOUTS if self.on_policy else _REPLAY), **self.arguments}
        if self.name in _WITHOUT_EPOCHS:
            del arguments["n_epochs"]
        model_class = getattr(importlib.import_module(module), name)
        return model_class(env=lambda: RandomWorld(**self.world), **arguments)


_ROLLOUTS: dict[str, Any] = {"n_steps": 32, "batch_size": 32, "n_epochs": 2, "br_n_epochs": 2, "ent_coef": 0.01}
_REPLAY: dict[str, Any] = {"buffer_size": 1000, "learning_starts": 1000, "batch_size": 64}
# A gradient that is 0 but for rounding must not become a step of full length.
_REPLAY["policy_kwargs"] = {"net_arch": [64, 64], "optimizer_kwargs": {"eps": 1e-5}}
_ON, _OFF = "sb3_matrl:MATRL", "sb3_matrl:"
_WITHOUT_EPOCHS = ("A2C", "TRPO")
_CLASSES = {"A2C": "stable_baselines3", "TRPO": "sb3_contrib", "RecurrentPPO": "sb3_contrib", "MaskablePPO": "sb3_contrib"}


def cases() -> list[Case]:
    """All learners of the package."""
    found = [Case("PPO", _ON, {"backend": "sb3"}), Case("PPO, stacked", _ON, {"backend": "torch"})]
    for name, module in _CLASSES.items():
        arguments: dict[str, Any] = {"learner_class": getattr(importlib.import_module(module), name), "backend": "sb3"}
        if name == "RecurrentPPO":
            arguments["policy"] = "MlpLstmPolicy"
        found.append(Case(name, _ON, arguments, {"masked": name == "MaskablePPO"}))
    # Networks that are not stacked, whose losses a GPU reads once.
    found.append(Case("PPO, not stacked", _ON, {"policy_kwargs": {"activation_fn": th.nn.ELU}}))
    recurrent = {"learner_class": RecurrentPPO, "policy": "MlpLstmPolicy", "backend": "torch"}
    found.append(Case("RecurrentPPO, whole sequences", _ON, recurrent))
    found.append(Case("PPO, central critic", _ON, {"critic": "central", "backend": "torch"}))
    found += [Case(name, _OFF + name) for name in ("IQL", "VDN", "QMIX", "QTRAN", "QDPP", "MADDPG")]
    found += [Case(f"{name}, Box", _OFF + name, {}, {"continuous": True}) for name in ("MADDPG", "IDDPG", "COMIX")]
    return found


def compare(case: Case, device: str) -> dict[str, Any]:
    """
    One update on the CPU and on a device.

    :param case: the learner
    :param device: the device
    :return: largest difference of a parameter after the update, largest change by it, and whether the devices agree
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first, second = case.build("cpu"), case.build(device)
    with closing(first.env), closing(second.env):
        second.set_parameters(first.get_parameters())
        before = _parameters(first)
        update = _update_from_rollout if case.on_policy else _update_from_replay
        update([first, second])
        ours, theirs = _parameters(first), _parameters(second)
    difference = max(_largest(ours, theirs))
    change = max(_largest(before, ours))
    return {"difference": difference, "change": change, "equal": difference <= TOLERANCE and change >= LEAST_CHANGE}


def _update_from_rollout(models: Sequence[Any]) -> None:
    """One update of each model, on the rollout that the first one collects."""
    first = models[0]
    rows = first.n_envs * first.n_steps
    train, first.train = first.train, lambda total=None: None
    first.learn(rows, log_interval=None)
    first.train = train
    kept = {name: copy.deepcopy(learner.rollout_buffer) for name, learner in first.learners.items()}

    def place(model: Any) -> Callable[[Any], bool]:
        def collect(callback: Any) -> bool:
            for name, learner in model.learners.items():
                learner.rollout_buffer = copy.deepcopy(kept[name])
                learner.rollout_buffer.device = learner.device
            model.num_timesteps += rows
            _seed()
            return True

        return collect

    for model in models:
        model.collect_rollouts = place(model)
        with RandomNumbersOfTheCPU():
            model.learn(rows, log_interval=None)


def _update_from_replay(models: Sequence[Any]) -> None:
    """Two gradient steps of each model, on the transitions that the first one collects."""
    for model in models:
        model.learn(400, log_interval=None)
    for model in models[1:]:
        model._replay_buffer = copy.deepcopy(models[0].replay_buffer)
        model._replay_buffer.device = model.device
    for model in models:
        _seed()
        with RandomNumbersOfTheCPU():
            model.train(2)


def _seed() -> None:
    np.random.seed(0)
    th.manual_seed(0)


def _parameters(model: Any) -> list[th.Tensor]:
    """Copies of all parameters of the networks, on the CPU."""
    return [tensor.detach().cpu().double() for tensor in _tensors(model.get_parameters()) if tensor.is_floating_point()]


def _tensors(value: Any, key: str = "") -> Iterator[th.Tensor]:
    """Tensors of nested dicts, without those of optimisers."""
    if isinstance(value, th.Tensor):
        yield value
    elif isinstance(value, dict):
        for name, one in value.items():
            if "optimizer" not in str(name):
                yield from _tensors(one, str(name))


def _largest(ours: Sequence[th.Tensor], theirs: Sequence[th.Tensor]) -> Iterator[float]:
    return (float((one - other).abs().max()) for one, other in zip(ours, theirs, strict=True) if one.numel())
