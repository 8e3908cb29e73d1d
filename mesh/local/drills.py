"""Faults on purpose, as the control socket offers them: regions, processes, devices, the WAN."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from mesh.local.control import Handler
from mesh.local.device import Device
from mesh.local.errors import AlreadyUp, BadRequest, NotRunning
from mesh.local.instance import Instance
from mesh.local.region import SERVICE_GRACE, LocalRegion
from mesh.local.wan import HEALTHY, Fault, Link, Wan
from mesh.place import EDGE
from mesh.topology import TopologyError


class Drills:
    """What an operator may break, and mend."""

    def __init__(
        self,
        wan: Wan,
        regions: Mapping[str, LocalRegion],
    ) -> None:
        self._wan = wan
        self._regions = regions

    def handlers(self) -> dict[str, Handler]:
        """By the names of the control protocol."""
        return {
            "region-kill": self.region_kill,
            "region-start": self.region_start,
            "workload-kill": self.workload_kill,
            "workload-restart": self.workload_restart,
            "workload-stop": self.workload_stop,
            "workload-start": self.workload_start,
            "device-kill": self.device_kill,
            "device-start": self.device_start,
            "wan-cut": self.wan_cut,
            "wan-stall": self.wan_stall,
            "wan-delay": self.wan_delay,
            "wan-heal": self.wan_heal,
        }

    async def region_kill(self, region: str) -> dict[str, Any]:
        """SIGKILL to every process of the region, devices included; it stays down."""
        await self._region(region).kill()
        return {"region": region}

    async def region_start(self, region: str) -> dict[str, Any]:
        """Starts a killed region; answers once it is healthy."""
        found = self._region(region)
        if found.running:
            raise AlreadyUp(f"{region} runs already: kill it first")
        await found.prepare()
        await found.start()
        return {"region": region}

    async def workload_kill(self, region: str, workload: str) -> dict[str, Any]:
        """SIGKILL to one workload's process; the supervisor starts it again."""
        return {"pid": self._instance(region, workload).crash()}

    async def workload_restart(
        self, region: str, workload: str, sidecar: bool = False
    ) -> dict[str, Any]:
        """Starts one workload's process again, then its sidecar too, without a lost call.

        An edge is a sidecar alone.
        """
        if workload == EDGE:
            await self._edge(region).restart_sidecar()
        else:
            found = self._instance(region, workload)
            await found.restart(SERVICE_GRACE)
            if sidecar:
                await found.restart_sidecar()
        return {"region": region, "workload": workload}

    async def workload_stop(self, region: str, workload: str) -> dict[str, Any]:
        """Ends one workload in one region, once its callers have gone elsewhere."""
        await self._instance(region, workload).retire(SERVICE_GRACE)
        return {"region": region, "workload": workload}

    async def workload_start(self, region: str, workload: str) -> dict[str, Any]:
        """Starts a workload that was stopped."""
        found = self._instance(region, workload, running=False)
        if found.running:
            raise AlreadyUp(f"{workload} in {region} runs already: stop it first")
        await self._region(region).start_instance(found)
        return {"region": region, "workload": workload}

    async def device_kill(self, device_id: str, restart: bool = False) -> dict[str, Any]:
        """SIGKILL to a device's agent; with `restart` the supervisor starts it again."""
        device, _ = self._device(device_id)
        if restart:
            if not device.running:
                raise NotRunning(f"{device_id} does not run: start it instead")
            return {"pid": device.crash()}
        pid = device.record().pid
        await device.kill()
        return {"pid": pid}

    async def device_start(self, device_id: str) -> dict[str, Any]:
        """Starts a killed device."""
        device, region = self._device(device_id)
        if device.running:
            raise AlreadyUp(f"{device_id} runs already: kill it first")
        await region.start_device(device)
        return {"pid": device.record().pid}

    async def wan_cut(self, region: str = "", source: str = "", target: str = "") -> list[str]:
        """Resets connections, old and new."""
        return self._change(region, source, target, lambda _: Fault(cut=True))

    async def wan_stall(self, region: str = "", source: str = "", target: str = "") -> list[str]:
        """Bytes stop; connections stay."""
        return self._change(
            region, source, target, lambda link: replace(link.fault, stall=True, cut=False)
        )

    async def wan_delay(
        self,
        seconds: float,
        jitter: float = 0.0,
        region: str = "",
        source: str = "",
        target: str = "",
    ) -> list[str]:
        """Every byte comes later."""
        try:
            fault = Fault(delay=seconds, jitter=jitter)
        except ValueError as error:
            raise BadRequest(str(error)) from None
        return self._change(region, source, target, lambda _: fault)

    async def wan_heal(self, region: str = "", source: str = "", target: str = "") -> list[str]:
        """All faults end; without a region or a link, everywhere."""
        if not (region or source or target):
            for link in self._wan.links.values():
                link.set_fault(HEALTHY)
            return [f"{a}->{b}" for a, b in self._wan.links]
        return self._change(region, source, target, lambda _: HEALTHY)

    def _change(
        self, region: str, source: str, target: str, fault: Callable[[Link], Fault]
    ) -> list[str]:
        links = self._links(region, source, target)
        for link in links:
            link.set_fault(fault(link))
        return [f"{link.source}->{link.target}" for link in links]

    def _links(self, region: str, source: str, target: str) -> list[Link]:
        if region and not (source or target):
            try:
                return list(self._wan.around(region))
            except TopologyError as error:
                raise BadRequest(str(error)) from None
        if source and target and not region:
            if (source, target) not in self._wan.links:
                known = ", ".join(f"{a}->{b}" for a, b in self._wan.links)
                raise BadRequest(f"no link {source}->{target}: there are {known}")
            return [self._wan.links[source, target]]
        raise BadRequest("name a region, or a source and a target")

    def _region(self, name: str) -> LocalRegion:
        if name not in self._regions:
            raise BadRequest(f"no region {name!r}: there are {', '.join(self._regions)}")
        return self._regions[name]

    def _instance(self, region: str, workload: str, *, running: bool = True) -> Instance:
        instances = {
            name: instance
            for name, instance in self._region(region).instances.items()
            if name != EDGE  # a sidecar alone
        }
        if workload not in instances:
            known = ", ".join(instances)
            raise BadRequest(f"no workload {workload!r} with a process: there are {known}")
        if running and not instances[workload].running:
            raise NotRunning(f"{workload} in {region} does not run: start {region} first")
        return instances[workload]

    def _edge(self, region: str) -> Instance:
        edge = self._region(region).instances[EDGE]
        if not edge.running:
            raise NotRunning(f"the edge of {region} does not run: start {region} first")
        return edge

    def _device(self, device_id: str) -> tuple[Device, LocalRegion]:
        for region in self._regions.values():
            if device_id in region.devices:
                return region.devices[device_id], region
        known = ", ".join(name for region in self._regions.values() for name in region.devices)
        raise BadRequest(f"no device {device_id!r} runs here: there are {known}")
