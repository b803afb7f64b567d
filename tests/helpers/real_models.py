"""Networks that people use, at tiny sizes with random weights: Hugging Face's and PyTorch's own."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Mapping
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import weight_feedback as wf

K = 4


@dataclasses.dataclass(frozen=True)
class Case:
    """A network, the layers that hear, what they read, and what training makes smaller.

    ``read`` names parameters; ``tied`` pairs names of one and the same parameter. With ``fused`` the network has a
    fused path in evaluation, which feedback shuts: what was bit-equal is equal to rounding there.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Mapping[str, Tensor]
    output: Callable[[object], Tensor]
    loss: Callable[[Tensor], Tensor]
    into: tuple[str, ...]
    layers: int
    read: tuple[str, ...]
    tied: tuple[tuple[str, str], ...] = ()
    fused: bool = False
    conditioning: Literal["concat", "film"] = "concat"

    def base(self, dtype: torch.dtype = torch.float32) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return self.build().to(dtype)

    def heard(self, dtype: torch.dtype = torch.float32, *, init: str = "default") -> nn.Module:
        model = self.base(dtype)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            wf.attach(
                model, self.into, reads=list(self.read), summary=wf.CountSketch(K), init=init,
                conditioning=self.conditioning,
            )  # fmt: skip
        assert len(wf.feedback_layers(model)) == self.layers
        return model

    def run(self, model: nn.Module) -> Tensor:
        dtype = next(model.parameters()).dtype
        inputs = {name: x.to(dtype) if x.is_floating_point() else x for name, x in self.inputs.items()}
        return self.output(model(**inputs))

    evaluate = torch.no_grad()(run)


WORDS, WIDTH = 17, 16
IDS = torch.arange(16).mul(5).remainder(WORDS - 3).add(3).view(2, 8)
SOUND = torch.linspace(-9, 9, 96).sin().view(2, 4, 12)
X = torch.linspace(-9, 9, 2 * 6 * WIDTH).cos().view(2, 6, WIDTH)
Y = torch.linspace(-5, 5, 2 * 8 * WIDTH).sin().view(2, 8, WIDTH)


def against_ids(logits: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), IDS.flatten())


def against_y(output: Tensor) -> Tensor:
    return F.mse_loss(output, Y.to(output))


def bert(kind: str) -> nn.Module:
    config = transformers().BertConfig(
        vocab_size=WORDS, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=8, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return getattr(transformers(), kind)(config)


def gpt2() -> nn.Module:
    config = transformers().GPT2Config(
        vocab_size=WORDS, n_positions=8, n_embd=WIDTH, n_layer=2, n_head=2, resid_pdrop=0.0, embd_pdrop=0.0,
        attn_pdrop=0.0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return transformers().GPT2LMHeadModel(config)


def llama() -> nn.Module:
    config = transformers().LlamaConfig(
        vocab_size=WORDS, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=24, max_position_embeddings=8,
    )  # fmt: skip
    return transformers().LlamaForCausalLM(config)


def whisper() -> nn.Module:
    config = transformers().WhisperConfig(
        vocab_size=WORDS, num_mel_bins=4, d_model=WIDTH, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24,
        max_source_positions=6, max_target_positions=8, dropout=0.0, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, decoder_start_token_id=1, suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    return transformers().WhisperForConditionalGeneration(config)


def transformer() -> nn.Module:
    return nn.Transformer(WIDTH, 2, 2, 2, 24, dropout=0.0, batch_first=True)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(WIDTH, 8, batch_first=True)
        self.head = nn.Linear(8, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0])


def transformers():
    return pytest.importorskip("transformers")


logits = operator.attrgetter("logits")

CASES = [
    Case(
        "bert", lambda: bert("BertModel"), {"input_ids": IDS}, lambda out: out[0] + out[1][:, None], against_y,
        ("encoder.layer.*.intermediate.dense", "pooler.dense"), 3,
        ("encoder.layer.0.intermediate.dense.weight", "pooler.dense.weight"),
    ),
    Case(
        "bert-with-head", lambda: bert("BertForMaskedLM"), {"input_ids": IDS}, logits, against_ids,
        ("bert.encoder.layer.*.attention.self.query", "cls.predictions.transform.dense", "cls.predictions.decoder"),
        4,
        ("bert.embeddings.word_embeddings.weight", "cls.predictions.transform.dense.weight"),
        tied=(
            ("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"),
            ("cls.predictions.bias", "cls.predictions.decoder.bias"),
        ),
    ),
    Case(
        "gpt2", gpt2, {"input_ids": IDS}, logits, against_ids,
        ("transformer.h.*.attn.c_attn", "transformer.h.*.mlp.c_fc", "lm_head"), 5,
        ("transformer.wte.weight", "transformer.h.0.attn.c_attn.weight", "transformer.h.1.mlp.c_fc.weight"),
        tied=(("transformer.wte.weight", "lm_head.weight"),),
    ),
    Case(
        "llama", llama, {"input_ids": IDS}, logits, against_ids,
        ("model.layers.*.self_attn.q_proj", "model.layers.*.mlp.gate_proj", "lm_head"), 5,
        ("model.layers.0.mlp.gate_proj.weight", "model.norm.weight", "lm_head.weight"),
    ),
    Case(
        "whisper", whisper, {"input_features": SOUND, "decoder_input_ids": IDS}, logits, against_ids,
        ("model.encoder.conv1", "model.encoder.layers.*.fc1", "model.decoder.layers.*.encoder_attn.v_proj",
         "proj_out"), 4,
        ("model.encoder.conv1.weight", "model.decoder.embed_tokens.weight"),
        tied=(("model.decoder.embed_tokens.weight", "proj_out.weight"),),
    ),
    Case(
        "nn.Transformer", transformer, {"src": X, "tgt": Y}, lambda output: output, against_y,
        ("encoder.layers.*.linear1", "decoder.layers.*.linear2"), 4,
        ("encoder.layers.0.self_attn.in_proj_weight", "encoder.layers.1.linear1.weight"),
        fused=True,
    ),
    Case(
        "lstm", Recurrent, {"x": Y}, lambda output: output, lambda output: against_y(output.cumsum(1)),
        ("head",), 1, ("lstm.weight_hh_l0", "head.weight"),
    ),
]  # fmt: skip
