# make demo   both stages and the evaluation on embedded digits, 3 minutes on 2 slow cores
# make table  the paper's table: runs what is missing, or ROWS=cifar100/100 SEEDS=0,1,2 of it
# make test   lint and tests, 3 min 35 s on 2 slow cores; with COVERAGE=90, tests that reach fewer
#             than 90 % of the lines fail
# make slow   the tests that take longer: kills, several processes, compiling, tables, benchmarks
# make gpu-check  what to run first on a GPU, within 8 minutes: tests, kernels, times
# make docs   writes docs/flags.md again
# make lint   ruff and pyright
# make clean  the environment and what the demo wrote

PYTHON ?= python3
BIN := .venv/bin
DEVELOPMENT := pytest pytest-cov pytest-xdist hypothesis ruff "pyright[nodejs]" scipy onnx \
	onnxscript onnxruntime safetensors pillow-heif

.PHONY: demo table test slow gpu-check docs lint clean

demo: .venv/installed
	$(BIN)/python -m utils.demo

# FLAGS are passed on: to the table (--stage2 9+3, --protocols last, ...) and to all its runs
# (--gpu 0, --precision bf16, --data_root DIR, ...).
table: .venv/installed
	$(BIN)/python -m utils.reproduce $(if $(ROWS),--rows $(ROWS)) $(if $(SEEDS),--seeds $(SEEDS)) $(FLAGS)

# COVERAGE makes the tests a fifth slower.
test: lint
	$(BIN)/python -m pytest -n auto --dist worksteal $(if $(COVERAGE),--cov=models --cov=losses \
		--cov=datasets --cov=utils --cov-report=term --cov-fail-under=$(COVERAGE))

docs: .venv/installed
	$(BIN)/python -m utils.options.document > docs/flags.md

slow: .venv/development
	$(BIN)/python -m pytest -n auto --dist loadfile tests/slow

gpu-check: .venv/development
	$(BIN)/python -m benchmarks.gpu_check $(FLAGS)

lint: .venv/development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

.venv/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; make PYTHON=python3.12 names one" >&2; exit 1; }
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/development: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(DEVELOPMENT)
	touch $@

clean:
	rm -rf .venv demo
