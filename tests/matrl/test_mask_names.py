"""Action masks under their usual names and from the env's method: read, or named in an error; never overlooked in silence."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from pettingzoo import AECEnv, ParallelEnv
from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO

from sb3_matrl import MATRL
from sb3_matrl.evaluation import RandomPolicy, evaluate_policy, play_episodes
from sb3_matrl.vec_env import EnvDataError, make_joint_vec_env
from sb3_matrl.vec_env.masks import MASK_NAMES

BITS = spaces.MultiBinary(4)
VIEW = spaces.Box(-1, 1, (2,), np.float32)
SMALL: dict[str, Any] = {"n_envs": 2, "n_steps": 16, "batch_size": 32, "n_epochs": 1, "br_n_epochs": 1, "seed": 0}
SMALL |= {"device": "cpu", "policy_kwargs": {"net_arch": [4]}}


class Hidden(ParallelEnv):
    """Which two of four actions are legal changes from step to step; :meth:`tell` decides where the masks are given."""

    metadata = {"name": "hidden_v0"}  # noqa: RUF012
    render_mode = None
    possible_agents = ("a", "b")
    illegal = 0

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        return VIEW

    def action_space(self, agent: str) -> spaces.Discrete:
        return spaces.Discrete(4)

    def mask(self, agent: str) -> np.ndarray:
        first = (self.t + self.possible_agents.index(agent)) % 4
        return np.isin(np.arange(4), [first, (first + 2) % 4])

    def tell(self) -> Any:
        return {agent: np.zeros(2, np.float32) for agent in self.agents}, {}

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.agents, self.t = list(self.possible_agents), 0
        return self.tell()

    def step(self, actions: dict[str, int]) -> Any:
        type(self).illegal += sum(not self.mask(agent)[action] for agent, action in actions.items())
        self.t += 1
        agents, over = self.agents, self.t >= 8
        seen, infos = self.tell()
        self.agents = [] if over else agents
        return seen, dict.fromkeys(agents, 1.0), dict.fromkeys(agents, False), dict.fromkeys(agents, over), infos


def in_infos(name: str, form: Any = np.asarray) -> type[Hidden]:
    class InInfos(Hidden):
        def tell(self) -> Any:
            return super().tell()[0], {agent: {name: form(self.mask(agent)), "other": 1} for agent in self.agents}

    return InInfos


def in_observations(name: str, space: spaces.Space[Any] = BITS, form: Any = None) -> type[Hidden]:
    class InObservations(Hidden):
        def observation_space(self, agent: str) -> spaces.Dict:
            return spaces.Dict({"view": VIEW, name: space})

        def tell(self) -> Any:
            entry = form or (lambda mask: mask.astype(space.dtype))
            view = np.zeros(2, np.float32)
            return {agent: {"view": view, name: entry(self.mask(agent))} for agent in self.agents}, {}

    return InObservations


class PerAgent(Hidden):
    def action_masks(self, agent: str) -> np.ndarray:
        return self.mask(agent)


class ByDict(Hidden):
    def action_masks(self) -> dict[str, np.ndarray]:
        return {agent: self.mask(agent).astype(np.int8) for agent in self.agents}


class Alone(Hidden):
    possible_agents = ("a",)

    def action_masks(self) -> list[bool]:
        return self.mask("a").tolist()


class Turns(Hidden):
    """One agent acts at a time, and sb3-contrib's method gives its mask."""

    @property
    def acting_agents(self) -> list[str]:
        return [self.possible_agents[self.t % 2]]

    def action_masks(self) -> np.ndarray:
        return self.mask(self.acting_agents[0])


class OneInObservations(in_observations("avail_actions")):  # type: ignore[misc]
    """One agent sees its mask, the other one is told it."""

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        return super().observation_space(agent) if agent == "a" else VIEW

    def tell(self) -> Any:
        seen, _ = super().tell()
        infos = {"b": {"legal_moves": self.mask("b").astype(int).tolist()}} if "b" in self.agents else {}
        return {agent: one if agent == "a" else one["view"] for agent, one in seen.items()}, infos


