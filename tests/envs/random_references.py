"""Slow reference implementations of the grid worlds with random numbers: one copy, plain Python, written from the rules."""

from __future__ import annotations

from itertools import product

import numpy as np

from tests.envs.references import MOVES, SlowWorld

MASK = 2**64 - 1


class SplitMix:
    """SplitMix64 on Python's integers, one number after another."""

    def __init__(self, seed):
        self.state = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0])

    def bits(self):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)

    def uniform(self):
        return (self.bits() >> 11) / 2**53

    def choice(self, entries):
        """One draw, whether or not there is anything to choose from."""
        u = self.uniform()
        return entries[int(u * len(entries))] if entries else None


class SlowSquare(SlowWorld):
    """Agents that may share cells; ``things`` are lists of cells, one list per plane."""

    def __init__(self, size, starts, max_cycles, random, **common):
        super().__init__(["." * size] * size, starts, max_cycles, **common)
        self.size, self.random = size, random

    def walk(self, agent, action):
        row, col = self.positions[agent]
        target = (row + MOVES[action][0], col + MOVES[action][1])
        if min(target) >= 0 and max(target) < self.size:
            self.positions[agent] = target

    def plane(self, *cells):
        return [float(cell in cells) for cell in product(range(self.size), repeat=2)]

    def view(self, agent):
        numbers = self.plane(self.positions[agent]) + self.plane(self.positions[1 - agent])
        return numbers + [number for cells in self.things() for number in self.plane(*cells)] + self.more()

    def more(self):
        return []

    def state(self):
        return [*self.view(0), self.steps / self.max_cycles]


