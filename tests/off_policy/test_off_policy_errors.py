"""Arguments, environments, numbers and files that the off-policy algorithms refuse."""

import inspect

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.td3.policies import TD3Policy

from sb3_matrl.common.finite import NonFiniteError
from sb3_matrl.files.archive import read_archive, write_archive
from sb3_matrl.off_policy.comix import COMIX
from sb3_matrl.off_policy.iddpg import IDDPG
from sb3_matrl.off_policy.iql import IQL
from sb3_matrl.off_policy.maddpg import MADDPG
from sb3_matrl.off_policy.qdpp import QDPP
from sb3_matrl.off_policy.qmix import QMIX
from sb3_matrl.off_policy.qtran import QTRAN
from sb3_matrl.off_policy.value_based import ValueBased
from sb3_matrl.off_policy.vdn import VDN
from tests.matrl.test_exact_resume import flat
from tests.off_policy.continuous_trio import SETTINGS, ContinuousTrio
from tests.off_policy.small_models import ALGORITHMS, Save, build, equal
from tests.vec_env.toys import ToyEnv
from tests.vec_env.turn_toys import TurnGame

ACTIONS, BOX = spaces.Discrete(2), spaces.Box(-1, 1, (2,), np.float32)

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


class WrongCritic(TD3Policy):
    """Its critics give two values."""

    def make_critic(self, features_extractor=None):
        critic = super().make_critic(features_extractor)
        for network in critic.q_networks:
            network[-1] = th.nn.Linear(network[-1].in_features, 2)
        return critic


@pytest.mark.parametrize("algorithm", [IDDPG, MADDPG, COMIX])
def test_a_critic_that_does_not_fit_is_an_error_of_the_constructor(algorithm):
    # GLU halves the width, which an actor without hidden layers does not notice.
    halving = {"net_arch": {"pi": [], "qf": [8]}, "activation_fn": th.nn.GLU}
    part = "networks fail" if algorithm is COMIX else "critic fails"
    with pytest.raises(ValueError, match=f"agent 'a': its {part} on .* mat1 and mat2 shapes cannot be multiplied"):
        algorithm(env=ContinuousTrio, **{**SETTINGS, "policy_kwargs": halving})


@pytest.mark.parametrize(("algorithm", "message"), [(IDDPG, r"values of shape \(1, 2\) for one action"), (COMIX, "shape")])
def test_a_critic_with_several_values_is_an_error_of_the_constructor(algorithm, message):
    policy = {"a": "MlpPolicy", "b": "MultiInputPolicy", "c": WrongCritic}
    with pytest.raises(ValueError, match=f"agent 'c': its .* fails? on .*{message}"):
        algorithm(env=ContinuousTrio, **{**SETTINGS, "policy": policy})


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


class Observing(ToyEnv):
    """Two agents with a certain observation space."""

    def __init__(self, space, actions=ACTIONS):
        names = ["one", "two"]
        super().__init__(dict.fromkeys(names, space), dict.fromkeys(names, actions), dict.fromkeys(names, (3, "terminated")))


SHIFTED = [
    spaces.Discrete(3, start=-1),
    spaces.Discrete(5, start=2),
    spaces.MultiDiscrete([2, 3], start=[0, -1]),
    spaces.MultiDiscrete([2, 3], start=[1, 0]),
    spaces.Dict({"k": spaces.Discrete(3, start=-2), "x": spaces.Box(-1, 1, (2,), np.float32)}),
    spaces.Dict({"x": spaces.Box(-1, 1, (2,), np.float32), "k": spaces.MultiDiscrete([2, 3], start=[0, -3])}),
]


@pytest.mark.parametrize("space", SHIFTED, ids=str)
@pytest.mark.parametrize("algorithm", [IQL, QMIX, IDDPG, MADDPG, COMIX])
def test_observations_that_do_not_begin_with_0_are_refused(algorithm, space):
    policy = "MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy"
    actions = ACTIONS if algorithm in (IQL, QMIX) else BOX
    with pytest.raises(ValueError, match=r"agent 'one': SB3 wants discrete spaces that start at 0, not the observation space"):
        algorithm(policy, Observing, env_kwargs={"space": space, "actions": actions}, device="cpu")


