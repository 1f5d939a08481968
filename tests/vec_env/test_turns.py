"""Games in which agents take turns: what comes out is what PettingZoo's own loop over the AECEnv gives."""

from collections import defaultdict
from contextlib import closing
from functools import partial

import numpy as np
import pytest
from gymnasium import spaces
from pettingzoo import AECEnv
from pettingzoo.classic import (
    chess_v6,
    connect_four_v3,
    go_v5,
    hanabi_v5,
    leduc_holdem_v4,
    texas_holdem_no_limit_v6,
    tictactoe_v3,
)
from supersuit import clip_reward_v0

from sb3_matrl.envs.turns import TurnBasedParallelEnv
from sb3_matrl.vec_env import EnvDataError, EnvError, make_joint_vec_env
from tests.vec_env.kinds import EVERY_KIND
from tests.vec_env.reference import assert_rows, random_actions
from tests.vec_env.test_snapshot import assert_goes_on
from tests.vec_env.toys import ToyEnv, draw, plain
from tests.vec_env.turn_toys import SavingTurnGame, TurnGame

GAMES = {
    "leduc_holdem": leduc_holdem_v4.env,
    "texas_holdem_no_limit": partial(texas_holdem_no_limit_v6.env, num_players=4),
    "tictactoe": tictactoe_v3.env,
    "connect_four": connect_four_v3.env,
    "go": partial(go_v5.env, board_size=4),
    "turn_game": TurnGame,
    "turn_game, the dead wait": partial(TurnGame, dead_first=False),
}


def mask_of(observation, info):
    mask = observation.get("action_mask") if isinstance(observation, dict) else info.get("action_mask")
    return None if mask is None else np.concatenate([np.ravel(part) for part in mask]) if isinstance(mask, tuple) else mask


def choose(space, mask, rng):
    """A legal action of a Discrete space; of others any."""
    if mask is None or not hasattr(space, "n") or len(mask) != space.n or len(space.shape):
        return draw(space, rng)
    return np.int64(getattr(space, "start", 0) + rng.choice(np.flatnonzero(mask)))


def loop(env, seed, n_turns, rng):
    """PettingZoo's own loop: every turn as (player, what the live ones see, action), and every episode's totals and ends."""
    turns, episodes = [], []
    while len(turns) < n_turns:
        env.reset(seed=seed if not episodes else None)
        totals, ends = defaultdict(float), {}
        for agent in env.agent_iter():
            observation, reward, terminated, truncated, info = env.last()
            totals[agent] += reward
            if terminated or truncated:
                ends[agent] = (bool(terminated), bool(truncated))
                env.step(None)
                continue
            live = [other for other in env.agents if not (env.terminations[other] or env.truncations[other])]
            action = choose(env.action_space(agent), mask_of(observation, info), rng)
            turns.append((agent, {other: env.observe(other) for other in live}, action))
            env.step(action)
        episodes.append((dict(totals), ends, len(turns)))
    return turns, episodes


def assert_same_as_loop(make, kind, n_turns):
    """Play whole episodes till there are so many turns, and compare as many turns as the shorter of two copies has."""
    with closing(make_joint_vec_env(make, 2, kind)) as venv:
        loops = [loop(make(), seed, n_turns, np.random.default_rng(seed)) for seed in venv.seed(3)]
        observations, ended = venv.reset(), [{}, {}]
        finished = [0, 0]
        for turn in range(min(len(turns) for turns, _ in loops)):
            now = [turns[turn] for turns, _ in loops]
            assert_rows(venv.agents, observations, [seen for _, seen, _ in now], venv.observation_spaces)
            np.testing.assert_array_equal(venv.alive, [[agent in seen for agent in venv.agents] for _, seen, _ in now])
            np.testing.assert_array_equal(venv.acting, [[agent == player for agent in venv.agents] for player, _, _ in now])
            actions = {
                agent: np.stack([action if agent == player else absurd(space) for player, _, action in now])
                for agent, space in venv.action_spaces.items()
            }
            observations, _, dones, infos = venv.step(actions)
            for copy, (_, episodes) in enumerate(loops):
                ended[copy].update(ends_of(venv.last_step, venv.agents, copy))
                if dones[copy]:
                    totals, ends, last = episodes[finished[copy]]
                    assert turn + 1 == last and ended[copy] == ends
                    got = {agent: total for agent, total in infos[copy]["episode"]["agents"].items() if agent in totals}
                    np.testing.assert_allclose(list(got.values()), [totals[agent] for agent in got], atol=1e-12)
                    ended[copy] = {}
                    finished[copy] += 1
        return finished, loops


