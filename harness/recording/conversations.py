"""Conversations as people publish and log them: a row, whatever its form, as the turns of a user and what was answered.

Forms, told apart by their fields: `turns` (FastChat's questions, SPEED-Bench), `messages` (OpenAI's chats), `conversations`
(ShareGPT), `conversation` (LMSYS-Chat-1M, WildChat), `prompt` or what data sets call it; and a gateway's rows, which hold a
request and the answer to it, one inside the other or side by side, as objects or as the text of bodies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from harness.recording.dialects import (
    ELSEWHERE,
    THOUGHTS,
    answer,
    answers_itself,
    are_messages,
    chat,
    chat_of_generated,
    chat_of_responses,
    ended,
    is_generated,
    is_of_an_api,
    is_of_responses,
    is_of_the_wire,
    is_thought,
)
from simulator.bodies import REQUESTS, RESPONSES, opened
from simulator.gateways import from_a_cache
from simulator.spelling import STATUSES

FORMS = '"turns" (texts), "messages" (role and content), "conversations" (from and value) or "prompt" (a text)'
"""What a row must have one of."""
_NO_PROMPT: Final = f'"turns" must be there, or another form of a prompt: {FORMS}'
_ASKED: Final = ("prompt", "instruction", "question", "problem", "question_content", "instruct_prompt")
"""Under which data sets keep a text that is asked."""
_SAID: Final = ("response", "completion", "output")
"""Under which they keep the text that answers it, whoever wrote it; GSM8K's `answer` is no model's."""
_ABOUT: Final = ("input", "context")
"""Under which Alpaca and Dolly keep what an instruction is about."""
_TAUGHT: Final = ("system", "system_prompt")
"""Under which requests of Anthropic's API, and data sets, keep instructions beside what is said."""
_USERS = {"user", "human", "prompter"}
_MODELS: Final = {"assistant", "gpt", "chatgpt", "model", "bot", "ai", "bard", "bing", "claude"}
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
_ASKING: Final = (*REQUESTS, "params")
"""Under which rows keep what was asked; batches of Anthropic's API as `params`."""
_TO_BE_FETCHED: Final = "FULL BENCHMARK DATA SHOULD BE FETCHED FROM THE SOURCE"
"""What SPEED-Bench, as it is published, has in place of texts that are others' to publish."""
_CHATS: Final = {"messages", "turns", "conversations"}
_OF_LOGS: Final = _CHATS.union(REQUESTS[:4], RESPONSES[1:4])
"""Fields beside which a text of JSON may well be a body, though a question stands there, too."""
_BESIDE: Final = (*_TAUGHT, "tools", "functions", "temperature", "top_p", "top_k", "stop", "response_format")
"""What belongs to a request whose messages stand in a row as a list."""
_SETTINGS: Final = ("model_parameters", "modelParameters", "optional_params", "parameters", "params")
"""Under which they keep how it was to be sampled, where that is not in the request."""
_CONSTRAINTS: Final = (
    "response_format", "structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar", "grammar",
    "json_schema", "logit_bias", "bad_words", "regex", "ebnf", "allowed_token_ids", "logits_processors", "ignore_eos",
    "use_beam_search",
)  # fmt: skip
_NEUTRAL: Final = {
    "presence_penalty": 0, "frequency_penalty": 0, "repetition_penalty": 1, "repeat_penalty": 1, "min_p": 0, "min_tokens": 0,
    "typical_p": 1, "top_a": 0, "tfs_z": 1, "mirostat": 0, "xtc_probability": 0, "dry_multiplier": 0,
    "no_repeat_ngram_size": 0, "length_penalty": 1, "best_of": 1,
}  # fmt: skip
"""Settings of which any other value takes an answer off the target's own law under temperature, top-p and top-k."""
_MORE: Final = ("documents", "chat_template", "truncate_prompt_tokens", "continue_final_message", "echo", "think")
"""Fields of requests that make another prompt of its messages than the template alone does."""
_COUNTED: Final = ("completion_tokens", "output_tokens", "eval_count")
"""What APIs call the tokens of an answer."""
_USAGES: Final = ("usage", "usageDetails", "usage_details")
"""Under which rows keep them beside the answer, Langfuse as `output`."""
_FAILURES: Final = {"failure", "failed", "error", "errored", "cancelled", "canceled"}
_BEGUN: Final = "in conversations that begin with the model's own words"


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
    asked, answered = _exchange(row)
    domain = next((row[name] for name in _DOMAINS if row.get(name)), "")
    system, turns, replies = _instructions(asked), list[str](), list[Reply | None]()
    begun = False
    for speaker, said, otherwise in _spoken(asked):
        if speaker in _TOOLS or (speaker in _SYSTEMS and turns):
            raise Unusable("with tools" if speaker in _TOOLS else "with instructions between turns")
        if speaker in _SYSTEMS:
            system = f"{system}\n\n{said}" if system not in ("", said) else said
        elif speaker in _USERS:
            turns.append(said)
            replies.append(None)
        elif turns:
            before = replies[-1]
            why = otherwise if speaker in _MODELS else f"said by {speaker}"
            two = "in two parts" if before is not None else ""
            replies[-1] = Reply(f"{before.text}\n\n{said}" if before else said, otherwise=why or two)
        else:  # whoever speaks first but the user is quoted from before
            begun = True
    if not turns:
        raise Unusable("without a user's turn")
    if answered is not None and answered.text:
        if (last := replies[-1]) is not None and last.text != answered.text:
            raise Unusable("that go on with an answer begun before")
        replies[-1] = replace(answered, otherwise=answered.otherwise or (last.otherwise if last else ""))
    elif answered is None and asked is row:
        replies = [None if one is None else replace(one, model=str(row.get("model") or "")) for one in replies]
    if why := _BEGUN if begun else "with words taken out of them" if row.get("redacted") is True else "":
        replies = [None if one is None else replace(one, otherwise=one.otherwise or why) for one in replies]
    return Conversation(tuple(turns), tuple(replies), system, str(domain).strip(), _name(row))


