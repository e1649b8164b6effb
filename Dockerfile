# Everything set up and compiled inside; works without a network.
#   docker build -t stemm .                       CPU
#   docker build -t stemm --build-arg CUDA=1 .    CUDA
#   docker run -p 8888:8888 -v "$PWD/work:/home/stemm/lab/notebooks/work" stemm
#   docker run stemm make quickstart              the main result, printed as a table
FROM rust:1.95.0-bookworm

RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 --gid 100 stemm

ARG CUDA=0
ENV STEMM_CUDA=${CUDA} \
    STEMM_HOME=/home/stemm/.stemm \
    CARGO_HOME=/home/stemm/.cargo \
    RUSTUP_HOME=/usr/local/rustup

USER stemm
WORKDIR /home/stemm/lab
COPY --chown=1000:100 . .
RUN make setup && mkdir -p notebooks/work

VOLUME /home/stemm/lab/notebooks/work
EXPOSE 8888
HEALTHCHECK --interval=30s --start-period=60s \
    CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://localhost:8888/api')"]
ENTRYPOINT ["tini", "--"]
CMD ["make", "lab", "LAB_OPTIONS=--ip=0.0.0.0 --port=8888 --no-browser"]
