"""An agent's logger writes into the common one."""

import io

import numpy as np
import pytest
from stable_baselines3.common.logger import HumanOutputFormat, KVWriter, Logger, configure

from sb3_matrl import MATRL
from sb3_matrl.common.logger import AgentLogger, ShortTable, fit_tables


class Memory(KVWriter):
    """Keeps what is written."""

    def __init__(self):
        self.written = []

    def write(self, key_values, key_excluded, step=0):
        self.written.append((dict(key_values), dict(key_excluded), step))

    def close(self):
        pass


def test_every_key_goes_to_the_common_logger_under_the_agent_s_name():
    memory = Memory()
    parent = Logger(None, [memory])
    alice, bob = AgentLogger(parent, "alice"), AgentLogger(parent, "bob")
    alice.record("train/loss", 1.5)
    bob.record("train/loss", 2.5, exclude="tensorboard")
    alice.record("train/std", 0.5, exclude=("stdout", "csv"))
    parent.record("time/fps", 7)
    parent.dump(step=30)
    values = {"alice/train/loss": 1.5, "bob/train/loss": 2.5, "alice/train/std": 0.5, "time/fps": 7}
    excluded = {"alice/train/loss": ("",), "bob/train/loss": ("tensorboard",), "alice/train/std": ("stdout", "csv")}
    (written, kept_out, step) = memory.written[0]
    assert (written, step) == (values, 30)
    assert {key: kept_out[key] for key in excluded} == excluded


def test_means_are_taken_in_the_common_logger():
    parent = Logger(None, [])
    alice, bob = AgentLogger(parent, "alice"), AgentLogger(parent, "bob")
    for value in (1.0, 2.0, 6.0):
        alice.record_mean("reward", value)
    bob.record_mean("reward", 10.0)
    bob.record_mean("reward", None)
    assert parent.name_to_value["alice/reward"] == np.mean([1.0, 2.0, 6.0])
    assert parent.name_to_value["bob/reward"] == 10.0


def test_an_agent_s_own_dump_writes_and_forgets_nothing():
    memory = Memory()
    parent = Logger("folder", [memory])
    alice = AgentLogger(parent, "alice")
    alice.record("x", 1)
    alice.dump(step=5)
    assert memory.written == []
    assert parent.name_to_value["alice/x"] == 1
    assert alice.get_dir() == "folder"


def test_tables_have_room_for_long_names_and_names_with_slashes():
    agents = [
        "red/heavy_tank_00",
        "red/heavy_tank_01",
        "GS_cluster_2415878664_254486231_359566_1",
        "GS_cluster_2415878664_254486231_359566_2",
    ]
    screen = io.StringIO()
    logger = Logger(None, [HumanOutputFormat(screen)])
    fit_tables(logger, agents)
    for value, agent in enumerate(agents):
        AgentLogger(logger, agent).record("train/clip_fraction", value)
        logger.record(f"eval/{agent}/mean_reward_deterministic", value)
    logger.dump()
    assert screen.getvalue().count("clip_fraction") == screen.getvalue().count("mean_reward_deterministic") == 4
    assert "..." not in screen.getvalue()


def printed(rows, agents=("left", "right")):
    """Keys of each table that the short table prints for rows of the log; those of agents' own learners are added."""
    tables = []
    for row in rows:
        screen = io.StringIO()
        if not tables:
            table = ShortTable(agents)
        table.file = screen
        own = {f"{agent}/{key}": 0.5 for agent in agents for key in ("train/approx_kl", "metagame/rho", "br/entropy")}
        values = {**row, **own}
        table.write(values, {key: ("",) for key in values})
        tables.append([line.split("|")[1].strip() for line in screen.getvalue().split("\n") if line.startswith("|")])
    return tables


def returns_row(left, right):
    team = {"rollout/ep_rew_mean": left + right, "rollout/ep_len_mean": 7.0}
    return {**team, "left/rollout/ep_rew_mean": left, "right/rollout/ep_rew_mean": right}


REST = {
    "metagame/rho_mean": 0.0,
    "metagame/nash_conv": 0.1,
    "metagame/method": "enumeration",
    "metagame/welfare": 1.0,
    "time/predict_seconds": 0.1,
    "time/fps": 10,
    "time/total_timesteps": 40,
    "mine/metric": 3,
}


def test_short_table_holds_what_one_watches_and_the_user_s_own_keys():
    (keys,) = printed([{**returns_row(1.0, 2.0), **REST}])
    returns = ["rollout/", "ep_len_mean", "ep_rew_mean", "ep_rew_mean left", "ep_rew_mean right"]
    assert keys == ["metagame/", "nash_conv", "rho_mean", "mine/", "metric", *returns, "time/", "fps", "total_timesteps"]


def test_short_table_shows_returns_as_far_as_they_say_something():
    assert "ep_rew_mean left" not in printed([returns_row(1.0, 1.0)])[0]
    competing = printed([returns_row(1.0, -1.0), returns_row(-2.0, 2.0)])
    assert competing == [["rollout/", "ep_len_mean", "ep_rew_mean left", "ep_rew_mean right"]] * 2
    # Only the second row shows that the sum is constant.
    first, second = printed([returns_row(1.0, 0.0), returns_row(0.5, 0.5)])
    assert "ep_rew_mean" in first and "ep_rew_mean" not in second


def test_short_table_of_many_agents_has_the_lowest_and_the_highest_return():
    agents = [f"a{i}" for i in range(20)]
    row = {f"{agent}/rollout/ep_rew_mean": float(i) for i, agent in enumerate(agents)}
    (keys,) = printed([{"rollout/ep_rew_mean": 190.0, **row}], agents)
    assert keys == ["rollout/", "ep_rew_mean", "ep_rew_mean highest", "ep_rew_mean lowest"]


def test_short_table_skips_evaluations_which_print_themselves():
    evaluation = {"eval/mean_reward": 1.0, "eval/left/mean_reward": 0.5, "time/total_timesteps": 40}
    assert printed([evaluation]) == [[]]


@pytest.mark.parametrize(("verbose", "has_all"), [(1, False), (2, True)])
def test_a_verbose_model_prints_one_short_table_per_iteration(capsys, verbose, has_all):
    arguments = {"n_steps": 8, "batch_size": 8, "n_epochs": 1, "device": "cpu", "seed": 0}
    model = MATRL("MlpPolicy", "switch_v0", env_kwargs={"n_agents": 3, "max_cycles": 5}, verbose=verbose, **arguments)
    model.learn(16)
    lines = capsys.readouterr().out.split("\n")
    assert sum("total_timesteps" in line for line in lines) == 2
    assert any("approx_kl" in line for line in lines) == has_all
    assert (len(lines) > 100) == has_all and (has_all or len(lines) < 45)


def test_a_logger_of_the_user_prints_everything(capsys):
    model = MATRL("MlpPolicy", "matrix_game_v0", n_steps=8, batch_size=8, n_epochs=1, verbose=1, device="cpu")
    model.set_logger(configure(None, ["stdout"]))
    model.learn(8)
    assert "approx_kl" in capsys.readouterr().out
