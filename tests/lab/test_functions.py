"""A function is a task: its keyword arguments are its settings, its code is known, and it goes all the way."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import importlib
import json
import linecache
import math
import random
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from helpers.child_processes import may_fork
from helpers.own_training import study as own_study
from weight_feedback import lab
from weight_feedback.lab.commands import cli
from weight_feedback.lab.report.export import rows
from weight_feedback.lab.study.scripts import load_script
from weight_feedback.lab.study.study import Study
from weight_feedback.lab.study.toml import StudyError
from weight_feedback.lab.tasks.functions import FunctionTask, code_digest, fields_of
from weight_feedback.lab.tasks.loading import find_task
from weight_feedback.lab.training.run import Options, run_trial

FACTOR = 2.0


class Size(enum.Enum):
    SMALL = 1
    LARGE = 2


@dataclasses.dataclass(frozen=True)
class Layers:
    width: int = 4
    depth: int = 2


def guess(trial: lab.Context, *, shift: float = 0.0, size: Size = Size.SMALL, layers: Layers = Layers()) -> Any:
    return {"error": FACTOR + shift + layers.depth + 0.1 * float(trial.rng("noise", str(shift)).normal())}


def study(task: Any = guess, **changes: Any) -> Study:
    fields = {
        "name": "guesses",
        "title": "Guesses",
        "task": task,
        "seeds": 8,
        "arms": {"plain": {}, "shifted": {"shift": 1.0}},
        "metrics": {"error": lab.Metric("", "lower")},
        "declared": lab.Declared(primary=(("shifted", "plain"),), margin=0.1) if "arms" not in changes else None,
    }
    return Study(**{**fields, **changes})


def run_here(asked: Study, store: lab.Store) -> None:
    """Run trials in this very process, so that tests see what they do."""
    for _, trial in asked.trials():
        store.write(trial, run_trial(trial, Options(metrics=asked.reported)))


def test_a_function_is_run_and_judged(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    asked = study(layers={"depth": 3})
    assert lab.run(asked, jobs=1) == 16
    analysis = lab.report(asked)
    (contrast,) = analysis.contrasts
    assert contrast.kind == "worse"
    assert "shifted − plain: worse on this task, over its seeds: difference +1.0" in capsys.readouterr().out
    assert (tmp_path / "results" / "guesses" / "report.html").exists()
    record = lab.Store.of(asked).read(asked.trial(asked.arms[1], 0))
    settings = {"shift": 1.0, "size": 1, "layers": {"width": 4, "depth": 3}}
    path = f"{guess.__module__}:guess"
    assert record.result["trial"] == {"task": path, "settings": settings, "seed": 0}
    assert record.result["data"] == {"code": code_digest(guess)}
    assert record.result["metrics"]["error"][0] == pytest.approx(2 + 1 + 3, abs=0.5)


def test_a_report_returns_what_a_peek_shows(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked = study()
    assert lab.run(asked, jobs=1, seeds=4) == 8
    assert lab.report(asked).contrasts == []
    (contrast,) = lab.report(asked, peek=True).contrasts
    assert len(contrast.differences) == 4
    assert not contrast.verdict


def test_settings_are_checked_where_they_are_given() -> None:
    for changes, message in (
        ({"arms": {"a": {"shft": 1.0}, "b": {}}}, "arms.0.shft"),
        ({"arms": {"a": {"shift": "1"}, "b": {}}}, "arms.0.shift"),
        ({"layers": {"width": 1.5}}, "layers.*width"),
        ({"size": 3}, "size"),
    ):
        with pytest.raises(ValueError, match=message):
            study(**changes)


def test_what_is_random_without_a_stream_is_the_seeds(tmp_path) -> None:
    def drawn(trial: lab.Context, *, shift: float = 0.0) -> dict[str, float]:
        numbers = float(torch.nn.Linear(2, 1).weight.detach().sum()), random.random(), np.random.random()  # noqa: NPY002
        return {"error": shift + sum(numbers)}

    asked = study(
        drawn, seeds=2, arms={"plain": {}, "shifted": {"shift": 1.0}}, metrics={"error": lab.Metric("", "lower")}
    )
    found = []
    for name in ("a", "b"):
        lab.run(asked, lab.Store(tmp_path / name), jobs=1)
        torch.rand(3), random.random()
        found.append([result.curves["error"] for result in lab.analyse(asked, lab.Store(tmp_path / name)).arms])
    np.testing.assert_array_equal(found[0], found[1])
    plain, shifted = found[0]
    np.testing.assert_allclose(shifted - plain, 1.0)
    assert plain[0] != plain[1]


def test_a_function_within_a_function_goes_to_other_processes(tmp_path) -> None:
    offset = 3.0

    def local(trial: lab.Context, *, shift: float = 0.0) -> dict[str, float]:
        return {"error": offset + shift + 0.1 * float(trial.rng(str(shift)).normal())}

    asked = study(local, seeds=2, declared=None)
    assert lab.run(asked, lab.Store(tmp_path / "two"), jobs=2) == 4
    assert lab.run(asked, lab.Store(tmp_path / "one"), jobs=1) == 4
    for _, trial in asked.trials():
        two, one = (lab.Store(tmp_path / name).read(trial) for name in ("two", "one"))
        assert two.result == one.result


def arguments(*values: float, lr: float) -> None: ...
def keywords(trial: object, **settings: float) -> None: ...
def positional(trial: object, lr: float = 0.1) -> None: ...
def several(trial: object, *more: float, lr: float = 0.1) -> None: ...
def bare(trial: object, *, lr=0.1) -> None: ...
def unknown(trial: object, *, lr: Unheard = 0.1) -> None: ...  # noqa: F821
def nothing() -> None: ...
def alone(*, lr: float = 0.1) -> None: ...


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (arguments, "expected the trial as its first argument"),
        (keywords, "expected settings by keyword alone, .* got 'settings'"),
        (positional, "expected settings by keyword alone, .* got 'lr'"),
        (several, "expected settings by keyword alone, .* got 'more'"),
        (bare, "expected an annotation of the setting 'lr'"),
        (unknown, "an annotation can't be read: name 'Unheard'"),
        (nothing, "expected the trial as its first argument"),
        (alone, "expected the trial as its first argument"),
    ],
)
def test_other_arguments_are_refused_with_the_reason(function, message) -> None:
    with pytest.raises(ValueError, match=rf"{function.__name__}: .*{message}|{message}"):
        fields_of(function)
    with pytest.raises(ValueError, match=message):
        study(function)


def test_a_setting_that_no_file_can_hold_is_refused() -> None:
    def unreadable(trial: object, *, lr: float = 0.1, model: torch.nn.Module) -> None: ...

    with pytest.raises(ValueError, match=r"unreadable: its settings can't be read: .*Module"):
        study(unreadable)


@pytest.mark.parametrize("value", [lambda _: None, 3.5, print, type], ids=["lambda", "number", "built-in", "class"])
def test_what_is_no_function_with_a_name_is_refused(value) -> None:
    with pytest.raises(
        ValueError, match=r"expected the name of a task, or a function with a name|string_type|text"
    ):
        study(value)


def test_settings_are_of_many_kinds() -> None:
    def train(
        trial: object,
        *,
        name: Literal["a", "b"] = "a",
        many: list[int] = [1, 2],  # noqa: B006
        size: Size = Size.LARGE,
        layers: Layers = Layers(3),
        flag: bool | None = None,
        model_size: int = 3,
    ) -> None: ...

    task = FunctionTask(train)
    assert task.read_settings({}).model_dump(mode="json") == {
        "name": "a", "many": [1, 2], "size": 2, "layers": {"width": 3, "depth": 2}, "flag": None, "model_size": 3,
    }  # fmt: skip
    assert task.read_settings({"layers": {"depth": 9}}).layers == Layers(4, 9)
    assert task.read_settings(task.read_settings({}).model_dump(mode="json")) == task.read_settings({})
    asked = study(guess, arms={"plain": {}, "large": {"size": Size.LARGE}, "deep": {"layers": Layers(depth=9)}})
    assert [arm.settings for arm in asked.arms] == [{}, {"size": 2}, {"layers": {"width": 4, "depth": 9}}]


CODE = """
    import math
    import torch

    SCALE = 2.0
    TABLE = torch.zeros(2)

    def helper(x):
        return deeper(x) * SCALE

    def deeper(x):
        return x + 1

    class Net:
        def forward(self, x):
            return helper(x)

    def train(trial, *, lr: float = 0.1):
        return {"error": Net().forward(lr) + math.pi}

    def with_tensor(trial, *, lr: float = 0.1):
        return {"error": float(TABLE.sum())}

    def unused():
        return 1
