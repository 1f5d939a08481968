"""
Jupyter notebooks of the pages in docs/notebooks, by Jupytext.

    python docs/make_notebooks.py build/notebooks
"""

from __future__ import annotations

import argparse
from pathlib import Path

import jupytext

SOURCES = sorted(path for path in (Path(__file__).parent / "notebooks").glob("*.md") if path.name != "index.md")


def make(folder: Path) -> list[Path]:
    """
    :param folder: folder of the notebooks
    :return: paths of the notebooks
    """
    folder.mkdir(parents=True, exist_ok=True)
    targets = [folder / f"{source.stem}.ipynb" for source in SOURCES]
    for source, target in zip(SOURCES, targets, strict=True):
        notebook = jupytext.read(source)
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        jupytext.write(notebook, target)
    return targets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the notebooks")
    for path in make(parser.parse_args().folder):
        print(path)


if __name__ == "__main__":
    main()
