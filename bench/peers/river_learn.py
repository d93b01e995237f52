"""The models of `learn` in River, row by row: score, then learn. Rows are dicts before the time counts.

Arguments: case, a file of JSON lines with `label`. Answers CPU nanoseconds a row and the progressive log loss.
"""

import json
import math
import sys
import time

from river import linear_model, optim, preprocessing


def logistic(optimizer):
    return linear_model.LogisticRegression(optimizer=optimizer, intercept_lr=0.01)


MODELS = {
    "dense-20-sgd": lambda: logistic(optim.SGD(0.01)),
    "dense-20-adagrad": lambda: logistic(optim.AdaGrad(0.05)),
    "scaled-20-sgd": lambda: preprocessing.StandardScaler() | logistic(optim.SGD(0.01)),
    "hashed-2^18-adagrad": lambda: logistic(optim.AdaGrad(0.05)),
    "hashed-2^24-adagrad": lambda: logistic(optim.AdaGrad(0.05)),
    "softmax-20x7": lambda: linear_model.SoftmaxRegression(optim.SGD(0.01)),
}

case, rows = sys.argv[1], []
for line in open(sys.argv[2]):
    row = json.loads(line)
    label = row.pop("label")
    # Categories are features of their own: River's way to have what hashing gives without its collisions.
    rows.append(({k if isinstance(v, float) else f"{k}={v}": v if isinstance(v, float) else 1.0 for k, v in row.items()}, label))
model, scores = MODELS[case](), []
began = time.process_time()
for x, label in rows:
    scores.append(model.predict_proba_one(x))
    model.learn_one(x, label)
cpu = time.process_time() - began
# A class that was never seen has no score: its first row is left out.
seen, loss, counted = {True, False}, 0.0, 0
for s, (_, label) in zip(scores, rows):
    if label in seen:
        loss -= math.log(max(s.get(label, 0.0), sys.float_info.min))
        counted += 1
    seen.add(label)
loss /= counted
print(json.dumps({"ns": cpu * 1e9 / len(rows), "loss": loss}))
