"""The smallest multi-agent algorithm: agents that count steps and act by the count. It shows what the base class provides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch as th

from sb3_matrl.common.agents import Position
from sb3_matrl.common.algorithm import MultiAgentAlgorithm
from sb3_matrl.common.frozen import FrozenAgent
from sb3_matrl.common.registry import AlgorithmSpec


class StepCounter(MultiAgentAlgorithm):
    def __init__(self, env: Any = None, n_steps: int = 5, n_envs: int = 1, env_kwargs: Any = None,
                 vec_env: str = "auto", seed: int | None = None, verbose: int = 0, device: str = "auto",
                 _init_setup_model: bool = True) -> None:  # fmt: skip
        self.n_steps, self.count = n_steps, th.zeros(1, dtype=th.int64)
        super().__init__(locals())

    def player(self, agent: str) -> FrozenAgent:
        space = self.action_space[agent]
        return FrozenAgent(lambda rows: np.full(len(np.atleast_2d(rows)), int(self.count) % space.n)[: len(rows)])

    def collect_rollouts(self, callback: Any) -> bool:
        self.start_rollout(callback)
        for _ in range(self.n_steps):
            actions = self.predict(self.position.observations)[0]
            observations, _, dones, infos = self.env.step(actions)
            self.position = Position(observations, np.repeat(dones[:, None], len(self.possible_agents), axis=1))
            if not self.on_env_step(callback, {"infos": infos, "dones": dones}):
                return False
        callback.on_rollout_end()
        return True

    def update(self) -> None:
        self.count += self.n_steps * self.n_envs
        self.logger.record("train/count", int(self.count))

    def get_parameters(self) -> dict[str, dict[str, Any]]:
        return {"all": {"count": self.count}}

    def set_parameters(self, load_path_or_dict: Any, exact_match: bool = True, device: Any = "auto") -> None:
        self.count = load_path_or_dict["all"]["count"].clone()


CONF_FILE = Path(__file__).with_name("step_counter.yml")
SPEC = AlgorithmSpec("step-counter", "tests.common.step_counter:StepCounter", {}, "agents that count steps", str(CONF_FILE))
