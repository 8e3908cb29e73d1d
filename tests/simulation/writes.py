"""The lines that write in a seed's script."""

from __future__ import annotations

from random import Random

CHANNELS = ("c1", "c2", "c3")
THINGS = ("t1", "t2")
ITEMS = ("i1", "i2", "i3", "i4")
LABELS = ("x", "y", "z")
TAGS = ("a", "b")
READERS = ("e1", "e2", "e3")


def write(random: Random, names: list[str], kinds: str) -> list[str]:
    """Lines by which a region writes to an entity of one of some kinds."""
    name = random.choice(names)
    match random.choice(kinds) if len(kinds) > 1 else kinds:
        case "t":
            if random.random() < 0.15:
                return random.choice((_race, _form, drain))(random, names)
            return _thing(random, name)
        case "i":
            return [_item(random, name)]
    return [channel(random, name)]


def _some(random: Random, keys: tuple[str, ...], likely: float = 0.3) -> str:
    if random.random() < likely:
        return ",".join(sorted(random.sample(keys, random.randint(2, len(keys)))))
    return random.choice(keys)


def channel(random: Random, name: str) -> str:
    """A line by which a region writes to channels."""
    line = _shared(random, name)
    number = random.randint(1, 9999)
    stays = f"home_region=stays-{name}-{number}"
    if random.random() < 0.05:
        return f"write {name} {random.choice(CHANNELS)} {stays}"
    with_fields = line.startswith(("create", "write"))
    return f"{line} {stays}" if with_fields and random.random() < 0.2 else line


def _shared(random: Random, name: str) -> str:
    number = random.randint(1, 9999)
    keys = random.choice(CHANNELS)
    if random.random() < 0.3:
        keys = ",".join(sorted(random.sample(CHANNELS, random.randint(2, 3))))
    match random.randrange(9):
        case 0:
            return f"create {name} {keys} title=w{number} labels=x takeovers=1"
        case 1:
            return f"delete {name} {keys}"
        case 2 | 3:
            return f"write {name} {keys} title=w{number}"
        case 4:
            return f"write {name} {keys} profile.width={number} title=w{number}"
        case 5:
            epoch = random.randint(1, 3)
            return f"write {name} {keys} assignment.epoch={epoch} assignment.region={name}"
        case 6:
            return f"add {name} {keys} labels={random.choice(LABELS)}"
        case 7:
            return f"remove {name} {keys} labels={random.choice(LABELS)}"
    return f"increment {name} {keys} takeovers={random.choice((-1, 1, 2, 5))}"


def _thing(random: Random, name: str) -> list[str]:
    number = random.randint(1, 9999)
    key = random.choice(THINGS)
    keys = _some(random, THINGS, 0.2)
    reader = random.choice(READERS)
    match random.randrange(14):
        case 0:
            fields = [f"stock={random.randint(0, 9)}", "tags=a:0", f"first=f{number}", "note=n0"]
            return [f"create {name} {keys} labels=x {random.choice(fields)} latest=w{number}"]
        case 1:
            return [f"delete {name} {keys}"] if random.random() < 0.4 else []
        case 2:
            return [f"write {name} {keys} latest=w{number} first=f{number}"]
        case 3:
            return [f"write {name} {keys} first=f{number}"]
        case 4:
            field = random.choice(("most", "least"))
            return [f"write {name} {keys} {field}={random.randint(-9, 99)}"]
        case 5 | 6:
            note = f"n{number}" if random.random() < 0.9 else ""
            return [f"write {name} {keys} note={note}"]
        case 7:
            return [f"put {name} {keys} tags={random.choice(TAGS)}:{number}"]
        case 8:
            return [f"remove {name} {keys} tags={','.join(_tags(random))}"]
        case 9:
            way = random.choice(("add", "remove"))
            return [f"{way} {name} {keys} labels={random.choice(LABELS)}"]
        case 10:
            return [f"look {name} {key} {reader}"]
        case 11:
            return [_with_etag(random, name, key, reader)]
        case 12:
            return [f"increment {name} {keys} count={random.choice((-1, 1, 5))}"]
    return [f"increment {name} {keys} stock={random.choice((-7, -3, -2, -1, -1, 1, 4, 9))}"]


def _race(random: Random, names: list[str]) -> list[str]:
    """Several regions write to one field at once."""
    key = random.choice(THINGS)
    number = random.randint(1, 9999)
    field = random.choice(("first=f", "first=f", "note=n", "least=", "latest=w"))
    some = random.sample(names, min(len(names), 3))
    if random.random() < 0.5:
        lines = [f"delete {some[0]} {key}", "wait 50"]
        verb = f"create {{}} {key} stock=3 {field}{{}}"
    else:
        lines, verb = [], f"write {{}} {key} {field}{{}}"
    for name in some:
        lines += [verb.format(name, number + names.index(name)), *_pause(random)]
    return lines


def _form(random: Random, names: list[str]) -> list[str]:
    """A form is open while others write, and then sent."""
    key, reader = random.choice(THINGS), random.choice(READERS)
    one, other, sender = (random.choice(names) for _ in range(3))
    number = random.randint(1, 9999)
    between = [f"write {other} {key} note=m{number}", f"put {other} {key} tags=a:{number}"]
    if random.random() < 0.2:
        one = sender = other
        between = [
            f"delete {other} {key}",
            f"create {other} {key} labels=x,y,z tags=a:1,b:1 note=m{number}",
        ]
    end = _with_etag(random, sender, key, reader)
    return [f"look {one} {key} {reader}", *between, *_pause(random), end]


def drain(random: Random, names: list[str]) -> list[str]:
    """Several regions take from a bounded counter, which run out of rights and ask for them."""
    key = random.choice(THINGS)
    lines = []
    for name in random.sample(names, min(len(names), random.randint(2, 4))):
        lines += [f"increment {name} {key} stock=-{random.randint(1, 4)}", *_pause(random)] * 2
    return lines


def _pause(random: Random) -> list[str]:
    return random.choice(([], [], ["wait 5"], ["wait 50"]))


def _with_etag(random: Random, name: str, key: str, reader: str) -> str:
    number = random.randint(1, 9999)
    match random.randrange(4):
        case 0:
            line = f"write {name} {key} note=n{number}"
        case 1:
            line = f"put {name} {key} tags={random.choice(TAGS)}:{number}"
        case 2:
            line = f"remove {name} {key} tags={','.join(_tags(random))}"
        case _:
            line = f"remove {name} {key} labels={random.choice(LABELS)}"
    return f"{line} etag={reader}"


def _tags(random: Random) -> list[str]:
    return sorted(random.sample(TAGS, random.randint(1, 2)))


def _item(random: Random, name: str) -> str:
    number = random.randint(1, 9999)
    keys = _some(random, ITEMS, 0.5)
    match random.randrange(7):
        case 0:
            return f"delete {name} {keys}"
        case 1:
            return f"create {name} {keys} first=a{number}"
        case 2:
            return f"write {name} {keys} second=b{number} third=c{number}"
        case 3:
            return f"replace {name} {keys} second=b{number}"
        case 4:
            return f"upsert {name} {keys} first=a{number}"
        case 5:
            return f"upsert {name} {keys} second=b{number} third=c{number}"
    return f"upsert {name} {keys} third=c{number} first=a{number}"