"""


@pytest.mark.parametrize(
    ("old", "new", "train", "tensor"),
    [
        ("return x + 1", "return x + 2", True, True),
        ("SCALE = 2.0", "SCALE = 3.0", True, True),
        ("return helper(x)", "return helper(x) + 0", True, True),
        ("torch.zeros(2)", "torch.ones(2)", False, True),
        ("return 1", "return 2", False, True),
        ("math.pi", "math.e", True, True),
    ],
)  # fmt: skip
def test_code_is_known_by_what_a_function_uses(tmp_path, monkeypatch, old, new, train, tensor) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    digests = []
    for number, text in enumerate((CODE, CODE.replace(old, new))):
        assert (text != CODE) == bool(number)
        (tmp_path / "used_code.py").write_text(textwrap.dedent(text))
        sys.modules.pop("used_code", None)
        linecache.checkcache()
        module = __import__("used_code")
        digests.append((code_digest(module.train), code_digest(module.with_tensor)))
    sys.modules.pop("used_code")
    (before, before_tensor), (after, after_tensor) = digests
    assert (before != after, before_tensor != after_tensor) == (train, tensor)


def test_a_function_that_is_typed_in_is_refused_with_the_reason() -> None:
    typed = (
        "from weight_feedback.lab.tasks.loading import name_function\ndef train(trial): ...\nname_function(train)\n"
    )
    done = subprocess.run([sys.executable, "-"], input=typed, capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == (
        "ValueError: task: train: its source can't be read, so that nothing would tell results of another version "
        "apart; write it into a file"
    )


def test_what_cannot_be_digested_is_refused() -> None:
    names: dict[str, Any] = {"__name__": "nowhere", "thing": object()}
    exec("def train(trial, *, lr: float = 0.1): return thing", names)
    with pytest.raises(ValueError, match="its source can't be read"):
        code_digest(names["train"])
    weights = torch.zeros(2)

    def local(trial: object) -> object:
        return weights

    assert code_digest(local) != code_digest(guess)  # it stands for this file
    local.__module__ = "nowhere"
    with pytest.raises(ValueError, match=r"local\.weights: is a Tensor, which can't be digested"):
        code_digest(local)


def test_results_of_other_code_are_not_added_to(tmp_path) -> None:
    store = lab.Store(tmp_path)
    lab.run(study(), store, jobs=1, arms=["plain"])
    task = find_task(study().task)
    assert isinstance(task, FunctionTask)
    before, task._code = task._code, "0" * 64
    try:
        with pytest.raises(ValueError, match="expected the code that its results come from"):
            lab.run(study(), store, jobs=1)
    finally:
        task._code = before


SCRIPT = """
    from weight_feedback import lab

    def train(trial: lab.Context, *, shift: float = 0.0) -> dict[str, float]:
        for epoch in trial.epochs(2):
            trial.report(error=1 / epoch + shift + 0.1 * float(trial.rng("noise", str(shift)).normal()))

    study = lab.Study(
        name="mine",
        title="Mine",
        task=train,
        seeds=6,
        arms={"plain": {}, "shifted": {"shift": 1.0}},
        metrics={"error": lab.Metric("", better="lower")},
        declared=lab.Declared(primary=[("shifted", "plain")], margin=0.1),
    )
    again = study

    if __name__ == "__main__":
        lab.run(study)
        lab.report(study)
"""


@pytest.fixture
def script(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    path = tmp_path / "mine_own.py"
    path.write_text(textwrap.dedent(SCRIPT))
    yield path
    sys.modules.pop("mine_own", None)


def test_a_file_of_python_is_run_by_the_command(script, capsys) -> None:
    cli.main(["plan", "mine_own.py"])
    cli.main(["run", "mine_own.py:study", "--jobs", "2"])
    cli.main(["report", "mine_own.py"])
    cli.main(["export", "mine_own.py"])
    out = capsys.readouterr().out
    assert "12 trials, about 0." in out
    assert "shifted − plain: worse on this task, over its seeds: difference +1." in out
    assert "results/mine/trials.csv: 24 rows" in out
    assert json.loads((script.parent / "results/mine/study.json").read_text())["task"] == "mine_own:train"
    assert "`weight-feedback run mine_own.py`" in (script.parent / "results/mine/report.md").read_text()


def test_a_script_runs_by_itself(script, capsys) -> None:
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True, cwd=script.parent)
    assert "shifted − plain: worse" in done.stdout
    assert len(list((script.parent / "results/mine/trials").iterdir())) == 12
    cli.main(["run", "mine_own.py"])  # the same study, of the same code
    assert "12 trials, 12 finished, 0 to run" in capsys.readouterr().out


def test_files_that_hold_no_study_are_refused(script, tmp_path) -> None:
    for given, message in (
        ("nothing.py", "expected a file of Python, found none"),
        ("mine_own.py:other", "expected one of its studies, study, again, got other"),
        ("not-a-name.py", "expected a file whose name can be imported"),
        ("two_of_them.py", "expected one lab.Study in it, found a, b; choose by two_of_them.py:NAME"),
        ("none_of_them.py", "expected a lab.Study in it, found none"),
        (
            "boom.py",
            r"it can't be imported; it raised:\n  File .*boom.py., line 2, in <module>\n[\s\S]*ZeroDivisionError: ",
        ),
        ("wrong.py", "wrong.py: sedes"),
        ("json.py", "another module is called json"),
    ):
        text = textwrap.dedent(SCRIPT).replace("again = study", "")
        contents = {
            "two_of_them.py": f"{text}\na, b = study, study.model_copy(update={{'seeds': 3}})\ndel study\n",
            "none_of_them.py": "",
            "not-a-name.py": "",
            "boom.py": "x = 1\ny = x / 0\n",
            "wrong.py": text.replace("seeds=6", "seeds=6, sedes=7"),
            "json.py": text,
        }
        if given in contents:
            (tmp_path / given).write_text(contents[given])
        with pytest.raises(StudyError, match=message):
            load_script(given)
    for name in ("two_of_them", "none_of_them"):
        sys.modules.pop(name, None)


CANARY = """
    from pathlib import Path

    Path("canary").touch()

    def train(trial, *, shift: float = 0.0) -> dict[str, float]:
        return {"error": shift + float(trial.rng(str(shift)).normal())}
