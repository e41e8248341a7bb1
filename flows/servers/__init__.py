"""The servers of a team on one machine, from ordinary packages: `python -m flows.servers up | down | status`.

PostgreSQL, SeaweedFS's S3, and on top of both the Prefect server and the MLflow server. In: a home folder. Out:
everything below `{home}/servers` (`place.Place` names each file), and `{home}/servers/env`, which a shell sources
to use them. The servers outlive the command; `state.json` says which processes they are.

    postgres  s3          first, at the same time
    prefect   mlflow      once both answer; stopped before them
"""
