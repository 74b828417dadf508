"""A guest that never lets go of its card. QEMU takes 30 s to cancel then: a module of its own, for another worker."""

from tests.behaviour.fixtures import AnyPen
from tests.screen.hands import begin_a_save, open_the_vm, terminal


def test_a_guest_that_does_not_answer_is_waited_for_and_then_given_up(pen: AnyPen) -> None:
    guest = pen.own(stubborn=True)
    with terminal(guest) as seen:
        open_the_vm(seen)
        begin_a_save(seen)
        guest.waits_for_unplug()
        seen.until("Keep waiting", "Cancel the save", "only silence tells")  # it opens by itself
        seen.press("w")
        seen.until("press g to see what is known", "In 5")  # of the minute that was asked for
        assert guest.migration_status() == "wait-unplug"

        seen.press("g")
        seen.until("Keep waiting", "Cancel the save")
        seen.press("c")
        shown = seen.until(f"{guest.name}: cancelled by the user", "none is left", "as they were", seconds=60)
        assert "plugged, proved" in shown
        guest.nothing_is_left()
