"""What Prefect's server does by itself for runs tagged `autoresume`: crashed ones go on, silent ones have crashed.

Out: automations on the server, made or brought up to date. What a person paused in the page stays paused.

| a run | becomes | |
|---|---|---|
| crashed after it had started | Resuming | for `DELAY_SECONDS`, in which a person may still decide otherwise |
| Resuming for so long | AwaitingRetry | a worker takes it again; `flows.attended` bounds how often |
| running, and silent for `SILENCE_SECONDS` | Crashed | worker and flow were killed together, so nobody else said so |
| being started for `START_SECONDS` | Crashed | the worker died meanwhile |

Prefect's process worker reports each crash twice, the second time after it imported the flow to look for hooks (5 s, or
35 at a load of 16). A run that was going on by then would crash by that report; one that is still crashed ignores it.
Hence the delay.

A run that crashes before it is Running (an installation that cannot be imported, no memory to import it) never
reaches our code, which could not count: it is not started again, because the first automation waits for a new Running
after each of its acts.
"""

from collections.abc import Sequence
from datetime import timedelta
from enum import StrEnum

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import Automation, AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

from flows.attended import RESUMED

TAG = "autoresume"
HEARTBEAT_SECONDS = 30
"""PREFECT_FLOWS_HEARTBEAT_FREQUENCY of the deployments; Prefect takes no less."""
DELAY_SECONDS = 60.0
"""Between a crash and the next start."""
SILENCE_SECONDS = 90.0
"""Three heartbeats."""
START_SECONDS = 900.0
"""A node may have to be made first, and an image pulled."""
LONGEST = timedelta(days=365)
"""Of a run without a change of state."""

RUN = "prefect.flow-run"
RESUMING = "Resuming"
"""Name of the state in between; its type is that of a crash."""
MARK = "noisy-student: crashed runs are to go on"
RESUME = "noisy-student: and go on"
SILENT = "noisy-student: silent runs have crashed"
STARTING = "noisy-student: runs that never start have crashed"


class Change(StrEnum):
    """What `ensure` did about an automation."""

    MADE = "made"
    CHANGED = "changed"
    KEPT = "as it was"


def automations(
    delay_seconds: float = DELAY_SECONDS,
    silence_seconds: float = SILENCE_SECONDS,
    start_seconds: float = START_SECONDS,
) -> list[AutomationCore]:
    """All four, as they should be on the server. Prefect takes windows from 10 s on."""
    return [_mark(delay_seconds), _resume(delay_seconds), _silent(silence_seconds), _starting(start_seconds)]


def ensure(client: SyncPrefectClient, wanted: Sequence[AutomationCore]) -> dict[str, Change]:
    """Makes what is missing and changes what differs. By name.

    What is as it should be is left alone: a change would forget the runs that are under way.
    """
    changes = {}
    for automation in wanted:
        found = client.read_automations_by_name(automation.name)
        if not found:
            client.create_automation(automation)
            changes[automation.name] = Change.MADE
        elif _same(found[0], automation):
            changes[automation.name] = Change.KEPT
        else:
            client.update_automation(found[0].id, automation.model_copy(update={"enabled": found[0].enabled}))
            changes[automation.name] = Change.CHANGED
    return changes


def _same(found: Automation, wanted: AutomationCore) -> bool:
    told = {"description", "trigger", "actions"}
    return found.model_dump(include=told) == wanted.model_dump(include=told)


def _mark(delay: float) -> AutomationCore:
    return AutomationCore(
        name=MARK,
        description="A run whose process was killed goes on where it was, three times at most.",
        trigger=_each_run(
            after={f"{RUN}.Running"}, expect={f"{RUN}.Crashed"}, posture=Posture.Reactive, within=LONGEST
        ),
        actions=[
            # Of the type of the state before: nothing else that reports the crash is heard.
            ChangeFlowRunState(
                name=RESUMING, state=StateType.CRASHED, message=f"goes on by itself in {delay:.0f} s", force=True
            )
        ],
    )


def _resume(delay: float) -> AutomationCore:
    others = ("Scheduled", "AwaitingRetry", "Late", "Pending", "Running", "Completed", "Failed", "Cancelled")
    return AutomationCore(
        name=RESUME,
        description="A worker takes it again, unless somebody did something about it meanwhile.",
        trigger=_each_run(
            after={f"{RUN}.{RESUMING}"},
            expect={f"{RUN}.{name}" for name in others},
            posture=Posture.Proactive,
            within=timedelta(seconds=delay),
        ),
        actions=[ChangeFlowRunState(name="AwaitingRetry", state=StateType.SCHEDULED, message=RESUMED, force=True)],
    )


def _silent(seconds: float) -> AutomationCore:
    message = f"no sign of life for {seconds:.0f} s: its process and its worker were killed, or their machine is away"
    return AutomationCore(
        name=SILENT,
        description="A run gives a sign of life twice a minute. One that stops without a word has crashed.",
        trigger=_each_run(
            after={f"{RUN}.heartbeat"},
            expect={f"{RUN}.*"},
            posture=Posture.Proactive,
            within=timedelta(seconds=seconds),
        ),
        # Not by force: the last heartbeat of a run may arrive after its end, which then stands.
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message=message)],
    )


def _starting(seconds: float) -> AutomationCore:
    message = f"a worker took it {seconds:.0f} s ago and it does not run yet: is the worker gone? Retry starts it again"
    return AutomationCore(
        name=STARTING,
        description="A run that a worker took and that never ran: the worker was stopped meanwhile.",
        trigger=_each_run(
            after={f"{RUN}.{name}" for name in ("Pending", "Submitting", "InfrastructurePending")},
            expect={f"{RUN}.*"},
            posture=Posture.Proactive,
            within=timedelta(seconds=seconds),
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message=message)],
    )


def _each_run(after: set[str], expect: set[str], posture: Posture, within: timedelta) -> EventTrigger:
    """Looks at every run with the tag by itself."""
    return EventTrigger(
        after=after,
        expect=expect,
        match=ResourceSpecification({"prefect.resource.id": [f"{RUN}.*"]}),
        match_related=ResourceSpecification(
            {"prefect.resource.id": [f"prefect.tag.{TAG}"], "prefect.resource.role": ["tag"]}
        ),
        for_each={"prefect.resource.id"},
        posture=posture,
        threshold=1,
        within=within,
    )
