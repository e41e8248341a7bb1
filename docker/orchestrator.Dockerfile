# syntax=docker/dockerfile:1
# The image that decides and shows, without torch: Prefect's server, MLflow's server, and `prefect deploy`.
#     docker build -f docker/orchestrator.Dockerfile -t noisy-student-orchestrator:0.1.0 .
FROM python:3.11.14-slim-bookworm

ENV PYTHONUNBUFFERED=1 \
    DO_NOT_TRACK=true \
    MLFLOW_DISABLE_TELEMETRY=true \
    NS_HOME=/state \
    PREFECT_HOME=/state/prefect

RUN useradd --create-home --uid 10001 noisy && install -d -o noisy -g noisy /state
WORKDIR /src

# psycopg2 is what MLflow's server talks to PostgreSQL with; Prefect's brings asyncpg.
COPY pyproject.toml constraints.txt docker/dependencies.py ./
RUN --mount=type=cache,target=/root/.cache/pip \
    python dependencies.py --without torch torchvision timm opencv-python-headless > requirements.txt && \
    pip install --constraint constraints.txt --requirement requirements.txt setuptools psycopg2-binary

COPY README.md LICENSE ./
COPY flows flows
COPY tasks tasks
COPY ns_core ns_core
RUN pip install --no-deps --no-build-isolation --no-cache-dir .
COPY deployments/prefect.yaml /srv/deployments/prefect.yaml

USER noisy
WORKDIR /srv
CMD ["prefect", "server", "start", "--host", "0.0.0.0"]
