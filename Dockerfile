# The locked environment: docker build -t flare-sweeps . && docker run -v "$PWD/results:/flare/results" flare-sweeps
# The lock is for Linux on x86_64 with Python 3.11; its torch is the CUDA build, which needs no GPU.
FROM python:3.11-slim-bookworm

RUN apt-get update \
    && apt-get install --yes --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /flare
COPY requirements.lock ./
RUN pip install --no-cache-dir --no-deps --require-hashes -r requirements.lock
COPY . .
RUN pip install --no-cache-dir --no-deps --no-build-isolation -e .

CMD ["snakemake", "--cores", "all"]
