"""Agents that see one screen."""

import numpy as np
from gymnasium import spaces

from tests.vec_env.toys import ToyEnv

SIZE = 36


class Screens(ToyEnv):
    """Two agents that see the last two frames of one screen, and a plane that says who sees it."""

    def __init__(self):
        image = spaces.Box(0, 255, (3, SIZE, SIZE), np.uint8)
        ends = {"left": (7, "truncated"), "right": (7, "truncated")}
        super().__init__({"left": image, "right": image}, dict.fromkeys(("left", "right"), spaces.Discrete(2)), ends)
        self._rng, self._frames = np.random.default_rng(0), np.zeros((2, SIZE, SIZE), np.uint8)

    def step(self, actions):
        self._frames = np.stack([self._frames[1], self._rng.integers(256, size=(SIZE, SIZE), dtype=np.uint8)])
        _, *rest = super().step(actions)
        return self._seen(), *rest

    def reset(self, seed=None, options=None):
        _, infos = super().reset(seed, options)
        return self._seen(), infos

    def _seen(self):
        tags = {"left": 0, "right": 255}
        return {agent: np.concatenate([self._frames, np.full((1, SIZE, SIZE), tag, np.uint8)]) for agent, tag in tags.items()}
