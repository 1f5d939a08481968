"""Three agents with unequal spaces, masks in an observation and in the infos, early deaths and ends of both kinds."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from tests.vec_env.toys import ToyEnv


class Trio(ToyEnv):
    """
    ``a`` dies first; then ``c`` terminates, and at once ``b`` is cut off or terminates, too.

    Observations, rewards and masks are random.
    """

    metadata = {"name": "trio_v0", "render_modes": []}  # noqa: RUF012

    def __init__(self) -> None:
        masked = {"observation": spaces.Box(-1, 1, (2,), np.float32), "action_mask": spaces.Box(0, 1, (4,), np.int8)}
        observations = {
            "a": spaces.Box(-1, 1, (3,), np.float32),
            "b": spaces.Dict(masked),
            "c": spaces.Box(-1, 1, (2, 2), np.float32),
        }
        actions = {"a": spaces.Discrete(2), "b": spaces.Discrete(4), "c": spaces.Discrete(3, start=1)}
        ends = {"a": (1, "terminated"), "b": (3, "truncated"), "c": (3, "terminated")}
        super().__init__(observations, actions, ends)

    def _ends(self, agent: str, kinds: tuple[str, ...]) -> bool:
        if agent == "b":
            self.ends["b"] = (3, "truncated" if self.delay == 0 else "terminated")
        return bool(super()._ends(agent, kinds))

    def state(self) -> np.ndarray:
        """Not the observations, and different at any two moments of an episode."""
        return np.array([self.time / 5, self.delay / 2, len(self.agents) / 3, np.sin(self.time + self.delay)], np.float32)

    def _mask(self, size: int) -> np.ndarray:
        mask = self.rng.integers(0, 2, size).astype(np.int8)
        mask[self.rng.integers(size)] = 1
        return mask

    def _observe(self, agents: list[str]) -> dict[str, Any]:
        observations = super()._observe(agents)
        if "b" in observations:
            observations["b"]["action_mask"] = self._mask(4)
        return observations

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        observations, _ = super().reset(seed, options)
        return observations, {"c": {"action_mask": self._mask(3)}}

    def step(self, actions: dict[str, Any]) -> Any:
        *results, infos = super().step(actions)
        return *results, {**infos, "c": {"action_mask": self._mask(3)}}


POLICIES = {"a": "MlpPolicy", "b": "MultiInputPolicy", "c": "MlpPolicy"}
SETTINGS: dict[str, Any] = {
    "policy": POLICIES,
    "env": Trio,
    "n_envs": 3,
    "seed": 0,
    "device": "cpu",
    "learning_starts": 30,
    "batch_size": 32,
    "train_freq": 1,
    "target_update_interval": 12,
    "policy_kwargs": {"net_arch": [8, 6]},
    "learning_rate": 1e-3,
}
