"""Records what Vowpal Wabbit 9.11 predicts, as oracles for tests/river_models.rs.

    pip install vowpalwabbit==9.11.9 && python tests/data/vw/record.py

Rows and targets are those of ../river. Each row is predicted without its label, then learned. The
cases with power_t 0.4999999 take VW's general path (powers), the others its shortcut (roots).
"""

import json
import pathlib

import vowpalwabbit as vw

HERE = pathlib.Path(__file__).parent
GENERAL = 0.4999999


def run(name, data, args, weighted=False):
    data = json.loads((HERE.parent / "river" / f"{data}.json").read_text())
    binary = data["task"] == "binary"
    model, scores = vw.Workspace(args + " --quiet --no_stdin"), []
    for i, (row, y) in enumerate(zip(data["rows"], data["targets"])):
        x = "| " + " ".join(f"{j}:{v}" for j, v in enumerate(row))
        scores.append(float(f"{model.predict(x):.9g}"))
        weight = [1.0, 0.25, 3.0, 1.5][i % 4] if weighted else 1.0
        model.learn(f"{2 * y - 1 if binary else y} {weight} {x}")
    return scores


if __name__ == "__main__":
    cases = []
    for data, loss, ours, weighted in [
        ("phishing", "logistic", "log", False), ("phishing", "logistic", "log", True), ("phishing", "hinge", "hinge", False),
        ("trump_approval", "squared", "squared", False), ("trump_approval", "squared", "squared", True),
        ("trump_approval", "quantile --quantile_tau 0.8", {"kind": "quantile", "alpha": 0.8}, False),
    ]:
        for power_t in 0.5, GENERAL:
            scores = run(ours, data, f"--loss_function {loss} --power_t {power_t}", weighted)
            cases.append({"data": data, "loss": ours, "power_t": power_t, "weighted": weighted, "scores": scores})
    (HERE / "vw.json").write_text(json.dumps({"source": "Vowpal Wabbit 9.11.9", "cases": cases}, separators=(",", ":")) + "\n")
