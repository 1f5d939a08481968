"""
Fuzz everything that reads files: archives, ``model.json``, tensors, arguments, spaces, YAML, and rl-zoo's texts.

    make fuzz FUZZ_MINUTES=60

Any error but a ``ValueError`` is a finding, and so is an input that takes more than 20 seconds of the processor or 4 GB.
Findings are counted by the place of the error, and written with their input and the number of executions to ``--out``.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["sb3_matrl.files", "sb3_matrl.zoo.common", "yaml"], enable_loader_override=False):
    from sb3_matrl import MATRL
    from sb3_matrl.common.loading import load_model
    from sb3_matrl.files.archive import read_archive
    from sb3_matrl.files.argument_codec import argument_from_json
    from sb3_matrl.files.budget import check_description
    from sb3_matrl.files.model_files import read_model
    from sb3_matrl.files.space_codec import space_from_json
    from sb3_matrl.zoo.common.python_text import read_python_text
    from sb3_matrl.zoo.common.yaml_files import parse_yaml
    from sb3_matrl.zoo.diagnosis.saved_model import check_model

import torch as th

from tests.files.hostile import WRONG, WRONG_TENSORS, changed_document, changed_tensors, mutate, read_members, write_members

MAX_SECONDS = 20
TENSORS = ("agents/0.pt", "frozen/0.pt", "normalizers.pt", "training.pt")
SMALL: dict[str, Any] = {"n_steps": 8, "batch_size": 16, "n_epochs": 1, "n_envs": 2, "policy_kwargs": {"net_arch": [4]}}


class Targets:
    """
    The readers, each as a function of bytes.

    :param folder: folder for the files that are read
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "model.zip"
        world: dict[str, Any] = {"env": "switch_v0", "env_kwargs": {"n_agents": 3}, "norm_obs": True}
        frozen = MATRL("MlpPolicy", seed=0, device="cpu", **world, **SMALL)
        MATRL("MlpPolicy", seed=0, device="cpu", frozen={"agent_2": (frozen, "agent_2")}, **world, **SMALL).learn(32).save(
            self.path
        )
        self.members = read_members(self.path)
        self.whole = self.path.read_bytes()
        self.document = json.loads(self.members["model.json"])
        # Fast readers are used more often than whole models.
        self.all: tuple[Callable[[bytes], object], ...] = (
            *(self.yaml, self.yaml, self.python_text, self.flipped, self.archive, self.description, self.description),
            *(self.argument, self.argument, self.space, self.space, self.model, self.tensors),
        )

    def yaml(self, data: bytes) -> object:
        return parse_yaml(data.decode("utf-8", "replace"))

    def python_text(self, data: bytes) -> object:
        return read_python_text(data.decode("utf-8", "replace"))

    def archive(self, data: bytes) -> object:
        self.path.write_bytes(data)
        return read_archive(self.path)

    def flipped(self, data: bytes) -> object:
        """A whole file with some bytes replaced."""
        content, rng = bytearray(self.whole), random.Random(data)
        for byte in data[:16]:
            content[rng.randrange(len(content))] = byte
        return self.archive(bytes(content))

    def argument(self, data: bytes) -> object:
        values = self.document["arguments"] | self.document["frozen"]["agent_2"]["arguments"]
        return argument_from_json(_within_budget(_json_or(data, lambda rng: mutate(values, rng, WRONG)), data))

    def space(self, data: bytes) -> object:
        spaces = self.document["observation_spaces"] + self.document["action_spaces"]
        return space_from_json(_within_budget(_json_or(data, lambda rng: mutate(rng.choice(spaces), rng, WRONG)), data))

    def description(self, data: bytes) -> object:
        return _within_budget(_json_or(data, lambda rng: mutate(self.document, rng, WRONG)), data)

    def model(self, data: bytes) -> object:
        rng = random.Random(data)
        write_members(self.path, changed_document(self.members, lambda document: mutate(document, rng, WRONG)))
        return self._use()

    def tensors(self, data: bytes) -> object:
        rng, name = random.Random(data), TENSORS[len(data) % len(TENSORS)]
        values = (*WRONG, *WRONG_TENSORS)
        write_members(self.path, changed_tensors(self.members, lambda tree: mutate(tree, rng, values), name))
        read_model(self.path)
        load_model(self.path, env="switch_v0", device="cpu").learn(16, reset_num_timesteps=False)
        return None

    def _use(self) -> object:
        list(map(str, check_model(self.path)))
        return load_model(self.path, device="cpu")


