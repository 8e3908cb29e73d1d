"""Agents are asked what their Envoys run, and nothing of it stays."""

from __future__ import annotations

import asyncio

from isthmus.mesh.v1 import revision_pb2
from isthmus.mesh.v1 import sidecars_pb2 as pb

from mesh.control.reports import Reports
from mesh.xds.fleet import Instance

CHANNELS, DEVICES = Instance("eu", "channels"), Instance("eu", "devices")
NAME = revision_pb2.ResourceName(type_url="type", name="routes")


class Agent:
    """Reports, and answers what it is asked, as long as it is told to."""

    def __init__(self, reports: Reports, instance: Instance, *, answers: bool = True) -> None:
        self._reports = reports
        self._instance = instance
        self._answers = answers
        self.orders: list[pb.InspectionOrder] = []

    async def run(self) -> None:
        report = pb.SidecarReport()
        while True:
            answer = await self._reports.take(self._instance, report)
            report = pb.SidecarReport()
            if answer.HasField("inspect"):
                self.orders.append(answer.inspect)
                if not self._answers:
                    await asyncio.Event().wait()
                report.running.id = answer.inspect.id
                report.running.resources.add(name=self._instance.workload)


async def with_agents(reports: Reports, *agents: Agent) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(agent.run()) for agent in agents]
    await asyncio.sleep(0)
    return tasks


async def end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_who_answers_is_heard_and_nothing_is_kept() -> None:
    reports = Reports(lambda: 0)
    agents = [Agent(reports, CHANNELS), Agent(reports, DEVICES, answers=False)]
    tasks = await with_agents(reports, *agents)
    found = await reports.inspect({CHANNELS: [NAME]}, 0.3)
    assert list(found) == [CHANNELS]
    assert [each.name for each in found[CHANNELS].resources] == ["channels"]
    assert [list(each.orders[0].texts) for each in agents] == [[NAME], []]
    assert not any(last.report.HasField("running") for last in reports.last.values())
    await end(tasks)


async def test_two_may_ask_at_once() -> None:
    reports = Reports(lambda: 0)
    agent = Agent(reports, CHANNELS)
    tasks = await with_agents(reports, agent)
    both = await asyncio.gather(reports.inspect({}, 5), reports.inspect({CHANNELS: [NAME]}, 5))
    assert [list(found) for found in both] == [[CHANNELS], [CHANNELS]]
    assert len({found[CHANNELS].id for found in both}) == 2
    assert sorted(len(order.texts) for order in agent.orders) == [0, 1]
    await end(tasks)


async def test_nobody_waits_where_there_is_no_agent() -> None:
    assert await Reports(lambda: 0).inspect({}, 60) == {}
