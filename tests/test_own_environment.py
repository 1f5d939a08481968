"""The page about one's own environment, step by step as a reader does it: a file, and the commands as they are printed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from sb3_matrl.zoo.main import main
from tests.documentation import DOCS
from tests.test_docs import PYTHON_BLOCK

PAGE = (DOCS / "own_environment.md").read_text(encoding="utf-8")
SHORT = {
    "train": ["-params", "n_steps:16", "batch_size:64", "--eval-episodes", "2", "--verbose", "0"],
    "enjoy": ["--n-episodes", "2"],
    "report": ["--static"],
}


def commands() -> list[list[str]]:
    """Words of all commands in blocks of bash."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


@pytest.fixture
def in_folder_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("meeting.py").write_text(PYTHON_BLOCK.findall(PAGE)[0], encoding="utf-8")


@pytest.mark.e2e
@pytest.mark.usefixtures("in_folder_of_the_file")
def test_environment_of_the_page_passes_the_check_of_pettingzoo(capsys: pytest.CaptureFixture[str]) -> None:
    check = commands()[0]
    assert check[:2] == ["python", "-c"]
    exec(check[2], {})
    assert "Passed Parallel API test" in capsys.readouterr().out


@pytest.mark.expensive
@pytest.mark.usefixtures("in_folder_of_the_file")
def test_commands_of_the_page_work(capsys: pytest.CaptureFixture[str]) -> None:
    ours = commands()[1:]
    assert [words[:2] for words in ours] == [["sb3-matrl", "train"], ["sb3-matrl", "enjoy"], ["sb3-matrl", "report"]]
    for _, command, *words in ours:
        given = [re.sub(r"^20000$", "64", word) for word in words]
        assert main([command, *given, *SHORT.get(command, [])]) == 0
    assert "team" in capsys.readouterr().out
    assert Path("logs/matrl/meeting-Meeting_1/report.html").stat().st_size > 10_000
