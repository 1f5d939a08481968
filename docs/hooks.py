"""What the documentation's build adds to MkDocs: pictures of the benchmarks, a search from disk, docstrings as Markdown."""

from __future__ import annotations

import json
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
# Browsers start no worker from a file, but they do from text that a page holds. mkdocs.yml names this script.
SEARCH_SCRIPT = "javascripts/search_from_disk.js"
_SEARCH = """\
if (location.protocol === "file:") {
  const text = %s;
  window.Worker = class extends Worker {
    constructor() {
      super(URL.createObjectURL(new Blob([text], {type: "text/javascript"})));
    }
  };
}
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pictures of the benchmarks, and the script that lets the theme search in pages read from disk."""
    root = Path(config.config_file_path).parent
    for path in sorted((root / RESULTS).iterdir()):
        if path.suffix in (".png", ".svg"):
            files.append(File.generated(config, f"{RESULTS}/{path.name}", abs_src_path=str(path)))
    (worker,) = (path for folder in config.theme.dirs for path in _search_workers(Path(folder)))
    script = _SEARCH % json.dumps(worker.read_text(encoding="utf-8"))
    files.append(File.generated(config, SEARCH_SCRIPT, content=script))
    return files


def _search_workers(theme: Path) -> list[Path]:
    """The script in a folder of the theme that searches."""
    return sorted((theme / "assets/javascripts/workers").glob("search.*.js"))


def on_post_build(config: MkDocsConfig) -> None:
    """Write the index of the search as a script, which is what the theme reads where pages come from disk."""
    folder = Path(config.site_dir) / "search"
    index = (folder / "search_index.json").read_text(encoding="utf-8")
    (folder / "search_index.js").write_text(f"var __index = {index}", encoding="utf-8")


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
