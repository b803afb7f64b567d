"""Architectures with feedback in every layer that can hear; those of transformers, tiny and with random weights."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import type_before_parametrizations

import weight_feedback as wf

Conditioning = Literal["concat", "film"]
KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclasses.dataclass(frozen=True, eq=False)
class Architecture:
    """A network, and what becomes of feedback in each of its layers.

    ``layers`` holds patterns of names, each with a word of `truth.Truth.of`; ``in_training`` more of them, which
    hold in training alone. A layer that no pattern matches is heard. With ``training`` or ``film`` it is tried with
    these too, where the same holds. ``used`` and ``folds`` say what others use of a layer, and whether the fold is
    equal, where that can't be found out. ``warned`` has what `attach` takes for used besides, by the code alone.
    ``lively`` says whether to draw all parameters.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Mapping[str, object]]
    layers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    in_training: Mapping[str, str] = dataclasses.field(default_factory=dict)
    training: bool = False
    film: bool = False
    used: Mapping[str, tuple[str, ...]] | None = None
    folds: bool | None = None
    warned: Mapping[str, set[str]] = dataclasses.field(default_factory=dict)
    lively: bool = True

    def base(self, training: bool = False) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = self.build().double().train(training)
            return enliven(model) if self.lively else model

    def attached(self, training: bool = False, conditioning: Conditioning = "concat") -> nn.Module:
        """Attach to all layers that can hear, with V = 0; they read the weights of two of them."""
        model = self.base(training)
        names = able(model)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "attach: .*the normalisation after", UserWarning)
            warnings.filterwarnings("ignore", "attach: there is code that uses a layer", UserWarning)
            reads = [model.get_submodule(name) for name in (names[0], names[-1])]
            wf.attach(model, names, reads=reads, summary=wf.CountSketch(3), conditioning=conditioning)
        return model

    def expected(self, name: str, training: bool) -> str:
        patterns = {**self.layers, **(self.in_training if training else {})}
        return next((word for pattern, word in reversed(patterns.items()) if fnmatchcase(name, pattern)), "heard")


def able(model: nn.Module) -> list[str]:
    """Name the layers that can be given feedback."""
    kinds = {name: type_before_parametrizations(module) for name, module in model.named_modules()}
    return [name for name, kind in kinds.items() if kind in KINDS or kind.__name__ == "Conv1D"]


@torch.no_grad()
def enliven(model: nn.Module) -> nn.Module:
    """Draw all parameters, so that none silences a whole block for being zero to begin with, as norms may be."""
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            parameter.normal_(std=1 / math.sqrt(parameter[0].numel()))
        else:
            parameter.normal_(mean=float(name.endswith(("weight", "gamma"))), std=0.2)
    return model


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


