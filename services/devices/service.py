"""The methods of isthmus.devices.v1.DeviceService."""

from __future__ import annotations

from typing import Any

import grpc
from isthmus.devices.v1 import devices_pb2 as api
from isthmus.devices.v1.device_pb2 import Device
from isthmus.devices.v1.devices_pb2_grpc import DeviceServiceServicer

from mesh.replication import Group, Transaction
from mesh.runtime import FailedPrecondition, NotFound, call_context
from services.paging import page_by_key

Context = grpc.aio.ServicerContext[Any, Any]


class DeviceService(DeviceServiceServicer):
    """Reads and writes the devices of its region's group."""

    def __init__(self, group: Group) -> None:
        self._group = group

    async def GetDevice(
        self, request: api.GetDeviceRequest, context: Context
    ) -> api.GetDeviceResponse:
        """One device."""
        device = self._group.get(Device, request.device_id)
        if device is None:
            raise _not_found(request.device_id)
        return api.GetDeviceResponse(device=device)

    async def ListDevices(
        self, request: api.ListDevicesRequest, context: Context
    ) -> api.ListDevicesResponse:
        """Devices in the order of their ids."""
        found, token = page_by_key(
            self._group.list(Device),
            lambda device: device.device_id,
            request.page_size,
            request.page_token,
        )
        return api.ListDevicesResponse(devices=found, next_page_token=token)

    async def SetDuty(self, request: api.SetDutyRequest, context: Context) -> api.SetDutyResponse:
        """Asks for maintenance, or ends it; the reconcilers do the rest."""
        key = request.device_id

        def change(transaction: Transaction) -> api.SetDutyResponse:
            device = _get(transaction, key)
            if device.duty != request.duty:
                transaction.set(Device(device_id=key, duty=request.duty), "duty")
            return api.SetDutyResponse(device=_get(transaction, key))

        return await self._group.write(change, call_context(request))

    async def UpdateLabels(
        self, request: api.UpdateLabelsRequest, context: Context
    ) -> api.UpdateLabelsResponse:
        """Adds labels, then removes labels."""
        key = request.device_id

        def change(transaction: Transaction) -> api.UpdateLabelsResponse:
            _get(transaction, key)
            if request.add:
                transaction.add(Device, key, "labels", *request.add)
            if request.remove:
                transaction.remove(Device, key, "labels", *request.remove)
            return api.UpdateLabelsResponse(device=_get(transaction, key))

        return await self._group.write(change, call_context(request))

    async def DeleteDevice(
        self, request: api.DeleteDeviceRequest, context: Context
    ) -> api.DeleteDeviceResponse:
        """Forgets a device that is not connected."""
        key = request.device_id

        def change(transaction: Transaction) -> api.DeleteDeviceResponse:
            session = _get(transaction, key).session
            if session.epoch and not session.connected_rank:
                raise FailedPrecondition(
                    f"device {key!r} is connected to region {session.gateway_region}: "
                    "stop it first",
                    reason="DEVICE_CONNECTED",
                    metadata={"device_id": key},
                )
            transaction.delete(Device, key)
            return api.DeleteDeviceResponse()

        return await self._group.write(change, call_context(request))


def _get(transaction: Transaction, key: str) -> Device:
    device = transaction.get(Device, key)
    if device is None:
        raise _not_found(key)
    return device


def _not_found(key: str) -> NotFound:
    return NotFound(
        f"there is no device {key!r} here",
        reason="DEVICE_NOT_FOUND",
        metadata={"device_id": key},
    )
