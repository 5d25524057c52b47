# docker build -t fisherscope .
# mkdir -p runs && docker run --rm -v "$PWD/runs:/work/runs" fisherscope demo --out runs/demo
# For NVIDIA GPUs: docker build -t fisherscope --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu126 .
# and docker run --gpus all ...
FROM python:3.11.14-slim-bookworm

# PyTorch's index of builds: CPU by default, gigabytes smaller than those with CUDA (cu126, ...).
ARG TORCH_INDEX="https://download.pytorch.org/whl/cpu"
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

WORKDIR /opt/fisherscope
# torch is the large layer and changes least: it comes before the sources.
COPY constraints.txt ./
RUN pip install -c constraints.txt --extra-index-url "$TORCH_INDEX" torch
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN pip install -c constraints.txt ".[data,demo]"

RUN useradd --create-home --uid 1000 fisherscope && install -d -o fisherscope /work /work/runs
USER fisherscope
WORKDIR /work
ENTRYPOINT ["fisherscope"]
CMD ["--help"]
