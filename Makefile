# SPDX-License-Identifier: Apache-2.0
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup lint format test test-long demo docs clean

PYTHON ?= python3
# apt: an installed ROS 2 Jazzy is sourced; wheels: its wheels in .venv are used.
ROS := $(shell . tools/which_ros.sh; echo $$PIXELREFER_ROS)
ENV := . tools/env.sh;
INTERFACES := $(wildcard msg/*.msg srv/*.srv action/*.action)
PYTHON_CODE := pixelrefer_ros export engines launch test bench demo tools setup.py
# The build links these one by one: it must run again when there is a new one, not when one has changed.
LINKED := find export engines launch config rviz -type f ! -path '*/__pycache__/*'

help: ## say what can be made
	@sed -nE 's/^([a-z-]+):.*## (.*)/make \1\t\2/p' Makefile | expand -t 16

setup: .colcon/ready-$(ROS) ## make .venv and build the messages; a second run does nothing

.venv/ready-$(ROS): $(wildcard requirements/*.txt) tools/make_venv.sh
	@tools/check_machine.sh $(PYTHON)
	@tools/make_venv.sh $(PYTHON)

.venv/linked: .venv/ready-$(ROS) FORCE
	@$(LINKED) | sort | cmp -s - $@ || $(LINKED) | sort > $@
FORCE:

.colcon/ready-$(ROS): .venv/linked $(INTERFACES) package.xml CMakeLists.txt tools/build_interfaces.sh tools/fix_imported.cmake
	@tools/check_machine.sh $(PYTHON)
	@tools/build_interfaces.sh

lint: setup ## ruff and mypy
	@$(ENV) ruff check --quiet $(wildcard $(PYTHON_CODE))
	@$(ENV) ruff format --check --quiet $(wildcard $(PYTHON_CODE))
	@$(ENV) mypy

format: setup ## let ruff format and mend what it can
	@$(ENV) ruff format $(wildcard $(PYTHON_CODE))
	@$(ENV) ruff check --fix $(wildcard $(PYTHON_CODE))

PYTEST = python -m pytest -q -n 2 --dist loadgroup --no-loadscope-reorder
test: lint ## lint, then every test but the longest; PYTEST_ARGS are passed on
	@$(ENV) $(PYTEST) -m "not long" $(PYTEST_ARGS) < /dev/null

test-long: setup ## the longest tests, which a release passes too
	@$(ENV) $(PYTEST) -m long $(PYTEST_ARGS) < /dev/null

demo: setup ## a camera, the node, an agent and a recorder as four processes; results in out/
	@$(ENV) python demo/run.py

docs: setup ## write the reference pages: docs/messages.md and docs/parameters.md
	@$(ENV) python tools/generate_messages_doc.py; python tools/generate_parameters_doc.py

clean: ## remove what make made
	rm -rf .venv .colcon build install log out .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
