# Every command does the set-up that it needs; a second call of it takes seconds.
PYTHON ?= python3
RUN = $(PYTHON) scripts/run.py

.PHONY: help setup data cifar quickstart lab test bench notebooks clean

help:
	@echo "make quickstart  set up, run the quickstart notebook, leave results in out/quickstart"
	@echo "make lab         set up, open JupyterLab on the notebooks"
	@echo "make test        set up, run every test, formatting and clippy"
	@echo "make bench       set up, run the benchmarks (half an hour), leave the results in out/bench"
	@echo "make notebooks   set up, run the notebooks and keep their outputs in place"
	@echo "make data        fetch and verify MNIST and Fashion-MNIST"
	@echo "make cifar       fetch and verify CIFAR-10 and CIFAR-100"
	@echo "make clean       remove what was set up and built (data stay)"

setup:
	@$(PYTHON) scripts/setup.py

data:
	@$(PYTHON) data/fetch.py fashion-mnist mnist

cifar:
	@$(PYTHON) data/fetch.py cifar-10 cifar-100

quickstart: setup
	@$(RUN) python scripts/quickstart.py

lab: setup
	$(RUN) jupyter trust notebooks/*.ipynb
	$(RUN) jupyter lab --notebook-dir=notebooks --MultiKernelManager.default_kernel_name=stemm $(LAB_OPTIONS)

test: setup
	$(RUN) cargo fmt --all --check
	$(RUN) cargo clippy --workspace --all-targets --locked -- -D warnings
	$(RUN) cargo test --workspace --locked
	$(RUN) python -m pytest -q tests

bench: setup
	@$(RUN) python -m pip install --quiet --requirement scripts/requirements-bench.txt
	@$(RUN) python scripts/bench.py

notebooks: setup
	$(RUN) python scripts/notebooks.py

clean:
	rm -rf $(or $(STEMM_HOME),.stemm) target out
