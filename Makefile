# Each target needs nothing but a clone, Python >= 3.11 and make: `make` alone lists them.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help setup demo test soak lint bench dist smoke clean

# The first Python on the PATH that can run us; or say which: make setup PYTHON=/path/to/python3.12
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup
CODE := thalweg producers stream learner ranker benchmarks deploy tests stack/dist.py stack/smoke.py stack/chart_tools.py

# Python keeps what it has compiled, also where the environment says not to: many processes start here, and each would
# compile torch and the rest again, for seconds.
export PYTHONDONTWRITEBYTECODE :=

# Options after the target are its own: make demo -- --rate 8000 (or --rate=8000, which make takes for a variable)
OPTIONS := $(wordlist 2,$(words $(MAKECMDGOALS)),$(MAKECMDGOALS))
ARGS += $(filter --%,$(MAKEOVERRIDES))
ifneq ($(filter -%,$(firstword $(OPTIONS))),)
ARGS += $(OPTIONS)
$(eval $(OPTIONS):;@:)
endif

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP)  ## get everything that Thalweg needs: .venv, Java, Maven, Redis, Kafka's jars, compiled kernels

$(STAMP): pyproject.toml constraints.txt stack/pom.xml
	@test -n "$(PYTHON)" || { echo "Thalweg needs Python 3.11, 3.12 or 3.13: install one, or name it: make setup PYTHON=/path/to/python3.12" >&2; exit 1; }
	@stack/system.sh $(PYTHON)
	@echo "making $(VENV) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt uv
	@$(BIN)/uv pip install -q --python $(BIN)/python -c constraints.txt -e '.[joiner,learner,backup,ranker,tools,peers]' --group dev
	@echo "fetching Kafka's jars ..."
	@rm -rf stack/target && mkdir stack/target
	@mvn -q -B -l stack/target/maven.log -f stack/pom.xml dependency:copy-dependencies >/dev/null 2>>stack/target/maven.log || { cat stack/target/maven.log; exit 1; }
	@echo "archiving Kafka's classes ..."
	@$(BIN)/python -m thalweg.stack.archive
	@echo "compiling the kernels ..."
	@$(BIN)/python -m thalweg.kernels
	@touch $@
	@echo "ready: make demo"

demo: setup  ## run the whole loop on a simulated app store: events in, a model that learns, ranked lists out
	@$(BIN)/thalweg demo $(ARGS)

test: setup  ## run all tests, two at a time, each half with a Kafka and a Redis of its own
	@stack/system.sh "$(PYTHON)" tests
	@$(BIN)/python stack/chart_tools.py
	@$(BIN)/pytest -n 2 --dist worksteal $(ARGS)

soak: setup  ## 20,000 random stories of the join against its offline oracle; joiner and learner under faults, for longer
	@SOAK=1 $(BIN)/pytest tests/stream/joiner/test_join_oracle.py tests/formats tests/system $(ARGS)

lint: setup  ## check style, types and who imports whom
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy $(CODE)
	@$(BIN)/lint-imports --no-logo

bench: setup  ## run the benchmarks (ARGS="NAME --quick" for one of them)
	@$(BIN)/python -m benchmarks $(ARGS)

dist: setup  ## build the wheel; install each room's extra in an empty environment, check it, write its SBOM to dist/
	@$(BIN)/python stack/dist.py

smoke: setup  ## run what each container image runs, in empty folders, with only what its Dockerfile target installs
	@$(BIN)/python stack/smoke.py $(ARGS)

clean:  ## end the local stack and remove what setup and tests made; .local and .data stay
	@test ! -x $(BIN)/thalweg || $(BIN)/thalweg down
	@rm -rf $(VENV) stack/target dist build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +
