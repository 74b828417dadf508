"""What restoring leaves in the runtime directory."""

import socket
from pathlib import Path

from vmtui.backend import restore


def test_what_a_restored_vm_left_goes_once_its_qemu_has_ended(tmp_path: Path) -> None:
    ended, lives, other = tmp_path / "vmtui-ended", tmp_path / "vmtui-lives", tmp_path / "engine"
    for directory in (ended, lives, other):
        directory.mkdir()
        (directory / "qemu.log").write_text("")
    with socket.socket(socket.AF_UNIX) as monitor, socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(ended / "qmp.sock"))
        monitor.bind(str(lives / "qmp.sock"))
        monitor.listen()
        gone.close()
        restore.sweep(tmp_path)
        assert ended.exists(), "its QEMU may be about to open its monitor"
        restore.sweep(tmp_path, older_than=0)
        assert {each.name for each in tmp_path.iterdir()} == {"vmtui-lives", "engine"}
    restore.sweep(tmp_path, older_than=0)
    assert {each.name for each in tmp_path.iterdir()} == {"engine"}


def test_a_link_is_no_directory_of_a_restored_vm(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (tmp_path / "vmtui-link").symlink_to(kept)
    restore.sweep(tmp_path, older_than=0)
    assert kept.exists()
