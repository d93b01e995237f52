"""Records what River 0.26.1's transformers answer, for tests/river_steps.rs.

    pip install river==0.26.1 && python record.py > river_steps.json

Each row is transformed, learned, and transformed again. A missing value is absent from River's row
(None for the imputers), null in the file.
"""

import json
import math
import random

from river import feature_extraction, preprocessing, stats

FIELDS = ["a", "b", "c", "d"]


def rows():
    rng = random.Random(42)
    for i in range(120):
        row = [rng.gauss(3, 2), rng.expovariate(0.01), 7.5, float(rng.randint(0, 1))]
        yield [None if i % 11 == k * 2 + 3 else v for k, v in enumerate(row)]


def number(v):
    return None if v is None or (isinstance(v, float) and not math.isfinite(v)) else float(v)


def record(spec, transformer, rows, none):
    columns, answers = [], []
    for row in rows:
        x = {f: v for f, v in zip(FIELDS, row) if none or v is not None}
        before = transformer.transform_one(x)
        transformer.learn_one(x)
        after = transformer.transform_one(x)
        columns = columns or list(after)
        answers.append([[number(t.get(c)) for c in columns] for t in (before, after)])
    return {"spec": spec, "columns": columns, "answers": answers}


ROWS = list(rows())
WHOLE = [[0.0 if v is None else v for v in row] for row in ROWS]
CASES = [
    ({"kind": "standard-scale"}, preprocessing.StandardScaler(), ROWS, False),
    ({"kind": "standard-scale", "with_std": False}, preprocessing.StandardScaler(with_std=False), ROWS, False),
    ({"kind": "min-max-scale"}, preprocessing.MinMaxScaler(), ROWS, False),
    ({"kind": "max-abs-scale"}, preprocessing.MaxAbsScaler(), ROWS, False),
    ({"kind": "impute"}, preprocessing.StatImputer(*[(f, stats.Mean()) for f in FIELDS]), ROWS, True),
    (
        {"kind": "impute", "strategy": "constant", "value": -1.5},
        preprocessing.StatImputer(*[(f, -1.5) for f in FIELDS]),
        ROWS,
        True,
    ),
    ({"kind": "impute", "strategy": "last"}, preprocessing.PreviousImputer(), ROWS, True),
    ({"kind": "polynomial"}, feature_extraction.PolynomialExtender(), WHOLE, False),
    (
        {"kind": "polynomial", "degree": 3, "interaction_only": True},
        feature_extraction.PolynomialExtender(degree=3, interaction_only=True),
        WHOLE,
        False,
    ),
    ({"kind": "polynomial", "degree": 3}, feature_extraction.PolynomialExtender(degree=3), WHOLE, False),
]

if __name__ == "__main__":
    cases = [record(*case) | {"rows": "whole" if case[2] is WHOLE else "missing"} for case in CASES]
    print(json.dumps({"river": "0.26.1", "fields": FIELDS, "rows": {"missing": ROWS, "whole": WHOLE}, "cases": cases}))
