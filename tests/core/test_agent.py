"""What a guest agent's answer, or its silence, tells of a guest that does not let go of its card, and when it is asked."""

from itertools import pairwise
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from tests.core.play import Play
from tests.core.recorded import registers
from tests.ui.vm_states import Story, waited
from vmtui.backend.core import commands, facts, life, verdict, workflow
from vmtui.backend.core.commands import Channel, Command, Devices, Learned
from vmtui.backend.core.events import AnyEvent, Pinged, QmpEvent
from vmtui.backend.core.model import Agent, Fact, OnStuck, Options, Sample, Vm
from vmtui.backend.core.recovery import recovered
from vmtui.backend.core.samples import Life
from vmtui.backend.core.sim import Scenario
from vmtui.backend.core.state import State
from vmtui.backend.core.verdict import Kind, Verdict

PORT = """\
      dev: virtio-serial-pci, id ""
        bus: virtio-bus
          type virtio-pci-bus
          dev: virtio-serial-device, id ""
            bus: virtio-serial-bus.0
              type virtio-serial-bus
              dev: virtserialport, id ""
                chardev = "agent0"
                nr = 1 (0x1)
                name = "org.qemu.guest_agent.0"
                port 1, guest on, host off, throttle off
"""
DEAD = tuple(Sample(each, commands.cpus(text)) for each, text in registers()["7.2 panicked"])


def never(agent: str = "answers", **more: Any) -> Scenario:
    return Scenario(unplug_delay=None, agent=agent, **more)


def state_after(seconds: float, scenario: Scenario | None = None, **play: Any) -> State:
    return Story(scenario=scenario or never(), **play).until(waited(seconds)).view.state


def told(state: State) -> Verdict:
    found = verdict.verdict(state)
    assert found is not None
    return found


def about_agent(state: State) -> list[str]:
    return [line for line in told(state).known if "agent" in line]


# --- the channel --------------------------------------------------------------------------------------------------------


def test_the_port_of_a_guest_agent_is_found_by_its_name() -> None:
    assert commands.devices(PORT).agent_port == "agent0"
    assert commands.devices(PORT.replace("org.qemu.guest_agent.0", "com.redhat.spice.0")).agent_port == ""
    assert commands.devices(PORT.replace("virtserialport", "virtconsole")).agent_port == ""


@pytest.mark.parametrize(
    ("filename", "is_open", "channel"),
    [
        ("disconnected:unix:/run/a,b.sock,server=on", True, Channel("/run/a,b.sock")),
        ("disconnected:unix:/run/a.sock,server=on", False, Channel()),
        ("unix:/run/a.sock,server=on", True, Channel(held=True)),
        ("disconnected:unix:a.sock,server=on", True, Channel()),
        ("disconnected:unix:/run/a.sock", True, Channel()),
        ("disconnected:tcp:127.0.0.1:1,server=on", True, Channel()),
        ("pty:/dev/pts/3", True, Channel()),
    ],
)
def test_a_channel_can_be_asked_where_nobody_is_connected_and_somebody_listens(
    filename: str, is_open: bool, channel: Channel
) -> None:
    other = {"frontend-open": True, "filename": "disconnected:unix:/other,server=on", "label": "agent1"}
    entries = [other, {"frontend-open": is_open, "filename": filename, "label": "agent0"}]
    assert commands.channel("agent0", entries) == channel
    assert commands.channel("agent0", [other]) == Channel()


def test_what_an_older_journal_tells_of_the_devices_is_understood() -> None:
    old = msgspec.json.decode(b'{"type":"devices","primaries":[],"standbys":["s"]}', type=Learned)
    assert old == Devices((), ("s",), "")


# --- when it is asked ---------------------------------------------------------------------------------------------------


def looks(story: Story) -> int:
    return len([each for each in story.play.sent if isinstance(each, Command) and each.learns is Fact.AGENT])


def test_a_guest_that_lets_go_in_time_is_not_asked() -> None:
    story = Story(scenario=Scenario(unplug_delay=4.9, agent="answers")).until(lambda play: play.done)
    assert (looks(story), story.play.state.vm.agent) == (0, Agent())