"""
NAMES_CODE = """
    name = "theirs"
    title = "Theirs"
    task = "their_code:train"
    seeds = 2
    [arms.plain]
    [arms.shifted]
    shift = 1.0
    [metrics.error]
    unit = ""
    better = "lower"
"""


@pytest.fixture
def theirs(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "their_code.py").write_text(textwrap.dedent(CANARY))
    (tmp_path / "theirs.toml").write_text(textwrap.dedent(NAMES_CODE))
    yield tmp_path / "canary"
    sys.modules.pop("their_code", None)


@pytest.mark.parametrize("command", ["plan", "run", "report", "plot", "export", "preflight"])
def test_code_that_a_file_names_is_not_imported_unless_it_is_trusted(theirs, capsys, command) -> None:
    with pytest.raises(SystemExit):
        cli.main([command, "theirs.toml"])
    said = capsys.readouterr().err
    assert "theirs.toml: task: expected one of notebook, intrinsic-dimension, got 'their_code:train'" in said
    assert "which names code: that is imported and run with --trust" in said
    assert not theirs.exists()


def test_code_that_is_trusted_is_run_and_read_without_it(theirs, capsys, monkeypatch) -> None:
    cli.main(["run", "theirs.toml", "--trust", "--jobs", "1"])
    assert theirs.exists()
    cli.main(["plan", "theirs.toml", "--trust"])
    cli.main(["preflight", "theirs.toml", "--trust"])
    assert "`weight-feedback run theirs.toml --trust`" in Path("results/theirs/report.md").read_text()
    theirs.unlink()
    sys.modules.pop("their_code")
    for command in ("report", "plot", "export"):
        cli.main([command, "theirs.toml"])
    cli.main(["merge", "elsewhere", "results/theirs"])
    assert not theirs.exists()
    assert "their_code" not in sys.modules
    with pytest.raises(StudyError, match=r"theirs\.toml: task: expected one of"):
        lab.load_study("theirs.toml")
    assert lab.load_study("theirs.toml", trust=True).task == "their_code:train"


def test_a_new_study_runs_as_it_is(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    cli.main(["new", "my_first.py"])
    assert "`weight-feedback run my_first.py` runs it as it is" in capsys.readouterr().out
    cli.main(["run", "my_first.py", "--jobs", "1"])
    out = capsys.readouterr().out
    assert "24 trials, 0 finished, 24 to run" in out
    assert "decay − plain: " in out
    assert Path("results/my-first/report.html").exists()
    assert "weight-feedback run my_first.py" in Path("my_first.py").read_text()
    for given, message in (
        ("my_first.py", "my_first.py is there already; choose another name"),
        ("mine.toml", "expected a file of Python whose name can be imported, such as mine.py, got 'mine.toml'"),
        ("my-own.py", "got 'my-own.py'"),
        ("nowhere/mine.py", "nowhere/mine.py can't be written: No such file or directory"),
    ):
        with pytest.raises(SystemExit):
            cli.main(["new", given])
        assert message in capsys.readouterr().err
    sys.modules.pop("my_first")


EDITS = """
    import dataclasses, functools
    from collections import namedtuple
    from torch import nn

    WIDTH = 3
    LOSS = nn.HuberLoss(delta=1.0)
    Point = namedtuple("Point", "a b")

    def helper(x, w=WIDTH):
        return x + w

    double = functools.partial(helper, 2)

    class Base:
        bias = 1.0

    @dataclasses.dataclass
    class Batch(Base):
        n: int = 2
        w: int = WIDTH

        @functools.cached_property
        def size(self):
            return helper(self.n)

    def train(trial, *, lr: float = 0.1):
        return {"error": LOSS.delta + double() + Batch(3).size + Point(1, 2).a}
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("delta=1.0", "delta=50.0"),
        ("WIDTH = 3", "WIDTH = 4"),
        ("bias = 1.0", "bias = 2.0"),
        ("partial(helper, 2)", "partial(helper, 3)"),
        ("return x + w", "return x - w"),
        ("n: int = 2", "n: int = 5"),
        ("helper(self.n)", "helper(self.n + 1)"),
        ('"a b"', '"a b c"'),
    ],
)
def test_every_edit_of_what_is_used_is_seen(tmp_path, monkeypatch, old, new) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    digests = []
    for text in (EDITS, EDITS.replace(old, new)):
        (tmp_path / "edited_code.py").write_text(textwrap.dedent(text))
        sys.modules.pop("edited_code", None)
        linecache.checkcache()
        digests.append(code_digest(importlib.import_module("edited_code").train))
    sys.modules.pop("edited_code")
    assert digests[0] != digests[1]


