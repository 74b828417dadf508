"""Command lines are read as QEMU reads them, and rewritten so that a second QEMU can start beside, or after, the first."""

import json
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmtui.backend.core import cmdline
from vmtui.backend.core.cmdline import FailoverPair, Monitor, RestoreCommand

QEMU = "qemu-system-x86_64"
WORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=[]), max_size=20)


def restored(*words: str, name: str = "", alive: bool = True) -> RestoreCommand:
    return cmdline.for_restore((QEMU, *words), name=name, directory="/copy", original_alive=alive)


def restored_words(*words: str, name: str = "", alive: bool = True) -> tuple[str, ...]:
    """Without the program's name and what is always added."""
    argv = restored(*words, name=name, alive=alive).argv
    assert argv[0] == QEMU
    assert argv[-4:] == ("-qmp", "unix:/copy/restore-qmp.sock,server=on,wait=off", "-incoming", "defer")
    return argv[1:-4]


# --- options and arguments --------------------------------------------------------------------------------------------


@given(st.lists(st.one_of(WORDS, st.sampled_from(["-S", "--S", "-m", "--qmp", "-", "--", "-name"]))))
def test_options_give_back_the_words_they_were_read_from(words: list[str]) -> None:
    read = cmdline.options([QEMU, *words])
    assert [word for option in read for word in option.words] == words


def test_an_option_without_argument_leaves_the_next_word_alone() -> None:
    read = cmdline.options([QEMU, "-S", "-daemonize", "--nodefaults", "-m", "-S", "disk.img", "-usb"])
    assert [(option.name, option.value) for option in read] == [
        ("S", None),
        ("daemonize", None),
        ("nodefaults", None),
        ("m", "-S"),
        ("", "disk.img"),
        ("usb", None),
    ]


@given(st.lists(st.tuples(st.from_regex("[a-z][a-z.-]{0,6}", fullmatch=True), WORDS), min_size=1), st.booleans())
def test_what_is_written_as_keyval_reads_the_same(pairs: list[tuple[str, str]], implied: bool) -> None:
    read, _ = cmdline.keyval(cmdline.to_keyval(pairs, implied=implied), pairs[0][0] if implied else "")
    assert list(read) == pairs


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("socket,id=m,path=/a,,b", [("backend", "socket"), ("id", "m"), ("path", "/a,b")]),
        ("socket,server,nowait", [("backend", "socket"), ("server", "on"), ("wait", "off")]),
        ("backend=socket,id=m", [("backend", "socket"), ("id", "m")]),
        ("a,,b=c", [("backend", "a,b=c")]),
        ("id=,,,x=1", [("id", ","), ("x", "1")]),
        ("no", [("backend", "no")]),
        ("id=x,server=off", [("id", "x"), ("server", "off")]),
        ("", []),
    ],
)
def test_keyval_is_read_as_qemu_reads_it(text: str, pairs: list[tuple[str, str]]) -> None:
    assert list(cmdline.keyval(text, "backend")[0]) == pairs


def test_json_arguments_read_like_dotted_keys() -> None:
    option = cmdline.options([QEMU, "-blockdev", '{"driver":"qcow2","read-only":true,"file":{"filename":"/x"},"n":[1]}'])[0]
    pairs = (("driver", "qcow2"), ("read-only", "on"), ("file.filename", "/x"), ("n.0", "1"))
    assert cmdline.arguments(option).pairs == pairs


@pytest.mark.parametrize("text", ["{", "{'driver': 'x'}", '{"a":' * 100_000, "{} x", '{"a":' + "9" * 5000 + "}"])
def test_json_that_cannot_be_read_is_left_alone(text: str) -> None:
    argv = ["-chardev", text, "-device", text, "-blockdev", text]
    assert restored_words(*argv) == tuple(argv)


@pytest.mark.parametrize(
    "loader",
    [
        ("/lib64/ld-linux-x86-64.so.2",),
        ("/tree/ld-linux-x86-64.so.2", "--inhibit-cache", "--library-path", "/tree/lib", "--argv0", "qemu-kvm"),
        ("/lib/ld-musl-x86_64.so.1", "--preload", "x.so"),
        ("/lib/ld-2.31.so",),
        ("/lib/ld.so",),
        (),
    ],
)
def test_a_loader_called_by_hand_is_told_from_the_program(loader: tuple[str, ...]) -> None:
    assert cmdline.split_launcher((*loader, QEMU, "-S")) == (loader, (QEMU, "-S"))
    assert cmdline.split_launcher(loader) == (loader, ())


