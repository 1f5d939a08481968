"""Returns with which those of a training are compared: of agents that act at random, and the best possible one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sb3_matrl.envs.making import make_env
from sb3_matrl.evaluation import EvaluationResult
from sb3_matrl.zoo.common.records import write_json


@dataclass(frozen=True)
class References:
    """
    Returns for comparison.

    :param chance: mean team return of agents that act uniformly at random; ``None`` if unknown
    :param optimum: largest possible mean of the team return; ``None`` if unknown
    """

    chance: float | None = None
    optimum: float | None = None

    @property
    def levels(self) -> dict[str, float]:
        """Name -> team return, of those that are known."""
        given = {"chance": self.chance, "optimum": self.optimum}
        return {name: value for name, value in given.items() if value is not None}

    @classmethod
    def of(cls, random: EvaluationResult, env_id: str, env_kwargs: Mapping[str, Any], wrapped: bool) -> References:
        """
        :param random: episodes of agents that act at random
        :param env_id: id of the environment
        :param env_kwargs: options of the environment
        :param wrapped: whether the environment has wrappers, which may change the rewards: then the optimum is unknown
        """
        return cls(random.mean, None if wrapped else best_team_return(env_id, env_kwargs))

    def write(self, path: Path) -> None:
        """
        :param path: path of a JSON file
        :raises OSError: if the file cannot be written
        """
        write_json(path, {"chance": self.chance, "optimum": self.optimum})

    @classmethod
    def read(cls, path: Path) -> References:
        """
        :param path: path of a file that :meth:`write` has written
        :return: what the file holds; nothing if there is no such file
        :raises ValueError: if the file is damaged
        """
        if not path.is_file():
            return cls()
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls(*(_number(content[name]) for name in ("chance", "optimum")))
        except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"it is damaged ({type(error).__name__})") from error


def best_team_return(env_id: str, env_kwargs: Mapping[str, Any]) -> float | None:
    """
    Largest possible mean team return of an environment, which its attribute ``best_team_return`` says.

    :param env_id: id of the environment
    :param env_kwargs: options of the environment
    :return: ``None`` if the environment has no such attribute, or does not know it with these options
    """
    with closing(make_env(env_id, env_kwargs)) as env:
        return _number(getattr(env.unwrapped, "best_team_return", None))


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool) and bool(np.isfinite(value))
    return float(value) if is_number else None
