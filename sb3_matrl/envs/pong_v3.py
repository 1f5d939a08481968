"""
Two-player Pong: Atari's Video Olympics by PettingZoo, with the ROM that ale-py brings; nothing is downloaded.

``first_0`` plays the right paddle, ``second_0`` the left one. Who scores gets +1, the other -1, and the first with 21 points
ends the game. Who does not serve in time (about two seconds) gets -1 as well, for which the other gets nothing.

The machine itself is deterministic. Every episode therefore begins with 0 to ``noop_max`` frames in which nobody moves, drawn
from the environment's own generator: this is what a seed decides.

Observations:

- ``"ram"``: the machine's 128 bytes, each divided by 255, then 1 for oneself and 0 for the other in the order of the agents:
  float32, (130,). The game itself is in six of them: the ball's column (49) and line (54, 0 while there is no ball), its speed
  (56 downwards, 58 to the left; -1 is 255), the lines of the right (51) and the left paddle (50). Most others are scores,
  clocks and graphics, which a network can learn by heart; ``ram_bytes`` chooses. Paddles coast, so that two frames say more
  than one.
- ``"pixels"``: the last four frames, each the brighter of two consecutive ones, in grey and scaled to 84x84, then a constant
  plane that says whose view it is, 0 for ``first_0`` and 255 for ``second_0``: uint8, (5, 84, 84). With the channels first
  it is an image for SB3's ``CnnPolicy`` as it is. Frames are those of SuperSuit's ``max_observation_v0``, ``frame_skip_v0``,
  ``resize_v1`` and ``frame_stack_v1`` over grey screens, made once for both agents instead of once for each.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.utils import seeding
from pettingzoo import AECEnv, ParallelEnv
from pettingzoo.utils.conversions import parallel_to_aec
from supersuit.utils.basic_transforms import resize

from sb3_matrl.envs.option_checks import check_choice, check_distinct_integers, check_integer, check_turns
from sb3_matrl.envs.optional import import_optional, rom_folder
from sb3_matrl.envs.snapshot import Snapshot, check_keys, check_saved, restored, saved

__all__ = ["PongEnv", "PongOptions", "env", "parallel_env"]

OBSERVATIONS = ("ram", "pixels")
RENDER_MODES = ("human", "rgb_array")
# A picture's height and width, as everywhere since Mnih et al. 2015.
SIZE = 84
RAM_SIZE = 128
_SCREEN_SPACE = spaces.Box(0, 255, (210, 160), np.uint8)
_STATE = ("_shown", "_stack", "np_random", "_elapsed_steps", "_started")


@dataclass(frozen=True, kw_only=True)
class PongOptions:
    """
    Options of Pong.

    :param observation: ``"ram"`` or ``"pixels"``
    :param frame_skip: frames that an action lasts; their rewards are summed
    :param stack: how many observations are stacked, the latest last; ``None`` for 1 of the RAM and 4 of the pixels
    :param ram_bytes: addresses of the bytes that are seen of the RAM, in this order; ``None`` for all 128
    :param noop_max: most frames without a move at an episode's start
    :param max_cycles: steps (of ``frame_skip`` frames) after which an episode is truncated
    """

    observation: str = "ram"
    frame_skip: int = 4
    stack: int | None = None
    ram_bytes: Sequence[int] | None = None
    noop_max: int = 30
    max_cycles: int = 25_000

    def __post_init__(self) -> None:
        check_choice("observation", self.observation, OBSERVATIONS)
        check_integer("frame_skip", self.frame_skip, low=1)
        check_integer("noop_max", self.noop_max, low=0)
        check_integer("max_cycles", self.max_cycles, low=1)
        if self.stack is not None:
            check_integer("stack", self.stack, low=1)
        if self.ram_bytes is not None:
            if self.observation != "ram":
                raise ValueError(f"ram_bytes belongs to observation 'ram', not {self.observation!r}")
            check_distinct_integers("ram_bytes", self.ram_bytes, low=0, high=RAM_SIZE - 1)

    @property
    def stack_size(self) -> int:
        """``stack``, or what it stands for."""
        return self.stack or (1 if self.observation == "ram" else 4)


class PongEnv(ParallelEnv[str, np.ndarray, int]):  # type: ignore[misc]  # PettingZoo ships no types
    """
    Two-player Pong; the module's text says what is seen and paid.

    :param options: the options
    :param render_mode: ``"human"``, ``"rgb_array"`` or ``None``
    :raises ValueError: on an unknown render mode
    :raises ImportError: when the Atari packages are not installed; says how to install them
    """

    def __init__(self, options: PongOptions, render_mode: str | None = None) -> None:
        if render_mode is not None:
            check_choice("render_mode", render_mode, RENDER_MODES)
        self.options = options
        self.render_mode = render_mode
        self.metadata = {
            "name": "pong_v3",
            "render_modes": list(RENDER_MODES),
            "is_parallelizable": True,
            "render_fps": max(1, 60 // options.frame_skip),
        }
        self._machine = _make_machine(options.observation, render_mode)
        self.possible_agents = list(self._machine.possible_agents)
        self.agents: list[str] = []
        self.action_spaces: dict[str, spaces.Discrete] = dict(self._machine.action_spaces)
        self.state_space = spaces.Box(0.0, 1.0, (RAM_SIZE,), np.float32)
        self.np_random = seeding.np_random()[0]
        self._elapsed_steps = 0
        self._started = False
        self._seen_bytes = slice(None) if options.ram_bytes is None else list(options.ram_bytes)
        self._shown = np.zeros((2, *self._machine.observation_space(self.possible_agents[0]).shape[:2]), np.uint8)
        frame = self._frame()
        self._stack = np.zeros((options.stack_size, *frame.shape), frame.dtype)
        self._tags = {agent: self._tag(index) for index, agent in enumerate(self.possible_agents)}
        self.observation_spaces = {agent: _space(observation) for agent, observation in self._observe().items()}

    def observation_space(self, agent: str) -> spaces.Box:
        """Observation space of ``agent``, the same object at every call."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Discrete:
        """Nothing, fire, up, down, fire and up, fire and down; the same object at every call."""
        return self.action_spaces[agent]

    def state(self) -> np.ndarray:
        """The machine's memory, each byte divided by 255: float32, (128,)."""
        return _scaled(np.asarray(self._machine.ale.getRAM()))

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
        """
        Start a new game, and let 0 to ``noop_max`` frames pass.

        :param seed: seeds the generator of the waiting times where it is not ``None``
        :param options: ignored, PettingZoo's signature
        :return: observations and (empty) infos of both agents
        """
        if seed is not None:
            self.np_random = seeding.np_random(seed)[0]
        self._stack[...] = self._shown[...] = 0
        self._see(self._machine.reset()[0])
        self.agents = list(self.possible_agents)
        self._elapsed_steps, self._started = 0, True
        for _ in range(self.np_random.integers(self.options.noop_max + 1)):
            self._see(self._machine.step(dict.fromkeys(self.possible_agents, 0))[0])
        self._push()
        return self._observe(), {agent: {} for agent in self.agents}

    def step(
        self, actions: dict[str, int]
    ) -> tuple[dict[str, np.ndarray], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        """
        Play ``frame_skip`` frames with the same actions, or as many as are left.

        :param actions: one action for each agent
        :return: observations, rewards, terminations, truncations and (empty) infos of both agents
        :raises RuntimeError: before the first reset and after the game's end
        :raises ValueError: when an agent's action is missing or invalid, or somebody else has one
        """
        check_turns(self, self.agents, self._started, actions)
        for agent, action in actions.items():
            check_integer(f"{agent}: action", action, low=0, high=int(self.action_spaces[agent].n) - 1)
        rewards, over = self._play(actions)
        self._elapsed_steps += 1
        truncated = self._elapsed_steps >= self.options.max_cycles
        if over or truncated:
            self.agents = []
        everyone = self.possible_agents
        return (
            self._observe(),
            dict(zip(everyone, rewards.tolist(), strict=True)),
            dict.fromkeys(everyone, over),
            dict.fromkeys(everyone, truncated),
            {agent: {} for agent in everyone},
        )

    def snapshot(self) -> Snapshot:
        """
        Everything that decides the future, given the options and the actions.

        :return: the machine's state, the frames still to be seen, the generator, the counters, and whether a game is running
        """
        plain = {name: saved(name, getattr(self, name)) for name in _STATE}
        return {**plain, "machine": self._machine.clone_full_state(), "running": bool(self.agents)}

    def restore(self, snapshot: Snapshot) -> None:
        """
        Go on from a snapshot, taken from an environment with the same options. Pictures drawn by :meth:`render` lag behind
        until the next step: the screen itself is no part of the machine's state.

        :param snapshot: what :meth:`snapshot` returned; it is copied
        :raises ValueError: when it does not fit; says what is wrong, and changes nothing
        """
        what = f"snapshot of {self}"
        check_keys(what, snapshot, [*_STATE, "machine", "running"])
        for name in _STATE:
            check_saved(f"{what}: {name!r}", getattr(self, name), snapshot[name])
        check_saved(f"{what}: 'running'", False, snapshot["running"])
        _check_machine(f"{what}: 'machine'", snapshot["machine"])
        for name in _STATE:
            setattr(self, name, restored(getattr(self, name), snapshot[name]))
        self._machine.reset()  # PettingZoo's counters and agents
        self._machine.restore_full_state(snapshot["machine"].copy())
        self.agents = list(self.possible_agents) if snapshot["running"] else []

    def render(self) -> np.ndarray | None:
        """The screen: uint8 (210, 160, 3) for ``"rgb_array"``; ``"human"`` shows it in a window and gives ``None``."""
        frame = self._machine.render()
        return None if frame is None else np.asarray(frame)

    def close(self) -> None:
        """Close the window, if there is one. May be called repeatedly."""
        self._machine.close()

    def __str__(self) -> str:
        return str(self.metadata["name"])

    def __reduce__(self) -> tuple[Any, ...]:
        # The machine and its window stay here: a copy is made anew and goes on from the same state.
        return type(self), (self.options, self.render_mode), self.snapshot()

    def __setstate__(self, snapshot: Snapshot) -> None:
        self.restore(snapshot)

    def _play(self, actions: dict[str, int]) -> tuple[np.ndarray, bool]:
        """
        Play the frames of one step.

        :return: summed rewards, float64 (2,), and whether the game is over
        """
        rewards = np.zeros(len(self.possible_agents))
        over = False
        for _ in range(self.options.frame_skip):
            seen, paid, terminated, _, _ = self._machine.step(actions)
            self._see(seen)
            rewards += [paid[agent] for agent in self.possible_agents]
            over = all(terminated.values())
            if over:
                break
        self._push()
        return rewards, over

    def _see(self, seen: dict[str, np.ndarray]) -> None:
        """Keep the latest two of what the machine shows, which is the same for both agents."""
        self._shown[0] = self._shown[1]
        self._shown[1] = seen[self.possible_agents[0]].squeeze()

    def _push(self) -> None:
        """Put the latest frame on the stack."""
        self._stack[:-1] = self._stack[1:]
        self._stack[-1] = self._frame()

    def _frame(self) -> np.ndarray:
        if self.options.observation == "ram":
            return _scaled(self._shown[1][self._seen_bytes])
        return np.asarray(resize.change_observation(self._shown.max(axis=0), _SCREEN_SPACE, (SIZE, SIZE, True)))

    def _observe(self) -> dict[str, np.ndarray]:
        """Fresh arrays, of everybody in ``possible_agents``."""
        frames = self._stack.ravel() if self.options.observation == "ram" else self._stack
        return {agent: np.concatenate([frames, tag]) for agent, tag in self._tags.items()}

    def _tag(self, index: int) -> np.ndarray:
        """What tells an agent who it is, in the form of the observation it is appended to."""
        if self.options.observation == "ram":
            return np.asarray(np.eye(len(self.possible_agents), dtype=np.float32)[index])
        return np.full((1, SIZE, SIZE), 255 * index, np.uint8)


def parallel_env(
    observation: str = "ram",
    frame_skip: int = 4,
    stack: int | None = None,
    ram_bytes: Sequence[int] | None = None,
    noop_max: int = 30,
    max_cycles: int = 25_000,
    render_mode: str | None = None,
) -> PongEnv:
    """
    Make two-player Pong as a PettingZoo parallel environment. What is seen and paid is in the module's text.

    :param observation: ``"ram"`` or ``"pixels"``
    :param frame_skip: frames that an action lasts; their rewards are summed
    :param stack: how many observations are stacked, the latest last; ``None`` for 1 of the RAM and 4 of the pixels
    :param ram_bytes: addresses of the bytes that are seen of the RAM, in this order; ``None`` for all 128
    :param noop_max: most frames without a move at an episode's start
    :param max_cycles: steps (of ``frame_skip`` frames) after which an episode is truncated
    :param render_mode: ``"human"``, ``"rgb_array"`` or ``None``
    :raises ValueError: on an invalid option; names it and says what is valid
    :raises ImportError: when the Atari packages are not installed; says how to install them
    """
    options = PongOptions(
        observation=observation,
        frame_skip=frame_skip,
        stack=stack,
        ram_bytes=ram_bytes,
        noop_max=noop_max,
        max_cycles=max_cycles,
    )
    return PongEnv(options, render_mode)


def env(**options: Any) -> AECEnv[str, np.ndarray, Any]:
    """Make two-player Pong as a PettingZoo AEC environment; options as for :func:`parallel_env`."""
    return parallel_to_aec(parallel_env(**options))


def _make_machine(observation: str, render_mode: str | None) -> Any:
    """PettingZoo's environment without its wrappers, which step it twice as slowly and hide its state."""
    pong = import_optional("pettingzoo.atari.pong_v3", "env pong_v3", "atari")
    obs_type = "ram" if observation == "ram" else "grayscale_image"
    # The limit is kept by PongEnv; the seed decides nothing, but without one the machine would draw its own.
    machine = pong.parallel_env(
        obs_type=obs_type,
        render_mode=render_mode,
        max_cycles=sys.maxsize,
        seed=0,
        auto_rom_install_path=rom_folder("env pong_v3"),
    )
    return machine.unwrapped


def _check_machine(what: str, state: Any) -> None:
    """The length depends on the state; whether it is one at all, only the machine knows."""
    if not isinstance(state, np.ndarray) or state.dtype != np.uint8 or state.ndim != 1 or not state.size:
        raise ValueError(f"{what} must be a one-dimensional array of bytes, got {state!r}")


def _space(observation: np.ndarray) -> spaces.Box:
    return spaces.Box(0, 255 if observation.dtype == np.uint8 else 1, observation.shape, observation.dtype.type)


def _scaled(memory: np.ndarray) -> np.ndarray:
    return memory.astype(np.float32) / np.float32(255)
