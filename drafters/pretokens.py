"""How GGUF files say that text is cut before it is merged into tokens, and whether a tokenizer does what its file says.

A file names the way (`tokenizer.ggml.pre`), and llama.cpp knows the expressions (src/llama-vocab.cpp); for some a comment
there gives the one of the model's own tokenizer.json, which is taken. Libraries that convert files know some of the names,
and cut text as GPT-2 does for others: texts then become tokens that the model has never seen together.
"""

from __future__ import annotations

import heapq
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from simulator.errors import InputError

_MARK = "\u2581"
"""What SentencePiece writes for a space."""
_CONTROL, _USERS = 3, 4
"""Types of tokens (gguf's TokenType): signs, and what a user has added, which stands out of any text whole."""
_STRIPPING: Final = ("phi-3", "phi3")
"""Models, by what their files call them, whose signs take the white space behind them along; no field says so
(src/llama-vocab.cpp, where attributes are set by the name of the model)."""
_NOT_STRIPPING: Final = ("<unk>", "<s>", "<|endoftext|>")
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_ENDS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_ONE, _MANY = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+", rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
_SLASHED = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_SHORT}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}{_ENDS}"
_QWEN2 = rf"{_SHORT}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{_ENDS}"
_QWEN35 = (
    rf"{_SHORT}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, slots=True)
class PreTokens:
    """One way to cut text."""

    expressions: tuple[str, ...]
    """One after another, each cuts further what those before have left; what matches is a piece, and what is between."""
    whole: bool = False
    """Whether a piece that is a token stays one, though its parts would not be merged into it."""
    begins: bool = False
    """Whether a text begins with the sign of its beginning where the file does not say (src/llama-vocab.cpp, `add_bos`)."""


_WAYS: Final[Mapping[tuple[str, ...], PreTokens]] = {
    ("gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling"): PreTokens((_GPT2,)),
    ("starcoder", "refact", "command-r", "smollm", "codeshell", "exaone"): PreTokens((r"\p{N}", _GPT2)),
    ("minerva-7b",): PreTokens((r"\p{N}", _GPT2)),
    ("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"): PreTokens(
        (_LLAMA3,), True, True
    ),
    ("dbrx", "smaug-bpe", "glm4", "chatglm-bpe"): PreTokens((_LLAMA3,)),
    ("qwen2", "stablelm2", "hunyuan", "deepseek-r1-qwen", "megrez"): PreTokens((_QWEN2,)),
    ("qwen35",): PreTokens((_QWEN35,)),
    ("tekken",): PreTokens((rf"{_ONE}|{_MANY}|\p{{N}}{_SLASHED}",), True, True),
    ("gpt-4o", "llama4"): PreTokens((rf"{_ONE}{_SHORT}?|{_MANY}{_SHORT}?|\p{{N}}{{1,3}}{_SLASHED}",)),
}
PRE_TOKENS: Final[Mapping[str, PreTokens]] = {name: way for names, way in _WAYS.items() for name in names}
"""By the name that files give."""
TEXTS: Final = (
    "On 24 March 2025 it's 1,234.5 degrees; 10000 is not 10 000.",
    "def f(x):\n    return x**2  # squares\n\n\tprint(f(12345))",
    "We'll say they've DON'T  and   more\n\n  lines\r\n",
    "naïve café – „Zitat“, Straße 7½, E=mc²",
    "日本語123のテキスト、中文。한국어 42",
    "الرقم ١٢٣ हिन्दी ४५६",
    "👩‍💻🚀 ok!!! <b>x</b> ~/.bashrc C:\\x\\y",
    "https://example.org/a?b=1&c=%20#frag",
    "camelCaseAndHTTPServer snake_case_name 3.14e-10",
    " leading and trailing ", "a", "0", "  ", "\n",
)  # fmt: skip
"""Texts on which tokenizers are compared."""


def rebuilt(tokenizer: Any, declared: Mapping[str, Any], name: str, called: str = "") -> tuple[Any, str]:
    """(a plain tokenizer that does what a GGUF file declares, in words what transformers' did otherwise, or nothing).

    It is of no model's own class: many of those cut text in their own way again as soon as they are loaded.

    Args:
        tokenizer: of the file as transformers reads it.
        declared: `tokenizer.ggml.*` of the file, without that prefix.
        name: of the target, for messages.
        called: what the file calls its model.

    Raises:
        InputError: the file declares what is not known here, or the tokenizer cannot be made to do it.
    """
    from transformers import PreTrainedTokenizerFast

    kind, tokens, backend = declared.get("model"), list(declared.get("tokens", ())), tokenizer.backend_tokenizer
    before, how = read_texts(tokenizer), str(declared.get("pre"))
    if kind == "gpt2":
        _cut_as_declared(backend, declared, name)
    elif kind == "llama":
        how = "SentencePiece"
        _marked_as_declared(backend, declared)
    else:
        raise InputError(
            f"target {name}: its tokenizer is of the kind {kind!r}; gpt2 and llama are known; give the folder of the model"
        )
    _begun_as_declared(backend, declared)
    backend.add_tokens([AddedToken(tokens[i], special=False, normalized=False) for i in _of_type(_USERS, declared)])
    if any(family in called.lower() for family in _STRIPPING):
        backend = _stripping(backend)
    signs = {sign: getattr(tokenizer, sign) for sign in ("bos_token", "eos_token", "unk_token", "pad_token")}
    plain = PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **signs)
    plain.chat_template = tokenizer.chat_template
    _check_vocabulary(plain, tokens, declared, name)
    after = read_texts(plain)
    for text, found in zip(TEXTS if kind == "llama" else (), after, strict=False):
        if found != (own := merged_by_score(text, declared)):
            raise InputError(
                f"target {name}: its tokenizer cannot be rebuilt: {text!r} becomes {found[:8]}…, and by the scores of "
                f"the file {own[:8]}…; give the folder of the model in place of its GGUF file"
            )
    count = sum(one != other for one, other in zip(before[: len(TEXTS)], after, strict=False))
    return (
        plain,
        f"text is cut as {how} does: {count} of {len(TEXTS)} texts were read as other tokens before" if count else "",
    )


