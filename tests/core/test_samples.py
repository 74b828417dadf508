"""What is told of a guest by samples of its vCPUs, as real QEMUs printed them."""

import pytest
from msgspec.structs import replace

from tests.core.recorded import registers
from tests.ui.vm_states import NEVER, Story, waited
from vmtui.backend.core import facts, samples, verdict
from vmtui.backend.core.commands import MOST_CPUS, Command, Cpus, cpus, hmp
from vmtui.backend.core.events import QmpEvent
from vmtui.backend.core.model import Cpu, Fact, OnStuck, Options, Sample, Vm
from vmtui.backend.core.samples import ENOUGH, Life, judged
from vmtui.backend.core.sim import Scenario
from vmtui.backend.core.state import State
from vmtui.backend.core.verdict import Kind

SILENT = Scenario(panics="wait-unplug", panic_device=False, unplug_delay=None)
LOOP = 0xFFFFFFFF819EC723
IDLE = Cpu(0xFFFFFFFF81A4E8CB, halted=True)
OFF = Cpu(0xFFFFFFFF8103FC5B, halted=True, interrupts=False)
ASK = hmp("info registers -a", learns=Fact.CPUS)


def of(*each: tuple[Cpu, ...]) -> tuple[Sample, ...]:
    return tuple(Sample(number / 2, vcpus) for number, vcpus in enumerate(each))


def sampled(guest: str) -> tuple[Sample, ...]:
    return tuple(Sample(at, cpus(text)) for at, text in registers()[guest])


def state_after(seconds: float, scenario: Scenario = NEVER) -> State:
    return Story(scenario=scenario).until(waited(seconds)).view.state


# --- recorded ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("guest", "life", "why"),
    [
        ("7.2 idle", Life.LIVES, "idle and ready to be woken"),
        ("10.0 stubborn", Life.LIVES, "idle and ready to be woken"),
        ("11.1 idle, two vCPUs", Life.LIVES, "32 looks at its vCPUs"),
        ("11.1 busy, two vCPUs", Life.LIVES, "in a program"),
        ("7.2 panicked", Life.PROBABLY_DEAD, "its one vCPU has gone round within 4 KiB of kernel code for 8 s"),
        ("10.0 panicked, two vCPUs", Life.PROBABLY_DEAD, "1 of its 2 vCPUs has gone round"),
        ("10.0 spinning, two vCPUs", Life.PROBABLY_DEAD, "; 1 of its 2 vCPUs is halted with interrupts off"),
        ("11.1 halted, two vCPUs", Life.DEAD, "all its 2 vCPUs are halted with interrupts off"),
    ],
)
def test_a_real_guest_is_taken_for_what_it_is(guest: str, life: Life, why: str) -> None:
    found = judged(sampled(guest))
    assert found.life is life
    assert why in found.why


def test_every_vcpu_of_a_recorded_text_is_read() -> None:
    counts = {guest: {len(cpus(text)) for _at, text in texts} for guest, texts in registers().items()}
    assert counts == {guest: {2 if "two" in guest else 1} for guest in registers()}


# --- what is said of which samples --------------------------------------------------------------------------------------


def test_too_few_samples_tell_nothing() -> None:
    assert judged(of(*[(OFF,)] * (ENOUGH - 1))).life is Life.UNKNOWN
    assert judged(of(*[(OFF,)] * ENOUGH)).life is Life.DEAD


def test_an_interrupt_once_in_a_while_is_no_sign_of_life_and_a_second_one_is_not_clear() -> None:
    loop, away = (Cpu(LOOP),), (Cpu(LOOP + 42_000),)
    assert judged(of(*[loop] * 15, away)).life is Life.PROBABLY_DEAD
    assert judged(of(*[loop] * 14, away, away)).life is Life.UNKNOWN


@pytest.mark.parametrize("sign", [IDLE, Cpu(LOOP, user=True)], ids=["idle", "program"])
def test_one_sign_of_life_is_enough(sign: Cpu) -> None:
    assert judged(of(*[(Cpu(LOOP),)] * 15, (sign,))).life is Life.LIVES


def test_one_vcpu_that_can_be_woken_keeps_a_guest_alive_whose_others_cannot() -> None:
    assert judged(of(*[(OFF, IDLE)] * ENOUGH)).life is Life.LIVES


