# gradmix_ext for the CPU, kernels compiled ahead of time:
#
#   docker build -f docker/cpu.Dockerfile -t gradmix_ext:cpu .
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/runs" gradmix_ext:cpu train --out first
#
# The image has no compiler; `--compile` needs one (apt-get install g++).
FROM python:3.12-slim AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
RUN pip install --no-cache-dir "torch>=2.10" --index-url https://download.pytorch.org/whl/cpu \
    && pip install --no-cache-dir ninja pybind11 "setuptools>=77" wheel
WORKDIR /src
COPY . .
RUN GRADMIX_EXT_BUILD=cpp pip install --no-cache-dir --no-build-isolation .

FROM python:3.12-slim
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
ENV HOME=/tmp
USER 1000:1000
WORKDIR /runs
ENTRYPOINT ["gradmix"]
CMD ["info"]