@pytest.mark.parametrize(
    ("program", "it_is"),
    [
        ("/usr/bin/qemu-system-x86_64", True),
        ("qemu-system-aarch64", True),
        ("/usr/libexec/qemu-kvm", True),
        ("/usr/bin/kvm", True),
        ("/nix/store/x/bin/.qemu-system-x86_64-wrapped", True),
        ("/usr/bin/qemu-img", False),
        ("/usr/bin/qemu-x86_64", False),
        ("/qemu-system-x86_64/bin/sh", False),
        ("kvm_stat", False),
    ],
)
def test_qemu_is_known_by_its_name(program: str, it_is: bool) -> None:
    assert cmdline.is_qemu(program) is it_is


# --- monitors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "monitor"),
    [
        (["-qmp", "unix:/run/a.sock,server=on,wait=off"], Monitor("unix", path="/run/a.sock")),
        (["--qmp", "unix:/run/a.sock,server,nowait"], Monitor("unix", path="/run/a.sock")),
        (["-qmp-pretty", "unix:a,,b.sock,server=on"], Monitor("unix", path="a,b.sock")),
        (["-qmp", "unix:path=/run/a=b,server=on"], Monitor("unix", path="/run/a=b")),
        (["-qmp", "mon:unix:/run/a,server=on"], Monitor("unix", path="/run/a")),
        (["-qmp", "unix:abc,server=on,abstract=on"], Monitor("unix", path="\0abc")),
        (["-qmp", "unix:abc,server=on,abstract=on,tight=off"], Monitor("unix", path="\0abc".ljust(108, "\0"))),
        (["-qmp", "tcp:127.0.0.1:4444,server=on,wait=off"], Monitor("tcp", host="127.0.0.1", port=4444)),
        (["-qmp", "tcp::4444,server,nowait"], Monitor("tcp", host="localhost", port=4444)),
        (["-qmp", "tcp:[::1]:4444,server=on"], Monitor("tcp", host="::1", port=4444)),
        (["-mon", "chardev=m,mode=control", "-chardev", "socket,id=m,path=/a,server=on"], Monitor("unix", path="/a")),
        (
            ["-chardev", "socket,path=/a,server=on,id=m", "-mon", "mode=control,pretty=on,chardev=m"],
            Monitor("unix", path="/a"),
        ),
        (
            ["-chardev", "socket,id=m,host=::1,port=5,server=on", "-mon", "m,mode=control"],
            Monitor("tcp", host="::1", port=5),
        ),
        (["-chardev", "socket,id=m,path=/a,server=on", "-qmp", "chardev:m"], Monitor("unix", path="/a")),
        (
            ["-mon", "m,mode=control", "-chardev", '{"id":"m","backend":"socket","path":"/a","server":true,"wait":false}'],
            Monitor("unix", path="/a"),
        ),
        (
            [
                *("-mon", '{"chardev":"m","mode":"control"}', "-chardev"),
                '{"id":"m","backend":{"type":"socket","data":{"server":true,"addr":{"type":"unix","data":{"path":"/a"}}}}}',
            ],
            Monitor("unix", path="/a"),
        ),
    ],
)
def test_a_qmp_monitor_is_found_in_every_spelling(words: list[str], monitor: Monitor) -> None:
    assert cmdline.qmp_monitors([QEMU, *words]) == (monitor,)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["-qmp", "stdio"], "it is on stdio"),
        (["-qmp", "pty"], "it is on pty"),
        (["-qmp", "unix:/run/events.sock"], "QEMU is the client there: it connects to /run/events.sock"),
        (["-qmp", "tcp:host:4444"], "QEMU is the client there: it connects to host:4444"),
        (["-qmp", "telnet::4444,server=on"], "telnet"),
        (["-qmp", "tcp::qmp,server=on"], "its port, qmp, is not a number"),
        (["-qmp", "tcp:a b:44,server=on"], "its host"),
        (["-mon", "gone,mode=control"], "not on the command line"),
        (["-mon", "m,mode=control", "-chardev", "socket,id=m,fd=7,server=on"], "file descriptor 7"),
        (
            [
                *("-mon", "m,mode=control", "-chardev"),
                '{"id":"m","backend":"socket","server":true,"addr":{"type":"fd","str":"7"}}',
            ],
            "file descriptor 7",
        ),
        (["-mon", "m,mode=control", "-chardev", '{"id":"m","backend":"socket","path":"/a","server":false}'], "client"),
        (
            ["-mon", "m,mode=control", "-chardev", '{"id":"m","backend":"socket","path":"a\\u0000","server":true}'],
            "none that",
        ),
        (["-qmp"], "cannot be read"),
        (["-mon", "m,mode=control", "-chardev", "socket,id=m,path=/a,server=on,tls-creds=t"], "TLS"),
        (
            ["-mon", "m,mode=control", "-chardev", '{"id":"m","backend":"socket","path":"a\\ud800","server":true}'],
            "none that",
        ),
    ],
)
def test_a_monitor_that_cannot_be_used_says_why(words: list[str], reason: str) -> None:
    (monitor,) = cmdline.qmp_monitors([QEMU, *words])
    assert reason in (monitor.why_not or "")


