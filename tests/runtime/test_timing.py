from timm_repair.runtime.timing import PAIRS, in_turns


def test_pairs_begin_with_either_in_turn():
    calls = []
    seconds = in_turns(lambda: calls.append("a"), lambda: calls.append("b"), seconds=1e9)
    assert seconds.shape == (PAIRS[1], 2) and (seconds >= 0).all()
    pairs = ["".join(calls[i : i + 2]) for i in range(2, len(calls), 2)]  # the first warms up
    assert pairs == [("ab", "ba")[(i + 1) % 2] for i in range(PAIRS[1])]
    assert in_turns(lambda: None, lambda: None, seconds=0).shape == (PAIRS[0], 2)
