"""The target: a Hugging Face causal language model with its hidden states tapped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from drafters.cache import CacheWindow, KVCache
from simulator.errors import InputError


@dataclass(frozen=True, slots=True)
class TargetPass:
    """What one forward pass of the target yields for [B, N] tokens."""

    hidden: Tensor
    """Final hidden states, normed, [B, N, d]: what the language-model head reads."""
    taps: Tensor
    """Outputs of the tapped layers side by side, [B, N, m·d], in the order asked for."""


class Target:
    """The model whose output distribution must be preserved."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.config = model.config.get_text_config()
        self._decoder: Any = model.get_decoder()

    @classmethod
    def load(cls, source: str, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Target:
        """Load model and tokenizer from a folder or a hub id. Raises InputError with the reason when that fails."""
        try:
            model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, attn_implementation="sdpa")
            tokenizer = AutoTokenizer.from_pretrained(source)
        except Exception as error:  # files, hub, safetensors and configuration each have exception types of their own
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"target {source}: cannot be loaded as a Hugging Face causal language model: {reason}"
            ) from error
        try:
            model = model.to(device)
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"device {device}: not available here ({str(error).splitlines()[0]})") from error
        return cls(model, tokenizer)

    @property
    def device(self) -> torch.device:
        return torch.device(self.model.device)

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.model.dtype
        return dtype

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding, padding rows included."""
        return int(self.config.vocab_size)

    @property
    def hidden_size(self) -> int:
        return int(self.config.hidden_size)

    @property
    def num_layers(self) -> int:
        return int(self.config.num_hidden_layers)

    @property
    def max_positions(self) -> int:
        """Longest context in tokens."""
        return int(self.config.max_position_embeddings)

    @property
    def embedding(self) -> nn.Module:
        """Token ids to input embeddings."""
        module: nn.Module = self.model.get_input_embeddings()
        return module

    @property
    def lm_head(self) -> nn.Module:
        """The output projection."""
        module: nn.Module = self.model.get_output_embeddings()
        return module

    @property
    def stop_tokens(self) -> frozenset[int]:
        """End tokens, from the generation settings and, failing these, the configuration."""
        declared = self.model.generation_config.eos_token_id if self.model.generation_config else None
        if declared is None:
            declared = self.config.eos_token_id
        if declared is None:
            return frozenset()
        return frozenset([declared] if isinstance(declared, int) else declared)

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] from normed hidden states [..., d]."""
        logits: Tensor = self.lm_head(hidden)
        cap = getattr(self.config, "final_logit_softcapping", None)
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def encode_chat(self, messages: Sequence[dict[str, str]], *, thinking: bool = False) -> list[int]:
        """Token ids of a conversation, ready for the assistant's next reply."""
        if self.tokenizer is None or self.tokenizer.chat_template is None:
            raise InputError(f"target {self.config.name_or_path}: its tokenizer has no chat template, which suites need")
        ids = self.tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, enable_thinking=thinking, return_dict=False
        )
        return [int(i) for i in ids]

    @torch.inference_mode()
    def forward(self, ids: Tensor, positions: Tensor, cache: KVCache, rows: slice, tap_layers: Sequence[int]) -> TargetPass:
        """One pass over `ids` [B, N] at `positions` [B, N] of `rows` (B of them), attending to all earlier positions.

        `tap_layers` counts decoder layers from 0; −1 taps the embeddings. Keys and values go to `cache`.
        """
        length = int(positions.max()) + 1
        window = CacheWindow(cache, rows, positions, length)
        with self._tapped(tap_layers) as tapped:
            output = self._decoder(
                input_ids=ids,
                position_ids=positions,
                attention_mask=self._masks(positions, length),
                past_key_values=window,
                use_cache=True,
            )
        taps = torch.cat([tapped[i] for i in tap_layers], -1) if tap_layers else ids.new_zeros(*ids.shape, 0)
        return TargetPass(output.last_hidden_state, taps)

    def read(self, ids: Tensor, tap_layers: Sequence[int]) -> TargetPass:
        """One pass over whole texts `ids` [B, N], keeping no cache: teacher forcing and training."""
        with self._tapped(tap_layers) as tapped, torch.no_grad():
            output = self._decoder(input_ids=ids, use_cache=False)
        return TargetPass(output.last_hidden_state, torch.cat([tapped[i] for i in tap_layers], -1))

    def _masks(self, positions: Tensor, length: int) -> dict[str, Tensor]:
        """Boolean masks [B, 1, N, length] by kind of layer: a query sees keys at its own and earlier positions."""
        key = torch.arange(length, device=positions.device)
        query = positions[:, None, :, None]
        causal = key <= query
        masks = {"full_attention": causal}
        window = getattr(self.config, "sliding_window", None)
        if window is not None:
            masks["sliding_attention"] = causal & (key > query - window)
        return masks

    @contextmanager
    def _tapped(self, tap_layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
        """Collect the outputs of layers while the block runs."""
        tapped: dict[int, Tensor] = {}

        def collect(layer: int) -> Any:
            def hook(_module: nn.Module, _inputs: object, output: Any) -> None:
                tapped[layer] = output[0] if isinstance(output, tuple) else output

            return hook

        modules = [(i, self.embedding if i == -1 else self._decoder.layers[i]) for i in set(tap_layers)]
        handles = [module.register_forward_hook(collect(i)) for i, module in modules]
        try:
            yield tapped
        finally:
            for handle in handles:
                handle.remove()
