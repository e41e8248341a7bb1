# syntax=docker/dockerfile:1
# The image that computes: torch and all the rest. It takes runs from Prefect, and can run one stage alone:
#     docker build -f docker/worker.Dockerfile -t noisy-student-worker:0.1.0 .
#     docker run ... noisy-student-worker:0.1.0 python -m ns_core.worker SPEC.json
FROM python:3.11.14-slim-bookworm

ENV PYTHONUNBUFFERED=1 \
    DO_NOT_TRACK=true \
    MLFLOW_DISABLE_TELEMETRY=true \
    NS_HOME=/state \
    PREFECT_HOME=/state/prefect

RUN useradd --create-home --uid 10001 noisy && install -d -o noisy -g noisy /state
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

USER noisy
WORKDIR /home/noisy
CMD ["prefect", "worker", "start", "--pool", "ns-process", "--type", "process", "--with-healthcheck"]