def test_monitors_for_people_are_not_qmp() -> None:
    argv = [QEMU, "-monitor", "unix:/a,server=on", "-chardev", "socket,id=m,path=/b,server=on", "-mon", "m"]
    assert cmdline.qmp_monitors([*argv, "-object", "x,mode=control,chardev=m"]) == ()


@pytest.mark.parametrize("device", ["file:/x", "tcp::qmp,server=on", "udp::4", "stdio"])
def test_a_monitor_without_an_address_has_none(device: str) -> None:
    (monitor,) = cmdline.qmp_monitors([QEMU, "-qmp", device])
    assert (monitor.kind, monitor.path, monitor.port) == ("other", "", 0)
    datagrams = [QEMU, "-mon", "m,mode=control", "-chardev", "udp,id=m,host=h,port=4"]
    assert cmdline.qmp_monitors(datagrams)[0].kind == "other"


LIBVIRT = (
    *(QEMU, "-name", "guest=web,debug-threads=on", "-S", "-no-user-config", "-nodefaults"),
    *("-chardev", "socket,id=charmonitor,fd=26,server=on,wait=off", "-mon", "chardev=charmonitor,id=monitor,mode=control"),
    *("-netdev", '{"type":"tap","fd":"28","vhost":true,"vhostfd":"30","id":"hostnet0"}'),
)


def test_libvirt_holds_its_monitor_but_not_one_that_was_added() -> None:
    old = (QEMU, "-name", "guest=web", "-qmp", "unix:/var/lib/libvirt/qemu/domain-1-web/monitor.sock,server=on")
    assert "libvirt" in (cmdline.qmp_monitors(LIBVIRT)[0].why_not or "")
    assert "libvirt" in (cmdline.qmp_monitors(old)[0].why_not or "")
    assert cmdline.qmp_monitors((*LIBVIRT, "-qmp", "unix:/run/mine,server=on"))[1] == Monitor("unix", path="/run/mine")


# --- what it says of the VM -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["-name", "vm1"], "vm1"),
        (["-name", "vm1,process=qemu:vm1,debug-threads=on"], "vm1"),
        (["-name", "guest=a,,b,debug-threads=on"], "a,b"),
        (["-name", "debug-threads=on,guest=x"], "x"),
        (["-name", "first", "-name", "last", "-name", "process=p"], "last"),
        (["-name", "process=p"], None),
        (["-append", "guest=x"], None),
        ([], None),
    ],
)
def test_the_name(words: list[str], name: str | None) -> None:
    assert cmdline.name([QEMU, *words]) == name


def test_the_uuid_may_be_told_by_smbios_alone() -> None:
    upper = "6B29FC40-CA47-1067-B31D-00DD010662DA"
    assert cmdline.uuid([QEMU, "-uuid", upper]) == upper.lower()
    assert cmdline.uuid([QEMU, "-smbios", f"type=1,uuid={upper}"]) == upper.lower()
    assert cmdline.uuid([QEMU, "-uuid", "\x1b[31m"]) is None
    assert cmdline.uuid([QEMU, "-uuid"]) is None


@pytest.mark.parametrize("words", [("-machine", "q35,accel=tcg"), ("-M", "type=q35"), ("-M", "pc", "-machine", "q35")])
def test_the_machine(words: tuple[str, ...]) -> None:
    assert cmdline.machine([QEMU, *words, "-machine", "usb=off"]) == "q35"
    assert cmdline.machine([QEMU]) is None


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512", 512 << 20),
        ("2G", 2 << 30),
        ("size=1.5g,slots=2,maxmem=4G", 3 << 29),
        ("1048576k", 1 << 30),
        ("lots", None),
        ("9" * 400, None),
    ],
)
def test_the_memory(text: str, size: int | None) -> None:
    assert cmdline.memory([QEMU, "-m", text]) == size


def test_a_failover_pair_is_found_in_both_syntaxes() -> None:
    primary = json.dumps({"driver": "vfio-pci", "id": "primary0", "failover_pair_id": "standby0"})
    standby = "virtio-net-pci,id=standby0,failover=on"
    assert cmdline.failover_pairs([QEMU, "-device", standby, "-device", primary]) == (FailoverPair("standby0", "primary0"),)
    assert cmdline.failover_pairs([QEMU, "-device", standby]) == (FailoverPair("standby0", ""),)
    assert cmdline.failover_pairs([QEMU, "-device", primary]) == (FailoverPair("", "primary0"),)
    assert cmdline.failover_pairs([QEMU, "-device", "virtio-net-pci,id=n0", "-append", "failover=on"]) == ()


