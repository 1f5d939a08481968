"""Hyper-parameter sweeps: files in W&B's schema, searched by W&B's agents or by a local Optuna study."""
