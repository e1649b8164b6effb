# Everything set up and compiled inside; works without a network. README.md says how to build and run it.
ARG RUST=rust:1.95.0-slim-bookworm

FROM ${RUST} AS base
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev make python3 tini \
    && rm -rf /var/lib/apt/lists/* \
    && { test -d "$(rustc --print sysroot)/lib/rustlib/src" || rustup component add rust-src; } \
    # Group 0: a container run as another user (--user 1234) has it, and may write where it may.
    && useradd --create-home --uid 1000 --gid 0 stemm \
    && install --directory --owner=1000 --group=0 --mode=775 /home/stemm /home/stemm/lab /home/stemm/.cargo
ARG CUDA=0
ENV HOME=/home/stemm \
    STEMM_HOME=/home/stemm/.stemm \
    STEMM_CUDA=${CUDA} \
    CARGO_HOME=/home/stemm/.cargo \
    RUSTUP_HOME=/usr/local/rustup \
    RUSTUP_TOOLCHAIN=1.95.0
USER 1000:0
WORKDIR /home/stemm/lab

FROM base AS build
USER root
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ ca-certificates python3-venv \
    && rm -rf /var/lib/apt/lists/*
USER 1000:0
ENV PIP_NO_CACHE_DIR=1
# What each layer is made from comes just before it: a changed notebook builds nothing again, changed sources only themselves.
COPY --chown=1000:0 Cargo.toml Cargo.lock rust-toolchain.toml ./
COPY --chown=1000:0 scripts/environment.py scripts/machine.py scripts/setup.py scripts/requirements.txt scripts/requirements-hub.txt scripts/rustc.sh scripts/
COPY --chown=1000:0 kernel kernel
RUN umask 002 && python3 scripts/setup.py front python libtorch \
    # `jupyterhub-singleuser`, with which a hub starts the image.
    && "$STEMM_HOME/venv/bin/python" -m pip install --quiet --requirement scripts/requirements-hub.txt
COPY --chown=1000:0 data data
RUN umask 002 && python3 scripts/setup.py data
COPY --chown=1000:0 scripts/session.py scripts/warm_up.py scripts/
COPY --chown=1000:0 stemm stemm
COPY --chown=1000:0 runner runner
RUN umask 002 && python3 scripts/setup.py wrapper kernel
RUN umask 002 && python3 scripts/setup.py runner \
    # What it was compiled from, and cargo's archives: the kernels read what was unpacked from them.
    && rm -rf "$STEMM_HOME/target" "$CARGO_HOME/registry/cache"

FROM base
LABEL org.opencontainers.image.title="stemm" \
      org.opencontainers.image.description="A Jupyter laboratory in Rust for linear mode connectivity between several networks" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="MIT"
COPY --from=build --chown=1000:0 /home/stemm /home/stemm
COPY --chown=1000:0 LICENSE Makefile README.md ./
COPY --chown=1000:0 docs docs
COPY --chown=1000:0 notebooks notebooks
COPY --chown=1000:0 scripts scripts
COPY --chown=1000:0 tests tests
USER root
# rustup asks for the folder, also on a disk that it may not write to.
RUN umask 002 && mkdir -p /usr/local/rustup/update-hashes && install --directory --owner=1000 --group=0 --mode=775 notebooks/work out
USER 1000:0
# For those who start something else than make: a hub, or a shell.
ENV PATH=/home/stemm/.stemm/venv/bin:$PATH \
    JUPYTER_PATH=/home/stemm/.stemm/jupyter
VOLUME /home/stemm/lab/notebooks/work
EXPOSE 8888
HEALTHCHECK --interval=30s --start-period=60s \
    CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://localhost:8888/api')"]
ENTRYPOINT ["tini", "--", "scripts/in_image.sh"]
CMD ["make", "lab", "LAB_OPTIONS=--ip=0.0.0.0 --port=8888 --no-browser"]
