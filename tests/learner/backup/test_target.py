"""Where backups may be, and what a target does."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from learner.backup.backups import Backups
from learner.backup.restore import restore_files
from learner.backup.target import open_target
from stream.runtime.errors import BackupError, SettingsError
from tests.support.backed_up import Machine, folders_in
from tests.support.s3_server import S3Server, s3_server


@pytest.mark.parametrize(
    "url",
    [
        "", "s3://", "gs://bucket/a", "http://host/a", "simplecache::s3://bucket/a", "s3://bucket/a::file:///b",
        "file://host/a", "s3://bucket/../other", "s3://bucket/a?x=1", "s3://Bucket!/a", "memory://a", "s3://user@b/a",
    ],
)  # fmt: skip
def test_other_targets_are_refused(url: str, tmp_path: Path) -> None:
    """A folder or a bucket, nothing that leads elsewhere."""
    with pytest.raises(SettingsError, match=r"s3://bucket/prefix|names a machine"):
        open_target(url, "m", tmp_path / "local")


def test_a_target_inside_what_is_backed_up_is_refused(tmp_path: Path) -> None:
    """It would be lost with it; also through a link."""
    (tmp_path / "local").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "local")
    for folder in ("local", "local/backups", "link/backups"):
        with pytest.raises(SettingsError, match="lost with it"):
            open_target(str(tmp_path / folder), "m", tmp_path / "local")


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../a", "a/../../b", "a//b", "a/.b", "a\n", "a\x00"])
def test_names_stay_inside(name: str, tmp_path: Path) -> None:
    """A manifest can't name what isn't a backup's."""
    target = open_target(str(tmp_path / "b"), "m", tmp_path / "local")
    for do in (lambda: target.read(name, 9), lambda: target.write(name, b""), lambda: target.remove(name)):
        with pytest.raises(BackupError, match="isn't a name"):
            do()


def test_links_stay_inside(tmp_path: Path) -> None:
    """Nothing is read or written through a link that leads out."""
    target = open_target(f"file://{tmp_path / 'b'}", "m", tmp_path / "local")
    target.write("blobs/a", b"1")
    (tmp_path / "out").mkdir()
    (tmp_path / "b" / "m" / "locks").symlink_to(tmp_path / "out")
    with pytest.raises(BackupError, match="leads out"):
        target.write("locks/x", b"")
    assert not [*(tmp_path / "out").iterdir()]


@pytest.mark.parametrize("url", ["s3://id:geheim@bucket/a", "gs://id:geheim@b/a", "s3://bucket/a?secret=geheim"])
def test_credentials_in_a_url_are_refused_and_not_repeated(url: str, tmp_path: Path) -> None:
    """The message is in the learner's log."""
    with pytest.raises(SettingsError, match="s3://bucket/prefix") as refused:
        open_target(url, "m", tmp_path / "local")
    assert "geheim" not in str(refused.value)


def test_what_no_backup_wrote_is_no_object(tmp_path: Path) -> None:
    """NFS has such files for a while, a desktop for ever: nothing that lists objects fails by them."""
    target = open_target(str(tmp_path / "b"), "m", tmp_path / "local")
    target.write("blobs/a", b"123")
    for name in (".nfs001", "a file", ".DS_Store"):
        (tmp_path / "b" / "m" / "blobs" / name).touch()
    assert target.sizes("blobs") == {"a": 3}
    Backups(target, lambda: 1).prune(1)
    assert target.sizes("blobs") == {}


def test_objects_are_written_whole_listed_and_removed(tmp_path: Path) -> None:
    """An object that fails leaves neither a part nor a draft."""
    target = open_target(str(tmp_path / "b"), "m", tmp_path / "local")
    assert target.sizes("blobs") == {}
    target.write("blobs/a", b"123")
    target.write("blobs/a", b"1234")
    assert target.sizes("blobs") == {"a": 4}
    assert target.read("blobs/a", 4) == b"1234"
    with pytest.raises(BackupError, match="more than 3 bytes"):
        target.read("blobs/a", 3)
    with pytest.raises(BackupError, match="reading blobs/b"):
        target.read("blobs/b", 3)
    (tmp_path / "b" / "m" / "blobs" / "c").mkdir()
    with pytest.raises(BackupError, match="writing blobs/c"):
        target.write("blobs/c", b"1")
    target.remove("blobs/a")
    target.remove("blobs/a")
    assert target.sizes("blobs") == {}


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """An S3 with one bucket, named by the usual variables."""
    with s3_server("bucket") as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
        yield server


def test_a_bucket_is_written_listed_read_and_emptied(s3: S3Server, tmp_path: Path) -> None:
    """Under its prefix and the model's name; a list may come in several answers."""
    target = open_target("s3://bucket/some/prefix/", "t1.m", tmp_path)
    assert target.sizes("blobs") == {}
    for number in range(5):
        target.write(f"blobs/{number}", b"x" * number)
    target.write("locks/l", b"")
    assert min(s3.objects) == "bucket/some/prefix/t1.m/blobs/0"
    assert target.sizes("blobs") == {f"{number}": number for number in range(5)}
    assert target.read("blobs/4", 4) == b"xxxx"
    with pytest.raises(BackupError, match="more than 3 bytes"):
        target.read("blobs/4", 3)
    with pytest.raises(BackupError, match="reading blobs/9"):
        target.read("blobs/9", 3)
    target.remove("blobs/4")
    target.remove("blobs/4")
    assert len(target.sizes("blobs")) == 4
    with pytest.raises(BackupError, match=r"writing blobs/1.*your rights"):
        open_target("s3://other/prefix", "m", tmp_path).write("blobs/1", b"")


def test_a_learner_is_backed_up_to_a_bucket(s3: S3Server, tmp_path: Path) -> None:
    """And restored from there."""
    machine = Machine(tmp_path, open_target("s3://bucket/prefix", "small", tmp_path))
    machine.learn_until(20)
    machine.life.finish()
    done = machine.back_up()
    assert len(s3.objects) == done.blobs + 1
    restored = restore_files(
        machine.backups, machine.backups.read(done.id), folders_in(tmp_path / "new"), machine.clock
    )
    assert (restored.offset, restored.examples) == (20, machine.life.model.examples)