def test_a_guest_that_never_halts_its_vcpus_is_not_judged_by_where_they_are() -> None:
    vm = Vm("unix:/q", samples=of(*[(Cpu(LOOP),)] * ENOUGH))
    assert samples.life(vm).life is Life.PROBABLY_DEAD
    assert samples.life(replace(vm, argv=("qemu", "-overcommit", "cpu-pm=on"))).life is Life.UNKNOWN


# --- which are kept -----------------------------------------------------------------------------------------------------


def learned(vm: Vm, *each: tuple[Cpu, ...]) -> Vm:
    for number, vcpus in enumerate(each):
        vm = facts.learn(vm, ASK, Cpus(vcpus), float(number))
    return vm


def test_only_the_last_samples_are_kept_and_only_those_of_the_same_vcpus() -> None:
    vm = learned(Vm("unix:/q"), *[(IDLE,)] * 99)
    assert [each.at for each in vm.samples] == [float(99 - back) for back in range(facts.KEPT_SAMPLES, 0, -1)]
    assert len(learned(vm, (IDLE, IDLE)).samples) == 1


@pytest.mark.parametrize("name", ["STOP", "RESET"])
def test_samples_of_before_the_guest_stood_still_or_booted_are_dropped(name: str) -> None:
    assert facts.qmp_event(learned(Vm("unix:/q"), (IDLE,)), QmpEvent(9.0, name, {})).samples == ()


@pytest.mark.parametrize("text", ["", "\r\nCPU#0\r\nPC=0000000040000000 PSTATE=3c5\r\n", "RIP=0 RFL=2 CPL=0 HLT=0\n" * 65])
def test_of_another_machine_or_too_large_a_one_nothing_is_told(text: str) -> None:
    assert MOST_CPUS == 64
    assert cpus(text) == ()


# --- when they are asked for --------------------------------------------------------------------------------------------


def asked(story: Story) -> list[Command]:
    return [each for each in story.play.commands("human-monitor-command") if each.learns is Fact.CPUS]


def test_a_guest_that_answers_in_time_is_not_looked_into() -> None:
    assert asked(Story(scenario=Scenario(unplug_delay=4.0)).until(lambda play: play.done)) == []


def test_a_slow_one_is_looked_into_twice_a_second() -> None:
    assert 9 <= len(asked(Story(scenario=NEVER).until(waited(10)))) <= 11


def test_one_that_stands_still_is_not_looked_into() -> None:
    options = Options(output="/s", on_stuck=OnStuck.WAIT)
    scenario = Scenario(unplug_delay=None, paused_by_other="wait-unplug")
    assert asked(Story(scenario=scenario, options=options).until(waited(10))) == []


@pytest.mark.parametrize("how", ["refuse", "nothing"])
def test_what_qemu_does_not_tell_is_asked_once_and_the_save_goes_on(how: str) -> None:
    story = Story(
        scenario=Scenario(unplug_delay=9.0),
        fault=lambda _play, action: "refuse" if how == "refuse" and getattr(action, "learns", None) is Fact.CPUS else None,
        reply=lambda command, value: "" if command.learns is Fact.CPUS else value,
    ).until(lambda play: play.done)
    assert len(asked(story)) == 1
    assert story.play.work.outcome == "saved"


def test_a_guest_that_crashed_unseen_is_called_probably_dead_and_why() -> None:
    state = state_after(15, SILENT)
    found = verdict.verdict(state)
    assert found is not None
    assert found.kind is Kind.PROBABLY_DEAD
    assert found.line.startswith("probably dead: its one vCPU has gone round within 4 KiB of kernel code for ")
    assert any("Not for sure" in line for line in found.known)
    assert "In 15 s the save is cancelled" in found.then
    assert verdict.occasion(state) is not None


def test_a_stubborn_guest_is_slow_and_lives() -> None:
    found = verdict.verdict(state_after(15))
    assert found is not None
    assert found.kind is Kind.SLOW
    assert any(line.startswith("It lives: ") for line in found.known)


def test_a_verdict_by_samples_changes_nothing_of_what_is_done() -> None:
    story = Story(scenario=SILENT).until(lambda play: play.done)
    work = story.play.work
    assert work.failure is not None
    assert "within 30 s; it is probably dead: its one vCPU" in work.failure.text
    assert work.outcome == "cancelled"


def test_samples_of_an_earlier_save_say_nothing_of_this_one() -> None:
    story = Story(scenario=NEVER).until(lambda play: play.done)
    assert story.play.state.vm.samples
    assert story.begin().play.state.vm.samples == ()