@pytest.mark.parametrize(
    ("words", "paths"),
    [
        (["-drive", "file=/a,,b.qcow2,if=virtio"], ["/a,b.qcow2"]),
        (["-drive", 'file=json:{"driver":"qcow2"\\,"file":{"filename":"/j"}}'.replace("\\,", ",,")], ["/j"]),
        (["-drive", "if=none,file.driver=file,file.filename=/n"], ["/n"]),
        (["-drive", "file=nbd://host/x"], []),
        (
            ["-blockdev", "driver=qcow2,node-name=n,file.driver=file,file.filename=/q,backing.file.filename=/b"],
            ["/q", "/b"],
        ),
        (["-blockdev", '{"driver":"file","filename":"/f","node-name":"s"}'], ["/f"]),
        (
            ["-hda", "a.img", "-cdrom", "/cd.iso", "-pflash", "/vars.fd", "last.img"],
            ["a.img", "/cd.iso", "/vars.fd", "last.img"],
        ),
        (["-kernel", "/k,1:2", "-initrd", "initrd", "-append", "file=/x"], ["/k,1:2", "initrd"]),
        (["-bios", "bios.bin", "-L", "/share"], []),
        (["-device", "e1000e,romfile=efi.rom", "-device", "loader,file=boot.bin"], ["boot.bin"]),
        (["-bios"], []),
        (["-hda"], []),
        (["-bios", "./bios.bin"], ["./bios.bin"]),
        (["-machine", "q35,kernel=/k"], ["/k"]),
        (["-object", "memory-backend-file,id=m,mem-path=/dev/shm/m,size=1G"], ["/dev/shm/m"]),
        (["-object", "secret,id=s,file=/key", "-object", "filter-dump,id=f,file=/out"], ["/key"]),
        (["-device", "e1000e,romfile="], []),
        (["-acpitable", "file=/a:/b"], ["/a", "/b"]),
    ],
)
def test_what_must_be_there_for_a_restart(words: list[str], paths: list[str]) -> None:
    assert sorted(cmdline.disks([QEMU, *words])) == sorted(paths)


def test_what_lies_behind_an_image_is_not_written() -> None:
    drive = "file=/a,backing.file.filename=/b"
    assert [(image.path, image.writable) for image in cmdline.images([QEMU, "-drive", drive])] == [
        ("/a", True),
        ("/b", False),
    ]


@pytest.mark.parametrize(
    "words",
    [
        ["-cdrom", "/a"],
        ["-drive", "file=/a,media=cdrom"],
        ["-drive", "file=/a,readonly=on"],
        ["-drive", "file=/a,read-only=on"],
        ["-drive", "file.driver=null-co,file.size=1M"],
        ["-drive", "file=/a,snapshot=on"],
        ["-drive", "if=none,id=empty"],
        ["-drive", "driver=null-co,id=n"],
        ["-drive", "file=null-co://"],
        ["-snapshot", "-hda", "/a", "-drive", "file=/b"],
        ["-blockdev", "driver=file,filename=/a,node-name=n,read-only=on"],
        ["-blockdev", "driver=null-co,node-name=n"],
        ["-blockdev", "driver=file,filename=/a,node-name=s", "-blockdev", "driver=raw,file=s,node-name=f,read-only=on"],
        ["-blockdev", "driver=file,filename=/a,node-name=s", "-blockdev", "driver=qcow2,file=t,backing=s,node-name=f"],
        ["-blockdev", "driver=file,filename=/a,node-name=s", "-device", "ide-cd,drive=s"],
        ["-blockdev", "driver=file,filename=/a,node-name=s", "-device", "ide-cd,drive=s", "-append", "drive=s"],
    ],
)
def test_an_image_that_is_only_read_does_not_stand_in_the_way(words: list[str]) -> None:
    assert restored(*words).problems == ()


@pytest.mark.parametrize(
    "words",
    [
        ["/disk.img"],
        ["-hda", "/a"],
        ["-sd", "/a"],
        ["-drive", "file=/a"],
        ["-drive", "file=nbd://host/x"],
        ["-drive", "if=none,driver=file,filename=/a"],
        ["-blockdev", "driver=file,filename=null-a,node-name=n"],
        ["-drive", "if=none,file.driver=rbd,file.pool=p"],
        ["-snapshot", "-drive", "file=/a,snapshot=off"],
        ["-blockdev", "driver=file,filename=/a,node-name=n"],
        ["-blockdev", "driver=rbd,pool=p,node-name=n"],
        ["-blockdev", '{"driver":"qcow2","node-name":"n","file":{"driver":"file","filename":"/a"}}'],
        ["-blockdev", "driver=file,filename=/a,node-name=s", "-blockdev", "driver=raw,file=s,node-name=f"],
        ["-blockdev", "driver=file,filename=/a,node-name=s", "-device", "virtio-blk-pci,drive=s"],
    ],
)
def test_an_image_that_is_written_is_never_opened_twice(words: list[str]) -> None:
    assert any("writes to this image" in problem for problem in restored(*words).problems)
    assert restored(*words, alive=False).problems == ()


