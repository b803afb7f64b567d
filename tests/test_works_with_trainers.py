"""Trainers of other libraries, each against plain training of the same network."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import weight_feedback as wf
from test_works_with import LR, X, Y, heard, train, weights_of

STEPS = 3


def check_trained(model: nn.Module) -> None:
    """It took ``STEPS`` steps on the whole batch, time moved on with each, and it hears its own weights."""
    wf.check(model)
    plain = heard(timed=True)
    train(plain, STEPS)
    assert int(model[0].signal.step) == STEPS
    torch.testing.assert_close(weights_of(model), weights_of(plain), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(model(X), plain(X), rtol=1e-10, atol=1e-10)


# The order of examples in a batch is the trainer's: it changes nothing but rounding.
def batches(repeats: int = 1) -> DataLoader:
    return DataLoader(TensorDataset(X.repeat(repeats, 1), Y.repeat(repeats, 1)), batch_size=len(X))


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning")
def test_lightning(tmp_path) -> None:
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = heard(timed=True)

        def training_step(self, batch: list[Tensor]) -> Tensor:
            return F.mse_loss(self.model(batch[0]), batch[1])

        def on_train_batch_end(self, *_: object) -> None:
            wf.advance(self)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=LR)

    module = Module()
    trainer = lightning.Trainer(
        accelerator="cpu", devices=1, max_steps=STEPS, default_root_dir=tmp_path, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, batches())
    trainer.save_checkpoint(tmp_path / "net.ckpt")
    check_trained(module.model)
    loaded = Module.load_from_checkpoint(tmp_path / "net.ckpt")
    check_trained(loaded.model)


def test_accelerate() -> None:
    accelerate = pytest.importorskip("accelerate")
    model = heard(timed=True)
    optimiser = torch.optim.SGD(model.parameters(), lr=LR)
    try:
        accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
        prepared, optimiser, loader = accelerator.prepare(model, optimiser, batches(2 * STEPS))
        for x, y in loader:
            with accelerator.accumulate(prepared):
                accelerator.backward(F.mse_loss(prepared(x), y))
                optimiser.step()
                optimiser.zero_grad()
            if accelerator.sync_gradients:
                wf.advance(prepared)
        check_trained(accelerator.unwrap_model(prepared))
    finally:
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
        accelerate.state.GradientState._reset_state()


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # of what skorch imports
def test_skorch() -> None:
    skorch = pytest.importorskip("skorch")

    class Advance(skorch.callbacks.Callback):
        def on_batch_end(self, net: skorch.NeuralNet, training: bool = False, **_: object) -> None:
            if training:
                wf.advance(net.module_)

    given = heard(timed=True)
    net = skorch.NeuralNetRegressor(
        given, max_epochs=STEPS, lr=LR, batch_size=-1, train_split=None, verbose=0, callbacks=[Advance]
    )
    net.fit(X.numpy(), Y.numpy())
    check_trained(net.module_)
    torch.testing.assert_close(torch.from_numpy(net.predict(X.numpy())), net.module_(X).detach())


def test_transformers(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")

    class Advance(transformers.TrainerCallback):
        def on_step_end(self, *_: object, model: nn.Module, **__: object) -> None:
            wf.advance(model)

    class Regression(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = heard(timed=True)

        def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
            output = self.model(x)
            return {"loss": F.mse_loss(output, labels), "logits": output}

    module = Regression()
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=STEPS, per_device_train_batch_size=len(X), max_grad_norm=0,
        lr_scheduler_type="constant", report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True,
        use_cpu=True,
    )  # fmt: skip
    trainer = transformers.Trainer(
        module,
        arguments,
        train_dataset=[{"x": x, "labels": y} for x, y in zip(X, Y, strict=True)],
        optimizers=(torch.optim.SGD(module.parameters(), lr=LR), None),
        callbacks=[Advance()],
    )
    trainer.train()
    check_trained(module.model)
