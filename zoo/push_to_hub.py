"""``python zoo/push_to_hub.py``: the same as ``sb3-matrl push-to-hub``."""

if __name__ == "__main__":
    from _script import run

    run()
