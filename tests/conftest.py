"""What every test gets: one thread, known seeds, the data folder, no skip where CI forbids it."""

from __future__ import annotations

import os
import random
from collections.abc import Generator
from pathlib import Path
from typing import TypeVar

import numpy
import pytest
import torch

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)
NO_SKIPS = os.environ.get("ESTIMATOR_NO_SKIPS") == "1"


def pytest_configure() -> None:
    torch.set_num_threads(1)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return refuse_skip((yield))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return refuse_skip((yield))


def refuse_skip(report: Report) -> Report:
    """Turns a skip, or an expected failure, into a failure where skips are forbidden."""
    if NO_SKIPS and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped, which ESTIMATOR_NO_SKIPS=1 forbids: {report.longrepr}"
    return report


@pytest.fixture(autouse=True)
def seeds() -> None:
    """The global random streams start each test at the same place."""
    random.seed(0)
    numpy.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with the real data sets, which ESTIMATOR_DATA names."""
    folder = os.environ.get("ESTIMATOR_DATA")
    if folder is None:
        pytest.skip("ESTIMATOR_DATA is not set: it names the folder with the data sets")
    root = Path(folder)
    if not root.is_dir():
        pytest.fail(f"ESTIMATOR_DATA must name a folder, and {folder!r} is none")
    return root
