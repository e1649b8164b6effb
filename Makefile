# Every command does the set-up that it needs; a second call of it takes seconds.
PYTHON ?= python3
RUN = $(PYTHON) scripts/run.py

.PHONY: help setup data cifar quickstart lab kernelspec test mutants bench notebooks clean

help:
	@echo "make quickstart  set up, run the quickstart notebook, leave results in out/quickstart"
	@echo "make lab         set up, open JupyterLab on the notebooks"
	@echo "make kernelspec  set up, offer the kernels to every Jupyter, VS Code and console of this user"
	@echo "make test        set up, run every test, formatting and clippy"
	@echo "make mutants FILE=stemm/src/..."
	@echo "                 set up, break one file in every small way and see whether a test fails (CONTRIBUTING.md)"
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

kernelspec: setup
	$(RUN) env -u JUPYTER_DATA_DIR jupyter kernelspec install --user --replace $(or $(STEMM_HOME),.stemm)/jupyter/kernels/stemm
	$(RUN) env -u JUPYTER_DATA_DIR jupyter kernelspec install --user --replace $(or $(STEMM_HOME),.stemm)/jupyter/kernels/evcxr

# What the kernel's program was compiled from stays for its tests.
test: export STEMM_KEEP_BUILD = 1
test: setup
	$(RUN) cargo fmt --all --check
	$(RUN) cargo fmt --manifest-path kernel/Cargo.toml --check
	$(RUN) cargo clippy --workspace --all-targets --locked -- -D warnings
	$(RUN) cargo test --workspace --locked
	$(RUN) cargo test --release --locked --manifest-path kernel/Cargo.toml --bin stemm_kernel --target-dir $(or $(STEMM_HOME),.stemm)/build
	@$(RUN) python -m pip install --quiet --requirement scripts/requirements-test.txt
	$(RUN) python -m pytest -q tests

# Needs cargo-mutants: cargo install --locked cargo-mutants. Its copy of the sources is built at level 0, which takes seconds.
mutants: setup
	$(RUN) cargo mutants --file $(FILE) --exclude-re 'evcxr_display|chart|frame|fmt::Display' --output out \
		--timeout 180 --cargo-arg=--config --cargo-arg='profile.dev.package.stemm.opt-level=0' -- $(TESTS)

bench: setup
	@$(RUN) python -m pip install --quiet --requirement scripts/requirements-bench.txt
	@$(RUN) python scripts/bench.py

notebooks: setup
	$(RUN) python scripts/notebooks.py

clean:
	rm -rf $(or $(STEMM_HOME),.stemm) target out