def test_observations_without_elements_are_refused():
    with pytest.raises(ValueError, match=r"agent 'one': SB3 cannot use the observation space Box.*, which has no elements"):
        build(VDN, Observing, env_kwargs={"space": spaces.Box(-1, 1, (0,), np.float32)})


IMAGES = {  # what SB3's convolutions, which need 36 x 36 pixels, cannot read; floats keep their channels last
    "small": (spaces.Box(0, 255, (10, 10, 3), np.uint8), {}),
    "floats": (spaces.Box(0, 1, (40, 40, 3), np.float32), {"normalize_images": False}),
}


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("algorithm", [IQL, QMIX, QTRAN, QDPP, IDDPG, MADDPG, COMIX])
def test_networks_that_cannot_be_built_are_an_error_that_names_agent_spaces_and_cause(algorithm, image):
    space, kwargs = IMAGES[image]
    actions = ACTIONS if issubclass(algorithm, ValueBased) else BOX
    settings = {"device": "cpu", "buffer_size": 100, "policy_kwargs": kwargs}
    if "state" in inspect.signature(algorithm.__init__).parameters:
        settings["state"] = "env"  # observations that are images are no state
    with pytest.raises(ValueError, match=r"Kernel size can't be greater than actual input size") as caught:
        algorithm("CnnPolicy", Observing, env_kwargs={"space": space, "actions": actions}, **settings)
    expected = (
        f"agent 'one': CnnPolicy cannot use these spaces or arguments (observations {space}, actions {actions}): Calculated"
    )
    assert str(caught.value).startswith(expected) and "\n" not in str(caught.value)


class Reading(BaseFeaturesExtractor):
    """Fails in the constructor, or when it is to read observations; the text of the error takes two lines."""

    def __init__(self, observation_space, fails):
        super().__init__(observation_space, 2)
        self.fails = fails
        if fails == "built":
            raise RuntimeError("no such\n  layer")

    def forward(self, observations):
        raise IndexError("no such\n  column")


@pytest.mark.parametrize(
    "fails, message",
    [
        ("built", r"agent 'one': \w+Policy cannot use these .*\(observations Box\(.*, actions .*\): no such layer$"),
        ("read", r"agent 'one': its networks fail on .* Box\(.* with actions in .* \(IndexError: no such column\): change"),
    ],
)
@pytest.mark.parametrize("algorithm", [VDN, IDDPG, MADDPG, COMIX])
def test_a_cause_of_several_lines_is_one_line(algorithm, fails, message):
    kwargs = {"features_extractor_class": Reading, "features_extractor_kwargs": {"fails": fails}}
    actions = ACTIONS if algorithm is VDN else BOX
    with pytest.raises(ValueError, match=message):
        algorithm("MlpPolicy", Observing, env_kwargs={"space": BOX, "actions": actions}, device="cpu", policy_kwargs=kwargs)


@pytest.mark.parametrize("algorithm", [VDN, IDDPG, MADDPG, COMIX])
def test_dict_observations_need_their_policy(algorithm):
    kwargs = {"space": spaces.Dict({"seen": BOX}), "actions": ACTIONS if algorithm is VDN else BOX}
    with pytest.raises(ValueError, match=r"^agent 'one': .* MultiInputPolicy"):
        algorithm("MlpPolicy", Observing, env_kwargs=kwargs, device="cpu", buffer_size=100)


def test_the_optimiser_of_a_team_that_cannot_be_built_is_an_error_that_says_which_argument():
    with pytest.raises(ValueError, match=r"policy_kwargs: the optimiser cannot be built: .*'betters'"):
        COMIX(
            "MlpPolicy",
            Observing,
            env_kwargs={"space": BOX, "actions": BOX},
            policy_kwargs={"optimizer_kwargs": {"betters": 1}},
        )


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
    build(VDN).learn(420, callback=Save(50, "step", tmp_path))
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
