#!/bin/sh
# What three quantisers do to a subclass of nn.Linear that computes twice the linear map (all with PyTorch 2.13.0):
# - optimum-quanto 0.2.7 replaces every instance of nn.Linear, subclasses too, by its own layer: the class, its forward and
#   its own parameter are gone without a word, and the output is half of what it was;
# - torchao 0.18.0 keeps module and class, and replaces the weight. The new weight still says that it is float32, floating
#   and not quantised, in a layer whose type is nn.Linear itself, so that only the tensor's class tells;
# - torch.ao.quantization.quantize_dynamic goes by the exact type: it passes the subclass over.
# Seen: quanto: QLinear 0.5; torchao: Doubled 1.0 torch.float32 True False; torch.ao: Doubled 1.0
set -eu
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"
"$home/venv/bin/pip" install --quiet torch==2.13.0
"$home/venv/bin/pip" install --quiet transformers==5.24.0 optimum-quanto==0.2.7 torchao==0.18.0
"$home/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from torch import nn
import optimum.quanto as quanto
from torchao.quantization import Int8WeightOnlyConfig, quantize_


class Doubled(nn.Linear):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.own = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        return self.own * super().forward(x)


def model():
    torch.manual_seed(0)
    return nn.Sequential(Doubled(64, 64), nn.Linear(64, 64))


def ratio(quantised, x=torch.eye(64)):
    return round(float(quantised[0](x).norm() / model()[0](x).norm()), 2)


one, two = model(), model()
quanto.quantize(one, weights=quanto.qint8)
quanto.freeze(one)
quantize_(two, Int8WeightOnlyConfig())
three = torch.ao.quantization.quantize_dynamic(model(), {nn.Linear}, dtype=torch.qint8)

kinds = [type(net[0]).__name__ for net in (one, two, three)]
ratios = [ratio(net) for net in (one, two, three)]
weight = two[1].weight
says = [weight.dtype, weight.is_floating_point(), weight.is_quantized]
print("quanto:", kinds[0], ratios[0], "torchao:", kinds[1], ratios[1], *says, "torch.ao:", kinds[2], ratios[2])
assert kinds == ["QLinear", "Doubled", "Doubled"] and ratios == [0.5, 1, 1]
assert not any("own" in name for name, _ in one.named_parameters())
assert says == [torch.float32, True, False] and type(two[1]) is nn.Linear
assert type(weight) is not nn.Parameter and type(three[1]) is not nn.Linear
PYTHON
