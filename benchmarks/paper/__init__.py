"""
Every table and figure of the paper, measured here: `python -m benchmarks.paper --budget small --out logs/paper_small`.

Each panel is measured by the commands of the package (``zoo/games.py``, ``zoo/benchmark.py``, ``zoo/train.py``,
``zoo/crossplay.py``), and its results go to a JSON file of its own as soon as it is finished. The page puts them beside the
paper's numbers, and says of each of the paper's claims whether it holds here, by rules (:mod:`benchmarks.paper.claims`).
"""

from benchmarks.paper.command import main

__all__ = ["main"]