DATACLASS = """
    import dataclasses
    import torch
    from weight_feedback import lab

    @dataclasses.dataclass
    class Options:
        lr: float = 0.1
        steps: list[int] = dataclasses.field(default_factory=lambda: [1])

    def train(trial: lab.Context, *, options: Options = Options()):
        data = torch.utils.data.TensorDataset(torch.arange(4.0))
        total = sum(float(x.sum()) for (x,) in torch.utils.data.DataLoader(data, num_workers=1))
        return {"error": total + options.lr + options.steps[0]}

    study = lab.Study(
        name="mine", title="Mine", task=train, seeds=1, metrics={"error": lab.Metric("", "lower")},
        arms={"plain": {}, "fast": {"options": {"lr": 0.5, "steps": [2]}}},
    )
    if __name__ == "__main__":
        lab.run(study, jobs=2)
        print([float(arm.curves["error"][0, 0]) for arm in lab.analyse(study, lab.Store.of(study)).arms])
"""


def test_a_script_with_a_dataclass_and_a_loader_of_data_runs_in_other_processes(tmp_path) -> None:
    (tmp_path / "mine.py").write_text(textwrap.dedent(DATACLASS))
    done = subprocess.run([sys.executable, "mine.py"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout.endswith("[7.1, 8.5]\n"), done.stdout + done.stderr


def test_settings_without_an_order_or_a_plain_name_are_refused() -> None:
    def unordered(trial: object, *, tags: dict[str, set[str]] | None = None) -> None: ...
    def hidden(trial: object, *, _lr: float = 0.1) -> None: ...

    with pytest.raises(ValueError, match="expected a list or tuple, whose order is known, got 'tags', a set"):
        fields_of(unordered)
    with pytest.raises(ValueError, match="expected a setting whose name begins with a letter, got '_lr'"):
        fields_of(hidden)


def test_a_setting_called_seed_is_one_as_any_other(tmp_path) -> None:
    def train(trial: lab.Context, *, seed: int = 0, copy: bool = False) -> dict[str, float]:
        return {"error": float(seed + trial.seed)}

    asked = study(train, seeds=2, arms={"a": {}, "b": {"seed": 5}})
    lab.run(asked, lab.Store(tmp_path), jobs=1)
    assert asked.arm_values() == {"a": {"seed": 0}, "b": {"seed": 5}}
    table = rows(asked, lab.Store(tmp_path))
    assert table.groupby("arm")["setting_seed"].unique().map(list).to_dict() == {"a": [0], "b": [5]}


def test_what_is_kept_of_examples_and_tensors_lies_with_the_trial(tmp_path) -> None:
    folders: list[Path] = []

    def train(trial: lab.Context, *, shift: float = 0.0) -> dict[str, float]:
        (trial.folder / "own.txt").write_text("scratch")
        folders.append(trial.folder)
        right = torch.tensor([True, False, True])
        trial.keep("weights", torch.ones(2, dtype=torch.bfloat16))
        trial.keep("word", "text")
        trial.examples(np.zeros(2))  # the last call counts
        trial.examples(right)
        return {"error": shift + float(trial.rng(str(shift)).normal())}

    store, asked = lab.Store(tmp_path / "kept"), study(train, seeds=1, declared=None)
    run_here(asked, store)
    for _, trial in asked.trials():
        measured = asked.kind.measured(store.read(trial).result)
        assert measured.examples == [1, 0, 1]
        assert store.read(trial).result["kept"] == {"weights": [1.0, 1.0], "word": "text"}
    assert len({*folders}) == 2
    assert not any(folder.exists() for folder in folders)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "got float64 of shape .0."),
        ([[1.0]], r"shape \[1, 1\]"),
        ([1.0, math.nan], "expected finite numbers"),
        (["a"], "expected one number an example"),
        (torch.zeros(1_000_001), "1 to 1,000,000 of them"),
    ],
)
def test_examples_are_one_finite_number_each(tmp_path, values, message) -> None:
    def train(trial: lab.Context, *, shift: float = 0.0) -> dict[str, float]:
        with pytest.raises(ValueError, match=message):
            trial.examples(values)
        with pytest.raises(ValueError, match="at most 1,000,000 numbers, got 1,000,001"):
            trial.keep("large", torch.zeros(1_000_001))
        return {"error": shift}

    store, asked = lab.Store(tmp_path / "kept"), study(train, seeds=1, declared=None)
    run_here(asked, store)
    assert all(store.finished(trial) for _, trial in asked.trials())


