"""
Damaged model files: every load raises a ValueError, or gives exactly the model that was saved.

    python -m benchmarks.corruption_test

A model is saved in the middle of a training. Each trial damages a copy of the file at random points of one of its members
(or of the zip's directory behind them) and loads it:

- truncated: the file ends somewhere inside the member
- shortened: the member lost its end, and the zip is whole again (right lengths and checksums)
- flipped: 1 to 8 bytes of the member or its header are changed
"""

from __future__ import annotations

import argparse
import tempfile
import zipfile
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from tqdm import tqdm

from benchmarks.shared import write_record
from sb3_matrl import MATRL
from sb3_matrl.files.archive import read_archive

KINDS = ("truncated", "shortened", "flipped")
OUTCOMES = ("refused", "unchanged", "wrong load", "other error")
DIRECTORY = "(zip directory)"


def save_model(path: Path) -> None:
    """A trained model with every member that a file can have: learners, a frozen agent, running statistics, the training."""

    def build(**arguments: Any) -> MATRL:
        small: dict[str, Any] = {
            "n_envs": 2,
            "n_steps": 16,
            "batch_size": 32,
            "n_epochs": 2,
        }
        world: dict[str, Any] = {"env": "switch_v0", "env_kwargs": {"n_agents": 3}, "norm_obs": True}
        arguments |= {"policy_kwargs": {"net_arch": [16]}}
        return MATRL("MlpPolicy", seed=0, device="cpu", **small, **world, **arguments)

    build(frozen={"agent_2": (build(), "agent_2")}).learn(64).save(path)


def member_spans(path: Path) -> dict[str, tuple[int, int]]:
    """Member -> first byte of its header and first byte behind its content; the zip's directory likewise."""
    with zipfile.ZipFile(path) as archive:
        starts = [info.header_offset for info in archive.infolist()] + [archive.start_dir, path.stat().st_size]
        names = [*archive.namelist(), DIRECTORY]
    return dict(zip(names, pairwise(starts), strict=True))


def damage(source: Path, target: Path, kind: str, member: str, rng: np.random.Generator) -> None:
    """Write a damaged copy; the directory cannot be shortened and is truncated instead."""
    first, end = member_spans(source)[member]
    content = bytearray(source.read_bytes())
    if kind == "flipped":
        for position in rng.integers(first, end, size=rng.integers(1, 9)):
            content[position] ^= int(rng.integers(1, 256))
    elif kind == "truncated" or member == DIRECTORY:
        del content[int(rng.integers(first, end)) :]
    else:
        _shorten(source, target, member, rng)
        return
    target.write_bytes(content)


def _shorten(source: Path, target: Path, member: str, rng: np.random.Generator) -> None:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, data[: int(rng.integers(len(data)))] if name == member else data)


def outcome(path: Path, original: Any) -> str:
    """Outcome of loading a damaged file, one of ``OUTCOMES``."""
    try:
        MATRL.load(path, device="cpu")
    except ValueError:
        return "refused"
    except Exception:
        return "other error"
    return "unchanged" if same(read_archive(path), original) else "wrong load"


def same(one: Any, other: Any) -> bool:
    """Whether nested containers have the same types, numbers and tensors."""
    if type(one) is not type(other):
        return False
    if isinstance(one, th.Tensor):
        return one.dtype == other.dtype and th.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def run_trials(trials: int, seed: int) -> list[dict[str, str]]:
    """
    Damage and load a model repeatedly, with all kinds of damage and members in turn.

    :param trials: number of trials
    :param seed: seed of the random points
    :return: kind, member and outcome of each trial
    """
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "model.zip"), Path(folder, "damaged.zip")
        save_model(source)
        original, members = read_archive(source), list(member_spans(source))
        rows = []
        for trial in tqdm(range(trials), unit="file"):
            kind, member = KINDS[trial % len(KINDS)], members[trial // len(KINDS) % len(members)]
            damage(source, target, kind, member, rng)
            rows.append({"kind": kind, "member": member, "outcome": outcome(target, original)})
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/corruption_test.json"))
    args = parser.parse_args()
    th.set_num_threads(1)
    rows = run_trials(args.trials, args.seed)
    counts = Counter((row["member"], row["kind"], row["outcome"]) for row in rows)
    print(f"{'member':<18}{'damage':<12}" + "".join(f"{name:>13}" for name in OUTCOMES))
    for member, kind in dict.fromkeys((row["member"], row["kind"]) for row in rows):
        print(f"{member:<18}{kind:<12}" + "".join(f"{counts[member, kind, name]:>13}" for name in OUTCOMES))
    totals = {name: sum(row["outcome"] == name for row in rows) for name in OUTCOMES}
    table = [{"member": m, "damage": k, "outcome": o, "files": n} for (m, k, o), n in sorted(counts.items())]
    write_record(args.out, {"trials": args.trials, "seed": args.seed, "totals": totals, "table": table})
    return int(totals["wrong load"] + totals["other error"] > 0)


if __name__ == "__main__":
    raise SystemExit(main())
