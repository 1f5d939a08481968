import sys

import pytest
from pettingzoo import AECEnv, ParallelEnv

from sb3_matrl.envs import factory, make, pettingzoo_ids
from sb3_matrl.envs.optional import import_optional


@pytest.mark.parametrize(
    ("env_id", "agents", "options"),
    [
        ("pettingzoo:atari/boxing-v2", ["first_0", "second_0"], {"obs_type": "ram"}),
        ("pettingzoo:butterfly/pistonball-v6", ["piston_0", "piston_1"], {"n_pistons": 2}),
        ("pettingzoo:classic/rps-v2", ["player_0", "player_1"], {"max_cycles": 2}),
        ("pettingzoo:mpe/simple_spread-v3", ["agent_0", "agent_1"], {"N": 2}),
        ("pettingzoo:sisl/multiwalker-v9", ["walker_0", "walker_1"], {"n_walkers": 2}),
    ],
)
def test_parallel_environments_are_found(env_id, agents, options):
    env = make(env_id, **options)
    assert isinstance(env, ParallelEnv)
    observations, _ = env.reset(seed=0)
    assert list(observations) == agents
    observations, *_ = env.step({agent: env.action_space(agent).sample() for agent in agents})
    assert all(env.observation_space(agent).contains(observations[agent]) for agent in agents)
    env.close()


@pytest.mark.parametrize("name", ["connect_four-v3", "texas_holdem-v4", "chess-v6", "hanabi-v5"])
def test_turn_based_environments_are_aec(name):
    env = make(f"pettingzoo:classic/{name}")
    assert isinstance(env, AECEnv)
    env.reset(seed=0)
    assert set(env.observe(env.agent_selection)) == {"observation", "action_mask"}


def test_factory_is_pettingzoos_own_function():
    from pettingzoo.sisl import multiwalker_v9

    assert factory("pettingzoo:sisl/multiwalker-v9") is multiwalker_v9.parallel_env


@pytest.mark.parametrize("family", ["atari", "butterfly", "classic", "mpe", "sisl"])
def test_names_are_those_that_pettingzoo_lists_itself(family):
    package = "mpe2" if family == "mpe" else f"pettingzoo.{family}"
    listed = __import__(f"{package}.all_modules", fromlist=["*"])
    modules = {name.rpartition("/")[2] for table in vars(listed).values() if isinstance(table, dict) for name in table}
    expected = {name.replace("_v", "-v") for name in modules if "_v" in name and not name.startswith("__")}
    assert expected and expected <= set(pettingzoo_ids.names(family))


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        (
            "pettingzoo:multiwalker-v9",
            "env 'pettingzoo:multiwalker-v9' must have the form 'pettingzoo:<family>/<name>-v<version>', "
            "e.g. 'pettingzoo:sisl/multiwalker-v9'",
        ),
        (
            "pettingzoo:sissl/multiwalker-v9",
            "env 'pettingzoo:sissl/multiwalker-v9': family 'sissl' is unknown; did you mean 'sisl'? "
            "Known: atari, butterfly, classic, mpe, sisl",
        ),
        (
            "pettingzoo:sisl/multiwalkr-v9",
            "env 'pettingzoo:sisl/multiwalkr-v9': environment 'multiwalkr-v9' is unknown; did you mean 'multiwalker-v9'? "
            "Known: multiwalker-v9, pursuit-v5",
        ),
        (
            "pettingzoo:sisl/pursuit-v3",
            "env 'pettingzoo:sisl/pursuit-v3': environment 'pursuit-v3' is unknown; did you mean 'pursuit-v5'? "
            "Known: multiwalker-v9, pursuit-v5",
        ),
    ],
)
def test_wrong_ids_are_explained(env_id, message):
    with pytest.raises(ValueError) as caught:
        factory(env_id)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("env_id", "missing", "extra"),
    [
        ("pettingzoo:butterfly/pistonball-v6", "pettingzoo.butterfly.pistonball_v6", "pettingzoo"),
        ("pettingzoo:mpe/simple_spread-v3", "mpe2.simple_spread_v3", "pettingzoo"),
        ("pettingzoo:atari/boxing-v2", "ale_py", "atari"),
    ],
)
def test_missing_package_is_explained(env_id, missing, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError) as caught:
        factory(env_id)
    assert str(caught.value).startswith(f"env {env_id!r} needs more packages: pip install 'sb3-matrl[{extra}]' (")
    assert "\n" not in str(caught.value)


def test_missing_mpe2_is_explained(monkeypatch):
    monkeypatch.setattr(pettingzoo_ids, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "mpe2", None)
    with pytest.raises(
        ImportError, match=r"^env 'pettingzoo:mpe/simple-v3' needs more packages: pip install 'sb3-matrl\[petti"
    ):
        factory("pettingzoo:mpe/simple-v3")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("multiwalker_v9", "pettingzoo:sisl/multiwalker-v9"),
        ("multiwalker-v9", "pettingzoo:sisl/multiwalker-v9"),
        ("sisl/multiwalker_v9", "pettingzoo:sisl/multiwalker-v9"),
        ("mpe2.simple_spread_v3", "pettingzoo:mpe/simple_spread-v3"),
        ("mpe2:simple_spread_v3", "pettingzoo:mpe/simple_spread-v3"),
        ("pettingzoo.mpe.simple_spread_v3:parallel_env", "pettingzoo:mpe/simple_spread-v3"),  # where it was before mpe2
    ],
)
def test_other_names_of_pettingzoos_environments_lead_to_their_ids(name, meant):
    with pytest.raises(ValueError, match=f"^env {name!r} is unknown; did you mean {meant!r}[?]$"):
        factory(name)


def test_names_that_pettingzoo_does_not_know_lead_nowhere():
    assert pettingzoo_ids.meant("nonsense_v0") is None and pettingzoo_ids.meant("multiwalker") is None
    with pytest.raises(ValueError, match=r"env 'nonsense_v0' is unknown\. Known: checkers_v0"):
        factory("nonsense_v0")


def test_gymnasiums_own_error_of_a_missing_package_names_the_extra(tmp_path, monkeypatch):
    """It is no ImportError; gymnasium's robots raise it where MuJoCo is missing."""
    text = "from gymnasium.error import DependencyNotInstalled\nraise DependencyNotInstalled('MuJoCo is not installed')"
    (tmp_path / "robots_without_mujoco.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match=r"^this needs more packages: .*sb3-matrl\[mujoco\]' \(MuJoCo is not installed\)$"):
        import_optional("robots_without_mujoco", "this", "mujoco")
