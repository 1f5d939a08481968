"""The model card of a run: metadata of the hub, returns, learning curve, settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from sb3_matrl.common.registry import algorithm_spec
from sb3_matrl.evaluation import EvaluationResult
from sb3_matrl.files.model_files import read_model
from sb3_matrl.utils.reward_structure import RewardStructure
from sb3_matrl.zoo.common.text_tables import as_markdown, markdown
from sb3_matrl.zoo.common.yaml_files import read_yaml
from sb3_matrl.zoo.hub.hub_client import import_hub
from sb3_matrl.zoo.hub.repository import CURVE, VIDEO, TrainedRun
from sb3_matrl.zoo.reporting.run_loading import read_evaluations, read_versions

TAGS = ("reinforcement-learning", "multi-agent-reinforcement-learning", "stable-baselines3", "pettingzoo")


@dataclass(frozen=True)
class LastEvaluation:
    """
    The evaluation of a model.

    :param steps: steps of the training before it
    :param results: name of the policy (sampled, greedy) -> its episodes
    :param structure: how the agents' returns depend on each other
    """

    steps: int
    results: dict[str, EvaluationResult]
    structure: RewardStructure

    @property
    def competes(self) -> bool:
        """Whether the agents' returns have a constant sum: then the team return says nothing."""
        return self.structure == "constant-sum"

    @property
    def n_episodes(self) -> int:
        """Number of episodes of each policy."""
        return self.results["sampled"].n_episodes

    def returns(self, policy: str) -> dict[str, np.ndarray]:
        """
        :param policy: ``sampled`` or ``greedy``
        :return: ``team``, unless the agents compete, and the agents, unless all get the same -> returns, shape (episodes,)
        """
        result = self.results[policy]
        team = {} if self.competes else {"team": result.returns}
        agents = {name: result.agent_returns[:, i] for i, name in enumerate(result.agents)}
        return team if self.structure == "common" else team | agents


def last_evaluation(path: Path, trained: int) -> LastEvaluation | None:
    """
    The last evaluation that is not later than a model.

    :param path: path of ``evaluations.npz``
    :param trained: steps of the model
    :return: the evaluation; ``None`` if there is no file, or none so early
    :raises ValueError: if the file is damaged
    """
    if not path.is_file():
        return None
    evaluations = read_evaluations(path)
    rows = [i for i, steps in enumerate(evaluations.steps) if steps <= trained]
    if not rows:
        return None
    results = {"sampled": evaluations.sampled[rows[-1]], "greedy": evaluations.greedy[rows[-1]]}
    return LastEvaluation(int(evaluations.steps[rows[-1]]), results, evaluations.structure)


def returns_rows(evaluation: LastEvaluation) -> list[list[str]]:
    """
    Rows of the table of returns: the team and the agents, with each policy.

    :param evaluation: the evaluation
    :return: policy, whose return, mean and standard deviation, mean length of the episodes
    """
    return [
        [policy, as_markdown(name), _spread(returns), f"{result.mean_length:.1f}"]
        for policy, result in evaluation.results.items()
        for name, returns in evaluation.returns(policy).items()
    ]


def _spread(returns: np.ndarray) -> str:
    """Mean and standard deviation, without a negative zero."""
    return f"{round(float(returns.mean()), 2) + 0.0:.2f} +/- {returns.std():.2f}"


def model_card(run: TrainedRun, repo_id: str) -> str:
    """
    The card of a run, in the hub's Markdown: YAML metadata with the returns, then what a reader needs.

    :param run: the run
    :param repo_id: id of its repository
    :return: content of ``README.md``
    :raises ImportError: if huggingface_hub is not installed
    :raises ValueError: if a file of the run is damaged
    """
    folder = run.folder
    saved = read_model(run.model)
    steps = int(saved.counters["num_timesteps"])
    evaluation = last_evaluation(folder.evaluations, steps)
    organization, _, repo_name = repo_id.partition("/")
    config = read_yaml(folder.config).get(folder.env_id)
    text = _template().render(
        card_data=_metadata(run, evaluation).to_yaml(),
        run=run,
        summary=algorithm_spec(run.algorithm).summary,
        steps=steps,
        evaluation=evaluation,
        table="" if evaluation is None else markdown(["policy", "return of", "return", "length"], returns_rows(evaluation)),
        has_curve=folder.learning_curve.is_file(),
        curve=CURVE,
        has_video=folder.video.is_file(),
        video=VIDEO,
        organization=organization,
        repo_name=repo_name,
        config=yaml.safe_dump({folder.env_id: config}, sort_keys=False).strip(),
        command=folder.command.read_text(encoding="utf-8").strip() if folder.command.is_file() else "",
        versions=read_versions(run.model),
    )
    return f"{text.strip()}\n"


def _metadata(run: TrainedRun, evaluation: LastEvaluation | None) -> Any:
    """The hub's metadata, in the form in which rl-zoo's repositories state their returns."""
    entries = [] if evaluation is None else _entries(run.folder.env_id, evaluation)
    return import_hub().ModelCardData(
        library_name="sb3-matrl",
        tags=[*TAGS, run.algorithm, run.folder.env_id],
        model_name=run.algorithm if entries else None,
        eval_results=entries or None,
    )


def _entries(env_id: str, evaluation: LastEvaluation) -> list[Any]:
    """Results of the team, or of every agent if they compete, with each policy."""
    hub = import_hub()
    return [
        hub.EvalResult(
            task_type="reinforcement-learning",
            task_name="reinforcement-learning",
            dataset_type=env_id,
            dataset_name=env_id,
            metric_type="mean_reward" if policy == "sampled" else "mean_reward_greedy",
            metric_name=f"mean_reward{f' of {name}' if evaluation.competes else ''}, {policy} actions",
            metric_value=_spread(returns),
            verified=False,
        )
        for policy in evaluation.results
        for name, returns in evaluation.returns(policy).items()
        if name == "team" or evaluation.competes
    ]


def _template() -> Any:
    loader = PackageLoader("sb3_matrl.zoo.hub")
    environment = Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)
    return environment.get_template("model_card.md.j2")
