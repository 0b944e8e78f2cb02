# gradmix_ext for NVIDIA GPUs, kernels compiled ahead of time:
#
#   docker build -f docker/cuda.Dockerfile -t gradmix_ext:cuda .
#   docker run --rm --gpus all --user "$(id -u):$(id -g)" -v "$PWD:/runs" gradmix_ext:cuda \
#       train --device cuda --out first
#
# CUDA must be of the same major version as the CUDA of the PyTorch that pip installs, and no newer.
# ARCHS lists the GPUs to compile for. The image has no compiler; `--compile` needs one.
ARG CUDA=13.0.1
FROM nvidia/cuda:${CUDA}-devel-ubuntu24.04 AS build
ARG ARCHS="8.0;9.0+PTX"
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
RUN pip install --no-cache-dir "torch>=2.10" ninja pybind11 "setuptools>=77" wheel
WORKDIR /src
COPY . .
RUN GRADMIX_EXT_BUILD=cuda TORCH_CUDA_ARCH_LIST="${ARCHS}" \
    pip install --no-cache-dir --no-build-isolation .

FROM nvidia/cuda:${CUDA}-base-ubuntu24.04
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
ENV HOME=/tmp
USER 1000:1000
WORKDIR /runs
ENTRYPOINT ["gradmix"]
CMD ["info"]
