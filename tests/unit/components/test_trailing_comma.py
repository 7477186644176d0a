"""Formatters add a comma after the last thing in brackets that span lines; that must not change what is meant."""

from __future__ import annotations

from pydantic import BaseModel

from smithers import Approval, HumanTask, Signal, Task, create_smithers


class Row(BaseModel):
    n: int = 0


_, outputs = create_smithers({"row": Row})


def test_a_trailing_comma_in_brackets_means_the_one_thing_in_them() -> None:
    def work() -> Row:
        return Row()

    def mount(row: Row) -> None:
        del row

    assert Task("a", output=outputs.row)[work,].child is work
    assert Task("b", output=outputs.row)["say",].child == "say"
    assert HumanTask("c", output=outputs.row)["How many?",].prompt == "How many?"
    assert Approval("d", output=outputs.row)["Go?",].request["title"] == "Go?"
    assert Signal("e", schema=outputs.row)[mount,].then is mount
