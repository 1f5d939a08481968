"""
The page of all flags, from the parsers of the commands, so that it can be read on GitHub as well as in the built site.

    python docs/flag_tables.py

writes docs/flags.md; a test compares the two.
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from pathlib import Path

# Flags whose default is a number here and another one there.
CORES = ("--jobs", "--n-jobs")
PAGE = Path(__file__).with_name("flags.md")
HEAD = """\
# Flags

All flags of all commands, from their parsers: `make flags` writes this page. `sb3-matrl COMMAND --help` prints the same. Flags
cannot be abbreviated, and an unknown one is an error that suggests the one that was probably meant.
"""


def page() -> str:
    """:return: Markdown with a section for every command"""
    from sb3_matrl.zoo.main import COMMANDS, module_of

    sections = [f"## {name}\n\n{_section(import_module(module_of(name)).build_parser())}" for name in COMMANDS]
    return "\n\n".join([HEAD.strip(), *sections]) + "\n"


def _section(parser: argparse.ArgumentParser) -> str:
    """Description and table; one table for each of its commands if the parser has several."""
    commands: dict[str, argparse.ArgumentParser] = getattr(parser, "commands", {})
    tables = [f"`{name}`: {command.description}\n\n{_table(command)}" for name, command in commands.items()]
    return "\n\n".join([str(parser.description), *(tables or [_table(parser)])])


def _table(parser: argparse.ArgumentParser) -> str:
    shown = [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]
    return "\n".join(["| flag | default | meaning |", "|---|---|---|", *(_row(parser, action) for action in shown)])


def _row(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    names = action.option_strings or [str(action.metavar or action.dest)]
    from sb3_matrl.zoo.common.cli import shown_default

    default = parser.get_default(action.dest)
    shown = "the machine's cores" if names[-1] in CORES and default == (os.cpu_count() or 1) else shown_default(default)
    listed = action.choices is None or all(str(choice) in (action.help or "") for choice in action.choices)
    choices = "" if listed else f": {', '.join(map(str, action.choices or ()))}"
    text = f"{action.help or ''}{choices}".replace("%%", "%").replace("|", "\\|").replace("<", "&lt;")
    return f"| {', '.join(f'`{name}`' for name in names)} | {f'`{shown}`' if shown else ''} | {text} |"


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])
    PAGE.write_text(page(), encoding="utf-8")
