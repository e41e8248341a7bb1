"""Runs a stage's workers as pods of a Kubernetes cluster: Indexed Jobs, found again by their names.

    names.py      what a Job, its labels and a pod's environment variables are called
    pod_sets.py   which pods a stage needs
    manifests.py  those as a Job and a Service
    merge.py      further fields of a person's, put into a pod
    client.py     the calls of the cluster's API, with patience
    failures.py   what is wrong with pods, in words, and whether another try may cure it
    logs.py       what pods say, live, each line once
    attach.py     makes a Job, or finds the one that an earlier orchestrator made
    launcher.py   all of it, from a `WorkerSpec` to its end
    pod.py        the first process of a pod, which starts the workers

Loads neither torch nor Prefect, and the cluster's client only when a cluster is opened.
"""
