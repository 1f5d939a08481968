"""The model card of a run: metadata of the hub, returns, learning curve, settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from sb3_matrl.common.registry import algorithm_spec
from sb3_matrl.evaluation import EvaluationResult
from sb3_matrl.files.model_files import read_model
from sb3_matrl.zoo.common.text_tables import markdown
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
    """

    steps: int
    results: dict[str, EvaluationResult]


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
    return LastEvaluation(int(evaluations.steps[rows[-1]]), results)


def returns_rows(results: dict[str, EvaluationResult]) -> list[list[str]]:
    """
    Rows of the table of returns: the team and every agent, with each policy.

    :param results: name of the policy -> its episodes
    :return: policy, whose return, mean and standard deviation, mean length of the episodes
    """
    rows = []
    for policy, result in results.items():
        columns = {"team": result.returns} | {name: result.agent_returns[:, i] for i, name in enumerate(result.agents)}
        for name, returns in columns.items():
            rows.append([policy, name, f"{returns.mean():.2f} +/- {returns.std():.2f}", f"{result.mean_length:.1f}"])
    return rows


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
    results = {} if evaluation is None else evaluation.results
    organization, _, repo_name = repo_id.partition("/")
    config = read_yaml(folder.config).get(folder.env_id)
    text = _template().render(
        card_data=_metadata(run, results).to_yaml(),
        run=run,
        summary=algorithm_spec(run.algorithm).summary,
        steps=steps,
        evaluated=0 if evaluation is None else evaluation.steps,
        episodes=0 if evaluation is None else results["sampled"].n_episodes,
        table=markdown(["policy", "return of", "return", "length"], returns_rows(results)) if results else "",
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


def _metadata(run: TrainedRun, results: dict[str, EvaluationResult]) -> Any:
    """The hub's metadata, in the form in which rl-zoo's repositories state their returns."""
    hub = import_hub()
    env_id = run.folder.env_id
    entries = [
        hub.EvalResult(
            task_type="reinforcement-learning",
            task_name="reinforcement-learning",
            dataset_type=env_id,
            dataset_name=env_id,
            metric_type="mean_reward" if policy == "sampled" else "mean_reward_greedy",
            metric_name=f"mean_reward, {policy} actions",
            metric_value=f"{result.mean:.2f} +/- {result.std:.2f}",
            verified=False,
        )
        for policy, result in results.items()
    ]
    return hub.ModelCardData(
        library_name="sb3-matrl",
        tags=[*TAGS, run.algorithm, env_id],
        model_name=run.algorithm if entries else None,
        eval_results=entries or None,
    )


def _template() -> Any:
    loader = PackageLoader("sb3_matrl.zoo.hub")
    environment = Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)
    return environment.get_template("model_card.md.j2")