READ: dict[str, type[Hidden]] = {f"info {name}": in_infos(name) for name in MASK_NAMES}
READ |= {f"observation {name}": in_observations(name) for name in MASK_NAMES}
READ |= {
    "info, list": in_infos("legal_moves", lambda mask: mask.astype(int).tolist()),
    "info, floats": in_infos("avail_actions", lambda mask: mask.astype(np.float64)),
    "observation, floats": in_observations("avail_actions", spaces.Box(0, 1, (4,), np.float32)),
    "observation, two axes": in_observations("legal_moves", spaces.Box(0, 1, (2, 2), np.int8), lambda m: m.reshape(2, 2)),
    "method per agent": PerAgent,
    "method, dict": ByDict,
    "method, one agent": Alone,
    "method, turns": Turns,
    "one of two in observations": OneInObservations,
}


def train(env: Any, learner: Any = MaskablePPO, **kwargs: Any) -> MATRL:
    made = env()
    dicts = {agent: isinstance(made.observation_space(agent), spaces.Dict) for agent in made.possible_agents}
    policy = {agent: "MultiInputPolicy" if is_dict else "MlpPolicy" for agent, is_dict in dicts.items()}
    return MATRL(policy, env, learner_class=learner, **{**SMALL, **kwargs}).learn(32)


@pytest.mark.cases(
    expensive=[
        "info legal_moves",
        "observation avail_actions",
        "observation available_actions",
        "observation legal_actions",
        "observation, floats",
    ]
)
@pytest.mark.parametrize("name", READ)
def test_masks_are_read_wherever_they_usually_are(name: str) -> None:
    env = READ[name]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*mask")
        model = train(env)
        assert play_episodes(model, env(), 2).lengths.tolist() == [8, 8]
        evaluate_policy(model, env, 2)
    made = env()
    evaluate_policy(
        RandomPolicy(*({a: kind(a) for a in made.possible_agents} for kind in (made.observation_space, made.action_space))),
        env,
        2,
    )
    seen, _ = made.reset()
    if all(isinstance(one, dict) for one in seen.values()):
        for _ in range(5):
            actions, _ = model.predict(seen)
            assert all(made.mask(agent)[action] for agent, action in actions.items())
    assert env.illegal == 0


def test_masks_from_the_method_also_come_from_worker_processes() -> None:
    env = make_joint_vec_env(PerAgent, 2, "subproc", num_cpus=1, seed=0)
    env.reset()
    env.step({agent: np.array([1, 1]) for agent in "ab"})
    assert env.action_masks["b"].tolist() == [[True, False, True, False]] * 2
    env.close()


class OneMask(Hidden):
    def action_masks(self) -> np.ndarray:
        return np.array([1, 0, 0, 1], bool)


def fit_for_nothing(mask: np.ndarray) -> np.ndarray:
    return np.flatnonzero(mask)


