"""How long an operation still takes, from how fast it went so far, and the lines that say so."""

from __future__ import annotations

from dataclasses import dataclass

MEASURED = 5.0
"""Seconds that an operation is watched before its time is estimated."""
WORTH_SAYING = 30.0
"""Seconds: an operation that ends sooner is not announced."""
EVERY = 60.0
"""Seconds between two lines, where there is no progress bar."""


@dataclass
class Pace:
    """The pace of one operation after another.

    The next one begins where the text before its first comma is another (`training, loss 0.5`), or where the share that
    is done falls. All times are seconds of one clock.
    """

    resumes: bool = False
    """Whether an interrupted operation goes on when the same command is run again."""
    what: str = ""
    share: float = 0.0
    _began: float = 0.0
    _from: float = 0.0
    """The share that was done when this operation began, or was taken up again."""
    _announced: bool = False

    def heard(self, what: str, share: float, now: float) -> str | None:
        """Take note of the share that is done; the announcement, once an operation's time can be estimated."""
        if share < self.share or what.partition(",")[0] != self.what.partition(",")[0]:
            self._began, self._from, self._announced = now, share, False
        self.what, self.share = what, share
        left = self.left(now)
        if self._announced or left is None or now - self._began < MEASURED:
            return None
        self._announced = True
        if left < WORTH_SAYING:
            return None
        stop = "; stop with Ctrl-C, the same command resumes" if self.resumes else ""
        return f"{what}: {duration(left)} left{stop}"

    def left(self, now: float) -> float | None:
        """Seconds until the share is 1 at the pace so far; None where nothing is known."""
        gained = self.share - self._from
        return (now - self._began) * (1 - self.share) / gained if gained > 0 else None

    def line(self, now: float) -> str:
        """Where the operation stands."""
        left = self.left(now)
        if left is None:
            return f"{self.what}, {duration(now - self._began)} so far"
        return f"{self.what}: {self.share:.0%}, {duration(left)} left"


def duration(seconds: float) -> str:
    """About how long, in words: `about 40 seconds`, `about 12 minutes`, `about 2.5 hours`."""
    if seconds < 90:
        return f"about {max(10, round(seconds, -1)):.0f} seconds"
    return f"about {seconds / 60:.0f} minutes" if seconds < 90 * 60 else f"about {seconds / 3600:.1f} hours"
