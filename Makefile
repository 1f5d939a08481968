# The single entry: every target sets up .venv first (Python 3.11 and pip are all that is needed).

PYTHON ?= python3.11
VENV := .venv
BENCHMARL := .venv-benchmarl
BIN := $(VENV)/bin
# Small networks are fastest on one thread, and tests run beside each other's processes.
export OMP_NUM_THREADS ?= 1
# Python keeps what it compiles: pytest rewrites all tests, which takes as long as collecting them.
export PYTHONDONTWRITEBYTECODE :=
# Python compiles what is imported, a tenth of what pip would compile.
PIP = $(BIN)/python -m pip install --disable-pip-version-check --no-compile
# One test process per core; a process without work takes tests from another one.
TEST_JOBS ?= $(shell nproc || echo 2)
PYTEST = $(BIN)/python -m pytest -n $(TEST_JOBS) --dist worksteal

# Length of `make paper`: small (50 minutes with 2 processes) or paper (weeks).
BUDGET ?= small

# Length of `make fuzz`.
FUZZ_MINUTES ?= 60

.DEFAULT_GOAL := help
.PHONY: help setup train test test-e2e test-expensive fuzz coverage lint type format docs flags notebooks dist pretrained games
.PHONY: benchmarl benchmarks paper gpu-check test-ray

help:  ## List the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

$(VENV)/.installed: requirements.txt setup.py sb3_matrl/stacked/kernel.cpp
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch==$$(sed -n 's/^torch==//p' requirements.txt)
	$(PIP) -r requirements.txt
	$(PIP) --no-deps --no-build-isolation -e .
	-$(BIN)/sb3-matrl doctor
	@touch $@

setup: $(VENV)/.installed  ## Create .venv and install everything

train: setup  ## Train MATRL on Checkers, then MATRL and PPO in a game of congestion; curves and saved models (minutes)
	$(BIN)/python zoo/train.py --algo matrl --env checkers_v0 --seed 0 -n 200000 --verbose 0 --progress
	$(BIN)/python zoo/train.py --algo matrl --env matrix_game_v0 --conf-file congestion_4 --seed 0 --eval-freq 500 --verbose 0
	$(BIN)/python zoo/benchmark.py --algos ippo matrl --envs matrix_game_v0 --conf-file congestion_4 --seeds 3 \
		--eval-freq 500 --jobs 1 --out logs/congestion

test: setup  ## The test suite, in a few minutes
	$(PYTEST)

test-e2e: setup  ## Tests that train for seconds, start programs or build the documentation
	$(PYTEST) -m "e2e and not expensive"

test-expensive: setup  ## Tests that train for minutes
	$(PYTEST) -m expensive

test-ray: setup  ## Tests on a Ray cluster of two nodes on this machine (minutes); installs ray
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c requirements.txt ray
	$(BIN)/python -m pytest -m ray

fuzz: setup  ## Fuzz everything that reads files, for FUZZ_MINUTES (60); the record is logs/fuzz.json
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --target $(VENV)/fuzz atheris==3.0.0
	PYTHONPATH=$(VENV)/fuzz nice -n 19 $(BIN)/python -m tests.files.fuzz_loaders --minutes $(FUZZ_MINUTES)

coverage: setup  ## The test suite with line coverage of the package
	$(PYTEST) --cov --cov-report=term-missing:skip-covered

lint: setup  ## Style and common mistakes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: setup  ## Types
	$(BIN)/mypy -n $(TEST_JOBS)

format: setup  ## Reformat the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: setup  ## Build the documentation into site/
	$(BIN)/mkdocs build --strict

flags: setup  ## Write the page of all flags, docs/flags.md
	$(BIN)/python docs/flag_tables.py

notebooks: setup  ## Make Jupyter notebooks of docs/notebooks, in build/notebooks
	$(BIN)/python docs/make_notebooks.py build/notebooks

dist: setup  ## Build wheel and source distribution into dist/
	rm -rf dist build/lib build/lib.* build/bdist.*
	$(BIN)/python -m pip wheel --disable-pip-version-check --quiet --no-deps --no-build-isolation --wheel-dir dist .
	$(BIN)/python -c "from setuptools.build_meta import build_sdist; build_sdist('dist')" > build/sdist.log
	@ls dist

