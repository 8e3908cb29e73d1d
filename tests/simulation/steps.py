"""The script language of simulations and of `tests/scenarios`.

regions NAME...               who takes part; comes first
create REGION KEY,... F=V...  each write is one transaction, whatever it names; a,b is a list
write REGION KEY,... F=V...   home_region=stays-REGION-V stays in the region
add|remove REGION KEY,... F=a,b
increment REGION KEY,... F=N
put REGION KEY,... tags=a:1,b:2
upsert REGION KEY,... F=V...  many at once, created if need be; `replace` clears the other fields
look REGION KEY READER        keeps what a reader gets, for writes with `etag=READER` of that key
delete REGION KEY,...
attempt REGION ID KEY         increments takeovers, as an operation with an id that is sent once
repeat REGION ID KEY          the same operation, as one that was perhaps sent elsewhere before
by CLIENT LINE...             a read or write of a session, which carries its token along
sure ONE_PEER|MAJORITY LINE.. a write that is acknowledged once so many regions have it on disk
read REGION                   compares all that a reader sees with the model
wait MS
partition A B | A>B           cuts both directions, or one
isolate NAME
split A,B,... C,D,...         cuts all paths between the two sides
ring                          everyone reaches the neighbours in the list alone
heal                          every path carries again, without delay
reset A B                     connections between the two break
renew A>B                     a second stream from A to B takes over from the first
delay A>B MS
tamper A>B                    the next frame on the path arrives altered
lie A>B HOW                   A relays to B what no other region wrote: alter, unsign, forge, drop
                              or reorder; or gives a snapshot that says they wrote more: claim
kill NAME                     the process ends; `start` starts it again
power NAME PERCENT            so much of what was not synced is left
start NAME
slow NAME MS                  what a commit takes
full|room NAME                commits fail; or work again
flush NAME                    stores states behind the journal
trim NAME                     cuts the journal below what all have, and what is stored
forget NAME                   drops the tombstones of old deletes that all have seen
age DAYS                      all wall clocks move on
backup|restore NAME           keeps a copy of the disk; sets it back, and starts
lose NAME                     an empty disk in its place, and starts
corrupt NAME KEY N            a byte of what is in memory changes by itself
rot NAME KEY N                a byte of a stored state does; a start reads it
clock NAME MS                 moves the wall clock
drift NAME PERCENT            the wall clock goes so much faster
older|newer NAME              restarts with the older or the newest version and contract
evict|rejoin NAME OTHER       asks NAME to decide so about OTHER; no effect if it must not
leave|join NAME OTHER
home NAME TO                  asks NAME to move the decisions to TO; by force if that is itself
settle                        ends all faults, waits until all are equal, then upgrades all
check KEY F=V...|deleted      the same in every region
check equal                   digests and vectors

A key's first letter says what it is: c a Channel, t a Thing with a field for each merge rule, i an
Item, all of LATEST fields. What cannot be done, such as a write where no process runs, has no
effect.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from typing import Any
from unittest.mock import patch

from mesh.contracts.model import Durability
from mesh.replication import (
    AlreadyExists,
    NotAMember,
    NotFound,
    NotReplicated,
    RightsShort,
    Transaction,
)
from mesh.replication.core import generations, snapshots
from mesh.replication.core.clocks import covers
from mesh.replication.core.members import State, handed_over
from tests.simulation import residency
from tests.simulation.clients import Call, Client
from tests.simulation.disk import Disk
from tests.simulation.kinds import kind_of, message, parse, value
from tests.simulation.liar import CLAIM, LIES
from tests.simulation.model import Look, Op, Violation
from tests.simulation.reading import check_entity, check_reads
from tests.simulation.region import Region
from tests.simulation.world import World
from tests.support.regions import CHANNEL

_HIDDEN_FROM_OLDER = ("profile", "labels")
_HEARD_WITHIN_MS = 30_000
_LOOK_AGAIN_MS = 500


class StepError(Exception):
    """A line cannot be read."""


class Failure(Exception):
    """What must hold does not, after a line."""

    def __init__(self, number: int, line: str, cause: Exception) -> None:
        super().__init__(f"line {number}: {line}: {type(cause).__name__}: {cause}")
        self.number = number
        self.cause = cause


def play(lines: Iterable[str]) -> World:
    """Runs a script. Raises `Failure` for whatever goes wrong in it, and `StepError`."""
    script = Script()
    # A piece of a snapshot for each entity: else none would break in the middle.
    with patch.object(snapshots, "PIECE_BYTES", 1):
        for number, line in enumerate(lines, 1):
            if line.strip() and not line.startswith("#"):
                try:
                    script.run(line)
                except StepError:
                    raise
                except Exception as error:
                    raise Failure(number, line, error) from error
    return script.world


class Script:
    """Runs lines against a world."""

    world: World
    _call = Call()

    def run(self, line: str) -> None:
        """Runs one line."""
        verb, *words = line.split()
        do = getattr(self, f"do_{verb}", None)
        if do is None:
            raise StepError(f"{line!r}: there is no {verb!r}")
        do(*words)

    def do_regions(self, *names: str) -> None:
        self.world = World(*names)

    # Writes and reads.

    def do_create(self, name: str, keys: str, *fields: str) -> None:
        self._write("create", name, keys, fields)

    def do_write(self, name: str, keys: str, *fields: str) -> None:
        self._write("write", name, keys, fields)

    def do_add(self, name: str, keys: str, *fields: str) -> None:
        self._write("add", name, keys, fields)

    def do_remove(self, name: str, keys: str, *fields: str) -> None:
        self._write("remove", name, keys, fields)

    def do_increment(self, name: str, keys: str, *fields: str) -> None:
        self._write("increment", name, keys, fields)

    def do_attempt(self, name: str, id: str, key: str) -> None:
        self._operation(name, id, key, repeated=False)

    def do_repeat(self, name: str, id: str, key: str) -> None:
        self._operation(name, id, key, repeated=True)

    def _operation(self, name: str, id: str, key: str, *, repeated: bool) -> None:
        region = self.world.regions[name]
        if region.up:
            region.repeats.attempt(
                id,
                lambda: self._write("increment", name, key, ("takeovers=1",), id),
                repeated=repeated,
            )

    def do_delete(self, name: str, keys: str) -> None:
        self._write("delete", name, keys, ())

    def do_put(self, name: str, keys: str, *fields: str) -> None:
        self._write("put", name, keys, fields)

    def do_upsert(self, name: str, keys: str, *fields: str) -> None:
        self._write("upsert", name, keys, fields)

    def do_replace(self, name: str, keys: str, *fields: str) -> None:
        self._write("replace", name, keys, fields)

    def do_look(self, name: str, key: str, reader: str) -> None:
        region = self.world.regions[name]
        etag = region.etag(key) if region.up and not region.damage.concerns(key) else None
        if etag is not None:
            model = self.world.model
            seen = model.held[name].writes
            generation, _ = model.generation(key, seen)
            model.looks[reader] = Look(key, generation, etag, seen, region.hidden)

    def _write(
        self, verb: str, name: str, keys: str, fields: Sequence[str], operation: str = ""
    ) -> None:
        region = self.world.regions[name]
        fields, reader = _reader(fields)
        look = self.world.model.looks.get(reader)
        if not region.up or (reader and (look is None or look.key != keys)):
            return
        if any(map(region.damage.concerns, keys.split(","))):
            return
        model = self.world.model
        seen = region.seen
        values = parse(fields)
        shared = {name: each for name, each in values.items() if name != residency.FIELD}
        ops = []
        may = True
        bulk = verb in ("upsert", "replace")
        for key in keys.split(","):
            generation, lives = model.generation(key, seen)
            may = may and (bulk or lives != (verb == "create"))
            kept = shared
            if verb == "create" or (bulk and not lives):
                clock_ms = region.journal.clock_ms(region.wall_ms)
                generation = generations.last_before(generation, clock_ms) + 1
            if verb == "create" and not region.newest:
                kept = {n: v for n, v in shared.items() if not n.startswith(_HIDDEN_FROM_OLDER)}
            if verb == "replace":
                kept = {name: shared.get(name, "") for name in kind_of(key).rules}
            read = None
            if look is not None:
                unread = look.generation != generation or not look.hidden.isdisjoint(shared)
                read = 0 if unread else look.seen & seen
            ops.append(Op(key, generation, verb, kept, read))

        def change(transaction: Transaction) -> None:
            for op in ops:
                found = transaction.get(kind_of(op.key).message_class, op.key)
                check_entity(model, f"a writer in {name} sees", op.key, seen, found, region.hidden)
                if not bulk:
                    _change(transaction, op, values, look.etag if look else None)
            if bulk:
                messages = [message(op.key, values) for op in ops]
                transaction.upsert(messages, *(values if verb == "upsert" else ()))

        stays: residency.Values = {}
        if residency.FIELD in values:
            stays = {op.key: (op.generation, values[residency.FIELD]) for op in ops}
        number = model.plan(seen)
        if operation:
            model.operations[operation] = model.operations.get(operation, 0) | 1 << number
        for op in ops:
            model.note(number, op)
        try:
            region.write(number, change, stays, self._call)
        except NotAMember:
            if region.journal.members.writes(name):
                raise
        except RightsShort as short:
            region.escrow.ask(short)
        except (AlreadyExists, NotFound) as error:
            if may:
                raise Violation(f"refused without a reason: {error}") from error
        except NotReplicated:
            if region.newest:
                raise
        else:
            if not may:
                raise Violation(f"{verb} was not refused")

    def do_by(self, client: str, *line: str) -> None:
        region = self.world.regions[line[1]]
        session = self.world.clients.setdefault(client, Client())
        if region.up and session.may_use(region):
            self._as(Call(session), line)
            if line[0] == "read":
                session.answered(region)

    def do_sure(self, durability: str, *line: str) -> None:
        self._as(Call(durability=Durability[durability]), line)

    def _as(self, call: Call, line: Sequence[str]) -> None:
        self._call = call
        try:
            self.run(" ".join(line))
        finally:
            self._call = Call()

    def do_read(self, name: str) -> None:
        region = self.world.regions[name]
        if region.up:
            check_reads(self.world.model, region)

    def do_check(self, what: str, *fields: str) -> None:
        regions = list(self.world.regions.values())
        if what == "equal":
            assert len({region.digest() for region in regions}) == 1
            assert all(region.journal.vector == regions[0].journal.vector for region in regions)
            return
        for region in regions:
            check_reads(self.world.model, region)
            _check(region, what, fields)

    # Time and the network.

    def do_wait(self, milliseconds: str) -> None:
        self.world.timeline.run(int(milliseconds))

    def do_partition(self, *names: str) -> None:
        if len(names) == 2:
            self._cut(names[0], names[1])
        else:
            source, target = names[0].split(">")
            self.world.paths[source, target].cut = True

    def do_isolate(self, name: str) -> None:
        for other in self.world.regions:
            if other != name:
                self._cut(name, other)

    def do_split(self, some: str, others: str) -> None:
        for one in some.split(","):
            for other in others.split(","):
                self._cut(one, other)

    def do_ring(self) -> None:
        names = list(self.world.regions)
        for (source, target), path in self.world.paths.items():
            apart = (names.index(source) - names.index(target)) % len(names)
            path.cut = path.cut or apart not in (1, len(names) - 1)

    def _cut(self, one: str, other: str) -> None:
        self.world.paths[one, other].cut = self.world.paths[other, one].cut = True

    def do_heal(self) -> None:
        self.world.heal()

    def do_reset(self, one: str, other: str) -> None:
        for target, source in ((one, other), (other, one)):
            region = self.world.regions[target]
            if region.up:
                for stream in tuple(region.followers[source].streams):
                    stream.reset()

    def do_renew(self, path: str) -> None:
        source, target = path.split(">")
        region = self.world.regions[target]
        if region.up and region.followers[source].streams:
            region.followers[source].open()

    def do_delay(self, path: str, milliseconds: str) -> None:
        source, target = path.split(">")
        self.world.paths[source, target].delay_ms = int(milliseconds)

    def do_tamper(self, path: str) -> None:
        source, target = path.split(">")
        self.world.paths[source, target].tampering = self.world.tampered = True

    def do_lie(self, path: str, how: str) -> None:
        source, target = path.split(">")
        if how not in (*LIES, CLAIM):
            raise StepError(f"there is no lie {how!r}")
        self.world.paths[source, target].lie = how
        self.world.tampered = True

    # Processes, disks, clocks.

    def do_kill(self, name: str) -> None:
        self.world.regions[name].kill()

    def do_power(self, name: str, percent: str) -> None:
        self.world.regions[name].lose_power(int(percent) / 100)

    def do_start(self, name: str) -> None:
        self.world.regions[name].start()

    def do_slow(self, name: str, milliseconds: str) -> None:
        self.world.regions[name].disk_ms = int(milliseconds)

    def do_full(self, name: str) -> None:
        self.world.regions[name].disk_full = True

    def do_room(self, name: str) -> None:
        self.world.regions[name].disk_full = False

    def do_flush(self, name: str) -> None:
        self.world.regions[name].flush()

    def do_trim(self, name: str) -> None:
        self.world.regions[name].trim()

    def do_forget(self, name: str) -> None:
        self.world.regions[name].forget()

    def do_age(self, days: str) -> None:
        # What takes seconds has happened within days.
        end = self.world.timeline.now + _HEARD_WITHIN_MS
        while (unheard := self._unheard()) and self.world.timeline.now < end:
            self.world.timeline.run(_LOOK_AGAIN_MS)
        if unheard and not self._well():
            return  # such a region is not to write for days where nobody hears it: see the runbook
        for region in self.world.regions.values():
            region.skew_ms += int(days) * generations.DAY_MS

    def _well(self) -> bool:
        """Whether every region runs, reaches all others, and can write."""
        running = all(each.up and not each.disk_full for each in self.world.regions.values())
        return running and not any(path.cut for path in self.world.paths.values())

    def _unheard(self) -> bool:
        """Whether a region wrote that had left, and any other does not know that it did."""
        regions = self.world.regions.values()
        return any(
            other.journal.members.of(region.name).state is State.LEFT
            and not handed_over(region.name, region.disk.vector(), [other.journal.vector])
            for region in regions
            for other in regions
            if other is not region
        )

    def do_backup(self, name: str) -> None:
        region = self.world.regions[name]
        region.backup = region.disk.records[: region.disk.synced]

    def do_restore(self, name: str) -> None:
        region = self.world.regions[name]
        if not self._needed(name) and not self._brings_back(name):
            region.replace_disk(region.backup)
            region.start()

    def do_lose(self, name: str) -> None:
        region = self.world.regions[name]
        if not self._needed(name):
            region.replace_disk([])
            region.start()

    def _brings_back(self, name: str) -> bool:
        """Whether a backup has what all disks have lost, and tombstones were forgotten since.

        It may be what they were of: no backup so old is to be restored then.
        """
        backup = Disk()
        backup.replace(self.world.regions[name].backup)
        held = [each.disk.vector() for each in self.world.regions.values() if each.name != name]
        everywhere = {
            origin: max(vector.get(origin, 0) for vector in held) for origin in set().union(*held)
        }
        return bool(self.world.forgotten) and not covers(everywhere, backup.vector())

    def _needed(self, name: str) -> bool:
        """Whether what this region holds may be the only whole state of a damaged entity."""
        return any(
            not self._whole_elsewhere(each.name, key, besides=name)
            for each in self.world.regions.values()
            for _, key in each.damage.entities | each.disk.rotten()
            if each.name != name
        )

    def do_corrupt(self, name: str, key: str, at: str) -> None:
        region = self.world.regions[name]
        if region.up and self._whole_elsewhere(name, key):
            region.damage.in_memory(key, int(at))

    def do_rot(self, name: str, key: str, at: str) -> None:
        if self._whole_elsewhere(name, key):
            self.world.regions[name].disk.rot((CHANNEL, key), int(at))
            self.world.damaged.add((CHANNEL, key))

    def _whole_elsewhere(self, name: str, key: str, besides: str = "") -> bool:
        """Whether another region has a whole state of an entity, with all that this one has of it.

        What no region has is gone; then the best that there is is taken, which no model can tell.
        """
        model = self.world.model
        mine = model.writes_of(key, name)
        return any(
            not mine & ~model.writes_of(key, each.name)
            for each in self.world.regions.values()
            if each.name not in (name, besides)
            and not each.damage.concerns(key)
            and (CHANNEL, key) not in each.disk.rotten()
        )

    def do_clock(self, name: str, milliseconds: str) -> None:
        region = self.world.regions[name]
        region.skew_ms += int(milliseconds)
        region.turned_ms = self.world.timeline.now

    def do_drift(self, name: str, percent: str) -> None:
        region = self.world.regions[name]
        before = region.wall_ms
        region.drift = int(percent) / 100
        region.skew_ms += before - region.wall_ms

    def do_older(self, name: str) -> None:
        self.world.regions[name].run_version(newest=False)

    def do_newer(self, name: str) -> None:
        self.world.regions[name].run_version(newest=True)

    def do_evict(self, name: str, other: str) -> None:
        # Nobody waits for an evicted one's word on what is damaged in all others.
        if not self._needed(other):
            self._decide("evict", name, other)

    def do_rejoin(self, name: str, other: str) -> None:
        self._decide("rejoin", name, other)

    def do_leave(self, name: str, other: str) -> None:
        self._decide("leave", name, other)

    def do_join(self, name: str, other: str) -> None:
        self._decide("join", name, other)

    def _decide(self, verb: str, name: str, other: str) -> None:
        region = self.world.regions[name]
        if region.up:
            region.office.decide(verb, other)

    def do_home(self, name: str, to: str) -> None:
        region = self.world.regions[name]
        if region.up:
            region.office.move_home(to)

    def do_settle(self) -> None:
        self.world.settle()


def _reader(fields: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """The fields, and the reader whose etag comes with them."""
    readers = [field[5:] for field in fields if field.startswith("etag=")]
    return tuple(f for f in fields if not f.startswith("etag=")), "".join(readers)


def _change(transaction: Transaction, op: Op, values: Mapping[str, Any], etag: Any) -> None:
    type, key = kind_of(op.key).message_class, op.key
    match op.verb:
        case "delete":
            transaction.delete(type, key)
        case "add":
            transaction.add(type, key, "labels", *values["labels"])
        case "put":
            transaction.put(type, key, "tags", values["tags"], etag=etag)
        case "remove":
            for name, gone in values.items():
                transaction.remove(type, key, name, *gone, etag=etag)
        case "increment":
            for name, by in values.items():
                transaction.increment(type, key, name, by)
        case "create":
            transaction.create(message(key, values))
        case _:
            transaction.set(message(key, values), *values, etag=etag)


def _check(region: Region, key: str, fields: tuple[str, ...]) -> None:
    found = region.get(key)
    if fields == ("deleted",):
        assert found is None, f"{region.name} has {key}"
        return
    assert found is not None, f"{region.name} has no {key}"
    for field in fields:
        name, _, text = field.partition("=")
        if name == "standing":
            shown = ",".join(sorted(region.standing(key, "note")))
        elif name == "labels":
            shown = ",".join(sorted(value(found, name)))
        else:
            each: Any = found
            for part in name.split("."):
                each = each[part] if isinstance(each, MutableMapping) else getattr(each, part)
            shown = str(each)
        assert shown == text, f"{region.name} has {name} {shown}"
