"""An agent's logger writes into the common one."""

import io

import numpy as np
from stable_baselines3.common.logger import HumanOutputFormat, KVWriter, Logger

from sb3_matrl.common.logger import AgentLogger, fit_tables


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