def _stripping(backend: Tokenizer) -> Tokenizer:
    """The same, whose signs take the white space behind them along."""
    state = json.loads(backend.to_str())
    for token in state["added_tokens"]:
        token["rstrip"] = token["content"] not in _NOT_STRIPPING
    return Tokenizer.from_str(json.dumps(state))


def _of_type(kind: int, declared: Mapping[str, Any]) -> list[int]:
    """Ids of a file's tokens of a type."""
    return [i for i, one in enumerate(declared.get("token_type", ())) if one == kind]


def read_texts(tokenizer: Any) -> list[list[int]]:
    """Token ids of the texts, and last of one with the signs that are put around it."""
    bare = [list(tokenizer(text, add_special_tokens=False).input_ids) for text in TEXTS]
    return [*bare, list(tokenizer("a").input_ids)]


def _cut_as_declared(backend: Tokenizer, declared: Mapping[str, Any], name: str) -> None:
    way = PRE_TOKENS.get(str(pre := declared.get("pre")))
    if way is None:
        known = f"which is not one of {', '.join(sorted(PRE_TOKENS))}"
        said = f"says that text is cut as {pre!r} does, {known}"
        if pre in (None, "default"):
            said = "does not say how text is cut before it is merged into tokens (tokenizer.ggml.pre)"
        raise InputError(f"target {name}: its file {said}; give the folder of the model in place of its GGUF file")
    ids = {token: i for i, token in enumerate(declared["tokens"])}  # libraries spell a user's tokens as if they were pieces
    once = dict.fromkeys(declared.get("merges", ()))  # of two alike the first counts
    merges = [(left, right) for left, _, right in (one.partition(" ") for one in once)]
    try:
        backend.model = BPE(vocab=ids, merges=merges, ignore_merges=way.whole)
    except Exception as error:  # tokenizers raises no other
        why = f"its file's merges are not of its tokens ({error})"
        raise InputError(f"target {name}: {why}; give the folder of the model in place of its GGUF file") from None
    cuts = [pre_tokenizers.Split(Regex(expression), behavior="isolated") for expression in way.expressions]
    prefix = bool(declared.get("add_space_prefix", False))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [*cuts, pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=False)]
    )


def _marked_as_declared(backend: Tokenizer, declared: Mapping[str, Any]) -> None:
    """Write spaces as SentencePiece does: a mark for each, and one before a text, even where that begins with a space."""
    marks: list[Any] = [normalizers.Replace(" ", _MARK)]
    if declared.get("add_space_prefix", True):
        marks.insert(0, normalizers.Prepend(_MARK))
    backend.normalizer, backend.pre_tokenizer = normalizers.Sequence(marks), None


