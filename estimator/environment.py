"""What a run was made with: versions, machine, git commit, command and source files."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

_GIT_SECONDS = 5.0


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide what is computed."""
    try:
        own = metadata.version("torch-estimator")
    except metadata.PackageNotFoundError:
        own = "not installed"
    return {
        "python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__,
        "torch-estimator": own, "platform": platform.platform(),
    }  # fmt: skip


def machine(device: torch.device) -> dict[str, Any]:
    """The machine: its name, processor, cores, memory in bytes, the device and this process."""
    return {
        "host": platform.node(), "cpu": _processor(), "cores": _cores(), "memory": _memory(),
        "device": _device(device), "pid": os.getpid(),
    }  # fmt: skip


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:  # only Linux has it
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _cores() -> int | None:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _memory() -> int | None:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return str(device)


def command() -> list[str]:
    """The command line of this program."""
    return [str(part) for part in getattr(sys, "orig_argv", sys.argv)]


def own_folder_of_program() -> Path:
    """The folder of the program's main file, or the present one where it has none."""
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    return Path(main).absolute().parent if main else Path.cwd()


def commit() -> dict[str, Any] | None:
    """The git commit of the program's folder, and whether files differ from it; None without."""
    head = _git("rev-parse", "HEAD")
    status = _git("status", "--porcelain", "--untracked-files=no") if head is not None else None
    if head is None or status is None:
        return None
    return {"commit": head.strip(), "dirty": bool(status.strip())}


def _git(*arguments: str) -> str | None:
    try:
        run = subprocess.run(
            ["git", *arguments], cwd=own_folder_of_program(), capture_output=True, text=True,
            timeout=_GIT_SECONDS, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):  # there is no git, or it does not answer
        return None
    return run.stdout if run.returncode == 0 else None


def copy_sources(target: Path) -> list[Path]:
    """Copies the Python files that this program has imported from its own folder.

    Args:
        target: The folder that gets them, under their paths from the program's folder.

    Returns:
        These paths.
    """
    home = own_folder_of_program()
    libraries = {Path(path).absolute() for path in sysconfig.get_paths().values()}
    copied = []
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        path = Path(file).absolute() if isinstance(file, str) else None
        if path is None or path.suffix != ".py" or not path.is_relative_to(home):
            continue
        if any(path.is_relative_to(library) for library in libraries) or not path.is_file():
            continue
        copy = target / path.relative_to(home)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        copied.append(path.relative_to(home))
    return copied
