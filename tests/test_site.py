"""The built site: complete, with links that resolve, all public names, and a search that needs no server."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.documentation import DOCS, ROOT
from tests.shared_folders import built_once

pytestmark = pytest.mark.e2e


class Page(HTMLParser):
    """The ids, links and embedded resources of a built page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.resources: list[str] = []
        self.images_without_text: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif "src" in given or (tag == "link" and "href" in given):
            self.resources.append(given.get("src") or given["href"])
        if tag == "img" and not given.get("alt"):
            self.images_without_text.append(given["src"])


def build_site(folder: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_once(tmp_path_factory, "site", build_site)


@pytest.fixture(scope="session")
def built(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}


def test_every_page_of_the_sources_is_in_the_site(built: dict[Path, Page], site: Path) -> None:
    sources = {str(path.relative_to(DOCS).with_suffix(".html")) for path in DOCS.rglob("*.md")}
    assert sources == {str(path.relative_to(site)) for path in built}


def test_links_and_images_of_the_site_resolve(built: dict[Path, Page]) -> None:
    broken = []
    for path, page in built.items():
        for link in page.links + page.resources:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            missing_anchor = parts.fragment and target in built and unquote(parts.fragment) not in built[target].ids
            if not target.is_file() or missing_anchor:
                broken.append(f"{path.name}: {link}")
    assert broken == []


def test_pages_fetch_nothing_from_elsewhere(built: dict[Path, Page]) -> None:
    assert [source for page in built.values() for source in page.resources if urlsplit(source).netloc] == []


def test_images_have_alternative_texts(built: dict[Path, Page]) -> None:
    assert [source for page in built.values() for source in page.images_without_text] == []


@pytest.mark.parametrize("package", ["", ".metagame", ".vec_env", ".envs", ".evaluation", ".games"])
def test_public_names_are_in_the_api_reference(package: str, built: dict[Path, Page]) -> None:
    module = importlib.import_module(f"sb3_matrl{package}")
    documented = set().union(*(page.ids for page in built.values()))
    # As it is imported, or where it is defined.
    named = {name: getattr(module, name) for name in module.__all__}
    public = {name: entry for name, entry in named.items() if inspect.isclass(entry) or inspect.isfunction(entry)}
    paths = {name: {f"{module.__name__}.{name}", f"{entry.__module__}.{name}"} for name, entry in public.items()}
    assert [name for name, both in paths.items() if not both & documented] == []


def test_docstrings_show_no_restructuredtext(site: Path) -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in (site / "api").glob("*.html"))
    assert (
        re.findall(r":(?:class|func|meth|mod|attr|data):|={5,} ={5,}|^\s*:(?:param|raises?|return)\b", text, re.MULTILINE)
        == []
    )


def test_signatures_show_types(site: Path) -> None:
    page = (site / "api/matrl.html").read_text(encoding="utf-8")
    signature = re.sub(r"<[^>]+>", "", page[page.index('<div class="doc-signature highlight">') :].split("</pre>")[0])
    assert "n_envs: int = 1" in signature and "seed: int | None = None" in signature


def test_search_has_its_index_and_its_worker_in_scripts(site: Path) -> None:
    index = (site / "search/search_index.js").read_text(encoding="utf-8").removeprefix("var __index = ")
    assert json.loads(index) == json.loads((site / "search/search_index.json").read_text(encoding="utf-8"))
    assert len(json.loads(index)["docs"]) > 200
    (worker,) = (site / "assets/javascripts/workers").glob("search.*.js")
    script = (site / "javascripts/search_from_disk.js").read_text(encoding="utf-8")
    (text,) = re.findall(r"const text = (.*);$", script, re.MULTILINE)
    assert json.loads(text) == worker.read_text(encoding="utf-8")


# Time that Chromium skips while a page is idle would end before the worker has read its index.
BUSY = "<script>setInterval(() => { for (let i = 0, sum = 0; i < 5e6; i++) sum += i; }, 10);</script></body>"


@pytest.mark.expensive
def test_search_finds_pages_of_a_site_on_disk(site: Path, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs Chromium")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += ["--disable-component-update", f"--user-data-dir={tmp_path}", "--virtual-time-budget=15000"]
    page = site / "busy.html"
    page.write_text((site / "index.html").read_text(encoding="utf-8").replace("</body>", BUSY), encoding="utf-8")
    try:
        command = [browser, *flags, "--dump-dom", f"file://{page}?q=exploitability"]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True).stdout
    finally:
        page.unlink()
    found = re.findall(r'<a href="([^"]+)" class="md-search-result__link"', shown)
    assert any(link.endswith("crossplay.html") for link in found)
