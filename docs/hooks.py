"""What the documentation's build adds to MkDocs: pictures of the benchmarks, docstrings as Markdown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

# Pages link to the records where they lie in the repository; the site has them below its own root.
RESULTS = "benchmarks/results"
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
    """Point links to the benchmarks' pictures to their copies in the site."""
    return markdown.replace(f"](../{RESULTS}/", f"]({RESULTS}/")


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