def _json_or(data: bytes, make: Callable[[random.Random], Any]) -> Any:
    """The bytes as JSON; a mutated document where they are none."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return make(random.Random(data))


def _within_budget(document: Any, data: bytes) -> Any:
    """The document, which is checked as ``read_model`` does before it decodes any space or argument."""
    try:
        check_description(document, len(data))
    except (TypeError, KeyError) as error:
        raise ValueError(str(error)) from error  # as read_model does
    return document


class Fuzzer:
    """
    Function of libFuzzer, which counts executions and findings.

    :param targets: readers
    :param out: file for the record
    """

    def __init__(self, targets: Targets, out: Path) -> None:
        self.targets = targets
        self.out = out
        self.executions: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.findings: dict[str, dict[str, Any]] = {}
        self.start = time.monotonic()
        self.written = 0.0

    def __call__(self, data: bytes) -> None:
        target = self.targets.all[data[0] % len(self.targets.all)] if data else self.targets.yaml
        name = target.__name__
        self.executions[name] += 1
        start = time.process_time()
        try:
            target(data[1:])
            if time.process_time() - start > MAX_SECONDS:
                raise TimeoutError(f"{time.process_time() - start:.0f} seconds")
        except ValueError:
            self.refused[name] += 1
        except Exception as error:
            self._note(name, error, data)
        if time.monotonic() - self.written > 10:
            self.write()

    def _note(self, name: str, error: Exception, data: bytes) -> None:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        key = f"{name}: {type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}"
        if key not in self.findings:
            self.findings[key] = {"count": 0, "error": str(error)[:300], "input": data.hex()}
            print(f"finding: {key}: {error}", file=sys.stderr, flush=True)
        self.findings[key]["count"] += 1
        self.write()

    def write(self) -> None:
        """Write the record."""
        self.written = time.monotonic()
        record = {
            "seconds": round(self.written - self.start),
            "executions": sum(self.executions.values()),
            "per_reader": {name: {"executions": n, "refused": self.refused[name]} for name, n in self.executions.items()},
            "findings": self.findings,
        }
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self.out.write_text(json.dumps(record, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("logs/fuzz.json"))
    args = parser.parse_args()
    th.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder, "corpus")
        corpus.mkdir()
        targets = Targets(Path(folder))
        seeds = [b"a: &a {b: [1, 2e3]}\nc: *a\n", b"dict(net_arch=[64, 64], activation_fn=nn.ReLU)", targets.whole]
        seeds += [json.dumps(value).encode() for value in WRONG if isinstance(value, dict)]
        for k, seed in enumerate(seeds):
            for kind in range(len(targets.all)):
                (corpus / f"{k}_{kind}").write_bytes(bytes([kind]) + seed)
        fuzzer = Fuzzer(targets, args.out)
        options = [f"-max_total_time={round(60 * args.minutes)}", f"-seed={args.seed}", "-timeout=300", "-rss_limit_mb=4096"]
        atheris.Setup(
            [
                sys.argv[0],
                *options,
                "-max_len=100000",
                "-verbosity=0",
                f"-artifact_prefix={args.out.with_suffix('')}_",
                str(corpus),
            ],
            fuzzer,
        )
        atheris.Fuzz()  # ends the process


if __name__ == "__main__":
    main()
