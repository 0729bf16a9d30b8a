# Two commands do everything on a machine with Python 3.11 or later:
#   make train   set up, train on the embedded digits, evaluate, draw pictures
#   make test    set up, run all fast tests
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
RUN ?= runs/digits
PROSE := README.md CONTRIBUTING.md CHANGELOG.md docs pyro_vae

.PHONY: train test test-slow test-gpu lint format typecheck docs bench package clean

train: $(VENV)/.base
	$(BIN)/python -m pyro_vae.train --likelihood bernoulli --output $(RUN) --overwrite
	$(BIN)/python -m pyro_vae.evaluate $(RUN)
	$(BIN)/python -m pyro_vae.sample $(RUN)

# What `--device auto` takes is tested where it is a CPU, whatever else this machine has.
test: $(VENV)/.dev
	CUDA_VISIBLE_DEVICES= $(BIN)/python -m pytest -n auto --dist worksteal -m "not slow and not gpu"

test-slow: $(VENV)/.dev
	CUDA_VISIBLE_DEVICES= $(BIN)/python -m pytest -n auto --dist worksteal -m slow

test-gpu: $(VENV)/.dev
	$(BIN)/python -m pytest -m gpu

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell $(PROSE)

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

typecheck: $(VENV)/.dev
	$(BIN)/mypy

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	$(BIN)/python -m pytest -q --doctest-glob='*.md' --ignore docs/tutorials docs

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks

package: $(VENV)/.dev
	rm -rf build dist
	$(BIN)/python -m build --wheel
	$(BIN)/python -c "import glob, zipfile; \
	names = {n.split('/')[0] for n in zipfile.ZipFile(glob.glob('dist/*.whl')[0]).namelist()}; \
	others = {n for n in names if n != 'pyro_vae' and not n.endswith('.dist-info')}; \
	assert not others, f'the wheel holds more than pyro_vae: {others}'"

clean:
	rm -rf $(VENV) build dist site *.egg-info .mypy_cache .pytest_cache .ruff_cache

# A stamp for each set of packages: a second run installs nothing.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; name it with make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	$(INSTALL) --editable '.[dev]'
	@touch $@

$(VENV)/.bench: $(VENV)/.base
	$(INSTALL) --editable '.[bench]'
	@touch $@

$(VENV)/.docs: $(VENV)/.dev
	$(INSTALL) --editable '.[docs]'
	@touch $@
