"""Slow reference implementations of the grid worlds: plain Python loops over the written rules, nothing shared."""

from __future__ import annotations

from itertools import chain

MOVES = {0: (1, 0), 1: (0, -1), 2: (-1, 0), 3: (0, 1), 4: (0, 0)}
LETTERS = {"D": 0, "L": 1, "U": 2, "R": 3, ".": 4}


def parse(*scripts: str) -> list[list[int]]:
    """Turn one string of D, L, U, R and . per agent into a list of joint actions."""
    return [[LETTERS[letter] for letter in letters] for letters in zip(*scripts, strict=True)]


class SlowWorld:
    """Moves, clock and composition of observations; subclasses fill in the rest."""

    def __init__(self, rows, starts, max_cycles, clock=False, full_observability=False, team_reward=False):
        self.rows, self.positions = rows, [tuple(start) for start in starts]
        self.max_cycles, self.clock, self.full, self.team = max_cycles, clock, full_observability, team_reward
        self.steps, self.alive = 0, [True] * len(starts)

    def move(self, agent, action):
        row, col = self.positions[agent]
        down, right = MOVES[action]
        target = (row + down, col + right)
        inside = 0 <= target[0] < len(self.rows) and 0 <= target[1] < len(self.rows[0])
        if not inside or self.rows[target[0]][target[1]] == "#" or target in self.positions:
            return False
        self.positions[agent] = target
        return True

    def step(self, actions):
        """Return rewards, terminated, truncated: one entry per agent."""
        self.steps += 1
        rewards, ended = self.play(actions)
        if self.team:
            total = sum(reward for reward, alive in zip(rewards, self.alive, strict=True) if alive)
            rewards = [total] * len(rewards)
        terminated = [a and e for a, e in zip(self.alive, ended, strict=True)]
        truncated = [a and not e and self.steps >= self.max_cycles for a, e in zip(self.alive, ended, strict=True)]
        rewards = [reward if alive else 0.0 for reward, alive in zip(rewards, self.alive, strict=True)]
        self.alive = [a and not t and not c for a, t, c in zip(self.alive, terminated, truncated, strict=True)]
        return rewards, terminated, truncated

    def observations(self):
        views = []
        for agent in range(len(self.positions)):
            views.append(self.view(agent) + ([self.steps / self.max_cycles] if self.clock else []))
        return [list(chain(*views)) for _ in views] if self.full else views


class SlowCheckers(SlowWorld):
    def __init__(
        self, observation="one_hot", step_cost=-0.01, apple_rewards=(5, 1), lemon_rewards=(-5, -1), max_cycles=100, **common
    ):
        super().__init__(["." * 8] * 3, [(0, 6), (2, 6)], max_cycles, **common)
        self.observation, self.step_cost = observation, step_cost
        self.values = {"A": apple_rewards, "L": lemon_rewards}
        self.fruit = {(r, c): "A" if (r + c) % 2 == 0 else "L" for r in range(3) for c in range(6)}

    def play(self, actions):
        rewards = [self.step_cost, self.step_cost]
        for agent in (0, 1):
            if self.move(agent, actions[agent]):
                eaten = self.fruit.pop(self.positions[agent], None)
                if eaten:
                    rewards[agent] += self.values[eaten][agent]
        return rewards, ["A" not in self.fruit.values()] * 2

    def view(self, agent):
        row, col = self.positions[agent]
        numbers = [round(row / 3, 2), round(col / 7, 2)]
        for r in (row - 1, row, row + 1):
            for c in (col - 1, col, col + 1):
                what = [
                    self.fruit.get((r, c)) == "L",
                    self.fruit.get((r, c)) == "A",
                    self.positions[0] == (r, c),
                    self.positions[1] == (r, c),
                ]
                if self.observation == "one_hot":
                    numbers += [float(flag) for flag in what] + [0.0]
                else:
                    numbers.append(1.0 if what[0] else 2.0 if what[1] else 3.0 if what[2] or what[3] else 0.0)
        return numbers

    def state(self):
        numbers = []
        for cell in ((r, c) for r in range(3) for c in range(8)):
            numbers += [float(self.fruit.get(cell) == "L"), float(self.fruit.get(cell) == "A")]
            numbers += [float(position == cell) for position in self.positions]
        return [*numbers, self.steps / self.max_cycles]


class SlowSwitch(SlowWorld):
    def __init__(self, n_agents=4, step_cost=-0.1, goal_reward=5.0, max_cycles=50, finished_agents="pay", **common):
        starts = [(0, 1), (0, 5), (2, 1), (2, 5)][:n_agents]
        super().__init__(["..###..", ".......", "..###.."], starts, max_cycles, **common)
        self.targets = [(0, 6), (0, 0), (2, 6), (2, 0)][:n_agents]
        self.step_cost, self.goal_reward, self.finished = step_cost, goal_reward, finished_agents
        self.arrived = [False] * n_agents

    def play(self, actions):
        rewards, arriving = [], []
        for agent, target in enumerate(self.targets):
            before = self.arrived[agent]
            if not before and self.alive[agent]:
                self.move(agent, actions[agent])
            self.arrived[agent] = self.positions[agent] == target
            arriving.append(self.arrived[agent] and not before)
            rewards.append(self.goal_reward if arriving[-1] else self.step_cost)
        return rewards, arriving if self.finished == "leave" else [all(self.arrived)] * len(arriving)

    def view(self, agent):
        row, col = self.positions[agent]
        return [round(row / 2, 2), round(col / 6, 2)]

    def state(self):
        positions = list(chain(*(self.view(agent) for agent in range(len(self.positions)))))
        return positions + [float(flag) for flag in self.arrived] + [self.steps / self.max_cycles]
