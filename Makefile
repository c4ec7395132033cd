# make serve    install what serving needs into .venv and start the server on the default models
# make test     install what tests need and run all tests that need nothing but packages
# make install-export  install what training and exporting need into .venv; serving goes on from it
# make families export checkpoints of others at their true sizes, and say what that takes (3 minutes)
# make torture  load, faults and hostile input, over loopback (25 minutes; QUICK=1: 3)
# make observability-test  dashboard and alerts against a real Prometheus and a loaded server
# make image-test   build the image with buildah, run it read-only and call it (as root; DEVICE=cuda, too)
# make deploy-test  hold Compose, Kubernetes and KServe manifests to their schemas and to the settings
# make scale-test   several servers, of which one ends under load: behind Envoy, HAProxy, on a Ray cluster
# make check    lint, format, types, layers, generated stubs current, the API compatible
#
# DEVICE=cuda   serve on a GPU, from an environment of its own, .venv-gpu
# QUICK=1       a tenth of make torture
# ARGS="..."    passed on to the server, to pytest or to the benchmarks
# TORCH_INDEX=  an extra package index for torch, such as one of builds for the CPU alone
# PYTHON=       the Python (3.11 or newer) that environments are made with

PYTHON ?= python3
DEVICE ?= cpu
TORCH_INDEX ?=
ARGS ?=
QUICK ?=

VENV := $(if $(filter cuda,$(DEVICE)),.venv-gpu,.venv)
EXTRA := $(if $(filter cuda,$(DEVICE)),gpu,cpu)
BIN := $(VENV)/bin
INSTALL = -m pip install --quiet --constraint constraints.txt \
    $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
PROTOC = .venv/bin/python -m grpc_tools.protoc -I protos -I protos/third_party

SERVE_STAMP := $(VENV)/.installed-serve
EXPORT_STAMP := .venv/.installed-export
TEST_STAMP := .venv/.installed-test
# The last of the packages for Node.js stands for all of them.
BUF := examples/node/node_modules/.bin/buf

.DEFAULT_GOAL := help
.PHONY: help serve test torture check families bench clean install-export install-test \
    observability-test image-test deploy-test scale-test \
    protos metrics-page proto-baseline constraints

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

serve: $(SERVE_STAMP)
	ATTENDANT_VENV=$(CURDIR)/$(VENV) bin/attendant-server --device $(DEVICE) $(ARGS)

test: $(TEST_STAMP) $(BUF)
	.venv/bin/python -m pytest -m "not slow and not gpu" $(ARGS)

check: $(TEST_STAMP) $(BUF)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/python -m pytest -q tests/test_layers.py tests/test_protos.py

torture: $(TEST_STAMP)
	.venv/bin/python -m bench.torture $(if $(QUICK),--quick) $(ARGS)

# A real Prometheus scrapes a loaded server; its panels and rules are held against that.
observability-test: $(TEST_STAMP)
	.venv/bin/python -m pytest tests/observability $(ARGS)

image-test: $(TEST_STAMP)
	IMAGE_DEVICE=$(DEVICE) .venv/bin/python -m pytest -s tests/image $(ARGS)

deploy-test: $(TEST_STAMP)
	.venv/bin/python -m pytest tests/deploy $(ARGS)

scale-test: $(TEST_STAMP)
	.venv/bin/python -m pytest tests/scale $(ARGS)

# What tests and checks need, without running them.
install-test: $(TEST_STAMP) $(BUF)

install-export: $(EXPORT_STAMP)

families: $(TEST_STAMP)
	.venv/bin/python -m bench.families $(ARGS)

# The generated stubs are committed; tests/test_protos.py holds that they are current.
protos: $(TEST_STAMP)
	$(PROTOC) --python_out=. --pyi_out=. --grpc_python_out=. protos/attendant/v1/*.proto
	bin/generate-open-inference service/rpc/open_inference

# Committed too; tests/service/test_metrics.py holds that it is current.
metrics-page: $(TEST_STAMP)
	.venv/bin/python bin/generate-metrics-page

# The API as released, against which tests/test_protos.py looks for what would break its callers.
# A file, because a checkout need not come with a history. Renew it with each release, and before the
# first one for a change of the API that is meant.
proto-baseline: $(BUF)
	$(BUF) build --path protos/attendant --exclude-source-info --output protos/released.binpb

# Exact versions of everything that any extra pulls in.
constraints: .venv/bin/python
	.venv/bin/python bin/update-constraints

bench: $(TEST_STAMP)
	.venv/bin/python -m bench $(ARGS)

clean:
	rm -rf examples/node/node_modules
	rm -rf .build build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

.venv/bin/python .venv-gpu/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "Attendant needs Python 3.11 or newer; name one with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -m venv $(@:/bin/python=) || { rm -rf $(@:/bin/python=); $(PYTHON) -c 'import sys; print( \
	    "$(PYTHON) cannot make a virtual environment: install the system package", \
	    "python%d.%d-venv (on Debian and Ubuntu), then try again" % sys.version_info[:2], \
	    file=sys.stderr)'; exit 1; }

$(SERVE_STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python $(INSTALL) --editable '.[$(EXTRA)]'
	ln -sf ../../bin/attendant-server ../../bin/attendant-export ../../bin/attendant-batch $(BIN)/
	touch $@

$(EXPORT_STAMP): pyproject.toml constraints.txt | .venv/bin/python
	.venv/bin/python $(INSTALL) --editable '.[cpu,export]'
	ln -sf ../../bin/attendant-server ../../bin/attendant-export ../../bin/attendant-batch .venv/bin/
	touch $@

# A newer protobuf lies beside the environment: one test imports the client under it.
$(TEST_STAMP): pyproject.toml constraints.txt | .venv/bin/python
	.venv/bin/python $(INSTALL) --editable '.[cpu,export,dev]'
	.venv/bin/python -m pip install --quiet --upgrade --no-deps \
	    --target .build/protobuf7 'protobuf>=7,<8'
	ln -sf ../../bin/attendant-server ../../bin/attendant-export ../../bin/attendant-batch .venv/bin/
	touch $@

# Without npm the tests that need these packages skip and say so; where CI=true they fail.
$(BUF): examples/node/package.json examples/node/package-lock.json examples/node/.npmrc
	@if command -v npm >/dev/null; then \
	    cd $(<D) && npm ci --no-audit --no-fund && touch ../../$@; \
	else \
	    echo "npm is not installed: the checks and tests that need Node.js will be skipped"; \
	fi
