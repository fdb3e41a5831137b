# `make demo` and `make test` are all a newcomer needs; both make a virtual environment in .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# test files that run side by side
JOBS ?= 2

.PHONY: demo test lint unit s3 extras slurm clean

demo: $(VENV)/installed
	$(BIN)/vstrain experiment=depth_teacher

test: lint unit

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

unit: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --durations=40

# torch first and alone: everything after it then finds its requirement met by the build that is there
$(VENV)/installed: pyproject.toml setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[test]'
	touch $@

# an S3 server for the tests of remote shards, in an environment of its own: its client library asks for older versions
# of packages than ours; without it those tests are skipped
s3: $(VENV)/s3/bin/moto_server

$(VENV)/s3/bin/moto_server: | $(VENV)/installed
	$(PYTHON) -m venv $(VENV)/s3
	$(VENV)/s3/bin/python -m pip install -q 'moto[server]>=5'

# the optional packages whose tests are skipped without them: Ray, ONNX, DeepSpeed, submitit
extras: | $(VENV)/installed
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[ray,onnx,deepspeed,slurm]'

# SLURM, for the tests on a cluster of pretend nodes; where it cannot be installed, they are skipped. policy-rc.d keeps the
# packages' own services from starting.
SLURM_PACKAGES := slurmctld slurmd slurm-client slurmdbd munge mariadb-server-core mariadb-client-core iproute2 procps

slurm:
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! command -v slurmctld >/dev/null; then \
	  if [ ! -e /usr/sbin/policy-rc.d ]; then \
	    printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d; made=1; fi; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	    $(SLURM_PACKAGES) || echo 'NO SLURM: its packages cannot be installed here; its tests are skipped'; \
	  if [ -n "$$made" ]; then rm -f /usr/sbin/policy-rc.d; fi; fi

clean:
	rm -rf $(VENV) build *.egg-info
