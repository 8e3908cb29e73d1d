"""Join tokens: once, in time, here; and what survives a kill."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mesh.identity import tokens
from mesh.identity.errors import TokenRefused
from mesh.identity.spiffe import DeviceId, OperatorId, WorkloadId
from mesh.identity.tokens import Redeemed, TokenStore

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
ROOT = "ab" * 32
DOMAIN = "mesh.test"
DEVICE = DeviceId(DOMAIN, "encoder-1")
KEY, OTHER = b"key", b"other key"


@pytest.fixture
def store(tmp_path: Path):
    with_root = TokenStore(tmp_path / "tokens.sqlite", "eu", lambda: ROOT)
    yield with_root
    with_root.close()


def test_a_token_names_its_subject_and_pins_the_root(store: TokenStore) -> None:
    token = store.issue(WorkloadId(DOMAIN, "eu", "channels"), NOW, NOW + HOUR)
    text = str(token)
    assert text.startswith(f"isthmus1.eu.workload.channels.{ROOT}.")
    assert tokens.parse(text) == token
    assert token.secret not in repr(token)
    assert store.redeem(text, DOMAIN, NOW, KEY).subject == WorkloadId(DOMAIN, "eu", "channels")


def test_secrets_have_256_bits_and_differ(store: TokenStore) -> None:
    secrets = {store.issue(DEVICE, NOW, NOW + HOUR).secret for _ in range(20)}
    assert len(secrets) == 20
    assert all(len(secret) >= 43 for secret in secrets)  # 32 bytes in base64url


def test_a_token_is_valid_for_one_key(store: TokenStore) -> None:
    text = str(store.issue(DEVICE, NOW, NOW + HOUR))
    first = store.redeem(text, DOMAIN, NOW, KEY)
    assert first == Redeemed(DEVICE, NOW)
    with pytest.raises(TokenRefused, match="unknown, used or expired"):
        store.redeem(text, DOMAIN, NOW, OTHER)
    # Whose answer was lost asks again, and is told the same.
    assert store.redeem(text, DOMAIN, NOW + HOUR / 2, KEY) == first
    with pytest.raises(TokenRefused, match="unknown, used or expired"):
        store.redeem(text, DOMAIN, NOW + HOUR, KEY)


def test_tokens_of_a_former_version_are_read(tmp_path: Path, store: TokenStore) -> None:
    used, unused = (str(store.issue(DEVICE, NOW, NOW + HOUR)) for _ in range(2))
    store.redeem(used, DOMAIN, NOW, KEY)
    store.close()
    with closing(sqlite3.connect(tmp_path / "tokens.sqlite")) as database:
        database.execute("ALTER TABLE tokens DROP COLUMN key_hash")
    again = TokenStore(tmp_path / "tokens.sqlite", "eu", lambda: ROOT)
    with pytest.raises(TokenRefused, match="unknown, used or expired"):
        again.redeem(used, DOMAIN, NOW, KEY)
    assert again.redeem(unused, DOMAIN, NOW, KEY).subject == DEVICE
    again.close()


def test_a_token_expires(store: TokenStore) -> None:
    text = str(store.issue(DEVICE, NOW, NOW + HOUR))
    with pytest.raises(TokenRefused, match="unknown, used or expired"):
        store.redeem(text, DOMAIN, NOW + HOUR, KEY)


def test_a_token_of_another_region_names_the_right_one(tmp_path: Path, store: TokenStore) -> None:
    other = TokenStore(tmp_path / "us.sqlite", "us", lambda: ROOT)
    text = str(other.issue(DEVICE, NOW, NOW + HOUR))
    other.close()
    with pytest.raises(TokenRefused, match="of region us: it is valid there only, not in eu"):
        store.redeem(text, DOMAIN, NOW, KEY)


def test_a_token_of_another_authority_is_refused(tmp_path: Path, store: TokenStore) -> None:
    text = str(store.issue(DEVICE, NOW, NOW + HOUR)).replace(ROOT, "cd" * 32)
    with pytest.raises(TokenRefused, match="another authority"):
        store.redeem(text, DOMAIN, NOW, KEY)


def test_the_subject_cannot_be_changed(store: TokenStore) -> None:
    text = str(store.issue(DEVICE, NOW, NOW + HOUR))
    with pytest.raises(TokenRefused):
        store.redeem(text.replace("device.encoder-1", "workload.authority"), DOMAIN, NOW, KEY)
    assert store.redeem(text, DOMAIN, NOW, KEY).subject == DEVICE


@pytest.mark.parametrize(
    "subject", [WorkloadId(DOMAIN, "us", "channels"), OperatorId(DOMAIN, "root")]
)
def test_nobody_else_joins_by_token(store: TokenStore, subject: WorkloadId | OperatorId) -> None:
    with pytest.raises(TokenRefused, match="does not join in region eu"):
        store.issue(subject, NOW, NOW + HOUR)


@pytest.mark.parametrize(
    "text", ["", "isthmus1", "isthmus2.eu.device.a." + ROOT + ".x", "a.b.c.d.e.f"]
)
def test_what_is_no_token_is_refused_without_being_repeated(store: TokenStore, text: str) -> None:
    with pytest.raises(TokenRefused, match="not a join token"):
        store.redeem(text, DOMAIN, NOW, KEY)


def test_only_hashes_are_stored(tmp_path: Path, store: TokenStore) -> None:
    token = store.issue(DEVICE, NOW, NOW + HOUR)
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert token.secret.encode() not in content
    assert (tmp_path / "tokens.sqlite").stat().st_mode & 0o777 == 0o600


def test_a_used_token_stays_used_after_reopening(tmp_path: Path, store: TokenStore) -> None:
    used, unused = (str(store.issue(DEVICE, NOW, NOW + HOUR)) for _ in range(2))
    store.redeem(used, DOMAIN, NOW, KEY)
    store.close()
    again = TokenStore(tmp_path / "tokens.sqlite", "eu", lambda: ROOT)
    with pytest.raises(TokenRefused):
        again.redeem(used, DOMAIN, NOW, OTHER)
    assert again.redeem(unused, DOMAIN, NOW, KEY).subject == DEVICE
    again.close()


def test_of_many_who_use_a_token_at_once_one_gets_it(tmp_path: Path, store: TokenStore) -> None:
    text = str(store.issue(DEVICE, NOW, NOW + HOUR))

    def attempt(number: int) -> bool:
        mine = TokenStore(tmp_path / "tokens.sqlite", "eu", lambda: ROOT)
        try:
            mine.redeem(text, DOMAIN, NOW, bytes([number]))
        except TokenRefused:
            return False
        finally:
            mine.close()
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(8))) == 1


def test_expired_tokens_are_forgotten(tmp_path: Path, store: TokenStore) -> None:
    store.issue(DEVICE, NOW, NOW + HOUR)
    store.issue(DEVICE, NOW + 2 * HOUR, NOW + 3 * HOUR)
    with sqlite3.connect(tmp_path / "tokens.sqlite") as database:
        assert database.execute("SELECT count(*) FROM tokens").fetchone() == (1,)
    database.close()


_REDEEM_AND_WAIT = """
import sys, time
from datetime import UTC, datetime
from pathlib import Path
from mesh.identity.tokens import TokenStore
store = TokenStore(Path(sys.argv[1]), "eu", lambda: sys.argv[2])
store.redeem(sys.argv[3], "mesh.test", datetime(2026, 1, 1, tzinfo=UTC), b"k")
print("redeemed", flush=True)
time.sleep(60)
"""


def test_a_used_token_stays_used_after_kill_9(tmp_path: Path, store: TokenStore) -> None:
    text = str(store.issue(DEVICE, NOW, NOW + HOUR))
    command = [sys.executable, "-c", _REDEEM_AND_WAIT, str(tmp_path / "tokens.sqlite"), ROOT, text]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "redeemed\n"
        os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(TokenRefused):
        store.redeem(text, DOMAIN, NOW, OTHER)