class SlowStagHunt(SlowSquare):
    def __init__(
        self,
        random=None,
        size=4,
        stag_reward=5.0,
        hare_reward=1.5,
        lone_reward=-0.5,
        step_cost=0.0,
        max_cycles=12,
        stag_follows=False,
        respawn=False,
        **common,
    ):
        super().__init__(size, [(0, 0), (size - 1, size - 1)], max_cycles, random, **common)
        self.stag, self.hares = ((size - 1) // 2, size // 2), [(size - 2, 0), (1, size - 1)]
        self.values = (stag_reward, hare_reward, lone_reward, step_cost)
        self.follows, self.respawn = stag_follows, respawn

    def play(self, actions):
        stag_reward, hare_reward, lone_reward, step_cost = self.values
        for agent in (0, 1):
            self.walk(agent, actions[agent])
        if self.follows:
            self.chase()
        hunters = [agent for agent in (0, 1) if self.positions[agent] == self.stag]
        rewards = [step_cost, step_cost]
        for agent in hunters:
            rewards[agent] += stag_reward if len(hunters) == 2 else lone_reward
        for agent in (0, 1):
            if self.positions[agent] in self.hares:
                rewards[agent] += hare_reward
        eaten = [hare in self.positions for hare in self.hares]
        if self.respawn:
            self.put([bool(hunters), *eaten])
            return rewards, [False, False]
        return rewards, [len(hunters) == 2 or any(eaten)] * 2

    def chase(self):
        away = [(row - self.stag[0], col - self.stag[1]) for row, col in self.positions]
        distances = [abs(down) + abs(right) for down, right in away]
        down, right = away[distances.index(min(distances))]
        sign = lambda x: (x > 0) - (x < 0)  # noqa: E731
        if abs(down) >= abs(right):
            self.stag = (self.stag[0] + sign(down), self.stag[1])
        else:
            self.stag = (self.stag[0], self.stag[1] + sign(right))

    def put(self, met):
        animals = [self.stag, *self.hares]
        for animal in range(3):
            taken = {*animals, *self.positions}
            cell = self.random.choice([cell for cell in product(range(self.size), repeat=2) if cell not in taken])
            if met[animal]:
                animals[animal] = cell
        self.stag, self.hares = animals[0], animals[1:]

    def things(self):
        return [[self.stag], self.hares]


class SlowEscalation(SlowSquare):
    def __init__(self, random, size=5, streak_reward=1.0, desertion_penalty=0.9, step_cost=0.0, max_cycles=50, **common):
        cells = list(product(range(size), repeat=2))
        super().__init__(size, [random.choice(cells), random.choice(cells)], max_cycles, random, **common)
        self.lit, self.streak = random.choice(cells), 0
        self.values = (streak_reward, desertion_penalty, step_cost)

    def play(self, actions):
        streak_reward, penalty, step_cost = self.values
        for agent in (0, 1):
            self.walk(agent, actions[agent])
        on = [position == self.lit for position in self.positions]
        row, col = self.lit
        beside = [(row + down, col + right) for down, right in list(MOVES.values())[:4]]
        beside = [cell for cell in beside if min(cell) >= 0 and max(cell) < self.size]
        next_lit = self.random.choice(beside)
        if all(on):
            self.streak, self.lit = self.streak + 1, next_lit
            return [step_cost + streak_reward] * 2, [False, False]
        if any(on):
            rewards = [step_cost - penalty * self.streak if mine else step_cost for mine in on]
            return rewards, [self.streak > 0] * 2
        self.streak = 0
        return [step_cost] * 2, [False, False]

    def things(self):
        return [[self.lit]]

    def more(self):
        return [self.streak / self.max_cycles]


class SlowPredatorPrey(SlowWorld):
    def __init__(
        self,
        random,
        size=10,
        n_agents=8,
        n_prey=8,
        capture_reward=10.0,
        miscapture_reward=-2.0,
        step_cost=0.0,
        max_cycles=200,
        finished_agents="wait",
        observe_walls=False,
        **common,
    ):
        cells = list(product(range(size), repeat=2))
        places = [cells[k] for k in self.shuffled(random, len(cells))][: n_agents + n_prey]
        super().__init__(["." * size] * size, places[:n_agents], max_cycles, **common)
        self.prey, self.random, self.size = places[n_agents:], random, size
        self.values = (capture_reward, miscapture_reward, step_cost)
        self.leave, self.walls = finished_agents == "leave", observe_walls

    @staticmethod
    def shuffled(random, count):
        keys = [random.uniform() for _ in range(count)]
        return sorted(range(count), key=keys.__getitem__)

    def inside(self, cell):
        return min(cell) >= 0 and max(cell) < self.size

    def play(self, actions):
        capture_reward, miscapture_reward, step_cost = self.values
        agents, n_prey = range(len(self.positions)), len(self.prey)
        gone_before = [position is None for position in self.positions]
        order, prey_order = self.shuffled(self.random, len(agents)), self.shuffled(self.random, n_prey)
        choices = [self.random.uniform() for _ in range(n_prey)]
        for agent in order:
            if self.positions[agent] is not None and actions[agent] < 4:
                row, col = self.positions[agent]
                target = (row + MOVES[actions[agent]][0], col + MOVES[actions[agent]][1])
                if self.inside(target) and target not in self.positions and target not in self.prey:
                    self.positions[agent] = target
        rewards = [step_cost for _ in agents]
        for turn, prey in enumerate(prey_order):
            if self.prey[prey] is None:
                continue
            row, col = self.prey[prey]
            beside = [(row + down, col + right) for down, right in list(MOVES.values())[:4]]
            catchers = [agent for agent in agents if actions[agent] == 5 and self.positions[agent] in beside]
            if len(catchers) == 1:
                rewards[catchers[0]] += miscapture_reward
            if len(catchers) >= 2:
                for agent in catchers:
                    rewards[agent] += capture_reward / len(catchers)
                    self.positions[agent] = None
                self.prey[prey] = None
                continue
            free = [c for c in beside if self.inside(c) and c not in self.positions and c not in self.prey]
            if free:
                self.prey[prey] = free[int(choices[turn] * len(free))]
        gone = [position is None for position in self.positions]
        over = all(gone) or all(prey is None for prey in self.prey)
        left = [now and not before for now, before in zip(gone, gone_before, strict=True)]
        return rewards, [over or (self.leave and mine) for mine in left]

    def view(self, agent):
        channels = 3 if self.walls else 2
        if self.positions[agent] is None:
            return [0.0] * (25 * channels)
        row, col = self.positions[agent]
        numbers = []
        for cell in product(range(row - 2, row + 3), range(col - 2, col + 3)):
            flags = [cell in self.positions, cell in self.prey, not self.inside(cell)]
            numbers += [float(flag) for flag in flags[:channels]]
        return numbers

    def state(self):
        cells = list(product(range(self.size), repeat=2))
        numbers = [float(cell in self.positions) for cell in cells] + [float(cell in self.prey) for cell in cells]
        return [*numbers, self.steps / self.max_cycles]
