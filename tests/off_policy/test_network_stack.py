"""Alike Q-networks that are computed together, against SB3's networks agent by agent."""

import copy

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.utils import polyak_update
from stable_baselines3.dqn.policies import DQNPolicy

from sb3_matrl.off_policy.iql import IQL
from sb3_matrl.off_policy.network_stack import NetworkStack, alike_agents
from sb3_matrl.off_policy.qmix import QMIX
from sb3_matrl.off_policy.utilities import Utilities
from sb3_matrl.off_policy.vdn import VDN
from tests.off_policy import trio

BOX = spaces.Box(-1, 1, (3,), np.float32)


def policies(n=3, space=BOX, n_actions=4, **options):
    th.manual_seed(0)
    made = {
        f"a{i}": DQNPolicy(space, spaces.Discrete(n_actions), lambda _: 1e-3, **{"net_arch": [6, 5], **options})
        for i in range(n)
    }
    for policy in made.values():
        for parameter in policy.q_net_target.parameters():
            parameter.data.add_(th.randn_like(parameter))
        policy.double()
        for network in (policy.q_net, policy.q_net_target):
            # SB3's own converts to float32.
            network.extract_features = lambda seen, _: seen.flatten(1) if seen.is_floating_point() else one_hot(seen)
    return made


def one_hot(seen):
    return th.nn.functional.one_hot(seen, 5).double()


def both(**options):
    """The same networks, by themselves and stacked."""
    separate = policies(**options)
    return Utilities(separate), Utilities(copy.deepcopy(separate), stacked=True)


def observations(utilities, rows=7):
    th.manual_seed(1)
    kind = next(iter(utilities.policies.values())).observation_space
    if isinstance(kind, spaces.Discrete):
        return {agent: th.randint(kind.n, (rows,)) for agent in utilities.agents}
    return {agent: th.randn(rows, *kind.shape, dtype=th.float64) for agent in utilities.agents}


OPTIONS = [
    {},
    {"activation_fn": th.nn.LeakyReLU, "net_arch": [8]},
    {"activation_fn": th.nn.Tanh, "net_arch": []},
    {"space": spaces.Box(-1, 1, (2, 3), np.float64)},
    {"space": spaces.Discrete(5)},
]


def close(ours, theirs):
    return all(th.allclose(one, other, rtol=1e-12, atol=1e-14) for one, other in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("options", OPTIONS)
def test_values_and_gradients(options):
    separate, stacked = both(**options)
    assert len(stacked.stacks) == 1
    seen = observations(separate)
    for kind in ("values", "target_values"):
        assert close(getattr(stacked, kind)(seen).values(), getattr(separate, kind)(seen).values())
    for ours, theirs in zip(stacked.both_values(seen), separate.both_values(seen), strict=True):
        assert list(ours) == list(theirs) and close(ours.values(), theirs.values())
    for _ in range(2):  # gradients of the second pass are not added to those of the first
        for utilities in (separate, stacked):
            utilities.start_gradients()
            for parameter in utilities.parameters():
                parameter.grad = None
            values = utilities.values(seen)
            sum((i + 1) * q.square().sum() for i, q in enumerate(values.values())).backward()
            utilities.share_gradients()
    assert close([one.grad for one in stacked.parameters()], [one.grad for one in separate.parameters()])


@pytest.mark.parametrize("tau", [1.0, 0.3])
def test_targets_follow(tau):
    separate, stacked = both()
    for policy in separate.policies.values():
        polyak_update(policy.q_net.parameters(), policy.q_net_target.parameters(), tau)
    stacked.follow(tau)
    targets = [
        [one for policy in each.policies.values() for one in policy.q_net_target.parameters()] for each in (stacked, separate)
    ]
    assert close(*targets)


def test_gradients_of_stack_and_networks_add_up():
    separate, stacked = both()
    seen = observations(separate)
    for utilities in (separate, stacked):
        utilities.start_gradients()
        values = utilities.values(seen)
        directly = utilities.policies["a1"].q_net(seen["a1"])
        (sum(q.sum() for q in values.values()) + directly.square().sum()).backward()
        utilities.share_gradients()
    assert close([one.grad for one in stacked.parameters()], [one.grad for one in separate.parameters()])


def test_policies_stay_what_they_were():
    separate, stacked = both()
    seen = observations(separate)
    state = {name: value + 1 for name, value in separate.policies["a0"].state_dict().items()}
    for utilities in (separate, stacked):
        utilities.policies["a0"].load_state_dict(state)  # in place
        utilities.policies["a2"].q_net.q_net[0].weight.data = th.ones(6, 3, dtype=th.float64)  # replaced
        utilities.refresh()
    assert close(stacked.values(seen).values(), separate.values(seen).values())
    assert close(
        [policy.q_net(seen["a0"]) for policy in stacked.policies.values()],
        [p.q_net(seen["a0"]) for p in separate.policies.values()],
    )


def test_hooks_see_every_call():
    _, stacked = both()
    calls = []
    handle = stacked.policies["a1"].q_net.q_net.register_forward_hook(lambda *_: calls.append(1))
    stacked.refresh()
    stacked.values(observations(stacked))
    assert calls == [1]
    handle.remove()
    stacked.refresh()
    stacked.values(observations(stacked))
    assert calls == [1]


def test_which_agents_are_alike():
    made = policies(2)
    made |= {"wide": policies(1, net_arch=[6, 6])["a0"], "other": policies(1, n_actions=5)["a0"]}
    made["slope"] = policies(1, activation_fn=lambda: th.nn.LeakyReLU(0.2))["a0"]
    made["norm"] = policies(1)["a0"]
    made["norm"].q_net.q_net.append(th.nn.BatchNorm1d(4))
    made |= {"b0": policies(1, net_arch=[6, 6])["a0"]}
    assert alike_agents(made) == [["a0", "a1"], ["wide", "b0"]]
    assert Utilities(made, stacked=True).stacks[1].agents == ["wide", "b0"]


def test_one_network_alone_is_no_stack():
    assert Utilities(policies(1), stacked=True).stacks == []


SETTINGS = {
    "n_envs": 4,
    "seed": 0,
    "device": "cpu",
    "learning_starts": 40,
    "batch_size": 16,
    "train_freq": 1,
    "target_update_interval": 20,
    "policy_kwargs": {"net_arch": [16]},
}


@pytest.mark.cases(quick=["VDN"])
@pytest.mark.parametrize("algorithm", [IQL, VDN, QMIX])
def test_a_training_is_the_same_up_to_rounding(algorithm):
    separate, stacked = (
        algorithm("MlpPolicy", "switch_v0", backend=backend, **SETTINGS).learn(160) for backend in ("sb3", "auto")
    )
    assert len(stacked.utilities.stacks) == 1 and not separate.utilities.stacks
    assert separate._n_updates == stacked._n_updates == 30
    for (name, ours), theirs in zip(stacked.policy.named_parameters(), separate.policy.parameters(), strict=True):
        assert th.allclose(ours, theirs, atol=2e-5), name


def test_unlike_agents_are_computed_by_themselves():
    assert VDN(**trio.SETTINGS).utilities.stacks == []
    with pytest.raises(ValueError, match="backend 'native' is unknown"):
        VDN(**trio.SETTINGS, backend="native")


def test_a_stack_has_the_memory_of_its_networks():
    made = policies(2)
    stack = NetworkStack(made)
    with th.no_grad():
        stack.layers[0].weights.add_(1.0)
    assert th.equal(made["a1"].q_net.q_net[0].weight, stack.layers[0].all_weights[0, 1])
