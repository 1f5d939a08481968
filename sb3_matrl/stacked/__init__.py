"""Updates and actions of several alike agents at once: their networks as stacks of tensors with an axis for the agents."""
