"""The identity folder: generations swap whole, keys stay private."""

from __future__ import annotations

import shutil
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mesh.identity import authority, folder, keys
from mesh.identity.enrolment import presented
from mesh.identity.errors import IdentityFolderError
from mesh.identity.spiffe import WorkloadId

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
WHO = WorkloadId("mesh.test", "eu", "channels")
ROOT = authority.make_root("mesh.test", NOW)
REGION = authority.make_region_issuer(ROOT, "mesh.test", "eu", NOW)


def _generation(now: datetime = NOW) -> tuple[bytes, bytes, bytes]:
    key = keys.make_key()
    leaf = authority.sign(REGION, keys.signing_request(key), WHO, now)
    return leaf.chain_pem, keys.key_pem(key), leaf.trust_pem


def test_what_is_written_is_read(tmp_path: Path) -> None:
    chain, key, trust = _generation()
    folder.write(tmp_path / "identity", chain, key, trust)
    held = folder.read(tmp_path / "identity")
    assert held.spiffe_id == WHO.uri
    assert (held.chain_pem, held.key_pem, held.trust_pem) == (chain, key, trust)
    assert held.not_after == NOW + authority.LEAF_LIFETIME
    middle = held.not_before + timedelta(seconds=(held.not_after - held.not_before).seconds / 2)
    assert held.half_life == middle


def test_the_key_is_private_and_the_old_one_is_gone(tmp_path: Path) -> None:
    folder.write(tmp_path, *_generation())
    folder.write(tmp_path, *_generation(NOW + timedelta(minutes=30)))
    assert (tmp_path / "tls.key").stat().st_mode & 0o777 == 0o600
    generations = [p for p in tmp_path.iterdir() if p.is_dir() and not p.is_symlink()]
    assert len(generations) == 1
    assert generations[0].stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "tls.crt").readlink() == Path("..data/tls.crt")
    assert (tmp_path / "..data").readlink() == Path(generations[0].name)


def test_a_reader_never_sees_a_certificate_with_another_key(tmp_path: Path) -> None:
    folder.write(tmp_path, *_generation())
    generations = [_generation() for _ in range(4)]
    done = threading.Event()

    def rotate() -> None:
        for number in range(40):
            folder.write(tmp_path, *generations[number % 4])
        done.set()

    writer = threading.Thread(target=rotate)
    writer.start()
    reads = 0
    while not done.is_set() or reads == 0:
        folder.read(tmp_path)  # raises if the key is not the certificate's
        reads += 1
    writer.join()


def test_nothing_there_and_damage_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(IdentityFolderError, match="holds no identity yet"):
        folder.read(tmp_path / "none")
    chain, _, trust = _generation()
    folder.write(tmp_path, chain, keys.key_pem(keys.make_key()), trust)
    with pytest.raises(IdentityFolderError, match=r"the key is not the certificate's\): delete it"):
        folder.read(tmp_path)


def test_a_generation_that_is_gone_is_damage_and_not_an_empty_folder(tmp_path: Path) -> None:
    # What a reader finds that a rotation overtook, except that here the link never moves on.
    folder.write(tmp_path, *_generation())
    shutil.rmtree(tmp_path / (tmp_path / "..data").readlink())
    with pytest.raises(IdentityFolderError, match="lacks files: delete it"):
        folder.read(tmp_path)


def test_an_authority_presents_the_root_so_that_a_pin_can_find_it() -> None:
    chain, _, trust = _generation()
    signer = WorkloadId("mesh.test", "eu", "authority")
    assert presented(WHO.uri, chain, trust) == chain
    assert authority.fingerprint(ROOT.certificate) in authority.fingerprints(
        presented(signer.uri, chain, trust)
    )