def absurd(space):
    """An action outside its space, which nobody may look at while the agent waits."""
    return np.full(space.shape, 99, space.dtype)[()]


def ends_of(step, agents, copy):
    flags = zip(agents, step.terminated[copy].tolist(), step.truncated[copy].tolist(), strict=True)
    return {agent: (terminated, truncated) for agent, terminated, truncated in flags if terminated or truncated}


@pytest.mark.cases(e2e=["texas_holdem_no_limit", "go"])
@pytest.mark.parametrize("name", GAMES)
def test_turns_are_those_of_pettingzoos_loop(name):
    finished, _ = assert_same_as_loop(GAMES[name], "dummy", 90)
    assert min(finished) >= 2


def test_turns_of_hanabi_are_those_of_pettingzoos_loop():
    """It takes fresh randomness at every reset without a seed, so that only first episodes can be compared."""
    finished, _ = assert_same_as_loop(partial(hanabi_v5.env, players=3), "dummy", 1)
    assert max(finished) == 1


def test_hanabi_takes_the_seeds_of_all_copies():
    """Its reset in C++ refuses those of 32 bits."""
    with closing(make_joint_vec_env(hanabi_v5.env, 2, "dummy")) as venv:
        assert max(venv.seed(0)) >= 2**31
        first = venv.reset()
        venv.seed(0)
        again = venv.reset()
        for agent in venv.agents:
            np.testing.assert_array_equal(first[agent]["observation"], again[agent]["observation"])


class SetsActing(ToyEnv):
    """The attribute exists only after a reset."""

    def __init__(self):
        box, actions = spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(2)
        super().__init__(dict.fromkeys("ab", box), dict.fromkeys("ab", actions), dict.fromkeys("ab", (3, "terminated")))

    def reset(self, seed=None, options=None):
        self.acting_agents = self.possible_agents[:1]
        return super().reset(seed, options)


@EVERY_KIND
@pytest.mark.parametrize("make", [lambda: TurnBasedParallelEnv(TurnGame()), SetsActing], ids=["AEC", "own"])
def test_turns_hidden_by_a_conversion_are_an_error(make, kind):
    """SuperSuit's clip_reward converts a ParallelEnv twice; without acting_agents, all agents would act."""
    with closing(make_joint_vec_env(lambda: clip_reward_v0(make()), 2, kind)) as venv:
        with pytest.raises(EnvDataError, match="env copy 0, the acting_agents of the env inside are hidden by aec_to"):
            venv.reset()


def test_supersuit_around_the_aec_env_keeps_turns():
    with closing(make_joint_vec_env(lambda: clip_reward_v0(connect_four_v3.env()), 2, "dummy")) as venv:
        venv.reset()
        assert venv.acting.tolist() == [[True, False]] * 2


@pytest.mark.expensive
def test_turns_of_chess_are_those_of_pettingzoos_loop():
    finished, _ = assert_same_as_loop(chess_v6.env, "dummy", 1)
    assert max(finished) == 1


@pytest.mark.cases(quick=["turn_game"])
@pytest.mark.parametrize("name", ["connect_four", "turn_game"])
def test_turns_in_worker_processes_are_those_of_pettingzoos_loop(name):
    finished, _ = assert_same_as_loop(GAMES[name], "subproc", 60)
    assert min(finished) >= 1


def test_the_turn_game_has_deaths_late_entries_and_time_limits():
    """Else the comparison above would show little."""
    _, episodes = loop(TurnGame(), 3, 200, np.random.default_rng(0))
    ends = [ends for _, ends, _ in episodes]
    for agent in ("c", "late"):
        assert {each[agent] for each in ends} == {(True, False), (False, True)}


def play_to_death(env):
    """``c`` plays 0, which kills it."""
    env.reset(seed=0)
    return env.step({"c": np.int64(0)})


@pytest.mark.parametrize("dead_first", [True, False])
def test_an_agent_that_is_killed_ends_at_once_with_its_last_reward(dead_first):
    env = TurnBasedParallelEnv(TurnGame(dead_first))
    observations, rewards, terminations, _, _ = play_to_death(env)
    assert terminations["c"] and rewards["c"] != 0.0 and observations["c"].shape == (2,)
    assert env.agents == ["a", "b"] and env.acting_agents == ["a"]


