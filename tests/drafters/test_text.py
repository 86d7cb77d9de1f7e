"""From conversations to tokens and back: templates of others, dates, and where an answer ends."""

from __future__ import annotations

import copy
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

import drafters
from drafters.chat import PLAIN
from drafters.precision import choose_dtype
from drafters.sampling import probabilities
from drafters.target import Target
from simulator.errors import InputError
from simulator.records import Sampling

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    made: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(Path(drafters.__file__).parent / "tiny" / "target")
    return made


@pytest.fixture
def speaking(target: Target, tokenizer: PreTrainedTokenizerBase) -> Target:
    """A target whose tokenizer, template and settings may be changed; nothing is decoded with it."""
    speaking = Target(copy.deepcopy(target.model), copy.deepcopy(tokenizer))
    speaking.config.vocab_size = len(tokenizer)
    return speaking


@pytest.mark.parametrize(
    ("config", "generation", "named"),
    [(5, 5, {5}), (None, None, set()), (None, [3, 4], {3, 4}), ([1, 3], 4, {1, 3, 4}), (2, 2, {2}), (-1, [5, 99999], {5})],
)
def test_an_answer_ends_with_any_token_that_somebody_names(
    config: Any, generation: Any, named: set[int], speaking: Target
) -> None:
    """The tokenizer's own is 2, which the template ends turns with. What the model cannot say ends nothing."""
    speaking.model.config.eos_token_id = config
    assert speaking.model.generation_config is not None
    speaking.model.generation_config.eos_token_id = generation
    assert speaking.stop_tokens == named | {2}
    speaking.tokenizer = None
    assert speaking.stop_tokens == named


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('roles must alternate') }}", "its chat template fails: TemplateError: roles must alternate"),
        ("{{ raise_exception('long ' * 90 ~ 'and whole') }}", "TemplateError: (long ){90}and whole$"),
        ("{% for m in messages %}", "its chat template fails: TemplateSyntaxError: .*endfor"),
        ("{{ messages[0].content + 1 }}", "its chat template fails: TypeError: "),
        ({"rag": "a", "tool_use": "b"}, r"has several chat templates \(rag, tool_use\) and no default"),
        ("", "has no chat template: --chat-template plain .* --chat-template FILE"),
        (None, "has no chat template"),
        ("{% set nothing = 1 %}", "makes no tokens"),
        ("{{ ['a', 'b'] | random }}{{ messages[-1].content }}", "its chat template draws at random"),
        ("Answer the question.", "its chat template says the same to every conversation"),
        ("{{ messages[-1].role }}: ", "its chat template says the same to every conversation"),
    ],
)
def test_what_is_wrong_with_a_template_is_told_with_its_own_words(template: Any, message: str, speaking: Target) -> None:
    assert speaking.tokenizer is not None
    speaking.tokenizer.chat_template = template
    with pytest.raises(InputError, match=f"^target .*: .*{message}"):
        speaking.encode_chat(HELLO)


@pytest.mark.parametrize(
    ("template", "rendered", "dated"),
    [
        ("{{ strftime_now('%d %b %Y') }}", "05 Mar 2025", True),
        ("  {% if strftime_now is defined %}\n    {{ strftime_now('%Y-%m-%d') }}\n  {% endif %}!", "    2025-03-05\n!",
         True),
        ("{% macro f() %}{{ strftime_now('%A %-d %B') }}{% endmacro %}{% for m in messages %}{{ f() }}{% endfor %}",
         "Wednesday 5 March", True),
        ("{%- set year = strftime_now('%Y')|int %}{{ year + 1 }}", "2026", True),
        ("{% set date_string = date_string or strftime_now('%H:%M') %}{{ date_string }}", "00:00", True),
        ("{% set day, sign = '-d', '%' %}{{ strftime_now(sign ~ day ~ '/' ~ sign ~ 'm') }}", "5/03", True),
        ("{% set clock = strftime_now %}{{ clock(['%', '%'] | join ~ 'd %Q %^b 5%') }}", "%d %Q MAR 5%", True),
        ("{{ strftime_now(format='%-j') }}", "64", True),
        ("{% if tools %}{{ strftime_now('%d') }}{% endif %}{# strftime_now #}", "", False),
        ("{% macro strftime_now(format) %}today{% endmacro %}{{ strftime_now('%d') }}", "today", False),
        ("", "", False),
    ],
)  # fmt: skip
def test_a_template_that_asks_for_the_date_is_told_the_runs(
    template: str, rendered: str, dated: bool, speaking: Target
) -> None:
    tokenizer = speaking.tokenizer
    assert tokenizer is not None
    tokenizer.chat_template = template + "{{ messages[0].content }}"
    ids = speaking.encode_chat(HELLO, today=date(2025, 3, 5))
    assert tokenizer.decode(ids) == rendered + "hello"
    assert speaking.dated() == dated
    assert (speaking.encode_chat(HELLO) == ids) == (not dated or rendered == "00:00")


