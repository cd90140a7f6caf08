"""From the arguments of `fit` to a `Run` that is ready to go."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from estimator.agreement import Agreement
from estimator.checks import ask_net, check_batch, initialise_lazy
from estimator.data import Source
from estimator.dispatch import Dispatch
from estimator.distributed import World
from estimator.engine.options import Engine
from estimator.engine.tiers import check_engine
from estimator.handlers.base import ArgumentError, EventHandler, Every, check_every
from estimator.history import History
from estimator.loss import Losses
from estimator.notices import notice
from estimator.randomness import part_streams
from estimator.residence import Residence
from estimator.resume import Resume, say_if_ends_only, state_to_resume
from estimator.rows import rate_columns
from estimator.run import Run
from estimator.run_folder import OpenRun
from estimator.run_record import about, described
from estimator.runtime import Precision, Runtime, find_device
from estimator.sharded import class_of
from estimator.splitting import split_fraction
from estimator.stats import TrainStats
from estimator.step import Strategy
from estimator.trainer import Trainer, TrainerSpec, check_disjoint, named_trainers
from estimator.validation import Validation

if TYPE_CHECKING:
    from estimator.estimator import Estimator

Trainers = TrainerSpec | Iterable[TrainerSpec] | Mapping[str, TrainerSpec] | None


class FitOptions(NamedTuple):
    """The plain arguments of `fit`."""

    epochs: int | None
    iterations: int | None
    device: str | torch.device | None
    validate: Every | None
    accumulate: int
    batch_size: int
    precision: Precision | None
    engine: Engine
    strategy: Strategy | None
    seed: int | None
    resume: Resume
    progress: bool


def build_run(
    est: Estimator, train: Any, val: Any, options: FitOptions, trainers: Trainers,
    handlers: list[EventHandler], *, world: World, folder: OpenRun | None,
) -> Run:  # fmt: skip
    """Prepares a training: everything is checked, and nothing is trained.

    Args:
        est: Whose net is trained.
        train: Training data as the user gave it.
        val: Validation data, or a fraction of the training data.
        options: The plain arguments.
        trainers: As the user gave them; None goes on with those of the last fit.
        handlers: All handlers of the run.
        world: The processes that train.
        folder: Of the run, if it has one.
    """
    device = find_device(options.device)
    options = options._replace(progress=options.progress and world.rank == 0)
    epochs, iterations = _targets(options)
    hooks = Dispatch(handlers)
    if isinstance(val, (int, float)):
        train, val = split_fraction(train, float(val), options.seed)
    if options.device is None:
        notice(f"No device given: training on {device}.", show=options.progress)
    est._engine = options.engine
    run = new_run(est, hooks, Runtime(device, options.precision, world))
    check_engine(options.engine, run.runtime)
    if world.size > 1:
        hooks.agree = Agreement(run)
    run.step.spread_by(options.strategy)
    run.stats.epochs, run.stats.iterations, run.stats.val_data = epochs, iterations, val
    run.stats.run_dir = None if folder is None else folder.path
    residence = Residence(device, options.engine)
    sources = _give_data(run, train, val, options, residence)
    warn_of_batch_size(options.batch_size, *sources)
    part_streams(world, options.seed)
    run.step.group_by(options.accumulate)
    with residence.kept_unless_error():
        _first_batches(est, run, trainers, options)
        criterion = run.step.processor.criterion
        grouped = options.accumulate > 1 or world.size > 1
        if grouped and criterion is not None and not criterion.exact_in_groups:
            warnings.warn(
                f"fit(accumulate={options.accumulate}) weighs each of several losses by samples, "
                "also over processes; received losses that leave targets out, weigh classes or "
                "add samples up, whose gradient is then not exactly the group's. Combine them in "
                "one callable with a method item_count(outputs, targets).", stacklevel=3,
            )  # fmt: skip
        _say_served(sources, options)
        run.config = _config(est, options)
        if folder is not None:
            folder.record.arguments |= _plain(options) | run.config | about(run)
        say_if_ends_only(run, show=options.progress)
        run.begin(state_to_resume(run, options.resume, show=options.progress))
    return run


def _give_data(
    run: Run, train: Any, val: Any, options: FitOptions, residence: Residence
) -> list[Source]:
    uids, world, size = run.step.needs_uids, run.runtime.world, options.batch_size
    run.train_source = Source(
        train, "fit(train=...)", batch_size=size, shuffle=True, uids=uids,
        seed=options.seed, world=world, residence=residence,
    )  # fmt: skip
    run.stats.batches = run.train_source.batches
    every = check_every(options.validate, "fit(validate=...)", Every(epochs=1))
    epochs, iterations = run.stats.epochs, run.stats.iterations
    if val is not None:
        source = Source(
            val, "fit(val=...)", batch_size=size, uids=uids, world=world, residence=residence
        )
        run.validation = Validation(run.stats, source, every)
        passes = f"iterations={iterations}" if epochs is None else f"epochs={epochs}"
        _check_passes(source, passes, one=epochs == 1)
    _check_passes(run.train_source, f"epochs={epochs}", one=epochs in (None, 1))
    if options.validate is not None and val is None:
        warnings.warn(
            f"fit(validate={options.validate!r}) has no effect without validation data; received "
            "val=None.", stacklevel=4,
        )  # fmt: skip
    return [run.train_source, *([run.validation.source] if run.validation else [])]


def _config(est: Estimator, options: FitOptions) -> dict[str, str]:
    settings: dict[str, Any] = {
        "net": class_of(est.net).__name__, "loss": est.loss, "metrics": list(est.metrics.names),
        "processor": type(est.processor).__name__, "validate": options.validate,
        "accumulate": options.accumulate, "precision": options.precision, "seed": options.seed,
    }  # fmt: skip
    settings |= {f"trainers[{name!r}]": spec for name, (spec, _) in est.trainers.items()}
    return {name: described(value) for name, value in settings.items()}


def _plain(options: FitOptions) -> dict[str, str]:
    given = options._replace(resume=None)._asdict()
    del given["progress"]
    return {name: described(value) for name, value in given.items() if value is not None}


def new_run(est: Estimator, hooks: Dispatch, runtime: Runtime) -> Run:
    """A run of an Estimator that has no data and no trainers yet."""
    device, world = runtime.device, runtime.world
    hooks.is_first = world.rank == 0
    if world.size > 1:
        est.metrics.check_merge()
    stats = TrainStats(est.net, device)
    stats.runtime = runtime
    criterion = est.processor.criterion
    for module in criterion.modules() if criterion is not None else []:
        module.to(device)
    return Run(
        stats,
        hooks,
        processor=est.processor,
        runtime=runtime,
        metrics=est.metrics,
        engine=est._engine,
    )


def _targets(options: FitOptions) -> tuple[int | None, int | None]:
    epochs, iterations = options.epochs, options.iterations
    for name, target in (("epochs", epochs), ("iterations", iterations)):
        whole = isinstance(target, int) and not isinstance(target, bool)
        if target is not None and not (whole and target > 0):
            raise ArgumentError(
                f"fit({name}=...) must be a whole number from 1 up; received {target!r}."
            )
    if epochs is not None and iterations is not None:
        raise ArgumentError(
            "fit takes exactly one of epochs and iterations; received "
            f"epochs={epochs} and iterations={iterations}. Leave one out."
        )
    if epochs is None and iterations is None:
        notice(
            "Neither epochs nor iterations given: training for one epoch.", show=options.progress
        )
        epochs = 1
    return epochs, iterations


def warn_of_batch_size(batch_size: int, *sources: Source) -> None:
    """Says that `batch_size` is ignored, where no data is batched by it."""
    if batch_size != 32 and not any(source.takes_batch_size for source in sources):
        warnings.warn(
            f"batch_size={batch_size!r} has no effect on data that comes in batches. Leave it "
            "out, or pass arrays or a Dataset.", stacklevel=4,
        )  # fmt: skip


def _say_served(sources: Iterable[Source], options: FitOptions) -> list[str]:
    """Says in a line how batches are made, where that is not as they were given."""
    said = []
    for source in sources:
        data: Any = source.data
        said += [source.served()] if source.served() else []
        if source.is_dealt and not source.takes_batch_size:
            said.append(
                f"{source.argument}: each batch of {data.batch_sampler.batch_size} samples is "
                f"dealt to {data.batch_sampler.world_size} processes."
            )
    for line in said:
        notice(line, show=options.progress)
    return said


def _check_passes(source: Source, passes: str, *, one: bool) -> None:
    if source.one_shot and not one:
        raise ArgumentError(
            f"{source.argument} is an iterator, which can be gone through once; received it with "
            f"{passes}. Pass something that can be iterated again, such as a DataLoader or a "
            "list; for training on a stream, pass iterations=."
        )


def _first_batches(est: Estimator, run: Run, trainers: Trainers, options: FitOptions) -> None:
    assert run.train_source is not None
    run.runtime.prepare(run.net)
    run.net.train()
    batch = run.train_source.first()
    ask_net(run, batch, training=True)
    if not run.step.processor.has_loss:
        raise ArgumentError(
            "Estimator(loss=...) is needed to train; received None. Pass a callable "
            "(outputs, targets) such as torch.nn.CrossEntropyLoss(), a processor with a loss, or "
            "a net that returns outputs of estimator.outputs for batches that are dicts."
        )
    initialise_lazy(run, batch)
    run.step.shard()
    _bind_trainers(est, run, trainers, options)
    losses = check_batch(run, batch, training=True)
    run.step.join(losses.total)
    if run.validation is not None:
        batch = run.validation.source.sample()
        if batch is not None:
            check_batch(run, batch, training=False)
    _name_values(run, losses)


def _bind_trainers(est: Estimator, run: Run, trainers: Trainers, options: FitOptions) -> None:
    if trainers is None and not est.trainers:
        notice("No trainers given: SGD with lr=0.001.", show=options.progress)
        trainers = Trainer("sgd", lr=0.001)
    if trainers is not None:
        before = list(est.trainers.values())
        est.trainers = {}
        for name, spec in named_trainers(trainers).items():
            known = next((b for s, b in before if s is spec), None)
            bound_trainer = spec.bind(name, run.net) if known is None else known
            bound_trainer.name = name
            est.trainers[name] = (spec, bound_trainer)
    bound = {name: trainer for name, (_, trainer) in est.trainers.items()}
    left_out = check_disjoint(bound, run.net)
    if left_out:
        warnings.warn(
            f"fit(trainers=...): {left_out} parameters of {type(run.net).__name__} with "
            "requires_grad=True belong to no trainer and stay as they are. Freeze them with "
            "requires_grad_(False), or give them a trainer.", stacklevel=5,
        )  # fmt: skip
    run.runtime.prepare(run.net, bound.values())
    run.stats.trainers, run.step.trainers = bound, list(bound.values())
    own: dict[int, torch.Tensor] = {id(p): p for p in run.net.parameters()}
    own |= {id(p): p for trainer in run.step.trainers for p in trainer.params}
    run.step.parameters = list(own.values())


def _name_values(run: Run, losses: Losses) -> None:
    """Declares which values can appear, for monitors and for the columns of the history."""
    stats = run.stats
    values: dict[str, bool | None] = {"loss": False}
    values |= {name: False if name.endswith("_loss") else None for name in losses.parts}
    values |= {name: run.train_metrics.higher_is_better(name) for name in run.train_metrics.names}
    stats.monitors = {f"train_{name}": better for name, better in values.items()}
    if run.validation is not None:
        stats.monitors |= {f"val_{name}": better for name, better in values.items()}
    for handler in run.hooks.handlers:
        stats.monitors |= dict(handler.provides)
    stats.history = History(
        ["epoch", "step", "time", *rate_columns(run.step.trainers), "complete", *stats.monitors]
    )