pretrained: setup  ## Train the agents that come with the package, and measure their returns (minutes)
	$(BIN)/python -m benchmarks.pretrained_agents

games: setup  ## The table and figures of docs/games.md
	$(BIN)/python zoo/games.py table1 --out docs/images/games
	$(BIN)/python zoo/games.py rotational --out docs/images/games
	for game in matching_pennies chicken prisoners_dilemma stag_hunt rps shapley; do \
		$(BIN)/python zoo/games.py dynamics --game $$game --out docs/images/games || exit 1; done

paper: setup  ## Every table and figure of the paper, beside its numbers; BUDGET=paper for whole trainings; resumable
	$(BIN)/python -m benchmarks.paper --budget $(BUDGET) --out logs/paper_$(BUDGET)

gpu-check: setup  ## Check a GPU in 8 minutes: equality with the CPU, speed, memory; record in benchmarks/results/gpu_check.json
	$(BIN)/python -m benchmarks.gpu_check

$(BENCHMARL)/.installed: benchmarks/benchmarl_requirements.txt
	$(PYTHON) -m venv $(BENCHMARL)
	$(BENCHMARL)/bin/python -m pip install --disable-pip-version-check -c requirements.txt torch -r $<
	@touch $@

benchmarl: $(BENCHMARL)/.installed  ## Install BenchMARL into .venv-benchmarl, for the comparison of speed

benchmarks: setup benchmarl  ## Part of the experiments of docs/results.md (hours); docs/reproducing.md has all commands
	$(BIN)/python -m benchmarks.metagame_solvers
	$(BIN)/python -m benchmarks.zero_sum
	$(BIN)/python zoo/benchmark.py --settings benchmarks/studies/grid_worlds_paper.yml
	$(BIN)/python zoo/benchmark.py --settings benchmarks/studies/grid_worlds_paper.yml --envs checkers_v0 --algos matrl ippo -n 300000 \
		--out logs/grid_worlds_paper_300k
	$(BIN)/python zoo/benchmark.py --settings benchmarks/studies/grid_worlds_one_hot.yml
	$(BIN)/python zoo/benchmark.py --settings benchmarks/studies/grid_worlds_leave.yml
	$(BIN)/python zoo/benchmark.py --settings benchmarks/studies/value_based.yml
	$(BIN)/python zoo/benchmark.py --settings benchmarks/studies/actor_critic.yml
	$(BIN)/python -m benchmarks.value_games
	$(BIN)/python -m benchmarks.central_critic
	$(BIN)/python -m benchmarks.off_policy_speed
	$(BIN)/python -m benchmarks.recurrent_speed
	$(BIN)/python -m benchmarks.speed
	$(BIN)/python -m benchmarks.speed --envs hopper_3x1 ant_2x4 ant_4x2 swimmer_2x1 halfcheetah_2x3 walker2d_2x3 pong_v3 \
		--algorithms matrl --iterations 5 --out benchmarks/results/speed_worlds.json
	$(BIN)/python -m benchmarks.speed --envs pong_v3 --conf-file pixels --algorithms matrl --iterations 3 \
		--out benchmarks/results/speed_pixels.json
	$(BIN)/python -m benchmarks.speed --peers
	$(BIN)/python zoo/benchmark.py --algos matrl --setting "ippo, 15 epochs: {algo: ippo, n_epochs: 15}" --envs hopper_3x1 \
		--seeds 3 -n 500000 --eval-freq 100000 --eval-episodes 10 --jobs 1 --device cpu --aggregate --out logs/hopper
	$(BIN)/python zoo/benchmark.py --algos matrl --envs swimmer_2x1 --seeds 2 -n 200000 --eval-freq 40000 \
		--eval-episodes 5 --jobs 1 --device cpu --aggregate --out logs/swimmer
	$(BIN)/python zoo/benchmark.py --algos matrl --envs ant_2x4 --seed-list 1 2 -n 200000 --eval-freq 40000 \
		--eval-episodes 5 --jobs 1 --device cpu --aggregate --out logs/ant
	$(BIN)/python -m benchmarks.pong
	$(BIN)/python -m benchmarks.corruption_test
	$(BIN)/python -m benchmarks.kill_test --kills 200 --terms 50 --jobs 2
	$(BIN)/python -m benchmarks.long_run