@pytest.mark.parametrize("workers", [0, 2])
@may_fork
def test_training_that_is_interrupted_goes_on_to_the_same_bits(tmp_path, workers) -> None:
    trial = own_study(workers=workers).trial(own_study().arms[1], 0)
    options = Options(metrics=own_study().reported, threads=1)
    whole = run_trial(trial, options)

    def stop(epoch: int, _: object) -> None:
        raise KeyboardInterrupt(epoch)

    resumable = dataclasses.replace(options, checkpoint=tmp_path / "c", checkpoint_seconds=0)
    with pytest.raises(KeyboardInterrupt):
        run_trial(trial, dataclasses.replace(resumable, on_epoch=stop))
    resumed = run_trial(trial, resumable)
    assert resumed.provenance["resumed"] == 1
    assert resumed.result == whole.result
    assert len(whole.result["kept"]["weights"]) == 65


def made(offset: float) -> Any:
    def train(trial: lab.Context, *, shift: float = 0.0) -> dict[str, float]:
        return {"error": offset + shift}

    return train


@pytest.mark.parametrize("jobs", [1, 2])
def test_functions_of_one_name_are_not_mistaken_for_each_other(tmp_path, jobs) -> None:
    first, second = (study(made(offset), seeds=1, declared=None) for offset in (1.0, 100.0))
    assert first.task == second.task
    for asked, offset in ((first, 1.0), (second, 100.0), (first, 1.0)):
        store = lab.Store(tmp_path / f"{offset}")
        lab.run(asked, store, jobs=jobs)
        values = [store.read(trial).result["metrics"]["error"][0] for _, trial in asked.trials()]
        assert values == [offset, offset + 1]


