"""Records what River 0.26.1 predicts, as oracles for tests/river_models.rs.

    pip install river==0.26.1 && python tests/data/river/record.py

Each file holds the rows as the model gets them (scaled by River's StandardScaler, six decimals), the
targets, and a list of cases: our [model] table, the weight of each event, River's score before it
learns the row, and River's weights after the last one. Multiclass scores are listed by class in order
of appearance, for the classes learned so far.
"""

import collections
import itertools
import json
import pathlib

from river import datasets, linear_model as lm, optim, preprocessing

HERE = pathlib.Path(__file__).parent
SGD = {"kind": "sgd", "learning_rate": 0.005}


def short(v):
    return float(f"{float(v):.13g}")


def scaled(dataset, rows, target):
    scaler, xs, ys, names = preprocessing.StandardScaler(), [], [], None
    for x, y in itertools.islice(dataset, rows):
        names = names or sorted(k for k, v in x.items() if isinstance(v, (int, float)))
        x = {k: float(x[k]) for k in names}
        scaler.learn_one(x)
        x = scaler.transform_one(x)
        xs.append({k: round(x[k], 6) for k in names})
        ys.append(target(y))
    return names, xs, ys


def schedule(v, loss):
    if not isinstance(v, dict):
        return v
    v = dict(v)
    kind = v.pop("kind")
    if kind == "optimal":
        return optim.schedulers.Optimal(loss=loss, **v)
    return {"constant": optim.schedulers.Constant, "inverse-scaling": optim.schedulers.InverseScaling}[kind](**v)


def optimizer(spec, loss):
    spec = dict(spec)
    kind = spec.pop("kind")
    if "learning_rate" in spec:
        spec["lr"] = schedule(spec.pop("learning_rate"), loss)
    classes = {"sgd": optim.SGD, "adagrad": optim.AdaGrad, "adam": optim.Adam, "ftrl": optim.FTRLProximal}
    return classes[kind](**spec)


def loss_of(spec, default, class_weight):
    spec = dict({"kind": spec} if isinstance(spec, str) else spec or {"kind": default})
    kind = spec.pop("kind")
    if class_weight:
        spec |= {"weight_pos": class_weight.get("true", 1.0), "weight_neg": class_weight.get("false", 1.0)}
    return getattr(optim.losses, {
        "log": "Log", "hinge": "Hinge", "focal": "BinaryFocalLoss", "squared": "Squared", "absolute": "Absolute",
        "huber": "Huber", "quantile": "Quantile", "cauchy": "Cauchy", "poisson": "Poisson"}[kind])(**spec)


def model_of(spec, regression):
    spec = dict(spec)
    kind = spec.pop("kind")
    if kind == "passive-aggressive":
        return (lm.PARegressor if regression else lm.PAClassifier)(**spec)
    if kind == "perceptron":
        return lm.Perceptron(**spec)
    loss = None if kind == "softmax-regression" else loss_of(
        spec.pop("loss", None), "squared" if regression else "log", spec.pop("class_weight", None))
    if "optimizer" in spec:
        spec["optimizer"] = optimizer(spec["optimizer"], loss)
    if kind == "softmax-regression":
        return lm.SoftmaxRegression(**spec)
    if "intercept_lr" in spec:
        spec["intercept_lr"] = schedule(spec["intercept_lr"], loss)
    return (lm.LinearRegression if regression else lm.LogisticRegression)(loss=loss, **spec)


def case(name, spec, xs, ys, task, weighted=False):
    model, scores, weights = model_of(spec, task == "regression"), [], []
    seen = []
    for i, (x, y) in enumerate(zip(xs, ys)):
        if task == "multiclass":
            p = model.predict_proba_one(x)
            scores.append([short(p[c]) for c in seen])
            if y not in seen:
                seen.append(y)
        elif task == "binary":
            scores.append(short(model.predict_proba_one(x)[True]))
        else:
            scores.append(short(model.predict_one(x)))
        if weighted:
            weights.append([1.0, 0.25, 3.0, 1.5][i % 4])
            model.learn_one(x, y, w=weights[-1])
        else:
            model.learn_one(x, y)
    keys = sorted({k for x in xs for k in x})
    if task == "multiclass":
        final = [[short(model.weights[c].get(k, 0.0)) for k in keys] for c in seen]
    else:
        final = [[short(model.weights.get(k, 0.0)) for k in keys]]
    return {"name": name, "spec": spec, "weights": weights, "scores": scores, "final": final,
            "intercept": short(getattr(model, "intercept", 0.0))}


def write(name, task, keys, xs, ys, cases, slots=0):
    rows = [[[int(k), v] for k, v in x.items()] for x in xs] if slots else [[x[k] for k in keys] for x in xs]
    classes = list(collections.OrderedDict.fromkeys(ys)) if task == "multiclass" else []
    targets = [classes.index(y) for y in ys] if classes else [float(y) for y in ys]
    out = {"source": "River 0.26.1", "task": task, "features": [] if slots else keys, "slots": slots, "rows": rows,
           "targets": targets, "cases": [case(n, s, xs, ys, task, *w) for n, s, *w in cases]}
    (HERE / f"{name}.json").write_text(json.dumps(out, separators=(",", ":")) + "\n")


def glm(kind, **options):
    return {"kind": kind, **options}


OPTIMIZERS = [
    {"kind": "sgd", "learning_rate": {"kind": "inverse-scaling", "learning_rate": 0.1, "power": 0.5}},
    {"kind": "adagrad"}, {"kind": "adam"}, {"kind": "ftrl"},
    {"kind": "ftrl", "alpha": 0.5, "beta": 0.5, "l1": 0.3, "l2": 0.1},
]


