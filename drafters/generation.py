"""Responses of a target alone, a token at a time: by the decode loop, or by the model's own `generate` where that cannot."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from drafters.decoding import Decoded, DecodeRequest, decode
from drafters.kinds.none import NoDrafter
from drafters.precision import tolerance, typical_error
from drafters.sampling import finite, not_finite, probabilities, sample
from drafters.target import Target
from simulator.errors import InputError, first_paragraph
from simulator.records import Round, Sampling

_LAW_CHANGING = (
    "repetition_penalty", "no_repeat_ngram_size", "encoder_repetition_penalty", "encoder_no_repeat_ngram_size",
    "bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "min_length", "min_new_tokens", "forced_bos_token_id",
    "forced_eos_token_id", "forced_decoder_ids", "exponential_decay_length_penalty", "sequence_bias", "min_p", "top_h",
    "typical_p", "epsilon_cutoff", "eta_cutoff", "guidance_scale", "watermarking_config", "stop_strings", "num_beams",
    "penalty_alpha", "dola_layers", "constraints", "force_words_ids", "token_healing",
)  # fmt: skip
"""Generation settings that change the law or the end of an answer, and that a run's own sampling has no word for."""
_VOID = {
    "repetition_penalty": 1.0, "encoder_repetition_penalty": 1.0, "typical_p": 1.0, "guidance_scale": 1.0, "num_beams": 1,
}  # fmt: skip
"""Values that change nothing, beside None, 0 and what is empty."""


def settings_left_out(target: Target) -> tuple[str, ...]:
    """What a target's own generation settings ask for and no run of ours does: `repetition_penalty 1.1`."""
    declared = getattr(target.model, "generation_config", None)
    found = {name: getattr(declared, name, None) for name in _LAW_CHANGING}
    return tuple(f"{name} {value}" for name, value in found.items() if value and value != _VOID.get(name))


def respond(
    target: Target, requests: Sequence[DecodeRequest], sampling: Sampling, *, max_batch: int
) -> Iterator[tuple[int, Decoded]]:
    """Answer all requests, at most `max_batch` at a time, without a drafter; yields (index, response) as each finishes.

    Raises InputError where a request does not fit the target's context, or the target can answer in neither way.
    """
    if target.cannot_decode is None:
        yield from decode(target, NoDrafter(), requests, sampling, max_batch=max_batch)
        return
    rows = min(max_batch, rows_at_once(target)) if requests else 0
    by_length: dict[int, list[int]] = {}  # models differ in what padding does to a state: there is none
    for i, request in enumerate(requests):
        if len(request.prompt) + request.max_new_tokens > target.max_positions:
            raise InputError(
                f"a prompt and its response need {len(request.prompt) + request.max_new_tokens} tokens, but the target's "
                f"context has {target.max_positions}; shorten the prompt or lower max_new_tokens"
            )
        by_length.setdefault(len(request.prompt), []).append(i)
    for alike in by_length.values():
        for start in range(0, len(alike), rows):
            together = alike[start : start + rows]
            yield from zip(together, _generated(target, [requests[i] for i in together], sampling), strict=True)


def rows_at_once(target: Target) -> int:
    """How many texts the model's `generate` may continue together: as many as one likes, or one (RWKV).

    Tried out: its logits, a token at a time from a state, must be those of the whole text. Raises InputError where they
    are not.
    """
    texts = target.some_texts()
    wrong = "it fails"
    for rows in (len(texts), 1):
        try:
            error = max(_error_generating(target, some) for some in torch.split(texts, rows))
        except Exception as error_:  # models fail in their own ways
            wrong = f"{type(error_).__name__}: {first_paragraph(error_)}"
            continue
        if error <= tolerance(target.dtype):
            return sys.maxsize if rows > 1 else 1
        wrong = f"its logits are off by {error:.1g} of those of the whole text"
    raise InputError(
        f"target {target.name}: its own `generate` cannot be used ({wrong}); give it responses of another engine with "
        "--responses"
    )


def _error_generating(target: Target, texts: Tensor) -> float:
    """Typical distance of the logits of the model's `generate`, a token at a time, from those of the whole texts."""
    made = _generate(target, texts, 6, with_logits=True)
    count = len(made.logits)
    whole = target.head(target.read(made.sequences, []).hidden[:, -count - 1 : -1])
    return typical_error(torch.stack(made.logits, 1), whole)


def _generated(target: Target, requests: Sequence[DecodeRequest], sampling: Sampling) -> list[Decoded]:
    """Responses by the model's own `generate` to prompts of one length."""
    done = [Decoded(r, np.random.Generator(np.random.Philox(seed=r.seed))) for r in requests]
    prompts = torch.tensor([r.prompt for r in requests], device=target.device)
    drawn = LogitsProcessorList([_Drawn(sampling, done, target.dtype)])
    whole = _generate(target, prompts, max(r.max_new_tokens for r in requests), logits_processor=drawn)
    for decoded, tokens in zip(done, whole[:, prompts.shape[1] :].tolist(), strict=True):
        tokens = tokens[: decoded.request.max_new_tokens]
        end = next((i for i, token in enumerate(tokens) if token in target.stop_tokens), None)
        decoded.token_ids = tokens if end is None else tokens[: end + 1]
        decoded.finish = "length" if end is None else "stop"
        decoded.rounds = [Round(0, 0, 0, 1, (), running=len(requests)) for _ in decoded.token_ids[1:]]
    return done


@torch.inference_mode()
def _generate(target: Target, prompts: Tensor, count: int, *, with_logits: bool = False, **options: Any) -> Any:
    """The model's `generate` on `prompts` [B, N] up to `count` tokens, without settings of its own that change the law.

    Penalties, forbidden tokens and the like stand in the model's own settings, which fill what a call leaves open.
    """
    stop = sorted(target.stop_tokens)
    settings = GenerationConfig(
        max_new_tokens=count, do_sample=False, eos_token_id=stop or None, pad_token_id=stop[0] if stop else 0,
        output_logits=with_logits, return_dict_in_generate=with_logits,
    )  # fmt: skip
    own, target.model.generation_config = target.model.generation_config, GenerationConfig()
    try:
        mask = torch.ones_like(prompts)
        return target.model.generate(prompts, attention_mask=mask, generation_config=settings, **options)
    finally:
        target.model.generation_config = own


class _Drawn(LogitsProcessor):  # type: ignore[misc]
    """Draws each row's next token by our sampling law from its own random stream, and leaves `generate` no other choice."""

    def __init__(self, sampling: Sampling, done: Sequence[Decoded], dtype: torch.dtype) -> None:
        self._sampling, self._done, self._dtype = sampling, done, dtype

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        for decoded, fine in zip(self._done, finite(scores).tolist(), strict=True):
            if not fine:
                raise not_finite("the target's logits", decoded.request.name, input_ids.shape[1] - 1, self._dtype)
        uniform = torch.tensor([d.random.random() for d in self._done], dtype=torch.float64)
        tokens = sample(probabilities(self._sampling, scores), uniform)
        return torch.full_like(scores, -torch.inf).scatter_(-1, tokens.unsqueeze(-1), 0.0)