def _name(row: Mapping[str, Any]) -> str:
    """What a row is called; a gateway's `conversation_id` is that of many rows, and a data set's of one."""
    names = (*_NAMES, "conversation_id") if "conversation" in row else _NAMES
    return next((str(row[name]) for name in names if row.get(name) not in (None, "")), "")


def _instructions(asked: Mapping[str, Any]) -> str:
    """Instructions that stand beside the messages. Raises Unusable where they are no text."""
    text = _text(next((asked[name] for name in _TAUGHT if asked.get(name)), ""))
    if text is None:
        raise Unusable("with instructions that are no text")
    return text


def _exchange(row: Mapping[str, Any]) -> tuple[Mapping[str, Any], Reply | None]:
    """What was asked, and the answer; of a row that is a conversation by itself, the row. Raises Unusable."""
    plain = _is_of_a_data_set(row)
    held = {name: one for name, one in row.items() if not (plain and _is_text_of(name, one))}
    answered = next(_bodies(held, RESPONSES, _is_answer), row if answers_itself(row) else None)
    asked = next(_bodies(held, _ASKING, lambda one: "messages" in one or "prompt" in one), row)
    bodies = any(_is_body(held.get(name)) for name in (*REQUESTS[:3], *RESPONSES[:3]))
    logged = asked is not row or answered is not None or bodies or _is_of_a_gateway(row)
    if _failed(row, answered):
        raise Unusable("that failed")
    if is_of_responses(row, answered):
        asked = next(_bodies(row, _ASKING, lambda one: "input" in one), row)
        if any(asked.get(name) for name in ELSEWHERE):
            raise Unusable("whose earlier turns are kept elsewhere")
        asked = chat_of_responses(asked)
    elif answered is not None and is_generated(answered):
        asked = chat_of_generated(asked)
    if logged and not _is_chat(asked):
        raise Unusable("that are no chats")
    asked = chat(asked) if logged else asked
    settings = _settings(row, asked)
    asked = settings if logged else asked  # LiteLLM keeps instructions there
    if any(settings.get(name) and opened(settings[name]) != [] for name in ("tools", "functions")):
        raise Unusable("with tools")
    if answered is None:
        said = next((text for name in _SAID if isinstance(text := row.get(name), str) and (plain or not _is_body(text))), "")
        thought = next((row[name] for name in ("reasoning_content", *THOUGHTS) if is_thought(row.get(name))), None)
        answered = {"content": said, "reasoning": thought} if said else None
    return asked, None if answered is None else _reply(held, asked, settings, answer(answered))


