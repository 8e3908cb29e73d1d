"""A device that no gateway hears is not shown as if it encoded."""

from __future__ import annotations

import pytest
from isthmus.devices.v1 import device_pb2 as v1
from isthmus.devices.v1.devices_pb2 import GetDeviceResponse, ListDevicesResponse

from mesh.cli.calls import Calls
from mesh.cli.exits import Exit
from mesh.cli.main import run

ENCODING = v1.Encoding(channel_id="news", state=v1.ENCODING_STATE_ON_AIR, segments=67, speed=1.0)


def device(rank: int, *encodings: v1.Encoding) -> v1.Device:
    return v1.Device(
        device_id="encoder-1",
        region="eu",
        duty=v1.DUTY_ACTIVE,
        session=v1.Session(epoch=1, connected_rank=rank, gateway_region="eu"),
        encodings=v1.Encodings(encodings=encodings),
    )


@pytest.mark.parametrize(
    ("shown", "connected", "encodes"),
    [
        (device(0, ENCODING), "through eu", "news"),
        (device(1, ENCODING), "no", "lost; last told news"),
        (device(0), "through eu", "-"),
        (device(1), "no", "-"),
    ],
)
def test_list(
    shown: v1.Device,
    connected: str,
    encodes: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def pages(*_: object) -> list[ListDevicesResponse]:
        return [ListDevicesResponse(devices=[shown])]

    monkeypatch.setattr(Calls, "pages", pages)
    assert run(["devices", "list"]) == Exit.OK
    _, row = capsys.readouterr().out.splitlines()
    assert [cell.strip() for cell in row.split("  ") if cell.strip()] == [
        *("encoder-1", "eu", "active", connected, encodes, "-")
    ]


def test_get(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    shown = device(0, ENCODING)
    monkeypatch.setattr(Calls, "read", lambda *_: GetDeviceResponse(device=shown))
    assert run(["devices", "get", "encoder-1"]) == Exit.OK
    assert "encodes    news: on air, 67 segments" in capsys.readouterr().out
    shown.session.connected_rank = 1
    shown.session.changed.seconds = 100_000
    assert run(["devices", "get", "encoder-1"]) == Exit.OK
    said = capsys.readouterr().out
    assert "connected  no, since 1970-01-0" in said
    assert "last told  news: on air, 67 segments" in said and "encodes" not in said
