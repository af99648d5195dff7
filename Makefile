# Makes the environment once, then calls `python -m diag`: without make, run those two lines by hand (README.md).
# It is made again when requirements.lock or pyproject.toml changes.

VENV := .venv
READY := $(VENV)/.ready
ifeq ($(OS),Windows_NT)
PROGRAMS := Scripts
else
PROGRAMS := bin
endif
PYTHON := $(VENV)/$(PROGRAMS)/python
RUN := $(PYTHON) -m diag
CHECK := $(PYTHON) tools/check.py
MODEL ?= smollm2
ARGS ?=

.PHONY: report test test-all test-compat check lab new-cause docs-causes clean
.DEFAULT_GOAL := report

report: $(READY)
	@$(RUN) report --model $(MODEL) $(ARGS)

test: $(READY)
	@$(CHECK) $(ARGS)

test-all: $(READY)
	@$(CHECK) --all $(ARGS)

# diagnose, fix and the guard work inside a service's own, older environment: the core's tests on transformers 4.57.
# Not part of `make test`: a second environment and some minutes. The two tests left out put the whole model on disk,
# which the older accelerate refuses.
COMPAT := .venv-compat
CORE_TESTS := tests/diagnosis tests/models/test_tensors.py tests/models/test_hooks.py tests/proving/test_weights.py \
  tests/proving/test_watching.py tests/views/cli/test_cli_explain.py tests/reproduce/test_service.py
ALL_ON_DISK := --deselect tests/models/test_tensors.py::test_tied_names_share_a_group_also_when_offloaded \
  --deselect tests/reproduce/test_service.py::test_the_cause_named_first_gives_another_text

test-compat: $(COMPAT)/.ready
	@$(COMPAT)/$(PROGRAMS)/python -m pytest $(CORE_TESTS) $(ALL_ON_DISK) $(ARGS)

$(COMPAT)/.ready: requirements-compat.lock install.sh
	@sh install.sh $(COMPAT) requirements-compat.lock
	@touch $@

check: $(READY)
	@$(CHECK) --fast $(ARGS)

lab: $(READY)
	@$(RUN) lab $(ARGS)

# make new-cause ID=my-cause: the cause's file, its test and its scenario, to be filled in
new-cause: $(READY)
	@$(PYTHON) tools/new_cause.py $(ID)

# docs/troubleshooting.md, from the records in src/diag/diagnosis/causes
docs-causes: $(READY)
	@$(PYTHON) tools/make_docs.py --causes

$(READY): requirements.lock pyproject.toml install.sh
	@sh install.sh $(VENV)
	@touch $@

clean:
	rm -rf $(VENV) $(COMPAT) build
