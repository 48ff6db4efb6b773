"""How to read a report: what intervals, verdicts and p are of, and what keeps their error."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from suite import analysis
from suite.report.formatting import p_value, percent, rounded, with_unit
from suite.report.runs import Rules
from suite.report.verdicts import compared


def method(arms: pd.DataFrame, rules: Rules, gain: float | None = None) -> list[str]:
    """How to read the figures; sentences.

    Args:
        gain: what pairing by seed gained, see ``analysis.pairing_gain``.
    """
    objective, test = rules.objective, analysis.tested(rules.objective)
    epoch = "the epoch with the best" if objective.strategy == "best" else "the last epoch with a"
    sentences = [
        f"Figures, those of the test images too, are of {epoch} {objective.name}; ± is a 95 % "
        "Student "
        "interval over seeds. It covers seeds, not the choice of test images."
    ]
    if compared(arms):
        sentences += [
            _intervals(test, rules.level(compared(arms)), rules),
            _looks(rules, compared(arms)),
            *_smallest_p(arms),
            *_pairing(gain),
            *_beside(arms),
            _power(rules.level(compared(arms))),
        ]
    return sentences


def _intervals(test: str, level: float, rules: Rules) -> str:
    return (
        f"Differences are of {test}, paired by seed. Their {confidence(level)} intervals hold for "
        "all "
        "arms at once (they invert a max-T test that flips the signs of whole seeds), and "
        "verdicts are "
        "read from them alone: better or worse if the interval excludes zero, equivalent if it "
        "lies "
        f"within ± {with_unit(test, rules.margin)}, else inconclusive. They assume that a seed's "
        "differences, less the true ones, are as likely to have either sign. p is adjusted for the "
        "number of arms in the same way."
    )


def confidence(level: float) -> str:
    """``96.9 %`` for a level of 1/32."""
    return f"{100 - float(percent(level).removesuffix(' %')):g} %"


def _looks(rules: Rules, arms: int) -> str:
    """How many looks at the verdicts there were, and what the present one may err."""
    level = percent(rules.level(arms))
    made = sum(len(seeds) >= analysis.MIN_SEEDS for seeds in rules.looks.made)
    if rules.looks.planned and (
        rules.looks.open or not set(rules.looks.made) <= set(rules.looks.planned)
    ):
        return (
            "The planned seeds were changed after verdicts had been read, so the plan counts as "
            "open: "
            f"this is look {made}, judged at {level}, which keeps the chance of any false "
            "verdict, over "
            "all arms and looks, at 5 % or less."
        )
    if rules.looks.planned:
        return (
            f"Look {max(1, made)} of {len(rules.looks.planned)} planned ones. Each is judged at "
            f"{level}, "
            "so that any false verdict, over all arms and looks, has a chance of at most 5 %."
        )
    if made > 1:
        return (
            f"Seeds were added after verdicts had been read: this is look {made}, judged at "
            f"{level}, "
            "which keeps the chance of any false verdict, over all arms and looks, at 5 % or less."
        )
    unknown = "" if rules.looks.made else " (the store does not say how often it was looked at)"
    return (
        f"This counts as the first look at the verdicts{unknown} and is judged at {level}: the "
        "chance "
        "of any false verdict in the table. The rest of 5 % is kept for looks after more seeds."
    )


def _smallest_p(arms: pd.DataFrame) -> Iterable[str]:
    """The p that the signs of so many seeds cannot go below."""
    tested = arms[arms["p"].notna()]
    if not len(tested):
        yield (
            f"“Too few seeds”: with {analysis.MIN_SEEDS - 1} seeds no two-sided sign-flip test can "
            f"reach 5 %; with {analysis.MIN_SEEDS} its smallest p is "
            f"{p_value(_floor(analysis.MIN_SEEDS))}."
        )
        return
    seeds = int(tested["pairs"].max())
    yield f"The smallest p that {seeds} seeds can give is {p_value(_floor(seeds))}."


def _floor(seeds: int) -> float:
    return 1 / len(analysis.sign_flips(seeds))


def _pairing(gain: float | None) -> Iterable[str]:
    if gain is None:
        return
    if gain >= 1:
        what = f"{rounded(gain, 1)} times smaller than without pairing"
    else:
        what = f"{rounded(1 / gain, 1)} times larger: here pairing lost"
    yield f"Pairing by seed made the variance of a difference {what}."


def _beside(arms: pd.DataFrame) -> Iterable[str]:
    """What stands beside the verdict and is none."""
    if arms["wins"].notna().any():
        yield (
            "P(better): the share of seeds on which an arm beats its baseline, ties counted half, "
            "with "
            "a 95 % Wilson interval (Bouthillier et al. 2021); not adjusted for the number of arms."
        )
    if arms["dunnett low"].notna().any():
        yield (
            "“If normal (Dunnett)”: the verdict of Dunnett's test (1955) in blocks of seeds, from "
            "three "
            "seeds. It assumes normal noise of equal spread in all arms and is not the page's "
            "verdict."
        )
    if arms["worst low"].notna().any():
        yield (
            "“Worst case”: the interval if each seed that one side lost and the other finished "
            "counts "
            "as the worst value seen in the sweep."
        )
    if "test images" in arms and arms["test images"].notna().any():
        yield (
            "“Test images”: half the 95 % interval of the difference over other test images like "
            "these, "
            "for these networks, paired by image. With ≤ it is an upper bound from the accuracies, "
            "√(a(1 − a) + b(1 − b)) · 1.96 / √N, which holds unless one arm is right where the "
            "other is "
            "wrong more often than by chance."
        )


def _power(level: float) -> str:
    return (
        "The smallest difference that is seen: the true difference that is called better or worse "
        "with "
        f"{100 * analysis.POWER:.0f} % power, by simulating sweeps of as many seeds and arms (one "
        "of "
        "which differs; normal noise; differences correlated at one half, as they share the "
        "baseline), "
        f"this sweep's at its level of {percent(level)}, new ones at that of a first look. "
        "arms.csv has each arm's, at its own spread."
    )
