"""Seals: what was checked before need not be read again, and damage is noticed."""

import hashlib
import os

import pytest

from catwalk.files import hashes as file_hashes
from catwalk.files.hashes import file_hash, is_as_sealed, seal


@pytest.fixture
def sealed(tmp_path):
    path = tmp_path / "large.bin"
    path.write_bytes(bytes(range(256)) * 5000)
    seal(path)
    return path


def test_the_hash_is_sha_256(sealed, tmp_path):
    assert file_hash(sealed) == hashlib.sha256(sealed.read_bytes()).hexdigest()
    assert file_hash(None) is file_hash(tmp_path) is file_hash(tmp_path / "absent") is file_hash("a\0b") is None


def test_what_stays_as_it_is_is_not_read_again(sealed, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(file_hashes, "file_hash", lambda path: pytest.fail("read"))
        assert is_as_sealed(sealed)
    os.utime(sealed)  # touched, and then read once
    assert is_as_sealed(sealed)
    monkeypatch.setattr(file_hashes, "file_hash", lambda path: pytest.fail("read twice"))
    assert is_as_sealed(sealed)


@pytest.mark.parametrize("keep_times", [False, True])
@pytest.mark.parametrize("place", [0, 640_000, -1])
def test_a_changed_byte(sealed, place, keep_times):
    times = sealed.stat()
    content = bytearray(sealed.read_bytes())
    content[place] ^= 1
    sealed.write_bytes(content)
    if keep_times:
        os.utime(sealed, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert not is_as_sealed(sealed)


DAMAGED_SEALS = [
    "",
    "{}",
    "[]",
    "3",
    '{"sha256": 1}',
    '{"sha256": "", "state": null}',
    '{"sha256": "", "state": []}',
    "\0",
    "[" * 99_999,
]


@pytest.mark.parametrize("text", DAMAGED_SEALS)
def test_a_damaged_seal(sealed, text):
    sealed.with_name("large.bin.sha256").write_text(text)
    assert not is_as_sealed(sealed)


def test_what_is_missing(sealed):
    sealed.with_name("large.bin.sha256").unlink()
    assert not is_as_sealed(sealed)
    seal(sealed)
    sealed.unlink()
    assert not is_as_sealed(sealed)
