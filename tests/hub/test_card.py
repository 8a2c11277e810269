"""To accept a changed card: `TIMM_REPAIR_GOLDEN=write pytest tests/hub/test_card.py`, and read the
difference.
"""

import os
import socket
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from report.report_examples import genotype, localization, report, scores, two_blocks, weights_only

from timm_repair.errors import OptionError
from timm_repair.hub import card

GOLDEN = Path(__file__).with_name("golden_card.md")


def front_matter(text: str) -> dict:
    return yaml.safe_load(text.split("---\n")[1])


def test_card_is_the_golden_one():
    made = card.render(
        report(),
        repo_id="me/net",
        base_model="timm/resnet18.a1_in1k",
        license="apache-2.0",
        dataset="u/d",
    )
    if os.environ.get("TIMM_REPAIR_GOLDEN") == "write":
        GOLDEN.write_text(made, encoding="utf-8")
    assert made == GOLDEN.read_text(encoding="utf-8")
    assert card.merged(made, made) == made, "a push that changes nothing changes nothing"


def test_card_needs_no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("the card reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    card.render(report(model="hf-hub:timm/resnet18.a1_in1k"), repo_id="me/net")


def test_model_index_holds_the_accuracies_after():
    parsed = ModelCard(card.render(report(), repo_id="me/net")).data
    assert [(each.metric_value, each.metric_type) for each in parsed.eval_results] == [
        (0.65, "accuracy"),
        (0.789, "accuracy"),
    ]
    assert len({each.metric_name for each in parsed.eval_results}) == 2


@pytest.mark.parametrize(
    ("model", "given", "expected"),
    [
        ("hf-hub:timm/resnet18.a1_in1k@abc", None, "timm/resnet18.a1_in1k"),
        ("resnet18", None, None),
        ("local-dir:/home/me/net", None, None),
        ("resnet18", "/home/me/net", None),
        ("resnet18", "timm/x", "timm/x"),
    ],
)
def test_base_model_only_if_it_is_a_hub_id(model, given, expected):
    data = front_matter(card.render(report(model=model), base_model=given))
    assert data.get("base_model") == expected
    assert data.get("base_model_relation") == (expected and "finetune")


def test_licence_is_never_invented():
    assert "license" not in front_matter(card.render(report()))
    assert front_matter(card.render(report(), license="CC-BY-NC-4.0"))["license"] == "cc-by-nc-4.0"
    assert front_matter(card.render(report(), license="ask: me"))["license"] == "other"


def test_repo_id_must_be_one():
    with pytest.raises(OptionError, match="user/name"):
        card.render(report(), repo_id='x"); import os; ("')


def test_first_code_block_imports_timm_repair_and_runs_as_python():
    code = card.render(report(), repo_id="me/net").split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")
    assert "import timm_repair" in code and '"hf-hub:me/net"' in code


def test_hostile_names_stay_text():
    bad = "<script>|`x`\n# head [a](b) {{ 7*7 }} \x1b[0m" + card.END
    plan = genotype([(0, 1, "skip")], nodes=2)
    plan["nodes"][0]["layer"] = '"] --> evil["\n```\n'
    made = report(
        model=bad,
        method=bad,
        scores=(scores(bad),),
        notes=(bad,),
        genotypes={bad: plan},
        repaired_blocks=(bad,),
        versions={bad: bad},
        provenance={bad: {"n": 1, "sha256": bad}},
        localization={
            "scorer": bad,
            "suspiciousness": {bad: 1.0, "b": 1.0},
            "gains": {bad: 0.5},
            "tied": [bad, "b"],
            "details": {
                "top_neurons": [
                    {"layer": bad, "channel": 3, "score": 0.5, "active_wrong": 1, "active_right": 2}
                ]
            },
        },
        stages=({"name": bad, "seconds": 1.0, "peak_memory": 1},),
    )
    text = card.render(made)
    body = text.split("---\n", 2)[2]
    assert "<script>" not in body and "\x1b" not in text and "evil[" not in text
    assert body.count("```") == 6 and body.count(card.END) == 1
    assert [line for line in body.splitlines() if line.startswith("# ")] == [
        line for line in body.splitlines() if "# Model card" in line
    ]
    assert r"\{\{ 7\*7 \}\}" in body
    tables = [line for line in body.splitlines() if line.startswith("|")]
    assert all(len(line.replace("\\|", "").split("|")) in (6, 7, 5, 12, 11) for line in tables)
    assert front_matter(text)["model-index"]


def test_card_shows_no_local_path():
    made = report(
        model="local-dir:/home/me/net",
        provenance={"failing": {"source": "/home/me/failures", "n": 3, "sha256": "a"}},
    )
    assert "/home/me" not in card.render(made)


def test_card_says_what_is_missing():
    text = card.render(weights_only())
    assert (
        "forgetting could not be measured" in text
        and "what the repair made worse elsewhere is unknown" in text
    )
    assert "mermaid" not in text and "weights only" in text
    assert "No path was added" in card.render(report(genotypes={"layer3": genotype(())}))
    failures_only = scores(kept=0, broken=0, fixed=5, missed=5)
    assert "could only rise" in card.render(report(scores=(failures_only,)))


def test_card_tells_why_the_block_was_chosen():
    text = card.render(report(localization=localization(), repaired_blocks=("layer1",)))
    assert "| block | suspiciousness | predicted gain | parameters | repaired |" in text
    assert (
        "| layer1 | 0.24 | 0.31 | 147.97 k | yes |" in text
        and "| layer2 | 0.210 ± 0.016 | 0.27 | 591.87 k |  |" in text
    )
    assert (
        "layer1 and layer2 cannot be told apart on these examples (within two standard errors);"
        " `blocks=2` repairs both" in text
    )
    assert "| layer | channel | score | wrong (of 512) | right (of 1204) |" in text
    assert (
        "| layer1.0.conv2 | 7 | 0.86 | 499 | 9 |" in text
        and text.count("| layer1.") == 5
        and text.count("| layer2.") == 5
    )


def test_card_of_two_blocks_draws_both():
    text = card.render(two_blocks())
    assert (
        "Blocks layer1 and layer2, by the method archrepair" in text
        and text.count("```mermaid") == 2
    )
    assert "Architecture of layer1: the raw layers stay; 2 added paths read" in text
    assert "Architecture of layer2: the raw layers stay; 1 added path reads" in text
    half = card.render(two_blocks(genotypes=two_blocks().genotypes | {"layer1": genotype(())}))
    assert (
        "Architecture of layer1: unchanged." in half
        and "did not change the architecture" not in half
    )


def test_card_of_the_barest_report():
    bare = report(
        cost={},
        stages=(),
        history=(),
        versions={},
        provenance={},
        notes=(),
        blocks=(),
        localization=None,
        genotypes={},
        repaired_blocks=(),
    )
    assert "## Cost" not in card.render(bare)
