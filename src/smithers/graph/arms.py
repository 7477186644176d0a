"""Arms: which parts of a tree may never be entered, for telling why something that depends on them cannot go on."""

from __future__ import annotations

from smithers.components.composites import SagaStep, TryCatchFinally
from smithers.components.element import Element
from smithers.components.flow import Branch


def arms_by_id(tree: Element) -> dict[str, str]:
    """What stands in an arm that is entered only under a condition, by id: the arm's description. Of a Branch, only the
    arm that it does not take; nested ones are described by the innermost."""
    found: dict[str, str] = {}
    todo: list[tuple[Element, str | None]] = [(tree, None)]
    while todo:
        element, arm = todo.pop()
        id: object = getattr(element, "id", None)
        if arm is not None and isinstance(id, str):
            found.setdefault(id, arm)
        todo += [(child, arm) for child in element.children]
        match element:
            case Branch():
                taken, other = (element.then, element.else_) if element.if_ else (element.else_, element.then)
                name = "else_" if element.if_ else "then"
                todo += [(child, arm) for child in taken]
                todo += [(child, f"the arm {name} of {element!r}, which is not taken") for child in other]
            case TryCatchFinally():
                todo += [(child, arm) for child in (*element.try_, *element.finally_)]
                if not callable(element.catch):
                    todo += [(child, f"the arm catch of {element!r}, entered by a failure") for child in element.catch]
            case SagaStep() if element.compensation is not None:
                todo.append((element.compensation, f"the compensation of {element!r}, entered by a failure"))
            case _:
                pass
    return found
