#!/bin/sh
# transformers 5.24.0: resize_token_embeddings treats the two ends of a language model in opposite ways.
#
# The embedding stays the same module with the same Parameter object, whose shape changes in place (through `.data`): an
# optimiser, or whatever else holds the parameter, sees other sizes. An untied head is replaced by a new, plain nn.Linear:
# its class, its hooks and attributes are lost, and whatever holds it goes on with the old weights. A tied head is kept, and
# its parameter, which is the embedding's, changes shape.
# Seen: untied: embedding kept, 5 to 7 rows; head replaced by Linear with 0 hooks. tied: head kept, 1 hook
set -eu
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"
"$home/venv/bin/pip" install --quiet torch==2.13.0
"$home/venv/bin/pip" install --quiet transformers==5.24.0
"$home/venv/bin/python" -W ignore - <<'PYTHON'
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM


class Head(nn.Linear):
    pass


def resized(tied):
    sizes = {"hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=5, tie_word_embeddings=tied, **sizes))
    model.lm_head.__class__ = Head
    model.lm_head.register_forward_hook(lambda module, args, out: None)
    embedding, head = model.model.embed_tokens, model.lm_head
    parameter, before = embedding.weight, tuple(embedding.weight.shape)
    model.resize_token_embeddings(7)
    assert model.model.embed_tokens is embedding and embedding.weight is parameter
    assert (before, tuple(parameter.shape)) == ((5, 4), (7, 4))
    now = model.lm_head
    return now is head, type(now).__name__, len(now._forward_hooks), now.weight is parameter


untied, tied = resized(tied=False), resized(tied=True)
print("untied: head kept:", untied[0], untied[1], "with", untied[2], "hooks;",
      "tied: head kept:", tied[0], tied[1], "with", tied[2], "hooks")
assert untied == (False, "Linear", 0, False)
assert tied == (True, "Head", 1, True)
PYTHON