def _asks(row: Mapping[str, Any]) -> bool:
    return any(isinstance(text := row.get(name), str) and text for name in _ASKED)


def _is_chat(asked: Mapping[str, Any]) -> bool:
    """Whether it has turns that a chat template is put around, and is no mere text to go on with."""
    talks = isinstance(asked.get("conversation"), list) or are_messages(asked.get("prompt"))
    return talks or bool(_CHATS & asked.keys())


def _is_of_a_gateway(row: Mapping[str, Any]) -> bool:
    """Whether a row stands for a request; beside a prompt a data set may have such fields, too, and call its sources so."""
    fields = _OF_A_GATEWAY & row.keys()
    prompts = _asks(row) or are_messages(row.get("prompt"))
    return any(is_of_an_api(name, row[name]) for name in fields) if prompts else bool(fields)


def _is_of_a_data_set(row: Mapping[str, Any]) -> bool:
    """Whether a row has a question and is no log's: the text that answers it is the answer, and may be any JSON."""
    if not _asks(row) or _OF_LOGS & row.keys() or _is_of_a_gateway(row):
        return False
    return not any(is_of_the_wire(row.get(name)) for name in RESPONSES)


def _is_text_of(name: str, value: Any) -> bool:
    """Whether a field of a data set's row is what was said: a text, or answers as a list of them."""
    return (isinstance(value, str) and name in (*_ASKING, *RESPONSES)) or (isinstance(value, list) and name in RESPONSES)


def _is_body(value: Any) -> bool:
    """Whether it is what went over the wire, and no mere text, which may be JSON, too, as a model's answer."""
    if isinstance(value, str):
        found = opened(value)
        return isinstance(found, dict) and bool(_OF_BODIES & found.keys())
    return isinstance(value, dict | list)


def _bodies(
    row: Mapping[str, Any], names: Sequence[str], fits: Callable[[Mapping[str, Any]], bool]
) -> Iterator[Mapping[str, Any]]:
    """Objects under these names that fit, or hold one that does as their body."""
    for name in names:
        found = opened(row.get(name))
        if are_messages(found):
            found = _of_messages(row, found, asked=names is _ASKING)
        for one in (found, opened(found.get("body")) if isinstance(found, dict) else None):
            if isinstance(one, dict) and fits(one):
                yield one


def _of_messages(row: Mapping[str, Any], found: Sequence[Any], *, asked: bool) -> Mapping[str, Any] | None:
    """A list of messages as a request, with what the row says of it, or as an answer, as TRL's; None for what is neither."""
    if not asked:
        one = found[0] if len(found) == 1 and "type" not in found[0] else {}  # which items of the Responses API have
        return one if one.get("role") in ("assistant", "model") else None
    told = row.get("instructions")
    taught = {"system": told} if isinstance(told, str) else {}
    return {**taught, **{name: row[name] for name in _BESIDE if row.get(name)}, "messages": found}


def _is_answer(body: Mapping[str, Any]) -> bool:
    """Whether a body is an answer, or says why there is none."""
    said = isinstance(body.get("message"), dict) or isinstance(body.get("output"), list)  # `message` may be a status's
    return said or is_generated(body) or any(field in body for field in ("choices", "content", "error"))


def _failed(row: Mapping[str, Any], answered: Mapping[str, Any] | None) -> bool:
    """Whether an answer is none, and its text, where it has one, what a server says of that."""
    holders = (row, answered, row.get("response"))
    codes = [one.get(name) for one in holders if isinstance(one, dict) for name in STATUSES]
    wrong = any(code.casefold() in _FAILURES if isinstance(code, str) else False for code in codes)
    wrong = wrong or any(400 <= (_number(code) or 0) < 600 for code in codes)
    return wrong or bool(answered and answered.get("error") and not answered.get("choices"))


