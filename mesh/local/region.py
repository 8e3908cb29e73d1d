"""One region: its authority first, then its control plane, then all else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime

from mesh.authority import Prepared, device_token, prepare
from mesh.contracts.exceptions import CONTROL
from mesh.contracts.model import Contract
from mesh.control import Installation
from mesh.identity.enrolment import AUTHORITY
from mesh.local.device import Device
from mesh.local.gather import first_error
from mesh.local.instance import Instance
from mesh.local.layout import Layout
from mesh.local.progress import Watcher
from mesh.local.record import ProcessRecord

DEVICE_GRACE = 2.0
SERVICE_GRACE = 5.0


class LocalRegion:
    """All processes of a region on this machine."""

    def __init__(
        self,
        contract: Contract,
        layout: Layout,
        name: str,
        watch: Watcher,
        changed: Callable[[], None],
        now: Callable[[], datetime],
        installation: Callable[[], Awaitable[Installation]],
    ) -> None:
        """`installation` is what its control plane shall serve at first."""
        self.name = name
        self._layout = layout
        self._now = now
        self._installation = installation
        self._prepared: Prepared | None = None
        topology = layout.topology
        self.instances = {
            instance: Instance(
                contract,
                topology,
                layout.place(name, instance),
                watch,
                changed,
                self._fresh_token,
            )
            for instance in topology.instances(name)
        }
        self.devices = {
            spec.device_id: Device(layout, spec, watch, changed)
            for spec in topology.devices
            if spec.region == name
        }

    @property
    def running(self) -> bool:
        """Whether any of its processes is being kept running."""
        return any(instance.running for instance in self.instances.values()) or any(
            device.running for device in self.devices.values()
        )

    async def prepare(self) -> None:
        """Makes the authority's certificate and the tokens for what has no identity yet.

        In a mesh without an authority identities come from elsewhere.
        """
        if AUTHORITY not in self.instances:
            return
        self._prepared = await asyncio.to_thread(
            prepare, self._layout.state, self._layout.topology, self.name, self._now()
        )

    async def start(self) -> None:
        """Starts everything; returns once all workloads are healthy. Raises `StartFailed`.

        The region must have been prepared: a token is its first user's alone.
        """
        tokens = {} if self._prepared is None else self._prepared.tokens
        if AUTHORITY in self.instances:
            # Everybody else's first certificate comes from there.
            await self.instances[AUTHORITY].start(None)
        configured = asyncio.Event()
        async with first_error() as tasks:
            tasks.create_task(self._start_control(tokens.get(CONTROL), configured))
            for name, instance in self.instances.items():
                if name not in (AUTHORITY, CONTROL):
                    tasks.create_task(instance.start(tokens.get(name), configured))
        async with first_error() as tasks:
            for device in self.devices.values():
                tasks.create_task(self.start_device(device))

    async def _start_control(self, token: str | None, configured: asyncio.Event) -> None:
        """Starts the control plane, if the mesh has one, and lets the other sidecars go on."""
        if CONTROL in self.instances:
            installation = await self._installation()
            data = self._layout.place(self.name, CONTROL).data
            await asyncio.to_thread(installation.into, data, self.name)
            await self.instances[CONTROL].start(token)
        configured.set()

    async def stop_devices(self) -> None:
        """Ends the devices."""
        await asyncio.gather(*(device.stop(DEVICE_GRACE) for device in self.devices.values()))

    async def stop_services(self) -> None:
        """Ends the workloads' processes."""
        await asyncio.gather(
            *(instance.stop_process(SERVICE_GRACE) for instance in self.instances.values())
        )

    async def stop_sidecars(self) -> None:
        """Ends the sidecars and removes all sockets."""
        await asyncio.gather(*(instance.stop_sidecar() for instance in self.instances.values()))

    async def kill(self) -> None:
        """Ends every process of the region at once, as a power cut would."""
        await asyncio.gather(
            *(device.kill() for device in self.devices.values()),
            *(instance.kill() for instance in self.instances.values()),
        )

    def records(self) -> Iterator[ProcessRecord]:
        """Its processes, for `up.json`."""
        for instance in self.instances.values():
            yield from instance.records()
        for device in self.devices.values():
            yield device.record()

    async def start_instance(self, instance: Instance) -> None:
        """Starts one workload that was stopped, with the identity that it has or a new one."""
        await self.prepare()
        tokens = {} if self._prepared is None else self._prepared.tokens
        await instance.start(tokens.get(instance.place.instance))

    async def start_device(self, device: Device) -> None:
        """Starts one device, with a join token if it never enrolled."""
        issued_here = AUTHORITY in self.instances
        await device.start(self._device_token if issued_here else None, self._now)

    async def _fresh_token(self, instance: str) -> str | None:
        await self.prepare()
        return None if self._prepared is None else self._prepared.tokens.get(instance)

    async def _device_token(self, device_id: str) -> str:
        state, topology = self._layout.state, self._layout.topology
        return await asyncio.to_thread(
            device_token, state, topology, self.name, device_id, self._now()
        )
