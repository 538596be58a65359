"""Warnings about data that are merely poor: every case is counted, few are logged."""

import logging


class CountedWarning:
    """Logs the 1st, 2nd, 4th, 8th, ... batch in which something was wrong, with the running total.

    message: takes (cases in this batch, out of how many, cases so far) as %d.
    """

    def __init__(self, logger: logging.Logger, message: str) -> None:
        self.logger, self.message = logger, message
        self.cases = 0
        self.batches = 0

    def count(self, cases: int, total: int) -> None:
        if cases == 0:
            return
        self.cases += cases
        self.batches += 1
        if self.batches & (self.batches - 1) == 0:
            self.logger.warning(self.message, cases, total, self.cases)
