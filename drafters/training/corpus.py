"""Chat-formatted training text, split by document and packed into rows of token ids."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from simulator.errors import InputError, first_paragraph

IM_START, IM_END, PAD, MASK = "<|im_start|>", "<|im_end|>", "<|pad|>", "<|mask|>"
SPECIAL_TOKENS = (PAD, IM_START, IM_END, MASK)
"""Ids 0..3 of the tiny tokenizer, in this order."""

EXCLUDED_SOURCES = frozenset({"topical-chat"})
"""Left out of the bundled pair: its licence is share-alike."""

_SPEAKER = re.compile(r"^(User|Assistant): ", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Document:
    """One conversation of the corpus."""

    domain: str
    source: str
    turns: tuple[str, ...]
    """User and assistant messages alternating, the user first, the assistant's last one being the response."""

    @property
    def text(self) -> str:
        """The conversation in the chat format of the tiny tokenizer."""
        return chat_text(self.turns)


def chat_text(turns: Sequence[str]) -> str:
    """Render alternating user/assistant messages; an odd number leaves the assistant's turn open."""
    parts = [f"{IM_START}{'user' if i % 2 == 0 else 'assistant'}\n{turn}{IM_END}\n" for i, turn in enumerate(turns)]
    if len(turns) % 2:
        parts.append(f"{IM_START}assistant\n")
    return "".join(parts)


def split_dialogue(prompt: str) -> tuple[str, ...]:
    """Turn a `User: … Assistant: …` prompt into its messages; any other prompt is one message."""
    marks = list(_SPEAKER.finditer(prompt))
    if not marks or marks[0].start() != 0:
        return (prompt,)
    ends = [m.start() for m in marks[1:]] + [len(prompt)]
    speakers = [m.group(1) for m in marks]
    alternating = all(s == ("User" if i % 2 == 0 else "Assistant") for i, s in enumerate(speakers))
    if not alternating or speakers[-1] != "User":
        return (prompt,)
    return tuple(prompt[m.end() : end].strip() for m, end in zip(marks, ends, strict=True))


def read_documents(folder: Path, excluded: frozenset[str] = EXCLUDED_SOURCES) -> list[Document]:
    """Read every `*.jsonl` of `folder` but the rows whose `source` is in `excluded`."""
    files = sorted(folder.glob("*.jsonl"))
    if not files:
        raise InputError(f"{folder}: no *.jsonl with rows of domain, source, prompt, response")
    documents = []
    for file in files:
        try:
            with file.open(encoding="utf-8-sig") as stream:  # not splitlines, to which a line ends at U+2028 too
                lines = list(stream)
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{file}: cannot be read ({first_paragraph(error)})") from None
        for number, line in enumerate(lines, 1):
            row = _row(file, number, line)
            if row["source"] not in excluded:
                turns = (*split_dialogue(row["prompt"]), row["response"])
                documents.append(Document(row["domain"], row["source"], turns))
    return documents


def _row(file: Path, number: int, line: str) -> dict[str, str]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InputError(f"{file}, line {number}: is no JSON ({error})") from None
    names = ("domain", "source", "prompt", "response")
    if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in names):
        raise InputError(f"{file}, line {number}: is no object with the texts {', '.join(names)}")
    return row


def is_held_out(document: Document, percent: int = 2) -> bool:
    """Whether the document belongs to the held-out split: decided by a hash of its first message."""
    digest = hashlib.sha256(document.turns[0].encode()).digest()
    return int.from_bytes(digest[:4], "big") % 100 < percent


def encode(tokenizer: Tokenizer, documents: Sequence[Document]) -> list[np.ndarray]:
    """Token ids (uint16) of each document, in order."""
    return [np.asarray(e.ids, dtype=np.uint16) for e in tokenizer.encode_batch([d.text for d in documents])]


def pack(encoded: Sequence[np.ndarray], row_tokens: int, rng: np.random.Generator) -> np.ndarray:
    """Shuffle documents and lay them end to end into rows [n, row_tokens].

    A document longer than a row is cut at the row's end; every row starts with the start of a document, as every prompt
    does at inference. Short remainders are padded (id 0).
    """
    rows: list[np.ndarray] = []
    row, filled = np.zeros(row_tokens, dtype=np.uint16), 0
    for index in rng.permutation(len(encoded)):
        ids = encoded[index]
        taken = min(len(ids), row_tokens - filled)
        row[filled : filled + taken] = ids[:taken]
        filled += taken
        if filled > row_tokens - 16:
            rows.append(row)
            row, filled = np.zeros(row_tokens, dtype=np.uint16), 0
    return np.array(rows, dtype=np.uint16).reshape(-1, row_tokens)


def batches(
    encoded: Sequence[np.ndarray], row_tokens: int, batch_tokens: int, seed: int, start_step: int = 0
) -> Iterator[np.ndarray]:
    """Endless batches [batch_tokens / row_tokens, row_tokens]; a function of the seed and the step alone."""
    batch_rows = max(1, batch_tokens // row_tokens)
    epoch, skipped = 0, 0
    while True:
        rows = pack(encoded, row_tokens, np.random.default_rng([seed, row_tokens, epoch]))
        count = len(rows) // batch_rows
        if count == 0:
            raise InputError(f"training text: {len(rows)} rows of {row_tokens} tokens do not fill one batch of {batch_rows}")
        for i in range(count):
            if skipped < start_step:
                skipped += 1
                continue
            yield rows[i * batch_rows : (i + 1) * batch_rows].astype(np.int64)
        epoch += 1
