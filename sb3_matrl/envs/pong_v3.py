"""
Two-player Pong: PettingZoo's version of Atari's Video Olympics, with the ROM that ale-py includes; nothing is downloaded.

``first_0`` plays the right paddle, ``second_0`` the left one. The agent that scores gets +1 and the other -1; the game ends
at 21 points. An agent that does not serve in time (about two seconds) gets -1, and the other gets 0.

The emulator is deterministic. Therefore every episode starts with 0 to ``noop_max`` frames without actions; the number is
drawn from the environment's generator, and the seed affects nothing else. For the same reason, a snapshot holds this number
and the game's actions, and restoring it plays them again.

Observations:

- ``"ram"``: the 128 bytes of memory, each divided by 255, and the agent's identity as a one-hot vector: float32 (130,). Six
  bytes hold the game: the ball's column (49) and line (54, 0 if there is no ball), its speed (56 downwards, 58 to the left;
  -1 is 255), and the lines of the right (51) and the left paddle (50). Most others are scores, clocks and graphics, which a
  network can memorise; ``ram_bytes`` selects bytes. Paddles have inertia, so two frames contain more than one.
- ``"pixels"``: the last four frames, each the maximum of two consecutive ones, in grey and scaled to 84x84, and a constant
  plane for the agent's identity, 0 for ``first_0`` and 255 for ``second_0``: uint8 (5, 84, 84). With the channels first,
  this is a valid image for SB3's ``CnnPolicy``. Frames equal those of SuperSuit's ``max_observation_v0``,
  ``frame_skip_v0``, ``resize_v1`` and ``frame_stack_v1`` applied to grey screens, but are computed once for both agents.
"""

from __future__ import annotations

import sys
import warnings
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
from sb3_matrl.envs.snapshot import Snapshot, check_array, check_keys, check_saved, restored, saved

__all__ = ["PongEnv", "PongOptions", "env", "parallel_env"]

OBSERVATIONS = ("ram", "pixels")
RENDER_MODES = ("human", "rgb_array")
# Height and width of a frame, as in Mnih et al. 2015.
SIZE = 84
RAM_SIZE = 128
_SCREEN_SPACE = spaces.Box(0, 255, (210, 160), np.uint8)
_SAVED = ("np_random", "started", "noops", "actions", "memory")
# Earlier versions saved the emulator's own state. It is not read, because the emulator aborts the process if it is damaged.
_SAVED_EARLIER = ("_shown", "_stack", "np_random", "_elapsed_steps", "_started", "machine", "running")


