"""A small sweep for the tests of ``zoo/sweep.py``."""

import yaml

SWEEP = {
    "program": "zoo/train.py",
    "method": "bayes",
    "metric": {"name": "eval/mean_reward", "goal": "maximize"},
    "command": [
        "${env}",
        "${interpreter}",
        "${program}",
        "--algo=matrl",
        "--env=matrix_game_v0",
        "--env_kwargs.game=stag_hunt",
        "--n_timesteps=200",
        "--eval_freq=100",
        "--eval_episodes=5",
        "--device=cpu",
        "--n_envs=4",
        "--n_steps=25",
        "--batch_size=100",
        "--n_epochs=1",
        "--br_n_epochs=1",
        "${args}",
    ],
    "parameters": {
        "learning_rate": {"distribution": "log_uniform_values", "min": 0.001, "max": 0.1},
        "policy_kwargs.net_arch": {"values": [[4], [8, 8]]},
    },
}


def write_sweep(folder, name="small", **changes):
    """The sweep as a file; ``None`` removes a key."""
    content = {key: value for key, value in {**SWEEP, **changes}.items() if value is not None}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path
