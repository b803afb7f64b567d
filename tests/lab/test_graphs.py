"""Steps that a CUDA graph replays: the same bits as the plain loop's, and nothing for a GPU to wait for."""

from __future__ import annotations

import pytest
import torch

from interrupted import STEPS, TRAINING, bits, few_images, make
from tapes import HostWorkError, Tapes
from weight_feedback.lab.settings import Pooled, Sketched, Subspace, Trial
from weight_feedback.lab.training import Lockstep
from weight_feedback.lab.trial import build_cohort


def lockstep(trial: Trial, recorder: Tapes | None = None) -> Lockstep:
    trials = trial.cohort()
    models, donors = build_cohort(trials, STEPS, torch.device("cpu"))
    return Lockstep(models, few_images(), trial.training, [one.seed for one in trials], donors, recorder)

def test_x():
    for c in (1, 2):
        t = make("noise", training={"cohort": c})
        plain, rec = lockstep(t), lockstep(t, tapes := Tapes())
        h = plain.train(); h2 = rec.train()
        assert h == h2
        assert bits(plain) == bits(rec)
        print(tapes.events)
