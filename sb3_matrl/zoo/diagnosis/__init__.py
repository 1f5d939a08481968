"""Checks of the installation and of saved models, for ``sb3-matrl doctor``."""