# --- the command line that starts it again ----------------------------------------------------------------------------


@pytest.mark.parametrize("alive", [True, False])
def test_the_copy_has_what_makes_the_guest_and_not_what_starts_or_ends_it(alive: bool) -> None:
    kept = ("-M", "q35", "-S", "-device", '{"driver":"e1000e"}', "-append", "a,b=c", "--nodefaults")
    left_out = ("-incoming", "tcp::1", "-daemonize", "-pidfile", "/p", "-loadvm", "x", "--preconfig")
    assert restored_words(*kept[:5], *left_out, *kept[5:], alive=alive) == kept


@pytest.mark.parametrize(
    ("words", "name", "expected"),
    [
        (("-name", "vm,process=p"), "copy", ("-name", "copy,process=p")),
        (("-name", "guest=a,debug-threads=on"), "b,c", ("-name", "guest=b,,c,debug-threads=on")),
        (("-name", "vm"), "x=y", ("-name", "guest=x=y")),
        (("-name", "vm"), "", ("-name", "vm")),
        (("-name", "debug-threads=on"), "n", ("-name", "debug-threads=on", "-name", "n")),
        ((), "n", ("-name", "n")),
        (("-append", "guest=x"), "n", ("-append", "guest=x", "-name", "n")),
    ],
)
def test_the_copy_has_its_own_name(words: tuple[str, ...], name: str, expected: tuple[str, ...]) -> None:
    assert restored_words(*words, name=name) == expected


OWN_PATHS = [
    ("-qmp", "unix:/run/q.sock,server=on,wait=off", "unix:/copy/q.sock,server=on,wait=off"),
    ("-qmp-pretty", "unix:q=1,server,nowait", None),
    ("-monitor", "mon:unix:/run/h.sock,server=on,wait=off", "mon:unix:/copy/h.sock,server=on,wait=off"),
    ("-serial", "unix:a,,b,server=on,wait=off", "unix:/copy/a,,b,server=on,wait=off"),
    ("-serial", "file:/var/log/a,b.log", "file:/copy/a,b.log"),
    ("-gdb", "unix:/g,server=on,wait=off", "unix:/copy/g,server=on,wait=off"),
    ("-chardev", "socket,id=c,path=/x,server=on,wait=off", "socket,id=c,path=/copy/x,server=on,wait=off"),
    (
        "-chardev",
        "socket,id=c,path=/n/x,abstract=on,server=on,wait=off",
        "socket,id=c,path=/copy/x,abstract=on,server=on,wait=off",
    ),
    ("-chardev", "file,id=c,path=/x.log,append=on", "file,id=c,path=/copy/x.log,append=on"),
    ("-chardev", "pty,id=c,logfile=/x.log", "pty,id=c,logfile=/copy/x.log"),
    (
        "-chardev",
        '{"id": "c", "backend": {"type": "file", "data": {"out": "/x.log"}}}',
        '{"id": "c", "backend": {"type": "file", "data": {"out": "/copy/x.log"}}}',
    ),
    (
        "-chardev",
        '{"backend": "socket", "a": 1, "a.path": "/x", "server": true, "wait": false, "id": "\udce9"}',
        '{"backend": "socket", "a": 1, "a.path": "/copy/x", "server": true, "wait": false, "id": "\udce9"}',
    ),
    (
        "-chardev",
        '{"backend": "socket", "list": [1, {"path": "/x"}], "server": true, "wait": false}',
        '{"backend": "socket", "list": [1, {"path": "/copy/x"}], "server": true, "wait": false}',
    ),
    ("-vnc", "unix:/v.sock,password=on", "unix:/copy/v.sock,password=on"),
    ("-display", "vnc=unix:/v.sock", "vnc=unix:/copy/v.sock"),
    ("-spice", "unix=on,addr=/s.sock", "unix=on,addr=/copy/s.sock"),
    ("-D", "/log,1", "/copy/log,1"),
    ("-trace", "enable=x,file=/t.log", "x,file=/copy/t.log"),
    ("-object", "filter-dump,id=f,netdev=n,file=/f.pcap", "filter-dump,id=f,netdev=n,file=/copy/f.pcap"),
    ("-audiodev", "wav,id=a,path=/a.wav", "wav,id=a,path=/copy/a.wav"),
]


