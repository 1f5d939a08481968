import itertools

import numpy as np
import pytest

from sb3_matrl.envs import switch_v0
from sb3_matrl.envs.switch_v0 import SwitchCore, SwitchOptions
from tests.envs.comparison import assert_copies_match_single_envs, assert_follows_reference, play
from tests.envs.references import SlowSwitch, parse

# Found by exhaustive search (Dijkstra over all positions): the best there is.
OPTIMA = {
    (2, "pay"): (7.8, parse("DRRRRRUDDDDD", "LLLLDDLLLLUL")),
    (2, "leave"): (8.3, parse("DRRRRRUDDDDD", "LLLLDDLLLLUL")),
    (3, "pay"): (11.1, parse("UDUDDDURRRRRUD", "DLLLLLUDDDDDDD", "ULURDUDDRRRRRD")),
    (3, "leave"): (12.4, parse("DRRRRRUDDDDDDD", "LLLLDLDDLLLLUL", "DURRRRRDDDDDDD")),
    (4, "pay"): (14.4, parse("DRRRRRUDDDDDDDD", "RDLDDDDULLLLULD", "DURRRRRLULUUUUD", "UUDLDDLDDLLLLLD")),
    (4, "leave"): (16.1, parse("DRRRRRUDDDDDDDD", "LDDDDLDDDLLLLUL", "DURRRRRDDDDDDDD", "UUUDDDULLLLLDDD")),
}

START = """\
b 0 # # # 1 a
. . . . . . .
d 2 # # # 3 c
step 0/50"""


@pytest.mark.cases(
    quick=[
        "flags0-2-pay",
        "flags0-4-leave",
        "flags1-4-pay",
        "flags2-3-leave",
        "flags3-3-pay",
        "flags4-2-leave",
        "flags5-2-pay",
        "flags5-4-leave",
        "flags6-4-pay",
        "flags7-3-leave",
    ],
    rest="expensive",
)
@pytest.mark.parametrize("finished_agents", ["pay", "leave"])
@pytest.mark.parametrize("n_agents", [2, 3, 4])
@pytest.mark.parametrize("flags", list(itertools.product([False, True], repeat=3)))
def test_random_play_follows_the_written_rules(n_agents, finished_agents, flags):
    options = dict(zip(("clock", "full_observability", "team_reward"), flags, strict=True))
    options |= {"n_agents": n_agents, "finished_agents": finished_agents, "max_cycles": 20}
    core = SwitchCore(5, SwitchOptions(**options))
    assert assert_follows_reference(core, lambda: SlowSwitch(**options), n_steps=45, seed=1) == 2 * 5


@pytest.mark.e2e
@pytest.mark.parametrize("finished_agents", ["pay", "leave"])
def test_long_random_play_with_arrivals_follows_the_written_rules(finished_agents):
    options = {"n_agents": 2, "finished_agents": finished_agents, "max_cycles": 4000, "goal_reward": 2.5, "step_cost": -0.3}
    core = SwitchCore(4, SwitchOptions(**options))
    assert assert_follows_reference(core, lambda: SlowSwitch(**options), n_steps=600, seed=2) >= 3


@pytest.mark.parametrize("finished_agents", ["pay", "leave"])
def test_copies_match_single_environments(finished_agents):
    env = switch_v0.parallel_env(n_agents=3, finished_agents=finished_agents, max_cycles=40, full_observability=True)
    assert_copies_match_single_envs(env, n_copies=5, n_steps=130, seed=3)


@pytest.mark.parametrize(("n_agents", "finished_agents"), list(OPTIMA))
def test_optimum(n_agents, finished_agents):
    best, script = OPTIMA[n_agents, finished_agents]
    total, steps = play(switch_v0.parallel_env(n_agents=n_agents, finished_agents=finished_agents), script)
    assert total == pytest.approx(best)
    assert steps == len(script)


