"""Training the bundled target: a small Qwen3 causal language model on chat-formatted text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F
from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

from drafters.training import corpus
from drafters.training.tokenizer import save_tokenizer, train_tokenizer
from drafters.training.trainer import Schedule, Trainer

MAX_POSITIONS = 2048
_ROWS = ((0.0, 256), (0.7, 512), (0.9, 2048))
"""(From this fraction of the run, tokens a row): short rows are cheap, the last ones show the model its whole context."""
_LOSS_CHUNK_TOKENS = 512


def tiny_config() -> Qwen3Config:
    """The architecture of the bundled target: 6.6 M parameters, eight layers of width 256."""
    return Qwen3Config(
        vocab_size=4096,
        hidden_size=256,
        intermediate_size=640,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=MAX_POSITIONS,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        eos_token_id=2,
        pad_token_id=0,
        bos_token_id=None,
    )


def train_target(data_dir: Path, folder: Path, steps: int, seed: int, batch_tokens: int = 4096, device: str = "cpu") -> None:
    """Train tokenizer and target; write both to `folder` in Hugging Face form, bfloat16 on disk."""
    documents = corpus.read_documents(data_dir)
    train = [d for d in documents if not corpus.is_held_out(d)]
    held_out = [d for d in documents if corpus.is_held_out(d)]
    tokenizer_file = folder / "tokenizer.json"
    if not tokenizer_file.exists():
        save_tokenizer(train_tokenizer((d.text for d in train), tiny_config().vocab_size), folder, MAX_POSITIONS)
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    encoded = corpus.encode(tokenizer, train)

    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(tiny_config()).to(device)
    trainer: Trainer[Tensor] = Trainer(
        model, lambda ids, _: _next_token_loss(model, ids), Schedule(steps), folder / "training", seed
    )
    trainer.run(_rows(encoded, steps, batch_tokens, seed, trainer.step))

    model.eval().to(torch.bfloat16)
    model.generation_config = GenerationConfig(eos_token_id=2, pad_token_id=0, do_sample=True)
    model.save_pretrained(folder)
    for domain, loss in held_out_loss(model.float(), tokenizer, held_out).items():
        print(f"held-out loss, {domain}: {loss:.3f} nats per token")


def held_out_loss(model: Qwen3ForCausalLM, tokenizer: Tokenizer, documents: list[corpus.Document]) -> dict[str, float]:
    """Mean next-token loss by domain over documents the model never saw, 200 a domain at most."""
    result = {}
    for domain in sorted({d.domain for d in documents}):
        encoded = corpus.encode(tokenizer, [d for d in documents if d.domain == domain][:200])
        losses = []
        for ids in encoded:
            row = torch.from_numpy(ids[:512].astype(np.int64)).to(model.device)
            with torch.no_grad():
                logits = model(row[None]).logits[0, :-1]
            losses.append(F.cross_entropy(logits, row[1:], reduction="none"))
        result[domain] = float(torch.cat(losses).mean())
    return result


def _next_token_loss(model: Qwen3ForCausalLM, ids: Tensor) -> tuple[Tensor, dict[str, float]]:
    # On a CPU the fused kernel loses to plain matrix products on short rows.
    plain = ids.device.type == "cpu" and ids.shape[1] <= 512
    model.set_attn_implementation("eager" if plain else "sdpa")
    hidden = model.model(ids, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)
    labels = ids[:, 1:].flatten()
    # In chunks, so that the logits stay in a CPU's cache.
    parts = hidden.split(_LOSS_CHUNK_TOKENS), labels.split(_LOSS_CHUNK_TOKENS)  # type: ignore[no-untyped-call]
    total = torch.stack(
        [F.cross_entropy(model.lm_head(h).float(), y, ignore_index=0, reduction="sum") for h, y in zip(*parts, strict=True)]
    ).sum()
    loss = total / (labels != 0).sum()
    return loss, {"loss": loss.item()}


def _rows(encoded: list[np.ndarray], steps: int, batch_tokens: int, seed: int, start: int) -> Iterator[Tensor]:
    """Batches of token ids from step `start`, row lengths after `_ROWS`."""
    starts = [int(fraction * steps) for fraction, _ in _ROWS] + [steps]
    for (_, row_tokens), first, end in zip(_ROWS, starts, starts[1:], strict=False):
        if start >= end:
            continue
        batches = corpus.batches(encoded, row_tokens, batch_tokens, seed, max(0, start - first))
        for _ in range(max(start, first), end):
            yield torch.from_numpy(next(batches))
