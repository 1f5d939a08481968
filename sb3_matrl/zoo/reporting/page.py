"""The page of a report: its template and the formats of its numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from sb3_matrl.zoo.common.records import machine
from sb3_matrl.zoo.reporting import sections
from sb3_matrl.zoo.reporting.learning_section import learning
from sb3_matrl.zoo.reporting.live_charts import library, live_chart
from sb3_matrl.zoo.reporting.media import Gallery
from sb3_matrl.zoo.reporting.metagame_section import metagames
from sb3_matrl.zoo.reporting.run_loading import Run

GENERATOR = "sb3-matrl report"


@dataclass(frozen=True)
class Settings:
    """Configuration of one run as text, and the versions that saved its model."""

    run: str
    command: str
    config: str
    arguments: str
    versions: str


def render_page(runs: Sequence[Run], galleries: Sequence[Gallery], title: str, now: datetime, is_live: bool = False) -> str:
    """
    Render the page.

    :param runs: loaded runs
    :param galleries: videos and frames of the runs
    :param title: title of the page
    :param now: date and time on the page
    :param is_live: whether charts can be zoomed where the reader's browser runs scripts; needs Bokeh
    :return: HTML without references to other files
    """
    template = _environment().get_template("page.html.j2")
    return template.render(
        library=library() if is_live else "",
        title=title,
        generator=GENERATOR,
        date=f"{now:%Y-%m-%d %H:%M}",
        machine=machine(),
        overview=sections.overview(runs),
        learning=learning(runs),
        metagames=metagames(runs),
        values=sections.value_learning(runs),
        finals=sections.final_returns(runs),
        times=sections.phase_times(runs),
        galleries=galleries,
        differences=sections.differences(runs),
        run_names=[run.name for run in runs],
        settings=[_settings(run) for run in runs],
    )


def _environment() -> Environment:
    # Text from runs is never trusted: everything is escaped. A misspelt name is an error.
    environment = Environment(
        loader=PackageLoader("sb3_matrl.zoo.reporting", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., str]] = {"duration": duration, "number": number, "digits": digits, "live": live_chart}
    environment.filters.update(filters)
    return environment


def _settings(run: Run) -> Settings:
    return Settings(
        run=run.name,
        command=run.command,
        config=_as_yaml(run.config),
        arguments=_as_yaml(run.arguments),
        versions=", ".join(f"{library} {version}" for library, version in run.versions.items()),
    )


def _as_yaml(content: Any) -> str:
    return yaml.safe_dump(dict(content), sort_keys=False, default_flow_style=None, width=100) if content else ""


def duration(seconds: float) -> str:
    """``1 h 02 min``, ``3 min 05 s`` or ``4.2 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def number(value: float) -> str:
    """Two decimals and a real minus sign; a dash for nan."""
    if math.isnan(value):
        return sections.MISSING
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "\N{MINUS SIGN}")


def digits(value: float) -> str:
    """Three significant digits and a real minus sign; a dash for nan."""
    if math.isnan(value):
        return sections.MISSING
    return f"{value + 0.0:.3g}".replace("-", "\N{MINUS SIGN}")
