"""Conversations as people publish and log them: a row, whatever its form, as the turns of a user and what was answered.

Forms, told apart by their fields: `turns` (FastChat's questions, SPEED-Bench), `messages` (OpenAI's chats), `conversations`
(ShareGPT), `prompt` or what data sets call it; and a gateway's rows, which hold a request and the answer to it, one inside
the other or side by side, as objects or as the text of bodies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from simulator.bodies import REQUESTS, RESPONSES, opened

FORMS = '"turns" (texts), "messages" (role and content), "conversations" (from and value) or "prompt" (a text)'
"""What a row must have one of."""
_ASKED: Final = ("prompt", "instruction", "question", "problem")
"""Under which data sets keep a text that is asked."""
_SAID: Final = ("response", "completion", "output")
"""Under which they keep the text that answers it, whoever wrote it; GSM8K's `answer` is no model's."""
_USERS = {"user", "human"}
_SYSTEMS = {"system", "developer"}
_TOOLS = {"tool", "function", "observation"}
_NAMES = ("id", "question_id", "prompt_id", "custom_id")
"""Fields that name a row, the first of them that is there."""
_DOMAINS = ("domain", "category")
"""Fields that say what kind of work it is."""
_OF_A_GATEWAY: Final = {"path", "url", "uri", "endpoint", "method", "call_type"}
"""Fields of rows that stand for requests, whatever they were for; with the bodies of these, where they are no mere text."""
_OF_BODIES: Final = {"messages", "model", "choices", "usage", "error", "status_code"}
"""Fields that bodies have one of."""
_TO_BE_FETCHED: Final = "FULL BENCHMARK DATA SHOULD BE FETCHED FROM THE SOURCE"
"""What SPEED-Bench, as it is published, has in place of texts that are others' to publish."""
_SETTINGS: Final = ("model_parameters", "modelParameters", "optional_params", "parameters", "params")
"""Under which they keep how it was to be sampled, where that is not in the request."""
_CONSTRAINTS: Final = (
    "response_format", "structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar", "grammar",
    "json_schema", "logit_bias", "bad_words", "regex", "ebnf",
)  # fmt: skip
_NEUTRAL: Final = {
    "presence_penalty": 0, "frequency_penalty": 0, "repetition_penalty": 1, "repeat_penalty": 1, "min_p": 0, "min_tokens": 0,
}  # fmt: skip
"""Settings of which any other value takes an answer off the target's own law under temperature, top-p and top-k."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What was answered to a turn, and how, as far as the row says."""

    text: str
    finish: Literal["stop", "length"] | None = None
    """Whether it ended by an end token, or was cut; None where nobody says."""
    tokens: int | None = None
    """Its tokens as the server counted them."""
    sampling: Mapping[str, float] | None = None
    """Temperature, top_p and top_k as they were asked for; None where no temperature was."""
    otherwise: str = ""
    """Why it cannot be the target's own words under such settings; empty where nothing is known."""
    model: str = ""


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a user asked, turn by turn."""

    turns: tuple[str, ...]
    replies: tuple[Reply | None, ...]
    """What was answered to each turn; None where the row does not say."""
    system: str = ""
    """Instructions before the first turn; empty without any."""
    domain: str = ""
    """What kind of work it is, where the row says so."""
    name: str = ""
    """Its own; empty without one."""


class Unusable(ValueError):
    """A conversation that is right as it is, and cannot be held again; says why."""


def conversation_of(row: Mapping[str, Any]) -> Conversation:
    """The conversation in a row.

    Raises:
        Unusable: it has no turn of a user, others speak in it, or it came to nothing.
        ValueError: the row is of no form known here, or holds no text where there must be one.
    """
    asked, answer = _exchange(row)
    named = next((str(row[name]) for name in _NAMES if row.get(name) not in (None, "")), "")
    domain = next((row[name] for name in _DOMAINS if row.get(name)), "")
    system, turns, replies = "", list[str](), list[Reply | None]()
    for speaker, said, otherwise in _spoken(asked):
        if speaker in _TOOLS or (speaker in _SYSTEMS and turns):
            raise Unusable("with tools" if speaker in _TOOLS else "with instructions between turns")
        if speaker in _SYSTEMS:
            system = f"{system}\n\n{said}" if system else said
        elif speaker in _USERS:
            turns.append(said)
            replies.append(None)
        elif turns:  # whoever speaks first but the user is quoted from before
            before = replies[-1]
            two = "in two parts" if before is not None else ""
            replies[-1] = Reply(f"{before.text}\n\n{said}" if before else said, otherwise=otherwise or two)
    if not turns:
        raise Unusable("without a user's turn")
    if answer is not None and answer.text:
        if replies[-1] is not None and replies[-1].text != answer.text:
            raise Unusable("that go on with an answer begun before")
        replies[-1] = answer
    return Conversation(tuple(turns), tuple(replies), system, str(domain).strip(), named)


def _exchange(row: Mapping[str, Any]) -> tuple[Mapping[str, Any], Reply | None]:
    """What was asked, and the answer; of a row that is a conversation by itself, the row. Raises Unusable."""
    asked = next(_bodies(row, REQUESTS, ("messages", "prompt")), row)
    answered = next(_bodies(row, RESPONSES, ("choices", "content", "error")), row if "choices" in row else None)
    bodies = any(_is_body(row.get(name)) for name in (*REQUESTS[:3], *RESPONSES[:3]))
    logged = asked is not row or answered is not None or bodies or bool(_OF_A_GATEWAY & row.keys())
    if logged and _failed(row, answered):
        raise Unusable("that failed")
    if logged and not {"messages", "turns", "conversations"} & asked.keys():
        raise Unusable("that are no chats")
    if asked.get("tools") or asked.get("functions"):
        raise Unusable("with tools")
    if answered is None:
        said = next((text for name in _SAID if isinstance(text := row.get(name), str) and not _is_body(text)), "")
        answered = {"content": said} if said else None
    return asked, None if answered is None else _reply(row, asked, answered)


def _is_body(value: Any) -> bool:
    """Whether it is what went over the wire, and no mere text, which may be JSON, too, as a model's answer."""
    if isinstance(value, str):
        found = opened(value)
        return isinstance(found, dict) and bool(_OF_BODIES & found.keys())
    return isinstance(value, dict | list)


