"""Packaging of sb3-matrl: ranges that should work; ``requirements.txt`` pins what was tested."""

import os
from pathlib import Path

from setuptools import Extension, find_packages, setup

# Gradient steps in C++, optional: without a C++ compiler the package installs all the same. Numbers that are not finite must
# stay so, hence no -ffast-math.
KERNEL = Extension(
    "sb3_matrl.stacked._kernel",
    sources=["sb3_matrl/stacked/kernel.cpp"],
    language="c++",
    extra_compile_args="-std=c++17 -O3 -fno-math-errno -fno-trapping-math -fopenmp-simd -fvisibility=hidden -pthread".split(),
    extra_link_args=["-pthread"],
    optional=True,
)

setup(
    name="sb3-matrl",
    version="0.2.0",
    description="Multi-agent trust region learning (MATRL) for Stable-Baselines3 and PettingZoo",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The sb3-matrl developers",
    license="MIT",
    license_files=["LICENSE"],
    keywords=[
        *("reinforcement-learning", "multi-agent", "marl", "game-theory", "trust-region", "matrl", "ppo", "mappo", "qmix"),
        *("stable-baselines3", "pettingzoo", "gymnasium", "pytorch"),
    ],
    python_requires=">=3.11",
    packages=find_packages(include=["sb3_matrl", "sb3_matrl.*"]),
    package_data={
        "sb3_matrl": ["py.typed"],
        "sb3_matrl.zoo": [
            "hyperparams/*.yml",
            "suites/*.yml",
            "sweeps/*.yaml",
            "trained_agents/*.json",
            "trained_agents/*/*/*",
        ],
        "sb3_matrl.zoo.hub": ["templates/*.j2"],
        "sb3_matrl.zoo.reporting": ["templates/*.j2", "templates/*.css"],
    },
    ext_modules=[KERNEL] if os.name == "posix" else [],
    install_requires=[
        "torch>=2.8,<3",
        "stable-baselines3>=2.9,<3",
        "sb3-contrib>=2.9,<3",
        "numpy>=2.0,<3",
        "gymnasium>=1.0,<2",
        "pettingzoo>=1.26,<2",
        "SuperSuit>=3.10,<4",
        "cloudpickle>=3.0",
        "cma>=4.0,<5",
        "PyYAML>=6.0",
        "filelock>=3.30",
        "rich>=13",
        "tqdm>=4.66",
        "tensorboard>=2.18",
        "matplotlib>=3.9",
        "Jinja2>=3.1",
        "packaging>=23",
    ],
    entry_points={"console_scripts": ["sb3-matrl = sb3_matrl.zoo.main:main", "sb3-matrl-doctor = sb3_matrl.zoo.doctor:main"]},
    extras_require={
        "track": ["wandb>=0.22"],
        "hub": ["huggingface_hub>=1.30"],
        "render": ["pygame-ce>=2.5"],
        "record": ["imageio-ffmpeg>=0.5"],
        "report": ["bokeh>=3.8,<4"],
        "sweep": ["optuna>=4.0"],
        "benchmark": ["rliable>=1.2", "pandas>=2,<3"],
        "ray": ["ray>=2.40"],
        "mujoco": ["mujoco>=3.2", "gymnasium-robotics>=1.4,<2"],
        "atari": ["pettingzoo[atari]>=1.26,<2", "ale-py>=0.10"],
        "pettingzoo": ["pettingzoo[butterfly,classic,sisl]>=1.26,<2", "mpe2>=1.0"],
        "openspiel": ["open_spiel>=2.0,<3", "networkx>=3", "cvxpy>=1.6"],
        "docs": ["mkdocs>=1.6,<2", "mkdocs-material>=9.5", "mkdocstrings[python]>=0.26", "jupytext>=1.16"],
        "dev": [
            "imageio>=2.34",
            "pytest>=8",
            "pytest-cov>=5",
            "pytest-xdist>=3.5",
            "hypothesis>=6.100",
            "ruff>=0.12",
            "mypy>=1.15",
            "types-PyYAML",
        ],
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: C++",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
