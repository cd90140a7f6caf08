"""Input pipelines whose place in the data is known."""

from estimator.sampler import ResumableSampler, SeededDataset
from estimator.sequences.array import SequenceArray

__all__ = ["ResumableSampler", "SeededDataset", "SequenceArray"]
