"""Suites of tests for what users write: what a handler has to honour."""

from estimator.testing.handler_contract import HandlerContract

__all__ = ["HandlerContract"]