@pytest.mark.parametrize(("option", "value", "expected"), [case for case in OWN_PATHS if case[2]])
def test_beside_the_original_sockets_and_written_files_are_the_copys_own(option: str, value: str, expected: str) -> None:
    (_, found) = restored_words(option, value)
    assert cmdline.arguments(cmdline.options([QEMU, option, found])[0]).pairs == (
        cmdline.arguments(cmdline.options([QEMU, option, expected])[0]).pairs
    )
    assert "/copy/" in found
    assert len(restored(option, value).notes) >= 1


@pytest.mark.parametrize(("option", "value", "_"), OWN_PATHS)
def test_after_the_original_everything_keeps_its_place(option: str, value: str, _: str | None) -> None:
    assert restored_words(option, value, alive=False) == (option, value)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("-chardev", "socket,id=fs,path=/run/virtiofs.sock"),
        ("-chardev", "socket,id=tpm,path=/run/swtpm.sock,reconnect=1"),
        ("-chardev", "file,id=c,path=/dev/null"),
        ("-serial", "file:/dev/null"),
        ("-gdb", "unix:/gdb.sock"),
        ("-spice", "addr=/s,port=0"),
        ("-audiodev", "wav,id=a"),
        ("-audiodev", "pa,id=a,path=/p"),
        ("-object", "secret,id=s,file=/key"),
        ("-append", "path=/x,server=on"),
        ("-object", "rng-random,id=r,filename=/dev/urandom"),
        ("-serial", "null"),
        ("-vnc", "none"),
    ],
)
def test_what_is_somebody_elses_stays_where_it_is(option: str, value: str) -> None:
    assert restored_words(option, value) == (option, value)
    assert restored(option, value).problems == ()


def test_a_socket_of_somebody_else_is_pointed_out() -> None:
    assert any("something must listen there" in note for note in restored("-chardev", "socket,id=c,path=/x").notes)


def test_two_sockets_that_end_alike_stay_two_and_one_path_stays_one() -> None:
    found = restored_words("-qmp", "unix:/a/q.sock,server=on,wait=off", "-qmp", "unix:/b/q.sock,server=on,wait=off")
    assert found[1::2] == ("unix:/copy/q.sock,server=on,wait=off", "unix:/copy/q-2.sock,server=on,wait=off")
    assert restored_words("-serial", "file:/l", "-chardev", "file,id=c,path=/l")[3] == "file,id=c,path=/copy/l"
    assert restored_words("-D", "/x/restore-qmp.sock") == ("-D", "/copy/restore-qmp-2.sock")


def test_a_vm_that_was_restored_before_does_not_collect_monitors() -> None:
    once = restored("-m", "64").argv
    again = cmdline.for_restore(once, name="", directory="/copy", original_alive=True)
    assert again.argv == once
    other = ("-serial", "unix:/x/restore-qmp.sock,server=on,wait=off")
    assert restored_words(*other, alive=False) == other
    assert again.notes == ()


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("-serial", "unix:/x,server=on", "unix:/x,server=on,wait=off"),
        ("-serial", "tcp::4444,server=on,wait=on", "tcp::4444,server=on,wait=off"),
        ("-monitor", "telnet:127.0.0.1:4444,server", "telnet:127.0.0.1:4444,server=on,wait=off"),
        ("-serial", "tcp:[::1]:4444,server=on", "tcp:[::1]:4444,server=on,wait=off"),
        ("-chardev", "socket,id=c,path=/x,server=on", "socket,id=c,path=/x,server=on,wait=off"),
        ("-netdev", "stream,id=n,server=on,addr.type=unix,addr.path=/x", None),
        (
            "-chardev",
            '{"backend": {"type": "socket", "data": {"server": true, "addr": {"data": {"path": "/x"}}}}}',
            '{"backend": {"type": "socket", "data": {"server": true, "addr": {"data": {"path": "/x"}}, "wait": false}}}',
        ),
    ],
)
def test_no_socket_makes_the_restored_qemu_wait_for_a_client(option: str, value: str, expected: str | None) -> None:
    assert restored_words(option, value, alive=False) == (option, expected or value)
    assert any("wait=off" in note for note in restored(option, value, alive=False).notes) == bool(expected)


