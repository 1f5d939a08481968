"""The results as one Markdown page and one self-contained HTML page with the same content."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PackageLoader, StrictUndefined

from benchmarks.paper.budget_file import PANELS
from benchmarks.paper.claims import FAILS, HOLDS, OPEN, RULES
from benchmarks.paper.sections import Curves, Section
from sb3_matrl.utils.atomic_file import atomic_file
from sb3_matrl.zoo.common.text_tables import markdown
from sb3_matrl.zoo.reporting.charts import Chart, Series, line_chart

TITLE = "The paper's tables and figures"
IMAGES = Path("images/paper")
EQUAL_STEPS = (
    "Methods that are compared take equal numbers of environment steps and of gradient steps. In the learning curves every "
    "method takes 15 gradient steps per batch of MATRL; the paper's independent learners took 10. The tables have both "
    "numbers."
)


def sections_of(content: Mapping[str, Any]) -> dict[str, Section]:
    """
    :param content: the record of all panels
    :return: name of each finished panel -> its section
    """
    return {name: PANELS[name].section(record) for name, record in content["panels"].items()}


def introduction(content: Mapping[str, Any]) -> list[str]:
    """
    :param content: the record of all panels
    :return: paragraphs at the beginning of the page
    """
    minutes = sum(record["seconds"] for record in content["panels"].values()) / 60.0
    jobs = max((record["jobs"] for record in content["panels"].values()), default=1)
    machine = content["machine"]
    where = f" on {machine['processor']}, Python {machine['python']}, PyTorch {machine['versions']['torch']}"
    left = f" Panels that are not finished: {', '.join(content['left'])}." if content["left"] else ""
    processes = "1 process" if jobs == 1 else f"{jobs} processes"
    return [
        f"`python -m benchmarks.paper --budget {content['budget']}` measured all of this page in {minutes:.0f} minutes "
        f"with {processes}{where}.{left}",
        EQUAL_STEPS,
        *RULES,
    ]


def verdicts(sections: Mapping[str, Section]) -> str:
    """
    :param sections: sections by panel
    :return: how many claims hold, in a sentence
    """
    found = [claim.verdict for section in sections.values() for claim in section.claims]
    counts = {verdict: found.count(verdict) for verdict in (HOLDS, FAILS, OPEN)}
    return f"Of {len(found)} claims, {counts[HOLDS]} hold, {counts[FAILS]} do not hold, and {counts[OPEN]} cannot be told."


# ---------------------------------------------------------------------- Markdown


def markdown_page(content: Mapping[str, Any]) -> str:
    """
    :param content: the record of all panels
    :return: the page
    """
    sections = sections_of(content)
    parts = [f"# {TITLE}", *introduction(content), "## Claims", verdicts(sections)]
    parts.append(
        markdown(
            ["panel", "claim", "here"],
            [[name, claim.text, claim.verdict] for name, section in sections.items() for claim in section.claims],
        )
    )
    for name, section in sections.items():
        parts += [f"## {PANELS[name].title}", *_markdown_section(name, section)]
    return "\n\n".join(parts) + "\n"


def _markdown_section(name: str, section: Section) -> list[str]:
    parts = [*section.text, *(markdown(table.header, table.rows) for table in section.tables)]
    parts += [f"![{picture.text}]({IMAGES}/{image_name(name, picture.name)})" for picture in section.pictures]
    if section.notes:
        parts.append("\n".join(f"- {note}" for note in section.notes))
    if section.claims:
        parts.append("\n".join(f"- {claim.text}: **{claim.verdict}**. {claim.reason}" for claim in section.claims))
    return parts


def image_name(panel: str, picture: str) -> str:
    """
    :param panel: name of a panel
    :param picture: name of a picture in its folder
    :return: name of the copy in the folder of all pictures
    """
    return picture if picture.startswith(panel) else f"{panel}_{picture}"


# ---------------------------------------------------------------------- HTML


def html_page(content: Mapping[str, Any], out: Path) -> str:
    """
    :param content: the record of all panels
    :param out: folder of the panels' folders, which have the pictures
    :return: the page, without references to other files
    """
    sections = sections_of(content)
    own = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=ChoiceLoader([own, PackageLoader("sb3_matrl.zoo.reporting", "templates")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("paper_page.html.j2").render(
        title=TITLE,
        introduction=introduction(content),
        verdicts=verdicts(sections),
        titles={name: PANELS[name].title for name in sections},
        sections=sections,
        charts={name: [_chart(one) for one in section.curves] for name, section in sections.items()},
        pictures={
            name: [(picture.text, _data_uri(out / name / picture.name)) for picture in section.pictures if not section.curves]
            for name, section in sections.items()
        },
    )


def _chart(curves: Curves) -> Chart | None:
    series = []
    for index, (name, one) in enumerate(curves.curves.items()):
        low, high = (None if None in one[end] else np.array(one[end]) for end in ("low", "high"))
        series.append(Series(name, np.array(one["steps"]), np.array(one["values"]), low, high).styled(index))
    return line_chart(curves.title, series, "IQM over seeds, sampled actions, with 95 % bands")


def _data_uri(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def write_pages(out: Path, content: Mapping[str, Any]) -> None:
    """
    Write ``paper.md`` with its pictures, and ``paper.html``.

    :param out: folder of the panels' folders
    :param content: the record of all panels
    """
    (out / IMAGES).mkdir(parents=True, exist_ok=True)
    for name, section in sections_of(content).items():
        for picture in section.pictures:
            shutil.copyfile(out / name / picture.name, out / IMAGES / image_name(name, picture.name))
    for path, text in ((out / "paper.md", markdown_page(content)), (out / "paper.html", html_page(content, out))):
        with atomic_file(path) as file:
            file.write(text.encode())
