"""Two models that need no network, for `agent_loop.py`: functions in the place of a language model.

pydantic-ai calls them as it calls any model, so that structured output and validation work as with a real one. They
look at the prompt: the implementer corrects its fault once it is told of it, the reviewer goes by the tests.
"""

from __future__ import annotations

from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, ToolCallPart, UserPromptPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

_FAULTY = '''\
"""Roman numerals."""

VALUES = {1000: "M", 500: "D", 100: "C", 50: "L", 10: "X", 5: "V", 1: "I"}


def to_roman(number: int) -> str:
    """The Roman numeral of a number from 1 to 3999."""
    if not 1 <= number <= 3999:
        raise ValueError(f"{number} has no Roman numeral")
    numeral = ""
    for value, letter in VALUES.items():
        count, number = divmod(number, value)
        numeral += letter * count
    return numeral
'''
_RIGHT = _FAULTY.replace(
    'VALUES = {1000: "M", 500: "D", 100: "C", 50: "L", 10: "X", 5: "V", 1: "I"}',
    'VALUES = {\n    1000: "M", 900: "CM", 500: "D", 400: "CD", 100: "C", 90: "XC",\n'
    '    50: "L", 40: "XL", 10: "X", 9: "IX", 5: "V", 4: "IV", 1: "I",\n}',
)


def _prompt(messages: list[ModelMessage]) -> str:
    parts = [part for message in messages if isinstance(message, ModelRequest) for part in message.parts]
    return "\n".join(str(part.content) for part in parts if isinstance(part, UserPromptPart))


def _answer(info: AgentInfo, values: dict[str, object]) -> ModelResponse:
    if not info.output_tools:
        return ModelResponse([TextPart(str(values))])
    return ModelResponse([ToolCallPart(info.output_tools[0].name, values)])


def _implement(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    if "tests failed" in _prompt(messages):
        return _answer(info, {"source": _RIGHT, "note": "Subtractive pairs are values of their own."})
    return _answer(info, {"source": _FAULTY, "note": "Greedy from the largest value down."})


def _review(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    if "The tests pass." in _prompt(messages):
        return _answer(info, {"approved": True, "feedback": ""})
    return _answer(info, {"approved": False, "feedback": "4 is IV, not IIII: the pairs that subtract are missing."})


implementer = Agent(FunctionModel(_implement, model_name="scripted-implementer"), name="implementer")
reviewer = Agent(FunctionModel(_review, model_name="scripted-reviewer"), name="reviewer")