def test_a_slow_one_is_asked_every_three_seconds() -> None:
    asked: list[float] = []

    def watch(play: Play) -> None:
        if (at := play.state.vm.agent.asked) is not None and at not in asked:
            asked.append(at)

    story = Story(scenario=never(), watch=watch).until(waited(13))
    assert len(asked) == looks(story) == 3
    assert all(3.0 <= later - at < 3.3 for at, later in pairwise(asked))


@pytest.mark.parametrize(
    ("scenario", "pid", "expected"),
    [(never("none"), 1, 3), (never(agent_in_use=True), 1, 3), (never(), 0, 0), (never(""), 1, 0)],
    ids=["port closed", "in use", "of another host", "no channel"],
)
def test_where_nobody_can_answer_nobody_is_asked(scenario: Scenario, pid: int, expected: int) -> None:
    story = Story(scenario=scenario, pid=pid).until(waited(13))
    assert (looks(story), story.play.state.vm.agent.asked) == (expected, None)


def test_a_guest_that_stands_still_is_not_asked() -> None:
    scenario = never(paused_by_other="wait-unplug")
    story = Story(scenario=scenario, options=Options(output="/s", on_stuck=OnStuck.WAIT)).until(waited(13))
    assert looks(story) == 0


def test_a_socket_that_cannot_be_used_is_tried_once_and_told() -> None:
    story = Story(scenario=never("silent")).until(lambda play: play.state.ping is not None)
    ping = story.play.state.ping
    assert ping is not None
    story.play.step(Pinged(story.play.now, ping.id, answered=False, why_not="/run/a.sock: Permission denied"))
    story.until(waited(13))
    assert looks(story) == 1
    assert about_agent(story.view.state) == ["Its guest agent cannot be asked: /run/a.sock: Permission denied."]


def test_an_unanswered_question_does_not_hold_up_the_pause() -> None:
    def stopped_at(agent: str) -> float:
        play = Play(scenario=Scenario(unplug_delay=5.6, agent=agent))
        assert play.run().outcome == "saved"
        return play.vm.intervals()[0][0]

    assert abs(stopped_at("silent") - stopped_at("")) < 0.001


def test_an_answer_that_comes_when_the_guest_has_let_go_or_to_another_question_is_nobodys() -> None:
    story = Story(scenario=Scenario(unplug_delay=5.6, agent="silent")).until(lambda play: play.state.ping is not None)
    ping = story.play.state.ping
    assert ping is not None
    story.play.step(Pinged(story.play.now, ping.id + 1, answered=True))
    assert story.play.state.ping == ping
    story.until(lambda play: play.work.marks.unplugged is not None)
    story.play.step(Pinged(story.play.now, ping.id, answered=True))
    assert story.play.state.vm.agent.answered is None


def test_what_was_answered_is_in_the_journal() -> None:
    class Told(Play):
        def step(self, event: AnyEvent) -> None:
            events.append(event)
            super().step(event)

    events: list[AnyEvent] = []
    play = Told(scenario=never())
    first = play.state.vm
    play.start()
    while not waited(7)(play):
        play.turn()
    written = msgspec.json.encode(events)
    played = recovered(first, msgspec.json.decode(written, type=list[AnyEvent]))
    assert played is not None
    assert played.vm.agent.answered is not None
    assert played.vm == play.state.vm


def test_another_save_knows_nothing_of_it() -> None:
    story = Story(scenario=never()).until(lambda play: play.done)
    assert story.play.state.vm.agent.answered is not None
    assert story.begin().play.state.vm.agent == Agent()


# --- what it tells ------------------------------------------------------------------------------------------------------


def test_a_guest_whose_agent_answers_lives() -> None:
    state = state_after(7, argv=("qemu",), reply=lambda command, value: "" if command.learns is Fact.CPUS else value)
    assert told(state).known == ("7 s of silence since UNPLUG_PRIMARY.", "It lives: its guest agent answered 2 s ago.")
    assert (told(state).kind, told(state).agent) == (Kind.SLOW, "answers")


