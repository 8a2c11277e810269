"""exploration"""
import time, json, os
import pytest
from hub_fixtures import sleeps  # noqa: F401
from push_fixtures import *  # noqa: F403
from timm_repair import saving
import timm_repair
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

@pytest.fixture(autouse=True)
def plain(monkeypatch):
    monkeypatch.setattr(saving, "find_spec", lambda name: None)

STEPS = [("POST", "/repos/create"), ("GET", "/api/models/me/net"), (None, "/resolve/"), ("GET","/tree/"), ("POST", "/validate-yaml"), ("POST", "/preupload/"), ("POST","objects/batch"), ("PUT", "/lfs/"), ("POST", "lfs-verify"), ("POST", "/commit/")]
FAULTS = [dict(status=s) for s in (400,401,403,404,409,412,413,429,500,503)] + [dict(cut_after=0), dict(cut_after=0, when="after"), dict(cut_after=100, reset=True), dict(corrupt=True)]

def test_explore(repaired, loopback, api, monkeypatch, cache):
    t=time.time(); repaired.push_to_hub("me/net", token="hf_me"); print("push", time.time()-t)
    t=time.time(); timm_repair.from_pretrained("me/net", token="hf_me"); print("load", time.time()-t)
    print([f"{r.method} {r.path}" for r in loopback.requests])
    p = next(repaired.model.parameters())
    for step in STEPS:
        for fault in FAULTS:
            with __import__("torch").no_grad(): p += 1e-3
            before = dict(loopback.store.repo("me/net").files())
            f = loopback.fault(*step, times=None, **fault)
            n = len(loopback.requests)
            t=time.time()
            try:
                out = repaired.push_to_hub("me/net", token="hf_me")
                msg = "ok"
            except BaseException as e:
                msg = f"{type(e).__name__}: {e}"
            hit = [r for r in loopback.requests[n:] if step[1] in r.path]
            after = loopback.store.repo("me/net").files()
            print(f"{step[1]:18} {str(fault):40} {len(hit)} {time.time()-t:.2f} {'CHANGED' if after != before else 'same'} {msg}")
            loopback.clear_faults()
