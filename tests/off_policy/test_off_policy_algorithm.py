"""Training, resuming, files and acting of the off-policy algorithms."""

import io
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback

from sb3_matrl import MATRL
from sb3_matrl.common.frozen import FrozenAgent, best_legal_actions
from sb3_matrl.off_policy.iql import IQL
from sb3_matrl.off_policy.maddpg import MADDPG
from sb3_matrl.off_policy.qdpp import QDPP
from sb3_matrl.off_policy.qmix import QMIX
from sb3_matrl.off_policy.qtran import QTRAN
from sb3_matrl.off_policy.vdn import VDN
from sb3_matrl.vec_env import make_joint_vec_env
from tests.off_policy import trio
from tests.off_policy.continuous_trio import SETTINGS as CONTINUOUS
from tests.off_policy.continuous_trio import MixedTrio
from tests.off_policy.small_models import ALGORITHMS, Save, SavingTrio, assert_same, build
from tests.vec_env.toys import plain
from tests.worlds.two_step_game import TwoStepGame

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


@pytest.mark.cases(e2e=["step-switch_v0", "end-checkers_v0"], rest="expensive")
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


@pytest.mark.e2e
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


@pytest.mark.e2e
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


def test_a_training_resumes_from_open_files(tmp_path):
    model, saved, buffer = build().learn(120), io.BytesIO(), io.BytesIO()
    model.save(saved)
    model.save_replay_buffer(buffer)
    model.learn(60, reset_num_timesteps=False)
    resumed = QMIX.load(saved, env="checkers_v0", device="cpu")
    resumed.load_replay_buffer(buffer)
    assert_same(resumed.learn(60, reset_num_timesteps=False), model)
    with pytest.raises(ValueError, match=r"^the given file holds no replay buffer"):
        resumed.load_replay_buffer(saved)


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
    code = (  # without deterministic=True, SB3's DQN explores
        "import sys, numpy as np; sys.modules['sb3_matrl'] = None; from stable_baselines3 import DQN;"
        f"agent = DQN.load({str(tmp_path / 'agent')!r}, device='cpu');"
        "print(agent.predict(np.ones((1, 47), np.float32) / 2, deterministic=True)[0][0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    expected = model.predict({"agent_0": np.ones((1, 47), np.float32) / 2}, deterministic=True)[0]["agent_0"][0]
    assert int(done.stdout) == expected


@pytest.mark.parametrize(("algorithm", "settings"), [(VDN, trio.SETTINGS), (MADDPG, {"env": MixedTrio, **CONTINUOUS})])
def test_actions_that_do_not_begin_with_0(algorithm, settings):
    model = algorithm(**settings).learn(60)
    with pytest.raises(ValueError, match=r"agent 'c': SB3's DQN plays actions from 0 on, not Discrete\(3, start=1\)"):
        model.agents["c"]
    observations = np.random.default_rng(0).random((40, 2, 2), dtype=np.float32)
    mask = np.random.default_rng(1).random((40, 3)) < 0.5
    mask[:, 1] = True
    actions, _ = model.player("c").predict(observations, deterministic=True, action_masks=mask)
    expected = model.predict({"c": observations}, deterministic=True, action_masks={"c": mask})[0]["c"]
    assert np.array_equal(actions, expected)
    assert mask[np.arange(40), actions - 1].all() and set(actions) <= {1, 2, 3}


@pytest.mark.parametrize(("algorithm", "settings"), [(VDN, trio.SETTINGS), (MADDPG, {"env": MixedTrio, **CONTINUOUS})])
def test_an_agent_whose_actions_do_not_begin_with_0_stays_frozen_and_is_saved(algorithm, settings):
    opponent, file = algorithm(**settings).learn(60), io.BytesIO()
    policies, small = (
        {"a": "MlpPolicy", "b": "MultiInputPolicy"},
        {"n_envs": 2, "n_steps": 8, "batch_size": 16, "device": "cpu"},
    )
    model = MATRL(policies, settings["env"], frozen={"c": opponent}, **small)
    observations = {"c": np.random.default_rng(0).normal(size=(200, 2, 2)).astype(np.float32)}
    before = model.predict(observations, deterministic=True)[0]["c"]
    assert np.array_equal(before, opponent.predict(observations, deterministic=True)[0]["c"])
    for part in opponent.policy.parameters():
        part.data.neg_()
    model.save(file)
    for one in (model, MATRL.load(file, env=settings["env"]).learn(16)):
        assert np.array_equal(one.predict(observations, deterministic=True)[0]["c"], before)
    with pytest.raises(ValueError, match=r"first_action is 2, not that of Discrete\(3, start=1\)"):
        FrozenAgent(opponent.player("c").policy, first_action=2)


def test_a_learning_rate_that_is_no_number_is_an_error_before_the_step():
    model = build(learning_rate=lambda left: np.nan if 0 < left < 0.9 else 1e-3)
    with pytest.raises(ValueError, match=r"^learning_rate must be .*, got nan from its schedule where 70% of the training"):
        model.learn(240)
    assert all(th.isfinite(one).all() for one in model.policy.parameters())


@pytest.mark.parametrize("algorithm", [VDN, QDPP])
@pytest.mark.parametrize("deterministic", [True, False])
def test_what_predict_cannot_read_is_told_with_the_agent(algorithm, deterministic):
    model = algorithm(**trio.SETTINGS)
    with pytest.raises(
        ValueError, match=r"^agent 'b': observation, masks or state do not fit \(KeyError: 'action_mask'\); its "
    ):
        model.predict({"b": {"observation": np.zeros(2, np.float32)}}, deterministic=deterministic)
    with pytest.raises(ValueError, match="predict wants a dict agent -> mask, got ndarray"):
        model.predict({"a": np.zeros(3, np.float32)}, deterministic=deterministic, action_masks=np.ones(2))


@pytest.mark.parametrize("algorithm", [IQL, VDN, QMIX, QTRAN, QDPP])
def test_a_mask_without_a_legal_action_counts_as_one_that_allows_all(algorithm):
    model = algorithm(**trio.SETTINGS)
    model.exploration_rate = 1.0
    observations = {"c": np.random.default_rng(0).random((200, 2, 2), dtype=np.float32)}
    masks = {"c": np.zeros((200, 3), bool)}
    masks["c"][:100, 1] = True
    best, given = (model.predict(observations, deterministic=True, action_masks=mask)[0]["c"] for mask in (None, masks))
    assert set(given[:100]) == {2} and np.array_equal(given[100:], best[100:])
    # Of several shapes, and from a player.
    assert np.array_equal(model.predict(observations, deterministic=True, action_masks={"c": [0, 0, 0]})[0]["c"], best)
    assert np.array_equal(model.action_of("c", observations["c"], masks["c"], True), given)
    assert np.array_equal(model.player("c").predict(observations["c"], None, None, True, masks["c"])[0], given)
    sampled = model.predict(observations, action_masks=masks)[0]["c"]
    assert set(sampled[:100]) == {2} and set(sampled[100:]) == {1, 2, 3}
    single = model.predict({"c": observations["c"][0]}, action_masks={"c": np.zeros(3, bool)})[0]["c"]
    assert int(single) in {1, 2, 3}


def test_an_sb3_policy_takes_a_mask_without_a_legal_action_for_one_that_allows_all():
    model = VDN(**trio.SETTINGS)
    observations = np.random.default_rng(0).random((50, 3), dtype=np.float32)
    with th.no_grad():
        model.utilities.policies["a"].q_net.q_net[-1].bias += th.tensor([0.0, 50.0])
    assert (model.player("a").predict(observations, action_masks=np.zeros((50, 2), bool))[0] == 1).all()
    assert best_legal_actions(model.utilities.policies["a"], observations[0], np.zeros(2, bool)) == 1
    assert (model.player("a").predict(observations, action_masks=np.array([True, False]))[0] == 0).all()


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
