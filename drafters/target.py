"""The target: a causal language model of transformers with its hidden states tapped."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from drafters.anatomy import Taps, child_with, decoder_layers, decoder_of, output_of, without_decoder
from drafters.cache import Positions, TargetCache
from drafters.chat import TEMPLATE_DATE, ChatTemplate
from drafters.configs import OWN_MASKS, folded_state, layer_kinds
from drafters.gguf import plain_source, tokenizer_of
from drafters.loading import check_config, check_files, check_weights
from drafters.precision import choose_dtype, tolerance, typical_error
from drafters.sampling import finite
from simulator.errors import InputError, first_paragraph

_CHECKED_TOKENS = 28
"""Length of the two texts on which a target is checked."""
_CHECKED_WINDOW = 8
"""Positions that sliding layers see meanwhile."""
_COPIED_WEIGHTS = 5 * 10**8
"""Models of no more weights are checked in float32, whatever their own type is: 2 GB."""
_LIMITS = (
    "max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "max_target_positions",
    "keep_window_size",
)  # fmt: skip
"""What configurations call the longest context."""


class TargetPass(NamedTuple):
    """What one forward pass of the target yields for [B, N] tokens."""

    hidden: Tensor
    """Final hidden states, normed, [B, N, d]: what the language-model head reads."""
    taps: Tensor
    """Outputs of the tapped layers side by side, [B, N, m·d], in the order asked for."""


class Target:
    """The model whose output distribution must be preserved."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None, *, chat_template: str | None = None
    ) -> None:
        """A target around `model`; `chat_template` stands in for its tokenizer's: Jinja, or `drafters.chat.PLAIN`.

        Raises InputError where its head, run alone, does not give the model's own logits, or it looks at later tokens.
        """
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.chat_template = chat_template
        """In place of its tokenizer's, to be set before anything is asked; None leaves that."""
        self.config = model.config.get_text_config()
        self.device: torch.device = torch.device(model.device)
        """Where the model is; found once, since models look through their parameters for it."""
        self.dtype: torch.dtype = model.dtype
        """The numeric type of the weights."""
        self._decoder: Any = decoder_of(model)
        self._layers = decoder_layers(self._decoder, self.num_layers)
        self._taps = Taps(self._layers)
        cache = "cache" if "cache" in inspect.signature(self._decoder.forward).parameters else "past_key_values"
        self._cache_argument = cache  # renamed in transformers 5.19; the old name goes in 5.40
        self._bare_head: nn.Module | None = None
        self._outer = self._checked_head()
        self._bare_head = self.lm_head if self._head_is_bare() else None
        self._check_causal()

    @classmethod
    def load(
        cls, source: str, *, dtype: torch.dtype = torch.float32, device: str = "cpu", live: bool = False,
        chat_template: str | None = None,
    ) -> Target:  # fmt: skip
        """Load model and tokenizer from a folder, a hub id or a GGUF file; `chat_template` stands in for the tokenizer's.

        Raises InputError with the reason when that fails, or where `live` decoding is wanted of a target that cannot: before
        its weights are loaded where its configuration tells.
        """
        source = plain_source(source)
        try:
            if (folder := Path(source)).is_dir():
                check_files(folder, source)
            config = AutoConfig.from_pretrained(source, trust_remote_code=False, return_dict=True)
            check_config(config, source)
            if live and (folded := folded_state(config.get_text_config())):
                raise InputError(f"target {source}: cannot decode live: {folded}")
            # Attention is computed as suits this machine, whatever the one was that the checkpoint was saved on.
            model, loaded = AutoModelForCausalLM.from_pretrained(
                source, config=config, dtype=dtype, attn_implementation=None, output_loading_info=True,
                ignore_mismatched_sizes=True, trust_remote_code=False,
            )  # fmt: skip
            tokenizer = tokenizer_of(source)
        except InputError:
            raise
        except Exception as error:  # files, hub, safetensors and configuration each have exception types of their own
            why = f"{type(error).__name__}: {first_paragraph(error)}"
            raise InputError(f"target {source}: cannot be loaded as a Hugging Face causal language model: {why}") from error
        check_weights(model, loaded, source)
        try:
            model = model.to(device)
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"device {device}: not available here ({str(error).splitlines()[0]})") from error
        target = cls(model, tokenizer, chat_template=chat_template)
        if live and target.cannot_decode is not None:
            raise InputError(f"target {source}: cannot decode live: {target.cannot_decode}")
        return target

    @classmethod
    def outline(cls, source: str, dtype: str, chat_template: str | None = None) -> Target:
        """A target's tokenizer, shape and end tokens, without weights. Raises InputError."""
        source = plain_source(source)
        try:
            kind = choose_dtype(dtype, "cuda" if torch.cuda.is_available() else "cpu")
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(source), dtype=kind)
            tokenizer = tokenizer_of(source)
        except Exception as error:  # files, hub and configuration each have exception types of their own
            raise InputError(f"target {source}: cannot be read: {' '.join(str(error).split())[:200]}") from error
        try:
            model.generation_config = GenerationConfig.from_pretrained(source)
        except OSError:  # none there: the configuration names the end tokens
            model.generation_config = None
        return cls(model, tokenizer, chat_template=chat_template)

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

    @cached_property
    def max_positions(self) -> int:
        """Longest context in tokens; as good as endless where the configuration knows no limit (Mamba, Bloom).

        A table of positions that counts from behind its padding (RoBERTa) is shorter by so much.

        A model whose rotary angles change for all positions once a text is long (LongRoPE) is used for shorter texts alone:
        what is kept of such a text's beginning does not belong to its end.
        """
        limits = [getattr(self.config, name, None) for name in _LIMITS]
        limits += [
            own.get("original_max_position_embeddings") or getattr(self.config, "original_max_position_embeddings", None)
            for own in _rotary_settings(self.config)
            if own.get("rope_type") == "longrope"
        ]
        limits += [table.num_embeddings - table.padding_idx - 1 for table in self._padded_positions]
        return min((int(limit) for limit in limits if limit), default=sys.maxsize)

    @property
    def _padded_positions(self) -> list[Any]:
        """Tables of positions that count from behind a padding token."""
        tables = [module for name, module in self._decoder.named_modules() if name.endswith("position_embeddings")]
        return [table for table in tables if getattr(table, "padding_idx", None) is not None]

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
        """End tokens: all that the configuration, the generation settings or the tokenizer name, and the model can say."""
        found: set[int] = set()
        for named_by in (self.config, self.model.config, self.model.generation_config, self.tokenizer):
            declared = getattr(named_by, "eos_token_id", None)
            several = [] if declared is None else list(declared) if isinstance(declared, (list, tuple)) else [declared]
            if not all(isinstance(token, int) and not isinstance(token, bool) for token in several):
                raise InputError(f"target {self.name}: eos_token_id {declared}: a token id, or a list of them, is needed")
            found |= set(several)
        return frozenset(token for token in found if 0 <= token < self.vocab_size)

    @cached_property
    def layer_kinds(self) -> tuple[str, ...]:
        """Kinds of the decoder layers, each once: `full_attention`, `sliding_attention` or another."""
        return layer_kinds(self.config)

    @cached_property
    def cannot_decode(self) -> str | None:
        """Why this target cannot decode live, in words; None where it can.

        Live decoding forgets rejected tokens, which a state that folds all tokens into one (linear attention, Mamba,
        convolutions, compressed attention) cannot. Whether the model, in pieces and after a rejection, says what it says
        of the whole text is tried out once.
        """
        if folded := folded_state(self.config):
            return folded
        if self._apart is not None:
            return None
        if self._padded_positions:
            return (
                f"it counts positions from behind its padding ({self._layer_name}), as encoders do, which read whole texts"
            )
        return (
            f"its layers ({self._layer_name}) keep no state that can be rolled back: after a rejected draft the model would "
            "go on otherwise than from the same text read whole"
        )

    @cached_property
    def _apart(self) -> bool | None:
        """Whether rows at different positions are read one after another; None where neither way is right."""
        masks_itself = bool(OWN_MASKS & set(self.layer_kinds))
        for apart in (True,) if masks_itself else (False, True):
            try:
                with self._narrow_windows(), self._in_float32():
                    if self._error_in_pieces(self._by_row if apart else self._together) <= tolerance(self.dtype):
                        return apart
            except torch.OutOfMemoryError:
                raise
            except Exception:  # models fail in their own ways on a cache or on masks that are not theirs
                continue
        return None

    @property
    def decodes_together(self) -> bool:
        """Whether rows that stand at different positions are read in one pass, or one after another."""
        return self._apart is False

    @property
    def _layer_name(self) -> str:
        return type(self._layers[0] if len(self._layers) else self._decoder).__name__

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] from normed hidden states [..., d], scales and caps included: the model's own code."""
        if self._bare_head is not None:
            logits: Tensor = self._bare_head(hidden)
            return logits
        logits = self._outer(inputs_embeds=hidden.reshape(1, -1, hidden.shape[-1]), use_cache=False).logits
        return logits.view(*hidden.shape[:-1], -1)

    def encode_chat(
        self, messages: Sequence[dict[str, str]], *, thinking: bool = False, today: date = TEMPLATE_DATE
    ) -> list[int]:
        """Token ids of a conversation, ready for the assistant's next reply.

        `thinking` and `today` are told to chat templates that ask. Raises InputError where there is no chat template, or
        one that fails, draws at random, or says the same whatever the conversation is.
        """
        ids = self._template.encode(messages, thinking=thinking, today=today)
        if max(ids) >= self.vocab_size:
            raise InputError(
                f"target {self.name}: its tokenizer says token {max(ids)}, and the model knows {self.vocab_size}: they do "
                "not belong together"
            )
        return ids

    def dated(self, *, thinking: bool = False) -> bool:
        """Whether what its chat template says of a conversation changes with the date."""
        return self._template.dated(thinking=thinking)

    def tokens(self, text: str) -> list[int]:
        """A reply's tokens, as the tokenizer reads its text by itself: one of the ways in which it may have been said."""
        assert self.tokenizer is not None
        return [int(i) for i in self.tokenizer.encode(text, add_special_tokens=False)]

    @cached_property
    def reply_end(self) -> int | None:
        """The end token that its chat template puts after a reply; where it puts none, one that ends texts, None without."""
        asked = [{"role": "user", "content": "Hello"}]
        whole = self.encode_chat([*asked, {"role": "assistant", "content": "Hi"}, *asked])
        after = whole[len(self.encode_chat(asked)) :]
        return next((token for token in after if token in self.stop_tokens), min(self.stop_tokens, default=None))

    def text(self, token_ids: Sequence[int]) -> str:
        """What tokens read as; those that the tokenizer does not know, of a padded vocabulary, read as nothing."""
        assert self.tokenizer is not None
        try:
            return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=True))
        except Exception:  # tokenizers that are written in Python fail on what they do not know, each in its own way
            known = [token for token in token_ids if token < len(self.tokenizer)]
            return str(self.tokenizer.decode(known, skip_special_tokens=True))

    @property
    def has_template(self) -> bool:
        """Whether there is a chat template to ask it with."""
        return bool(self.chat_template or getattr(self.tokenizer, "chat_template", None))

    @cached_property
    def _template(self) -> ChatTemplate:
        return ChatTemplate(self.tokenizer, self.name, self.chat_template)

    def new_cache(self, rows: int, capacity: int) -> TargetCache:
        """An empty cache for `rows` texts of up to `capacity` positions."""
        return TargetCache(self.num_layers, rows, capacity)

    def forward(
        self, ids: Tensor, positions: Positions, cache: TargetCache, rows: slice, tap_layers: Sequence[int]
    ) -> TargetPass:
        """One pass over `ids` [B, N] at `positions` of `rows` (B of them), attending to all earlier positions.

        `tap_layers` counts decoder layers from 0; −1 taps what the first layer reads, L what the last norm gives. Keys and
        values go to `cache`.
        """
        run = self._by_row if not positions.aligned and self._apart else self._together
        return run(ids, positions, cache, rows, tap_layers)

    def _together(
        self, ids: Tensor, positions: Positions, cache: TargetCache, rows: slice, tap_layers: Sequence[int]
    ) -> TargetPass:
        cache.begin(rows, positions)
        self._taps.ask(tap_layers)
        output = self._decoder(
            input_ids=ids,
            position_ids=positions.tensor,
            attention_mask=None if positions.aligned else self._masks(positions),
            use_cache=True,
            **{self._cache_argument: cache},
        )
        return TargetPass(output.last_hidden_state, self._taps.side_by_side(output.last_hidden_state))

    def _by_row(
        self, ids: Tensor, positions: Positions, cache: TargetCache, rows: slice, tap_layers: Sequence[int]
    ) -> TargetPass:
        """One row after another, for models that make all masks themselves, as if all rows stood at one position."""
        passes = []
        for i, start in enumerate(positions.starts):
            row, alone = slice(rows.start + i, rows.start + i + 1), Positions.of([start], ids.shape[1], ids.device)
            passes.append(self._together(ids[i : i + 1], alone, cache, row, tap_layers))
        return TargetPass(torch.cat([p.hidden for p in passes]), torch.cat([p.taps for p in passes]))

    def read(self, ids: Tensor, tap_layers: Sequence[int]) -> TargetPass:
        """One pass over whole texts `ids` [B, N], keeping no cache: teacher forcing and training."""
        self._taps.ask(tap_layers)
        with torch.no_grad():
            output = self._decoder(input_ids=ids, use_cache=False)
        return TargetPass(output.last_hidden_state, self._taps.side_by_side(output.last_hidden_state))

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

    def check_taps(self, tap_layers: Sequence[int]) -> None:
        """Raise InputError unless each of these layers gives one state of the model's width for every token."""
        if self.device.type == "meta":
            return
        unlike = f"target {self.name}: its layers ({self._layer_name}) do not give one state of width {self.hidden_size}"
        try:
            widths = {self.read(self.some_texts()[:1], [layer]).taps.shape[1:] for layer in tap_layers}
        except (RuntimeError, IndexError, TypeError):
            widths = {torch.Size()}
        if widths - {torch.Size([_CHECKED_TOKENS, self.hidden_size])}:
            raise InputError(f"{unlike} for every token, which drafters that read them need; n-gram needs none")

    def some_texts(self) -> Tensor:
        """Two texts of tokens far apart in the vocabulary, to check the model on."""
        ids = torch.arange(2 * _CHECKED_TOKENS, device=self.device) * 7919 % self.vocab_size
        return ids.view(2, _CHECKED_TOKENS)

    @torch.no_grad()
    def _checked_head(self) -> nn.Module:
        """The model without its decoder, found to give the model's own logits."""
        if self.device.type == "meta":  # shapes without values: nothing will be computed
            return nn.Identity()
        try:
            with output_of(self._decoder) as seen, output_of(child_with(self.model, self._decoder)) as outer:
                own = self.model(input_ids=self.some_texts(), use_cache=False).logits
            self._outer = without_decoder(self.model, self._decoder, type((outer or seen)[0]))
            fine = finite(own)  # of others the head cannot be judged; whoever draws from such logits is stopped
            ours, own = self.head(seen[0].last_hidden_state)[fine], own[fine]
            wrong = float((ours - own).abs().max() / own.abs().max().clamp(min=1e-6)) if len(own) else 0.0
        except Exception as error:  # models are of many makes, and fail in their own ways
            why = f"{type(error).__name__}: {first_paragraph(error)}"
            raise InputError(f"target {self.name}: its head cannot be run apart from its decoder: {why}") from error
        if not wrong <= tolerance(self.dtype):
            raise InputError(
                f"target {self.name}: its head, run on the decoder's output, does not give the model's own logits "
                f"(off by {wrong:.1g} of the largest); what it does to them beside its matrix is not known here"
            )
        return self._outer

    @torch.no_grad()
    def _head_is_bare(self) -> bool:
        """Whether the model does nothing to its logits beside its head's matrix, not even to very large ones (caps)."""
        if self.device.type == "meta":
            return True
        hidden = self.read(self.some_texts(), []).hidden
        try:
            return all(torch.equal(self.head(h), self.lm_head(h)) for h in (hidden, 1000 * hidden))
        except (RuntimeError, TypeError):  # the model rounds what its head reads (Mamba's states are float32), or names none
            return False

    @contextmanager
    def _narrow_windows(self) -> Iterator[None]:
        """Sliding windows of a few positions while the block runs: texts to check with are short, and must reach beyond."""
        own = getattr(self.config, "sliding_window", None)
        if own is None:
            yield
            return
        self.config.sliding_window = min(own, _CHECKED_WINDOW)
        try:
            yield
        finally:
            self.config.sliding_window = own

    @contextmanager
    def _in_float32(self) -> Iterator[None]:
        """Weights of 16 bits in float32 while the block runs, where memory is sure to hold them: rounding hides less.

        A looped model of transformers is off by 2 % of its states where a text is read in pieces, and bfloat16 by as much.
        """
        kept, dtype = [x for x in (*self.model.parameters(), *self.model.buffers()) if x.is_floating_point()], self.dtype
        if any(x.dtype.itemsize < 2 for x in kept) or sum(x.numel() for x in kept) > _COPIED_WEIGHTS:
            yield
            return
        own = [x.data for x in kept]
        try:
            for x in kept:
                x.data = x.data.float()
            self.dtype = torch.float32
            yield
        finally:
            self.dtype = dtype
            for x, data in zip(kept, own, strict=True):
                x.data = data

    @torch.no_grad()
    def _check_causal(self) -> None:
        """Raise InputError where hidden states depend on later tokens or other rows, as encoders' do."""
        if self.device.type == "meta":
            return
        texts, half = self.some_texts(), _CHECKED_TOKENS // 2
        wrong = typical_error(self.read(texts[:1, :half], []).hidden, self.read(texts, []).hidden[:1, :half])
        if wrong > tolerance(self.dtype):
            raise InputError(
                f"target {self.name}: what it makes of a token depends on tokens that come later (off by {wrong:.1g} of its "
                "size): it is no causal language model"
            )

    def _error_in_pieces(self, run: Callable[..., TargetPass]) -> float:
        """Typical distance of hidden states read in pieces from those of whole texts, as a share of their size.

        Two texts whose prompts differ in length, a draft for each that is rejected, then what really follows; after that
        one of them alone.
        """
        texts, cache, rows = self.some_texts(), self.new_cache(2, _CHECKED_TOKENS), slice(0, 2)
        whole = self.read(texts, []).hidden
        starts, count, at = (14, 19), _CHECKED_TOKENS - 19, torch.arange(2, device=self.device).unsqueeze(1)

        def read(ids: Tensor, begin: Sequence[int], cache: TargetCache, rows: slice) -> Tensor:
            with torch.inference_mode():
                return run(ids, Positions.of(begin, ids.shape[1], self.device), cache, rows, []).hidden

        read(texts[:, :19], (0, 0), cache, rows)
        read(texts.flip(1)[:, :count], starts, cache, rows)
        after = Positions.of(starts, count, self.device).tensor
        ragged = typical_error(read(texts[at, after], starts, cache, rows), whole[at, after])
        again = self.new_cache(1, _CHECKED_TOKENS)
        read(texts[1:, :19], (0,), again, slice(0, 1))
        read(texts[1:, :count], (19,), again, slice(0, 1))
        return max(ragged, typical_error(read(texts[1:, 19:], (19,), again, slice(0, 1)), whole[1:, 19:]))


def _rotary_settings(config: Any) -> list[Mapping[str, Any]]:
    """Rotary parameters of a configuration, of each kind of layers where they differ."""
    settings = getattr(config, "rope_parameters", None) or {}
    return [settings, *(own for own in settings.values() if isinstance(own, Mapping))]
