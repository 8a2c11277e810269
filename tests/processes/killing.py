"""A script for processes/test_resume.py: repair in child processes that are killed again and again, until one
gets to its end.

It forks before torch has started a thread, so that a child costs no second of imports. Prints
{"kills": number, "ended": folders} as JSON.
"""

import json
import os
import random
import signal
import socket
import sys
import time
import warnings
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests, as pytest has them

import networks
import planted

import timm_repair
from timm_repair.properties.property import Property
from timm_repair.properties.sampling import Sampling


def work(output: Path, options: dict) -> None:
    """A whole repair of the planted classifier with dropout, or of a network with a property;
    always the same. The labels are wrong for any model.
    """
    warnings.simplefilter("ignore")
    options = dict(options)
    if options.pop("property", False):
        unsafe = Property.allowing("unsafe", [0, 0], [1, 1], [1], outputs=2, answer="highest")
        few = Sampling(violations=100, draws=20_000, retained=300, ascent=5, epsilon=0.01, eta=0.01)
        timm_repair.repair(
            networks.ramp(), unsafe, data=few, progress=False, output_dir=output, **options
        )
        return
    if options.get("method", "archrepair") == "archrepair":
        options["max_latency"] = None  # what a path costs depends on the machine's mood
    model = planted.classifier(drop_rate=0.2)
    failures = planted.mislabelled(model, planted.pictures(120))
    timm_repair.repair(
        model, failures, steps=24, batch_size=32, progress=False, output_dir=output, **options
    )


def child(
    output: Path, options: dict, dies_at_write: int | None = None, environment: dict | None = None
) -> int:
    """Start one; it may kill itself while it writes its n-th file."""
    pid = os.fork()
    if pid:
        return pid
    os.environ |= environment or {}
    if dies_at_write is not None:
        writes, sync = [], os.fsync

        def fsync(file) -> None:
            writes.append(file)
            if len(writes) == dies_at_write:
                os.kill(os.getpid(), signal.SIGKILL)
            sync(file)

        os.fsync = fsync
    try:
        work(output, options)
    except BaseException as error:  # noqa: BLE001  the parent wants the exit status, whatever it was
        print(repr(error), file=sys.stderr)
        os._exit(1)
    os._exit(0)


def main(folder: Path, kills: int, options: dict) -> None:
    """One run without being disturbed, and others until there were `kills` kills: a third inside a
    write, the rest at any moment.
    """
    start = time.perf_counter()
    assert os.waitpid(child(folder / "whole", options), 0)[1] == 0
    seconds, chance, done, ended = time.perf_counter() - start, random.Random(0), 0, []
    while done < kills or not ended:
        output = folder / f"killed {len(ended)}"
        enough, inside = done >= kills, done % 3 == 0
        pid = child(
            output, options, dies_at_write=chance.randint(1, 4) if inside and not enough else None
        )
        if not enough and not inside:
            time.sleep(chance.uniform(0, 0.4) * seconds)
            os.kill(pid, signal.SIGKILL)  # it may have ended, and waits to be asked for its status
        status = os.waitpid(pid, 0)[1]
        if os.WIFSIGNALED(status):
            done += 1
        else:
            assert status == 0
            ended.append(output.name)
    print(json.dumps({"kills": done, "ended": ended}))


def on_two_ranks(output: Path) -> None:
    """The repair on two processes, as torchrun would start them; this one has the imports
    already.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        world = {
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free.getsockname()[1]),
        }
    ranks = [
        child(output, {}, environment=world | {"RANK": rank, "LOCAL_RANK": rank}) for rank in "01"
    ]
    assert [os.waitpid(rank, 0)[1] for rank in ranks] == [0, 0]


if __name__ == "__main__":
    if sys.argv[1] == "once":  # one of several processes that torchrun started
        work(Path(sys.argv[2]), {})
    elif sys.argv[1] == "ranks":
        for place in sys.argv[2:]:
            on_two_ranks(Path(place))
    else:
        main(Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3]))
