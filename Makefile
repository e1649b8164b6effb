# Every command does the set-up that it needs; a second call of it takes seconds.
PYTHON ?= python3
# -E: whatever PYTHONPATH and PYTHONHOME say of other projects.
RUN = $(PYTHON) -E scripts/run.py
# Where `make lab` opens.
NOTEBOOKS ?= notebooks
# Further options of `docker build`, such as --build-arg CUDA=1.
IMAGE_OPTIONS ?=

.PHONY: help setup data cifar quickstart lab kernelspec test test-slurm mutants bench sweep tournament notebooks reproduce image image-test bundle unbundle student-copies python-torch clean

help:
	@echo "make quickstart  set up, run the quickstart notebook, leave results in out/quickstart"
	@echo "make reproduce   the same, then the claims with figures and verdicts; fails if one does"
	@echo "make reproduce SCALE=mlp"
	@echo "                 the paper's claims at its own scale, into docs/reproduction.md (hours; goes on where it was); on a GPU also SCALE=full"
	@echo "make sweep PLAN=plan.toml"
	@echo "                 run a plan of experiments (docs/sweeps.md); what is done is not done again"
	@echo "make lab         set up, open JupyterLab on the notebooks (NOTEBOOKS=folder for others)"
	@echo "make kernelspec  set up, offer the kernels to every Jupyter, VS Code and console of this user"
	@echo "make test        set up, run every test, formatting and clippy"
	@echo "make test-slurm  the test on a Slurm of its own, which needs slurm-wlm, munge and root"
	@echo "make mutants FILE=stemm/src/..."
	@echo "                 set up, break one file in every small way and see whether a test fails (CONTRIBUTING.md)"
	@echo "make bench       set up, run the benchmarks (half an hour), leave the results in out/bench"
	@echo "make image       build the Docker image with docker, podman or buildah; make image-test tries it"
	@echo "make bundle FILE=x.tar.gz, make unbundle FILE=x.tar.gz, make student-copies FOLDER=..."
	@echo "                 the set-up for other machines of the same kind; notebooks without outputs and answers (docs/classroom.md)"
	@echo "make python-torch"
	@echo "                 let the Python kernel import torch and safetensors, for comparison (about 3.4 GB)"
	@echo "make tournament WHAT=mlp"
	@echo "                 the comparison of all methods in docs/methods.md (hours; goes on where it was); also mnist, vgg11, resnet20"
	@echo "make notebooks   set up, run the notebooks and keep their outputs in place"
	@echo "make data        fetch and verify MNIST and Fashion-MNIST"
	@echo "make cifar       fetch and verify CIFAR-10 and CIFAR-100"
	@echo "make clean       remove what was set up and built (data, results and whatever else lies there stay)"

setup:
	@$(PYTHON) -E scripts/setup.py

data:
	@$(PYTHON) -E data/fetch.py fashion-mnist mnist

cifar:
	@$(PYTHON) -E data/fetch.py cifar-10 cifar-100

quickstart: setup
	@$(RUN) python scripts/quickstart.py

# The claims, each with its figure and verdict; fails if one does. The scale demo is that of the quickstart, the others are the paper's.
SCALE ?= demo
reproduce: setup
ifeq ($(SCALE),demo)
	@$(RUN) python scripts/reproduce.py
else
	@$(RUN) cargo run --quiet --locked --package stemm --example reproduction -- "$(SCALE)"
endif

sweep: setup
	@$(PYTHON) -E scripts/setup.py runner
	@$(RUN) stemm sweep "$(PLAN)" $(SWEEP_OPTIONS)

lab: setup
	@$(RUN) jupyter trust notebooks/*.ipynb
	@$(RUN) python scripts/lab.py "$(NOTEBOOKS)" $(LAB_OPTIONS)

kernelspec: setup
	$(RUN) env -u JUPYTER_DATA_DIR jupyter kernelspec install --user --replace "$(or $(STEMM_HOME),.stemm)/jupyter/kernels/stemm"
	$(RUN) env -u JUPYTER_DATA_DIR jupyter kernelspec install --user --replace "$(or $(STEMM_HOME),.stemm)/jupyter/kernels/evcxr"

# What the kernel's program was compiled from stays for its tests.
test: export STEMM_KEEP_BUILD = 1
test: setup
	$(RUN) cargo fmt --all --check
	$(RUN) cargo fmt --manifest-path kernel/Cargo.toml --check
	$(RUN) cargo clippy --workspace --all-targets --locked -- -D warnings
	$(RUN) cargo test --workspace --locked
	@# Through env, as the set-up compiles it: with flags of its own, not with those of kernels' dependencies.
	$(RUN) env cargo test --release --locked --manifest-path kernel/Cargo.toml --bin stemm_kernel --target-dir "$(or $(STEMM_HOME),.stemm)/build"
	@$(RUN) python -m pip install --quiet --requirement scripts/requirements-test.txt
	$(RUN) python -m pytest -q -rs tests

test-slurm: setup
	@$(RUN) python -m pip install --quiet --requirement scripts/requirements-test.txt
	$(RUN) python -m pytest -q -rs tests/test_slurm.py

# Needs cargo-mutants: cargo install --locked cargo-mutants. Its copy of the sources is built at level 0, which takes seconds.
mutants: setup
	$(RUN) cargo mutants --file $(FILE) --exclude-re 'evcxr_display|chart|frame|fmt::Display' --output out \
		--timeout 180 --cargo-arg=--config --cargo-arg='profile.dev.package.stemm.opt-level=0' -- $(TESTS)

bench: setup
	@$(RUN) python -m pip install --quiet --requirement scripts/requirements-bench.txt
	@$(RUN) python scripts/bench.py

# Results in out/tournament; what is there already is not measured again.
WHAT ?= mlp
tournament: setup
	@$(RUN) cargo run --quiet --locked --package stemm --example tournament -- "$(WHAT)"

# For a class: docs/classroom.md
bundle: setup
	@$(PYTHON) -E scripts/bundle.py pack "$(FILE)"

unbundle:
	@$(PYTHON) -E scripts/bundle.py unpack "$(FILE)"

student-copies: setup
	@$(RUN) python scripts/student_copies.py "$(FOLDER)"

# The set-up has of torch what the crate needs; its Python package wants the CUDA set too.
python-torch: setup
	@$(RUN) python -m pip install --quiet --requirement scripts/requirements-torch.txt

image:
	@$(PYTHON) -E scripts/image.py $(IMAGE_OPTIONS)

image-test: image
	@$(PYTHON) -E -m unittest -v tests/test_image.py

notebooks: setup
	$(RUN) python scripts/notebooks.py

clean:
	@$(PYTHON) -E scripts/setup.py clean
	rm -rf target