def _settings(row: Mapping[str, Any], asked: Mapping[str, Any]) -> Mapping[str, Any]:
    """How it was to be sampled: as the request says, and as the row does beside it."""
    beside = next((found for name in _SETTINGS if isinstance(found := opened(row.get(name)), dict)), {})
    return {**asked, **{name: value for name, value in beside.items() if value is not None}}


def _reply(
    row: Mapping[str, Any], asked: Mapping[str, Any], settings: Mapping[str, Any], answered: Mapping[str, Any]
) -> Reply | None:
    """The first answer of a response. Raises Unusable where it is no text."""
    choices = answered.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    message = choice.get("message", {})
    if not isinstance(message, dict) or _calls_tools(message) or choice.get("finish_reason") == "tool_use":
        raise Unusable("with tools")
    text = _text(message.get("content"))
    if text is None:
        raise Unusable("with images or sound")
    if not choice.get("finish_reason"):
        choice = {**choice, **ended(row.get("finish_reason") or row.get("stop_reason") or row.get("done_reason"))}
    finish = choice["finish_reason"]
    held = [answered.get("usage"), *(row.get(name) for name in _USAGES)]
    usages = [{"output_tokens": one.get("output"), **one} for one in map(opened, held) if isinstance(one, dict)]
    usages += [dict(answered), dict(row)]
    several = isinstance(choices, list) and len(choices) > 1  # counted together
    thought = any(_number(_details(usage).get("reasoning_tokens")) for usage in usages) and not several
    otherwise = "answered by the gateway's own cache" if from_a_cache(row) else _otherwise(message, settings, finish)
    return Reply(
        text,
        # A stop string ends an answer without an end token: as tokens go, it was cut.
        None if finish is None else "stop" if finish == "stop" and not _by_words(settings, choice) else "length",
        None if several else _tokens(usages),
        _sampling(settings),
        otherwise or ("with reasoning apart from them" if thought else ""),
        str(answered.get("model") or asked.get("model") or row.get("model") or ""),
    )


def _calls_tools(message: Mapping[str, Any]) -> bool:
    return bool(message.get("tool_calls") or message.get("function_call"))


def _tokens(usages: Sequence[Mapping[str, Any]]) -> int | None:
    """The tokens of an answer, as the first says that does."""
    found = (_number(usage.get(name)) for usage in usages for name in _COUNTED)
    return next((int(count) for count in found if count is not None and count > 0), None)


def _details(usage: Mapping[str, Any]) -> Mapping[str, Any]:
    """What usage says of the kinds of an answer's tokens."""
    found = (usage.get(name) for name in ("completion_tokens_details", "output_tokens_details"))
    return next((one for one in found if isinstance(one, dict)), usage)


def _by_words(settings: Mapping[str, Any], choice: Mapping[str, Any]) -> bool:
    """Whether words, or tokens that a request names, and no end token, may have ended an answer: a server that says which
    says it."""
    if "stop_reason" not in choice:
        return bool(settings.get("stop") or settings.get("stop_token_ids"))
    by, tokens = choice["stop_reason"], settings.get("stop_token_ids")
    return isinstance(by, str) or (isinstance(tokens, list) and by in tokens)


