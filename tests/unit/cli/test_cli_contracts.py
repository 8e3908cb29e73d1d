"""`isthmus contracts`: exit codes, formats, and input that must never pass."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from mesh.cli.contracts import Format
from mesh.cli.exits import Exit
from mesh.cli.main import run
from mesh.compat import sources
from mesh.compat.render import FORMATS
from tests.unit.compat.shops import SHOP, version

CALLERS = ('["tills", "stock"]', '["tills"]')


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return version(tmp_path / "old")


@pytest.fixture
def new(tmp_path: Path) -> Path:
    return version(tmp_path / "new", CALLERS)


def failed(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """The code and the message of a command that says nothing on stdout."""
    code = run(["contracts", *map(str, arguments)])
    out, errors = capsys.readouterr()
    assert out == ""
    assert "internal error" not in errors
    return code, errors


def test_codes(old: Path, new: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["contracts", "lint", str(old)]) == Exit.OK
    assert run(["contracts", "check", str(old), "--against", str(old)]) == Exit.OK
    assert run(["contracts", "check", str(new), "--against", str(old)]) == Exit.FAILED
    text = capsys.readouterr().out
    line = next(n for n, each in enumerate(SHOP.splitlines(), 1) if "options.v1.method" in each)
    assert f"{new}/shop.proto:{line}: shop.v1.OrderService/GetOrder: workload stock may not" in text
    assert "let it call until no region sees it call" in text and f"against {old}" in text


def test_quiet_tells_what_stops_and_nothing_else(
    old: Path, new: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    safe = version(tmp_path / "safe", ('owner: "stores"', 'owner: "sales"'))
    assert run(["contracts", "check", str(safe), "--against", str(old), "--quiet"]) == Exit.OK
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert run(["contracts", "check", str(new), "--against", str(old), "--quiet"]) == Exit.FAILED
    assert "CALLER_REMOVED" in capsys.readouterr().out


def test_a_contract_that_is_refused_by_itself_is_no_pass(
    old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = version(tmp_path / "wrong", ("      timeout: {seconds: 3}\n", ""))
    for arguments in (["lint", str(wrong)], ["check", str(wrong), "--against", str(old)]):
        assert run(["contracts", *arguments]) == Exit.FAILED
        assert "[TIMEOUT_MISSING]" in capsys.readouterr().out


@pytest.mark.parametrize("format", list(Format))
def test_formats(format: Format, old: Path, new: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = run(["contracts", "check", str(new), "--against", str(old), "-f", format.value])
    assert code == Exit.FAILED
    out = capsys.readouterr().out
    file = f"{new}/shop.proto"
    match format:
        case Format.JSON:
            (finding,) = json.loads(out)["findings"]
            assert (finding["rule"], finding["file"]) == ("CALLER_REMOVED", file)
            assert finding["owners"] == ["sales", "shops", "stores"]
        case Format.GITLAB:
            (issue,) = json.loads(out)
            assert issue["location"]["path"] == file and issue["severity"] == "critical"
            assert len(issue["fingerprint"]) == 64
        case Format.SARIF:
            (sarif,) = json.loads(out)["runs"]
            (result,) = sarif["results"]
            assert (result["ruleId"], result["level"]) == ("CALLER_REMOVED", "error")
            assert [rule["id"] for rule in sarif["tool"]["driver"]["rules"]] == ["CALLER_REMOVED"]
        case Format.JUNIT:
            suite = ElementTree.fromstring(out)  # noqa: S314 - of our own making
            assert suite.attrib["failures"] == "1"
            failure = suite.find("testcase/failure")
            assert failure is not None and file in str(failure.text)
        case Format.GITHUB:
            assert out.startswith(f"::error file={file},line=")
            assert "title=CALLER_REMOVED::" in out
        case Format.MARKDOWN:
            assert out.startswith("## Contract gate: breaking\n\nThis change is stopped.")
            assert "**Owners to ask:** sales" in out
            assert "- No order makes these safe: `shop.v1.OrderService/GetOrder`" in out
        case Format.TEXT:
            assert out.count("CALLER_REMOVED") == 1
    assert set(FORMATS) == {each.value for each in Format}


def test_what_is_told_cannot_break_a_format(
    old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    owner = 'owner: "a|b\\n::error::<x>\\x1b[31m\\x7f\\x01"'
    odd = version(tmp_path / "odd", ('owner: "stores"', owner))
    for format in ("json", "gitlab", "sarif"):
        assert run(["contracts", "check", str(odd), "--against", str(old), "-f", format]) == Exit.OK
        out = capsys.readouterr().out
        assert not {"\x1b", "\x7f", "\x01"} & set(out)
        assert json.loads(out)
    for format in ("github", "markdown", "junit"):
        assert run(["contracts", "check", str(odd), "--against", str(old), "-f", format]) == Exit.OK
        out = capsys.readouterr().out
        assert "\n::error::" not in out
        assert "\x1b" not in out and "\x01" not in out
        assert format == "github" or "<x>" not in out
        if format == "junit":
            assert ElementTree.fromstring(out).tag == "testsuite"  # noqa: S314 - our own making


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    version(folder / "proto")
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=first")
    text = SHOP.replace(*CALLERS)
    (folder / "proto" / "shop.proto").write_text(text)
    return folder


def test_a_git_ref_is_what_was_there(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(repository)
    for ref in ("main", "HEAD", "HEAD:proto"):
        assert run(["contracts", "check", "--against", ref]) == Exit.FAILED
        assert f"against {ref}" in capsys.readouterr().out
    for ref, code, said in (
        ("missing", Exit.NOT_FOUND, "is no folder, no image and no git ref here"),
        ("HEAD:elsewhere", Exit.NOT_FOUND, "elsewhere is not in"),
        ("--output=x", Exit.NOT_FOUND, "is no folder"),
    ):
        assert failed(capsys, "check", f"--against={ref}")[0] == code
        assert said in failed(capsys, "check", f"--against={ref}")[1]
    (repository / "main").mkdir()
    code, errors = failed(capsys, "check", "--against", "main")
    assert code == Exit.USAGE and "is a path and a git ref" in errors


def test_without_git_a_folder_is_a_version_and_a_ref_is_not(
    old: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run(["contracts", "check", str(old), "--against", str(old)]) == Exit.OK
    capsys.readouterr()
    code, errors = failed(capsys, "check", old, "--against", "main")
    assert code == Exit.NOT_READY and "git is missing" in errors


def test_images_are_versions_too(
    old: Path, new: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "old.binpb"
    image.write_bytes(sources.read(old).image.SerializeToString())
    assert run(["contracts", "check", str(new), "--against", str(image)]) == Exit.FAILED
    assert "CALLER_REMOVED" in capsys.readouterr().out
    whole = image.read_bytes()
    for data, said in (
        (b"", "is no image"),
        (b"\xff\xff garbage", "is no image"),
        (b"syntax = 'proto3';", "is no image"),
        (whole[: len(whole) // 2], "image"),
    ):
        image.write_bytes(data)
        code, errors = failed(capsys, "check", new, "--against", image)
        assert code == Exit.USAGE and said in errors and str(image) in errors
    alone = sources.read(old).image
    del alone.file[:-1]
    image.write_bytes(alone.SerializeToString())
    code, errors = failed(capsys, "check", new, "--against", image)
    assert code == Exit.USAGE and "is not whole" in errors and "--include_imports" in errors


def test_a_huge_image_is_refused(
    new: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "huge.binpb"
    with image.open("wb") as file:
        file.truncate(50 * 1024 * 1024)
    code, errors = failed(capsys, "check", new, "--against", image)
    assert code == Exit.USAGE and "has 50 MiB" in errors


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"a.proto": 'syntax = "proto3";\nmessage A { Nothing x = 1; }\n'}, "a.proto:2"),
        (
            {
                "a.proto": 'syntax = "proto3";\nimport "b.proto";\n',
                "b.proto": 'syntax = "proto3";\nimport "a.proto";\n',
            },
            "recursively imports itself",
        ),
        ({"a.proto": 'syntax = "proto3";\nimport "none.proto";\n'}, "none.proto"),
        ({"a.txt": ""}, "holds no .proto file"),
    ],
)
def test_what_does_not_compile_never_passes(
    files: dict[str, str],
    said: str,
    old: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    for name, text in files.items():
        (wrong / name).write_text(text)
    for arguments in (("lint", wrong), ("check", wrong, "--against", old)):
        code, errors = failed(capsys, *arguments)
        assert code == Exit.USAGE and said in errors
    assert failed(capsys, "check", old, "--against", wrong)[0] == Exit.USAGE


def test_options_of_a_newer_isthmus_cannot_be_judged(
    new: Path, old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = sources.read(old).image
    file = next(each for each in image.file if each.name == "shop.proto")
    file.enum_type[0].options.MergeFromString(b"\x88\xac\x19\x01")
    newer = tmp_path / "newer.binpb"
    newer.write_bytes(image.SerializeToString())
    for arguments in (("check", new, "--against", newer), ("check", newer, "--against", old)):
        code, errors = failed(capsys, *arguments)
        assert code == Exit.USAGE
        assert "options of a newer Isthmus" in errors and "shop.v1.Payment" in errors


def test_without_buf_there_is_no_answer(
    old: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("mesh.compat.wire.BUF", tmp_path / "buf")
    code, errors = failed(capsys, "check", old, "--against", old)
    assert code == Exit.NOT_READY and "isthmus[gate]" in errors


def test_a_buf_that_fails_is_no_answer(
    old: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    broken = tmp_path / "buf"
    monkeypatch.setattr("mesh.compat.wire.BUF", broken)
    for script in ("exit 1", "exit 100", "echo '{}'; exit 0"):
        broken.write_text(f"#!/bin/sh\n{script}\n")
        broken.chmod(0o755)
        code, errors = failed(capsys, "check", old, "--against", old)
        assert code == Exit.USAGE and "buf breaking failed" in errors