def _begun_as_declared(backend: Tokenizer, declared: Mapping[str, Any]) -> None:
    """Put the signs of a text's beginning and end around it where the file, or else llama.cpp, does."""
    kind, tokens = declared.get("model"), declared["tokens"]
    begins = kind == "llama" or PRE_TOKENS[str(declared.get("pre"))].begins
    put = {"bos": declared.get("add_bos_token", begins), "eos": declared.get("add_eos_token", False)}
    ids = {sign: int(declared.get(f"{sign}_token_id", -1)) for sign, whether in put.items() if whether}
    signs = {sign: tokens[i] for sign, i in ids.items() if 0 <= i < len(tokens)}
    parts = [*([signs["bos"]] if "bos" in signs else []), "$A", *([signs["eos"]] if "eos" in signs else [])]
    backend.post_processor = processors.TemplateProcessing(
        single=parts, special_tokens=[(text, ids[sign]) for sign, text in signs.items()]
    )


def _check_vocabulary(tokenizer: Any, tokens: Sequence[str], declared: Mapping[str, Any], name: str) -> None:
    """Raise InputError where the tokenizer's ids are not the file's, or it cuts control tokens, or a user's, into pieces."""
    own = tokenizer.get_vocab()
    types = list(declared.get("token_type", ())) or [1] * len(tokens)
    wrong = [i for i, token in enumerate(tokens) if types[i] in (1, 6) and own.get(token, i) != i]
    control = [i for i in _of_type(_CONTROL, declared) if tokens[i] in own]
    whole = [*control, *_of_type(_USERS, declared)]
    wrong += [i for i in whole if list(tokenizer(tokens[i], add_special_tokens=False).input_ids) != [i]]
    if len(own) > len(tokens) or wrong:
        more = ", ".join(repr(token) for token in sorted(own.keys() - set(tokens))[:3])
        which = f"token {wrong[0]}, {tokens[wrong[0]]!r}, is another" if wrong else f"transformers adds {more} to its tokens"
        raise InputError(f"target {name}: its tokenizer cannot be rebuilt: {which}; give the folder of the model")
    for text in TEXTS:
        read = str(tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids, clean_up_tokenization_spaces=False))
        if declared.get("model") == "gpt2" and read != text:
            raise InputError(f"target {name}: its tokenizer reads {text!r} and says {read!r}; give the folder of the model")


def merged_by_score(text: str, declared: Mapping[str, Any]) -> list[int]:
    """Token ids of a text by SentencePiece's byte pairs: the neighbours whose union has the best score are merged first, the
    leftmost of equals; what is no token at the end is bytes. Tokens of a user's own stand out of the text before that.

    As llama.cpp reads files of the kind `llama`.
    """
    tokens = list(declared["tokens"])
    ids = {token: i for i, token in enumerate(tokens)}
    own = sorted((t for t, kind in zip(tokens, declared.get("token_type", ()), strict=False) if kind == 4), key=len)
    parts = re.split(f"({'|'.join(map(re.escape, reversed(own)))})", text) if own else [text]
    prefix = _MARK if declared.get("add_space_prefix", True) else ""
    found: list[int] = []
    for part in filter(None, parts):
        whole = [part] if part in own else _merged(prefix + part.replace(" ", _MARK), ids, declared["scores"])
        for piece in whole:
            found += [ids[piece]] if piece in ids else [ids[f"<0x{byte:02X}>"] for byte in piece.encode()]
    return found


def _merged(text: str, ids: Mapping[str, int], scores: Sequence[float]) -> list[str]:
    """The pieces of a text when nothing can be merged any more."""
    pieces: list[str | None] = list(text)
    following, before = list(range(1, len(pieces) + 1)), list(range(-1, len(pieces) - 1))
    queue: list[tuple[float, int, int, str]] = []

    def offer(left: int) -> None:
        right = following[left] if left >= 0 else len(pieces)
        if right < len(pieces) and (both := f"{pieces[left]}{pieces[right]}") in ids:
            heapq.heappush(queue, (-scores[ids[both]], left, right, both))

    for left in range(len(pieces) - 1):
        offer(left)
    while queue:
        _, left, right, both = heapq.heappop(queue)
        if pieces[left] is None or pieces[right] is None or f"{pieces[left]}{pieces[right]}" != both:
            continue  # one of them was merged with another meanwhile
        pieces[left], pieces[right] = both, None
        following[left] = following[right]
        if following[right] < len(pieces):
            before[following[right]] = left
        offer(before[left])
        offer(left)
    return [piece for piece in pieces if piece is not None]
