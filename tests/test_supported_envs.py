"""What the documentation's table says is supported, tried on PettingZoo's own environments, two iterations each."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import supersuit
import torch as th
from gymnasium import spaces
from sb3_contrib import TRPO, MaskablePPO, RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger

from sb3_matrl import MATRL
from sb3_matrl.envs import make
from tests.vec_env.toys import ToyEnv

N_STEPS = 24
FEW = {"n_steps": 6}  # where a step or a picture is slow
TABLE = Path(__file__).parent.parent / "docs" / "environments.md"


@dataclass(frozen=True)
class Play:
    """
    What happened in a training, one entry per step.

    :param alive: bool (n_envs, n_agents), who was there
    :param acting: bool (n_envs, n_agents), whose action was made
    :param masks: agent -> bool (n_envs, mask size), what was legal
    :param actions: agent -> (n_envs, ...), what was done
    :param ended: bool (n_envs, n_agents), who ended in that step
    """

    alive: list[np.ndarray] = field(default_factory=list)
    acting: list[np.ndarray] = field(default_factory=list)
    masks: list[dict[str, np.ndarray]] = field(default_factory=list)
    actions: list[dict[str, np.ndarray]] = field(default_factory=list)
    ended: list[np.ndarray] = field(default_factory=list)


class Watch(BaseCallback):
    """Notes down the play; what an env says after a step is about the next one."""

    def __init__(self) -> None:
        super().__init__()
        self.play = Play()

    def _on_rollout_start(self) -> None:
        self._look()

    def _on_step(self) -> bool:
        step = self.model.env.last_step
        for name, value in zip(("alive", "acting", "masks"), self.now, strict=True):
            getattr(self.play, name).append(value)
        self.play.actions.append(self.locals["actions"])
        self.play.ended.append(step.terminated | step.truncated)
        self._look()
        return True

    def _look(self) -> None:
        env = self.model.env
        self.now = (env.alive, env.acting, env.action_masks)


class Numbers(KVWriter):
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0) -> None:
        self.rows.append(dict(key_values))

    def close(self) -> None:
        """Nothing is open."""


@dataclass(frozen=True)
class Case:
    """
    An environment, how it is trained, and what is to be seen in it.

    :param env: id, or a factory
    :param env_kwargs: of the env
    :param policy: for all agents
    :param arguments: of MATRL, beside the usual ones
    :param expected: checks the model and its play, which come from this environment alone
    """

    env: Any
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    policy: str = "MlpPolicy"
    arguments: dict[str, Any] = field(default_factory=dict)
    expected: Callable[[MATRL, Play], None] = lambda model, play: None


def n_alive(play: Play) -> np.ndarray:
    return np.stack(play.alive).sum(axis=2)


def some_live_on_when_others_die(model: MATRL, play: Play) -> None:
    alive = n_alive(play)
    assert alive.max() == len(model.possible_agents)
    assert ((alive > 0) & (alive < len(model.possible_agents))).any()


def everybody_lives_and_acts(model: MATRL, play: Play) -> None:
    assert np.stack(play.alive).all() and np.stack(play.acting).all()


def one_acts_at_a_time_and_legally(model: MATRL, play: Play) -> None:
    """Illegal actions would be drawn in no time if masks were not used."""
    everybody_lives(play)
    assert (np.stack(play.acting).sum(axis=2) == 1).all()
    assert set(np.stack(play.acting).argmax(axis=2).ravel()) == {0, 1}
    restricted = 0
    for acting, masks, actions in zip(play.acting, play.masks, play.actions, strict=True):
        for copy, column in np.argwhere(acting):
            agent = model.possible_agents[column]
            assert masks[agent][copy][actions[agent][copy]]
            restricted += not masks[agent][copy].all()
    assert restricted > 10


def rows_without_a_decision_are_masked(model: MATRL, play: Play) -> None:
    """In the last rollout, which is still in the buffers."""
    acting = np.stack(play.acting[-model.n_steps :]).sum(axis=(0, 1))
    for name, learner in model.learners.items():
        columns = [model.possible_agents.index(agent) for agent in model.team.members[name]]
        assert learner.rollout_buffer.mask.sum() == acting[columns].sum()


def everybody_lives(play: Play) -> None:
    assert np.stack(play.alive).all()


def observation_spaces_differ(model: MATRL, play: Play) -> None:
    everybody_lives(play)
    sizes = {agent: space.shape for agent, space in model.observation_space.items()}
    assert len(set(sizes.values())) > 1
    assert {name: learner.observation_space.shape for name, learner in model.learners.items()} == sizes


def both_spaces_differ(model: MATRL, play: Play) -> None:
    observation_spaces_differ(model, play)
    options = {agent: int(space.n) for agent, space in model.action_space.items()}
    assert len(set(options.values())) > 1
    for agent, n in options.items():
        chosen = set(np.concatenate([actions[agent].ravel() for actions in play.actions]).tolist())
        assert chosen == set(range(n))


def actions_keep_within_their_box(model: MATRL, play: Play) -> None:
    for agent, space in model.action_space.items():
        actions = np.concatenate([actions[agent] for actions in play.actions])
        assert isinstance(space, spaces.Box) and actions.dtype == space.dtype
        assert (actions >= space.low).all() and (actions <= space.high).all() and actions.std() > 0


def walkers_fall(model: MATRL, play: Play) -> None:
    actions_keep_within_their_box(model, play)
    some_live_on_when_others_die(model, play)


def pictures_go_through_a_cnn(model: MATRL, play: Play) -> None:
    everybody_lives(play)
    for learner in model.learners.values():
        assert type(learner.policy.features_extractor).__name__ == "NatureCNN"
        assert learner.policy.observation_space.shape[0] in (3, 4, 5)  # channels first


def pictures_and_boxes(model: MATRL, play: Play) -> None:
    pictures_go_through_a_cnn(model, play)
    actions_keep_within_their_box(model, play)


def memory_reaches_back(model: MATRL, play: Play) -> None:
    """What was seen before changes what a recurrent policy thinks of the same observation."""
    both_spaces_differ(model, play)
    policy = model.agents["listener_0"].policy
    first = np.zeros((1, *policy.observation_space.shape), np.float32)
    _, fresh = policy.predict(first, deterministic=True)
    _, later = policy.predict(first, fresh, np.zeros(1, bool), deterministic=True)
    assert not np.allclose(fresh[0], later[0])


def kinds_of_actions_differ(model: MATRL, play: Play) -> None:
    assert [type(space) for space in model.action_space.values()] == [spaces.Discrete, spaces.Box, spaces.MultiDiscrete]
    assert (n_alive(play) == 3).any()


def somebody_enters(model: MATRL, play: Play) -> None:
    alive, ended = np.stack(play.alive), np.stack(play.ended)
    column = model.possible_agents.index("late")
    entries = ~alive[:-1, :, column] & alive[1:, :, column] & ~ended[:-1].all(axis=2)
    assert entries.any() and not alive[0, :, column].any()


def pictures_of(env_id: str, **options: Any) -> Callable[[], Any]:
    """A factory of one's own: PettingZoo's env, its pictures made small by SuperSuit."""
    return lambda: supersuit.resize_v1(make(env_id, **options), 48, 48)


def atari_pictures() -> Any:
    env = make("pettingzoo:atari/pong-v3", obs_type="grayscale_image")
    env = supersuit.frame_skip_v0(supersuit.max_observation_v0(env, 2), 4)
    return supersuit.frame_stack_v1(supersuit.resize_v1(env, 48, 48), 4)


def mixed_kinds() -> ToyEnv:
    box = spaces.Box(-1, 1, (3,), np.float32)
    dictionary = spaces.Dict({"where": box, "what": spaces.Discrete(4), "which": spaces.MultiBinary(2)})
    actions = {
        "chooser": spaces.Discrete(3),
        "mover": spaces.Box(-1, 1, (2,), np.float32),
        "builder": spaces.MultiDiscrete([2, 3]),
    }
    ends = {"chooser": (5, "terminated"), "mover": (7, "truncated"), "builder": (7, "terminated")}
    return ToyEnv({"chooser": dictionary, "mover": dictionary, "builder": dictionary}, actions, ends)


def late_entry() -> ToyEnv:
    box = spaces.Box(-1, 1, (2,), np.float32)
    agents, ends = ("first", "late"), {"first": (8, "truncated"), "late": (6, "terminated")}
    return ToyEnv(dict.fromkeys(agents, box), dict.fromkeys(agents, spaces.Discrete(3)), ends, {"late": 2})


MASKABLE = {"learner_class": MaskablePPO}
CASES = {
    "pistonball-v6": Case(
        pictures_of("pettingzoo:butterfly/pistonball-v6", n_pistons=2), {}, "CnnPolicy", FEW, pictures_and_boxes
    ),
    "pistonball-v6, discrete": Case(
        pictures_of("pettingzoo:butterfly/pistonball-v6", n_pistons=2, continuous=False),
        {},
        "CnnPolicy",
        {"share": {"pistons": ["piston_0", "piston_1"]}, **FEW},
        pictures_go_through_a_cnn,
    ),
    "knights_archers_zombies-v11": Case(
        "pettingzoo:butterfly/knights_archers_zombies-v11",
        arguments={"n_steps": 160, "norm_obs": True},
        expected=some_live_on_when_others_die,
    ),
    "cooperative_pong-v6": Case(
        pictures_of("pettingzoo:butterfly/cooperative_pong-v6"), {}, "CnnPolicy", FEW, pictures_go_through_a_cnn
    ),
    "multiwalker-v9": Case(
        "pettingzoo:sisl/multiwalker-v9",
        {"terminate_on_fall": False, "remove_on_fall": True},
        arguments={"n_steps": 96, "norm_obs": True, "norm_reward": True},
        expected=walkers_fall,
    ),
    "pursuit-v5": Case(
        "pettingzoo:sisl/pursuit-v5",
        {"n_pursuers": 3, "n_evaders": 4},
        arguments={"share": {"pursuers": ["pursuer_0", "pursuer_1", "pursuer_2"]}, "n_steps": 12},
        expected=everybody_lives_and_acts,
    ),
    "simple_spread-v3": Case("pettingzoo:mpe/simple_spread-v3", expected=everybody_lives_and_acts),
    "simple_spread-v3, continuous": Case(
        "pettingzoo:mpe/simple_spread-v3", {"continuous_actions": True}, expected=actions_keep_within_their_box
    ),
    "simple_tag-v3": Case("pettingzoo:mpe/simple_tag-v3", expected=observation_spaces_differ),
    "simple_speaker_listener-v4": Case("pettingzoo:mpe/simple_speaker_listener-v4", expected=both_spaces_differ),
    "simple_speaker_listener-v4, recurrent": Case(
        "pettingzoo:mpe/simple_speaker_listener-v4",
        policy="MlpLstmPolicy",
        arguments={"learner_class": RecurrentPPO, "policy_kwargs": {"lstm_hidden_size": 8, "net_arch": [8]}},
        expected=memory_reaches_back,
    ),
    "simple_speaker_listener-v4, PPO and TRPO": Case(
        "pettingzoo:mpe/simple_speaker_listener-v4",
        arguments={"learner_class": {"speaker_0": PPO, "listener_0": TRPO}},
        expected=both_spaces_differ,
    ),
    "tictactoe-v3": Case(
        "pettingzoo:classic/tictactoe-v3",
        policy="MultiInputPolicy",
        arguments=MASKABLE,
        expected=one_acts_at_a_time_and_legally,
    ),
    "connect_four-v3": Case(
        "pettingzoo:classic/connect_four-v3",
        policy="MultiInputPolicy",
        arguments={**MASKABLE, "n_steps": 60},
        expected=one_acts_at_a_time_and_legally,
    ),
    "texas_holdem-v4": Case(
        "pettingzoo:classic/texas_holdem-v4",
        policy="MultiInputPolicy",
        arguments=MASKABLE,
        expected=one_acts_at_a_time_and_legally,
    ),
    "rps-v2": Case("pettingzoo:classic/rps-v2", {"max_cycles": 5}, expected=everybody_lives_and_acts),
    "pong-v3": Case(atari_pictures, {}, "CnnPolicy", FEW, pictures_go_through_a_cnn),
    "boxing-v2": Case("pettingzoo:atari/boxing-v2", {"obs_type": "ram"}, expected=everybody_lives_and_acts),
    "Discrete with Box": Case(mixed_kinds, policy="MultiInputPolicy", expected=kinds_of_actions_differ),
    "late entry": Case(late_entry, expected=somebody_enters),
}


def build(case: Case) -> MATRL:
    small = {"features_extractor_kwargs": {"features_dim": 16}} if case.policy == "CnnPolicy" else {}
    arguments = {"n_steps": N_STEPS, "policy_kwargs": {"net_arch": [16], **small}, **case.arguments}
    return MATRL(
        case.policy,
        case.env,
        env_kwargs=case.env_kwargs,
        n_envs=2,
        batch_size=arguments["n_steps"],
        n_epochs=1,
        br_n_epochs=1,
        seed=0,
        device="cpu",
        **arguments,
    )


def losses(rows: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Everything logged that is a loss, a KL divergence or a payoff, over the iterations."""
    names = [name for name in rows[-1] if re.search(r"loss|kl|payoff|std$", name) and not isinstance(rows[-1][name], str)]
    return {name: [float(row[name]) for row in rows if name in row] for name in names}


