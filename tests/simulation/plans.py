"""A seed's script: writes, reads and faults of a few kinds.

Each seed draws which faults there are at all (swarm testing, Groce et al., 2012): a run in which
everything happens hides what one fault alone shows; in some none happens.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from random import Random

from tests.simulation import writes
from tests.simulation.liar import LIES

_CALLS = frozenset(
    ("read", "create", "write", "add", "remove", "increment", "put", "upsert", "delete")
)

Maker = Callable[[Random, list[str]], list[str]]

_MANY = 20
"""A world of so many regions has fewer steps, and passes in less time: each pair has its link."""

_LONGEST_MS = 6000


def plan(
    seed: int, most_regions: int = 100, focus: Collection[str] = (), least_regions: int = 0
) -> list[str]:
    """The lines of a seed; with a `focus`, of faults of these kinds alone, such as "trim"."""
    random = Random(f"isthmus {seed}")  # noqa: S311 # repeatable on purpose
    count = min(most_regions, _regions(random))
    if count < least_regions:
        count = Random(f"regions {seed}").randint(least_regions, most_regions)  # noqa: S311 # same
    names = [f"r{n}" for n in range(count)]
    faults = [fault for fault in FAULTS if random.random() < 0.25]
    # Drawn apart, so that other seeds go on showing what they showed.
    if Random(f"isthmus lies {seed}").random() < 0.2:  # noqa: S311 # the same
        faults.append(_lie)
    if focus:
        kinds = (*FAULTS, _lie, _members, _operation)
        faults = [fault for fault in kinds if fault.__name__.removeprefix("_") in focus]
    steps = random.randint(10, 60) if len(names) < _MANY else 800 // len(names)
    lines = ["regions " + " ".join(names)]
    kinds = _kinds(seed)
    lines += _first(random, names, kinds)
    for _ in range(steps):
        dice = random.random()
        if dice < 0.50:
            lines += writes.write(random, names, kinds)
        elif dice < 0.72:
            lines.append(f"wait {_pause(random)}")
        elif dice < 0.80 or not faults:
            lines.append(f"read {random.choice(names)}")
        else:
            lines += random.choice(faults)(random, names)
    if not focus:
        _among(lines, Random(f"operations {seed}"), 0.3, _operation, names)  # noqa: S311 # as above
        _among(lines, Random(f"damage {seed}"), 0.25, _damage, names)  # noqa: S311 # as above
        _among(lines, Random(f"members {seed}"), 0.25, _members, names)  # noqa: S311 # as above
        _among(lines, Random(f"future {seed}"), 0.1, _future, names)  # noqa: S311 # as above
        if "t" in kinds:
            _among(lines, Random(f"rights {seed}"), 0.4, _rights, names)  # noqa: S311 # as above
    if (focus and "calls" in focus) or (not focus and seed % 8 in (3, 6)):
        lines = list(_with_clients(lines, Random(f"clients {seed}")))  # noqa: S311 # as above
    if len(names) >= _MANY:
        lines = list(_hurried(lines))
    return [*lines, "settle"]


def _hurried(lines: list[str]) -> Iterator[str]:
    """The long waits end once there were some."""
    left = _LONGEST_MS
    for line in lines:
        verb, *words = line.split()
        if verb == "wait":
            milliseconds = int(words[0])
            yield line if milliseconds <= max(100, left) else "wait 100"
            left -= milliseconds
        else:
            yield line


def _kinds(seed: int) -> str:
    """Of which kinds the entities of a seed are; the others go on showing what they showed."""
    return ("t", "i", "t", "cti")[seed // 4 % 4] if seed % 4 == 2 else "c"


def _with_clients(lines: list[str], random: Random) -> Iterator[str]:
    """Sessions read and write, and writes wait for the disks of several regions."""
    for line in lines:
        dice = random.random()
        if line.split()[0] not in _CALLS or dice > 0.8:
            yield line
        elif dice < 0.5 or line.startswith("read"):
            yield f"by s{random.randint(1, 3)} {line}"
        else:
            yield f"sure {random.choice(('ONE_PEER', 'MAJORITY'))} {line}"


def _among(lines: list[str], random: Random, share: float, make: Maker, names: list[str]) -> None:
    """A share of the seeds has these too; the rest of a plan is as it is without them."""
    if random.random() < share:
        for _ in range(random.randint(1, 4)):
            at = random.randint(3, len(lines))
            lines[at:at] = make(random, names)


def _regions(random: Random) -> int:
    dice = random.random()
    if dice < 0.85:
        return 3
    if dice < 0.98:
        return random.randint(4, 6)
    return random.randint(7, 12) if dice < 0.999 else random.choice((20, 40, 100))


def _pause(random: Random) -> int:
    return random.choice((1, 2, 3, 5, 10, 10, 20, 50, 100, 300, 1000, 4500))


def _write(random: Random, name: str) -> str:
    return writes.channel(random, name)


def _first(random: Random, names: list[str], kinds: str) -> Iterator[str]:
    """What is there from the beginning."""
    yield f"create {random.choice(names)} c1,c2 title=w0 labels=x"
    if "t" in kinds:
        yield f"create {random.choice(names)} t1 latest=w0 labels=x stock=9 tags=a:0,b:0"
    if "i" in kinds:
        yield f"upsert {random.choice(names)} i1,i2,i3 first=a0 second=b0"
    yield "wait 30"


def _two(random: Random, names: list[str]) -> tuple[str, str]:
    one, other = random.sample(names, 2)
    return one, other


def _partition(random: Random, names: list[str]) -> list[str]:
    one, other = _two(random, names)
    shuffled = random.sample(names, len(names))
    at = random.randint(1, len(names) - 1)
    split = f"split {','.join(shuffled[:at])} {','.join(shuffled[at:])}"
    return [
        random.choice(
            (
                f"partition {one} {other}",
                f"partition {one}>{other}",
                f"isolate {one}",
                split,
                "ring",
            )
        )
    ]


def _flap(random: Random, names: list[str]) -> list[str]:
    one, other = _two(random, names)
    lines = []
    for _ in range(random.randint(2, 4)):
        lines += [f"partition {one} {other}", f"wait {_pause(random)}", "heal", "wait 20"]
    return lines


def _heal(random: Random, names: list[str]) -> list[str]:
    return ["heal"]


def _streams(random: Random, names: list[str]) -> list[str]:
    one, other = _two(random, names)
    return [
        random.choice(
            (
                f"reset {one} {other}",
                f"renew {one}>{other}",
                f"delay {one}>{other} {random.choice((20, 200, 1500))}",
            )
        )
    ]


def _kill(random: Random, names: list[str]) -> list[str]:
    name = random.choice(names)
    return [f"kill {name}", *_maybe_wait(random), f"start {name}"]


def _power(random: Random, names: list[str]) -> list[str]:
    name = random.choice(names)
    return [f"power {name} {random.choice((0, 30, 80))}", *_maybe_wait(random), f"start {name}"]


def _down(random: Random, names: list[str]) -> list[str]:
    return [f"{random.choice(('kill', 'start'))} {random.choice(names)}"]


def _disk(random: Random, names: list[str]) -> list[str]:
    name = random.choice(names)
    return [
        random.choice(
            (f"slow {name} {random.choice((1, 20, 200))}", f"full {name}", f"room {name}")
        )
    ]


def _flush(random: Random, names: list[str]) -> list[str]:
    name = random.choice(names)
    lines = [f"flush {name}", *_maybe_wait(random)]
    if random.random() < 0.4:
        lines += [f"wait {random.choice((1, 2, 4))}", f"power {name} 100", f"start {name}"]
    return lines


def _backup(random: Random, names: list[str]) -> list[str]:
    name = random.choice(names)
    if random.random() < 0.5:
        return [f"{random.choice(('backup', 'restore'))} {name}"]
    other = random.choice([each for each in names if each != name])
    between = [
        *([f"slow {other} {random.choice((20, 200))}"] if random.random() < 0.4 else ()),
        _write(random, name),
        *_maybe_wait(random),
        *(_partition(random, names) if random.random() < 0.3 else ()),
    ]
    after = [*_maybe_wait(random), _write(random, name), *_maybe_wait(random)]
    return [f"backup {name}", *between, f"restore {name}", *after]


def _lose(random: Random, names: list[str]) -> list[str]:
    return [f"lose {random.choice(names)}"]


def _trim(random: Random, names: list[str]) -> list[str]:
    """Journals are cut where all is stored; then a region may come back with less."""
    lines = ["wait 1500", *(f"flush {name}" for name in names), "wait 30"]
    lines += [_write(random, random.choice(names)), "wait 10", *(f"trim {n}" for n in names)]
    if random.random() < 0.7:
        name = random.choice(names)
        others = [each for each in names if each != name]
        if random.random() < 0.3:
            lines.append(f"slow {name} {random.choice((10, 30))}")
        lines += [*_maybe_wait(random), f"{random.choice(('lose', 'lose', 'restore'))} {name}"]
        for _ in range(random.randint(1, 6)):  # while the snapshot is on its way
            lines.append(_write(random, random.choice((name, *others))))
            lines.append(f"wait {random.choice((2, 5, 10, 20, 30))}")
            if random.random() < 0.3:
                other = random.choice(others)
                lines.append(random.choice((f"tamper {other}>{name}", f"flush {name}")))
        if random.random() < 0.5:
            lines += random.choice((_streams, _kill, _power))(random, names)
    return lines


def _forget(random: Random, names: list[str]) -> list[str]:
    """Tombstones grow old and are dropped; then a region may come back that has not heard."""
    name, other = _two(random, names)
    key = random.choice(writes.CHANNELS)
    lines = ["wait 1500"] * (random.random() < 0.7)
    lines += [f"create {other} {key} title=old", "wait 20"]
    lines += [f"backup {name}"] * (random.random() < 0.7)
    if random.random() < 0.3:
        lines += [f"isolate {name}", f"create {name} {key} title=alone labels=z"]
    lines.append(f"delete {other} {key}")
    forget = [f"forget {n}" for n in names]
    lines += [f"wait {random.choice((20, 1500))}", "age 3", *forget, "wait 1500", *forget]
    lines += [*(f"flush {n}" for n in names), "wait 30"]
    lines += [*(_write(random, n) for n in names), "wait 30", *forget]
    if random.random() < 0.5:
        lines += [f"trim {n}" for n in names]
    if random.random() < 0.6:
        lines.append(f"{random.choice(('lose', 'restore', 'restore'))} {name}")
    lines.append(f"{random.choice(('create', 'write', 'add'))} {name} {key} labels=y")
    if lines[-1].startswith("write"):
        lines[-1] = f"write {name} {key} title=late"
    return [*lines, *_maybe_wait(random), *_heal(random, names)]


def _damage(random: Random, names: list[str]) -> list[str]:
    name, key, at = random.choice(names), random.choice(writes.CHANNELS), random.randint(0, 200)
    if random.random() < 0.5:
        return [f"corrupt {name} {key} {at}", *_maybe_wait(random)]
    rot = [f"flush {name}", "wait 20", f"rot {name} {key} {at}"]
    return [*rot, f"kill {name}", *_maybe_wait(random), f"start {name}"]


def _clock(random: Random, names: list[str]) -> list[str]:
    name = random.choice(names)
    if random.random() < 0.3:
        return [f"drift {name} {random.choice((-50, 0, 50, 300))}"]
    return [f"clock {name} {random.choice((-60_000, -5_000, -20, 20, 5_000, 60_000))}"]


def _future(random: Random, names: list[str]) -> list[str]:
    """A clock is so far ahead that the others wait for what is written under it."""
    name, ahead_ms = random.choice(names), random.choice((6, 30)) * 60_000
    lines = [f"clock {name} {ahead_ms}", _write(random, name), *_maybe_wait(random)]
    return [*lines, f"clock {name} {-ahead_ms}"] if random.random() < 0.7 else lines


def _rights(random: Random, names: list[str]) -> list[str]:
    """Rights of a bounded counter are spent and given, and a backup knows nothing of that."""
    name, key = random.choice(names), random.choice(writes.THINGS)
    lines = [f"create {random.choice(names)} {key} stock={random.randint(2, 9)}", "wait 50"]
    lines += [f"backup {name}", *writes.drain(random, names), *_maybe_wait(random)]
    if random.random() < 0.5:
        lines += [f"isolate {name}", *(["wait 4500"] if random.random() < 0.5 else ())]
    lines.append(f"{random.choice(('restore', 'restore', 'lose'))} {name}")
    for _ in range(random.randint(1, 3)):
        lines += [*writes.drain(random, [name, random.choice(names)]), *_maybe_wait(random)]
    if random.random() < 0.3:
        lines += _evict(random, names)
    return [*lines, *_heal(random, names)]


def _version(random: Random, names: list[str]) -> list[str]:
    return [f"{random.choice(('older', 'newer'))} {random.choice(names)}"]


def _tamper(random: Random, names: list[str]) -> list[str]:
    one, other = _two(random, names)
    return [f"tamper {one}>{other}"]


def _operation(random: Random, names: list[str]) -> list[str]:
    one, other = _two(random, names)
    id, key = f"o{random.getrandbits(40)}", random.choice(writes.CHANNELS[:2])
    first, same, again = (
        f"attempt {one} {id} {key}",
        f"repeat {one} {id} {key}",
        f"repeat {other} {id} {key}",
    )
    shortly = f"wait {random.choice((5, 8, 12, 16, 20, 25))}"
    match random.randrange(4):
        case 0:
            return [first, *_maybe_wait(random), again, *_maybe_wait(random), same]
        case 1:  # the repeat overtakes the first attempt
            return [again, shortly, f"isolate {one}", *_kill(random, [one]), first, "heal", same]
        case 2:
            return [*_partition(random, names), first, again, *_maybe_wait(random), again]
    return [f"delay {other}>{one} 20", again, shortly, same, *_maybe_wait(random), first, "heal"]


def _lie(random: Random, names: list[str]) -> list[str]:
    origin, relay, target = random.sample(names, 3)
    lines = [f"lie {relay}>{target} {random.choice(tuple(LIES))}"]
    if random.random() < 0.7:
        # Past the time after which the target asks for the origin's changes elsewhere.
        lines += [f"partition {origin} {target}", "wait 4500"]
    for _ in range(random.randint(1, 3)):
        lines += [_write(random, origin), *_maybe_wait(random)]
    return [*lines, f"wait {_pause(random)}"]


def _evict(random: Random, names: list[str]) -> list[str]:
    home, other = names[0], random.choice(names)
    if random.random() < 0.2:
        return [f"{random.choice(('evict', 'rejoin'))} {random.choice(names)} {other}"]
    alone = [_write(random, other), *_maybe_wait(random)]
    return [
        f"isolate {other}",
        *alone,
        f"evict {home} {other}",
        *alone,
        *(["heal"] if random.random() < 0.5 else ()),
        *_maybe_wait(random),
        *([f"rejoin {home} {other}"] if random.random() < 0.5 else ()),
    ]


def _leave(random: Random, names: list[str]) -> list[str]:
    home, other = names[0], random.choice(names)
    if random.random() < 0.3:
        return [f"{random.choice(('leave', 'join'))} {random.choice(names)} {other}"]
    return [
        *([f"partition {home} {other}"] if random.random() < 0.3 and home != other else ()),
        f"leave {home} {other}",
        _write(random, other),
        *_maybe_wait(random),
        _write(random, other),
        *([f"join {home} {other}"] if random.random() < 0.3 else ()),
    ]


def _home(random: Random, names: list[str]) -> list[str]:
    home, other = names[0], random.choice(names[1:])
    if random.random() < 0.3:
        return [f"home {home} {other}"]
    return [
        f"isolate {home}",
        *(f"evict {home} {random.choice(names)}" for _ in range(random.randint(0, 3))),
        f"home {other} {other}",
        f"evict {other} {random.choice(names)}",
        *_maybe_wait(random),
        "heal",
    ]


def _members(random: Random, names: list[str]) -> list[str]:
    return random.choice((_evict, _evict, _leave, _home))(random, names)


FAULTS: tuple[Maker, ...] = (
    _partition,
    _flap,
    _heal,
    _streams,
    _kill,
    _power,
    _down,
    _disk,
    _flush,
    _backup,
    _lose,
    _trim,
    _forget,
    _clock,
    _version,
    _tamper,
)


def _maybe_wait(random: Random) -> list[str]:
    return [f"wait {_pause(random)}"] if random.random() < 0.5 else []