def logistic_cases():
    L = "logistic-regression"
    yield "sgd", glm(L, optimizer=SGD)
    for o in OPTIMIZERS:
        yield o["kind"], glm(L, optimizer=o)
    yield "weighted", glm(L, optimizer={"kind": "adam", "learning_rate": 0.02}), True
    yield "hinge", glm(L, loss="hinge", optimizer=SGD)
    yield "hinge adagrad", glm(L, loss={"kind": "hinge", "threshold": 0.5}, optimizer={"kind": "adagrad"})
    yield "focal", glm(L, loss={"kind": "focal", "gamma": 1.5, "beta": 0.5}, optimizer={"kind": "adam"})
    yield "l2", glm(L, l2=0.1, intercept_lr=0.05)
    yield "l2 ftrl", glm(L, l2=0.1, optimizer={"kind": "ftrl"})
    yield "l1", glm(L, l1=0.02, optimizer={"kind": "sgd", "learning_rate": 0.1})
    yield "l1 adam, scaled rate", glm(L, l1=0.05, optimizer={
        "kind": "adam", "learning_rate": {"kind": "inverse-scaling", "learning_rate": 0.2, "power": 0.7}})
    yield "clip", glm(L, clip_gradient=0.2, intercept_init=0.5, optimizer={"kind": "adagrad", "learning_rate": 0.3})
    yield "class weight", glm(L, class_weight={"true": 2.5, "false": 0.5}, optimizer={"kind": "adagrad", "eps": 0.01})
    yield "optimal", glm(L, optimizer={"kind": "sgd", "learning_rate": {"kind": "optimal", "alpha": 0.01}},
                         intercept_lr={"kind": "inverse-scaling", "learning_rate": 0.2, "power": 0.3})
    yield "perceptron", glm("perceptron")
    yield "perceptron l2", glm("perceptron", l2=0.05, clip_gradient=0.7)
    for mode in 0, 1, 2:
        yield f"pa {mode}", glm("passive-aggressive", mode=mode, C=0.1, learn_intercept=mode != 2)


def linear_cases():
    L = "linear-regression"
    yield "sgd", glm(L, optimizer=SGD)
    for o in OPTIMIZERS:
        yield o["kind"], glm(L, optimizer=o)
    yield "weighted", glm(L, optimizer={"kind": "adagrad", "learning_rate": 0.5}), True
    for i, loss in enumerate([{"kind": "absolute"}, {"kind": "huber", "epsilon": 0.7}, {"kind": "quantile", "alpha": 0.8},
                              {"kind": "cauchy", "C": 5.0}]):
        yield loss["kind"], glm(L, loss=loss, optimizer=[{"kind": "adam"}, {"kind": "sgd"}][i % 2], intercept_lr=0.3)
    yield "l2 adam", glm(L, l2=0.05, optimizer={"kind": "adam", "beta_1": 0.8, "beta_2": 0.95, "eps": 0.001})
    yield "l1 adagrad", glm(L, l1=0.3, optimizer={"kind": "adagrad"})
    yield "clip", glm(L, clip_gradient=1.5, intercept_init=3.0, intercept_lr=0.1)
    for mode in 0, 1, 2:
        yield f"pa {mode}", glm("passive-aggressive", mode=mode, C=0.1, eps=0.2, learn_intercept=mode != 0)


def softmax_cases():
    S = "softmax-regression"
    yield "sgd", glm(S)
    yield "adam l2", glm(S, l2=0.01, optimizer={"kind": "adam"})
    yield "adagrad", glm(S, optimizer={"kind": "adagrad"})
    yield "ftrl", glm(S, optimizer={"kind": "ftrl", "l1": 0.01})


def hashed_cases():
    L = "logistic-regression"
    for o in [SGD, OPTIMIZERS[1], OPTIMIZERS[2], OPTIMIZERS[4]]:
        yield o["kind"], glm(L, optimizer=o)
    yield "l2", glm(L, l2=0.1, optimizer={"kind": "adagrad"})
    yield "l1", glm(L, l1=0.01, optimizer={"kind": "sgd", "learning_rate": 0.1})
    yield "pa", glm("passive-aggressive", C=0.3)


def hashed(xs, slots):
    """One slot a feature and level, as a hash would give; slots that collide add up."""
    for x in xs:
        row = collections.defaultdict(float)
        for j, (_, v) in enumerate(sorted(x.items())):
            row[(j * 31 + round(v * 2) * 7) % slots] += 1.0
        yield dict(row)


if __name__ == "__main__":
    phishing = scaled(datasets.Phishing(), 150, bool)
    write("phishing", "binary", *phishing, logistic_cases())
    write("bananas", "binary", *scaled(datasets.Bananas(), 100, bool), list(logistic_cases())[:9])
    trump = scaled(datasets.TrumpApproval(), 150, float)
    write("trump_approval", "regression", *trump, linear_cases())
    chick = scaled(datasets.ChickWeights(), 120, lambda y: y / 100)
    write("chick_weights", "regression", *chick, [
        ("poisson", glm("linear-regression", loss="poisson", optimizer=SGD)), *list(linear_cases())[:5]])
    write("image_segments", "multiclass", *scaled(datasets.ImageSegments(), 80, str), softmax_cases())
    rows = list(hashed(phishing[1], 64))
    write("hashed", "binary", None, rows, phishing[2], hashed_cases(), 64)
