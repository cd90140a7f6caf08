"""Input pipelines whose place in the data is known."""

from estimator.sampler import ResumableSampler, SeededDataset

__all__ = ["ResumableSampler", "SeededDataset"]
