"""The studies of ``zoo/games.py``: the paper's Table 1, and the figures of the exact games."""
