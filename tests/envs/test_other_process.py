import multiprocessing

import pytest

from sb3_matrl.envs import make
from tests.envs.playing import assert_same, episode_ends, loaded, play, play_on

OPTIONAL = {"mujoco", "gymnasium_robotics", "ale_py", "multi_agent_ale_py", "pygame", "mpe2"}


@pytest.fixture(scope="module")
def other_process():
    """A process that has imported this package and nothing else."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        yield pool


@pytest.mark.e2e
def test_importing_the_environments_loads_no_optional_package(other_process):
    assert other_process.apply(loaded, ({"sb3_matrl"},)) == ["sb3_matrl"]
    assert other_process.apply(loaded, (OPTIONAL,)) == []


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("env_id", "options"),
    [("ant_2x4", {"max_episode_steps": 20}), ("pong_v3", {"max_cycles": 20})],
)
def test_snapshots_go_on_bit_for_bit(other_process, env_id, options):
    env = make(env_id, **options)
    env.reset(seed=3)
    play(env, 7, seed=0)
    seen = other_process.apply(play_on, (env_id, options, env.snapshot(), 60, 1))
    assert_same(seen, play(env, 60, seed=1))
    assert episode_ends(seen) == 3