@dataclass(frozen=True, kw_only=True)
class PongOptions:
    """
    Options of Pong.

    :param observation: ``"ram"`` or ``"pixels"``
    :param frame_skip: number of frames per action; their rewards are summed
    :param stack: number of stacked observations, the latest last; ``None`` for 1 with RAM and 4 with pixels
    :param ram_bytes: addresses of the observed bytes, in this order; ``None`` for all 128
    :param noop_max: maximum number of frames without actions at the start of an episode
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
        """Number of stacked observations, with the default applied."""
        return self.stack or (1 if self.observation == "ram" else 4)


class PongEnv(ParallelEnv[str, np.ndarray, int]):  # type: ignore[misc]  # PettingZoo ships no types
    """
    Two-player Pong; the module's docstring describes observations and rewards.

    :param options: options of the game
    :param render_mode: ``"human"``, ``"rgb_array"`` or ``None``
    :raises ValueError: if the render mode is unknown
    :raises ImportError: if the Atari packages are not installed; the message says what to install
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
        self._started = False
        # What decides the state of the current game: frames without actions, and the actions of both agents in every step.
        self._noops = 0
        self._history = bytearray()
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
        return _scaled(self._memory())

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
        """
        Start a new game with 0 to ``noop_max`` frames without actions.

        :param seed: seed of the generator of that number; ``None`` continues with the current generator
        :param options: ignored, part of PettingZoo's signature
        :return: observations and (empty) infos of both agents
        """
        if seed is not None:
            self.np_random = seeding.np_random(seed)[0]
        self._begin(int(self.np_random.integers(self.options.noop_max + 1)))
        return self._observe(), {agent: {} for agent in self.agents}

    def step(
        self, actions: dict[str, int]
    ) -> tuple[dict[str, np.ndarray], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        """
        Play ``frame_skip`` frames with the same actions, or fewer if the game ends.

        :param actions: agent -> action, for both agents
        :return: observations, rewards, terminations, truncations and (empty) infos of both agents
        :raises RuntimeError: before the first reset and after the end of the game
        :raises ValueError: if an agent's action is missing or invalid, or an unknown agent has one
        """
        check_turns(self, self.agents, self._started, actions)
        for agent, action in actions.items():
            check_integer(f"{agent}: action", action, low=0, high=int(self.action_spaces[agent].n) - 1)
        rewards, over = self._play(actions)
        self._history += bytes([actions[agent] for agent in self.possible_agents])
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
        Save the complete state of the environment.

        :return: random generator, whether a game has ever begun, number of frames without actions at its start, actions of
            its steps, uint8 (steps, 2), and the machine's memory, uint8 (128,), with which :meth:`restore` compares its own
        """
        return {
            "np_random": saved("np_random", self.np_random),
            "started": self._started,
            "noops": self._noops,
            "actions": np.frombuffer(self._history, np.uint8).reshape(-1, len(self.possible_agents)).copy(),
            "memory": self._memory(),
        }

    def restore(self, snapshot: Snapshot) -> None:
        """
        Restore a snapshot of an environment with the same options: play its game again, which takes about 0.1 ms per frame.

        A new game begins, with a warning, if an earlier version of this package has taken the snapshot, or if the actions
        lead to another state than they did there, as they may with another version of the emulator.

        :param snapshot: return value of :meth:`snapshot`; it is copied
        :raises ValueError: if the snapshot does not fit; nothing is changed then
        """
        what = f"snapshot of {self}"
        earlier = isinstance(snapshot, dict) and "machine" in snapshot
        check_keys(what, snapshot, _SAVED_EARLIER if earlier else _SAVED)
        check_saved(f"{what}: 'np_random'", self.np_random, snapshot["np_random"])
        if not earlier:
            self._check_game(what, snapshot)
        restored(self.np_random, snapshot["np_random"])
        if earlier:
            self._begin_instead("an earlier version has saved it")
        elif not snapshot["started"]:
            self._started, self._noops, self.agents = False, 0, []
            self._history.clear()
        elif not self._replay(snapshot["noops"], snapshot["actions"], snapshot["memory"]):
            self._begin_instead("its actions lead to another state here; was it saved with another version of the emulator?")

    def render(self) -> np.ndarray | None:
        """Screen, uint8 (210, 160, 3), for ``"rgb_array"``; ``"human"`` shows it in a window and returns ``None``."""
        frame = self._machine.render()
        return None if frame is None else np.asarray(frame)

    def close(self) -> None:
        """Close the window, if there is one; further calls do nothing."""
        self._machine.close()

    def __str__(self) -> str:
        return str(self.metadata["name"])

    def __reduce__(self) -> tuple[Any, ...]:
        # The emulator and its window are not copied: a copy creates its own and restores the state.
        return type(self), (self.options, self.render_mode), self.snapshot()

    def __setstate__(self, snapshot: Snapshot) -> None:
        self.restore(snapshot)

    @property
    def _elapsed_steps(self) -> int:
        return len(self._history) // len(self.possible_agents)

    def _memory(self) -> np.ndarray:
        return np.array(self._machine.ale.getRAM())

    def _check_game(self, what: str, snapshot: Snapshot) -> None:
        """
        Check that a snapshot holds a game that can be played.

        :param what: name of the snapshot, for messages
        :param snapshot: snapshot with the right keys
        :raises ValueError: if it does not
        """
        check_saved(f"{what}: 'started'", self._started, snapshot["started"])
        check_integer(f"{what}: 'noops'", snapshot["noops"], low=0, high=self.options.noop_max)
        check_array(f"{what}: 'memory'", snapshot["memory"], np.zeros(RAM_SIZE, np.uint8))
        actions, n_agents = snapshot["actions"], len(self.possible_agents)
        steps = len(actions) if isinstance(actions, np.ndarray) and actions.ndim else 0
        longest = self.options.max_cycles if snapshot["started"] else 0
        if steps > longest:
            raise ValueError(f"{what}: 'actions' must have at most {longest} steps, got {steps}")
        check_array(f"{what}: 'actions'", actions, np.zeros((steps, n_agents), np.uint8))
        highest = int(self.action_spaces[self.possible_agents[0]].n) - 1
        if actions.size and actions.max() > highest:
            raise ValueError(f"{what}: 'actions' must be integers from 0 to {highest}, got {actions.max()}")

    def _begin(self, noops: int) -> None:
        """
        Start a game.

        :param noops: number of frames without actions
        """
        self._stack[...] = self._shown[...] = 0
        self._see(self._machine.reset()[0])
        self.agents = list(self.possible_agents)
        self._started, self._noops = True, noops
        self._history.clear()
        for _ in range(noops):
            self._see(self._machine.step(dict.fromkeys(self.possible_agents, 0))[0])
        self._push()

    def _begin_instead(self, reason: str) -> None:
        """Start a new game instead of a saved one."""
        warnings.warn(f"{self} cannot continue a saved game and begins a new one: {reason}", stacklevel=3)
        self.reset()

    def _replay(self, noops: int, actions: np.ndarray, memory: np.ndarray) -> bool:
        """
        Start a game and play its steps.

        :param noops: number of frames without actions
        :param actions: actions of both agents in every step, uint8 (steps, 2)
        :param memory: the machine's memory after these steps, uint8 (128,)
        :return: whether all steps could be played and led to this memory
        """
        self._begin(noops)
        # Only the last screens are needed: those of the stack, and the one before, of which the next frame may be the maximum.
        unseen = max(0, len(actions) - self.options.stack_size - 1)
        for joint_action in self._machine.action_mapping[actions[:unseen]]:
            for _ in range(self.options.frame_skip):
                self._machine.ale.act(joint_action)
            if self._machine.ale.game_over():
                return False
        over = False
        for joint_action in actions[unseen:].tolist():
            if over:
                return False
            _, over = self._play(dict(zip(self.possible_agents, joint_action, strict=True)))
        self._history += actions.tobytes()
        if over or self._elapsed_steps >= self.options.max_cycles:
            self.agents = []
        return np.array_equal(self._memory(), memory)

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
        """Keep the last two screens (or memories), which are the same for both agents."""
        self._shown[0] = self._shown[1]
        self._shown[1] = seen[self.possible_agents[0]].squeeze()

    def _push(self) -> None:
        """Append the latest frame to the stack."""
        self._stack[:-1] = self._stack[1:]
        self._stack[-1] = self._frame()

    def _frame(self) -> np.ndarray:
        if self.options.observation == "ram":
            return _scaled(self._shown[1][self._seen_bytes])
        return np.asarray(resize.change_observation(self._shown.max(axis=0), _SCREEN_SPACE, (SIZE, SIZE, True)))

    def _observe(self) -> dict[str, np.ndarray]:
        """Observations of all possible agents, as new arrays."""
        frames = self._stack.ravel() if self.options.observation == "ram" else self._stack
        return {agent: np.concatenate([frames, tag]) for agent, tag in self._tags.items()}

    def _tag(self, index: int) -> np.ndarray:
        """Identity of an agent, in the form of the observation it is appended to."""
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
    Make two-player Pong as a PettingZoo parallel environment; the module's docstring describes observations and rewards.

    :param observation: ``"ram"`` or ``"pixels"``
    :param frame_skip: number of frames per action; their rewards are summed
    :param stack: number of stacked observations, the latest last; ``None`` for 1 with RAM and 4 with pixels
    :param ram_bytes: addresses of the observed bytes, in this order; ``None`` for all 128
    :param noop_max: maximum number of frames without actions at the start of an episode
    :param max_cycles: steps (of ``frame_skip`` frames) after which an episode is truncated
    :param render_mode: ``"human"``, ``"rgb_array"`` or ``None``
    :raises ValueError: if an option is invalid; the message says what is valid
    :raises ImportError: if the Atari packages are not installed; the message says what to install
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
    """Make PettingZoo's environment without its wrappers, which halve the speed and hide the state."""
    pong = import_optional("pettingzoo.atari.pong_v3", "env pong_v3", "atari")
    obs_type = "ram" if observation == "ram" else "grayscale_image"
    # PongEnv enforces the limit; the seed has no effect, but without one the emulator would draw its own.
    machine = pong.parallel_env(
        obs_type=obs_type,
        render_mode=render_mode,
        max_cycles=sys.maxsize,
        seed=0,
        auto_rom_install_path=rom_folder("env pong_v3"),
    )
    return machine.unwrapped


def _space(observation: np.ndarray) -> spaces.Box:
    return spaces.Box(0, 255 if observation.dtype == np.uint8 else 1, observation.shape, observation.dtype.type)


def _scaled(memory: np.ndarray) -> np.ndarray:
    return memory.astype(np.float32) / np.float32(255)
