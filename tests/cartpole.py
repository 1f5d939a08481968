"""CartPole-v1 as a PettingZoo ParallelEnv with one agent, to compare with single-agent SB3."""

from __future__ import annotations

from tests.worlds.gymnasium_as_parallel import GymnasiumAsParallel


class CartPoleParallelEnv(GymnasiumAsParallel):
    """One agent, ``agent_0``; everything else is Gymnasium's CartPole-v1."""

    metadata = {"name": "cartpole", "render_modes": []}  # noqa: RUF012

    def __init__(self, max_episode_steps: int | None = None) -> None:
        super().__init__("CartPole-v1", max_episode_steps)