@pytest.mark.parametrize(
    "words",
    [
        ["-qmp", "tcp::4444,server=on,wait=off"],
        ["-chardev", "socket,id=c,host=0.0.0.0,port=4444,server=on,wait=off"],
        ["-vnc", ":1"],
        ["-vnc", "127.0.0.1:0,password=on"],
        ["-display", "vnc=:3"],
        ["-spice", "port=5900,disable-ticketing=on"],
        ["-s"],
        ["-gdb", "tcp::1234"],
        ["-netdev", "user,id=u,hostfwd=tcp::2222-:22"],
        ["-nic", "user,hostfwd=tcp::2222-:22"],
        ["-netdev", '{"type":"user","id":"u","hostfwd":[{"str":"tcp::2222-:22"}]}'],
        ["-netdev", "socket,id=s,listen=:1234"],
        ["-netdev", "stream,id=s,server=on,addr.type=unix,addr.path=/n"],
        ["-netdev", "dgram,id=s,local.type=inet,local.host=::1,local.port=5"],
        ["-netdev", "tap,id=t,ifname=tap0,script=no"],
        ["-netdev", "vhost-vdpa,id=v,vhostdev=/dev/vhost-vdpa-0"],
        ["-device", "vfio-pci,host=01:00.0"],
        ["-device", '{"driver":"vfio-pci","sysfsdev":"/sys/x"}'],
        ["-device", "usb-host,vendorid=1"],
        ["-device", "vhost-vsock-pci,guest-cid=3"],
        ["-object", "memory-backend-file,id=m,mem-path=/dev/shm/m,share=on,size=1G"],
        ["-serial", "/dev/ttyS0"],
        ["-chardev", "serial,id=c,path=/dev/ttyS0"],
        ["-serial", "pipe:/run/fifo"],
        ["-chardev", "udp,id=c,port=1,localport=2"],
    ],
)
def test_what_two_vms_cannot_both_have_is_a_problem_only_beside_the_original(words: list[str]) -> None:
    problems = restored(*words).problems
    assert len(problems) == 1
    assert problems[0].startswith(" ".join(words)[:60])
    assert restored(*words, alive=False).problems == ()


@pytest.mark.parametrize(
    "words",
    [
        ["-vnc", ":0,to=99"],
        ["-vnc", "host:5500,reverse=on"],
        ["-spice", "port=0"],
        ["-chardev", "socket,id=c,port=0,server=on,wait=off"],
        ["-chardev", "socket,id=c,port=4444,to=4500,server=on,wait=off"],
        ["-netdev", "user,id=u"],
        ["-netdev", "tap,id=t,ifname=tap%d"],
        ["-netdev", "stream,id=s,server=off,addr.type=unix,addr.path=/n"],
        ["-object", "memory-backend-file,id=m,mem-path=/dev/shm/m,size=1G"],
    ],
)
def test_what_both_can_have_is_no_problem(words: list[str]) -> None:
    assert restored(*words).problems == ()


@pytest.mark.parametrize("alive", [True, False])
@pytest.mark.parametrize(
    "words",
    [
        ["-netdev", "tap,id=t,fd=12"],
        ["-netdev", "tap,id=t,fds=12:13,vhostfds=14:15"],
        ["-netdev", "stream,id=s,addr.type=fd,addr.str=5"],
        ["-add-fd", "fd=3,set=1"],
        ["-chardev", "socket,id=c,fd=9,server=on,wait=off"],
        ["-chardev", "file,id=c,path=/dev/fdset/2"],
        ["-blockdev", '{"driver":"file","node-name":"n","filename":"/dev/fdset/0","read-only":true}'],
        ["-device", "vhost-scsi-pci,vhostfd=4"],
    ],
)
def test_a_file_descriptor_that_was_handed_over_cannot_be_had_again(words: list[str], alive: bool) -> None:
    assert any("file descriptor was handed over" in problem for problem in restored(*words, alive=alive).problems)


def test_a_kernel_command_line_that_mentions_fds_is_not_taken_for_one() -> None:
    assert restored("-append", "x,fd=3,path=/dev/fdset/1").problems == ()


def test_libvirts_vms_are_left_to_libvirt() -> None:
    problems = cmdline.for_restore(LIBVIRT, name="web", directory="/copy", original_alive=False).problems
    assert "virsh restore" in problems[0]
    assert len(problems) == 3


@pytest.mark.parametrize(
    "words",
    [
        ["-name", "guest=x", "-chardev", "null,id=c"],
        ["-name", "charmonitor", "-chardev", "null,id=charmonitor", "-append", "guest=x"],
    ],
)
def test_what_only_looks_like_libvirts_is_restored(words: list[str]) -> None:
    assert restored(*words).problems == ()


def test_a_directory_too_deep_for_a_socket_is_a_problem() -> None:
    deep = "/" + "é" * 60
    found = cmdline.for_restore((QEMU,), name="", directory=deep, original_alive=False)
    assert found.qmp_path == f"{deep}/restore-qmp.sock"
    assert "longer than 107 bytes" in found.problems[0]


