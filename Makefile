# Everything runs in .venv, which is made on demand and renewed when setup.cfg changes.
# Another interpreter: make PYTHON=/path/to/python3.13 venv

# The first that is 3.11 or newer; looked up only when .venv has to be made.
PYTHON = $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	command -v $$python >/dev/null 2>&1 && \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
BIN = .venv/bin
READY = .venv/.ready
SOURCES = p2pfs tests setup.py bin/p2pfs-node bin/p2pfs-cli kit

.PHONY: help venv demo test test-slow properties bench bench-peers bench-dedup bench-scale soak fuzz chaos kills lowest audit-deps lint format reference clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' Makefile

$(READY): setup.cfg
	@python="$(PYTHON)"; test -n "$$python" || { echo 'Python 3.11 or newer is needed; make PYTHON=/path/to/it' >&2; exit 1; }; \
	echo "making .venv with $$python"; $$python -m venv --clear .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test,lint]'
	@touch $@

venv: $(READY)  ## the environment in .venv, with all that the other targets need

demo: $(READY)  ## three nodes on this machine: store, kill one, get everything back
	$(BIN)/python -m kit.demo

# Clusters first, by themselves: they wait for each other's timers more than for a core, and must not wait for one.
# Folders stay until all is over (kept, not removed test by test): ext4 without a journal takes a second and more to make
# a node's 4096 folders for minutes after as many were removed; so removing takes minutes, too, and nobody waits for it.
# What failed stays.
QUICK = $(BIN)/pytest -q -m 'not slow' --numprocesses=2 --dist=loadfile -o tmp_path_retention_policy=all
ROOM_GIB = 12
test: lint  ## lint and all tests but the slow ones
	@test "$$(df -Pk "$${TMPDIR:-/tmp}" | awk 'NR == 2 {print int($$4 / 1048576)}')" -ge $(ROOM_GIB) || { \
		echo "less than $(ROOM_GIB) GiB are free in $${TMPDIR:-/tmp} for the disks of the tests: make room, or set TMPDIR" >&2; exit 1; }
	folder=$$(mktemp -d) && $(QUICK) --basetemp=$$folder/clusters tests/cluster && \
		$(QUICK) --basetemp=$$folder/others --ignore=tests/cluster && { rm -rf $$folder </dev/null >/dev/null 2>&1 & }

test-slow: $(READY)  ## the slow tests
	$(BIN)/pytest -q -m slow

properties: $(READY)  ## the property tests with other examples than make test has, and more of them
	$(BIN)/pytest -q -m 'hypothesis and not slow' --hypothesis-profile=seek --numprocesses=2
	$(BIN)/pytest -q --hypothesis-profile=seek --numprocesses=2 tests/green

# ARGS: make bench ARGS='--runs=3 one three'; --help lists the rows, some of which are slow and only run when named
bench: $(READY)  ## one table of figures, each beside the wanted one and a reference of this machine
	$(BIN)/python -m kit.bench $(ARGS)

bench-dedup: $(READY)  ## stored bytes and time of version series, by chunker and beside restic and borg (docs/DEDUPLICATION.md)
	$(BIN)/python -m kit.dedup $(ARGS)

# ARGS: make bench-peers ARGS=--install installs them first: into .peers, and as root by apt-get
bench-peers: $(READY)  ## p2pfs and what people would use instead, the same jobs in one run (docs/COMPARISON.md)
	$(BIN)/python -m kit.peers $(ARGS)

# ARGS: make chaos ARGS='--minutes=30 --seed=7'
chaos: $(READY)  ## five nodes, users, and seeded faults; every promise checked (docs/CHAOS.md)
	$(BIN)/python -m kit.chaos $(ARGS)

kills: $(READY)  ## 1000 rounds of kill -9 at random moments of stores (docs/CHAOS.md)
	$(BIN)/python -m kit.kills $(ARGS)

# ARGS: make bench-scale ARGS='--most=100000 catalog node'
bench-scale: $(READY)  ## what it costs as blocks, pins and members grow (docs/SCALE.md)
	$(BIN)/python -m kit.scale $(ARGS)

# ARGS: make fuzz ARGS='--minutes=5 cid car'; atheris, which guides it, has no wheel for some Pythons: then it is blind
fuzz: $(READY)  ## an hour of inputs that nobody thought of, for every parser of foreign bytes (docs/FUZZING.md)
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(BIN)/pip install --quiet --disable-pip-version-check --editable '.[fuzz]' \
		|| echo 'atheris cannot be installed here'
	$(BIN)/python -m kit.fuzz $(ARGS)

soak: $(READY)  ## an hour of full load on three nodes: nobody is taken for dead, nothing grows
	$(BIN)/python -m kit.soak $(ARGS)

lowest: $(READY)  ## the tests with the oldest dependencies that setup.cfg allows, in an environment of their own
	$(BIN)/python -m kit.dependencies lowest

audit-deps: $(READY)  ## known vulnerabilities of the dependencies (pip-audit: needs PyPI itself, a mirror knows none)
	$(BIN)/python -m kit.dependencies audit

lint: $(READY)  ## ruff and mypy --strict
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy

format: $(READY)  ## mend what ruff can mend by itself
	$(BIN)/ruff check --fix $(SOURCES)

reference: $(READY)  ## write conf/node.ini and docs/CONFIGURATION.md from the option table
	$(BIN)/p2pfs-node --print-config > conf/node.ini
	$(BIN)/python -m p2pfs.config > docs/CONFIGURATION.md

clean:  ## remove everything that can be made again
	rm -rf .venv .peers .fuzz .deps build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