def _number(value: Any) -> float | None:
    """A number, which may be kept as text; None for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _sampling(settings: Mapping[str, Any]) -> Mapping[str, float] | None:
    said = {name: _number(settings.get(name)) for name in ("temperature", "top_p", "top_k")}
    asked = {name: value for name, value in said.items() if value is not None}
    return asked if "temperature" in asked else None


def _otherwise(message: Mapping[str, Any], settings: Mapping[str, Any], finish: Any) -> str:
    if _thinks(message):
        return "with reasoning apart from them"
    if "</think>" in (_text(message.get("content") or message.get("value")) or ""):
        return "with reasoning in them"
    shaped = {name: settings.get(name) for name in _CONSTRAINTS}
    if isinstance(form := shaped["response_format"], dict) and form.get("type") == "text":
        del shaped["response_format"]
    if any(shaped.values()):
        return "made to keep a form"
    if any((value := _number(settings.get(name))) is not None and value != plain for name, plain in _NEUTRAL.items()):
        return "sampled with penalties, or min-p"
    cut = {"top_p": 1, "top_k": 0}
    if _sampling(settings) is None and any((_number(settings.get(name)) or 0) not in (0, -1, cut[name]) for name in cut):
        return "sampled with top-p or top-k, and nobody says at which temperature"
    told = settings.get("chat_template_kwargs")
    if any(settings.get(name) for name in _MORE) or (isinstance(told, dict) and any(told.values())):
        return "asked with more than their messages"
    return "" if finish in (None, "stop", "length") else f"ended by {finish}"


def _thinks(message: Mapping[str, Any]) -> bool:
    """Whether a message has thoughts apart from what it says."""
    parts = message.get("content")
    kinds = {part.get("type") for part in parts if isinstance(part, dict)} if isinstance(parts, list) else set()
    return bool(THOUGHTS & kinds) or any(is_thought(message.get(name)) for name in ("reasoning_content", *THOUGHTS))


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
        yield from _messages("conversations", said, *(("role", "content") if _has_roles(said) else ("from", "value")))
    elif isinstance(said := row.get("conversation"), list):
        yield from _messages("conversation", said, "role", "content")
    elif isinstance(prompt := row.get("prompt"), list):
        yield from _messages("prompt", prompt, "role", "content")
    elif asked := next((text for name in _ASKED if isinstance(text := row.get(name), str) and text), ""):
        yield from _before(row.get("history"))
        about = (row.get(name) for name in _ABOUT) if "instruction" in row else ()
        yield "user", "\n\n".join([asked, *(text for text in about if isinstance(text, str) and text)]), ""
    else:
        raise ValueError(next((f'"{name}" is empty' for name in _ASKED if row.get(name) == ""), _NO_PROMPT))


def _has_roles(said: Any) -> bool:
    return isinstance(said, list) and any(isinstance(one, dict) and "role" in one and "from" not in one for one in said)


def _before(history: Any) -> Iterator[tuple[str, str, str]]:
    """Turns before an instruction, as pairs of what was asked and answered."""
    for pair in history if isinstance(history, list) else ():
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise Unusable("whose earlier turns are of no form known here")
        yield from (("user", pair[0], ""), ("assistant", pair[1], ""))


def _messages(field: str, said: Any, who: str, what: str) -> Iterator[tuple[str, str, str]]:
    if not isinstance(said, list):
        raise ValueError(f'"{field}" must be a list of messages')
    for number, message in enumerate(said, 1):
        if not isinstance(message, dict) or not isinstance(message.get(who), str):
            raise ValueError(f'"{field}", message {number}: must be an object with "{who}" and "{what}"')
        if _calls_tools(message):
            raise Unusable("with tools")
        speaker, text = message[who].casefold(), _text(message.get(what))
        if text is None:
            if isinstance(message.get(what), list):
                raise Unusable("with images or sound")
            raise ValueError(f'"{field}", message {number}: "{what}" must be a text')
        if text or speaker in _TOOLS:
            yield speaker, text, _otherwise(message, {}, None)


def _text(content: Any) -> str | None:
    """A message's text, which may come in parts; None for what is none, as images are. Raises Unusable for tools."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence) or not all(isinstance(part, dict) for part in content):
        return None
    if any("tool" in str(part.get("type")) for part in content):
        raise Unusable("with tools")
    said = [part for part in content if part.get("type") not in THOUGHTS]
    return "".join(part["text"] for part in said) if all(isinstance(part.get("text"), str) for part in said) else None


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
            elif (last := one.replies[-1]) is not None and (key not in known or known[key].otherwise):
                known[key] = last  # what a cache repeats is that which was made
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
