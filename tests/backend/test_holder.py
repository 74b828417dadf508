"""Who holds a monitor is found in what `ss` prints."""

from vmtui.backend.holder import client_of

LISTING = """\
u_str ESTAB 0      768    /tmp/q/t1.sock 91182 * 91181 users:(("qemu-system-x86",pid=4274,fd=8))
u_str ESTAB 142    0                   * 91181 * 91182 users:(("pyt\x1bhon3",pid=4287,fd=3))
u_str 0      0                   * 91199 * 91198 users:(("other",pid=1,fd=3))
"""


def test_the_client_is_the_other_end_of_the_monitors_connection() -> None:
    assert client_of("/tmp/q/t1.sock", LISTING) == "pyt\\x1bhon3 (pid 4287)"


def test_a_socket_that_nobody_holds_has_no_client() -> None:
    assert client_of("/tmp/q/t2.sock", LISTING) is None
    assert client_of("/tmp/q/t1.sock", "") is None