def test_a_file_that_was_edited_after_its_import_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    text = textwrap.dedent(CODE)
    (tmp_path / "edited_code.py").write_text(text)
    module = importlib.import_module("edited_code")
    try:
        (tmp_path / "edited_code.py").write_text(text.replace("return x + 1", "return x + 1000"))
        with pytest.raises(ValueError, match=r"deeper: .*edited_code\.py was edited after it was imported"):
            study(module.train, arms={"plain": {}, "fast": {"lr": 1.0}})
        importlib.invalidate_caches()
        module = importlib.reload(module)
        assert study(module.train, arms={"plain": {}, "fast": {"lr": 1.0}}).task == "edited_code:train"
    finally:
        sys.modules.pop("edited_code")


def test_results_never_decide_what_is_imported(theirs, capsys) -> None:
    cli.main(["run", "theirs.toml", "--trust", "--jobs", "1"])
    theirs.unlink()
    sys.modules.pop("their_code")
    folder = Path("results/theirs")
    kept = json.loads((folder / "study.json").read_text())
    declared = {"primary": [["shifted", "plain"]], "margin": 0.1}
    (folder / "study.json").write_text(json.dumps({**kept, "declared": declared}))
    unresolved = {name: value for name, value in kept.items() if name != "resolved"}
    content = {"declaration": "0" * 16, "declared": "2026-01-01T00:00:00+00:00", "study": unresolved}
    (folder / "declaration.json").write_text(json.dumps(content))
    for command in ("report", "plot", "export", "preflight", "plan", "run"):
        with contextlib.suppress(SystemExit):
            cli.main([command, str(folder)])
    assert not theirs.exists()
    assert "their_code" not in sys.modules


def test_shards_are_merged_and_tracked(script, capsys) -> None:
    for part in (1, 2):
        cli.main(["run", "mine_own.py", "--jobs", "1", "--shard", f"{part}/2", "--out", str(part)])
        assert f"shard {part}/2 is through; 6 trials of the study aren't in {part}/mine" in capsys.readouterr().out
    cli.main(["merge", "results/mine", "1/mine", "2/mine"])
    assert "12 trials, 0 swaps and 0 weights copied" in capsys.readouterr().out
    cli.main(["run", "mine_own.py", "--jobs", "1", "--track", "tensorboard"])
    assert "12 trials, 12 finished, 0 to run" in capsys.readouterr().out
    cli.main(["run", "mine_own.py", "--jobs", "1", "--track", "tensorboard", "--out", "tracked", "--seeds", "1"])
    assert len(list(Path("tracked/mine/tensorboard").rglob("events*"))) == 2