@pytest.mark.parametrize("own", [None, "{{ messages[0].content }} of its own"])
def test_another_template_stands_in_for_the_tokenizers(own: str | None, speaking: Target) -> None:
    """`plain` is the bare text of a completion: a reply goes on with what stands before it, signs are the tokenizer's."""
    assert speaking.tokenizer is not None
    speaking.tokenizer.chat_template = own
    assert speaking.has_template == bool(own)
    spoken = [*HELLO, {"role": "assistant", "content": " there"}, {"role": "user", "content": "1 + 1?"}]
    speaking.chat_template = PLAIN
    assert speaking.has_template
    for messages, text in ((HELLO, "hello"), (spoken, "hello there\n\n1 + 1?")):
        assert speaking.encode_chat(messages, thinking=True) == speaking.tokenizer(text)["input_ids"]
    assert not speaking.dated()
    assert speaking.reply_end in speaking.stop_tokens


def test_a_template_of_ones_own_is_read_as_a_tokenizers(speaking: Target) -> None:
    assert speaking.tokenizer is not None
    given = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{{ strftime_now('%Y') }}"
    speaking.tokenizer.chat_template = {"rag": "a", "tool_use": "b"}  # without a default
    speaking.chat_template = given
    assert speaking.tokenizer.decode(speaking.encode_chat(HELLO)) == "user: hello\n2024"
    assert speaking.dated()


def test_a_template_may_ask_for_the_date_where_it_opens_a_section_for_thinking(speaking: Target) -> None:
    assert speaking.tokenizer is not None
    speaking.tokenizer.chat_template = "{{ messages[0].content }}{% if enable_thinking %}{{ strftime_now('%A') }}{% endif %}"
    assert [speaking.dated(thinking=thinking) for thinking in (False, True)] == [False, True]


def test_numeric_types_are_chosen_by_what_the_processor_has(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_dtype("float16", "cpu") == torch.float16
    for units, chosen in (
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"avx512_bf16": False, "amx_bf16": True}, torch.bfloat16),
        ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, torch.float32),
        ({"bf16": True, "neon": True}, torch.bfloat16),
        ({}, torch.float32),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda units=units: units)
        assert choose_dtype("auto", "cpu") == chosen
        assert choose_dtype("bfloat16", "cpu") == torch.bfloat16
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    assert choose_dtype("auto", "cuda:0") == torch.float32
    assert choose_dtype("auto", "mps") == torch.float32


@pytest.mark.parametrize("temperature", [-1.0, 1e-40, 0.0009, float("nan"), float("inf")])
def test_temperatures_that_make_no_distribution_are_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match=r"temperature: 0 \(greedy\) or at least 0.001 is needed, got"):
        Sampling(temperature)


@pytest.mark.parametrize("logits", [[3.0, 1.0, 2.0], [3e4, -3e4, 0.0], [-torch.inf, 1.0, -torch.inf]])
def test_the_smallest_temperature_makes_one(logits: list[float]) -> None:
    probs = probabilities(Sampling(0.001), torch.tensor(logits))
    assert probs.isfinite().all()
    assert probs.sum() == 1
    assert probs.argmax() == torch.tensor(logits).argmax()
