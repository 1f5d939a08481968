"""Training, resuming, files, acting and errors of the off-policy algorithms."""

import inspect
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback

from sb3_matrl.common.finite import NonFiniteError
from sb3_matrl.common.frozen import FrozenAgent
from sb3_matrl.files.archive import read_archive, write_archive
from sb3_matrl.off_policy.iql import IQL
from sb3_matrl.off_policy.qmix import QMIX
from sb3_matrl.off_policy.vdn import VDN
from sb3_matrl.vec_env import make_joint_vec_env
from tests.matrl.test_exact_resume import flat, played
from tests.off_policy import trio
from tests.vec_env.toys import Saving, ToyEnv, late_entry, plain
from tests.vec_env.turn_toys import TurnGame
from tests.worlds.two_step_game import TwoStepGame

ALGORITHMS = [IQL, VDN, QMIX]
SMALL = {
    "n_envs": 3,
    "seed": 0,
    "device": "cpu",
    "buffer_size": 240,
    "learning_starts": 60,
    "batch_size": 16,
    "train_freq": 4,
    "gradient_steps": 2,
    "target_update_interval": 30,
    "exploration_fraction": 0.5,
    "learning_rate": 1e-3,
    "policy_kwargs": {"net_arch": [8]},
}


def build(algorithm=QMIX, env="checkers_v0", policy="MlpPolicy", **settings):
    return algorithm(policy, env, **{**SMALL, **settings})


def equal(one, other):
    return th.equal(one, other) if isinstance(one, th.Tensor) else one == other


def assert_same(model, other):
    ours, theirs = flat(model.get_parameters()), flat(other.get_parameters())
    assert len(ours) == len(theirs) and all(map(equal, ours, theirs))
    names = ("num_timesteps", "n_calls", "_n_updates", "_episode_num", "exploration_rate", "_block", "skipped_updates")
    assert [getattr(model, name) for name in names] == [getattr(other, name) for name in names]
    assert [played(info) for info in model.ep_info_buffer] == [played(info) for info in other.ep_info_buffer]
    arrays = zip(model.replay_buffer.stored_arrays(), other.replay_buffer.stored_arrays(), strict=True)
    assert all(np.array_equal(one, two) for one, two in arrays)


class Save(BaseCallback):
    """Save model and buffer once, at a moment of the training after a number of steps; after a step, stop as well."""

    def __init__(self, steps, moment, path):
        super().__init__()
        self.steps, self.moment, self.path = steps, moment, path
        self.saved_at = None

    def _save(self, moment):
        if moment == self.moment and self.num_timesteps >= self.steps and self.saved_at is None:
            self.saved_at = self.num_timesteps
            self.model.save(self.path / "model")
            self.model.save_replay_buffer(self.path / "buffer")
            return True
        return False

    def _on_step(self):
        return not self._save("step")

    def _on_rollout_start(self):
        self.num_timesteps = self.model.num_timesteps
        self._save("start")

    def _on_rollout_end(self):
        self._save("end")


class SavingTrio(trio.Trio, Saving):
    """Deaths and masks."""


N_STEPS = 420
ENVS = {
    "checkers_v0": ("MlpPolicy", {}),
    "switch_v0": ("MlpPolicy", {"env_kwargs": {"n_agents": 3}, "vec_env": "dummy", "norm_reward": True}),
    SavingTrio: (trio.POLICIES, {"state": "observations", "double_q": False}),
    TwoStepGame: ("MlpPolicy", {"n_envs": 1, "train_freq": (2, "episode"), "gradient_steps": -1}),
}


@cache
def never_stopped(env):
    policy, settings = ENVS[env]
    return build(QMIX, env, policy, **settings).learn(N_STEPS)