def test_an_answer_outranks_vcpus_that_look_dead() -> None:
    turn = iter(registers()["7.2 panicked"] * 9)
    play = {"reply": lambda command, value: next(turn)[1] if command.learns is Fact.CPUS else value}
    assert told(state_after(14, never(""), **play)).kind is Kind.PROBABLY_DEAD
    state = state_after(14, never(), **play)
    assert told(state).kind is Kind.SLOW
    assert any(line.startswith("Its vCPUs alone look dead: ") for line in told(state).known)
    assert "it lives: its guest agent answered" in ended(never(), **play)


def ended(scenario: Scenario, **play: Any) -> str:
    work = Story(scenario=scenario, **play).until(lambda play: play.done).play.work
    assert work.failure is not None
    return work.failure.text


def test_no_answer_outranks_a_panic() -> None:
    scenario = never(panics=6.0, panic_action="none")
    state = state_after(7, scenario, options=Options(output="/s", on_stuck=OnStuck.WAIT))
    assert state.vm.agent.answered is not None
    assert (told(state).kind, about_agent(state)) == (Kind.DEAD, ["Its guest agent answered 2 s ago."])


def test_an_agent_that_does_not_answer_is_told_and_makes_its_guest_no_deader() -> None:
    state = state_after(9.5, never("silent"))
    assert told(state).kind is told(state_after(9.5, never(""))).kind is Kind.SLOW
    (line,) = about_agent(state)
    assert line.startswith("Its guest agent has its port open, and has not answered for 4 s: ")
    assert told(state).agent == "silent"
    assert about_agent(state_after(7.5, never("silent"))) == [], "one question is not enough"


def test_an_agent_that_no_longer_answers_is_told_so() -> None:
    scenario = never(panics=6.0, panic_device=False)
    assert about_agent(state_after(7, scenario)) == ["It lives: its guest agent answered 2 s ago."]
    found = told(state_after(15, scenario))
    assert any("Its guest agent answered 10 s ago, and no longer does: " in line for line in found.known)
    assert (found.kind, found.agent) == (Kind.PROBABLY_DEAD, "silent")


def test_somebody_elses_channel_is_told() -> None:
    assert about_agent(state_after(7, never(agent_in_use=True))) == [
        "Somebody else is connected to its guest agent, and can ask it; vmtui does not."
    ]


VM = Vm("unix:/q", runstate="running", agent=Agent("/a", asked=20.0, answered=10.0))


@pytest.mark.parametrize(("now", "expected"), [(10.0, Life.LIVES), (18.0, Life.LIVES), (18.1, Life.PROBABLY_DEAD)])
def test_an_answer_outranks_samples_for_as_long_as_they_look_back(now: float, expected: Life) -> None:
    assert life.life(replace(VM, samples=DEAD), now).life is expected


def test_an_old_answer_is_told_with_its_age_and_is_no_life() -> None:
    assert life.of_agent(VM, 30.0) == "Its guest agent answered 20 s ago."
    assert life.life(VM, 30.0).life is Life.UNKNOWN


def test_silence_counts_from_the_first_question_and_an_answer_ends_it() -> None:
    silent = facts.pinged(facts.pinged(VM, Pinged(22.0, 1, answered=False)), Pinged(25.0, 2, answered=False))
    assert silent.agent.silent == 20.0
    assert facts.pinged(silent, Pinged(26.0, 3, answered=True)).agent == replace(VM.agent, answered=26.0)


def test_a_guest_that_stood_still_could_not_answer() -> None:
    silent = facts.pinged(VM, Pinged(22.0, 1, answered=False))
    assert facts.qmp_event(silent, QmpEvent(23.0, "STOP", {})).agent == VM.agent
    assert facts.pinged(replace(VM, runstate="paused"), Pinged(22.0, 1, answered=False)).agent == VM.agent
    assert facts.qmp_event(silent, QmpEvent(23.0, "RESET", {})).agent == Agent()


def test_a_late_answer_means_nothing_without_a_question() -> None:
    state = State(VM)
    assert workflow.step(state, Pinged(30.0, 1, answered=True)).vm == VM
