"""The service fuzzed from its own OpenAPI document: no 5xx, and answers that are what the document says.

Events are left out: their answer never ends (`test_service_events.py` asks for them).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
schemathesis = pytest.importorskip("schemathesis")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from schemathesis.specs.openapi.checks import positive_data_acceptance  # noqa: E402

from continuonbrain.brain_root import open_brain  # noqa: E402
from continuonbrain.model.base_identity import tiny_base_folder  # noqa: E402
from continuonbrain.service.app import create_app  # noqa: E402
from continuonbrain.storage.layout import init_brain_root  # noqa: E402

PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGM4kWIEAANWAV/oF4RSAAAAAElFTkSuQmCC"
TALKING_BASE = Path(__file__).parents[1] / "talking_base" / "base"
ROUTES = (
    "GET /v1/status",
    "GET /v1/manifest",
    "GET /v1/adapters",
    "GET /v1/adapters/{name}",
    "POST /v1/act",
    "POST /v1/chat",
    "GET /v1/session",
    "POST /v1/pair",
    "POST /v1/pair/renew",
    "POST /v1/driver",
    "POST /v1/mode",
    "POST /v1/stop",
    "POST /v1/release",
    "POST /v1/instruct",
    "GET /v1/instructions",
    "POST /v1/recording",
    "GET /v1/episodes",
    "GET /v1/episodes/{name}",
    "POST /v1/episodes/{name}",
    "DELETE /v1/episodes/{name}",
    "GET /v1/episodes/{name}/frames/{index}.jpg",
    "GET /v1/training",
    "POST /v1/training",
    "GET /v1/history",
    "POST /v1/adapters/rollback",
    "POST /v1/adapters/confirm",
    "POST /v1/adapters/{name}/promote",
    "GET /v1/adapters/{name}/promotion",
    "GET /v1/adapters/{name}/rollouts",
    "GET /v1/system",
    "GET /v1/logs/{name}",
    "GET /v1/doctor",
    "GET /v1/explain",
)
EXAMPLES = {"GET /v1/doctor": 2}
"""How many requests, where it is not `USUAL`: the doctor is a process of its own."""
USUAL = 30


@pytest.fixture(scope="module", params=["drives", "talks"])
def api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    base = tiny_base_folder() if request.param == "drives" else TALKING_BASE
    root = tmp_path_factory.mktemp("fuzzed") / "b"
    init_brain_root(root, "sim-donkey", base_model=base)
    app = create_app(open_brain(root))

    async def over_the_unix_socket(scope: Any, receive: Any, send: Any) -> None:
        # As uvicorn tells of it.
        await app(
            scope | {"client": None, "server": ("/run/b.sock", None)}, receive, send
        )  # TCP has a door before it: test_drive.py

    return schemathesis.openapi.from_asgi("/openapi.json", over_the_unix_socket)


def statuses_of(operation: Any, examples: int) -> set[int]:
    """Ask an operation many things, valid and not; the statuses of its answers."""
    seen: set[int] = set()

    @settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
        database=None,
    )
    @given(case=operation.as_strategy())
    def ask(case: Any) -> None:
        # What no schema can say: that a text is a picture, or that user and assistant take turns.
        told = case.call_and_validate(excluded_checks=[positive_data_acceptance])
        if (
            isinstance(case.body, dict)
            and isinstance(case.body.get("frame"), str)
            and told.status_code == 422
        ):
            case.body["frame"] = PICTURE
            told = case.call_and_validate(excluded_checks=[positive_data_acceptance])
        seen.add(told.status_code)

    ask()
    return seen


def operations_of(api: Any) -> dict[str, Any]:
    operations = (found.ok() for found in api.exclude(path="/v1/events").get_all_operations())
    return {operation.label: operation for operation in operations}


def test_every_route_is_asked(api: Any) -> None:
    assert set(operations_of(api)) == set(ROUTES)


@pytest.mark.parametrize("route", ROUTES)
def test_no_request_breaks_it(api: Any, route: str) -> None:
    statuses = statuses_of(operations_of(api)[route], EXAMPLES.get(route, USUAL))
    assert statuses <= {200, 204, 404, 409, 422}
