"""A run folder with known numbers, and what tests read from a page."""

from __future__ import annotations

import csv
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import yaml

from sb3_matrl.zoo.report import main

AGENTS = ("left", "right")
NASTY = '<script>alert("x")</script>&'
VOID = {"meta", "img"}


def synthetic_run(path, rows=20, evaluations=4, fixed_points=("stable", "saddle")):
    """A run folder with known numbers, without training."""
    path.mkdir(parents=True)
    (path / "args.yml").write_text(yaml.safe_dump({"algo": "matrl", "env": "checkers_v0", "seed": 3, "n_timesteps": None}))
    (path / "config.yml").write_text(yaml.safe_dump({"checkers_v0": {"gamma": 0.9, "policy_kwargs": {"net_arch": [8]}}}))
    (path / "command.txt").write_text("python zoo/train.py\n")
    header = ["time/total_timesteps", "time/iterations", "metagame/nash_conv", "metagame/fixed_point", "time/collect_seconds"]
    header += [f"{agent}/metagame/{key}" for agent in AGENTS for key in ("rho", "current_payoffs", "kl_next")]
    with (path / "progress.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for i in range(rows):
            writer.writerow([100 * (i + 1), i + 1, i, fixed_points[i % len(fixed_points)], 0.5, *np.linspace(0, 1, 6)])
    generator = np.random.default_rng(0)
    shape = (evaluations, 5)
    arrays = {"timesteps": 100 * np.arange(1, evaluations + 1), "agents": np.array(AGENTS)}
    for ending in ("", "_greedy"):
        arrays[f"agent_returns{ending}"] = generator.normal(size=(*shape, 2))
        arrays[f"results{ending}"] = arrays[f"agent_returns{ending}"].sum(axis=2)
        arrays[f"ep_lengths{ending}"] = np.full(shape, 7)
    np.savez(path / "evaluations.npz", **arrays)
    return path


class Page(HTMLParser):
    """Parsed page; checks that its elements are nested correctly."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.headings, self.words = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if self.open and re.fullmatch("h[1-6]", self.open[-1]):
            self.headings.append((self.open[-1], data))

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def report(*words):
    """Write a report without scripts, unless words say otherwise."""
    assert main([*(str(word) for word in words), "--static"]) == 0


def numbers_of(path):
    """Points of an SVG path of lines, shape (k, 2)."""
    return np.array(re.findall(r"[-\d.]+", path.get("d")), dtype=float).reshape(-1, 2)


def curves_of(chart):
    return [
        [path for path in group.iter("path") if "fill: none" in path.get("style")]
        for group in ElementTree.fromstring(chart.svg).iter("g")
        if group.get("class") == "series"
    ]
