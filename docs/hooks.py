"""What the documentation's build adds to MkDocs: pictures of the benchmarks, tables of flags, docstrings as Markdown."""

from __future__ import annotations

import argparse
import importlib
import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

# Pages link to the records where they lie in the repository; the site has them below its own root.
RESULTS = "benchmarks/results"
_FLAGS = re.compile(r"<!-- flags of (?P<module>[\w.]+) -->")
# A default that is a number here and another one there.
_CORES = {"--jobs": "the machine's cores"}
_TABLE = re.compile(r"^(=+ =+)\n(.*?)^=+ =+$\n?", re.MULTILINE | re.DOTALL)
_ROLE = re.compile(r":(?:class|func|meth|mod|attr|data):`~?(?P<target>[^`]+)`")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pictures of the benchmarks to the site."""
    root = Path(config.config_file_path).parent
    for path in sorted((root / RESULTS).iterdir()):
        if path.suffix in (".png", ".svg"):
            files.append(File.generated(config, f"{RESULTS}/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in tables of flags, and point links to the benchmarks' pictures to their copies in the site."""
    markdown = _FLAGS.sub(lambda comment: flag_table(comment["module"]), markdown)
    return markdown.replace(f"](../{RESULTS}/", f"]({RESULTS}/")


def flag_table(module: str) -> str:
    """
    The flags of a command line, from its own parser, so that they are always those that there are.

    :param module: has ``build_parser``
    :return: Markdown; a table for each of its commands if it has several
    """
    parser: argparse.ArgumentParser = importlib.import_module(module).build_parser()
    commands: dict[str, argparse.ArgumentParser] = getattr(parser, "commands", {})
    if commands:
        return "\n\n".join(f"`{name}`: {command.description}\n\n{_table(command)}" for name, command in commands.items())
    return _table(parser)


def _table(parser: argparse.ArgumentParser) -> str:
    shown = [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]
    return "\n".join(["| flag | default | |", "|---|---|---|", *(_flag_row(parser, action) for action in shown)])


def _flag_row(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    names = action.option_strings or [str(action.metavar)]
    default = _CORES.get(names[-1], parser.get_default(action.dest))
    without = default is None or default is False or default == []
    listed = action.choices is None or all(str(choice) in (action.help or "") for choice in action.choices)
    choices = "" if listed else f": {', '.join(map(str, action.choices or ()))}"
    text = f"{action.help or ''}{choices}".replace("|", "\\|").replace("<", "&lt;")
    return f"| {', '.join(f'`{name}`' for name in names)} | {'' if without else f'`{default}`'} | {text} |"


class RestructuredTextMarkup(griffe.Extension):
    """
    Turns what docstrings use of reStructuredText into Markdown: roles such as ``:class:`~package.Name` `` into links (code
    where the target is not in the documentation), ``text::`` into ``text:``, and simple tables into Markdown's.
    """

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Rewrite every docstring, once all names of the package are known."""
        self._rewrite(pkg)

    def _rewrite(self, entry: griffe.Object) -> None:
        if entry.docstring is not None:
            text = _ROLE.sub(lambda role: _link(role["target"], entry), entry.docstring.value)
            entry.docstring.value = _TABLE.sub(lambda table: _markdown_table(*table.groups()), text).replace("::\n", ":\n")
        for member in entry.members.values():
            if isinstance(member, griffe.Object):
                self._rewrite(member)


def _link(target: str, scope: griffe.Object) -> str:
    """A cross-reference that stays code where the target is not in the documentation."""
    head, dot, rest = target.partition(".")
    try:
        path = scope.resolve(head) + dot + rest
    except griffe.NameResolutionError:
        path = target
    return f'<autoref identifier="{path}" optional><code>{target.rsplit(".", 1)[-1]}</code></autoref>'


def _markdown_table(border: str, body: str) -> str:
    """A simple table of two columns without a head; a line with an empty first cell continues the one above."""
    width = border.index(" ")
    rows: list[list[str]] = []
    for line in body.splitlines():
        name, text = line[:width].strip(), line[width:].strip()
        if name:
            rows.append([name, text])
        else:
            rows[-1][1] += f" {text}"
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows)]) + "\n"
