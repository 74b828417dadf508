"""Migration settings: what each means, what may be typed, and what is said of a VM's."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.core.play import Play
from tests.core.recorded import transcripts
from vmtui.backend.core import commands, parameters
from vmtui.backend.core.events import Tune, Watch
from vmtui.backend.core.model import Features, Link, Phase, Setting
from vmtui.backend.core.parameters import (
    CAPABILITIES,
    PARAMETERS,
    BadValue,
    Unit,
    entries,
    parsed,
    pause_vm_line,
    shown,
    tuned_line,
    typed,
)
from vmtui.backend.core.sim import PAUSE_VM_10_0, PROFILES, STOCK_10_0, Profile
from vmtui.backend.core.state import State
from vmtui.backend.schemas import raw_schema


def an_int(name: str) -> Setting:
    return Setting(name, "int")


def a_bool(name: str) -> Setting:
    return Setting(name, "bool")


def a_str(name: str) -> Setting:
    return Setting(name, "str")


def features(profile: str) -> Features:
    return commands.features(json.loads(raw_schema(profile)))


def watched(profile: Profile = STOCK_10_0) -> Play:
    """A VM that somebody looks at, and that nothing is done to."""
    play = Play(profile)
    play.connect()
    asked(play, Watch(play.now, True))
    return play


def asked(play: Play, wish: Watch | Tune) -> None:
    """Hand it to the workflow, and let QEMU answer all that it asks for."""
    play.step(wish)
    play.rest()


def entry(state: State, name: str) -> parameters.Entry:
    return next(each for each in entries(state) if each.name == name)


# --- the table --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", PROFILES)
def test_every_setting_of_every_recorded_qemu_is_known(profile: str) -> None:
    offered = features(profile)
    assert {each.name for each in offered.parameters} <= set(PARAMETERS)
    assert {each.name for each in offered.capabilities} <= set(CAPABILITIES)


def test_no_setting_is_in_the_table_that_no_qemu_has() -> None:
    offered = [features(profile) for profile in PROFILES]
    assert set(PARAMETERS) == {each.name for features in offered for each in features.parameters}
    assert set(CAPABILITIES) == {each.name for features in offered for each in features.capabilities}


def test_the_defaults_are_those_of_qemus_that_nobody_touched() -> None:
    seen = set()
    for each in transcripts():
        told = (line.message.get("return") for line in each.lines)
        first = next((value for value in told if isinstance(value, dict) and "max-bandwidth" in value), {})
        for name, value in first.items():
            if (name, value) not in (("max-bandwidth", 65536), ("pause-vm", True)):  # the recording set those before
                assert PARAMETERS[name].default == value, (str(each), name)
                seen.add(name)
    assert set(PARAMETERS) - seen <= {"block-bitmap-mapping"}


def test_a_meaning_is_one_line_that_fits_and_starts_without_the_name() -> None:
    for name, about in {**PARAMETERS, **CAPABILITIES}.items():
        assert 5 < len(about.meaning) <= 90, name
        assert about.meaning.isprintable()
        assert not about.meaning.startswith(name)


# --- what may be typed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "text", "value"),
    [
        (an_int("max-bandwidth"), "100M", 100 << 20),
        (an_int("max-bandwidth"), "1.5GiB/s", 3 << 29),
        (an_int("max-bandwidth"), "8 TiB", 8 << 40),
        (an_int("max-bandwidth"), "100 MB/s", 100_000_000),
        (an_int("max-bandwidth"), "10Gbit/s", 1_250_000_000),
        (an_int("max-bandwidth"), "1000000", 1_000_000),
        (an_int("max-bandwidth"), "0.1M", 104858),
        (an_int("max-bandwidth"), "0", 0),
        (an_int("xbzrle-cache-size"), "128M", 128 << 20),
        (an_int("downtime-limit"), "300ms", 300),
        (an_int("downtime-limit"), "0.3s", 300),
        (an_int("downtime-limit"), "2 min", 120_000),
        (an_int("downtime-limit"), "300", 300),
        (an_int("max-cpu-throttle"), "50%", 50),
        (an_int("multifd-channels"), "8", 8),
        (an_int("vcpu-dirty-limit"), "10 MB/s", 10),
        (an_int("of-a-qemu-to-come"), "-7", -7),
        (a_bool("pause-vm"), "on", True),
        (a_bool("pause-vm"), " No ", False),
        (a_bool("of-a-qemu-to-come"), "true", True),
        (Setting("mode", "enum", ("normal", "cpr-reboot")), "CPR-reboot", "cpr-reboot"),
        (a_str("tls-creds"), "tls 0", "tls 0"),
        (a_str("tls-creds"), "", ""),
        (Setting("cpr-exec-command", "other"), '["/usr/bin/qemu", "-S"]', ["/usr/bin/qemu", "-S"]),
    ],
)
def test_what_a_person_types_becomes_what_qemu_takes(setting: Setting, text: str, value: Any) -> None:
    assert parsed(setting, text) == value
    assert type(parsed(setting, text)) is type(value)


@pytest.mark.parametrize(
    ("setting", "text", "why"),
    [
        (an_int("max-bandwidth"), "", "a number"),
        (an_int("max-bandwidth"), "fast", "a number"),
        (an_int("max-bandwidth"), "-1", "out of range"),
        (an_int("max-bandwidth"), "10 apples", "'apples' is no unit"),
        (an_int("max-bandwidth"), "100Mb/s", "bits or bytes?"),
        (an_int("max-bandwidth"), "9" * 25, "more than QEMU can take"),
        (an_int("max-bandwidth"), "9" * 50, "a number"),
        (an_int("max-bandwidth"), "１", "a number"),
        (an_int("xbzrle-cache-size"), "100M", "not a power of two: 64 MiB or 128 MiB"),
        (an_int("xbzrle-cache-size"), "100M/s", "not so much a second"),
        (an_int("downtime-limit"), "3000 s", "0 to 2000000 ms"),
        (an_int("downtime-limit"), "0.1ms", "not a whole number"),
        (an_int("downtime-limit"), "3M", "'M' is no unit"),
        (an_int("max-cpu-throttle"), "100", "1 to 99 %"),
        (an_int("multifd-channels"), "1.5", "not a whole number"),
        (an_int("multifd-channels"), "300", "1 to 255"),
        (an_int("of-a-qemu-to-come"), "3M", "a whole number"),
        (an_int("of-a-qemu-to-come"), "9" * 20, "too large"),
        (a_bool("pause-vm"), "maybe", "on or off, not 'maybe'"),
        (Setting("mode", "enum", ("normal",)), "odd", "one of normal"),
        (a_str("tls-creds"), "a\x1b[31m", "cannot be shown"),
        (Setting("cpr-exec-command", "other"), "ls -l", "no JSON"),
        (Setting("cpr-exec-command", "other"), "3", "neither a list nor an object"),
        (Setting("cpr-exec-command", "other"), "[" * 100_000, "no JSON"),
    ],
)
def test_what_qemu_would_refuse_is_refused_before_and_told_why(setting: Setting, text: str, why: str) -> None:
    with pytest.raises(BadValue) as refusal:
        parsed(setting, text)
    assert why in str(refusal.value)
    assert str(refusal.value).isprintable()


@given(st.sampled_from(sorted(PARAMETERS)), st.text())
def test_whatever_is_typed_is_a_value_or_a_reason(name: str, text: str) -> None:
    for kind in ("int", "bool", "str", "enum", "other"):
        try:
            parsed(Setting(name, kind, ("a", "b") if kind == "enum" else ()), text)
        except BadValue as error:
            assert str(error).isprintable()


@given(st.sampled_from(sorted(PARAMETERS)), st.integers(0, 1 << 62))
def test_what_an_editor_starts_with_is_the_value_to_the_byte(name: str, number: int) -> None:
    about = PARAMETERS[name]
    value = min(max(number, about.low), about.high)
    if about.power_of_two:
        value = 1 << (value.bit_length() - 1)
    if about.unit is not Unit.COUNT or about.default is None:
        assert parsed(an_int(name), typed(name, value)) == value


def test_a_value_is_shown_with_its_unit() -> None:
    assert shown("max-bandwidth", 128 << 20) == "128.0 MiB/s"
    assert shown("max-postcopy-bandwidth", 0) == "0 (no limit)"
    assert shown("xbzrle-cache-size", 64 << 20) == "64.0 MiB"
    assert shown("downtime-limit", 300) == "300 ms"
    assert shown("max-cpu-throttle", 99) == "99 %"
    assert shown("events", True) == "on"
    assert shown("tls-creds", "") == "(empty)"
    assert shown("tls-creds", "\x1b[31m") == "\\x1b[31m"
    assert shown("of-a-qemu-to-come", 7) == "7"
    assert shown("block-bitmap-mapping", None) == "not set"


# --- of one VM --------------------------------------------------------------------------------------------------------


def test_the_table_of_a_vm_has_what_its_schema_offers_with_pause_vm_first() -> None:
    state = watched(PAUSE_VM_10_0).state
    names = [each.name for each in entries(state)]
    assert names[0] == "pause-vm"
    assert set(names) == {each.name for each in (*state.vm.features.parameters, *state.vm.features.capabilities)}
    assert "has pause-vm" in pause_vm_line(state)
    assert "no pause-vm" in pause_vm_line(watched().state)
    assert pause_vm_line(State(state.vm.__class__("x"))) == ""
    assert entry(state, "x-colo").marks == "unstable"
    assert entry(state, "zero-blocks").marks == "deprecated"


def test_what_somebody_changed_here_is_marked_until_it_is_as_before() -> None:
    play = watched()
    for value, changed in (
        (1 << 20, "by you; it was 128.0 MiB/s"),
        (2 << 20, "by you; it was 128.0 MiB/s"),
        (128 << 20, ""),
    ):
        asked(play, Tune(play.now, {"max-bandwidth": value}))
        assert entry(play.state, "max-bandwidth").changed == changed
        assert tuned_line(play.state) == f"set: max-bandwidth {shown('max-bandwidth', value)}"
    asked(play, Tune(play.now, {}, {"multifd": True}))
    assert entry(play.state, "multifd").changed == "by you; it was off"


def test_qemus_own_words_are_kept_where_it_refuses() -> None:
    play = watched()
    asked(play, Tune(play.now, {"multifd-channels": 0}))
    assert (
        tuned_line(play.state) == "multifd-channels not set: Parameter 'multifd_channels' expects a value between 1 and 255"
    )
    assert entry(play.state, "multifd-channels").changed == ""


def test_a_save_says_what_it_set_itself_and_for_how_long() -> None:
    seen: dict[Phase, dict[str, parameters.Entry]] = {}

    def look(play: Play) -> None:
        if play.work.phase not in seen and play.state.vm.parameters:
            seen[play.work.phase] = {each.name: each for each in entries(play.state)}
        if play.work.phase is Phase.SAVE and not play.work.bandwidth:
            asked(play, Tune(play.now, {"max-bandwidth": 100 << 20}))

    play = Play(watch=look)
    play.run()
    assert seen[Phase.UNPLUG]["max-bandwidth"].changed == "by vmtui, for this save; then 128.0 MiB/s again"
    assert seen[Phase.UNPLUG]["max-bandwidth"].refusal == ""
    assert "puts it back" in seen[Phase.UNPLUG]["mode"].refusal
    assert "only while no migration runs" in seen[Phase.UNPLUG]["multifd"].refusal
    assert seen[Phase.UNPLUG]["downtime-limit"].refusal == ""
    assert "the copy is over" in seen[Phase.REPLUG]["max-bandwidth"].refusal
    assert entry(play.state, "max-bandwidth").changed == ""


def test_a_rate_that_somebody_gave_a_save_is_said_to_be_for_this_save() -> None:
    told = []

    def look(play: Play) -> None:
        if play.work.phase is Phase.SAVE and not play.work.bandwidth:
            asked(play, Tune(play.now, {"max-bandwidth": 100 << 20}))
            told.append(tuned_line(play.state))
        elif play.work.phase is Phase.SAVE and play.state.vm.parameters["max-bandwidth"] == 100 << 20:
            told.append(entry(play.state, "max-bandwidth").changed)

    Play(watch=look).run()
    assert told[0] == "max-bandwidth: this save copies at that rate; it is put back afterwards"
    assert told[1] == "by you, for this save; then 128.0 MiB/s again"


def test_of_a_vm_that_does_not_answer_nothing_can_be_changed() -> None:
    state = watched().state
    lost = replace(state, vm=replace(state.vm, link=Link.LOST))
    assert {each.refusal for each in entries(lost)} == {"QEMU does not answer now"}
