"""Teams of three like ``trio`` with continuous actions: all of them, or one beside two with masks."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from tests.off_policy.trio import POLICIES, Trio
from tests.vec_env.toys import Saving, ToyEnv


class MixedTrio(Trio, Saving):
    """``a`` has continuous actions, ``b`` and ``c`` discrete ones with masks."""

    def __init__(self) -> None:
        super().__init__()
        self._action_spaces["a"] = spaces.Box(-2.0, 2.0, (2,), np.float32)


class ContinuousTrio(Trio, Saving):
    """Unequal continuous actions, also with bounds that are not symmetric and as a matrix; no masks."""

    def __init__(self) -> None:
        super().__init__()
        self._observation_spaces["b"] = spaces.Dict({"x": spaces.Box(-1, 1, (2,), np.float32), "n": spaces.Discrete(3)})
        self._action_spaces = {
            "a": spaces.Box(-2.0, 2.0, (2,), np.float32),
            "b": spaces.Box(-1.0, 3.0, (1,), np.float32),
            "c": spaces.Box(0.0, 1.0, (1, 2), np.float32),
        }

    def _observe(self, agents: list[str]) -> dict[str, Any]:
        observations: dict[str, Any] = ToyEnv._observe(self, agents)
        return observations

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return ToyEnv.reset(self, seed, options)

    def step(self, actions: dict[str, Any]) -> Any:
        return ToyEnv.step(self, actions)


SETTINGS: dict[str, Any] = {
    "policy": POLICIES,
    "n_envs": 3,
    "seed": 0,
    "device": "cpu",
    "learning_starts": 30,
    "batch_size": 32,
    "policy_kwargs": {"net_arch": [8, 6]},
}
