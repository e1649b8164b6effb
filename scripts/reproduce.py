"""Runs the quickstart and holds its figures against the claims: a table of verdicts, and exit status 1 if one fails.

One triple of models has no standard error: the tolerances are several times what seeds and processors were seen to change.
"""

import csv
import sys
from statistics import mean

import quickstart


def main() -> None:
    quickstart.main()
    with (quickstart.TARGET / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    claims = judge({row["method"]: (float(row["test_loss"]), float(row["test_accuracy"])) for row in rows})
    width = max(len(claim) for claim, *_ in claims)
    print(f"\n{'claim'.ljust(width)}  measured  tolerance  verdict")
    for claim, measured, bound, holds in claims:
        print(f"{claim.ljust(width)}  {measured:8.4f}  {bound:>9}  {'holds' if holds else 'FAILS'}")
    if not all(holds for *_, holds in claims):
        sys.exit(1)


def judge(table: dict[str, tuple[float, float]]) -> list[tuple[str, float, str, bool]]:
    """Claim, measured figure, tolerance, verdict. Losses in nats."""
    models = [figures for method, figures in table.items() if method.startswith("model ")]
    loss = mean(figures[0] for figures in models)
    worst = min(figures[1] for figures in models)
    naive, matched, ste_mm = (table[method] for method in ["naive", "weight matching", "ste-mm"])
    return [
        ("each model works: lowest test accuracy", worst, ">= 0.86", worst >= 0.86),
        ("their naive average does not: its loss above the models' mean", naive[0] - loss, ">= 1", naive[0] - loss >= 1),
        ("weight matching's average does: its loss above the models' mean", matched[0] - loss, "<= 0.06",
         matched[0] - loss <= 0.06),
        ("STE-MM's average is as good as the models: its loss above their mean", ste_mm[0] - loss, "<= 0.02",
         ste_mm[0] - loss <= 0.02),
        ("STE-MM beats weight matching: loss of their averages, difference", ste_mm[0] - matched[0], "< 0",
         ste_mm[0] < matched[0]),
        ("STE-MM's average classifies: test accuracy", ste_mm[1], ">= 0.87", ste_mm[1] >= 0.87),
    ]


if __name__ == "__main__":
    main()
