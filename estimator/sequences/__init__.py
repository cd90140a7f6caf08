"""Input pipelines whose place in the data is known."""

from estimator.sampler import ResumableSampler, SeededDataset
from estimator.sequences.array import SequenceArray
from estimator.sequences.base import Sequence
from estimator.sequences.map import SequenceMap
from estimator.sequences.reservoir import SequenceAsyncReservoir
from estimator.sequences.reservoir_report import ReservoirReport
from estimator.sequences.samplers import BalancedSampler, InterleavedSampler, ReplacementSampler

__all__ = [
    "BalancedSampler", "InterleavedSampler", "ReplacementSampler", "ReservoirReport",
    "ResumableSampler", "SeededDataset", "Sequence", "SequenceArray", "SequenceAsyncReservoir",
    "SequenceMap",
]  # fmt: skip
