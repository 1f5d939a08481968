"""Names of the algorithms by kind, for tests that cover all of a kind."""

from __future__ import annotations

from sb3_matrl.common.registry import algorithm_names, algorithm_spec

ON_POLICY = [name for name in algorithm_names() if algorithm_spec(name).class_name == "MATRL"]
VALUE_BASED = [name for name in algorithm_names() if algorithm_spec(name).conf_file == "value_based"]
ACTOR_CRITIC = [name for name in algorithm_names() if algorithm_spec(name).conf_file == "actor_critic"]
OFF_POLICY = [*VALUE_BASED, *ACTOR_CRITIC]
