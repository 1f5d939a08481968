"""QTRAN's networks and losses against loops over rows and agents in float64, and on a game whose whole table is known."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch as th

from sb3_matrl.off_policy.joint_values import (
    ActionEncoders,
    CounterfactualValues,
    JointValue,
    StateValue,
    alt_losses,
    base_losses,
    chosen_values,
    counterfactual_targets,
    mean_over_present,
)
from tests.off_policy.test_agent_perceptrons import alone

STATE, EMBED, ROWS = 3, 6, 7
# Widths of the hidden layers and numbers of actions: unlike agents, and alike ones, which are computed together.
WIDTHS, COUNTS = [4, 3, 5], [2, 4, 3]
SIZES = [(WIDTHS, COUNTS), ([4, 4, 4], [3, 3, 3])]
PRESENT = th.tensor([[True, True, True]] * 4 + [[True, False, True], [False, False, True], [True, True, False]])


@pytest.fixture(autouse=True)
def double_precision() -> object:
    th.manual_seed(0)
    th.set_default_dtype(th.float64)
    yield
    th.set_default_dtype(th.float32)


def random_inputs(widths: list[int] = WIDTHS, counts: list[int] = COUNTS) -> tuple[list[th.Tensor], th.Tensor, th.Tensor]:
    """Hidden layers, actions and states of ROWS rows."""
    hidden = [th.randn(ROWS, width) for width in widths]
    actions = th.stack([th.randint(count, (ROWS,)) for count in counts], dim=1)
    return hidden, actions, th.randn(ROWS, STATE)


def slow_encoding(encoders: ActionEncoders, hidden: list[th.Tensor], actions: th.Tensor, row: int, left_out: int) -> th.Tensor:
    """Sum of the present agents' encodings in one row, without those of ``left_out``."""
    total = th.zeros(EMBED)
    for i, count in enumerate(encoders.n_actions):
        if i == left_out or not PRESENT[row, i]:
            continue
        one_hot = th.zeros(count)
        one_hot[actions[row, i]] = 1.0
        total = total + alone(encoders.networks, i)(th.cat([hidden[i][row], one_hot]))
    return total


@pytest.mark.parametrize(("widths", "counts"), SIZES)
def test_joint_value_equals_a_loop_over_rows_and_agents(widths: list[int], counts: list[int]) -> None:
    network = JointValue(widths, counts, STATE, EMBED)
    hidden, actions, state = random_inputs(widths, counts)
    values = network(hidden, actions, PRESENT, state)
    for row in range(ROWS):
        encoding = slow_encoding(network.encoders, hidden, actions, row, left_out=-1)
        th.testing.assert_close(values[row], network.network(th.cat([state[row], encoding]))[0])


@pytest.mark.parametrize(("widths", "counts"), SIZES)
def test_counterfactual_values_equal_a_loop_over_rows_and_agents(widths: list[int], counts: list[int]) -> None:
    network = CounterfactualValues(widths, counts, STATE, EMBED)
    hidden, actions, state = random_inputs(widths, counts)
    values = network(hidden, actions, PRESENT, state)
    assert [one.shape for one in values] == [(ROWS, count) for count in counts]
    for row, i in itertools.product(range(ROWS), range(3)):
        others = slow_encoding(network.encoders, hidden, actions, row, left_out=i)
        expected = alone(network.networks, i)(th.cat([state[row], hidden[i][row], others]))
        th.testing.assert_close(values[i][row], expected)


def test_counterfactual_values_do_not_depend_on_the_own_action() -> None:
    network = CounterfactualValues(WIDTHS, COUNTS, STATE, EMBED)
    hidden, actions, state = random_inputs()
    other = actions.clone()
    other[:, 1] = (other[:, 1] + 1) % COUNTS[1]
    everyone = th.ones_like(PRESENT)
    before, after = network(hidden, actions, everyone, state), network(hidden, other, everyone, state)
    th.testing.assert_close(before[1], after[1])
    assert not th.allclose(before[0], after[0])


def test_absent_agents_get_no_gradient() -> None:
    network = JointValue(WIDTHS, COUNTS, STATE, EMBED)
    hidden, actions, state = random_inputs()
    hidden = [layer.requires_grad_() for layer in hidden]
    network(hidden, actions, PRESENT, state).sum().backward()
    reached = th.stack([(layer.grad != 0).any(dim=1) for layer in hidden], dim=1)
    assert th.equal(reached, PRESENT)


def test_layers_have_the_documented_sizes() -> None:
    layers = [tuple(weight.shape) for weight in JointValue([4], [2], 3, 6).parameters() if weight.dim() == 2]
    assert layers == [(6, 6), (6, 6), (6, 9), (6, 6), (1, 6)]
    assert [tuple(weight.shape) for weight in StateValue(3, 6).parameters() if weight.dim() == 2] == [(6, 3), (6, 6), (1, 6)]


def test_base_losses_equal_a_loop() -> None:
    q_taken, q_greedy = 2 * th.randn(ROWS, 3), 2 * th.randn(ROWS, 3)
    joint_taken, joint_greedy, value, target = 3 * th.randn(4, ROWS)
    td = opt = nopt = 0.0
    for b in range(ROWS):
        td += float(joint_taken[b] - target[b]) ** 2 / ROWS
        opt += float(sum(q_greedy[b]) - joint_greedy[b] + value[b]) ** 2 / ROWS
        nopt += min(float(sum(q_taken[b]) - joint_taken[b] + value[b]), 0.0) ** 2 / ROWS
    losses = base_losses(q_taken, q_greedy, joint_taken, joint_greedy, value, target)
    np.testing.assert_allclose([losses.td, losses.opt, losses.nopt], [td, opt, nopt])
    np.testing.assert_allclose(losses.total(0.5, 0.1), td + 0.5 * opt + 0.1 * nopt)


def test_alt_losses_equal_a_loop_with_absent_agents_and_illegal_actions() -> None:
    def table() -> list[th.Tensor]:
        return [2 * th.randn(ROWS, count) for count in COUNTS]

    q, joint_taken, joint_greedy = table(), table(), table()
    legal = [None, th.rand(ROWS, COUNTS[1]) < 0.5, th.rand(ROWS, COUNTS[2]) < 0.5]
    for mask in legal[1:]:
        mask[:, 0] = True
    _, actions, _ = random_inputs()
    greedy, value, target = th.zeros_like(actions), th.randn(ROWS), th.randn(ROWS, 3)
    td = opt = nopt = 0.0
    for b in range(ROWS):
        agents = [i for i in range(3) if PRESENT[b, i]]
        q_taken, q_greedy = ({i: float(q[i][b, u[b, i]]) for i in agents} for u in (actions, greedy))
        for i in agents:
            share = 1.0 / (ROWS * len(agents))
            td += share * float(joint_taken[i][b, actions[b, i]] - target[b, i]) ** 2
            opt += share * (sum(q_greedy.values()) - float(joint_greedy[i][b, greedy[b, i]]) + float(value[b])) ** 2
            rest = sum(q_taken[j] for j in agents if j != i) + float(value[b])
            allowed = [a for a in range(COUNTS[i]) if legal[i] is None or legal[i][b, a]]
            nopt += share * min(float(q[i][b, a] - joint_taken[i][b, a]) + rest for a in allowed) ** 2
    losses = alt_losses(q, legal, actions, greedy, joint_taken, joint_greedy, value, target, PRESENT)
    np.testing.assert_allclose([losses.td, losses.opt, losses.nopt], [td, opt, nopt])


def test_joint_values_learn_from_the_temporal_difference_alone() -> None:
    q = [th.randn(ROWS, count, requires_grad=True) for count in COUNTS]
    joint = [th.randn(ROWS, count, requires_grad=True) for count in COUNTS]
    value = th.randn(ROWS, requires_grad=True)
    _, actions, _ = random_inputs()
    alt = alt_losses(q, [None] * 3, actions, actions, joint, joint, value, th.zeros(ROWS, 3), PRESENT)
    taken = chosen_values(q, actions)
    base = base_losses(taken, taken, joint[0][:, 0], joint[0][:, 0], value, th.zeros(ROWS))
    for losses in (alt, base):
        for loss in (losses.opt, losses.nopt):
            gradients = th.autograd.grad(loss, [*joint, *q, value], retain_graph=True, allow_unused=True)
            assert all(gradient is None for gradient in gradients[:3])
            assert all(gradient is not None and gradient.any() for gradient in gradients[3:])
        gradients = th.autograd.grad(losses.td, [*q, value], retain_graph=True, allow_unused=True)
        assert all(gradient is None for gradient in gradients)