UNREADABLE = {
    "list of actions": (in_infos("legal_moves", fit_for_nothing), r"the entry 'legal_moves' of its info is array\(\[0, 2\]\)"),
    "text": (in_infos("avail_actions", str), "the entry 'avail_actions' of its info"),
    "too short": (in_infos("legal_actions", lambda mask: mask[:3]), "4 values, 1 for legal and 0 for illegal"),
    "other size": (
        in_observations("legal_moves", spaces.MultiBinary(5), lambda _: np.ones(5, np.int8)),
        "'legal_moves' of its obs",
    ),
    "other values": (in_observations("avail_actions", spaces.Box(-1, 1, (4,)), lambda _: np.zeros(4)), "has the space Box"),
    "one mask": (OneMask, r"the env's method action_masks\(\) returns one mask, but several agents act"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_a_mask_is_an_error_for_learners_with_masks_alone(name: str) -> None:
    env, message = UNREADABLE[name]
    with pytest.raises(ValueError, match=rf"agent 'a': .*{message}.*Without the mask, the agent would choose illegal"):
        train(env)
    train(env, PPO)
    assert play_episodes(train(env, PPO), env()).n_episodes == 1


def test_a_list_of_two_legal_actions_is_not_taken_for_a_mask() -> None:
    class Binary(in_infos("legal_moves", lambda _: [0, 1])):  # type: ignore[misc]
        def action_space(self, agent: str) -> spaces.Discrete:
            return spaces.Discrete(2)

    with pytest.raises(ValueError, match="a mask or a list of two legal actions"):
        train(Binary)


def test_an_entry_with_the_name_of_a_mask_and_other_values_says_how_to_rename_it() -> None:
    shares = in_observations("legal_moves", spaces.Box(0, 1, (4,), np.float32), lambda _: np.full(4, 0.25, np.float32))
    with pytest.raises(EnvDataError, match=r"holds \[0.25.*an entry that is no mask needs a name other than action_mask, "):
        train(shares, PPO)


def test_agents_without_any_masks_are_named_in_one_warning() -> None:
    class Half(in_infos("action_mask")):  # type: ignore[misc]
        def tell(self) -> Any:
            seen, infos = super().tell()
            return seen, {agent: info for agent, info in infos.items() if agent == "a"}

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(Half, n_steps=8, batch_size=16)
    texts = [str(one.message) for one in caught if "mask" in str(one.message)]
    assert texts == [
        "the learners of b know action masks, but the env has none for them: all actions are legal. Masks are entries "
        "'action_mask' of observations or infos"
    ]


def test_learners_that_ignore_masks_are_named_in_one_warning() -> None:
    class Free(in_infos("action_mask")):  # type: ignore[misc]
        def mask(self, agent: str) -> np.ndarray:
            return np.ones(4, dtype=bool)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(in_infos("action_mask"), {"a": PPO, "b": MaskablePPO}, n_steps=8, batch_size=16)
        train(Free, PPO)
    texts = [str(one.message) for one in caught if "mask" in str(one.message)]
    assert texts == [
        "the learners of a ignore the env's action masks and choose illegal actions, too: learner_class MaskablePPO knows them"
    ]


class Nim(AECEnv):
    """Take one or two of seven sticks in turn; sb3-contrib's method gives the mask of the player whose turn it is."""

    metadata = {"name": "nim_v0"}  # noqa: RUF012
    render_mode = None

    def __init__(self) -> None:
        self.possible_agents = ["x", "y"]

    def observation_space(self, agent: str) -> spaces.Discrete:
        return spaces.Discrete(8)

    def action_space(self, agent: str) -> spaces.Discrete:
        return spaces.Discrete(3)

    def observe(self, agent: str) -> int:
        return self.left

    def action_masks(self) -> np.ndarray:
        return np.array([False, True, self.left >= 2])

    def reset(self, seed: int | None = None, options: Any = None) -> None:
        self.agents, self.left, self.agent_selection = list(self.possible_agents), 7, "x"
        self.rewards, self._cumulative_rewards = dict.fromkeys(self.agents, 0.0), dict.fromkeys(self.agents, 0.0)
        self.terminations, self.truncations = dict.fromkeys(self.agents, False), dict.fromkeys(self.agents, False)
        self.infos: dict[str, Any] = {agent: {} for agent in self.agents}

    def step(self, action: Any) -> None:
        if self.terminations[self.agent_selection]:
            self._was_dead_step(action)
            return
        assert self.action_masks()[action]
        self.left -= int(action)
        if self.left == 0:
            self.terminations = dict.fromkeys(self.agents, True)
        self.agent_selection = "y" if self.agent_selection == "x" else "x"


def test_the_method_of_a_turn_based_game_gives_the_mask_of_the_player_in_turn() -> None:
    train(Nim)
