"""``python zoo/load_from_hub.py``: the same as ``sb3-matrl load-from-hub``."""

if __name__ == "__main__":
    from _script import run

    run()
