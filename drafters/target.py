"""The target: a causal language model of transformers with its hidden states tapped."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from drafters.cache import Positions, TargetCache
from simulator.errors import InputError

_CHECKED_TOKENS = 12
"""Length of the two texts on which a target is checked."""
_MASKED = {"full_attention", "sliding_attention"}
"""Kinds of layers that keep every position apart, so that a rejected one is forgotten by masking it."""


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
        """A target around `model`. Raises InputError where its head, run alone, does not give the model's own logits."""
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.config = model.config.get_text_config()
        self.device: torch.device = torch.device(model.device)
        """Where the model is; found once, since models look through their parameters for it."""
        self.dtype: torch.dtype = model.dtype
        """The numeric type of the weights."""
        self._decoder: Any = _decoder(model)
        self._layers = _decoder_layers(self._decoder, self.num_layers)
        cache = "cache" if "cache" in inspect.signature(self._decoder.forward).parameters else "past_key_values"
        self._cache_argument = cache  # renamed in transformers 5.19; the old name goes in 5.40
        self._outer = self._checked_head()

    @classmethod
    def load(cls, source: str, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Target:
        """Load model and tokenizer from a folder or a hub id. Raises InputError with the reason when that fails."""
        try:
            model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
            tokenizer = AutoTokenizer.from_pretrained(source)
        except Exception as error:  # files, hub, safetensors and configuration each have exception types of their own
            raise InputError(
                f"target {source}: cannot be loaded as a Hugging Face causal language model: {_reason(error)}"
            ) from error
        try:
            model = model.to(device)
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"device {device}: not available here ({str(error).splitlines()[0]})") from error
        return cls(model, tokenizer)

    @property
    def name(self) -> str:
        """Where the model came from, for messages."""
        return str(self.model.config.name_or_path or self.model.config.model_type)

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding, padding rows included."""
        return int(self.config.vocab_size)

    @property
    def hidden_size(self) -> int:
        """Width d of the hidden states."""
        return int(self.config.hidden_size)

    @property
    def num_layers(self) -> int:
        """Decoder layers."""
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
        """The output projection, without what the model does to its logits afterwards."""
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

    @cached_property
    def layer_kinds(self) -> tuple[str, ...]:
        """Kinds of attention of the decoder layers, each once: `full_attention`, `sliding_attention` or another."""
        declared = getattr(self.config, "layer_types", None)
        if declared:
            return tuple(sorted(set(declared)))
        if getattr(self.config, "sliding_window", None) is not None:
            return ("sliding_attention",)
        if getattr(self.config, "attention_chunk_size", None) is not None:
            return ("chunked_attention",)
        return ("full_attention",)

    @cached_property
    def cannot_decode(self) -> str | None:
        """Why this target cannot decode live, in words; None where it can.

        Live decoding forgets rejected tokens, which a state that folds all tokens into one (linear attention, Mamba,
        convolutions, compressed attention) cannot. Whether the model, in pieces and after a rejection, says what it says
        of the whole text is tried out once.
        """
        folded = [kind for kind in self.layer_kinds if kind not in _MASKED]
        if folded:
            return f"its layers of {' and '.join(folded).replace('_', ' ')} keep a state that cannot be rolled back"
        try:
            wrong = self._error_in_pieces()
        except Exception as error:  # models fail in their own ways on a cache that is not theirs
            return f"its layers do not work on a cache that can be rolled back ({_reason(error)})"
        if wrong > _tolerance(self.dtype):
            return f"read in pieces, with a rejection, its hidden states are off by {wrong:.1g} of their size"
        return None

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] from normed hidden states [..., d], scales and caps included: the model's own code."""
        logits: Tensor = self._outer(inputs_embeds=hidden.reshape(1, -1, hidden.shape[-1]), use_cache=False).logits
        return logits.view(*hidden.shape[:-1], -1)

    def encode_chat(self, messages: Sequence[dict[str, str]], *, thinking: bool = False) -> list[int]:
        """Token ids of a conversation, ready for the assistant's next reply."""
        if self.tokenizer is None or self.tokenizer.chat_template is None:
            raise InputError(f"target {self.name}: its tokenizer has no chat template, which suites need")
        ids = self.tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, enable_thinking=thinking, return_dict=False
        )
        return [int(i) for i in ids]

    def new_cache(self, rows: int, capacity: int) -> TargetCache:
        """An empty cache for `rows` texts of up to `capacity` positions."""
        return TargetCache(self.num_layers, rows, capacity)

    @torch.inference_mode()
    def forward(
        self, ids: Tensor, positions: Positions, cache: TargetCache, rows: slice, tap_layers: Sequence[int]
    ) -> TargetPass:
        """One pass over `ids` [B, N] at `positions` of `rows` (B of them), attending to all earlier positions.

        `tap_layers` counts decoder layers from 0; −1 taps the embeddings. Keys and values go to `cache`.
        """
        cache.begin(rows, positions)
        with self._tapped(tap_layers) as tapped:
            output = self._decoder(
                input_ids=ids,
                position_ids=positions.tensor,
                attention_mask=None if positions.aligned else self._masks(positions),
                use_cache=True,
                **{self._cache_argument: cache},
            )
        taps = torch.cat([tapped[i] for i in tap_layers], -1) if tap_layers else output.last_hidden_state[..., :0]
        return TargetPass(output.last_hidden_state, taps)

    def read(self, ids: Tensor, tap_layers: Sequence[int]) -> TargetPass:
        """One pass over whole texts `ids` [B, N], keeping no cache: teacher forcing and training."""
        with self._tapped(tap_layers) as tapped, torch.no_grad():
            output = self._decoder(input_ids=ids, use_cache=False)
        hidden = output.last_hidden_state
        return TargetPass(hidden, torch.cat([tapped[i] for i in tap_layers], -1) if tap_layers else hidden[..., :0])

    def _masks(self, positions: Positions) -> Tensor | dict[str, Tensor]:
        """What a query may not see, added to its scores, [B, 1, N, length]; by kind where layers are of several kinds.

        A query sees keys at its own and earlier positions, in a sliding layer the last so many of them. Where all rows
        start at one position the models make the same masks themselves.
        """
        key = torch.arange(positions.length, device=self.device)
        query = positions.tensor[:, None, :, None]
        never = torch.finfo(self.dtype).min

        def added(seen: Tensor) -> Tensor:
            return torch.zeros(seen.shape, dtype=self.dtype, device=self.device).masked_fill_(~seen, never)

        masks = {}
        for kind in self.layer_kinds:
            seen = key <= query
            if kind == "sliding_attention":
                seen &= key > query - self.config.sliding_window
            masks[kind] = added(seen)
        return next(iter(masks.values())) if len(masks) == 1 else masks

    @contextmanager
    def _tapped(self, tap_layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
        """Collect the outputs of layers while the block runs."""
        tapped: dict[int, Tensor] = {}

        def collect(layer: int) -> Any:
            def hook(_module: nn.Module, _inputs: object, output: Any) -> None:
                tapped[layer] = output[0] if isinstance(output, tuple) else output

            return hook

        modules = [(i, self.embedding if i == -1 else self._layers[i]) for i in set(tap_layers)]
        handles = [module.register_forward_hook(collect(i)) for i, module in modules]
        try:
            yield tapped
        finally:
            for handle in handles:
                handle.remove()

    def _some_texts(self) -> Tensor:
        """Two texts of tokens far apart in the vocabulary, to check the model on."""
        ids = torch.arange(2 * _CHECKED_TOKENS, device=self.device) * 7919 % self.vocab_size
        return ids.view(2, _CHECKED_TOKENS)

    @torch.no_grad()
    def _checked_head(self) -> nn.Module:
        """The model without its decoder, found to give the model's own logits."""
        if self.device.type == "meta":  # shapes without values: nothing will be computed
            return nn.Identity()
        try:
            with _output_of(self._decoder) as seen, _output_of(_child_with(self.model, self._decoder)) as outer:
                own = self.model(input_ids=self._some_texts(), use_cache=False).logits
            self._outer = _without_decoder(self.model, self._decoder, type((outer or seen)[0]))
            wrong = float((self.head(seen[0].last_hidden_state) - own).abs().max() / own.abs().max().clamp(min=1e-6))
        except Exception as error:  # models are of many makes, and fail in their own ways
            raise InputError(
                f"target {self.name}: its head cannot be run apart from its decoder: {_reason(error)}"
            ) from error
        if not wrong <= _tolerance(self.dtype):
            raise InputError(
                f"target {self.name}: its head, run on the decoder's output, does not give the model's own logits "
                f"(off by {wrong:.1g} of the largest); what it does to them beside its matrix is not known here"
            )
        return self._outer

    def _error_in_pieces(self) -> float:
        """Typical distance of hidden states read in pieces from those of whole texts, as a share of their size.

        Two texts whose prompts differ in length, a draft for each that is rejected, then what really follows; after that
        one of them alone. The median over tokens, since a mixture's router may flip on a last bit.
        """
        texts, cache, rows = self._some_texts(), self.new_cache(2, _CHECKED_TOKENS + 1), slice(0, 2)
        whole = self.read(texts, []).hidden
        starts, at = (3, 5), torch.arange(2, device=self.device).unsqueeze(1)
        self.forward(texts[:, :5], Positions.of((0, 0), 5, self.device), cache, rows, [])
        after = Positions.of(starts, 4, self.device)
        self.forward(texts.flip(1)[:, :4], after, cache, rows, [])
        pairs = [(self.forward(texts[at, after.tensor], after, cache, rows, []).hidden, whole[at, after.tensor])]
        alone = Positions.of(starts[1:], 4, self.device)
        again = self.new_cache(1, _CHECKED_TOKENS + 1)
        self.forward(texts[1:, :5], Positions.of((0,), 5, self.device), again, slice(0, 1), [])
        self.forward(texts[1:, :4], alone, again, slice(0, 1), [])
        pairs.append((self.forward(texts[1:, 5:9], alone, again, slice(0, 1), []).hidden, whole[1:, 5:9]))
        errors = [((ours - own).float().norm(dim=-1) / own.float().norm(dim=-1)).flatten() for ours, own in pairs]
        return float(torch.cat(errors).median())


class _Given(nn.Module):
    """Stands where a model's decoder was: gives back the hidden states that it is handed as embeddings."""

    def __init__(self, output: type[Any]) -> None:
        super().__init__()
        self._output = output

    def forward(self, *_: object, inputs_embeds: Tensor, **__: object) -> Any:
        return self._output(last_hidden_state=inputs_embeds)


def _decoder(model: PreTrainedModel) -> nn.Module:
    """The stack of decoder layers, final norm included."""
    decoder: nn.Module = model.get_decoder()
    if decoder is model:  # some name their parts otherwise than they say
        decoder = next((child for child in model.children() if isinstance(child, PreTrainedModel)), model)
    return decoder


def _decoder_layers(decoder: nn.Module, count: int) -> nn.ModuleList:
    """The list of decoder layers, whatever it is called."""
    lists = [child for child in decoder.children() if isinstance(child, nn.ModuleList) and len(child) == count]
    return lists[0] if lists else nn.ModuleList()


def _child_with(model: nn.Module, decoder: nn.Module) -> nn.Module:
    """The part of `model` that is or holds `decoder`."""
    return next(child for child in model.children() if decoder in child.modules())


def _without_decoder(model: PreTrainedModel, decoder: nn.Module, output: type[Any]) -> nn.Module:
    """A model that shares everything with `model` but its decoder, in whose place it takes hidden states."""
    holder = _child_with(model, decoder)
    given = _Given(output)
    inner = next(path for path, module in holder.named_modules() if module is decoder)
    if inner and "." not in inner:  # a model may call its decoder directly
        given.add_module(inner, _Given(output))
    shared: dict[int, Any] = {id(child): child for child in model.children()} | {id(holder): given}
    shared |= {id(own): own for own in (*model.parameters(recurse=False), *model.buffers(recurse=False))}
    outer: nn.Module = copy.deepcopy(model, shared)
    return outer


@contextmanager
def _output_of(module: nn.Module) -> Iterator[list[Any]]:
    """Collect what `module` returns while the block runs."""
    outputs: list[Any] = []
    handle = module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    try:
        yield outputs
    finally:
        handle.remove()


def _tolerance(dtype: torch.dtype) -> float:
    """How far two ways to compute the same may be apart, as a share."""
    return max(1e-4, 8 * torch.finfo(dtype).eps)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