def test_a_directory_with_commas_and_equals_signs_survives() -> None:
    found = cmdline.for_restore((QEMU,), name="", directory="/a,b=c", original_alive=False)
    assert cmdline.qmp_monitors(found.argv) == (Monitor("unix", path="/a,b=c/restore-qmp.sock"),)


@pytest.mark.parametrize(
    ("words", "note"),
    [
        (["-S"], "waits for cont"),
        (["-snapshot"], "temporary files"),
        (["-drive", "file=/a,snapshot=on"], "temporary file"),
        (["-readconfig", "/c"], "not looked at"),
        (["-serial", "stdio"], "no terminal"),
        (["-netdev", "bridge,id=b"], "same MAC"),
        (["-loadvm", "x"], "left out"),
    ],
)
def test_what_is_different_or_needed_is_said(words: list[str], note: str) -> None:
    assert any(note in found for found in restored(*words).notes)


def test_a_log_that_starts_anew_is_pointed_out() -> None:
    assert any("started anew" in note for note in restored("-serial", "file:/l", alive=False).notes)
    assert restored("-chardev", "file,id=c,path=/l,append=on", alive=False).notes == ()


FRAGMENTS = st.sampled_from(
    [
        *(
            "-qmp",
            "--chardev",
            "-mon",
            "-drive",
            "-blockdev",
            "-device",
            "-netdev",
            "-vnc",
            "-serial",
            "-name",
            "-object",
            "-m",
        ),
        *(
            "unix:",
            "tcp:",
            "socket,path=",
            ",server",
            "mode=control",
            "file=",
            "json:",
            '{"',
            "}",
            "a",
            ",",
            "=",
            ".",
            "\x1b[2J",
        ),
        *("\udcff", "\n", '{"backend":[]}', '{"path":{"server":true}}', '{"server":true,"wait":[],"path":"x"}', "telnet:"),
    ]
)


@given(st.lists(st.lists(FRAGMENTS, max_size=4).map("".join), max_size=8), st.booleans())
def test_no_command_line_makes_anything_raise(words: list[str], alive: bool) -> None:
    argv = (QEMU, *words)
    found = cmdline.for_restore(argv, name="n", directory="/copy", original_alive=alive)
    assert all(text.isprintable() for text in (*found.problems, *found.notes))
    assert (cmdline.qmp_monitors(argv), cmdline.disks(argv), cmdline.failover_pairs(argv)) is not None
    assert (cmdline.name(argv), cmdline.uuid(argv), cmdline.machine(argv), cmdline.memory(argv)) is not None


# --- for a person's shell ---------------------------------------------------------------------------------------------


def test_the_shell_gets_one_option_a_line() -> None:
    argv = [QEMU, "-S", "-append", "a 'b'", "-device", '{"driver":"x"}', "disk image"]
    line = cmdline.shell_line(argv)
    assert line.splitlines()[1:3] == ["    -S \\", """    -append 'a '"'"'b'"'"'' \\"""]
    assert shlex.split(line.replace("\\\n", "")) == argv
    assert shlex.split(cmdline.shell_line(argv, cwd="/a b"))[:3] == ["cd", "/a b", "&&"]
    assert cmdline.shell_line([]) == ""


def test_the_terminal_gets_no_control_character_from_a_shell_line() -> None:
    line = cmdline.shell_line([QEMU, "-name", "\x1b[2J\u202e\r'\\\x07" + "0" + "\udcff\n"])
    assert line.splitlines()[1] == r"    -name $'\e[2J\342\200\256\r\'\\\0070\377\n'"


@pytest.mark.parametrize(("words", "action", "ends"), [
    ("-device pvpanic",                           "shutdown",     True),
    ("-no-shutdown",                              "shutdown",     False),
    ("-action shutdown=pause",                    "shutdown",     False),
    ("-no-shutdown -action shutdown=poweroff",    "shutdown",     True),
    ("-action panic=pause",                       "pause",        False),
    ("--action reboot=shutdown,panic=none",       "none",         False),
    ("-action panic=pause -action panic=shutdown", "shutdown",    True),
    ("-action panic=exit-failure -no-shutdown",   "exit-failure", True),
    ("-readconfig vm.cfg -action panic=pause",    "",             False),
])  # fmt: skip
def test_what_qemu_does_on_a_panic_is_read_from_its_command_line(words: str, action: str, ends: bool) -> None:
    argv = ("qemu-system-x86_64", *words.split())
    assert (cmdline.panic_action(argv), cmdline.panic_ends(argv)) == (action, ends)


def test_without_a_command_line_nobody_knows_what_a_panic_does() -> None:
    assert (cmdline.panic_action(()), cmdline.panic_ends(())) == ("", False)
