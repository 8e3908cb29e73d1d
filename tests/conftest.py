"""What every test shares."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.support import ports

# How long an example takes says how busy the machine is: pytest's own limit finds what hangs.
settings.register_profile("isthmus", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("isthmus")

_skipped: list[str] = []


@pytest.fixture(autouse=True)
def _ports() -> Iterator[None]:
    """A test's ports are its own until it has ended: there are about a hundred blocks for all."""
    yield
    ports.release()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Collects skips in the controlling process, whatever worker they came from."""
    if report.skipped:
        _skipped.append(report.nodeid)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """With ISTHMUS_NO_SKIPS a skipped test is a failure: CI has every tool that the tests use."""
    if (
        os.environ.get("ISTHMUS_NO_SKIPS")
        and _skipped
        and not hasattr(session.config, "workerinput")
    ):
        print("\nskipped, and ISTHMUS_NO_SKIPS is set: " + ", ".join(_skipped))
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
