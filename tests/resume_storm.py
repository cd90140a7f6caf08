"""A storm: a training is killed again and again at points that it announces itself.

The program forks each run after its imports, so that a run costs no start of Python. A run writes
a byte at each point and waits for the answer, so the kills are at places drawn from a seed, and
nothing depends on the clock.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import random
import signal
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from resume_runs import SIZE, VAL, Augmented, Case, Net, differences, feed, outcome
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from estimator import Estimator, Trainer, TrainStats
from estimator.handlers import CheckpointHandler, EventHandler
from estimator.handlers.base import Every
from estimator.randomness import seed_everything

EPOCHS, STEPS = 6, 7 * 6
# A step has at least 10 points, so that kills within these many cannot outrun the training.
REACH = 16


class Line:
    """The runs's end of a line to who may kill it."""

    def __init__(self, say: int, hear: int) -> None:
        self.say, self.hear = say, hear
        self.lock = threading.Lock()

    def point(self, kind: str) -> None:
        """Says where the run is, and waits until it may go on."""
        with self.lock:
            os.write(self.say, kind[:1].encode())
            os.read(self.hear, 1)

    def around(self, function: Callable[..., Any], kind: str) -> Callable[..., Any]:
        """The same function with a point before it and one after it."""

        def announced(*args: Any, **kwargs: Any) -> Any:
            self.point(kind)
            result = function(*args, **kwargs)
            self.point(kind)
            return result

        return announced

    def in_the_middle(self, save: Callable[..., Any]) -> Callable[..., Any]:
        """The same save, with a point where half of the file is written."""

        def announced(state: Any, file: Any) -> None:
            content = io.BytesIO()
            save(state, content)
            middle = len(content.getvalue()) // 2
            file.write(content.getvalue()[:middle])
            file.flush()
            self.point("write")
            file.write(content.getvalue()[middle:])

        return announced


class Announce(EventHandler):
    """The points outside of saves."""

    def __init__(self, line: Line) -> None:
        super().__init__()
        self.line = line

    def batch_begin(self, stats: TrainStats) -> None:
        self.line.point("batch")

    def validation_batch_end(self, stats: TrainStats) -> None:
        self.line.point("validation")


def train(folder: Path, form: str, *, background: bool, line: Line | None) -> dict[str, Any]:
    """The one command that is started again after each kill."""
    net = Net()
    saver = CheckpointHandler(
        folder, every=Every(steps=1), monitor="val_loss", keep_last=2, keep_best=2,
        background=background,
    )  # fmt: skip
    trainer = Trainer(
        "adamw", scheduler=lambda o: OneCycleLR(o, max_lr=0.05, total_steps=STEPS)
    )  # fmt: skip
    data = Augmented() if form == "dataset" else feed(Case(feed=form))
    more: dict[str, Any] = {"batch_size": SIZE} if form == "dataset" else {}
    stats = Estimator(net, nn.CrossEntropyLoss(), ["accuracy"]).fit(
        data, torch.utils.data.DataLoader(VAL, SIZE), EPOCHS, trainer, "cpu",
        handlers=[saver, *([Announce(line)] if line else [])], resume=True, progress=False, **more,
    )  # fmt: skip
    return outcome(stats, []) | {"kept": kept(folder)}


def kept(folder: Path) -> list[Any]:
    """What the manifest says of the checkpoints, except for names that depend on the run."""
    names = ("epoch", "step", "samples", "monitor", "value", "best")
    listed = json.loads((folder / "manifest.json").read_text())["checkpoints"]
    return [[entry[name] for name in names] for entry in listed]


def forked(work: Callable[[Line], None], allowed: int | None, *, at_once: bool) -> str | None:
    """Runs something in a fork, and kills it after some of its points.

    Args:
        work: What runs.
        allowed: Points that it may pass; None lets it end.
        at_once: Whether it is killed where it waits, and not on its way from there.

    Returns:
        The kind of the point where it was killed; None where it ended.
    """
    (hears, say), (hear, answers) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(hears)
            os.close(answers)
            work(Line(say, hear))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(say)
    os.close(hear)
    kind, killed = b"", False
    for passed in itertools.count():
        kind = os.read(hears, 1)
        killed = bool(kind) and passed == allowed
        if not kind or (killed and at_once):
            break
        os.write(answers, b".")
        if killed:
            break
    if killed:
        os.kill(child, signal.SIGKILL)
    os.close(hears)
    os.close(answers)
    _, status = os.waitpid(child, 0)
    ended = os.waitstatus_to_exitcode(status)
    if ended != (-signal.SIGKILL if killed else 0):
        raise RuntimeError(f"a run ended with {ended} after {passed} points")
    return kind.decode() if killed else None


def warm_up() -> None:
    """Lets torch import what it imports late, once and not in each fork."""
    weight = nn.Parameter(torch.zeros(1))
    weight.grad = torch.zeros(1)
    torch.optim.AdamW([weight]).step()


def storm(folder: Path, *, seed: int, kills: int, form: str, background: bool) -> dict[str, Any]:
    """Kills a training many times, lets it end, and compares it with one that was left alone."""

    def whole(line: Line) -> None:
        seed_everything(3)
        torch.save(train(folder / "a", form, background=False, line=None), folder / "whole.pt")

    def hunted(line: Line) -> None:
        save = torch.save
        seed_everything(3)
        for name in ("fsync", "replace", "unlink"):
            setattr(os, name, line.around(getattr(os, name), name))
        torch.save = line.in_the_middle(save)
        result = train(folder / "b", form, background=background, line=line)
        save(result, folder / "hunted.pt")

    warm_up()
    chance = random.Random(seed)
    forked(whole, None, at_once=True)
    places = [
        forked(hunted, chance.randrange(REACH), at_once=chance.random() < 0.5)
        for _ in range(kills)
    ]  # fmt: skip
    forked(hunted, None, at_once=True)
    results = [torch.load(folder / f"{name}.pt") for name in ("whole", "hunted")]
    return {
        "kills": Counter(places),
        "differences": differences(*results),
        "steps": results[0]["counts"][1],
        "files": sorted(os.listdir(folder / "b")),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    where, number, times, data_form, how = sys.argv[1:]
    print(json.dumps(storm(
        Path(where), seed=int(number), kills=int(times), form=data_form,
        background=how == "background",
    )))  # fmt: skip
