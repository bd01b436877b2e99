"""Futures of patients: how long 100,000 patients under two plans with 100 paired paths take, and one patient's what-if.

For every installed programme, on its own grid of times, with patients drawn within its public bounds and the two plans of
its example. A programme whose grid ends before ten years is counted as if the grid went on to ten years with steps as long as
its last; the time on its own grid is printed as well. `processor` is the time of all cores together over two: what two free cores would take, since a busy machine
makes the wall clock long. Chunks of patients are independent and of one size, so that time is proportional to patients.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

# Written down once.
BAR_HAZARD_S, BAR_ODE_S, BAR_WHAT_IF_MS = 60.0, 300.0, 50.0
PATIENTS, PATHS, YEARS, CORES = 100_000, 100, 10.0, 2
WHAT_IFS = 20


def people_like(programme: Any, example: dict[str, float], patients: int) -> Any:
    """Raw values (patients, d): what is measured is drawn within the public bounds, what is a flag is the example's."""
    import numpy as np

    from gemel.client_node.audit.people import made_up_dataset
    from gemel.core.programme import FeatureKind

    values = np.array(made_up_dataset(programme, patients=patients, seed=1).values, np.float64)
    for column, feature in enumerate(programme.columns):
        if feature.kind is FeatureKind.PRESENT:
            values[:, column] = example.get(feature.name, 0.0)
    return values


def moved_twin(definition: Any) -> Any:
    """The programme's twin a little off its public start, where treatments may be without effect."""
    import numpy as np

    twin, random = definition.twin(definition.programme), np.random.default_rng(1)
    arrays = {
        name: (value + 0.1 * random.standard_normal(value.shape)).astype(np.float32)
        for name, value in twin.to_arrays().items()
    }
    twin.load_arrays(arrays)
    return twin


def measure_paths(definition: Any, patients: int) -> dict[str, float]:
    """Seconds for both plans, of the wall clock and of the processor over two cores."""
    from gemel.twins.many_paths import many_paths

    twin, shown = moved_twin(definition), definition.example
    values = people_like(definition.programme, dict(shown.values), patients)
    plans = (shown.plan, shown.other_plan)
    many_paths(twin, values[:500], plans, paths=PATHS, seed=0)
    wall, processor = time.perf_counter(), time.process_time()
    many_paths(twin, values, plans, paths=PATHS, seed=1)
    return {
        "wall": time.perf_counter() - wall,
        "processor": (time.process_time() - processor) / CORES,
    }


def measure_what_if(definition: Any) -> dict[str, float]:
    """Milliseconds of one what-if with 1,000 pairs of futures for its interval: median, of both clocks."""
    import numpy as np

    from gemel.twins.what_if import what_if

    twin, shown = moved_twin(definition), definition.example
    names = definition.programme.feature_names
    values = np.array([[shown.values.get(name, np.nan) for name in names]])
    if what_if(twin, values, shown.plan, shown.other_plan).refused:
        raise SystemExit(f"{definition.programme.name}: the what-if of the example is refused")
    wall, processor = [], []
    for seed in range(WHAT_IFS):
        began, spent = time.perf_counter(), time.process_time()
        what_if(twin, values, shown.plan, shown.other_plan, seed=seed)
        wall.append((time.perf_counter() - began) * 1000)
        processor.append((time.process_time() - spent) * 1000)
    return {"wall": statistics.median(wall), "processor": statistics.median(processor)}


def more_steps(times_years: Any) -> float:
    """How many more steps as long as the last a grid needs to reach ten years."""
    return max(0.0, YEARS - float(times_years[-1])) / float(times_years[-1] - times_years[-2])


def is_ode(definition: Any) -> bool:
    """Whether the programme's first mechanism is a differential equation."""
    from gemel.twins.physiology import OdePhysiology

    return bool(definition.physiology) and isinstance(definition.physiology[0], OdePhysiology)


def main() -> None:
    """Measure, print the bar beside each number, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="2,000 patients, scaled to 100,000")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--patients", type=int, help="fewer than 100,000, scaled to them")
    parser.add_argument("--programme", action="append", help="only this one; may be given again")
    options = parser.parse_args()

    import torch

    from gemel.twins.installed import definition_of, installed

    torch.set_num_threads(1)
    patients = options.patients or (2000 if options.quick else PATIENTS)
    rows: list[dict[str, Any]] = []
    bars: list[dict[str, Any]] = []
    for programme in installed():
        if options.programme and programme.name not in options.programme:
            continue
        definition = definition_of(programme)
        horizon = programme.times_years[-1]
        took = {
            clock: seconds * PATIENTS / patients
            for clock, seconds in measure_paths(definition, patients).items()
        }
        again = 1.0 + more_steps(programme.times_years) / (len(programme.times_years) - 1)
        for clock, seconds in took.items():
            rows.append(_row(f"{programme.name}: {horizon:.3g} years, two plans", clock, seconds, "s"))
        what_if = measure_what_if(definition)
        for clock, milliseconds in what_if.items():
            rows.append(_row(f"{programme.name}: one what-if", clock, milliseconds, "ms"))
        bar = BAR_ODE_S if is_ode(definition) else BAR_HAZARD_S
        bars.append(_bar(f"{programme.name}: {YEARS:g} years, s", took["processor"] * again, bar))
        bars.append(_bar(f"{programme.name}: one what-if, ms", what_if["processor"], BAR_WHAT_IF_MS))
    for row in rows:
        print(f"{row['case']:<48} {row['side']:<10} {row['value']:10.2f} {row['unit']}")
    for bar_ in bars:
        print(f"{'ok  ' if bar_['ok'] else 'MISS'} {bar_['name']}: {bar_['value']:.2f} (bar {bar_['bar']:g})")
    result = {
        "name": "simulate",
        "machine": {
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "system": platform.platform(),
        },
        "settings": {"patients": patients, "counted_as": PATIENTS, "paths": PATHS, "plans": 2},
        "rows": rows,
        "bars": bars,
    }
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    sys.exit(0 if all(bar_["ok"] for bar_ in bars) else 1)


def _row(case: str, side: str, value: float, unit: str) -> dict[str, Any]:
    return {"case": case, "side": side, "value": value, "unit": unit}


def _bar(name: str, value: float, bar: float) -> dict[str, Any]:
    return {"name": name, "value": value, "bar": bar, "direction": "max", "ok": value <= bar}


if __name__ == "__main__":
    main()
