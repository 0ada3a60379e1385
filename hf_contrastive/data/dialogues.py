"""Prompts and answers, as texts or as lists of chat messages: where one ends and the other begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


Messages = list[dict[str, Any]]
Turns = str | Messages

ASSISTANT_MARKER = "\n\nAssistant:"
# Two answers that both begin with the whole prompt repeat it; with a shorter prompt that may be chance ("Hi" - "Hi there").
_SURELY_REPEATED = 20


def split_dialogue(chosen: str, rejected: str, marker: str = ASSISTANT_MARKER) -> tuple[str, str, str]:
    """Splits two whole dialogues that begin alike into their prompt and the two answers.

    The prompt ends with the last turn marker that lies within what both have in common; everything behind it is the answer,
    so that prompt + answer gives the dialogue back, character by character. Where the dialogues part before the last turn,
    the answers hold several turns. Without a marker the prompt is what both have in common, cut back to the last white
    space, so that no word is split; the white space belongs to the answer.

    Args:
        chosen, rejected (`str`): whole dialogues, as in Anthropic/hh-rlhf.
        marker (`str`): what an answering turn begins with.

    Returns:
        `(prompt, chosen answer, rejected answer)`: texts. An answer may be empty or blank where the dialogue is.

    Example:

    ```python
    >>> from hf_contrastive.data import split_dialogue
    >>> split_dialogue("\\n\\nHuman: Hi\\n\\nAssistant: Hello there", "\\n\\nHuman: Hi\\n\\nAssistant: Hey")
    ('\\n\\nHuman: Hi\\n\\nAssistant:', ' Hello there', ' Hey')

    ```
    """
    common = common_length(chosen, rejected)
    place = chosen.rfind(marker, 0, common)
    if place >= 0:
        end = place + len(marker)
        return chosen[:end], chosen[end:], rejected[end:]
    rests = chosen[common:], rejected[common:]
    if all(rest.strip() for rest in rests):
        if not all(rest[0].isspace() for rest in rests):
            common = _last_space(chosen[:common])
    else:  # one dialogue is the beginning of the other: its last word has to be left as an answer
        common = _last_space(chosen[:common].rstrip())
    return chosen[:common], chosen[common:], rejected[common:]


def common_length(one: Sequence[Any], other: Sequence[Any]) -> int:
    """How many characters (or tokens) two texts (or rows) have in common at their start."""
    for place, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return place
    return min(len(one), len(other))


def _last_space(text: str) -> int:
    """Where the last white space begins that stands behind a word; 0 when there is none."""
    for place in range(len(text) - 1, 0, -1):
        if text[place].isspace():
            return place if text[:place].strip() else 0
    return 0


def split_messages(chosen: Messages, rejected: Messages) -> tuple[Messages, Messages, Messages]:
    """Splits two lists of chat messages that begin alike: the common leading messages are the prompt.

    Args:
        chosen, rejected (`list[dict]`): whole conversations. The last message of each always belongs to the answer.

    Returns:
        `(prompt, chosen answer, rejected answer)`: lists of messages.

    Example:

    ```python
    >>> from hf_contrastive.data.dialogues import split_messages
    >>> hi, hello, hey = ({"role": "user", "content": text} for text in ("Hi", "Hello", "Hey"))
    >>> split_messages([hi, hello], [hi, hey])[0]
    [{'role': 'user', 'content': 'Hi'}]

    ```
    """
    length = 0
    while length < min(len(chosen), len(rejected)) - 1 and _same(chosen[length], rejected[length]):
        length += 1
    return chosen[:length], chosen[length:], rejected[length:]


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return clean_message(one) == clean_message(other)


def clean_message(message: Mapping[str, Any]) -> dict[str, Any]:
    """A chat message without the fields that tables fill up with nothing."""
    return {key: value for key, value in message.items() if value is not None}


def is_messages(value: Any) -> bool:
    """Whether it is a list of chat messages (an empty list is one)."""
    return (
        isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(turn, Mapping) for turn in value)
    )


def is_blank(turns: Any) -> bool:
    """Whether there is nothing to read in a text or in any of the messages."""
    if turns is None:
        return True
    if isinstance(turns, str):
        return not turns.strip()
    return all(is_blank(turn.get("content")) if isinstance(turn, Mapping) else False for turn in turns)


def user_message(text: str) -> Messages:
    """A text as what the user says."""
    return [{"role": "user", "content": text}]


def assistant_message(text: str) -> Messages:
    """A text as what the assistant says."""
    return [{"role": "assistant", "content": text}]


def match_prompt(prompt: Any, answers: Sequence[Any]) -> tuple[Any, list[Any]]:
    """A prompt and its answers of one kind: all texts, or all lists of messages, the answers without the prompt.

    Args:
        prompt (`str` or `list[dict]`): texts beside messages become a message of the user.
        answers (sequence of `str` or `list[dict]`): texts beside messages become a message of the assistant. Answers that
            all begin with the whole prompt are whole conversations and lose it.

    Returns:
        `(prompt, answers)`.

    Raises:
        ValueError: something that is neither a text nor a list of messages.

    Example:

    ```python
    >>> from hf_contrastive.data.dialogues import match_prompt
    >>> match_prompt("1 + 1?", [[{"role": "assistant", "content": "2"}]])
    ([{'role': 'user', 'content': '1 + 1?'}], [[{'role': 'assistant', 'content': '2'}]])

    ```
    """
    for value in (prompt, *answers):
        if not isinstance(value, str) and not is_messages(value):
            raise ValueError(
                f"{str(value)[:60]!r} is of type {type(value).__name__}; expected a text or a list of messages "
                '{"role": ..., "content": ...}'
            )
    if isinstance(prompt, str) and all(isinstance(answer, str) for answer in answers):
        if len(prompt) >= _SURELY_REPEATED and all(answer.startswith(prompt) for answer in answers):
            answers = [answer[len(prompt) :] for answer in answers]
        return prompt, list(answers)
    lists = [assistant_message(answer) if isinstance(answer, str) else list(answer) for answer in answers]
    turns = (user_message(prompt) if prompt.strip() else []) if isinstance(prompt, str) else list(prompt)
    if len(turns) and all(len(one) > len(turns) and all(map(_same, turns, one)) for one in lists):
        lists = [one[len(turns) :] for one in lists]
    return turns, lists


__all__ = [
    "ASSISTANT_MARKER",
    "assistant_message",
    "clean_message",
    "common_length",
    "is_blank",
    "is_messages",
    "match_prompt",
    "split_dialogue",
    "split_messages",
    "user_message",
]