@pytest.mark.parametrize("finished_agents", ["pay", "leave"])
def test_no_play_of_two_agents_beats_the_optimum(finished_agents):
    """Value iteration over the reference's rules: cost-to-go of every reachable pair of positions."""
    best = {((0, 1), (0, 5)): 0.0}
    frontier, finished = dict(best), []
    while frontier:
        reached: dict = {}
        for positions, total in frontier.items():
            for actions in itertools.product(range(5), repeat=2):
                world = SlowSwitch(n_agents=2, finished_agents=finished_agents)
                world.positions = list(positions)
                world.arrived = [p == t for p, t in zip(positions, world.targets, strict=True)]
                world.alive = [not (a and finished_agents == "leave") for a in world.arrived]
                after = total + sum(world.step(actions)[0])
                if all(world.arrived):
                    finished.append(after)
                elif after > best.get(tuple(world.positions), -np.inf) + 1e-9:
                    best[tuple(world.positions)] = reached[tuple(world.positions)] = after
        frontier = reached
    assert max(finished) == pytest.approx(OPTIMA[2, finished_agents][0])


def test_doing_nothing_costs_twenty():
    total, steps = play(switch_v0.parallel_env(), [[4] * 4] * 60)
    assert steps == 50
    assert total == pytest.approx(-20)


def test_paying_agents_terminate_together():
    env = switch_v0.parallel_env(n_agents=2)
    env.reset()
    script = OPTIMA[2, "pay"][1]
    for row in script[:-1]:
        _, rewards, terminated, _, _ = env.step(dict(zip(env.agents, row, strict=True)))
        assert not any(terminated.values())
    assert rewards["agent_0"] == -0.1  # arrived five steps ago and still paying
    _, rewards, terminated, truncated, _ = env.step(dict(zip(env.agents, script[-1], strict=True)))
    assert rewards == {"agent_0": -0.1, "agent_1": 5.0}
    assert all(terminated.values()) and not any(truncated.values())


def test_leaving_agent_is_gone_but_its_body_blocks():
    env = switch_v0.parallel_env(n_agents=2, finished_agents="leave", max_cycles=30)
    env.reset()
    for row in parse("DRRRRRU", "......."):  # agent_1 stands at (0, 5), agent_0 reaches (0, 6) beside it
        outcome = env.step(dict(zip(env.agents, row, strict=True)))
    assert outcome[1] == {"agent_0": 5.0, "agent_1": -0.1}
    assert outcome[2] == {"agent_0": True, "agent_1": False}
    assert env.agents == ["agent_1"]
    observations, rewards, *_ = env.step({"agent_1": 3})  # into the body
    np.testing.assert_array_equal(observations["agent_1"], np.array([0, 0.83], np.float32))
    assert rewards == {"agent_1": -0.1}


def test_leaving_agents_are_truncated_one_by_one():
    env = switch_v0.parallel_env(n_agents=2, finished_agents="leave", max_cycles=8)
    env.reset()
    for row in parse("DRRRRRU.", "........"):
        _, _, terminated, truncated, _ = env.step({a: row[int(a[-1])] for a in env.agents})
    assert terminated == {"agent_1": False} and truncated == {"agent_1": True}


def test_observation_and_state_at_the_start():
    env = switch_v0.parallel_env(clock=True)
    observations, _ = env.reset()
    np.testing.assert_array_equal(observations["agent_3"], np.array([1, 0.83, 0], np.float32))
    expected = [0, 0.17, 0, 0.83, 1, 0.17, 1, 0.83, 0, 0, 0, 0, 0]
    np.testing.assert_array_equal(env.state(), np.array(expected, np.float32))
    assert env.state_space.contains(env.state())


def test_text_of_the_start():
    env = switch_v0.parallel_env(render_mode="ansi")
    env.reset()
    assert env.render() == START


def test_text_omits_absent_agents_and_their_targets():
    env = switch_v0.parallel_env(render_mode="ansi", n_agents=2)
    env.reset()
    assert env.render() == "b 0 # # # 1 a\n. . . . . . .\n. . # # # . .\nstep 0/50"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_agents": 1}, "n_agents must be an integer from 2 to 4, got 1"),
        ({"n_agents": 5}, "n_agents must be an integer from 2 to 4, got 5"),
        ({"n_agents": "4"}, "n_agents must be an integer from 2 to 4, got '4'"),
        ({"goal_reward": float("inf")}, "goal_reward must be a finite number, got inf"),
        ({"finished_agents": "leaves"}, "finished_agents 'leaves' is unknown; did you mean 'leave'? Known: pay, leave"),
        ({"max_cycles": -3}, "max_cycles must be an integer of at least 1, got -3"),
    ],
)
def test_wrong_options_are_explained(options, message):
    with pytest.raises(ValueError) as caught:
        switch_v0.parallel_env(**options)
    assert str(caught.value) == message
