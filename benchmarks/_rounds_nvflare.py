"""NVFlare's side of `rounds.py`, run by the Python of `.peers/nvflare`: its POC mode, a server and three clients.

    python _rounds_nvflare.py FOLDER VALUES ROUNDS

Prints one JSON object: when the job was handed over, and when each round began, by a client's log.
"""

import json
import os
import re
import sys
import time
from pathlib import Path

TRAIN = """\
import numpy as np
import nvflare.client as flare

flare.init()
while flare.is_running():
    model = flare.receive()
    arrays = {name: np.asarray(value, np.float32) + 1 for name, value in model.params.items()}
    flare.send(flare.FLModel(params=arrays, meta={"NUM_STEPS_CURRENT_ROUND": 1}))
"""
# A round begins where the first client takes its task; the server keeps no log of a job that has ended.
LINE = re.compile(
    r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),(\d{3}).*?(execute for task \(train\)|started end-run events)"
)


def moments(folder: Path) -> dict[str, float]:
    """When each round began at a client, and when the job ended there."""
    found: dict[str, float] = {}
    for log in folder.glob("example_project/prod_00/site-1/*-*/log.txt"):
        begun = 0
        for line in log.read_text(errors="replace").splitlines():
            if match := LINE.match(line):
                at = time.mktime(time.strptime(match[1], "%Y-%m-%d %H:%M:%S")) + int(match[2]) / 1000
                if match[3].startswith("execute"):
                    found[str(begun)] = at
                    begun += 1
                else:
                    found["end"] = at
    return found


def main() -> None:
    """Start it, run one job, stop it."""
    folder, values, rounds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    os.environ["NVFLARE_POC_WORKSPACE"] = str(folder / "poc")
    import numpy as np
    from nvflare.app_common.np.recipes.fedavg import NumpyFedAvgRecipe
    from nvflare.recipe.poc_env import PocEnv

    (folder / "train.py").write_text(TRAIN)
    np.save(folder / "model.npy", np.zeros(values, np.float32))
    os.chdir(folder)
    recipe = NumpyFedAvgRecipe(
        name="rounds",
        initial_ckpt=str(folder / "model.npy"),
        min_clients=3,
        num_rounds=rounds,
        train_script="train.py",
    )
    env = PocEnv(num_clients=3)
    told: dict[str, object] = {}
    try:
        started = time.time()
        run = recipe.execute(env)
        handed_over = time.time()
        deadline = time.monotonic() + 180 + 20 * rounds
        seen: dict[str, float] = {}
        while "end" not in seen and time.monotonic() < deadline:
            time.sleep(0.5)
            seen = moments(folder / "poc")
        told = {"started": started, "handed_over": handed_over, "job": run.get_job_id(), "moments": seen}
    finally:
        env.stop(clean_up=False)
    print("RESULT " + json.dumps(told))


if __name__ == "__main__":
    main()
