"""What do samples of a guest's vCPUs tell of it: is it dead, or does it live and not answer?

Measured on QEMU 7.2, 10.0 and 11.1 with Linux guests under TCG. One that idles is halted with interrupts on, and elsewhere
each time it is awake; a busy one is all over its code, much of it a program's. After a panic one vCPU goes round in the
kernel's delay loop (239 of 240 samples within 64 bytes, the other one in an interrupt), and the others are halted with
interrupts off: nothing but a reset or an NMI wakes those. What cannot be told from a panic is a guest that polls while it
is idle (idle=poll: 51 of 60 samples in one instruction).
"""

from collections.abc import Sequence
from enum import StrEnum

import msgspec

from vmtui.backend.core.model import Cpu, Sample, Vm

ENOUGH = 12
"""Samples that a judgement needs."""
STRETCH = 4096
"""Bytes of code that a vCPU goes round in."""
ASTRAY = 16
"""One sample in so many may be elsewhere: an interrupt came in between."""


class Life(StrEnum):
    UNKNOWN = "unknown"
    LIVES = "lives"
    PROBABLY_DEAD = "probably dead"
    DEAD = "dead"


class Judgement(msgspec.Struct, frozen=True):
    life: Life = Life.UNKNOWN
    why: str = ""
    """Half a sentence; empty where nothing is known."""


def life(vm: Vm) -> Judgement:
    """What the samples tell of a guest that runs. With cpu-pm its vCPUs are never halted: they idle in one instruction."""
    found = judged(vm.samples)
    return Judgement() if found.life is Life.PROBABLY_DEAD and any("cpu-pm=on" in word for word in vm.argv) else found


def judged(samples: Sequence[Sample]) -> Judgement:
    """What they tell, each of the same vCPUs."""
    if len(samples) < ENOUGH:
        return Judgement()
    vcpus = list(zip(*(sample.cpus for sample in samples), strict=True))
    off, going_round = sum(map(_is_off, vcpus)), sum(map(_goes_round, vcpus))
    lasted = f"{samples[-1].at - samples[0].at:.0f} s"
    if off == len(vcpus):
        return Judgement(Life.DEAD, f"{_of(off, off, 'is', 'are')} halted with interrupts off, for {lasted} now; "
                         "only a reset ends that")  # fmt: skip
    if off + going_round == len(vcpus):
        others = f"; {_of(off, len(vcpus), 'is', 'are')} halted with interrupts off" if off else ""
        return Judgement(Life.PROBABLY_DEAD, f"{_of(going_round, len(vcpus), 'has', 'have')} gone round within "
                         f"{STRETCH >> 10} KiB of kernel code for {lasted}{others}")  # fmt: skip
    return _alive([cpu for vcpu in vcpus for cpu in vcpu], lasted)


def _alive(looks: list[Cpu], lasted: str) -> Judgement:
    idle, programs = sum(map(_is_idle, looks)), sum(cpu.user for cpu in looks)
    life = Life.LIVES if idle or programs else Life.UNKNOWN
    return Judgement(life, f"{len(looks)} looks at its vCPUs in {lasted} found {idle} idle and ready to be woken, "
                     f"{programs} in a program, {len(looks) - idle - programs} in the kernel")  # fmt: skip


def _of(count: int, all_of_them: int, one: str, several: str) -> str:
    """So many of its vCPUs, and the verb."""
    if all_of_them == 1:
        return f"its one vCPU {one}"
    which = f"all its {count}" if count == all_of_them else f"{count} of its {all_of_them}"
    return f"{which} vCPUs {one if count == 1 else several}"


def _is_idle(cpu: Cpu) -> bool:
    return cpu.halted and cpu.interrupts


def _is_off(vcpu: tuple[Cpu, ...]) -> bool:
    return all(cpu.halted and not cpu.interrupts for cpu in vcpu)


def _goes_round(vcpu: tuple[Cpu, ...]) -> bool:
    """In one small stretch of the kernel's code, never at rest and never in a program."""
    if any(cpu.halted or cpu.user for cpu in vcpu):
        return False
    middle = sorted(cpu.pc for cpu in vcpu)[len(vcpu) // 2]
    astray = sum(abs(cpu.pc - middle) > STRETCH // 2 for cpu in vcpu)
    return astray * ASTRAY <= len(vcpu)