def test_an_absent_agent_without_legal_actions_spoils_no_gradient() -> None:
    q = [th.randn(1, 2, requires_grad=True) for _ in range(2)]
    legal = [None, th.zeros(1, 2, dtype=th.bool)]
    actions, present = th.zeros(1, 2, dtype=th.int64), th.tensor([[True, False]])
    losses = alt_losses(q, legal, actions, actions, q, q, th.zeros(1), th.zeros(1, 2), present)
    losses.total(1.0, 1.0).backward()
    assert all(one.grad is not None and one.grad.isfinite().all() for one in q) and q[0].grad.any() and not q[1].grad.any()


def test_targets_of_agents_that_have_died_are_the_mean_of_the_others() -> None:
    values = th.tensor([[1.0, 2.0, 6.0], [1.0, 2.0, 6.0], [1.0, 2.0, 6.0]])
    present = th.tensor([[True, True, True], [True, False, True], [False, False, False]])
    assert counterfactual_targets(values, present).tolist() == [[1.0, 2.0, 6.0], [1.0, 3.5, 6.0], [0.0, 0.0, 0.0]]
    assert mean_over_present(values, present).tolist() == [3.0, 3.5, 0.0]


def fit(variant: str, game: th.Tensor, steps: int) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
    """
    Train two tables of utilities and the joint networks on all joint actions of a 3x3 game at once.

    :return: utilities (2, 3), Q_jt (3, 3) and V
    """
    joint_actions = th.tensor(list(itertools.product(range(3), repeat=2)))
    reward, one, present = game[joint_actions.unbind(1)], th.ones(9, 1), th.ones(9, 2, dtype=th.bool)
    utilities = th.nn.Parameter(th.zeros(2, 3))
    kind: Callable[..., th.nn.Module] = JointValue if variant == "base" else CounterfactualValues
    joint, state_value = kind([1, 1], [3, 3], 1, 64), StateValue(1, 64)
    networks = {"params": [*joint.parameters(), *state_value.parameters()], "lr": 3e-3}
    optimizer = th.optim.Adam([networks, {"params": [utilities], "lr": 3e-2}])
    for _ in range(steps):
        q = [row.expand(9, 3) for row in utilities]
        greedy = utilities.argmax(dim=1).expand(9, 2)
        taken, at_greedy = (joint([one, one], actions, present, one) for actions in (joint_actions, greedy))
        if variant == "base":
            q_taken, q_greedy = chosen_values(q, joint_actions), chosen_values(q, greedy)
            losses = base_losses(q_taken, q_greedy, taken, at_greedy, state_value(one), reward)
        else:
            target = reward[:, None].expand(9, 2)
            losses = alt_losses(q, [None] * 2, joint_actions, greedy, taken, at_greedy, state_value(one), target, present)
        optimizer.zero_grad()
        losses.total(1.0, 1.0).backward()
        optimizer.step()
    table = taken if variant == "base" else taken[0].gather(1, joint_actions[:, :1])[:, 0]
    return utilities.detach(), table.detach().view(3, 3), state_value(one)[0].detach()


@pytest.mark.expensive
@pytest.mark.parametrize("variant", ["base", "alt"])
def test_a_whole_table_ends_in_the_conditions_of_the_paper(variant: str) -> None:
    game = th.tensor([[8.0, -12.0, -12.0], [-12.0, 0.0, 0.0], [-12.0, 0.0, 0.0]])
    utilities, joint, value = fit(variant, game, 1_000)
    th.testing.assert_close(joint, game, atol=0.05, rtol=0.0)
    difference = utilities[0][:, None] + utilities[1][None] - joint + value
    assert utilities.argmax(dim=1).tolist() == [0, 0]
    assert abs(float(difference[0, 0])) <= 0.05 and difference.min() >= -0.05
    if variant == "alt":
        assert difference.amin(dim=0).abs().max() <= 0.05 and difference.amin(dim=1).abs().max() <= 0.05
