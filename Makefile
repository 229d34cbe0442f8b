# make demo   erase eight weapons from the embedded model, verify, export, verify the engine
# make test   run the tests
# make lint   ruff and mypy
# Everything happens in $(VENV), which is set up on first use.

PYTHON ?= python3
VENV ?= .venv
# What is installed; a wheel's path tests that wheel instead of this checkout.
PACKAGE ?= -e .
READY = $(VENV)/.ready

.PHONY: demo test lint clean

demo: $(READY)
	$(VENV)/bin/safediff erase policies/demo-weapons.yaml

test: $(READY)
	$(VENV)/bin/pytest

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info

# torch comes first and pinned, so that what is found for it is not replaced by another build.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt torch
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt $(PACKAGE)[dev]
	touch $@