@pytest.mark.cases(
    quick=["step-checkers_v0"],
    expensive=["step-TwoStepGame", "start-checkers_v0", "start-SavingTrio", "start-TwoStepGame", "end-TwoStepGame"],
)
@pytest.mark.parametrize("env", ENVS)
@pytest.mark.parametrize("moment", ["step", "start", "end"])
def test_a_resumed_training_is_bit_for_bit_the_one_that_never_stopped(tmp_path, env, moment):
    policy, settings = ENVS[env]
    stopped = build(QMIX, env, policy, **settings)
    callback = Save(200, moment, tmp_path)
    stopped.learn(N_STEPS, callback=callback)
    th.manual_seed(99)
    np.random.seed(99)
    kwargs = {"env_kwargs": settings["env_kwargs"]} if "env_kwargs" in settings else {}
    resumed = QMIX.load(tmp_path / "model", env=env, device="cpu", **kwargs)
    resumed.load_replay_buffer(tmp_path / "buffer")
    assert resumed.num_timesteps == callback.saved_at
    resumed.learn(N_STEPS - resumed.num_timesteps, reset_num_timesteps=False)
    assert_same(resumed, never_stopped(env))


@pytest.mark.cases(e2e=["IQL"])
@pytest.mark.parametrize("algorithm", [IQL, VDN])
def test_a_stopped_training_continues_in_the_same_process(algorithm):
    class Stop(BaseCallback):
        def _on_step(self):
            return self.num_timesteps != 201

    model = build(algorithm)
    model.learn(N_STEPS, callback=Stop())
    assert model.num_timesteps == 201 and model.replay_buffer.added == 66
    model.learn(N_STEPS - 201, reset_num_timesteps=False)
    assert_same(model, build(algorithm).learn(N_STEPS))


def test_a_finished_training_continues_as_one_longer_training(tmp_path):
    settings = {"exploration_initial_eps": 0.2, "exploration_final_eps": 0.2}
    model = build(VDN, **settings).learn(216)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    np.random.seed(7)
    resumed = VDN.load(tmp_path / "model", env="checkers_v0", device="cpu")
    resumed.load_replay_buffer(tmp_path / "buffer")
    assert_same(resumed.learn(204, reset_num_timesteps=False), build(VDN, **settings).learn(420))


@pytest.mark.e2e
def test_the_last_block_is_finished_after_a_resume(tmp_path):
    # 414 = 34.5 blocks of 12 steps: the training ends with the block that reaches it.
    whole = build().learn(414)
    assert whole.num_timesteps == 420
    callback = Save(417, "step", tmp_path)
    build().learn(414, callback=callback)
    np.random.seed(1)
    resumed = QMIX.load(tmp_path / "model", env="checkers_v0", device="cpu")
    resumed.load_replay_buffer(tmp_path / "buffer")
    resumed.learn(414 - resumed.num_timesteps, reset_num_timesteps=False)
    assert_same(resumed, whole)


def test_without_its_replay_buffer_a_training_warns(tmp_path):
    build().learn(120).save(tmp_path / "model")
    resumed = QMIX.load(tmp_path / "model", env="checkers_v0", device="cpu")
    with pytest.warns(UserWarning, match="empty replay buffer"):
        resumed.learn(60, reset_num_timesteps=False)
    assert resumed.num_timesteps == 180


@pytest.mark.e2e
def test_an_env_that_cannot_save_its_state_begins_new_episodes(tmp_path, capsys):
    model = build(env=plain, vec_env="dummy").learn(240)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    resumed = QMIX.load(tmp_path / "model", env=plain, device="cpu", verbose=1)
    resumed.load_replay_buffer(tmp_path / "buffer")
    resumed.learn(60, reset_num_timesteps=False, log_interval=None)
    assert "resumes with new episodes" in capsys.readouterr().out
    assert resumed.replay_buffer.added == 100
    assert (resumed.replay_buffer.final[79] >= 0).all()  # the next moment of the interrupted episodes was kept


