"""Questions: what is asked, what follows from each answer, and the harmless one as the default."""

from enum import StrEnum

from textual.screen import ModalScreen


class Quit(StrEnum):
    STAY = "stay"
    GO_ON = "go-on"
    CANCEL = "cancel"


class QuitDialog(ModalScreen[Quit]):
    def __init__(self, busy: list[str]) -> None:
        super().__init__()
