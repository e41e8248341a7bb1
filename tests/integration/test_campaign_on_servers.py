"""A campaign on real servers, as a team runs it: Prefect and MLflow on PostgreSQL, the store in S3, a worker."""

from collections.abc import Iterator

import pytest

from flows.recipes.digits import digits_smoke
from tests.deployed import Deployed, deployed_on
from tests.servers import running_servers

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

CAMPAIGN = "noisy-student/campaign"
SMOKE = {"recipe": digits_smoke().model_dump(mode="json")}


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    with running_servers() as servers, deployed_on(servers, tmp_path_factory.mktemp("worker")) as made:
        yield made


def test_a_run_computes_every_stage_into_s3_and_again_none(deployed: Deployed) -> None:
    first = deployed.run(CAMPAIGN, SMOKE)
    assert first["state"]["type"] == "COMPLETED", first["state"]["message"]
    assert set(deployed.states(first).values()) == {"computed"}
    second = deployed.run(CAMPAIGN, SMOKE)
    assert set(deployed.states(second).values()) == {"cached"}
    assert deployed.fingerprints(second) == deployed.fingerprints(first)
