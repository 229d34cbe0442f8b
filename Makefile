# make demo           erase eight weapons from the embedded model, verify, export, verify the engine
# make test           run the tests
# make test-metrics   run the tests of the metrics and nudenet extras, in $(VENV_METRICS): 6 GB, so apart
# make test-optimum   draw with exported folders in optimum, in $(VENV_OPTIMUM): 2 GB
# make test-nightly   run the tests that take minutes or gigabytes: erasing at real size on the CPU
# make lint           ruff and mypy
# Everything else happens in $(VENV). Environments are set up on first use.

PYTHON ?= python3
VENV ?= .venv
VENV_METRICS ?= .venv-metrics
VENV_OPTIMUM ?= .venv-optimum
# What is installed; a wheel's path tests that wheel instead of this checkout.
PACKAGE ?= -e .
# Processes that run tests, one core each.
JOBS ?= 2
READY = $(VENV)/.ready
READY_METRICS = $(VENV_METRICS)/.ready
PINS_METRICS = $(VENV_METRICS)/constraints.txt

.PHONY: demo test test-metrics test-optimum test-nightly lint clean

demo: $(READY)
	$(VENV)/bin/safediff erase policies/demo-weapons.yaml

test: $(READY)
	OMP_NUM_THREADS=1 $(VENV)/bin/pytest -n $(JOBS) --dist loadfile

test-nightly: $(READY)
	$(VENV)/bin/pytest -m nightly

test-optimum: $(READY)
	VENV=$(VENV_OPTIMUM) $(VENV)/bin/pytest -m optimum tests/test_optimum.py

test-metrics: $(READY_METRICS)
	$(VENV_METRICS)/bin/pytest tests_metrics

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/mypy benchmarks/*.py scripts/*.py

clean:
	rm -rf $(VENV) $(VENV_METRICS) $(VENV_OPTIMUM) build dist *.egg-info

# torch comes first and pinned, so that what is found for it is not replaced by another build. Of
# open_clip_torch tests read one file, CLIP's vocabulary; its code is not used.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt torch
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt $(PACKAGE)[dev]
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt --no-deps open_clip_torch
	touch $@

# The pins of the first environment hold here, too, but for torch.
$(READY_METRICS): pyproject.toml constraints.txt constraints-metrics.txt
	$(PYTHON) -m venv $(VENV_METRICS)
	sed '/^torch==/d' constraints.txt | cat - constraints-metrics.txt > $(PINS_METRICS)
	$(VENV_METRICS)/bin/python -m pip install --quiet -c $(PINS_METRICS) torch torchvision
	$(VENV_METRICS)/bin/python -m pip install --quiet -c $(PINS_METRICS) $(PACKAGE)[metrics,nudenet] pytest scikit-image
	touch $@
