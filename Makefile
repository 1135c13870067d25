# Everything starts here: `make demo` and `make test` set up what they need by themselves, in .venv.
# On another interpreter: make PYTHON=python3.12 test

VENV   := .venv
BIN    := $(VENV)/bin
PY     := $(BIN)/python
PIP    := $(PY) -m pip --disable-pip-version-check --quiet
PYTHON ?=

NATIVE := $(wildcard dagrun/native/*.cpp dagrun/native/*.h dagrun/native/*.hpp)
STRESS := tests/native/stress.cpp tests/cuda/emulator.cpp
# What the stress test is linked with: the native core without its Python side.
STRESS_WITH = $(shell grep -LE 'Python\.h|objects\.h' $(wildcard dagrun/native/*.cpp) /dev/null | grep -v /dev/null)

# The environment of the shell that calls make must not reach into .venv.
unexport PYTHONPATH PYTHONHOME PYTHONSTARTUP VIRTUAL_ENV PIP_TARGET PIP_PREFIX
export PIP_USER := 0
export PYTHONNOUSERSITE := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help setup test test-all lint format types layers doctest bench demo test-gpu test-emulated bench-gpu tsan clean

say = @printf '\n== %s\n' '$(1)'

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(VENV)/.stamp-native $(VENV)/.stamp-demo $(VENV)/.stamp-test  ## make .venv and install dagrun and the tools of its tests there

demo: $(VENV)/.stamp-native $(VENV)/.stamp-demo  ## train LeNet-5 on two devices on MNIST digits; see demo/ afterwards
	@$(BIN)/dagrun demo

test: lint types layers doctest  ## lint, types, layer contract, doctests, tests
	$(call say,tests)
	@$(PY) -m pytest -q -m "not long and not gpu"

test-all: lint types layers doctest  ## the same, with the long tests
	$(call say,all tests)
	@$(PY) -m pytest -q -m "not gpu"

lint: setup
	$(call say,lint)
	@$(PY) -m ruff check --quiet .
	@$(PY) -m ruff format --check --quiet . || { echo "not formatted: see 'make format'" >&2; exit 1; }

format: setup  ## format the Python files
	@$(PY) -m ruff check --quiet --fix --exit-zero --select I .
	@$(PY) -m ruff format .

types: setup
	$(call say,types)
	@$(PY) -m mypy

layers: setup
	$(call say,layers)
	@report=$$($(BIN)/lint-imports --no-cache 2>&1) || { echo "$$report"; exit 1; }

doctest: setup
	$(call say,doctests)
	@$(PY) -m pytest -q --doctest-modules --ignore dagrun/backends/cuda/cupy_platform.py dagrun  # it needs CuPy

bench: setup $(VENV)/.stamp-bench  ## run the benchmarks of benches/
	$(call say,benchmarks)
	@$(PY) -m pytest -q --timeout 0 -m "not gpu" benches

# Prints CUDA's major version where there is a GPU with a driver, and nothing elsewhere.
cuda = $$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null \
	| awk -F . 'NR == 1 && $$1 ~ /^[0-9]+$$/ { print ($$1 >= 580 ? 13 : 12) }')
with_gpu = cuda=$(cuda); \
	if [ -z "$$cuda" ]; then echo "SKIPPED: no CUDA GPU here (nvidia-smi lists none), so nothing was run"; exit 0; fi; \
	$(MAKE) --no-print-directory $(VENV)/.stamp-cuda$$cuda &&

test-gpu: setup  ## run every test that takes a device on a CUDA GPU
	$(call say,GPU tests)
	@$(with_gpu) DAGRUN_TEST_CUDA=1 DAGRUN_CUDA_LOGICAL=2 $(PY) -m pytest -q -m "not long" -k "cuda or gpu"

# Kernels are compiled by the C++ compiler when they are first used, and kept: the first run takes long.
test-emulated: setup  ## run every test that takes a device on the CUDA emulator of the tests
	$(call say,tests on the CUDA emulator)
	@DAGRUN_TEST_CUDA=emulated $(PY) -m pytest -q -m "not long" -k cuda -o timeout=1500 -o faulthandler_timeout=1600

bench-gpu: setup $(VENV)/.stamp-bench  ## run the benchmarks that need a CUDA GPU
	$(call say,GPU benchmarks)
	@$(with_gpu) DAGRUN_CUDA_LOGICAL=2 $(PY) -m pytest -q --timeout 0 -m gpu benches

# ThreadSanitizer maps memory at fixed places, which some kernels' address randomisation takes: hence setarch.
tsan: $(STRESS)  ## stress the native executor under ThreadSanitizer
	$(call say,ThreadSanitizer)
	@mkdir -p build
	@$(CXX) -std=c++17 -O1 -g -fno-omit-frame-pointer -fsanitize=thread -pthread -Idagrun/native \
		$(STRESS) $(STRESS_WITH) -rdynamic -ldl -o build/stress-tsan
	@run=; setarch "$$(uname -m)" -R true 2>/dev/null && run="setarch $$(uname -m) -R"; \
		TSAN_OPTIONS="halt_on_error=1 second_deadlock_stack=1" $$run build/stress-tsan

clean:  ## remove .venv and everything that was built
	@rm -rf $(VENV) build dist *.egg-info demo .mypy_cache .pytest_cache .ruff_cache .hypothesis .benchmarks
	@find dagrun tests benches kernels -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
	@rm -f dagrun/_native*.so

# A usable interpreter is 3.11 or later and can make a virtual environment with pip in it.
$(VENV)/.stamp-venv:
	@if ! $(PY) -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
		found=; unfit=; \
		for python in $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python); do \
			version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue; \
			if ! $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
				unfit="$$unfit\n  $$python is Python $$version"; \
			elif ! $$python -c 'import venv, ensurepip' 2>/dev/null; then \
				unfit="$$unfit\n  $$python is Python $$version without the venv module"; \
				unfit="$$unfit (on Debian and Ubuntu: apt install python$$version-venv)"; \
			else found=$$python; break; fi; \
		done; \
		if [ -z "$$found" ]; then \
			printf "dagrun needs Python 3.11 or later with the venv module; found:$${unfit:-\n  no Python at all}\n" >&2; \
			echo "Install one, or name it: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; \
		fi; \
		echo "making $(VENV) with $$found (Python $$version)"; \
		rm -rf $(VENV); $$found -m venv $(VENV) || exit 1; \
	fi; \
	$(PIP) install --upgrade pip "setuptools>=68" wheel && touch $@

# Installs what pyproject.toml lists for one extra, without dagrun itself.
$(VENV)/.stamp-%: pyproject.toml $(VENV)/.stamp-venv
	@echo "installing the packages for: $*"
	@$(PY) -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
		print(*p["dependencies"], *p["optional-dependencies"]["$*"], sep="\n")' > $(VENV)/requirements-$*.txt
	@$(PIP) install -r $(VENV)/requirements-$*.txt && touch $@

# Where a C++ compiler and Python's headers work, a native core that does not build is an error; elsewhere the Python
# executor serves.
$(VENV)/.stamp-native: pyproject.toml setup.py $(NATIVE) $(VENV)/.stamp-venv
	@include=$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("include"))'); \
	if printf '#include <Python.h>\nint main() { return 0; }\n' \
		| $(CXX) -std=c++17 "-I$$include" -x c++ -c -o $(VENV)/probe.o - 2>/dev/null; then \
		echo "building the native core with $(CXX)"; export DAGRUN_REQUIRE_NATIVE=1 CC="$(CXX)" CXX="$(CXX)"; \
	else \
		echo "no C++17 compiler ($(CXX)) that finds Python.h: dagrun will run on its slower Python executor"; \
		echo "(on Debian and Ubuntu: apt install g++ python3-dev)"; rm -f dagrun/_native*.so; \
	fi; \
	PYTHONWARNINGS=ignore $(PIP) install --no-build-isolation --no-deps -e . && touch $@