def _bodies(row: Mapping[str, Any], names: Sequence[str], fields: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """Objects under these names that have one of the fields, or hold one that has as their body."""
    for name in names:
        found = opened(row.get(name))
        if isinstance(found, list) and "messages" in fields and all(isinstance(one, dict) for one in found):
            found = {"messages": found} if found else None
        for one in (found, opened(found.get("body")) if isinstance(found, dict) else None):
            if isinstance(one, dict) and any(field in one for field in fields):
                yield one


def _failed(row: Mapping[str, Any], answered: Mapping[str, Any] | None) -> bool:
    codes = [row.get("status"), row.get("status_code"), *([answered.get("status_code")] if answered else [])]
    holder = row.get("response")
    if isinstance(holder, dict):
        codes += [holder.get("status"), holder.get("status_code")]
    wrong = any(code == "failure" or (isinstance(code, int) and code >= 400) for code in codes)
    return wrong or bool(answered and answered.get("error") and not answered.get("choices"))


def _reply(row: Mapping[str, Any], asked: Mapping[str, Any], answered: Mapping[str, Any]) -> Reply | None:
    """The first answer of a response, or a message that is one. Raises Unusable where it is no text."""
    choices = answered.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    message = choice.get("message", answered if "content" in answered else {})
    if not isinstance(message, dict) or message.get("tool_calls") or message.get("function_call"):
        raise Unusable("with tools")
    text = _text(message.get("content"))
    if text is None:
        raise Unusable("with images or sound")
    settings = next((row[name] for name in _SETTINGS if isinstance(row.get(name), dict)), asked)
    finish = choice.get("finish_reason")
    usage = answered.get("usage") or row.get("usage") or row
    count = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return Reply(
        text,
        # A stop string ends an answer without an end token: as tokens go, it was cut.
        None if finish is None else "stop" if finish == "stop" and not _by_words(settings, choice) else "length",
        count if isinstance(count, int) and count > 0 else None,
        _sampling(settings),
        _otherwise(message, settings, finish),
        str(answered.get("model") or asked.get("model") or row.get("model") or ""),
    )


def _by_words(settings: Mapping[str, Any], choice: Mapping[str, Any]) -> bool:
    """Whether words, and no end token, may have ended an answer: a server that says which says it as a text."""
    return isinstance(choice.get("stop_reason"), str) or bool(settings.get("stop") and "stop_reason" not in choice)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _sampling(settings: Mapping[str, Any]) -> Mapping[str, float] | None:
    asked = {name: float(settings[name]) for name in ("temperature", "top_p", "top_k") if _is_number(settings.get(name))}
    return asked if "temperature" in asked else None


def _otherwise(message: Mapping[str, Any], settings: Mapping[str, Any], finish: Any) -> str:
    if message.get("reasoning_content") or message.get("reasoning"):
        return "with reasoning apart from them"
    if "</think>" in str(message.get("content") or message.get("value") or ""):
        return "with reasoning in them"
    shaped = {name: settings.get(name) for name in _CONSTRAINTS}
    if isinstance(form := shaped["response_format"], dict) and form.get("type") == "text":
        del shaped["response_format"]
    if any(shaped.values()):
        return "made to keep a form"
    if any(_is_number(value := settings.get(name)) and value != plain for name, plain in _NEUTRAL.items()):
        return "sampled with penalties, or min-p"
    return "" if finish in (None, "stop", "length") else f"ended by {finish}"


def _spoken(row: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(speaker, text, why it is not all that was said) in order. Raises ValueError."""
    if (turns := row.get("turns")) is not None:
        if not isinstance(turns, list) or not turns or not all(isinstance(turn, str) for turn in turns):
            raise ValueError('"turns" must be a list of at least one text')
        if any(_TO_BE_FETCHED in turn for turn in turns):
            raise Unusable("whose text SPEED-Bench's file leaves out (its own script fetches it)")
        yield from (("user", turn, "") for turn in turns if turn)
    elif (said := row.get("messages")) is not None:
        yield from _messages("messages", said, "role", "content")
    elif (said := row.get("conversations")) is not None:
        yield from _messages("conversations", said, "from", "value")
    elif isinstance(prompt := row.get("prompt"), list):
        yield from _messages("prompt", prompt, "role", "content")
    elif asked := next((text for name in _ASKED if isinstance(text := row.get(name), str) and text), ""):
        more = row.get("input") if "instruction" in row else ""  # Alpaca's: what the instruction is about
        yield "user", f"{asked}\n\n{more}" if isinstance(more, str) and more else asked, ""
    else:
        raise ValueError(f'"turns" must be there, or another form of a prompt: {FORMS}')


def _messages(field: str, said: Any, who: str, what: str) -> Iterator[tuple[str, str, str]]:
    if not isinstance(said, list):
        raise ValueError(f'"{field}" must be a list of messages')
    for number, message in enumerate(said, 1):
        if not isinstance(message, dict) or not isinstance(message.get(who), str):
            raise ValueError(f'"{field}", message {number}: must be an object with "{who}" and "{what}"')
        if message.get("tool_calls") or message.get("function_call"):
            raise Unusable("with tools")
        speaker, text = message[who].casefold(), _text(message.get(what))
        if text is None:
            if isinstance(message.get(what), list):
                raise Unusable("with images or sound")
            raise ValueError(f'"{field}", message {number}: "{what}" must be a text')
        if text or speaker in _TOOLS:
            yield speaker, text, _otherwise(message, {}, None)


def _text(content: Any) -> str | None:
    """A message's text, which may come in parts; None for what is none, as images are."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence) and all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in content):
        return "".join(part["text"] for part in content)
    return None


def merged(conversations: Sequence[Conversation]) -> list[Conversation | None]:
    """Each conversation, or None where a longer one of them begins with it: a gateway logs every turn with all before it.

    What is known of an answer is kept with it.
    """
    known: dict[tuple[Any, ...], Reply] = {}
    found = list[Conversation | None](conversations)
    begun = set[tuple[Any, ...]]()
    for one in conversations:
        for n, key in enumerate(_beginnings(one), 1):
            if n < len(one.turns):
                begun.add(key)
            elif (last := one.replies[-1]) is not None:
                known.setdefault(key, last)
    last_of: dict[tuple[Any, ...], int] = {}
    for i, one in enumerate(conversations):
        keys = _beginnings(one)
        if len(keys) == len(one.turns) and (keys[-1] in begun or last_of.setdefault(keys[-1], i) != i):
            found[i] = None
            continue
        told = [known.get(key, reply) for key, reply in zip(keys, one.replies, strict=False)]
        found[i] = replace(one, replies=(*told, *one.replies[len(told) :]))
    return found


def _beginnings(one: Conversation) -> list[tuple[Any, ...]]:
    """What stands at the end of each turn that was answered, as far as every one before was."""
    keys = list[tuple[Any, ...]]()
    key: tuple[Any, ...] = (one.system,)
    for turn, reply in zip(one.turns, one.replies, strict=True):
        if reply is None:
            break
        key = (hash(key), turn, reply.text)
        keys.append(key)
    return keys