def test_a_reward_after_an_agents_end_is_an_error_and_not_lost():
    with closing(make_joint_vec_env(partial(TurnGame, dead_first=False, posthumous=True), 1, seed=0)) as venv:
        venv.reset()
        actions = {agent: np.zeros((1, *space.shape), space.dtype) for agent, space in venv.action_spaces.items()}
        venv.step(actions)  # c kills itself
        with pytest.raises(EnvError, match=r"agent 'c' got the reward .* in a turn after its end; give it with the termin"):
            venv.step({**actions, "a": np.array([[2, 3]])})


class Undead(TurnGame):
    """Never removes the dead."""

    def _last_step_of(self, agent, action):
        pass


def test_an_env_that_keeps_its_dead_is_an_error_and_no_endless_loop():
    with pytest.raises(ValueError, match=r"agent 'c' is still in env.agents after its end and step\(None\)"):
        play_to_death(TurnBasedParallelEnv(Undead()))


def test_the_parallel_view_shows_the_env():
    env = tictactoe_v3.env(render_mode="rgb_array", screen_height=30)
    view = TurnBasedParallelEnv(env)
    view.reset()
    assert (str(view), view.unwrapped, view.metadata["name"]) == ("tictactoe_v3", env.unwrapped, "tictactoe_v3")
    assert view.render().shape == (30, 30, 3) and view.render_mode == "rgb_array"
    venv = make_joint_vec_env(env, 1)
    venv.set_attr("screen_height", 31)
    assert env.unwrapped.screen_height == 31 and venv.env_is_wrapped(TurnBasedParallelEnv) == [True]


def test_an_env_without_agents_is_refused():
    class Empty(AECEnv):
        metadata = {"name": "empty_v0"}  # noqa: RUF012

    with pytest.raises(ValueError, match="empty_v0: possible_agents is empty or missing"):
        make_joint_vec_env(Empty)


@pytest.mark.cases(quick=["SavingTurnGame-dummy", "make1-dummy"])
@EVERY_KIND
@pytest.mark.parametrize("make", [SavingTurnGame, partial(SavingTurnGame, dead_first=False)])
def test_a_game_that_can_save_its_state_goes_on_from_a_snapshot(make, kind):
    """Its masks are in infos, which no env keeps for us."""
    with closing(make_joint_vec_env(make, 3, kind, seed=1)) as venv, closing(make_joint_vec_env(make, 3, seed=2)) as other:
        assert venv.can_snapshot
        assert_goes_on(venv, other, 14, 25)
        rng = np.random.default_rng(0)
        for _ in range(5):
            other.restore(venv.snapshot())
            assert list(other.action_masks) == list(venv.action_masks) == ["c", "a", "b", "late"]
            for agent, masks in venv.action_masks.items():
                np.testing.assert_array_equal(other.action_masks[agent], masks)
            np.testing.assert_array_equal(other.acting, venv.acting)
            venv.step(random_actions(venv.action_spaces, 3, rng))


def test_who_acts_is_asked_of_the_restored_env():
    """A snapshot from before there were turns lacks the flag in its rows."""
    venv = make_joint_vec_env(SavingTurnGame, 1, seed=1)
    venv.reset()
    snapshot = venv.snapshot()
    snapshot["envs"]["copies"][0]["rows"][:, 4] = 0
    venv.restore(snapshot)
    assert venv.acting.tolist() == [[True, False, False, False]]


def test_a_game_that_cannot_save_its_state_says_so():
    venv = make_joint_vec_env(tictactoe_v3.env)
    venv.reset()
    assert not venv.can_snapshot
    with pytest.raises(TypeError, match=r"tictactoe_v3 cannot save its state: OrderEnforcingWrapper would have to define"):
        venv.snapshot()


@pytest.mark.parametrize("acting", ["ant", 3, ["stranger"]])
@pytest.mark.parametrize("at", ["reset", "step"])
def test_acting_agents_must_be_agents(acting, at):
    env = plain()
    env.acting_agents = acting if at == "reset" else env.possible_agents
    step = env.step

    def spoilt_step(actions):
        env.acting_agents = acting
        return step(actions)

    env.step = spoilt_step
    venv = make_joint_vec_env(env, 1)
    expected = "agent 'stranger' is in env.acting_agents but not in" if acting == ["stranger"] else "expected a list of agents"
    with pytest.raises(EnvDataError, match=rf"env copy 0, .*{expected}.* It happened in {at}"):
        venv.reset()
        venv.step(random_actions(venv.action_spaces, 1, np.random.default_rng(0)))