WORDS, WIDTH = 17, 16
IDS = torch.arange(12).mul(5).remainder(WORDS - 3).add(3).view(2, 6)
SIZES = {"hidden_size": WIDTH, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
TWO = {"num_hidden_layers": 2}
TEXT = {**SIZES, "vocab_size": WORDS, "max_position_embeddings": 16}
DECODER = {**TEXT, "num_key_value_heads": 1, "use_cache": False, "pad_token_id": 0}
GPT2 = {"vocab_size": WORDS, "n_positions": 8, "n_embd": WIDTH, "n_layer": 1, "n_head": 2, "use_cache": False}
SPOKEN = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
WHISPER = {
    "d_model": WIDTH, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_source_positions": 6,
    "max_target_positions": 8, "num_mel_bins": 4, "decoder_start_token_id": 1, "suppress_tokens": None,
    "begin_suppress_tokens": None, "vocab_size": WORDS, "use_cache": False, **SPOKEN,
}  # fmt: skip
T5 = {
    "vocab_size": WORDS, "d_model": WIDTH, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_decoder_layers": 1,
    "num_heads": 2, "decoder_start_token_id": 0, "use_cache": False,
}  # fmt: skip
DEBERTA = {
    **TEXT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 4,
    "share_att_key": False, "conv_kernel_size": 3, "norm_rel_ebd": "layer_norm",
}  # fmt: skip
SPEECH = {
    **SIZES, "vocab_size": WORDS, "conv_dim": (8, 8), "conv_stride": (3, 2), "conv_kernel": (5, 3),
    "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "mask_time_length": 2, "mask_time_prob": 0.3,
    "num_feat_extract_layers": 2,
}  # fmt: skip
VISION = {**SIZES, "image_size": 8, "patch_size": 4}
MAMBA = {"vocab_size": WORDS, "hidden_size": WIDTH, "state_size": 4, "num_hidden_layers": 1, "use_cache": False}
QWEN3_NEXT = {
    "linear_num_value_heads": 2, "linear_num_key_heads": 1, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "moe_intermediate_size": 8, "shared_expert_intermediate_size": 8, "num_experts_per_tok": 1, "num_experts": 2,
    "layer_types": ["linear_attention", "full_attention"], "experts_implementation": "eager",
}  # fmt: skip


def transformers():
    return pytest.importorskip("transformers")


def made(name: str, config: str, /, **options: Any) -> Callable[[], nn.Module]:
    """Say how a model of transformers is made from its configuration."""
    return lambda: getattr(transformers(), name)(getattr(transformers(), config)(**options))


def words() -> dict[str, Tensor]:
    return {"input_ids": IDS}


def words_twice() -> dict[str, Tensor]:
    return {"input_ids": IDS, "decoder_input_ids": IDS.flip(1)}


def sound() -> dict[str, Tensor]:
    return {"input_values": drawn(2, 60)}


def keys(pattern: str) -> dict[str, str]:
    """What a key projection adds, the same to the score of every position, softmax takes away."""
    return {pattern: "cancelled"}


CASES = [
    Architecture("bert", made("BertForMaskedLM", "BertConfig", **TEXT), words, keys("*.self.key")),
    # One projection for queries, keys and values: two of the three are heard.
    Architecture("gpt2", made("GPT2LMHeadModel", "GPT2Config", **GPT2, **SPOKEN), words, training=True, film=True),
    # Keys are rotated by their position after the projection, and so they are heard.
    Architecture("llama", made("LlamaForCausalLM", "LlamaConfig", **DECODER), words),
    Architecture(
        "whisper",
        made("WhisperForConditionalGeneration", "WhisperConfig", **WHISPER),
        lambda: {"input_features": drawn(2, 4, 12), "decoder_input_ids": IDS},
        keys("*.k_proj"),
        training=True,
    ),
    Architecture("t5", made("T5ForConditionalGeneration", "T5Config", **T5), words_twice, keys("*Attention.k")),
    # Keys meet positions as well as words; it is the keys of the positions whose part no position changes.
    Architecture(
        "deberta-v2", made("DebertaV2ForMaskedLM", "DebertaV2Config", **DEBERTA), words, keys("*.pos_key_proj")
    ),
    Architecture(
        "vit",
        made("ViTForImageClassification", "ViTConfig", **VISION, num_labels=5),
        lambda: {"pixel_values": drawn(2, 3, 8, 8)},
        keys("*.k_proj"),
    ),
    Architecture(
        "clip",
        made(
            "CLIPModel", "CLIPConfig", text_config={**TEXT, **SPOKEN}, vision_config=VISION, projection_dim=8
        ),
        lambda: {"input_ids": IDS, "pixel_values": drawn(2, 3, 8, 8)},
        keys("*.k_proj"),
    ),
    # The first convolution is followed by a normalisation of each channel over time.
    Architecture(
        "wav2vec2",
        made("Wav2Vec2ForCTC", "Wav2Vec2Config", **SPEECH),
        sound,
        {"*.k_proj": "cancelled", "*.conv_layers.0.conv": "cancelled"},
        training=True,
    ),
    # Its attention hands the weights of four layers to one function.
    Architecture(
        "wavlm",
        made("WavLMForCTC", "WavLMConfig", **SPEECH),
        sound,
        {"*.[qkv]_proj": "uncalled", "*.out_proj": "uncalled", "*.conv_layers.0.conv": "cancelled"},
        training=True,
    ),
    Architecture(
        "mamba",
        made("MambaForCausalLM", "MambaConfig", **MAMBA),
        words,
        {"*.conv1d": "uncalled", "*.dt_proj": "uncalled"},
        film=True,
        # Taken by a kernel, where it is installed, in training.
        warned={"*.x_proj": {"weight"}, "*.out_proj": {"weight", "bias"}},
    ),
    Architecture(
        "mamba2",
        made("Mamba2ForCausalLM", "Mamba2Config", **MAMBA, num_heads=2, head_dim=16, n_groups=1, chunk_size=4),
        words,
        {"*.conv1d": "uncalled"},
        warned={"*.mixer.out_proj": {"weight", "bias"}},
    ),
    # The experts are no layers, but tensors with an axis of experts.
    Architecture(
        "mixtral",
        made(
            "MixtralForCausalLM", "MixtralConfig", **DECODER, num_local_experts=4, num_experts_per_tok=1,
            experts_implementation="eager",
        ),
        words,
    ),
    Architecture(
        "gemma4",
        made(
            "Gemma4ForCausalLM", "Gemma4TextConfig", **DECODER | TWO, head_dim=8, global_head_dim=8,
            vocab_size_per_layer_input=WORDS, hidden_size_per_layer_input=4, num_kv_shared_layers=1,
            layer_types=["full_attention"] * 2,
        ),
        words,
    ),
    Architecture("qwen3", made("Qwen3ForCausalLM", "Qwen3Config", **DECODER, head_dim=8), words),
    # A convolution's weight goes to a function, and with it the bias, which there is only in the fold.
    Architecture(
        "qwen3-next",
        made("Qwen3NextForCausalLM", "Qwen3NextConfig", **DECODER | TWO, head_dim=8, **QWEN3_NEXT),
        words,
        {"*.conv1d": "uncalled"},
        folds=False,
        warned={"*.conv1d": {"weight", "bias"}},
    ),
    Architecture(
        "modernbert",
        made(
            "ModernBertForMaskedLM", "ModernBertConfig", **TEXT | TWO, **SPOKEN, cls_token_id=1, sep_token_id=2,
            global_attn_every_n_layers=2, local_attention=4,
        ),
        words,
    ),
]  # fmt: skip
