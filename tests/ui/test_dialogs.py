"""Questions: the safe answer is the first, has the focus, and is what escape says."""

from typing import Any

import pytest
from textual.app import App

from tests.ui.frozen import Hands, run_app, settle
from vmtui.screens.dialogs import Confirm, Question, Quit, QuitDialog


def answered(question: Question[Any], *keys: str) -> Any:
    answers: list[Any] = []

    async def use(app: App[None], hands: Hands) -> None:
        await app.push_screen(question, answers.append)
        await settle(app)
        await hands.press(*keys)

    run_app(App[None](), use, size=(60, 20))
    return answers[0] if answers else None


@pytest.mark.parametrize(("keys", "answer"), [
    (("y",), True), (("n",), False), (("escape",), False), (("enter",), False), (("tab", "enter"), True),
])  # fmt: skip
def test_a_question_is_answered(keys: tuple[str, ...], answer: bool) -> None:
    assert answered(Confirm("Delete it?", "It is gone for good."), *keys) is answer


@pytest.mark.parametrize(("keys", "answer"), [
    (("escape",), Quit.STAY), (("enter",), Quit.STAY), (("g",), Quit.GO_ON), (("c",), Quit.CANCEL),
    (("down", "enter"), Quit.GO_ON),
])  # fmt: skip
def test_quitting_with_a_save_under_way_asks(keys: tuple[str, ...], answer: Quit) -> None:
    assert answered(QuitDialog(["web1", "db1"], outlives=True), *keys) is answer
