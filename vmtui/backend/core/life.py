"""Does a guest that does not let go of its card live? What its guest agent answers, and what samples of its vCPUs tell.

An answer is proof: a program in the guest ran. Silence is none: the agent may be busy or stopped.

Measured on QEMU 7.2, 10.0 and 11.1: query-chardev tells `disconnected:unix:PATH,server=on` while nobody is connected, and
`unix:PATH,server=on` while somebody is; who connects then gets in, and no answer. frontend-open tells whether the guest has
the port open: true still of a guest that panicked or stands, which takes a question and does not answer. A question that
was given up does not disturb the next: its answer goes nowhere, or comes before the other. An answer takes 1 to 140 ms.

A qemu-ga (7.2) answers in 2 to 13 ms, also while it keeps the file systems frozen. Half a line that another client has left
there makes it answer late, and with errors, until an 0xFF comes first. That costs a line with an error before each answer.
"""

from vmtui.backend.core.model import Agent, Vm
from vmtui.backend.core.samples import Judgement, Life
from vmtui.backend.core.samples import life as by_samples
from vmtui.backend.core.text import printable

HOLDS = 8.0
"""Seconds for which an answer outranks the samples: they look back so far."""


def life(vm: Vm, now: float) -> Judgement:
    """Of a guest that runs."""
    return Judgement(Life.LIVES, agents_answer(vm, now)) if agent_shows(vm, now) else by_samples(vm)


def agent_shows(vm: Vm, now: float) -> bool:
    """That the guest lives. No answer outranks a panic."""
    answered = vm.agent.answered
    return answered is not None and now - answered <= HOLDS and not is_silent(vm.agent) and not vm.panicked


def is_silent(agent: Agent) -> bool:
    """It does not answer. One question is not enough: somebody else may have connected before it."""
    return agent.silent is not None and agent.asked is not None and agent.asked > agent.silent


def agents_answer(vm: Vm, now: float) -> str:
    """Half a sentence; empty where it never answered."""
    answered = vm.agent.answered
    return "" if answered is None else f"its guest agent answered {max(now - answered, 0):.0f} s ago"


def of_agent(vm: Vm, now: float) -> str:
    """What is known of the guest agent, as sentences; empty where nothing is."""
    agent, answer = vm.agent, agents_answer(vm, now)
    if agent_shows(vm, now):
        return f"It lives: {answer}."
    if agent.why_not:
        return f"Its guest agent cannot be asked: {printable(agent.why_not, 300)}."
    if is_silent(agent) and answer:
        return f"I{answer[1:]}, and no longer does: it, or the guest, is busy, stopped or dead."
    if agent.silent is not None and is_silent(agent):
        waited = f"{now - agent.silent:.0f} s"
        return f"Its guest agent has its port open, and has not answered for {waited}: a busy one looks like that, too."
    if answer:
        return f"I{answer[1:]}."
    return "Somebody else is connected to its guest agent, and can ask it; vmtui does not." if agent.held else ""


def agent_word(vm: Vm, now: float) -> str:
    """answers or silent; empty where neither is known."""
    return "answers" if agent_shows(vm, now) else "silent" if is_silent(vm.agent) else ""
