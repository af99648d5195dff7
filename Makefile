# Makes the environment once, then calls `python -m diag`: without make, run those two lines by hand (README.md).
# It is made again when requirements.lock or pyproject.toml changes.

VENV := .venv
READY := $(VENV)/.ready
ifeq ($(OS),Windows_NT)
RUN := $(VENV)/Scripts/python -m diag
else
RUN := $(VENV)/bin/python -m diag
endif
MODEL ?= smollm2
ARGS ?=

.PHONY: report test test-all check lab clean
.DEFAULT_GOAL := report

report: $(READY)
	@$(RUN) report --model $(MODEL) $(ARGS)

test: $(READY)
	@$(RUN) test $(ARGS)

test-all: $(READY)
	@$(RUN) test --all $(ARGS)

check: $(READY)
	@$(RUN) test --fast $(ARGS)

lab: $(READY)
	@$(RUN) lab $(ARGS)

$(READY): requirements.lock pyproject.toml install.sh
	@sh install.sh $(VENV)
	@touch $@

clean:
	rm -rf $(VENV) build
