"""The paper's claims as rules: what is compared, and what the interval of the difference must say.

Greidi & Cohen (arXiv 2312.13795) say that FLARE is better than each baseline at the same keep, as good as one at ten
times its sparsity, near dense FedAvg, and loses less if clients are unavailable.
"""

from __future__ import annotations

from dataclasses import dataclass

from flare.analysis.level import LEVEL, percent
from flare.analysis.statistics import POWER

METHOD, DENSE = "flare", "fedavg"
# Accuracies this near, in points, are as good as each other.
MARGIN = 1.0
# Of dense FedAvg's accuracy: what a method must reach for its keep to count.
SHARE = 0.95
SPARSER = 10.0
# Uplinks this near to the one that is asked for, as a share of it, need no interpolation.
NEAR = 0.05
# Seeds below which nothing is decided: of five the exact test by signs cannot reach 5 %.
SEEDS = 6


@dataclass(frozen=True)
class Claim:
    """A claim: what it says, what is measured, and the number that the interval must lie above.

    margin: an interval within so much of 0, on both sides, says that there is no difference that matters.
    """

    statement: str
    measure: str
    threshold: float
    margin: float | None = None
    unit: str = "points"

    @property
    def rule(self) -> str:
        """The rule by which it is judged, as the tables state it."""
        rule = f"{self.measure}: supported where low > {self.threshold:g}, refuted where high < {self.threshold:g}"
        return rule if self.margin is None else f"{rule}, equal where all of it lies within ±{self.margin:g}"


CLAIMS = {
    "better": Claim(
        "FLARE is better than a baseline at the same keep",
        "late accuracy of FLARE minus that of the baseline",
        0,
        MARGIN,
    ),
    "sparser": Claim(
        f"FLARE is as good as a baseline at {SPARSER:g} times its sparsity",
        f"late accuracy of FLARE minus that of the baseline at {SPARSER:g} times the measured uplink (between two keeps"
        " by the logarithm of their uplinks)",
        -MARGIN,
    ),
    "dense": Claim(
        f"FLARE is within {MARGIN:g} point of dense FedAvg",
        "late accuracy of FLARE minus that of dense FedAvg",
        -MARGIN,
    ),
    "gain": Claim(
        f"FLARE reaches {percent(SHARE)} of dense FedAvg at a smaller keep than a baseline (sparsity gain)",
        f"the measured uplink at which the baseline has a late accuracy of {percent(SHARE)} of dense FedAvg's, over"
        " that of FLARE (between two keeps by the logarithm of their uplinks)",
        1,
        unit="ratio",
    ),
    "unavailable": Claim(
        "FLARE loses less than a baseline where clients are unavailable",
        "what the baseline's late accuracy loses from the reference, in which more clients answer, minus what FLARE's"
        " loses",
        0,
        MARGIN,
    ),
}

GENERAL = (
    f"Late accuracy is the mean of a run's last evaluations. Every interval is a paired {percent(LEVEL)} t-interval"
    " over seeds (of the ratio's logarithm, for the sparsity gain), p that of Student's test of the number in the"
    " rule, p_signflip the exact one by flipping signs, p_holm p after Holm's correction over the rows of the claim."
    f" Supported or refuted: also p_holm < {1 - LEVEL:.2g}, and at least {SEEDS} seeds. Equal: of each row alone."
    f" Undecided: none of these, fewer than {SEEDS} seeds, or a diverged run among the compared (for the sparsity"
    " gain: dense FedAvg's, or one of a method at a smaller keep than it reaches; a keep with a diverged run does not"
    " count as reached); verdict_if_chance is the verdict if diverged runs count as guessing. How many seeds would"
    " decide is from the observed mean and spread, before Holm's correction unless that alone leaves a row undecided."
    f" detectable: the difference that is found {percent(POWER)} of the time. won: the share"
    " of the seeds in which the number lies above the rule's, with Wilson's interval. Where the sweep's keeps end"
    " before the accuracy is reached, or reach it with the smallest, a sparsity gain is the bound nearest to 1. Where a"
    " study chose the settings of some of the compared only, the verdict says so: what was tuned has the advantage."
)
