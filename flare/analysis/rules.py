"""The paper's claims as rules: what is compared, and what the interval of the difference must say.

Greidi & Cohen (arXiv 2312.13795) say that FLARE is better than each baseline at the same keep, as good as one at ten
times its sparsity, near dense FedAvg, and loses less if clients are unavailable.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from flare.analysis.level import LEVEL, percent
from flare.analysis.statistics import RESAMPLES

METHOD, DENSE = "flare", "fedavg"
# Accuracies this near, in points, are as good as each other.
MARGIN = 1.0
# Of dense FedAvg's accuracy: what a method must reach for its keep to count.
SHARE = 0.95
SPARSER = 10.0
# Seeds below which nothing is decided.
SEEDS = 3


@dataclass(frozen=True)
class Claim:
    """A claim: what it says, what is measured, and the number that the interval must lie above."""

    statement: str
    measure: str
    threshold: float
    unit: str = "points"

    @property
    def rule(self) -> str:
        """The rule by which it is judged, as the tables state it."""
        return f"{self.measure}: supported where low > {self.threshold:g}, refuted where high < {self.threshold:g}"


CLAIMS = {
    "better": Claim(
        "FLARE is better than a baseline at the same keep", "final accuracy of flare minus that of the baseline", 0
    ),
    "sparser": Claim(
        f"FLARE is as good as a baseline at {SPARSER:g} times its sparsity",
        f"final accuracy of flare minus that of the baseline at {SPARSER:g} times the keep",
        -MARGIN,
    ),
    "dense": Claim(
        f"FLARE is within {MARGIN:g} point of dense FedAvg",
        "final accuracy of flare minus that of dense fedavg",
        -MARGIN,
    ),
    "gain": Claim(
        f"FLARE reaches {percent(SHARE)} of dense FedAvg at a smaller keep than a baseline (sparsity gain)",
        f"the baseline's smallest keep with a mean final accuracy of at least {percent(SHARE)} of dense fedavg's, over"
        " that of flare (inf: the baseline reaches it at no keep of the sweep, 0: flare does not)",
        1,
        "ratio",
    ),
    "unavailable": Claim(
        "FLARE loses less than a baseline where clients are unavailable",
        "what the baseline's final accuracy loses from the reference, in which more clients answer, minus what flare's"
        " loses",
        0,
    ),
}


def _spans_the_range() -> int:
    """The most seeds of which the interval is the range: one value alone fills more of the resamples than is cut."""
    return max(n for n in range(1, 100) if n**-n > (1 - LEVEL) / 2)


def _covers() -> int:
    """The fewest seeds whose range holds the median at the level: all of n lie on one side with 2^(1 - n)."""
    return math.ceil(1 - math.log2(1 - LEVEL))


GENERAL = (
    f"Every interval is a {percent(LEVEL)} percentile bootstrap over seeds, paired by seed, of {RESAMPLES:,} resamples"
    f" drawn with a fixed seed. Undecided: an interval on both sides, fewer than {SEEDS} seeds, or a diverged run among"
    " the compared (for the sparsity gain: dense fedavg's, or one of a method at a smaller keep than it reaches; a keep"
    f" with a diverged run does not count as reached). Of {_spans_the_range()} seeds the interval spans the smallest to"
    f" the largest difference; below {_covers()} no such interval covers {percent(LEVEL)}. Where a study chose the"
    " settings of some of the compared only, the verdict says so: what was tuned has the advantage."
)
