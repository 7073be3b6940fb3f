# Everything a user or CI calls. Each target sets up what it needs by itself: a Python >= 3.11 with pip is enough.
# the first that is new enough; make PYTHON=/path/to/python3.12 takes another
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' > /dev/null 2>&1 && { echo $$python; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
WORKERS := -n 2 --dist loadfile --no-loadscope-reorder
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# an environment names its folder in many places: one that was moved or copied with its clone is mended
MADE_IN := $(shell cat $(VENV)/.runtime 2> /dev/null)
ifneq ($(MADE_IN),)
ifneq ($(MADE_IN),$(CURDIR))
$(info this clone was in $(MADE_IN): its .venv is mended for $(CURDIR))
$(shell $(BIN)/python infra/moved.py $(VENV) "$(MADE_IN)" "$(CURDIR)" || rm -rf $(VENV))
endif
endif

# what is added to the command of `make speedrun`: ARGS="--set sft.epochs=2"
ARGS ?=

.PHONY: another-torch help up down speedrun setup dev check format test test-fast docs site pictures references faults soak matrix newest gpu-check bill audit lock clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

speedrun: $(VENV)/.runtime ## The whole pipeline on this machine, in minutes: text, tokenizer, training, chat model, report
	@$(BIN)/nanochat run tiny $(ARGS)

COMPOSE := docker compose --project-directory infra --file infra/compose.yaml

up: ## A lasting server in containers: UI, pools, store; infra/env.example says what it needs to be told
	@docker compose version > /dev/null 2>&1 && docker info > /dev/null 2>&1 \
		|| { echo "docker compose does not work here; the same as plain processes: nanochat up --local" >&2; exit 1; }
	@test -f infra/.env || { echo "infra/.env is missing: install -m 600 infra/env.example infra/.env, and fill it in" >&2; exit 2; }
	@chmod go= infra/.env
	@$(COMPOSE) $$(command -v nvidia-smi > /dev/null && echo --profile gpu) up --build --detach

.PHONY: pin-images
pin-images: ## Pin the container images of infra/ to the digests that their tags have today
	@infra/pin_images.sh

down: ## Stop it, after running trainings have saved a checkpoint; data stays
	@$(COMPOSE) --profile gpu down

setup: $(VENV)/.runtime ## Install what a run needs into .venv, versions locked, torch for this machine (TORCH_INDEX=URL: from there; HASHES=1: all but torch as PyPI has it)

dev: $(VENV)/.dev ## Install what tests and checks need as well; another five to ten minutes

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed, and $$(python3 --version 2>&1) is what python3 is here;" \
		"make PYTHON=/path/to/python3.12 $(MAKECMDGOALS) takes another" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, $(PYTHON) is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# an index that was typed is for a build other than the one that is there
$(VENV)/.runtime: requirements.lock pyproject.toml $(if $(findstring command,$(origin TORCH_INDEX)),another-torch) | $(VENV)/bin/python
	@TORCH_INDEX="$(TORCH_INDEX)" HASHES="$(HASHES)" $(BIN)/python infra/install.py
	@echo "$(CURDIR)" > $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.runtime
	@echo "installing what tests and checks need, once; five to ten minutes"
	@$(BIN)/python -m pip install --quiet -r requirements-dev.lock
	@touch $@

check: $(VENV)/.dev ## Formatting, lint, types of the core, layer contracts, file sizes
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python -m pytest -q tests/repo

format: $(VENV)/.dev ## Format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

test: $(VENV)/.dev ## All tests: units, a real S3 server, a real Prefect server, real training
	@$(BIN)/python -m pytest $(WORKERS) -m "not torture"

test-fast: $(VENV)/.dev ## The tests that need no server and no training process
	@$(BIN)/python -m pytest $(WORKERS) -m "not slow and not torture"

docs: $(VENV)/.dev ## Run every block of README and docs, and count what ran; half an hour
	@NANOCHAT_DOCS_LONG=1 $(BIN)/python -m pytest -s -n 0 tests/docs

site: ## The documents as a site in build/site, search included; it loads nothing from elsewhere
	@infra/site.sh $(PYTHON)

pictures: $(VENV)/.dev ## Take the pictures of docs/images anew, in Chromium: report and chat of this home's newest run, and Prefect's pages
	@PYTHONPATH=tests $(BIN)/python tests/browser/pictures.py $(if $(OUT),--out $(OUT))

references: $(VENV)/.dev ## Write docs/settings.md, commands.md and the tables of reference.md from the code
	@$(BIN)/python tests/docs/references.py

faults: $(VENV)/.dev ## The long kills, damage and outages, then the kill matrix (OUT=table.md keeps it); under two hours
	@$(BIN)/python -m pytest -s -m torture; tests=$$?; \
		$(BIN)/python tests/faults/matrix.py --repeats 5 $(if $(OUT),--out $(OUT)); exit $$((tests | $$?))

soak: $(VENV)/.dev ## RUNS=1000 short runs while servers, workers and automations are killed (OUT=table.md keeps the table)
	@$(BIN)/python tests/faults/soak.py --runs $(or $(RUNS),1000) $(if $(OUT),--out $(OUT))

matrix: ## What depends on Python and torch, with each at hand; gigabytes to download the first time
	@$(PYTHON) tests/matrix.py

newest: $(VENV)/.dev ## The tests with the newest packages there are, past the limits of pyproject.toml: what they break (OUT=table.md)
	@$(BIN)/python tests/newest.py $(if $(PACKAGES),--packages $(PACKAGES)) $(if $(PARTS),--parts $(PARTS)) $(if $(OUT),--out $(OUT))

gpu-check: $(VENV)/.dev ## Check and time all that needs a GPU; TEXT=folder of .parquet shards, OUT=file for the JSON
	@$(BIN)/python benchmarks/gpu_check.py --out $(or $(OUT),build/gpu-check.json) $(if $(TEXT),--text $(TEXT))

bill: ## What a run installs, as a CycloneDX bill in build/sbom.json
	@infra/supply.sh bill $(PYTHON)

audit: ## Known holes in what a run installs, by PyPI's database; without one it says so
	@infra/supply.sh audit $(PYTHON)

lock: ## Pin the newest versions that pyproject.toml allows
	@infra/lock.sh $(PYTHON)

clean: ## Remove .venv and caches; artifacts in ~/.nanochat stay
	@rm -rf $(VENV) *.egg-info .pytest_cache .mypy_cache .ruff_cache