@pytest.mark.cases(quick=["QMIX"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_loaded_model_acts_like_the_saved_one(tmp_path, algorithm):
    model = algorithm(**trio.SETTINGS).learn(60)
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", device="cpu")
    env = make_joint_vec_env(trio.Trio, n_envs=50, seed=3)
    observations = env.reset()
    ours, _ = model.predict(observations, deterministic=True)
    theirs, _ = loaded.predict(observations, deterministic=True)
    assert all(np.array_equal(ours[agent], theirs[agent]) for agent in ours)
    assert loaded.exploration_rate == model.exploration_rate
    single = {agent: value[0] for agent, value in observations.items() if agent != "b"}
    single_actions, _ = model.predict(single, deterministic=True)
    assert all(action.shape == () and action == ours[agent][0] for agent, action in single_actions.items())


@pytest.mark.e2e
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_dummy_and_batched_envs_give_the_same_training(algorithm):
    trainings = [build(algorithm, "switch_v0", vec_env=kind).learn(240) for kind in ("batched", "dummy")]
    assert_same(*trainings)


class Legal(trio.Trio):
    """Fails at an illegal action; ``refused`` counts those that were illegal."""

    def reset(self, seed=None, options=None):
        observations, infos = super().reset(seed, options)
        self.legal = {"b": observations["b"]["action_mask"], "c": infos["c"]["action_mask"]}
        return observations, infos

    def step(self, actions):
        if "b" in actions:
            assert self.legal["b"][actions["b"]]
        if "c" in actions:
            assert self.legal["c"][actions["c"] - 1]
        observations, *results, infos = super().step(actions)
        masks = {"b": observations["b"]["action_mask"]} if "b" in observations else {}
        self.legal = {**masks, "c": infos["c"]["action_mask"]}
        return observations, *results, infos


@pytest.mark.e2e
@pytest.mark.parametrize("eps", [0.0, 0.5])
def test_no_action_is_illegal(eps):
    settings = {**trio.SETTINGS, "env": Legal, "exploration_initial_eps": eps, "exploration_final_eps": eps}
    VDN(**{**settings, "learning_starts": 90}).learn(300)


def test_exploration_draws_for_every_agent_and_copy():
    model = build(VDN, "switch_v0", n_envs=2, exploration_initial_eps=0.5, exploration_final_eps=0.5).learn(80)
    moment = model.moment
    greedy = model.greedy(moment)
    generators = {agent: generator.bit_generator.state for agent, generator in model.generators.items()}
    np.random.seed(5)
    actions = model.choose_actions(moment)
    np.random.seed(5)
    explores = np.random.rand(2, 4) < 0.5
    assert explores.any() and not explores.all()
    for i, agent in enumerate(model.possible_agents):
        space = spaces.Discrete(5)
        space._np_random = np.random.Generator(np.random.PCG64())
        space._np_random.bit_generator.state = generators[agent]
        expected = [space.sample() if explores[copy, i] else greedy[agent][copy] for copy in range(2)]
        assert actions[agent].tolist() == expected


def test_sampled_predictions_explore_with_the_last_rate():
    model = build(VDN, "switch_v0").learn(60)
    model.exploration_rate = 0.4
    before = {agent: generator.bit_generator.state for agent, generator in model.generators.items()}
    observations = {agent: np.zeros((4000, 2), np.float32) for agent in model.possible_agents}
    greedy, sampled = (model.predict(observations, deterministic=kind)[0] for kind in (True, False))
    for agent in model.possible_agents:
        assert (greedy[agent] == greedy[agent][0]).all()
        assert np.mean(sampled[agent] != greedy[agent]) == pytest.approx(0.4 * 4 / 5, abs=0.04)
    # An evaluation in between must not change the training.
    assert before == {agent: generator.bit_generator.state for agent, generator in model.generators.items()}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_agent_is_sb3s_dqn(tmp_path, algorithm):
    model = build(algorithm).learn(120)
    before = np.random.get_state()[1].tolist(), th.get_rng_state().tolist()
    agent = model.agents["agent_1"]
    assert (np.random.get_state()[1].tolist(), th.get_rng_state().tolist()) == before
    assert type(agent) is DQN
    agent.save(tmp_path / "agent")
    loaded = DQN.load(tmp_path / "agent", device="cpu")
    observations = np.random.default_rng(0).random((40, 47), dtype=np.float32)
    expected = model.predict({"agent_1": observations}, deterministic=True)[0]["agent_1"]
    assert np.array_equal(loaded.predict(observations, deterministic=True)[0], expected)
    assert list(model.agents) == ["agent_0", "agent_1"] and len(model.agents) == 2
    with pytest.raises(KeyError):
        model.agents["agent_2"]


@pytest.mark.e2e
def test_an_agent_plays_where_this_package_is_not_installed(tmp_path):
    model = build(VDN).learn(120)
    model.agents["agent_0"].save(tmp_path / "agent")
    code = (
        "import sys, numpy as np; sys.modules['sb3_matrl'] = None; from stable_baselines3 import DQN;"
        f"print(DQN.load({str(tmp_path / 'agent')!r}, device='cpu').predict(np.ones((1, 47), np.float32) / 2)[0][0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    expected = model.predict({"agent_0": np.ones((1, 47), np.float32) / 2}, deterministic=True)[0]["agent_0"][0]
    assert int(done.stdout) == expected


def test_actions_that_do_not_begin_with_0():
    model = VDN(**trio.SETTINGS).learn(60)
    with pytest.raises(ValueError, match=r"agent 'c': SB3's DQN plays actions from 0 on"):
        model.agents["c"]
    observations = np.random.default_rng(0).random((40, 2, 2), dtype=np.float32)
    mask = np.random.default_rng(1).random((40, 3)) < 0.5
    mask[:, 1] = True
    actions, _ = model.player("c").predict(observations, deterministic=True, action_masks=mask)
    assert mask[np.arange(40), actions - 1].all() and set(actions) <= {1, 2, 3}


def test_an_agent_plays_frozen_and_keeps_to_its_masks():
    model = VDN(**trio.SETTINGS).learn(60)
    player = model.player("b")
    assert isinstance(player, FrozenAgent)
    env = make_joint_vec_env(trio.Trio, n_envs=60, seed=3)
    observations = env.reset()["b"]
    mask = observations["action_mask"].astype(bool)
    actions, _ = player.predict(observations, action_masks=mask)
    assert mask[np.arange(60), actions].all()
    assert np.array_equal(actions, model.predict({"b": observations}, deterministic=True)[0]["b"])


# ---------------------------------------------------------------------- arguments and errors


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_signature_is_dqns_and_then_ours(algorithm):
    theirs, ours = (inspect.signature(cls.__init__).parameters for cls in (DQN, algorithm))
    shared = [(name, one.default) for name, one in theirs.items()]
    assert [(name, ours[name].default) for name in list(ours)[: len(theirs)]] == shared
    assert all(ours[name].kind is inspect.Parameter.KEYWORD_ONLY for name in list(ours)[len(theirs) :])
    with pytest.raises(TypeError, match="n_epochs"):
        build(algorithm, n_epochs=3)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"train_freq": (1, "week")}, "train_freq must be"),
        ({"train_freq": 0}, "train_freq must be"),
        ({"train_freq": (2, "episode")}, "needs n_envs=1"),
        ({"optimize_memory_usage": True}, "leave optimize_memory_usage out"),
        ({"n_steps": 3}, "leave n_steps at 1"),
        ({"replay_buffer_class": int}, "leave replay_buffer_class out"),
        ({"replay_buffer_kwargs": {"handle_timeout": False}}, "did you mean 'handle_timeout_termination'"),
        ({"loss": "l1"}, "loss 'l1' is unknown"),
        ({"team_reward": "max"}, "team_reward 'max' is unknown"),
        ({"state": "all"}, "state 'all' is unknown"),
        ({"buffer_size": 10**12}, r"GiB.*smaller buffer_size"),
        ({"policy_kwargs": {"agent_0": {"optimizer_class": th.optim.SGD}, "agent_1": None}}, "one optimiser for all agents"),
        ({"policy_kwargs": {"net_ark": [8]}}, "agent 'agent_0': .*net_ark"),
        ({"tau": 1.5}, "tau must be between 0 and 1"),
        ({"learning_starts": -1}, "learning_starts must be"),
        ({"gradient_steps": -2}, "gradient_steps must be"),
        ({"exploration_fraction": 0}, "exploration_fraction must be"),
        ({"target_update_interval": 0}, "target_update_interval must be"),
        ({"hypernet_layers": 3}, "hypernet_layers must be 1 or 2"),
    ],
)
def test_unusable_arguments_are_errors_that_say_what_to_do(settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        build(QMIX, **settings)


class Unlike(ToyEnv):
    def __init__(self):
        actions = {"one": spaces.Discrete(2), "two": spaces.Box(-1, 1, (2,), np.float32)}
        box = spaces.Box(-1, 1, (2,), np.float32)
        super().__init__(dict.fromkeys(actions, box), actions, dict.fromkeys(actions, (3, "terminated")))


def test_continuous_actions_are_for_other_algorithms():
    with pytest.raises(ValueError, match=r"agent 'two': VDN takes Discrete actions, not Box.*COMIX"):
        build(VDN, Unlike)


class Chess(TurnGame):
    """Turns, and the same Discrete actions for all."""

    def action_space(self, agent):
        return self._action_spaces["c"]


def test_agents_that_take_turns_are_refused():
    with pytest.raises(ValueError, match="VDN needs agents that all act in every step"):
        build(VDN, Chess).learn(20)


class Paid(ToyEnv):
    """Pays every agent the same."""

    def __init__(self):
        names = ["one", "two"]
        box = spaces.Box(-1, 1, (2,), np.float32)
        actions = dict.fromkeys(names, spaces.Discrete(2))
        super().__init__(dict.fromkeys(names, box), actions, dict.fromkeys(names, (9, "terminated")))

    def step(self, actions):
        observations, rewards, *rest = super().step(actions)
        return observations, dict.fromkeys(rewards, sum(rewards.values())), *rest


class Stateless(Paid):
    state = None


def test_a_state_of_an_env_without_one_is_refused():
    with pytest.raises(ValueError, match="state='observations'"):
        build(QMIX, Stateless, state="env")
    assert build(QMIX, Stateless, state="auto").state_size == 4


def test_observations_that_the_networks_cannot_read_are_refused():
    with pytest.raises(ValueError, match=r"agent 'early': its networks fail on .*Discrete\(5, start=2\)"):
        build(VDN, late_entry)


def test_a_teams_reward_that_every_agent_gets_is_a_warning():
    with pytest.warns(UserWarning, match="team_reward='mean'"):
        build(VDN, Paid, n_envs=1).learn(120)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("algorithm, settings", [(VDN, {"team_reward": "mean"}), (IQL, {})])
def test_no_warning_where_it_is_no_mistake(algorithm, settings):
    build(algorithm, Paid, n_envs=1, **settings).learn(120)


# ---------------------------------------------------------------------- NaN


def spoil(model):
    """Let the next batches have an infinite reward."""
    sample = model.replay_buffer.sample

    def spoiled(batch_size):
        batch = sample(batch_size)
        batch.rewards[0] = np.inf
        return batch

    model.replay_buffer.sample = spoiled


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_step_with_infinite_numbers_changes_nothing(tmp_path, algorithm):
    model = build(algorithm).learn(120)
    before = [one.clone() if isinstance(one, th.Tensor) else one for one in flat(model.get_parameters())]
    spoil(model)
    with pytest.raises(NonFiniteError, match="loss is inf"):
        model.train(1)
    assert all(map(equal, before, flat(model.get_parameters())))
    model.save(tmp_path / "model")


def test_such_steps_can_be_skipped():
    model = build(VDN, on_nan="skip").learn(120)
    updates = model._n_updates
    spoil(model)
    with pytest.warns(UserWarning, match="skipped"):
        model.learn(24, reset_num_timesteps=False)
    assert (model.skipped_updates, model._n_updates) == (4, updates)


# ---------------------------------------------------------------------- damaged files


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda state: state["pending"].pop("rewards"), "not a joint transition"),
        (lambda state: state["pending"].update(rewards=th.zeros(3, 7)), "does not fit the environment"),
        (lambda state: state["pending"]["after"].update(observations={}), "does not fit the environment"),
        (lambda state: state["pending"]["actions"].update(agent_0=th.full((3,), 77)), "outside its space"),
        (lambda state: state["progress"].update(stored=-1), "progress should be the numbers"),
        (lambda state: state["progress"].pop("n_calls"), "progress should be the numbers"),
        (lambda state: state.update(extra=[]), "extra is a list"),
        (lambda state: state.update(normalizers={"team": {}}), "statistics of the rewards"),
    ],
)
def test_a_damaged_state_of_a_training_is_an_error_that_names_the_file(tmp_path, change, message):
    build(VDN).learn(N_STEPS, callback=Save(50, "step", tmp_path))
    documents, tensors = read_archive(tmp_path / "model.zip")
    change(tensors["training"])
    documents.pop("manifest")
    write_archive(tmp_path / "bad.zip", documents, tensors)
    with pytest.raises(ValueError, match=rf"bad.*{message}"):
        VDN.load(tmp_path / "bad", env="checkers_v0", device="cpu").learn(60, reset_num_timesteps=False)


@pytest.mark.parametrize("change", [lambda parameters: parameters.pop("mixer"), lambda parameters: parameters.update(more={})])
def test_parameters_must_be_those_of_the_model(tmp_path, change):
    model = build(QMIX)
    parameters = model.get_parameters()
    change(parameters["team"])
    with pytest.raises(ValueError, match="parameters of team: missing or unknown"):
        model.set_parameters(parameters)
    with pytest.raises(ValueError, match="those of agent_0, agent_1 are missing"):
        model.set_parameters({"team": parameters["team"]})


def test_the_parts_of_the_team_have_a_name_that_no_agent_has():
    class Named(Paid):
        def __init__(self):
            super().__init__()
            self.possible_agents = ["team", "team_"]
            box, actions = spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(2)
            self._observation_spaces = dict.fromkeys(self.possible_agents, box)
            self._action_spaces = dict.fromkeys(self.possible_agents, actions)
            self.ends = dict.fromkeys(self.possible_agents, (3, "terminated"))

    assert list(build(VDN, Named).get_parameters()) == ["team", "team_", "team__"]


class Reordered(trio.Trio):
    def __init__(self):
        super().__init__()
        self.possible_agents = ["c", "a", "b"]


@pytest.mark.e2e
def test_an_env_that_lists_its_agents_otherwise_gives_the_same_columns():
    settings = {**trio.SETTINGS, "state": "observations"}
    model = QMIX(**settings)
    model.set_env(make_joint_vec_env(Reordered, n_envs=3, seed=0))
    model.learn(120)
    batch = model.sample(200)
    assert not batch.alive[:, 0].all() and batch.alive[:, 2].all()  # a dies first, c last
    sizes = [3, 2, 4]
    parts = th.split(batch.states, sizes, dim=1)
    expected = [batch.observations["a"], batch.observations["b"]["observation"], batch.observations["c"].flatten(1)]
    for i, (part, seen) in enumerate(zip(parts, expected, strict=True)):
        assert th.equal(part, seen * batch.alive[:, i : i + 1])
