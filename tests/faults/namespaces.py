"""The network between the regions' processes as the kernel makes it: namespaces and `tc netem`.

Each region has a network namespace, and a veth pair to each other region's. What is wrong with the
link from A to B is a netem queue on A's end. Needs root, and a kernel with netem.
"""

from __future__ import annotations

import os
import subprocess
from itertools import combinations
from pathlib import Path

from tests.faults.wan import HEALTHY, Fault

_PORT = 7000


class NotPossible(Exception):
    """This machine has no such network; the message says why."""


def check(*, netem: bool = True) -> None:
    """Makes and removes a link between two namespaces, slow if `netem`. Raises `NotPossible`."""
    if os.geteuid() != 0:
        raise NotPossible("network namespaces need root")
    probe = Namespaces(["a", "b"])
    try:
        probe.start_now()
        probe.set("a", "b", Fault(delay=0.01) if netem else Fault(cut=True))
    finally:
        probe.close_now()


class Namespaces:
    """Links between regions, each of which can be stalled, slowed and cut; as `wan.Network`."""

    name = "network namespaces with tc netem"

    def __init__(self, regions: list[str]) -> None:
        self.regions = regions
        self._subnets = {pair: n for n, pair in enumerate(combinations(regions, 2))}

    async def start(self) -> None:
        """Makes the namespaces and the links. Raises `NotPossible`."""
        self.start_now()

    async def close(self) -> None:
        """Removes the namespaces, and with them the links."""
        self.close_now()

    def start_now(self) -> None:
        """As `start`."""
        self.close_now()
        for region in self.regions:
            _run("ip", "netns", "add", self._namespace(region))
            self._inside(region, "ip", "link", "set", "lo", "up")
        for one, other in self._subnets:
            near, far = self._device(one, other), self._device(other, one)
            there = ("netns", self._namespace(other))
            self._inside(one, *f"ip link add {near} type veth peer name {far}".split(), *there)
            for region, peer in ((one, other), (other, one)):
                device = self._device(region, peer)
                address = f"{self._address(region, peer)}/30"
                self._inside(region, "ip", "address", "add", address, "dev", device)
                self._inside(region, "ip", "link", "set", device, "up")

    def close_now(self) -> None:
        """As `close`."""
        for region in self.regions:
            if Path("/run/netns", self._namespace(region)).exists():
                _run("ip", "netns", "delete", self._namespace(region))

    def command(self, region: str) -> list[str]:
        """What comes before a command that is to run in a region."""
        return ["ip", "netns", "exec", self._namespace(region)]

    def listens(self, region: str) -> dict[str, str]:
        """Where a region listens for each peer."""
        return {peer: f"{self._address(region, peer)}:{_PORT}" for peer in self._peers(region)}

    def dials(self, region: str) -> dict[str, str]:
        """Where a region dials each peer."""
        return {peer: f"{self._address(peer, region)}:{_PORT}" for peer in self._peers(region)}

    def set(self, source: str, target: str, fault: Fault) -> None:
        """Sets what is wrong with what flows from one region to another; `HEALTHY` heals it."""
        device = self._device(source, target)
        self._inside(source, "ip", "link", "set", device, "down" if fault.cut else "up")
        if fault.cut:
            # Connections over it end at once, as by a reset; a kernel that cannot lets them hang.
            for region, peer in ((source, target), (target, source)):
                self._inside(region, "ss", "-K", "dst", self._address(peer, region))
        elif fault.healthy:
            if self._queued(source, device):
                self._inside(source, "tc", "qdisc", "delete", "dev", device, "root")
        else:
            wrong = (
                ["loss", "100%"]
                if fault.stall
                else ["delay", f"{fault.delay * 1000:.0f}ms", f"{fault.jitter * 1000:.0f}ms"]
            )
            self._inside(source, "tc", "qdisc", "replace", "dev", device, "root", "netem", *wrong)

    def heal(self) -> None:
        """Makes every link healthy."""
        for source in self.regions:
            for target in self._peers(source):
                self.set(source, target, HEALTHY)

    def _queued(self, region: str, device: str) -> bool:
        return "netem" in self._inside(region, "tc", "qdisc", "show", "dev", device)

    def _inside(self, region: str, *command: str) -> str:
        return _run(*self.command(region), *command)

    def _namespace(self, region: str) -> str:
        """One of this process alone: others may run the same regions."""
        return f"isthmus-{os.getpid()}-{region}"

    def _device(self, region: str, peer: str) -> str:
        """A device's name is at most 15 characters: it says to whose index it leads."""
        return f"to{self.regions.index(peer)}from{self.regions.index(region)}"

    def _address(self, region: str, peer: str) -> str:
        """A region's address on the link to a peer."""
        first, second = sorted((region, peer), key=self.regions.index)
        subnet = self._subnets[first, second] * 4
        host = subnet + (1 if region == first else 2)
        return f"10.213.{host // 256}.{host % 256}"

    def _peers(self, region: str) -> list[str]:
        return [name for name in self.regions if name != region]


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except FileNotFoundError:
        raise NotPossible(f"{command[0]} is not installed: apt-get install iproute2") from None
    except subprocess.CalledProcessError as error:
        raise NotPossible(f"{' '.join(command)}: {error.stderr.strip()}") from None
    return done.stdout
