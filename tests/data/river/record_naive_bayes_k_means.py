"""Records what River 0.26.1 says: GaussianNB (probabilities before each learn) and KMeans from given centres."""
import json, os, random
from river import naive_bayes, cluster
r = random.Random(3)
def rows(n, k):
    out=[]
    for i in range(n):
        y=r.randrange(k)
        out.append(([round(r.gauss(y*0.7,1+0.3*y),3), round(r.gauss(-y,0.5),3), float(r.randrange(3)), round(r.uniform(-1,1)*10,2), 1.0 if i<40 else 2.0], y))
    return out
def nb(k):
    m=naive_bayes.GaussianNB(); rec=[]
    for x,y in rows(120,k):
        d=dict(enumerate(x))
        p=m.predict_proba_one(d)
        rec.append({"x":x,"y":y,"p":[p.get(c,0.0) for c in range(k)] if p else []})
        m.learn_one(d,y)
    return rec
def km():
    m=cluster.KMeans(n_clusters=3, halflife=0.3, seed=1)
    data=[[round(r.gauss(c*2,0.7),3) for c in (k,-k,1)] for k in [r.randrange(3) for _ in range(60)]]
    m.predict_one({0:0.0,1:0.0,2:0.0})
    for c in m.centers.values():
        for i in range(3): c[i]
    start=[[m.centers[c][i] for i in range(3)] for c in range(3)]
    rec=[]
    for x in data:
        d=dict(enumerate(x)); c=m.predict_one(d); m.learn_one(d)
        rec.append({"x":x,"class":c})
    return {"halflife":0.3,"start":start,"rows":rec,"end":[[m.centers[c][i] for i in range(3)] for c in range(3)]}
json.dump({"binary":nb(2),"multiclass":nb(3),"k_means":km()}, open(os.path.join(os.path.dirname(__file__), "naive_bayes_k_means.json"), "w"))
