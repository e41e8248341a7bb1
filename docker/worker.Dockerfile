# syntax=docker/dockerfile:1
# The image that computes: torch and all the rest. It does one stage and ends; so start its pods and `docker run`:
#     docker build -f docker/worker.Dockerfile -t noisy-student-worker:0.1.0 .
#     docker run ... noisy-student-worker:0.1.0 SPEC.json
# As a worker of Prefect, which takes whole runs, compose.yaml starts it. CUDA comes with torch's wheels, in the versions
# of constraints.txt; of the machine it needs the driver alone (CUDA 13: 580 or newer) and NVIDIA's container toolkit.
FROM python:3.11.14-slim-bookworm

# torch.compile compiles: Triton's launchers in C, kernels of the CPU in C++.
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*

RUN groupadd --gid 10001 noisy && useradd --uid 10001 --gid noisy --home-dir /state --create-home noisy
WORKDIR /src

# Before the code, so that a change of it does not install torch again.
COPY pyproject.toml constraints.txt docker/dependencies.py ./
RUN --mount=type=cache,target=/root/.cache/pip \
    python dependencies.py > requirements.txt && \
    pip install --constraint constraints.txt --requirement requirements.txt setuptools

COPY README.md LICENSE ./
COPY flows flows
COPY tasks tasks
COPY ns_core ns_core
RUN pip install --no-deps --no-build-isolation --no-cache-dir .

# The root file system may be read-only: all that is written goes to HOME and /tmp, which a pod mounts. No
# NVIDIA_VISIBLE_DEVICES: set to `all`, it would show every GPU of a node to pods that asked for none.
ENV HOME=/state \
    NS_HOME=/state \
    PREFECT_HOME=/state/prefect \
    PYTHONUNBUFFERED=1 \
    DO_NOT_TRACK=true \
    MLFLOW_DISABLE_TELEMETRY=true \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
# By number: a kubelet that is to see that it is not root looks no name up.
USER 10001:10001
WORKDIR /state
ENTRYPOINT ["python", "-m", "ns_core.worker"]
