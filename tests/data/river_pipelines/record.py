"""Records what River 0.26.1's pipelines answer to the datasets, row by row, test then train.

    pip install river==0.26.1 && python record.py

Writes NAME.json beside itself: the score of each of the first 300 rows before it was learned (binary:
the probability of true; multiclass: an object by class, empty before any class was learned), and the
metrics over all rows. As in River's evaluate module, a row without any prediction (the very first one
of a multiclass stream) doesn't count in a metric.
"""

import json
import pathlib

from river import datasets, linear_model, metrics, optim, preprocessing

ROWS = 300
HERE = pathlib.Path(__file__).parent


def linear(model, rate):
    return preprocessing.StandardScaler() | model(optimizer=optim.SGD(rate), intercept_lr=0.01)


PIPELINES = {
    "phishing": (datasets.Phishing(), linear(linear_model.LogisticRegression, 0.005), "binary"),
    "bananas": (datasets.Bananas(), linear(linear_model.LogisticRegression, 0.005), "binary"),
    "chick-weights": (datasets.ChickWeights(), linear(linear_model.LinearRegression, 0.01), "regression"),
    "trump-approval": (datasets.TrumpApproval(), linear(linear_model.LinearRegression, 0.01), "regression"),
    "image-segments": (
        datasets.ImageSegments(),
        preprocessing.StandardScaler() | linear_model.SoftmaxRegression(optimizer=optim.SGD(0.01)),
        "multiclass",
    ),
}
METRICS = {
    "binary": {"accuracy": metrics.Accuracy, "log_loss": metrics.LogLoss, "roc_auc": metrics.ROCAUC},
    "regression": {"mae": metrics.MAE, "rmse": metrics.RMSE, "r2": metrics.R2},
    "multiclass": {"accuracy": metrics.Accuracy, "macro_f1": metrics.MacroF1},
}


def record(data, model, task):
    measured = {name: metric() for name, metric in METRICS[task].items()}
    scores, rows = [], 0
    for x, y in data:
        if task == "regression":
            score = answer = model.predict_one(x)
        else:
            proba = model.predict_proba_one(x)
            answer = model.predict_one(x)
            score = proba[True] if task == "binary" else proba
        if answer is not None:
            for name, metric in measured.items():
                metric.update(y, proba if name in ("log_loss", "roc_auc") else answer)
        if rows < ROWS:
            scores.append(score)
        model.learn_one(x, y)
        rows += 1
    results = {name: metric.get() for name, metric in measured.items()}
    return {"river": "0.26.1", "pipeline": str(model), "rows": rows, "metrics": results, "scores": scores}


if __name__ == "__main__":
    for name, pipeline in PIPELINES.items():
        recorded = record(*pipeline)
        print(name, recorded["metrics"])
        (HERE / f"{name}.json").write_text(json.dumps(recorded) + "\n")
