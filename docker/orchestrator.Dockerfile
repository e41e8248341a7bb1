# syntax=docker/dockerfile:1
# The image that decides and shows, without torch: flows in a cluster, Prefect's worker for them, the servers of Prefect
# and MLflow, and `noisy-student deploy`.
#     docker build -f docker/orchestrator.Dockerfile -t noisy-student-orchestrator:0.1.0 .
FROM python:3.11.14-slim-bookworm

RUN groupadd --gid 10001 noisy && useradd --uid 10001 --gid noisy --home-dir /state --create-home noisy
WORKDIR /src

# psycopg2 is what MLflow's server talks to PostgreSQL with; Prefect's brings asyncpg. prefect-kubernetes is the worker
# of a pool on Kubernetes, and nothing here imports it.
COPY pyproject.toml constraints.txt docker/dependencies.py ./
RUN --mount=type=cache,target=/root/.cache/pip \
    python dependencies.py --extra kubernetes --without torch torchvision timm opencv-python-headless > requirements.txt && \
    pip install --constraint constraints.txt --requirement requirements.txt setuptools psycopg2-binary prefect-kubernetes

COPY README.md LICENSE ./
COPY flows flows
COPY tasks tasks
COPY ns_core ns_core
COPY deployments deployments
RUN pip install --no-deps --no-build-isolation --no-cache-dir .

# The root file system may be read-only: all that is written goes to HOME and /tmp, which a pod mounts. Prefect's server
# copies its page before it serves it, by default to beside its code; where it cannot, there is no page.
ENV HOME=/state \
    NS_HOME=/state \
    PREFECT_HOME=/state/prefect \
    PREFECT_SERVER_UI_STATIC_DIRECTORY=/state/prefect/ui \
    PYTHONUNBUFFERED=1 \
    DO_NOT_TRACK=true \
    MLFLOW_DISABLE_TELEMETRY=true
# By number: a kubelet that is to see that it is not root looks no name up.
USER 10001:10001
WORKDIR /state
CMD ["prefect", "server", "start", "--host", "0.0.0.0"]
