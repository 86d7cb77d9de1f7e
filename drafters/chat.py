"""Chat templates: programs of others that make a conversation's text, held to be a function of the conversation alone."""

from __future__ import annotations

import string
from collections.abc import Sequence
from datetime import date, datetime, time
from typing import TYPE_CHECKING, Final

from simulator.errors import InputError, first_paragraph

if TYPE_CHECKING:  # takes seconds
    from transformers import PreTrainedTokenizerBase

TEMPLATE_DATE = date(2024, 7, 26)
"""The day that chat templates which ask for today's are told, so that prompts are the same on any day. Llama's templates
have this one where they find no clock."""
PLAIN: Final = "plain"
"""A template by name: the texts of a conversation and nothing else, as completions are asked for."""
_ASKED = "1 + 1 = ?", "Name a colour."
"""Conversations of one turn, to see what a template does."""
_OTHER = datetime(1998, 12, 31, 23, 58, 59, 7)
"""A moment of which everything is otherwise than at the beginning of that day."""
_FLAGS = "-_0^#"
"""What may stand between a percent sign and what it asks a clock for."""
_RENDERINGS = 20
"""How often one conversation is rendered to see a template draw: one that tosses a coin looks fixed once in 2^19 times."""


def without_template(target: str) -> InputError:
    """The error to raise for a target that cannot be asked."""
    return InputError(
        f"target {target}: its tokenizer has no chat template: --chat-template {PLAIN} asks it with the bare text, "
        "--chat-template FILE with a Jinja template"
    )


class ChatTemplate:
    """A tokenizer's chat template, or one in its place, found to depend on the conversation and on nothing else."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None, target: str, given: str | None = None) -> None:
        """The template `given` (Jinja, or `PLAIN`), or the default one of the tokenizer of `target`.

        Raises InputError where there is none, or where it fails, draws at random, or ignores the conversation.
        """
        self._target, self._given = target, given
        if tokenizer is None:
            raise InputError(f"target {target}: has no tokenizer, so nothing can be asked")
        self._tokenizer, templates = tokenizer, given or tokenizer.chat_template
        if not templates:
            raise without_template(target)
        if isinstance(templates, dict) and "default" not in templates:
            known = ", ".join(sorted(templates))
            raise InputError(
                f"target {target}: has several chat templates ({known}) and no default among them; give one as "
                "--chat-template FILE"
            )
        one, other = ([{"role": "user", "content": text}] for text in _ASKED)
        said = self.encode(one)
        if any(self.encode(one) != said for _ in range(_RENDERINGS - 1)):
            raise InputError(
                f"target {target}: its chat template draws at random, so prompts would differ from run to run; give its "
                "tokenizer a template that does not"
            )
        if self.encode(other) == said:
            raise InputError(
                f"target {target}: its chat template says the same to every conversation; give its tokenizer one that "
                "renders the messages"
            )

    def encode(
        self, messages: Sequence[dict[str, str]], *, thinking: bool = False, today: date = TEMPLATE_DATE
    ) -> list[int]:
        """Token ids of a conversation, ready for the assistant's next reply. Raises InputError where the template fails."""
        return self._encode(messages, thinking, datetime.combine(today, time()))

    def dated(self, *, thinking: bool = False) -> bool:
        """Whether it says something else on another day, or at another hour."""
        asked = [{"role": "user", "content": _ASKED[0]}]
        return self._encode(asked, thinking, _OTHER) != self.encode(asked, thinking=thinking)

    def _encode(self, messages: Sequence[dict[str, str]], thinking: bool, moment: datetime) -> list[int]:
        try:
            if self._given == PLAIN:  # nothing but the tokenizer puts signs of its own at the text's beginning
                ids = self._begun(_plain(messages))
            else:
                template = self._given or self._tokenizer.get_chat_template()
                ids = self._tokenizer.apply_chat_template(
                    list(messages), chat_template=_at(moment, template), add_generation_prompt=True,
                    enable_thinking=thinking, return_dict=False,
                )  # fmt: skip
        except Exception as error:  # templates raise what they like
            raise InputError(
                f"target {self._target}: its chat template fails: {type(error).__name__}: {first_paragraph(error)}"
            ) from error
        if not ids:
            raise InputError(f"target {self._target}: its chat template makes no tokens of a conversation")
        return [int(i) for i in ids]

    def _begun(self, text: str) -> list[int]:
        """Token ids of a text that goes on: without signs of its end, which some tokenizers put behind every text."""
        ids, bare = (list(self._tokenizer(text, add_special_tokens=own)["input_ids"]) for own in (True, False))
        ends = [end for end in range(len(bare), len(ids) + 1) if ids[end - len(bare) : end] == bare]
        return ids[: ends[0]] if bare and ends else ids


def _plain(messages: Sequence[dict[str, str]]) -> str:
    """The texts of a conversation: a reply goes on with the text before it, what a user says stands after a blank line."""
    parts = [message["content"] if message["role"] == "assistant" else f"\n\n{message['content']}" for message in messages]
    return "".join(parts).removeprefix("\n\n")


def _at(moment: datetime, template: str) -> str:
    """A chat template whose clock, if it looks at one, stands still at a moment.

    Functions do not reach a template, so its clock is a macro, which reads a format sign by sign: it may be put together.
    """
    if "strftime_now" not in template:
        return template
    codes = [f"%{flag}{letter}" for letter in string.ascii_letters for flag in ("", *_FLAGS)]
    written = {code: text for code in codes if (text := moment.strftime(code)) != code} | {"%%": "%"}
    # A macro goes before a global function of its name. The line break is dropped with it, as after any block.
    return (
        f"{{% macro strftime_now(format) %}}{{% set written, read = {written!r}, namespace(code='') %}}"
        "{% for sign in format %}{% set read.code = read.code ~ sign %}{% if read.code in written or read.code[0] != '%' or "
        f"(read.code != '%' and sign not in {_FLAGS!r}) %}}{{{{ written.get(read.code, read.code) }}}}"
        "{% set read.code = '' %}{% endif %}{% endfor %}{{ read.code }}{% endmacro %}\n" + template
    )
