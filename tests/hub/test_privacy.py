"""What a report says of single examples stays on the machine that it was made on."""

from report.report_examples import report

from timm_repair.hub.privacy import published


def test_a_diagnosis_is_published_without_examples_and_without_their_pixels():
    part = {"kind": "fixed overlay", "strengths": [], "picture": "NCwzMiwzMjt4/nM="}
    found = {
        "headline": "a fixed overlay",
        "text": "A fixed overlay.\n\nLikely label errors: 7.\n\nSingle images: 3 dark.",
        "labels": [{"id": "7"}],
        "quality": {"dark": ["3"], "failures": 20},
        "patterns": [{"parts": [part], "share": 1.0}, {"parts": [], "share": 0.0}],
    }
    told = published(report(diagnosis=found)).diagnosis
    assert told["text"] == "A fixed overlay." and told["labels"] == []
    assert told["quality"] == {"dark": [], "failures": 20}
    assert told["patterns"][0]["parts"] == [part | {"picture": ""}]
    assert found["patterns"][0]["parts"] == [part], "ours is as it was"
    assert published(report(diagnosis=None)).diagnosis is None