def first_observations(model: MATRL) -> dict[str, Any]:
    """agent -> observations of the agents that are to act after a seeded reset, in one of the copies."""
    model.env.seed(3)
    observations = model.env.reset()
    acting = [agent for column, agent in enumerate(model.possible_agents) if model.env.acting[0, column]]
    return {agent: _rows(observations[agent], slice(0, 1)) for agent in acting}


def _rows(value: Any, rows: slice) -> Any:
    return {key: part[rows] for key, part in value.items()} if isinstance(value, dict) else value[rows]


@pytest.mark.cases(
    e2e=[
        "pistonball-v6, discrete",
        "knights_archers_zombies-v11",
        "cooperative_pong-v6",
        "simple_speaker_listener-v4, recurrent",
        "connect_four-v3",
    ],
    rest="expensive",
)
@pytest.mark.parametrize("name", CASES)
def test_it_trains_saves_and_plays(name: str, tmp_path: Path) -> None:
    case, numbers, watch = CASES[name], Numbers(), Watch()
    model = build(case)
    model.set_logger(Logger(None, [numbers]))
    before = policies(model)
    model.learn(2 * 2 * model.n_steps, callback=watch)
    logged = losses(numbers.rows)
    for learner, after in policies(model).items():
        assert any(key.startswith(f"{learner}/") for key in logged)
        assert any((after[part] != before[learner][part]).any() for part in after), learner
    assert [key for key, values in logged.items() if not all(map(math.isfinite, values))] == []
    rows_without_a_decision_are_masked(model, watch.play)
    case.expected(model, watch.play)
    model.save(tmp_path / "model")
    loaded = MATRL.load(tmp_path / "model", device="cpu")
    observations = first_observations(model)
    actions, _ = model.predict(observations, deterministic=True)
    again, _ = loaded.predict(observations, deterministic=True)
    for agent, action in actions.items():
        np.testing.assert_array_equal(action, again[agent])
        assert model.action_space[agent].contains(action[0])
    model.env.close()


def policies(model: MATRL) -> dict[str, dict[str, th.Tensor]]:
    """learner -> copies of its policy's parameters."""
    return {name: deepcopy(parts["policy"]) for name, parts in model.get_parameters().items()}


def documented_envs() -> list[str]:
    """The environments in the last column of the table of what is supported."""
    section = TABLE.read_text(encoding="utf-8").split("## What is supported")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| ") and "---" not in line]
    return [env.strip(" `") for row in rows[1:] for env in row[-1].split(";")]


def test_every_row_of_the_table_is_tried_here_and_the_other_way_round() -> None:
    assert sorted(set(documented_envs())) == sorted(CASES)
